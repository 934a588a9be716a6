"""Small files whose import took minutes: each record is read in time that grows with its length, whoever wrote it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.records import ANN, PLAIN, SAM, lines, log, opening

from sotopia_rl_data.importers import read
from sotopia_rl_data.schema import Episode, Failure

MOST_SECONDS = 6  # of the processor: each takes half of one here, and took 10 to 100


def read_in_time(path: Path) -> list[Any]:
    """What a file holds, which was read in seconds of work."""
    before = time.process_time()
    read_items = list(read([path]))
    took = time.process_time() - before
    assert took < MOST_SECONDS, f"{took:.1f} s"
    return read_items


def crowd(count: int, beside: str = "") -> dict[str, Any]:
    """A log in which everybody is shown an opening, and one says something."""
    names = [f"n{i}" for i in range(count)]
    shown = [["Environment", name, f"{opening([name], name)}{beside}"] for name in names]
    return log([], (), agents=names, models=None, rewards=[], messages=[[*shown, ["n0", "Environment", 'said: "Hi."']]])


def said(text: str, name: str = ANN) -> dict[str, Any]:
    """A log in which somebody says one thing."""
    shown = [["Environment", one, opening([name, SAM], one)] for one in (name, SAM)]
    return log([], agents=["a", "b"], messages=[[*shown, [name, "Environment", text]]])


TURNS = [{"turn": i, "agent": "Ann Lee", "text": "Hi."} for i in range(60_000)]
REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "recipients of endless brackets": (
        lambda: said("[private to ['x" + "]]" * 300_000),
        "turn 0: the recipients of",
    ),
    "20,000 agents of a log": (lambda: crowd(20_000), "it has 20,000 agents, more than 1,000."),
    "one of 60,000 turns twice": (
        lambda: {**PLAIN, "turns": [*TURNS, TURNS[-1]]},
        "agent a acts twice at turn 59999.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_seconds_of_work(case: str, tmp_path: Path):
    record, reason = REFUSED[case]
    (failure,) = read_in_time(lines(tmp_path / "a.jsonl", record()))
    assert isinstance(failure, Failure)
    assert failure.reason.startswith(reason)


READ: dict[str, Callable[[], dict[str, Any]]] = {
    "a name of 200,000 words": lambda: said('said: "Hi."', "a " * 200_000),
    "1,000 agents who are shown 5 MB": lambda: crowd(1_000, "x" * 5_000),
    "a thing that is said to 100,000 people": lambda: said(f'[private to {[SAM] * 100_000}] said: "Hi."'),
}


@pytest.mark.parametrize("case", READ)
def test_what_can_be_read_is_read_in_seconds_of_work(case: str, tmp_path: Path):
    episode, *_ = read_in_time(lines(tmp_path / "a.jsonl", READ[case]()))
    assert isinstance(episode, Episode), episode
    assert [turn.text for turn in episode.turns] == ["Hi."]


def test_a_table_of_30_000_speakers_in_one_conversation_is_refused_in_seconds_of_work(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("conversation,speaker,text\n" + "".join(f"c,s{i},Hi.\n" for i in range(30_000)))
    (failure,) = read_in_time(path)
    assert failure.reason == "it has 30,000 agents, more than 1,000."


def test_a_time_of_hours_without_end_gives_rows_no_order(tmp_path: Path):
    path = tmp_path / "a.csv"
    rows = [f"c,Ann,{i},2024-{'12:' * 60_000}{9 - i}\n" for i in range(2)]
    path.write_text("conversation,speaker,text,time\n" + "".join(rows))
    (episode,) = read_in_time(path)
    assert [turn.text for turn in episode.turns] == ["0", "1"]
