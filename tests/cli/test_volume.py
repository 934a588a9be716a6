"""--quiet, --verbose and --debug: how much a command tells on stderr. Results and exit codes stay as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sotopia_rl_data.cli import program
from sotopia_rl_data.fake_provider.running import running

ROOT = Path(program.__file__).resolve().parents[2]
TOY = {
    "episode_id": "e1",
    "environment_id": "harbour",
    "agents": [{"agent": "a", "name": "Ann"}, {"agent": "b", "name": "Ben"}],
    "turns": [{"turn": 0, "agent": "a", "text": "Hello."}],
}


@pytest.fixture
def run(tmp_path):
    """Runs the program as a person would, in a folder with the file `toy.jsonl`, of which one line cannot be read."""
    (tmp_path / "toy.jsonl").write_text(f"{json.dumps(TOY)}\nnot JSON\n")

    def call(*arguments: str, script: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        command = ["-c", script] if script else [str(ROOT / "cli.py")]
        whole = [sys.executable, *command, *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
        return subprocess.run(whole, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return call


IMPORT = ("import", "toy.jsonl", "--name", "lab/toy")


@pytest.mark.slow
def test_quiet_leaves_the_result_and_the_exit_code(run):
    usual = run(*IMPORT)
    assert usual.returncode == 3
    assert "warning: toy.jsonl" in usual.stderr
    assert "next:" in usual.stderr
    unchanged = run(*IMPORT)
    for quiet in ((*IMPORT, "--quiet"), (*IMPORT, "-q"), ("--quiet", *IMPORT)):
        done = run(*quiet)
        assert (done.returncode, done.stdout, done.stderr) == (3, unchanged.stdout, "")


@pytest.mark.slow
def test_what_was_written_is_told_unless_quiet(run):
    run("label", "--judge", "lexical", "--preset", "goal-only", "--dimensions", "goal")
    for command, written in [
        (("card", "samples-rewards", "--write"), "wrote store/samples-rewards/v1.0.0/README.md"),
        (("annotate", "template", "samples", "--dimensions", "goal", "-o", "{}.csv"), "are in usual.csv."),
        (("ledger", "compact"), "attempts are in Parquet files of store/.ledger now."),
    ]:
        quiet = run(*(word.format("quiet") for word in command), "--quiet")
        usual = run(*(word.format("usual") for word in command))
        assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
        assert (usual.returncode, usual.stdout) == (0, "")
        assert written in usual.stderr


@pytest.mark.slow
def test_quiet_still_says_what_went_wrong(run):
    usual, quiet = run("show", "lab/none"), run("show", "lab/none", "--quiet")
    assert (quiet.returncode, quiet.stderr) == (2, usual.stderr)
    assert quiet.stderr.startswith("error: ")


@pytest.mark.slow
def test_verbose_also_tells_what_is_read_and_written(run):
    done = run(*IMPORT, "--verbose", "--json")
    told = [line.partition(" ")[2] for line in done.stderr.splitlines()]
    assert "sotopia_rl_data.importers.importing: toy.jsonl is read as plain" in told
    assert "sotopia_rl_data.store.stage: wrote lab/toy@v1.0.0 to store/lab/toy/v1.0.0" in told
    assert json.loads(done.stdout)["episodes"] == 1
    assert done.returncode == 3


@pytest.mark.slow
def test_verbose_tells_of_requests_that_are_sent_again_and_shows_no_key(run):
    key = "sk-toy-THIS-IS-SECRET-0123456789"
    with running(throttled=0.3, retry_after=0.05) as provider:
        judge = f"openai:judge@{provider.openai_url}"
        done = run("label", "--judge", judge, "--preset", "goal-only", "--dimensions", "goal", "-v", OPENAI_API_KEY=key)
    assert "sent again in" in done.stderr
    assert key not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_traceback_is_shown_with_debug_alone_and_the_sentence_after_it(run):
    usual, debug = run("show", "lab/none"), run("show", "lab/none", "--debug")
    assert "Traceback" not in usual.stderr
    assert debug.stderr.startswith("Traceback (most recent call last):")
    assert debug.stderr.endswith(usual.stderr)
    assert (debug.returncode, debug.stdout) == (usual.returncode, usual.stdout)


BUG = """
from sotopia_rl_data.cli import program, reading
def broken(*_):
    key = "sk-toy-THIS-IS-SECRET-0123456789"
    raise TypeError(f"no such thing as {key}")
reading.resolve = broken
program.main()
"""


def test_a_bug_is_a_sentence_too_and_its_traceback_hides_keys(run):
    usual, debug = run("show", "lab/toy", script=BUG), run("show", "lab/toy", "--debug", script=BUG)
    sentence = "error: The program has a bug: TypeError: no such thing as [hidden] (Traceback: with --debug)"
    assert usual.stderr.splitlines() == [
        sentence,
        " hint: run the same command with --debug, and report what it prints",
    ]
    assert debug.stderr.startswith("Traceback (most recent call last):")
    assert "in broken" in debug.stderr
    assert "SECRET" not in usual.stderr + debug.stderr
    assert usual.returncode == debug.returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [("-q", "-v"), ("--debug", "--quiet"), ("--verbose", "--quiet")])
def test_less_and_more_at_once_is_refused(run, options):
    done = run("list", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert "A command cannot tell less and more at once." in done.stderr


def test_every_command_has_the_three_options_once():
    commands = [program.cli.get_command(None, name) for name in program.cli.list_commands(None) for _ in "twice"]
    for command in [
        program.cli,
        *commands,
        *(inner for one in commands for inner in getattr(one, "commands", {}).values()),
    ]:
        names = [option for parameter in command.params for option in parameter.opts]
        for option in ("--quiet", "-q", "--verbose", "-v", "--debug"):
            assert names.count(option) == 1, (command.name, option)
