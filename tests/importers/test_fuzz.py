"""Thousands of damaged records: each becomes an item or a Failure, and never a traceback."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fixtures.damage import damaged, line
from fixtures.records import ANN, PLAIN, SAM, TALK, export, log, row, table

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers import TrainingRow, read
from sotopia_rl_data.schema import Attribution, Episode, Failure
from sotopia_rl_data.tables import EPISODES_WITH_META, attribution_table, episode_row, failure_table, row_episode

PRIVATE = [{ANN: ' said: "a"'}, {SAM: f"[private to ['{ANN}']]  said: \"b\""}, {}, {SAM: " left the conversation"}]
LABELS = {
    f"Utterance 0 by {ANN}": ['said: "a"', {"reward": 4.0, "attribution": 2}],
    f"Utterance 0 by {SAM}": ["[action] b", 0],
}
SEEDS: list[dict[str, Any]] = [
    log(TALK),
    log(PRIVATE, agent_classes=[]),
    export(TALK),
    {k: str(v) if isinstance(v, (list, dict)) else v for k, v in export(PRIVATE).items()},
    PLAIN | {"observations": [{"turn": 0, "agent": "a", "text": "x"}], "models": ["m", "n"]},
    row(ANN, LABELS, True),
    {"input": "Scenario: s\nParticipants: p", "output": "o", "value": 1.0},
    {"instruction": "i", "input": "", "output": "o", "history": [["a", "b"]], "system": "s"},
    {"key": ":x.EpisodeLog:E9", "value": json.dumps({k: v for k, v in log(TALK).items() if k != "pk"})},
]


def checked(paths: list[Path]) -> Counter[str]:
    """Read `paths`; every item can be stored, and comes back as it was."""
    counts: Counter[str] = Counter()
    episodes: list[Episode] = []
    for item in read(paths):
        counts[type(item).__name__] += 1
        if isinstance(item, Episode):
            episodes.append(item)
        elif isinstance(item, Failure):
            assert item.reason
            assert len(item.record or "") <= 10_000
            failure_table([item])
        elif isinstance(item, Attribution):
            assert item.scale_min <= item.raw <= item.scale_max
            attribution_table([item])
        else:
            assert isinstance(item, TrainingRow)
            pa.array([item.completion, *[m["content"] for m in item.prompt]], pa.string())
            pa.array([item.reward], pa.float64())
    stored = pa.Table.from_pylist([episode_row(e) for e in episodes], schema=EPISODES_WITH_META)
    assert [row_episode(r) for r in stored.to_pylist()] == episodes
    for episode in episodes:
        ids = [a.agent for a in episode.agents]
        assert len(set(ids)) == len(ids)
        assert {t.agent for t in episode.turns} <= set(ids)
        assert len({(t.agent, t.turn) for t in episode.turns}) == len(episode.turns)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("records", [10_000, pytest.param(200_000, marks=pytest.mark.long)])
def test_damaged_records_give_items_and_failures_and_no_traceback(records, tmp_path):
    rng = random.Random(20261123)
    total: Counter[str] = Counter()
    for i, seed in enumerate(SEEDS):
        count = records // len(SEEDS) + 1
        good = json.dumps(seed).encode()
        path = tmp_path / f"{i}.jsonl"
        path.write_bytes(b"\n".join([good, *(line(damaged(seed, rng), rng) for _ in range(count)), good]))
        total += checked([path])
    assert sum(total.values()) >= records
    assert total["Failure"] > records / 5
    assert total["Episode"] > records / 10
    assert total["TrainingRow"] > records * 0.03


@pytest.mark.slow
def test_damaged_documents_and_tables_give_items_and_failures_or_one_sentence(tmp_path):
    rng = random.Random(7)
    seen: Counter[str] = Counter()
    refused: list[InputError] = []
    for i in range(400):
        seed = rng.choice(SEEDS)
        value: Any = [damaged(seed, rng) for _ in range(3)]
        if rng.random() < 0.4:
            value = {f":x.EpisodeLog:{n}": v for n, v in enumerate(value)}
        path = tmp_path / f"{i}.json"
        if i % 4 == 3:
            table(path := tmp_path / f"{i}.csv", *[export(TALK) | {"tag": damaged({"t": 1}, rng)} for _ in range(2)])
            raw = bytearray(path.read_bytes())
            for _ in range(5):
                raw[rng.randrange(200, len(raw))] = rng.randrange(256)
            path.write_bytes(bytes(raw))
        else:
            path.write_bytes(
                line(value, rng)
                if rng.random() < 0.7
                else json.dumps([seed, *value] if isinstance(value, list) else value).encode()
            )
        try:
            seen += checked([path])
        except InputError as error:
            refused.append(error)
    assert min(seen["Episode"], seen["Failure"], len(refused)) > 20
    assert all(error.message and error.hint for error in refused)
