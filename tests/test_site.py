"""The documentation site: whole, without a dead link, without a request to another host. What is built needs the extra
`docs`; what it is built from does not."""

from __future__ import annotations

import importlib.util
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from fixtures.places import ROOT

from sotopia_rl_data.cli.program import COMMANDS

sys.path.insert(0, str(ROOT / "docs"))
from build_site import build, llms_txt, sources

PAGES = sources()


def test_llms_txt_lists_every_page_with_what_it_says():
    lines = [line for line in llms_txt(PAGES).splitlines() if line.startswith("- ")]
    assert len(lines) == len(PAGES)
    assert all(re.fullmatch(r"- \[[^]]+\]\([a-z-]+\.md\): \S.{10,}", line) for line in lines), lines


def test_links_between_the_pages_of_the_repository_are_links_of_the_site():
    assert "](start.md)" in PAGES["index.md"]  # README.md says docs/start.md
    assert "](changelog.md)" in PAGES["stability.md"]  # docs/stability.md says ../CHANGELOG.md
    assert not [name for name, text in PAGES.items() if re.search(r"\]\((\.\./|docs/)", text)]


class SitePage(HTMLParser):
    """What a page of the site links to, loads, and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.ids.add(named.get("id", ""))
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        if "src" in named or (tag == "link" and named.get("rel") != "canonical"):
            self.loads.append(named.get("src") or named.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("needs the extra docs: pip install -e '.[docs]'")
    return build(tmp_path_factory.mktemp("site") / "site")


@pytest.mark.slow
def test_the_site_has_no_dead_link_and_asks_no_other_host(site: Path):
    read = {path.name: SitePage(path.read_text("utf-8")) for path in site.glob("*.html")}
    assert set(read) == {name.replace(".md", ".html") for name in PAGES} | {"404.html"}
    for name, page in read.items():
        for link in page.links:
            if urlsplit(link).scheme or name == "404.html":
                continue
            path, _, anchor = unquote(link).partition("#")
            assert not path or (site / path).exists(), f"{name}: {link}"
            target = read.get(path.removeprefix("./") or name)
            assert not anchor or target is None or anchor in target.ids, f"{name}: {link}"
        assert not [one for one in page.loads if urlsplit(one).netloc], name
    assert sum(len(page.links) for page in read.values()) > 1000


@pytest.mark.slow
def test_each_page_is_there_as_markdown_and_can_be_searched_and_shown_dark(site: Path):
    found = (site / "search.json").read_text("utf-8")
    for name, text in PAGES.items():
        assert (site / name).read_text("utf-8") == text
        assert name.replace(".md", ".html") in found
    commands = (site / "cli.html").read_text("utf-8")
    assert all(f"sotopia-rl-data {name}" in commands for section in COMMANDS.values() for name in section)
    assert 'data-md-color-scheme="slate"' in commands
    idea = (site / "idea.html").read_text("utf-8")
    assert idea.count("<math ") == 5
    assert "```" not in idea
