"""Toys of the store's tests: tiny episodes and rewards, and one call that commits them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from sotopia_rl_data.schema import Agent, Episode, Failure, Score, Turn
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.stage import Committed
from sotopia_rl_data.tables import EPISODES, episode_row, failure_table, rewards_schema

REPOSITORY = Path(__file__).parents[1]


def episode(i: int) -> Episode:
    """Two Sams and what they said."""
    return Episode(
        f"e{i:04}",
        f"env{i % 3}",
        (Agent("a", "Sam O'Malley"), Agent("b", "Sam Núñez", goal="leave")),
        (Turn(0, "a", "speak", f'"hi" {i}'), Turn(1, "b", "none", failed=False), Turn(2, "a", "leave", to=("b",))),
        (Score("a", "goal", 7.0, "judge"),),
        models=("judge", "m1", "m2"),
    )


def episodes(*ids: int) -> pa.Table:
    return pa.Table.from_pylist([episode_row(episode(i)) for i in ids], schema=EPISODES)


def reward_row(i: int, reward: float | None = 0.5, turn: int = 0) -> dict[str, Any]:
    return {
        "episode_id": f"e{i:04}",
        "environment_id": f"env{i % 3}",
        "agent": "a",
        "turn": turn,
        "prompt": [{"role": "user", "content": f"prompt {i}"}],
        "completion": [{"role": "assistant", "content": "hello"}],
        "reward": reward,
        "raw_goal": 2.0,
        "norm_goal": reward,
        "n_opinions": 1,
        "spread": None,
    }


def rewards(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=rewards_schema(["goal"]))


def failures(*reasons: str) -> pa.Table:
    return failure_table([Failure(reason, episode_id="e0001") for reason in reasons])


def commit(
    store: Store,
    tables: Mapping[tuple[str, str], pa.Table],
    name: str = "org/toy",
    version: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Committed:
    """Stage `tables[config, split]` and commit them."""
    with store.stage(name) as stage:
        for (config, split), table in tables.items():
            stage.write(config, split, table)
        return stage.commit({"scale": 3} if recipe is None else recipe, version=version)


def python(code: str, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """A child of this interpreter that sees the repository and its tests."""
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests")))
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": paths} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def peak_mb() -> int:
    """The most memory that this process held. (`ru_maxrss` survives exec: a child would answer for its parent.)"""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) // 1024
