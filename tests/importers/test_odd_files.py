"""The same dialogue as people have it: laid out, packed, spelled and timed in odd ways, and never taken for another."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fixtures.formats import ROWS, SAID, csv_text
from fixtures.records import failures, only

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers import plan, read
from sotopia_rl_data.schema import Episode

ASK, ANSWER = {"role": "user", "content": "Is it open?"}, {"role": "assistant", "content": "Until six."}
BARE = [ASK, ANSWER]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
TWO = [("user", "Is it open?"), ("assistant", "Until six.")]


def said(episode: Episode) -> list[tuple[str, str]]:
    return [(turn.agent, turn.text) for turn in episode.turns]


def written(folder: Path, name: str, value: Any) -> Path:
    path = folder / name
    data = value if isinstance(value, (str, bytes)) else json.dumps(value)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# Tables


TABLE = csv_text(ROWS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("bars.csv", csv_text(ROWS, "|").encode()),
        ("separator.csv", b"sep=;\n" + csv_text(ROWS, ";").encode()),
        ("table.txt", TABLE.encode()),
        ("no_ending", TABLE.encode()),
        ("packed.csv.bz2", bz2.compress(TABLE.encode())),
        ("packed.csv.xz", lzma.compress(TABLE.encode())),
        ("wide.csv", TABLE.encode("utf-32")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_is_the_same_however_it_is_written(tmp_path, name, data):
    assert only(written(tmp_path, name, data)) == only(written(tmp_path, "a.csv", TABLE))


def test_the_numbers_of_rows_in_a_column_without_a_name_are_not_data(tmp_path):
    indexed = [{"": i, "Unnamed: 0": i} | row for i, row in enumerate(ROWS)]
    assert only(written(tmp_path, "a.csv", csv_text(indexed))) == only(written(tmp_path, "b.csv", csv_text(ROWS)))


def test_numbers_and_text_in_a_column_without_a_name_are_data_where_it_does_not_number_the_rows(tmp_path):
    named = [{"": f"r{i}" if i == 0 else str(i)} | row | {"Unnamed: 9": str(i)} for i, row in enumerate(ROWS)]
    episode = only(written(tmp_path, "a.csv", csv_text(named)))
    kept = [json.loads(turn.meta or "{}") for turn in episode.turns]
    assert [(meta[""], meta["unnamed:_9"]) for meta in kept] == [("r0", "0"), *((str(i), str(i)) for i in (1, 2, 3))]


def test_an_empty_cell_in_the_first_row_costs_that_row_and_not_the_format(tmp_path):
    path = written(tmp_path, "a.csv", csv_text([ROWS[0] | {"text": ""}, *ROWS[1:]]))
    assert [(one.source, one.reason) for one in failures(path)] == [("a.csv:2", "`text` is empty or missing.")]
    assert said(next(one for one in read([path]) if isinstance(one, Episode))) == SAID[1:]


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (["2", "10", "9", "100"], [0, 2, 1, 3]),  # text, as all cells of a CSV are
        (["2024-01-01 09:59", "2024-01-01T10:01", "2024-01-01 10:00:30", "2024-02-01"], [0, 2, 1, 3]),
        (["2024-01-01T10:00Z", "2024-01-01T10:30+01:00", "2024-01-01T10:10Z", "2024-01-02T00:00Z"], [1, 0, 2, 3]),
        (["2024/01/01 09:59", "2024/01/03 09:00", "2024/01/02 09:00", "2024/11/01 09:00"], [0, 2, 1, 3]),
        ([f"2024-01-01 {at} PM" for at in ("12:30", "01:15", "02:10", "03:00")], [0, 1, 2, 3]),  # 12 is before 1
        ([f"2024-01-01 {at} PM" for at in ("04:30", "01:15", "02:10", "03:00")], [1, 2, 3, 0]),
        (["1/9/2024", "1/10/2024", "1/11/2024", "1/12/2024"], [0, 1, 2, 3]),  # a day first, or a month?
        (["9:59", "10:01", "10:00", "23:00"], [0, 1, 2, 3]),  # of which day?
        (["2024-01-01T10:00:00Z", "2024-01-01T10:00:00", "2024-01-01", "2023-01-01"], [0, 1, 2, 3]),  # in which zone?
    ],
)
def test_times_order_rows_only_where_their_order_is_known_and_are_kept(tmp_path, times, order):
    rows = [{"created_at": time} | row for time, row in zip(times, ROWS, strict=True)]
    for row in rows:
        del row["turn"]
    episode = only(written(tmp_path, "a.csv", csv_text(rows)))
    assert said(episode) == [SAID[i] for i in order]
    assert [json.loads(turn.meta or "{}")["created_at"] for turn in episode.turns] == [times[i] for i in order]


# What is packed


@pytest.mark.parametrize("packing", ["gzip", "zstd", "bzip2", "xz"])
def test_what_unpacks_without_end_is_a_failure_after_the_records_before_it(tmp_path, packing):
    lines, endless = (json.dumps({"messages": BARE}).encode() + b"\n") * 20, b"\n" * 20_000_000
    *episodes, failure = read([written(tmp_path, "a.jsonl.gz", PACK[packing](lines + endless))])
    assert [said(one) for one in episodes] == [TWO] * 20
    assert failure.source == "a.jsonl.gz:1"
    assert failure.reason == f"its {packing} packing unpacks to more than 1,000 times its size."
    with pytest.raises(InputError, match="unpacks to more than 1,000 times its size"):
        read([written(tmp_path, "b.jsonl.gz", PACK[packing](b"[1]" + endless))])


@pytest.mark.parametrize("packing", ["gzip", "zstd", "bzip2", "xz"])
def test_equal_rows_of_a_megabyte_are_read_whole_however_well_they_pack(tmp_path, packing):
    lines = (json.dumps({"messages": BARE}).encode() + b"\n") * 8_000
    assert 800_000 < len(lines) < 1 << 20
    path = written(tmp_path, "a.jsonl.gz", PACK[packing](lines))
    assert sum(1 for one in read([path]) if isinstance(one, Episode)) == 8_000


# Documents


@pytest.mark.parametrize(
    ("name", "value", "ids"),
    [
        ("one.json", BARE, None),
        ("several.json", [BARE, BARE], None),
        ("a_line_each.jsonl", f"{json.dumps(BARE)}\n{json.dumps(BARE)}\n", None),
        ("keyed.json", {"c1": BARE, "c2": BARE}, ["c1", "c2"]),
        ("called_lines.jsonl", [{"messages": BARE}, {"messages": BARE}], None),
        ("called_lines_too.jsonl", json.dumps({"messages": BARE}, indent=1), None),
        ("after_each_other.json", json.dumps({"messages": BARE}, indent=1) * 2, None),
        ("columns.json", {"id": ["a", "b"], "messages": [BARE, BARE]}, ["a", "b"]),
        ("columns_of_pandas.json", {"id": {"0": "a", "1": "b"}, "messages": {"0": BARE, "1": BARE}}, ["a", "b"]),
        ("of_datasets.jsonl", {"messages": {key: [one[key] for one in BARE] for key in ASK}}, None),
        ("spelled.json", [{"Messages": [{"Role": "user", "Content": ASK["content"]}, ANSWER]}], None),
    ],
)
def test_chats_are_read_wherever_they_lie_in_a_document(tmp_path, name, value, ids):
    episodes = list(read([written(tmp_path, name, value)]))
    assert [said(one) for one in episodes if isinstance(one, Episode)] == [TWO] * len(episodes)
    assert ids is None or [one.episode_id for one in episodes if isinstance(one, Episode)] == ids


@pytest.mark.parametrize(
    "more", [{"rewards": [1, 2]}, {"agents": ["x"]}, {"environment": "test"}, {"input": "i", "output": "o"}]
)
def test_a_chat_that_has_keys_of_another_format_too_is_a_chat(tmp_path, more):
    episode = only(written(tmp_path, "a.json", {"messages": BARE} | more))
    assert (said(episode), json.loads(episode.meta or "")) == (TWO, more)


@pytest.mark.slow
def test_an_object_of_columns_that_is_too_large_says_so_and_what_to_do(tmp_path):
    rows = [row | {"text": "x" * 1_000_000} for row in ROWS for _ in range(2)]
    for name, columns in (
        ("lists.json", {key: [row[key] for row in rows] for key in ROWS[0]}),
        ("of_pandas.json", {key: {str(i): row[key] for i, row in enumerate(rows)} for key in ROWS[0]}),
    ):
        with pytest.raises(InputError, match="it is an object of columns longer than 4,194,304 bytes") as told:
            list(read([written(tmp_path, name, columns)]))
        assert told.value.hint == "save its rows as JSON Lines, CSV or Parquet"


def test_columns_of_utterances_are_a_table_and_a_record_with_lists_of_one_length_is_a_record(tmp_path):
    columns = {key: [row[key] for row in ROWS] for key in ROWS[0]}
    assert said(only(written(tmp_path, "a.json", columns))) == SAID
    chat = {"messages": BARE, "tools": [{"name": "a"}, {"name": "b"}]}
    assert said(only(written(tmp_path, "b.json", chat))) == TWO


# Tools


def test_what_calls_a_tool_is_the_assistants_action_in_every_spelling(tmp_path):
    call = {"name": "look_up", "arguments": '{"day": 1}'}
    part = {"type": "tool_use", "name": "look_up", "input": {"day": 1}}
    chats: list[Any] = [
        {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [{"function": call}]}, ANSWER]},
        {"messages": [ASK, {"role": "assistant", "content": None, "function_call": call}, ANSWER]},
        {
            "messages": [
                ASK,
                {"role": "assistant", "content": [part]},
                ANSWER,
            ]
        },
    ]
    for i, chat in enumerate(chats):
        turns = only(written(tmp_path, f"{i}.json", chat)).turns
        assert (turns[1].agent, turns[1].action_type, turns[1].text) == ("assistant", "action", 'look_up({"day": 1})')
    sharegpt = [
        {"from": "human", "value": "Is it open?"},
        {"from": "function_call", "value": "look_up(1)"},
        {"from": "observation", "value": "6"},
        {"from": "gpt", "value": "Until six."},
    ]
    turns = only(written(tmp_path, "s.json", [{"conversations": sharegpt}])).turns
    assert [(turn.agent, turn.action_type) for turn in turns] == [
        ("human", "speak"),
        ("gpt", "action"),
        ("observation", "speak"),
        ("gpt", "speak"),
    ]


def test_what_a_tool_answered_in_a_users_message_is_said_by_the_tool(tmp_path):
    answer = {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "6"}]}]}
    chat = only(written(tmp_path, "a.json", {"messages": [ASK, answer, ANSWER]}))
    assert said(chat) == [TWO[0], ("tool", "6"), TWO[1]]


def test_a_picture_costs_its_chat_and_lists_it(tmp_path):
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    path = written(tmp_path, "a.jsonl", "".join(json.dumps({"messages": m}) + "\n" for m in ([picture, ANSWER], BARE)))
    assert [one.reason for one in failures(path)] == ["messages[0] holds something other than text."]
    assert plan([path]).sources[0].kind == "chat"
