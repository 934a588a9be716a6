"""Laws over every command's screens: no line wider than the screen, every value there, no flood; and six goldens."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from fixtures.places import GOLDENS
from fixtures.screens import COMMANDS, WIDE, Shown, command_names, fill, make_store, plain, show, wider
from fixtures.stores import commit, episodes

from sotopia_rl_data.cli import console
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.store import Store

FOLDER = GOLDENS / "screens"
LOOKED_AT = {
    "log-80": (80, "log demo/rollouts"),
    "show-80": (80, "show demo/episodes-rewards"),
    "stats-40": (40, "stats demo/episodes-rewards"),
    "compare-80": (80, "compare lab/bc lab/rl --resamples 50"),
    "agreement-80": (80, "agreement demo/episodes-rewards --resamples 50"),
    "error-40": (40, "show demo/episodes none"),
}
MOST_LINES = 60
ASKED_FOR = (
    "card",
    "show demo/episodes sample",
    "show demo/episodes-rewards sample",
    "available ",
    "train rm --help",
)  # whole texts, as is every help
MAKING = (
    "label",
    "evaluate",
    "rollout",
    "rewards",
    "audit",
    "import --name",
    "ledger merge",
    "credit",
    "annotate import",
)
COMMAND_LINE = r"(?<!`)(sotopia-rl-data [^`\n]+)|`(sotopia-rl-data [^`\n]*--help)`"
COLOUR = re.compile(r"\x1b\[(\d;)*(3[0-8]|4[0-8]|9[0-7])")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A provider's URL; the working directory has the store."""
    folder, before = tmp_path_factory.mktemp("screens"), Path.cwd()
    os.chdir(folder)
    with running() as provider, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-none")
        make_store(folder, provider.openai_url)
        yield provider.openai_url
    os.chdir(before)


def run(command: str, url: str, *more: str, **terminal: int | bool | str) -> Shown:
    for needed in ("import --name demo/copy", "rm demo/copy --yes") if "demo/copy" in command else ():
        if command != needed:  # then it is there, and for `undo` in the trash
            show(*needed.split())
    if command.startswith("export"):
        shutil.rmtree("sotopia", ignore_errors=True)  # it overwrites no folder
    words = [word.replace("~", " ").replace("URL", url) for word in command.split()]
    return show(*words, *more, **terminal)


def check(command: str, url: str, *terminals: dict[str, int | bool | str]) -> None:
    """The three laws for one command on these terminals."""
    everything = ["--wide"] if command.startswith(WIDE) else []
    if command.startswith(MAKING):
        run(command, url)  # what is made is made now
    wanted = words(run(command, url, *everything, columns=250).out)
    for terminal in terminals:
        shown = run(command, url, **terminal)
        lines = [line.rstrip() for line in plain(shown.out + shown.err).splitlines()]
        columns = terminal["columns"]
        assert wider(shown, columns) == [], terminal
        assert len(lines) <= MOST_LINES or command.startswith(ASKED_FOR) or "--help" in command, (terminal, len(lines))
        assert terminal["colour"] or not COLOUR.search(shown.out + shown.err), terminal
        narrow = run(command, url, *everything, **terminal) if everything else shown
        here = "".join(plain(narrow.out).split())
        if "thefirst" not in here:
            assert [word for word in wanted if word not in here] == [], terminal


def words(text: str) -> list[str]:
    """The words of a screen that every terminal has as they are, but not how long it took."""
    return [word for word in re.sub(r"(?m)^seconds .*", "", plain(text)).split() if word.isascii()]


def test_every_command_of_the_program_is_among_them_with_a_screen_of_its_own_and_its_help():
    for name in filter(None, command_names()):
        of_it = [command for command in COMMANDS if command == name or command.startswith(f"{name} ")]
        assert {"--help" in command for command in of_it} == {True, False}, name


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_screen_fits_and_shows_every_value(command: str, url: str):
    check(
        command,
        url,
        {"columns": 40, "colour": True, "encoding": "ascii"},
        {"columns": 80, "colour": False, "encoding": "utf-8"},
    )


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_every_screen_fits_every_terminal(command: str, url: str):
    every = product((40, 80, 120), (False, True), ("ascii", "utf-8"))
    check(command, url, *(dict(zip(("columns", "colour", "encoding"), one, strict=True)) for one in every))


@pytest.mark.parametrize("name", LOOKED_AT)
def test_six_screens_are_as_they_were_looked_at(name: str, url: str):
    """To look at them anew: REWRITE=1, then `git diff`."""
    columns, command = LOOKED_AT[name]
    shown = run(command, url, columns=columns)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "2026-11-29 12:00", plain(shown.out + shown.err))
    text = re.sub(r"\b[0-9a-f]{12}\b", "0" * 12, text)  # a digest, which a new wording of a schema changes
    text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    path = FOLDER / f"{name}.txt"
    if "REWRITE" in os.environ:
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def test_list_and_log_tell_command_recipe_judges_models_utterances_and_splits(url: str):
    lines = plain(show("list", "--wide", columns=500).out).splitlines()
    (head, *rows) = [re.split(" {2,}", line.rstrip()) for line in lines if line]
    told = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    labelled, played = told["demo/priced"], told["demo/rollouts"]
    assert (labelled["by"], labelled["judges"], labelled["models"]) == ("label", "sim", "sim-2026-01-01")
    assert (labelled["utterances"], labelled["splits"], labelled["episodes"]) == ("557", "26 / 4 / 2", "32")
    assert labelled["recipe"].startswith("schema direct, 1 × per-dimension; rule direct, minmax, relationship=1")
    assert played["models"].startswith("scripted:warm, scripted:firm")
    log = show("log", "demo/priced", "--wide", columns=500).out
    assert all(labelled[name] in log for name in ("by", "judges", "models", "utterances", "splits", "from", "recipe"))


def test_a_version_of_episodes_shows_its_counts_and_the_beginning_of_a_dialogue(url: str):
    shown = plain(show("show", "demo/episodes").out)
    for count in ("agents          64", "utterances      557", "scores          434"):
        assert count in shown
    assert "You'll be the man about the boat." in shown
    assert "more turns" in shown


def test_a_version_that_was_named_is_named_by_the_next_command_and_above_its_dialogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for i in range(2):
        commit(Store("store"), {("episodes", "train"): episodes(i)})
    for ref, episode in (("org/toy@v1.0.0", "e0000"), ("./store/org/toy", "e0001"), ("org/toy", "e0001")):
        assert plain(show("show", ref).err) == f"next:\n  sotopia-rl-data show {ref} {episode}\n"
    assert plain(show("show", "org/toy@v1.0.0", "e0000").out).splitlines()[0] == "org/toy@v1.0.0"


def test_an_agent_that_nobody_scored_has_no_column(url: str):
    scores = plain(show("show", "lab/bc", "bc-partner-0-0-0").out).split("scores by gpt-4o")[1]
    assert scores.splitlines()[0].split() == ["Agent", "A0"]
    assert "–" not in scores


def test_a_column_without_any_value_is_left_out(capsys: pytest.CaptureFixture[str]):
    console.table(["judge", "USD", "calls"], [["a", None, 1], ["b", None, None]])
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line] == [
        ["judge", "calls"],
        ["a", "1"],
        ["b", "–"],
    ]


def test_a_thousand_has_no_exponent(capsys: pytest.CaptureFixture[str]):
    console.table(["x"], [[999.4], [999.5], [999.7], [1000.2], [-999.7]])
    assert capsys.readouterr().out.split() == ["x", "999", "1,000", "1,000", "1,000", "-1,000"]


def test_a_cards_prose_of_any_form_is_shown_with_its_tables(tmp_path: Path):
    commit(Store(tmp_path), {("episodes", "train"): episodes(1)})
    lines = [
        "```",
        "| not a table",
        "```",
        "",
        "| judge | calls | USD |",
        "|--|--|--|",
        r"| `a` | b \| c |",
        "",
        "- | x | y |",
    ]
    readme = tmp_path / "org/toy/v1.0.0/README.md"
    readme.chmod(0o644)
    readme.write_text(readme.read_text() + "\n".join(["", *lines]))
    shown = show("card", "org/toy", "--store", str(tmp_path))
    assert (shown.code, shown.err) == (0, "")
    end = plain(shown.out).partition("| not a table")[2]
    assert [line.split() for line in end.splitlines() if line.strip()] == [
        ["judge", "calls"],
        ["a", "b", "|", "c"],
        ["•", "|", "x", "|", "y", "|"],
    ]


@pytest.mark.slow
def test_every_command_that_a_screen_suggests_runs_as_printed(url: str):
    suggested = {
        (found[1] or found[2]).partition("   #")[0]: command
        for command in COMMANDS
        if not command.startswith(("rm", "undo")) and "--help" not in command  # what is in the trash changes
        for found in re.finditer(COMMAND_LINE, plain(run(command, url, columns=250).err))
    }
    assert len(suggested) > 25
    wrong = []
    for line, command in suggested.items():
        words = shlex.split(line)[1:]
        if words[0] == "train" or "./runs/rm" in words:
            continue  # tests/test_strangers_path.py trains as it is printed, and uses the model; here is none
        if "gpt-4o" in words:
            words.append("--dry-run")  # what costs money is not asked
        if "annotate import form.csv" in line:
            fill(Path("form.csv"), "score")
        Path("annotations.csv").unlink(missing_ok=True)  # `annotate template` overwrites no file
        if "human:annotations.csv" in line:
            run(command, url)
            fill(Path("annotations.csv"), "raw")
        shown = show(*words)
        if shown.code not in (0, 3):
            wrong.append((command, line, plain(shown.err)))
    assert wrong == []
