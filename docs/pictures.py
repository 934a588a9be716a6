"""Makes the pictures of `docs/pictures/`: three screens of a terminal and five pages, narrow and dark among them.

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
PAGES = {  # name: (width, height, dark, command that writes page.html, place on the page)
    "report-narrow": (390, 844, False, "report demo/episodes-rewards -o page.html", "overview"),
    "report-dark": (1000, 640, True, "report demo/episodes-rewards -o page.html", "dialogues"),
    "compare-narrow": (390, 844, True, "compare lab/bc lab/rl --html page.html", "overview"),
}
DEMO = {"demo-narrow": (390, 844, True), "demo-wide": (1280, 720, False)}  # name: (width, height, dark)
_SAID = ("Good morning. She is a lovely boat.", "Would you let her go for 6,200?", "I would keep her name, I promise.")
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
    """A picture of what is in view, in 64 colours, which make a small file."""
    from PIL import Image

    tab.picture(path)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def demo(folder: Path, work: Path) -> None:
    """The page of `demo`, after a short talk."""
    with served(work) as url:
        for name, (width, height, dark) in DEMO.items():
            with page(width, height, dark) as tab:
                open_page(tab, url)
                begin(tab)
                tab.js("document.querySelector('#words textarea').focus()")
                for words in _SAID:
                    say(tab, words)
                tab.js("document.activeElement.blur()")
                tab.js("scrollTo(0, 0)" if width > 600 else "document.querySelector('.log').scrollIntoView()")
                tab.settle()
                take(tab, folder / f"{name}.png")


def main(folder: Path) -> None:
    """Write every picture into `folder`."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work, running() as provider:
        os.environ.setdefault("OPENAI_API_KEY", "sk-none")
        os.chdir(work)
        make_store(Path(work), provider.openai_url)
        demo(folder, Path(work))
        for name, (columns, dark, command) in SCREENS.items():
            Path("screen.html").write_text(screen(command, columns, dark), encoding="utf-8")
            with page(int(columns * 8.45) + 20, 200) as tab:
                tab.open(Path("screen.html"), "document.readyState === 'complete'")
                height = tab.js("document.querySelector('pre').getBoundingClientRect().height") + 20
                tab.resize(int(columns * 8.45) + 20, int(height))
                take(tab, folder / f"{name}.png")
        for name, (width, height, dark, command, place) in PAGES.items():
            show(*command.split())
            with page(width, height, dark) as tab:
                tab.open(Path("page.html"))
                tab.js(f"document.getElementById('{place}').scrollIntoView()")
                if place == "dialogues":
                    tab.js("document.querySelector('#talk .turn').scrollIntoView({ block: 'center' })")
                tab.settle()
                take(tab, folder / f"{name}.png")


if __name__ == "__main__":
    main(HERE / "pictures")
