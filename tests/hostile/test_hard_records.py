"""Small files whose import took minutes: each record is read in time that grows with its length, whoever wrote it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.records import ANN, PLAIN, SAM, lines, log, opening

from sotopia_rl_data import open_dataset
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers import plan, read
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


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("options", [(), ("--pseudonymise",)])
def test_what_a_chat_says_beside_is_kept_up_to_256_levels_deep_and_beyond_it_is_a_failure(
    begin: str, end: str, options: tuple[str, ...], tmp_path: Path
):
    path, store = tmp_path / "a.jsonl", ("--store", str(tmp_path / "store"))
    messages = json.dumps([{"role": role, "content": "Hi."} for role in ("user", "assistant")])
    deep = [f"{begin * depth}1e999{end * depth}" for depth in (255, 256, 800)]  # the record itself is a level
    path.write_text("".join(f'{{"id": "c{i}", "messages": {messages}, "m": {one}}}\n' for i, one in enumerate(deep)))
    done = CliRunner().invoke(cli, ["import", str(path), "--name", "lab/e", *store, *options])
    assert done.exit_code == 3, done.exception  # some records failed
    data = open_dataset("lab/e", tmp_path / "store")
    kept = begin.replace(":", ": ") * 255 + "null" + end * 255
    assert data.sql("SELECT meta FROM episodes").to_pylist() == [{"meta": f'{{"m": {kept}}}'}]
    failed = data.sql("SELECT source, reason FROM failures ORDER BY source").to_pylist()
    assert [one["source"] for one in failed] == ["a.jsonl:2", "a.jsonl:3"]
    hidden = "it cannot be read; the reason, which may name people, is shown without --pseudonymise"
    assert {one["reason"] for one in failed} == {hidden if options else "nested too deeply."}


def test_a_folder_of_folders_more_than_64_deep_is_refused_with_a_sentence(tmp_path: Path):
    for count in (64, 65):
        inner = tmp_path.joinpath(str(count), *"a" * count)
        inner.mkdir(parents=True)
        lines(inner / "a.jsonl", PLAIN)
    (episode,) = read([tmp_path / "64"])
    assert isinstance(episode, Episode)
    with pytest.raises(InputError, match=r"65 has folders more than 64 deep\.") as refused:
        plan([tmp_path / "65"])
    assert refused.value.hint == "name the folder that has the files"


def test_the_names_of_1_000_people_are_found_in_2_mb_in_seconds_of_work(tmp_path: Path):
    people = [f"Agent s{i}" for i in range(1_000)]
    said = "agent s7 said, he said, " * 80_000
    turns = [{"agent": people[7], "text": "Hi."}, {"agent": people[0], "text": said}]
    record = {**PLAIN, "agents": [{"name": name} for name in people], "turns": turns, "scores": []}
    path, store = lines(tmp_path / "a.jsonl", record), ("--store", str(tmp_path / "store"))
    before = time.process_time()
    done = CliRunner().invoke(cli, ["import", str(path), "--name", "lab/e", "--pseudonymise", *store])
    took = time.process_time() - before
    assert done.exit_code == 0, done.exception
    (episode,) = open_dataset("lab/e", tmp_path / "store").episodes()
    assert episode.turns[1].text == said.replace("agent s7", episode.turns[0].agent)
    assert took < 2 * MOST_SECONDS, f"{took:.1f} s"
