"""The numbers of a version, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures.stores import commit, episodes, failures, reward_row, rewards

from sotopia_rl_data.stats import Distribution, stats
from sotopia_rl_data.store import Store


def test_counts_and_distributions(tmp_path: Path) -> None:
    tables = {
        ("rewards", "train"): rewards(*(reward_row(i, r) for i, r in enumerate((0.0, 0.25, 0.5, 1.0, None)))),
        ("rewards", "test"): rewards(reward_row(7, 0.75)),
        ("episodes", "train"): episodes(0, 1, 4),
        ("failures", "train"): failures("out of range", "refused", "out of range"),
    }
    found = stats(commit(Store(tmp_path), tables).version)
    assert found.rows == {"rewards": {"train": 5, "test": 1}, "episodes": {"train": 3}, "failures": {"train": 3}}
    assert list(found.columns) == ["reward", "raw_goal", "norm_goal", "spread"]
    train = found.columns["reward"]["train"]
    assert (train.count, train.nulls, train.mean, train.min, train.max) == (4, 1, 0.4375, 0.0, 1.0)
    assert (train.q25, train.median, train.q75) == (0.1875, 0.375, 0.625)
    assert train.sd == pytest.approx(0.426956, abs=1e-6)  # sample standard deviation
    assert found.columns["reward"]["all"].count == 5
    assert found.columns["reward"]["test"] == Distribution(1, 0, 0.75, None, 0.75, 0.75, 0.75, 0.75, 0.75)
    assert found.columns["spread"]["all"] == Distribution(0, 6, *[None] * 7)
    assert found.opinions == {1: 6}
    assert found.failures == {"out of range": 2, "refused": 1}
    assert found.episodes == {"episodes": 3, "environments": 2, "agents": 6, "utterances": 9, "scores": 3}
    assert json.loads(json.dumps(found.as_dict()))["columns"]["reward"]["train"]["median"] == 0.375


def test_what_a_version_does_not_have_is_empty(tmp_path: Path) -> None:
    found = stats(commit(Store(tmp_path), {("failures", "train"): failures()}).version)
    assert (found.columns, found.opinions, found.failures, found.episodes) == ({}, {}, {}, {})
