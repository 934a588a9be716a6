"""Rows in = rows kept + rows listed: for every format, however its records are damaged and wherever they lie."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.damage import damaged, line
from fixtures.formats import (
    CHAT,
    COMPLETION,
    CORPUS_ROWS,
    PREFERENCE,
    ROWS,
    SHAREGPT,
    SIMULATION,
    csv_text,
)
from fixtures.records import ANN, PLAIN, SAM, TALK, export, log, row
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_rl_data import open_dataset
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers import TrainingRow, read
from sotopia_rl_data.importers.files import plan
from sotopia_rl_data.importers.formats import FORMATS, format_named
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.importers.reading import read_plan
from sotopia_rl_data.importers.record import json_value
from sotopia_rl_data.schema import Attribution, Episode, Failure
from sotopia_rl_data.store import Store

LABELS = {
    f"Utterance 0 by {ANN}": ['said: "a"', {"reward": 4.0, "attribution": 2}],
    f"Utterance 0 by {SAM}": ["[action] b", 0],
}
SEEDS: dict[str, list[dict[str, Any]]] = {
    "export": [export(TALK)],
    "annotated": [row(ANN, LABELS, True)],
    "episode-log": [log(TALK)],
    "plain": [PLAIN | {"meta": {"csat": 2}}],
    "simulation": [SIMULATION],
    "convokit": CORPUS_ROWS,
    "preference": [PREFERENCE],
    "completion": [COMPLETION],
    "training": [{"input": "Scenario: s", "output": "o", "value": 1.0}, {"instruction": "i", "output": "o"}],
    "utterances": ROWS,
    "chat": [CHAT, SHAREGPT],
}


def test_every_format_is_tried():
    assert [form.name for form in FORMATS] == list(SEEDS)


def kept_and_listed(items: Iterable[Any], form: str) -> int:
    """How many records the items account for."""
    kept = listed = 0.0
    for item in items:
        if isinstance(item, Failure):
            listed += item.episode_id is None  # a failure of a score or a label belongs to a record that is kept
        elif isinstance(item, Episode):
            kept += len(item.turns) if form in ("utterances", "convokit") else 1
        elif isinstance(item, TrainingRow):
            kept += 0.5 if form == "preference" else 1
        else:
            assert isinstance(item, Attribution)
    return int(kept + listed)


def records(form: str, count: int, rng: random.Random) -> list[Any]:
    """Damaged records of a format; those of annotated rows are of different episodes."""
    made = [damaged(rng.choice(SEEDS[form]), rng) for _ in range(count)]
    if form == "annotated":
        made = [one | {"episode_id": f"E{i}"} if isinstance(one, dict) else one for i, one in enumerate(made)]
    return made


def counted(path: Path, form: str) -> int:
    return kept_and_listed((item for item, _ in read_plan(plan([path], form=format_named(form)))), form)


@pytest.mark.slow
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("form", SEEDS)
def test_every_damaged_line_is_kept_or_listed(form, count, tmp_path):
    rng = random.Random(f"{form} {count}")
    good = json.dumps(SEEDS[form][0]).encode()
    damage = [line(record, rng) for record in records(form, count, rng)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good, *damage]))
    assert counted(tmp_path / "a.jsonl", form) == 1 + sum(1 for one in damage if one.strip())


@pytest.mark.slow
@pytest.mark.parametrize("form", SEEDS)
def test_every_damaged_element_of_a_list_and_row_of_a_table_is_kept_or_listed(form, tmp_path):
    rng = random.Random(f"{form} again")
    made = [SEEDS[form][0], *records(form, 200, rng)]
    (tmp_path / "a.json").write_text(json.dumps(made))
    assert counted(tmp_path / "a.json", form) == len(made)
    columns = {key: None for seed in SEEDS[form] for key in seed}
    cells = [
        columns | {k: v if isinstance(v, str) else json.dumps(v) for k, v in one.items() if k in columns}
        for one in made
        if isinstance(one, dict)
    ]
    (tmp_path / "a.csv").write_text(csv_text(cells), encoding="utf-8", errors="replace")
    assert counted(tmp_path / "a.csv", form) == len(cells)
    clean = json.loads(json.dumps(cells).encode("utf-8", "replace"))
    table = {key: [_utf8(cell[key]) for cell in clean] for key in columns}
    pq.write_table(
        pa.table({key: pa.array(values, pa.string()) for key, values in table.items()}), tmp_path / "a.parquet"
    )
    assert counted(tmp_path / "a.parquet", form) == len(cells)


def is_json(value: Any) -> bool:
    """Whether one value does not spoil a whole document."""
    try:
        return bool(json_value(json.dumps(value)))
    except InputError:
        return False


@pytest.mark.slow
def test_every_damaged_list_of_messages_and_row_of_columns_is_kept_or_listed(tmp_path):
    rng = random.Random(11)
    bare = [[damaged(one, rng) for one in SHAREGPT["conversations"]] for _ in range(300)]
    good = SHAREGPT["conversations"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (good, *bare)))
    assert counted(tmp_path / "a.jsonl", "chat") == 301
    made = [ROWS[0], *(one for one in records("utterances", 300, rng) if isinstance(one, dict) and is_json(one))]
    columns = {key: [one.get(key) for one in made] for key in ROWS[0]}
    (tmp_path / "b.json").write_text(json.dumps(columns))
    assert counted(tmp_path / "b.json", "utterances") == len(made)


def _utf8(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("form", SEEDS)
def test_whatever_a_record_says_it_is_kept_or_listed(form, data, tmp_path_factory):
    keys = st.sampled_from(sorted({key for group in format_named(form).keys for key in group}))
    made = data.draw(st.lists(st.dictionaries(keys | st.text(max_size=5), VALUES), min_size=1, max_size=5))
    made = [one | {"episode_id": f"E{i}"} for i, one in enumerate(made)] if form == "annotated" else made
    path = tmp_path_factory.mktemp("rows") / "a.json"
    path.write_text(json.dumps([SEEDS[form][0], *made]))
    assert counted(path, form) == 1 + len(made)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["chat", "utterances", "completion", "plain"])
def test_an_import_counts_every_row_it_keeps_or_lists(form, tmp_path):
    rng = random.Random(form)
    made = [SEEDS[form][0], *records(form, 200, rng)]
    (tmp_path / "a.json").write_text(json.dumps(made))
    items = list(read([tmp_path / "a.json"]))
    report = import_dataset(Store(tmp_path / "store"), [tmp_path / "a.json"], "o/n")
    rejected = [item for item in items if isinstance(item, Failure) and item.episode_id is None]
    asked = "SELECT count(*) FILTER (WHERE {0}), count(*) FILTER (WHERE NOT {0}) FROM failures WHERE episode_id IS NULL"
    found = open_dataset("o/n", Store(tmp_path / "store")).sql(asked.format("reason LIKE '%was read before it.'"))
    twice, others = (column[0].as_py() for column in found.columns)
    assert others == len(rejected)
    if form == "completion":
        assert report.examples == len(items) - len(rejected)
    else:
        episodes = sum(isinstance(item, Episode) for item in items)
        assert report.episodes + report.duplicates + twice == episodes
