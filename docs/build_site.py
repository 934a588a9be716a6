"""Builds the documentation site in build/site/html, offline: `make docs`. A dead link or a page outside `nav` ends it.

The pages are docs/*.md and the texts at the top of the repository, which keep their place there because that is where
people and forges look for them; README.md is the site's first page. Zensical makes them HTML. Beside each page.html
lies its page.md, and llms.txt lists these (https://llmstxt.org). Formulas (```math blocks, as forges show them) become
MathML, which browsers show without a script. Notebooks are pages as they were kept, with their outputs and pictures.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
AT_THE_TOP = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
}
NOTEBOOKS = {path: path.stem.replace("_", "-") + ".md" for path in sorted(ROOT.glob("examples/notebooks/*.ipynb"))}
CONFIG = DOCS / "zensical.toml"
_LINK = re.compile(r"(\]\()([^)\s#]+)")
_FORMULA = re.compile(r"^```math\n(.*?)\n```$", re.DOTALL | re.MULTILINE)


def sources() -> dict[str, str]:
    """The site's pages by name, in Markdown whose links lead from page to page."""
    pages = {path.name: path.read_text("utf-8") for path in sorted(DOCS.glob("*.md"))}
    pages |= {page: (ROOT / name).read_text("utf-8") for name, page in AT_THE_TOP.items()}
    pages |= {page: notebook_page(path)[0] for path, page in NOTEBOOKS.items()}
    return {name: _LINK.sub(lambda link: link[1] + _target(link[2]), text) for name, text in pages.items()}


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by name."""
    parts, pictures = list[str](), dict[str, bytes]()
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![The picture that the cell makes](pictures/{name})")
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    parts.insert(2, f"(This page is the notebook [{path.name}](notebooks/{path.name}), with what its cells show.)")
    return "\n\n".join(parts) + "\n", pictures


def navigation() -> Iterator[tuple[str, str, str]]:
    """Section, title and page of everything in the navigation, in its order."""
    yield from _entries(tomllib.loads(CONFIG.read_text("utf-8"))["project"]["nav"], "")


def llms_txt(pages: dict[str, str]) -> str:
    """The list of pages for language models: in each section the pages' titles, each with the page's first sentence."""
    project = tomllib.loads(CONFIG.read_text("utf-8"))["project"]
    lines, current = [f"# {project['site_name']}", "", f"> {project['site_description']}"], None
    for section, title, page in navigation():
        if section != current:
            lines += ["", f"## {section or 'Start'}", ""]
            current = section
        lines.append(f"- [{title}]({page}): {_opening(pages[page])}")
    return "\n".join(lines) + "\n"


def build(folder: Path) -> Path:
    """Build the site in `folder` and return that of its HTML. Raises SystemExit where a page is not in the navigation
    or, with Zensical's own message, where a link leads nowhere."""
    pages = sources()
    left_out = sorted(pages.keys() - {page for _, _, page in navigation()})
    if left_out:
        raise SystemExit(f"not in the navigation of docs/zensical.toml: {', '.join(left_out)}")
    shutil.rmtree(folder, ignore_errors=True)
    made = folder / "pages"
    made.mkdir(parents=True)
    examples = [
        path for pattern in ("*.*", "multi_turn/*.py", "paper/*.*") for path in ROOT.glob(f"examples/{pattern}")
    ]
    for path in (*DOCS.glob("**/*.png"), *examples):
        copy = made / path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    (made / "notebooks").mkdir()
    for path in NOTEBOOKS:
        shutil.copyfile(path, made / "notebooks" / path.name)
        for name, picture in notebook_page(path)[1].items():
            (made / "pictures" / name).write_bytes(picture)
    for name, text in pages.items():
        (made / name).write_text(_FORMULA.sub(_mathml, text), "utf-8")
    shutil.copyfile(CONFIG, folder / CONFIG.name)
    program = [sys.executable, "-m", "zensical", "build", "--strict", "-f", CONFIG.name]
    if subprocess.run(program, cwd=folder, check=False).returncode:
        raise SystemExit("the site was not built: see above")
    html = folder / "html"
    for name, text in pages.items():
        (html / name).write_text(text, "utf-8")
    (html / "llms.txt").write_text(llms_txt(pages), "utf-8")
    return html


def _target(link: str) -> str:
    """Where a relative link leads on the site, from docs/ or from the top alike."""
    if ":" in link:
        return link
    path = re.sub(r"^(\.\./)*(docs/)?", "", link)
    notebooks = {one.name: page for one, page in NOTEBOOKS.items()}
    return notebooks.get(path.removeprefix("examples/notebooks/")) or AT_THE_TOP.get(path, path)


def _entries(nav: list[Any], section: str) -> Iterator[tuple[str, str, str]]:
    for entry in nav:
        for title, inner in entry.items():
            if isinstance(inner, str):
                yield section, title, inner
            else:
                yield from _entries(inner, title)


def _opening(text: str) -> str:
    """The first sentence below a page's heading, without links and marks."""
    paragraph = next(part for part in text.split("\n\n")[1:] if re.match(r"[A-Z`*\[]", part))
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", lambda found: found[1] or "", " ".join(paragraph.split()))
    return re.split(r"(?<=[.:?]) ", plain, maxsplit=1)[0].rstrip(":")


def _mathml(block: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    return "\n\n".join(convert(line, display="block") for line in block[1].splitlines() if line.strip())


if __name__ == "__main__":
    print(build(ROOT / "build" / "site"))
