"""The documentation keeps up with the code: the reference is fresh, and nothing built in is left out."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from fixtures.examples import NOT_RUN, OURS, PAGES, examples, help_examples, why_not_run
from fixtures.places import ROOT

from sotopia_rl_data.cli.program import COMMANDS
from sotopia_rl_data.labelers import judges, schemas
from sotopia_rl_data.rewards.recipe import presets

sys.path.insert(0, str(ROOT / "docs"))
from build_site import navigation, sources
from generate import MODULES, api, page

MADE = ("api.md", "cli.md")
WRITTEN = [path for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")] if path.name not in MADE]
TRAINER_PRESETS = {path.stem.partition(".")[2] for path in (ROOT / "trainers" / "presets").glob("*.yaml")}
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in WRITTEN)


def test_the_reference_of_commands_is_fresh():
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.mark.slow
def test_the_reference_of_python_is_fresh_and_explains_every_public_name():
    text = api()
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == text, "run `make docs`"
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            assert re.search(rf"^### `{name}`\n(\n```python\n.*?\n```\n)?\n[A-Z]", text, re.MULTILINE | re.DOTALL), name


def test_every_file_of_docs_is_linked():
    for path in (ROOT / "docs").glob("*.md"):
        assert re.search(rf"\]\((docs/)?{re.escape(path.name)}[)#]", TEXT + (ROOT / "CONTRIBUTING.md").read_text())


def test_every_page_is_in_the_sites_navigation_once():
    assert sorted(page for _, _, page in navigation()) == sorted(sources()), "put it into docs/zensical.toml"


def test_most_examples_can_be_run_here_and_each_that_cannot_has_a_reason():
    """Those that can are run by `tests/test_examples.py`; the table of reasons is `NOT_RUN`."""
    lines = [*(one for page in PAGES for one in examples(page)), *help_examples()]
    commands = [one for one in lines if OURS.match(one.text)]
    reasons = Counter(why for one in commands for why in [why_not_run(one.text)] if why)
    assert set(reasons) == set(NOT_RUN.values())
    assert reasons.total() < len(commands) / 3


@pytest.mark.slow
def test_the_start_in_ten_minutes_runs_as_it_is_written(tmp_path: Path):
    """Without the installation before it, and without the training, which needs an extra."""
    offline, _, _ = (ROOT / "docs" / "start.md").read_text("utf-8").partition("## With your own dialogues")
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", offline, re.MULTILINE | re.DOTALL)
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    ran = 0
    for language, text in blocks:
        lines = text.splitlines() if language == "sh" else [text]
        for line in lines:
            if line.startswith(("pip install", "sotopia-rl-data train")):
                continue
            program = (
                ["-m", "sotopia_rl_data", *shlex.split(line, comments=True)[1:]] if language == "sh" else ["-c", line]
            )
            done = subprocess.run(
                [sys.executable, *program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == (3 if " label " in line else 0), (line, done.stdout, done.stderr)
            ran += 1
    assert ran == 8
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_links_lead_to_files():
    for path in [*WRITTEN, ROOT / "CONTRIBUTING.md", ROOT / "docs" / "cli.md"]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_links_lead_to_headings():
    """As the site names them, which the strict build checks too where its program is installed."""
    pages = sources()
    for name, text in pages.items():
        for linked, anchor in re.findall(r"\]\(([a-z-]+\.md)?#([^)]+)\)", text):
            assert anchor in headings(pages[linked or name]), f"{name}: {linked}#{anchor}"


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown makes them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    plain = (unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode() for title in titles)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in plain}


@pytest.mark.parametrize("command", [name for section in COMMANDS.values() for name in section])
def test_every_command_is_documented_with_an_example(command: str):
    assert re.search(rf"(cli\.py |sotopia-rl-data |`){command}\b", TEXT)
    assert re.search(rf"^sotopia-rl-data {command}\b", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", [*presets(), *sorted(TRAINER_PRESETS), *schemas.BUILTINS, *judges.BUILTINS])
def test_every_preset_schema_and_judge_is_documented(name: str):
    assert f"`{name}`" in TEXT, f"describe `{name}` in README.md or docs/"


@pytest.mark.parametrize("form", [form.partition(":")[0] for form in judges.FORMS.split(", ") if ":" in form])
def test_every_form_of_a_judge_is_documented(form: str):
    assert f"`{form}:" in TEXT or f" {form}:" in TEXT
