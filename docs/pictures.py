"""Makes the pictures of `docs/pictures/`: screens of a terminal, pages, the demo, a card, a plot of agreement; narrow
and dark ones among them. Only docs/credit-cost.png, which takes minutes, is drawn elsewhere (benchmarks/credit.py).

python docs/pictures.py      needs a Chromium, as the tests of the pages do, and the extra `demo`
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from fixtures.browser import Page, page  # noqa: E402
from fixtures.demo_page import begin, open_page, say, served  # noqa: E402
from fixtures.screens import make_store, show  # noqa: E402

from sotopia_rl_data.fake_provider.running import running  # noqa: E402

SCREENS = {  # name: (columns, dark, command)
    "terminal-compare-80": (80, False, "compare lab/bc lab/rl"),
    "terminal-show-dark": (80, True, "show demo/episodes-rewards sample-last-tram-1"),
    "terminal-list-40": (40, False, "list"),
}
_REPORT, _JUDGED = "report demo/episodes-rewards -o page.html", "report demo/judged -o page.html"
PAGES = {  # name: (width, height, dark, command that writes page.html, place on the page)
    "report-narrow": (390, 844, False, _REPORT, "overview"),
    "report-dark": (1000, 640, True, _REPORT, "dialogues"),
    "compare-narrow": (390, 844, True, "compare lab/bc lab/rl --html page.html", "overview"),
    "compare-wide": (1440, 900, False, "compare lab/bc lab/rl --html page.html", "head"),
    "report-wide": (1440, 960, False, _JUDGED, "head"),
    "report-trust": (1440, 760, False, _JUDGED, "trust"),
    "report-dialogues": (1440, 860, False, _JUDGED, "dialogues"),
}
TOYS = '''
import json, random
from sotopia_rl_data.labelers.judges.lexical import Lexical
from sotopia_rl_data.labelers.schemas import answers


class Toy:
    """Counts words, and errs by a level as often as its noise says: always alike, for it draws by what it is asked."""

    remark = "toy judges count words and err at random"

    async def answer(self, question):
        said = json.loads(await Lexical().answer(question))

        def level(form, path):
            draw, found = random.Random(f"{self.id} {question.episode.episode_id} {path}"), said
            for key in path:
                found = found[key]
            off = draw.choice((-1, 1)) if draw.random() < self.noise else 0
            return min(max(found + off, min(form["enum"])), max(form["enum"]))

        return json.dumps(answers.compose(question.answer_schema, level))


class A(Toy):
    id, noise = "toy-a", 0.2


class B(Toy):
    id, noise = "toy-b", 0.4


class C(Toy):
    id, noise = "toy-c", 0.8
'''
"""Three judges that agree more or less."""
DEMO = {"demo-narrow": (390, 932, True, 2), "demo-wide": (1280, 1050, False, 3)}  # name: (width, height, dark, said)
_SAID = ("Good morning. She is a lovely boat.", "Would you let her go for 6,200?", "I would keep her name, I promise.")
_CARD = """<body style="margin:0"><div style="font:14px/1.45 sans-serif;padding:8px 28px;max-width:820px"><style>
pre,code{{background:#f3f4f6;font-size:12px}} pre{{padding:10px}} table{{border-collapse:collapse}}
td,th{{border:1px solid #ddd;padding:3px 9px;text-align:left}}</style>{}</div></body>"""
_TERMINAL = """<body style="margin:0;background:{background};color:{foreground}">
<pre style="font:14px/1.3 'DejaVu Sans Mono',monospace;margin:10px;display:inline-block">{code}</pre></body>"""


def screen(command: str, columns: int, dark: bool) -> str:
    """What a command shows on a terminal, as HTML."""
    from rich.console import Console
    from rich.terminal_theme import DEFAULT_TERMINAL_THEME, DIMMED_MONOKAI
    from rich.text import Text

    shown = show(*command.split(), columns=columns, colour=True)
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ sotopia-rl-data {command}", "bold"))
    console.print(Text.from_ansi(shown.out.rstrip()), Text.from_ansi("\n" + shown.err.rstrip()), sep="\n")
    theme = DIMMED_MONOKAI if dark else DEFAULT_TERMINAL_THEME
    return console.export_html(theme=theme, code_format=_TERMINAL, inline_styles=True)


def take(tab: Page, path: Path) -> None:
    """A picture of what is in view, in 256 colours, which make a small file."""
    from PIL import Image

    tab.picture(path)
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


def demo(folder: Path, work: Path) -> None:
    """The page of `demo`, after a short talk."""
    with served(work) as url:
        for name, (width, height, dark, said) in DEMO.items():
            with page(width, height, dark) as tab:
                open_page(tab, url)
                begin(tab)
                tab.js("document.querySelector('#words textarea').focus()")
                for words in _SAID[:said]:
                    say(tab, words)
                tab.js("document.activeElement.blur()")
                tab.js("scrollTo(0, 0)" if width > 600 else "document.querySelector('.log').scrollIntoView()")
                tab.settle()
                take(tab, folder / f"{name}.png")


def judge() -> None:
    """demo/judged: the samples, labelled by three judges."""
    Path("toys.py").write_text(TOYS)
    judges = (word for name in "ABC" for word in ("--judge", f"toys.py:{name}"))
    show("label", "demo/episodes", *judges, "--out", "demo/judged")


def pages(folder: Path) -> None:
    """The pages that commands write."""
    for name, (width, height, dark, command, place) in PAGES.items():
        show(*command.split())
        with page(width, height, dark) as tab:
            tab.open(Path("page.html"))
            tab.js(f"document.getElementById('{place}').scrollIntoView()")
            if place == "dialogues":
                turn = "document.querySelectorAll('#talk .turn')[2]"
                tab.js(f"{turn}.querySelector('button')?.click()")
                tab.js(f"{turn}.scrollIntoView({{ block: 'center' }})")
            tab.settle()
            take(tab, folder / f"{name}.png")


def card(folder: Path) -> None:
    """The beginning of a dataset's card, as a forge shows it."""
    from markdown_it import MarkdownIt

    show("card", "demo/judged", "-o", "card")
    text = Path("card", "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    Path("card", "card.html").write_text(_CARD.format(MarkdownIt().enable("table").render(text)), encoding="utf-8")
    with page(880, 1300) as tab:
        tab.open(Path("card", "card.html"), "document.readyState === 'complete'")
        tab.settle()
        take(tab, folder / "card.png")


def main(folder: Path) -> None:
    """Write every picture into `folder`."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work, running() as provider:
        os.environ.setdefault("OPENAI_API_KEY", "sk-none")
        os.chdir(work)
        make_store(Path(work), provider.openai_url)
        judge()
        demo(folder, Path(work))
        pages(folder)
        card(folder)
        show("agreement", "demo/judged", "--measure", "kappa", "--plot", str(folder / "agreement.png"))
        for name, (columns, dark, command) in SCREENS.items():
            Path("screen.html").write_text(screen(command, columns, dark), encoding="utf-8")
            with page(int(columns * 8.45) + 20, 200) as tab:
                tab.open(Path("screen.html"), "document.readyState === 'complete'")
                height = tab.js("document.querySelector('pre').getBoundingClientRect().height") + 20
                tab.resize(int(columns * 8.45) + 20, int(height))
                take(tab, folder / f"{name}.png")


if __name__ == "__main__":
    main(HERE / "pictures")
