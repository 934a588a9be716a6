"""The nouns in Parquet: the Arrow schema and the sort keys of every config, and conversions from and to the nouns.

It is apart from `schema.py` so that the nouns import nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.schema import Agent, Attribution, Episode, Failure, Observation, Score, Turn

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

EPISODES = pa.schema(
    [
        ("episode_id", pa.string()),
        ("source", pa.string()),
        ("dialect", pa.string()),
        ("environment_id", pa.string()),
        ("codename", pa.string()),
        ("scenario", pa.string()),
        ("relationship", pa.string()),
        (
            "agents",
            pa.list_(pa.struct([(c, pa.string()) for c in ("agent", "name", "model", "goal", "background", "secret")])),
        ),
        (
            "turns",
            pa.list_(
                pa.struct(
                    [
                        ("turn", pa.int32()),
                        ("agent", pa.string()),
                        ("action_type", pa.string()),
                        ("text", pa.string()),
                        ("to", pa.list_(pa.string())),
                        ("failed", pa.bool_()),
                    ]
                )
            ),
        ),
        (
            "scores",
            pa.list_(
                pa.struct(
                    [
                        ("agent", pa.string()),
                        ("dimension", pa.string()),
                        ("score", pa.float64()),
                        ("evaluator", pa.string()),
                    ]
                )
            ),
        ),
        ("models", pa.list_(pa.string())),
        ("tag", pa.string()),
        ("reasoning", pa.string()),
        (
            "observations",
            pa.list_(pa.struct([("turn", pa.int32()), ("agent", pa.string()), ("text", pa.string())])),
        ),
    ]
)


def _with_meta(schema: pa.Schema) -> pa.Schema:
    """The columns of `episodes` with `meta` for an episode, its agents and its turns, and ranges for its scores."""
    for name in ("agents", "turns"):
        fields = [*schema.field(name).type.value_type, pa.field("meta", pa.string())]
        schema = schema.set(schema.get_field_index(name), pa.field(name, pa.list_(pa.struct(fields))))
    scores = [*schema.field("scores").type.value_type, ("low", pa.float64()), ("high", pa.float64())]
    schema = schema.set(schema.get_field_index("scores"), pa.field("scores", pa.list_(pa.struct(scores))))
    return schema.append(pa.field("meta", pa.string()))


EPISODES_WITH_META = _with_meta(EPISODES)
"""The columns of `episodes` where a source says more of its episodes, agents or utterances than these have room for, or
has scores on dimensions of its own."""

ATTRIBUTIONS = pa.schema(
    [
        ("episode_id", pa.string()),
        ("agent", pa.string()),
        ("turn", pa.int32()),
        ("dimension", pa.string()),
        ("schema", pa.string()),
        ("measure", pa.string()),
        ("judge", pa.string()),
        ("sample", pa.int32()),
        ("raw", pa.float64()),
        ("scale_min", pa.float64()),
        ("scale_max", pa.float64()),
        ("call_id", pa.string()),
        ("reasoning", pa.string()),
    ]
)

FAILURES = pa.schema(
    [
        ("episode_id", pa.string()),
        ("agent", pa.string()),
        ("turn", pa.int32()),
        ("dimension", pa.string()),
        ("judge", pa.string()),
        ("reason", pa.string()),
        ("call_id", pa.string()),
        ("source", pa.string()),
        ("record", pa.string()),
    ]
)

TRUTH = pa.schema(
    [
        ("episode_id", pa.string()),
        ("environment_id", pa.string()),
        ("agent", pa.string()),
        ("turn", pa.int32()),
        ("move", pa.string()),
        ("wording", pa.string()),
        ("v", pa.float64()),
        ("q", pa.float64()),
        ("advantage", pa.float64()),
        ("v_true", pa.float64()),
        ("q_true", pa.float64()),
        ("advantage_true", pa.float64()),
        ("chance_true", pa.float64()),
        ("partner_v_true", pa.float64()),
        ("partner_advantage_true", pa.float64()),
        ("partner_chance_true", pa.float64()),
        ("shapley", pa.float64()),
        ("pivotal", pa.bool_()),
    ]
)
"""The columns of `truth`: the credit of each utterance of a known game, in points of its agent's score."""

KNOWN = {"episodes": EPISODES, "attributions": ATTRIBUTIONS, "failures": FAILURES, "truth": TRUTH}
"""The configs whose columns are the same in every dataset (but that `episodes` may have `meta`)."""

KEYS: dict[str, tuple[str, ...]] = {
    "episodes": ("episode_id",),
    "attributions": ("episode_id", "agent", "turn", "dimension", "schema", "measure", "judge", "sample"),
    "rewards": ("episode_id", "agent", "turn"),
    "trajectories": ("episode_id", "agent"),
    "truth": ("episode_id", "agent", "turn"),
    "failures": ("episode_id", "agent", "turn", "dimension", "judge", "source", "reason"),
}


def rewards_schema(dimensions: Sequence[str]) -> pa.Schema:
    """The columns of the `rewards` config for these dimensions (full names, in the recipe's order)."""
    columns: list[tuple[str, pa.DataType]] = [
        ("episode_id", pa.string()),
        ("environment_id", pa.string()),
        ("agent", pa.string()),
        ("turn", pa.int32()),
        ("prompt", MESSAGES),
        ("completion", MESSAGES),
        ("reward", pa.float64()),
    ]
    columns += [(f"raw_{d}", pa.float64()) for d in dimensions]
    columns += [(f"norm_{d}", pa.float64()) for d in dimensions]
    return pa.schema([*columns, ("n_opinions", pa.int32()), ("spread", pa.float64())])


def trajectories_schema(dimensions: Sequence[str]) -> pa.Schema:
    """The columns of the `trajectories` config for these dimensions.

    `turns`, `turn_rewards` and each list of `reward_components` have an item for each of the agent's actions, which are
    the last `len(turns)` assistant messages; a missing reward is NULL. `return` is the sum of `turn_rewards`, and NULL
    where one is missing.
    """
    numbers = pa.list_(pa.float64())
    columns: list[tuple[str, pa.DataType]] = [
        ("episode_id", pa.string()),
        ("environment_id", pa.string()),
        ("agent", pa.string()),
        ("messages", MESSAGES),
        ("turns", pa.list_(pa.int32())),
        ("turn_rewards", numbers),
    ]
    if dimensions:
        columns.append(("reward_components", pa.struct([(d, numbers) for d in dimensions])))
    return pa.schema([*columns, ("return", pa.float64())])


def episode_row(episode: Episode) -> dict[str, Any]:
    """An episode as a row of the `episodes` config."""
    return asdict(episode)


def episode_schema(files: Sequence[Path]) -> pa.Schema:
    """The columns of `episodes` in these files of one version, with `meta` or without."""
    import pyarrow.parquet as pq

    return EPISODES_WITH_META if files and "meta" in pq.read_schema(files[0]).names else EPISODES


def episode_table(episodes: Sequence[Episode], schema: pa.Schema = EPISODES) -> pa.Table:
    """Episodes as an Arrow table with the config's columns: as `episode_row`, but without a dict for every turn."""
    columns = {name: [getattr(e, name) for e in episodes] for name in schema.names}
    for name in _NESTED:
        values = attrgetter(*schema.field(name).type.value_type.names)
        columns[name] = [list(map(values, nested)) for nested in columns[name]]
    return pa.table(columns, schema=schema)


def has_meta(episode: Episode) -> bool:
    """Whether the episode, one of its agents or one of its turns has a `meta`, or a score has a range of its own."""
    metas = (episode.meta, *(agent.meta for agent in episode.agents), *(turn.meta for turn in episode.turns))
    return any(meta is not None for meta in metas) or any(score.low is not None for score in episode.scores)


def episode_to_ask_about(row: dict[str, Any]) -> Episode:
    """The Episode of a row, to make prompts of. Raises InputError where it is too long for that: such a row can only be
    in a version that was not imported or pulled, but copied into the store."""
    episode = row_episode(row)
    if episode.too_long:
        raise InputError(
            f"No prompts can be made of the episode {episode.episode_id!r}: {episode.too_long}",
            "divide the episode, and import what was made of it",
        )
    return episode


def row_episode(row: dict[str, Any]) -> Episode:
    """The Episode of a row of `episodes`: the inverse of `episode_row`."""
    fields = {name: row[name] for name in EPISODES.names if name not in _NESTED}
    return Episode(
        **fields | {"models": tuple(row["models"]), "meta": row.get("meta")},
        agents=tuple(Agent(**a) for a in row["agents"]),
        turns=tuple(Turn(**t | {"to": tuple(t["to"])}) for t in row["turns"]),
        scores=tuple(Score(**s) for s in row["scores"]),
        observations=tuple(Observation(**o) for o in row["observations"]),
    )


_NESTED = {"agents", "turns", "scores", "observations"}


def attribution_table(rows: Iterable[Attribution]) -> pa.Table:
    """Attributions as an Arrow table with the config's columns."""
    return _table(list(rows), ATTRIBUTIONS)


def failure_table(rows: Iterable[Failure]) -> pa.Table:
    """Failures as an Arrow table with the config's columns."""
    return _table(list(rows), FAILURES)


def _table(rows: Sequence[Attribution] | Sequence[Failure], schema: pa.Schema) -> pa.Table:
    """Builds column by column: `asdict` would copy every value of millions of rows."""
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)
