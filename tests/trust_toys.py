"""Toys of the trust tests: versions whose opinions, dialogues and rewards are given number by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sotopia_rl_data.schema import Agent, Episode, Score, Turn
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.tables import ATTRIBUTIONS, EPISODES, episode_row, rewards_schema

Said = tuple[str, str, int, str, str, float]
"""(episode, agent, turn, dimension, judge, raw)."""


def label_row(
    episode: str,
    agent: str,
    turn: int,
    dimension: str,
    judge: str,
    raw: float,
    *,
    sample: int = 0,
    schema: str = "direct",
    scale: float = 3,
) -> dict[str, Any]:
    return {
        "episode_id": episode,
        "agent": agent,
        "turn": turn,
        "dimension": dimension,
        "schema": schema,
        "measure": "importance",
        "judge": judge,
        "sample": sample,
        "raw": float(raw),
        "scale_min": 0.0,
        "scale_max": float(scale),
        "call_id": "c",
    }


def labelled(store: Store, rows: Iterable[Mapping[str, Any]], name: str = "lab/labels", splits: int = 1) -> Version:
    """A version with these attributions, its episodes dealt out to `splits` splits."""
    by_split: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        split = ("train", "validation", "test")[sum(row["episode_id"].encode()) % splits]
        by_split.setdefault(split, []).append(row)
    with store.stage(name) as stage:
        for split, some in by_split.items():
            stage.write("attributions", split, pa.Table.from_pylist(list(some), schema=ATTRIBUTIONS))
        if not by_split:
            stage.write("attributions", "train", ATTRIBUTIONS.empty_table())
        return stage.commit({"kind": "toy"}).version


def judged(
    store: Store,
    values: Mapping[str, np.ndarray],
    *,
    episodes: int,
    dimensions: Sequence[str] = ("goal",),
    name: str = "lab/labels",
    splits: int = 1,
    **how: Any,
) -> Version:
    """A version of one row a judge and unit: `values[judge]` (units,), NaN missing; units run through the episodes, the
    turns and then the dimensions."""
    units = len(next(iter(values.values())))
    turns = units // episodes // len(dimensions)
    rows = []
    for judge, raws in values.items():
        for unit, raw in enumerate(raws):
            if raw == raw:
                rest, d = divmod(unit, len(dimensions))
                episode, turn = divmod(rest, turns)
                rows.append(label_row(f"e{episode:04}", "ab"[turn % 2], turn, dimensions[d], judge, raw, **how))
    return labelled(store, rows, name, splits)


def two_party(i: int, turns: int = 6, text: str = "", environment: str = "") -> Episode:
    """An episode of two, with scores on two dimensions."""
    said = tuple(Turn(t, "ab"[t % 2], "speak", text or f"turn {t} of episode {i}") for t in range(turns))
    scores = tuple(Score(a, d, 5.0, "gpt-4") for a in "ab" for d in ("relationship", "goal"))
    agents = (Agent("a", "Finnegan O'Malley", goal="sell"), Agent("b", "Ana-María Núñez", goal="buy"))
    return Episode(f"e{i:04}", environment or f"env{i % 4}", agents, said, scores, scenario=f"A market, day {i % 4}.")


def rewarded(
    store: Store, episodes: Sequence[Episode], rewards: Mapping[str, float | None] | None = None, name: str = "lab/toy"
) -> Version:
    """A version with episodes, attributions by two judges and rewards drawn from a seed; `rewards` overrides some by
    episode_id."""
    rng = np.random.default_rng(0)
    dimensions = ("relationship", "goal")
    labels, rows = [], []
    for one in episodes:
        for turn in one.turns:
            levels = {d: rng.integers(0, 4, 2) for d in dimensions}
            norms = {d: float(np.mean(levels[d]) / 3) for d in dimensions}
            labels += [
                label_row(one.episode_id, turn.agent, turn.turn, d, judge, levels[d][j])
                for d in dimensions
                for j, judge in enumerate(("ann", "bob"))
            ]
            reward = (rewards or {}).get(one.episode_id, sum(norms.values()) / 2)
            rows.append(
                {
                    "episode_id": one.episode_id,
                    "environment_id": one.environment_id,
                    "agent": turn.agent,
                    "turn": turn.turn,
                    "prompt": [{"role": "user", "content": "…"}],
                    "completion": [{"role": "assistant", "content": turn.text}],
                    "reward": reward,
                    **{f"raw_{d}": 5 * norms[d] for d in dimensions},
                    **{f"norm_{d}": norms[d] for d in dimensions},
                    "n_opinions": 2,
                    "spread": float(abs(levels["goal"][0] - levels["goal"][1]) / 3),
                }
            )
    with store.stage(name) as stage:
        stage.write("episodes", "train", pa.Table.from_pylist([episode_row(e) for e in episodes], schema=EPISODES))
        stage.write("attributions", "train", pa.Table.from_pylist(labels, schema=ATTRIBUTIONS))
        stage.write("rewards", "train", pa.Table.from_pylist(rows, schema=rewards_schema(dimensions)))
        return stage.commit({"kind": "toy", "schema": "direct", "scale": 3}).version
