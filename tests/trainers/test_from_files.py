"""From a file that somebody has to a trained reward model, by the commands that the screens name."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

from click.testing import CliRunner
from fixtures.formats import corpus, csv_text
from fixtures.training import toy_model, train_rm

from sotopia_rl_data import open_dataset
from sotopia_rl_data.cli.program import cli

WORDS = ("refund", "order", "parcel", "late", "sorry", "help", "check", "tomorrow", "please", "card", "thanks")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy_model(tmp_path_factory.mktemp("tiny"))


def talk(rng: random.Random) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=6)) for _ in range(4)]


def helpdesk(folder: Path) -> tuple[Path, list[str], list[str]]:
    """A CSV of calls with the customer's satisfaction."""
    rng = random.Random(1)
    rows = []
    for i in range(40):
        said, csat = talk(rng), i % 5 + 1
        rows += [
            {"conversation": f"call-{i}", "turn": t, "speaker": ("customer", "bot")[t % 2], "text": text, "csat": csat}
            for t, text in enumerate(said)
        ]
    (folder / "calls.csv").write_text(csv_text(rows))
    return folder / "calls.csv", ["--score", "csat=1..5"], ["--weights", "csat=1"]


def negotiation(folder: Path) -> tuple[Path, list[str], list[str]]:
    """A ConvoKit corpus with each speaker's points."""
    rng = random.Random(2)
    rows = [
        {"id": f"u{i}-{t}", "conversation_id": f"c{i}", "speaker": f"s{i}-{t % 2}", "text": text, "reply-to": None,
         "timestamp": t, "meta": {}, "vectors": []}
        for i in range(40)
        for t, text in enumerate(talk(rng))
    ]  # fmt: skip
    path = corpus(folder / "casino", rows)
    points = {f"c{i}": {"meta": {f"s{i}-{j}": {"points": (i + 9 * j) % 36} for j in (0, 1)}} for i in range(40)}
    (path / "conversations.json").write_text(json.dumps(points))
    return path, ["--score", "points=0..36"], ["--weights", "points=1"]


def sharegpt(folder: Path) -> tuple[Path, list[str], list[str]]:
    """Chats without scores."""
    rng = random.Random(3)
    chats = [
        {
            "id": i,
            "conversations": [{"from": ("human", "gpt")[t % 2], "value": text} for t, text in enumerate(talk(rng))],
        }
        for i in range(40)
    ]
    (folder / "chats.json").write_text(json.dumps(chats))
    return folder / "chats.json", [], ["--schema", "utterance-quality"]


def one_scenario(folder: Path) -> tuple[Path, list[str], list[str]]:
    """Episodes of one environment, scored on two dimensions: all of them lie in one split."""
    rng = random.Random(4)
    episodes = [
        {"episode_id": f"e{i}", "scenario": "Two share a flat.", "agents": [{"name": "Ada"}, {"name": "Bo"}],
         "turns": [{"agent": ("Ada", "Bo")[t % 2], "text": text} for t, text in enumerate(talk(rng))],
         "scores": [{"agent": name, "dimension": dimension, "score": (i + j) % 6}
                    for name in ("Ada", "Bo") for j, dimension in enumerate(("goal", "knowledge"))]}
        for i in range(40)
    ]  # fmt: skip
    path = folder / "flat.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in episodes))
    return path, [], ["--weights", "goal=1,knowledge=1"]


def reference_rows(folder: Path) -> Path:
    """sotopia-rl's training JSON: a prompt, an answer and a value, of which some are -1.0."""
    rng = random.Random(4)
    asked = "Imagine you are Mia Davis.\nScenario: Evening {} is planned.\nParticipants: Mia and Ben\nTurn #{}"
    rows = [
        {
            "input": asked.format(i % 30, i),
            "output": json.dumps({"action_type": "speak", "argument": " ".join(rng.choices(WORDS, k=6))}),
            "value": -1.0 if i % 20 == 0 else i % 11,
        }
        for i in range(160)
    ]
    (folder / "rows.json").write_text(json.dumps(rows, indent=4))
    return folder / "rows.json"


@pytest.mark.slow
def test_the_training_json_of_sotopia_rl_becomes_a_reward_model_by_what_its_screens_say(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOTOPIA_RL_DATA_STORE", str(tmp_path / "store"))

    def run(line: str) -> str:
        done = CliRunner().invoke(cli, shlex.split(line)[1:])
        assert done.exit_code == 0, done.output
        return done.stdout + done.stderr

    def offered(screen: str, command: str) -> str:
        return next(
            line.strip() for line in screen.splitlines() if line.strip().startswith(f"sotopia-rl-data {command}")
        )

    first = run(f"sotopia-rl-data import {reference_rows(tmp_path)} --name lab/rows")
    told = (
        "8 of 160 rewards are exactly -1, and are kept as they are; where that stands for no label, import again with "
    )
    assert told in first
    again = first.partition(told)[2].splitlines()[0]
    screen = run(f"sotopia-rl-data import rows.json --name lab/rows {again}")
    assert "8 of 160 rewards were -1, the sentinel: they are NULL" in screen
    run(offered(screen, "stats"))
    run(offered(screen, "report"))
    assert "Evening 7 is planned." in (tmp_path / "report.html").read_text()
    train = offered(screen, "train rm").replace("Qwen/Qwen2.5-0.5B-Instruct", tiny)
    trained = run(f"{train} --preset tiny --set max_steps=4 -o rm")
    scored = run(offered(trained, "score"))
    assert "152" in run("sotopia-rl-data show lab/rows")
    assert "160" in scored
    (counted,) = open_dataset("lab/rows", tmp_path / "store").sql("SELECT count(*) FROM attributions").column(0)
    assert counted.as_py() == 160


@pytest.mark.parametrize("having", [helpdesk, negotiation, sharegpt, one_scenario])
def test_a_file_becomes_a_reward_model(having, tiny: str, tmp_path: Path):
    path, told, weighed = having(tmp_path)
    at = ["--store", str(tmp_path / "store")]
    done = CliRunner().invoke(cli, ["import", str(path), "--name", "lab/mine", *told, *at])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(cli, ["label", "lab/mine", "--judge", "lexical", *weighed, *at])
    assert done.exit_code == 0, done.output
    (rewarded,) = (
        open_dataset("lab/mine-rewards", tmp_path / "store").sql("SELECT count(reward) FROM rewards").column(0)
    )
    assert rewarded.as_py() == 160
    record = train_rm("lab/mine-rewards", tiny, tmp_path / "rm", preset="tiny", store=str(tmp_path / "store"))
    assert sum(record["rows"].values()) == 160
    assert min(record["rows"].values()) > 0
