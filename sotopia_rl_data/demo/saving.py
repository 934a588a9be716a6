"""A talk as data: its episode with the scores, and each utterance's prompt, completion and reward, in a dataset's next
version, beside the talks that were saved before.

Nothing is normalised, since nothing is fitted: `norm_<dimension>` is what the page showed, as `raw_<dimension>` is. A
reward that is not known is NULL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sotopia_rl_data.code import code
from sotopia_rl_data.demo.session import DemoSession, TurnReward
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.prompts import Layout, layout_id, prompts_of
from sotopia_rl_data.schema import Episode, split_of
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.parts import read_parquet
from sotopia_rl_data.tables import EPISODES_WITH_META, episode_table, rewards_schema

_SEED = 0
_NOTHING = TurnReward(None, {})


def save(store: Store, name: str, session: DemoSession, layout: Layout = "single") -> Version:
    """Add the session's dialogue to the dataset `name`; returns its new version, or the one that has it already.

    Raises UsageError where nothing was said, or where `name` is a dataset that this did not make; StoreError. The store
    is then unchanged.
    """
    episode = replace(session.episode, meta=json.dumps({"rewarded_by": session.source or None}))
    if not episode.turns:
        raise UsageError("Nothing was said yet, so there is nothing to save.", "say something first")
    before = store.latest(name)
    recipe = {"kind": "talks", "seed": _SEED, "prompts": layout_id(layout)}
    if before is not None and before.manifest.recipe != recipe:
        raise UsageError(f"{name} is a dataset of something else than talks.", "start the demo with another --out")
    split = split_of(episode.environment_id, _SEED)
    rows = {config: _rows(before, config, episode.episode_id) for config in ("episodes", "rewards")}
    rows["episodes"].setdefault(split, []).append(episode_table([episode], EPISODES_WITH_META))
    rows["rewards"].setdefault(split, []).append(_rewards(episode, session.rewards, layout))
    columns = _columns([table for tables in rows["rewards"].values() for table in tables])
    with store.stage(name) as stage:
        for config, by_split in rows.items():
            for one, tables in by_split.items():
                for table in tables:
                    stage.write(config, one, table if config == "episodes" else _with_columns(table, columns))
        counts = {config: sum(len(t) for tables in of.values() for t in tables) for config, of in rows.items()}
        return stage.commit(recipe, {"command": "demo", "counts": counts, "code": code()}).version


def _rows(version: Version | None, config: str, without: str) -> dict[str, list[pa.Table]]:
    """The rows that were saved before, by split, but those of one episode, which is saved again."""
    if version is None:
        return {}
    found: dict[str, list[pa.Table]] = {}
    for split, paths in version.files(config).items():
        tables = [table for path in paths for table in read_parquet(path)]
        found[split] = [table.filter(pc.not_equal(table["episode_id"], without)) for table in tables]
    return found


def _rewards(episode: Episode, rewards: Mapping[tuple[int, str], TurnReward], layout: Layout) -> pa.Table:
    """A row of `rewards` for each utterance."""
    dimensions = list(dict.fromkeys(name for one in rewards.values() for name in one.parts))
    rows = []
    for agent, turn, prompt, completion in prompts_of(episode, layout):
        found = rewards.get((turn, agent), _NOTHING)
        row: dict[str, Any] = {
            "episode_id": episode.episode_id,
            "environment_id": episode.environment_id,
            "agent": agent,
            "turn": turn,
            "prompt": prompt,
            "completion": completion,
            "reward": found.reward,
            "n_opinions": 0 if found.reward is None else 1,
        }
        parts = {f"{kind}_{name}": value for name, value in found.parts.items() for kind in ("raw", "norm")}
        rows.append(row | parts)
    return pa.Table.from_pylist(rows, schema=rewards_schema(dimensions))


def _columns(tables: list[pa.Table]) -> pa.Schema:
    """The columns of all: talks that were rewarded by others have other dimensions."""
    names = dict.fromkeys(name for table in tables for name in table.schema.names if name.startswith("raw_"))
    return rewards_schema([name.removeprefix("raw_") for name in names])


def _with_columns(table: pa.Table, columns: pa.Schema) -> pa.Table:
    have = set(table.schema.names)
    arrays = [table[one.name] if one.name in have else pa.nulls(len(table), one.type) for one in columns]
    return pa.table(dict(zip(columns.names, arrays, strict=True)), schema=columns)
