"""`rollout` and `export` as commands: bad input is a sentence, its hint, an exit code, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sotopia_rl_data.cli import program
from sotopia_rl_data.store import Store

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the program in this process, in an empty folder: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "SOTOPIA_RL_DATA_STORE"):
        monkeypatch.delenv(variable, raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            program.main(list(arguments))
        out, err = capsys.readouterr()
        return int(str(ended.value.code)), out, err

    return call


def test_rollout_plays_without_any_option_or_download_and_goes_to_the_library(run: Run, tmp_path: Path):
    code, out, _ = run("rollout", "--out", "demo/play", "--json")
    told = json.loads(out)
    assert (code, told["version"], told["episodes"], told["failures"]) == (0, "demo/play@v1.0.0", 13, {})
    code, out, err = run("rollout", "--out", "demo/play")
    assert code == 0
    assert "unchanged: the store has this content already" in out
    assert "export demo/play@v1.0.0 --to sotopia" in err
    code, out, _ = run("export", "demo/play", "--to", "sotopia", "-o", "out", "--json")
    told = json.loads(out)
    assert (code, told["episodes"], told["differs"]) == (0, 13, {"turns.failed": 13, "agents.meta": 1})
    code, out, _ = run("import", "out", "--name", "demo/again", "--json")
    assert (code, json.loads(out)["episodes"]) == (0, 13)


def test_the_card_says_who_played_and_that_nothing_is_rewarded_yet(run: Run):
    assert run("rollout", "--swap", "--turns", "4", "--out", "demo/play")[0] == 0
    code, out, _ = run("card", "demo/play")
    assert code == 0
    assert "26 social dialogues from self-play between agents with goals of their own" in out
    assert "- Self-play: `scripted:warm` against `scripted:firm`, in each other's place too.\n" in out
    assert "- Why episodes ended: The conversation is too long (26).\n" in out
    assert "a reward: how much" not in out


def test_a_policy_of_ones_own_is_named_by_its_file_and_its_failures_are_exit_code_3(run: Run, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "import json\n"
        "class Talker:\n"
        "    id = 'talker'\n"
        "    async def __call__(self, asked):\n"
        "        if 'tram' in str(asked.messages):\n"
        "            raise OSError('no line')\n"
        "        return json.dumps({'action_type': 'leave', 'argument': ''})\n"
    )
    code, out, err = run("rollout", "--a", "./mine.py:Talker", "--pairs", "1", "--out", "demo/play")
    assert code == 3
    assert "The policy talker failed: OSError: no line" in out
    assert "run the same command again" in err
    assert "abandoned" in out


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(run: Run, tmp_path: Path):
    code, out, _ = run("rollout", "--repeat", "3", "--dry-run", "--out", "demo/play", "--json")
    told = json.loads(out)
    assert (code, told["episodes"], told["most_calls"], told["total"]) == (0, 39, 780, 0.0)
    assert not (tmp_path / "store").exists()
    code, _, err = run("rollout", "--dry-run", "--out", "demo/play")
    assert (code, "260 calls if each of the 13 episodes goes to the turn limit" in err) == (0, True)
    code, out, _ = run("rollout", "--a", "gpt-4o", "--dry-run", "--out", "demo/play", "--json")  # and needs no key
    assert (code, json.loads(out)["judges"][0]["cost"] > 0) == (0, True)


WRONG = [
    ((), "Missing option '--out'"),
    (("--out", "a/b/c"), "'a/b/c'"),
    (
        ("--out", "x/y", "--a", "gpt-4o"),
        "OPENAI_API_KEY is not set: it should hold the API key for https://api.openai.com/v1",
    ),
    (("--out", "x/y", "--a", "nobody"), "'nobody' is not a policy"),
    (("--out", "x/y", "--a", "./none.py:X"), "./none.py does not exist"),
    (("--out", "x/y", "--a", "transformers:./none"), "There is no model in ./none"),
    (("--out", "x/y", "--a", "transformers:"), "'transformers:' needs a model after the colon"),
    (("--out", "x/y", "--a", "openai:m@localhost:8000/v1"), "is not a URL"),
    (("--out", "x/y", "--scenarios", "hard"), "do not ship with this package"),
    (("--out", "x/y", "--scenarios", "hard", "--profiles", "none"), "'none' is not a folder"),
    (("--out", "x/y", "--scenarios", "none.yaml"), "There are no scenarios 'none.yaml'"),
    (("--out", "x/y", "--profiles", "."), "--profiles is used only with"),
    (("--out", "x/y", "--pairs", "0"), "--pairs 0"),
    (("--out", "x/y", "--turns", "0"), "0 turns"),
    (("--out", "x/y", "--turns", "many"), "'many' is not a whole number"),
    (("--out", "x/y", "--dialect", "9"), "'9' is not one of"),
    (("--out", "x/y", "--template", "none.yaml"), "'none.yaml' cannot be read"),
    (("--out", "x/y", "--temperature", "1"), "Neither scripted:warm nor scripted:firm is a model"),
    (("--out", "x/y", "--best-of", "4"), "Best-of-N needs at least 2 drafts and a reward model"),
    (("--out", "x/y", "--reward-model", "rm"), "Best-of-N needs at least 2 drafts and a reward model"),
    (("--out", "x/y", "--best-of", "4", "--reward-model", "./none"), "There is no reward model in ./none"),
    (("--out", "x/y", "--swap", "--b", "scripted:warm"), "would play each episode twice"),
    (("--out", "x/y", "--seed", "-1"), "--seed -1 is out of range"),
    (("--out", "x/y", "--version", "one"), "'one'"),
    (("--out", "x/y", "--budget", "-1"), "The budget must be above 0 USD, not -1.0"),
    (("--out", "x/y", "--prices", "none.yaml"), "none.yaml cannot be read"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG)
def test_bad_input_is_one_sentence_and_its_hint(arguments: tuple[str, ...], sentence: str, run: Run, tmp_path: Path):
    code, out, err = run("rollout", *arguments)
    assert code in (1, 2), err
    assert sentence in err
    assert err.startswith("error: ")
    assert " hint: " in err
    assert "Traceback" not in err
    assert out == ""
    assert Store(tmp_path / "store").names() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nothing/here", "--to", "sotopia", "-o", "out"), "nothing/here"),
        (("demo/play", "-o", "out"), "Missing option '--to'"),
        (("demo/play", "--to", "excel", "-o", "out"), "'excel' is not"),
        (("demo/play", "--to", "sotopia"), "Missing option '-o'"),
        (("demo/play", "--to", "sotopia", "-o", "taken"), "taken exists and is not an empty folder"),
        (("demo/play", "--to", "sotopia", "-o", "taken/file/below"), "cannot be written"),
        (("demo/play", "--to", "sotopia", "-o", "out", "--evaluator", "nobody"), "No episode has a score"),
    ],
)
def test_bad_input_of_export_leaves_no_folder(arguments: tuple[str, ...], sentence: str, run: Run, tmp_path: Path):
    assert run("rollout", "--out", "demo/play", "--turns", "2")[0] == 0
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    code, _, err = run("export", *arguments)
    assert code in (1, 2), err
    assert sentence in err
    assert " hint: " in err
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", "taken"]
