"""What holds of the values of a config's rows, whoever wrote them, so that every reader may rely on it.

Values that a noun of `schema.py` always has are never NULL, whoever an episode names is one of its agents, and what is
counted is not negative.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.schema import ACTION_TYPES, DERIVED, MOST_AGENTS, MOST_PROMPTS
from sotopia_rl_data.store.columns import is_list
from sotopia_rl_data.tables import row_episode

_MAY_BE_NULL = {
    "episodes": {
        *("agents[].model", "turns[].failed", "meta", "agents[].meta", "turns[].meta", "scores[].low", "scores[].high"),
    },
    "attributions": {"reasoning"},
    "rewards": {"reward", "spread", "n_opinions"},
    "truth": set(),
}
_LEAST = {"attributions": {"turn": -1, "sample": 0}, "rewards": {"turn": 0, "n_opinions": 0}, "truth": {"turn": 0}}


def check_values(config: str, rows: pa.Table) -> None:
    """Raises InputError where a value is NULL that never is, or an episode names somebody who is not in it."""
    if config in ("failures", *DERIVED):
        return  # a failure has what was known when it failed; what is derived is made again and compared
    for column in rows.column_names:
        if config == "rewards" and column not in ("prompt", "completion", "episode_id", "agent", "turn"):
            continue  # raw_*, norm_* and whatever columns a dataset has besides
        for array in rows.column(column).chunks:
            for path in _nulls(array, column):
                if path not in _MAY_BE_NULL[config]:
                    raise InputError(f"A row of {config} has no {path}.", "give every row a value there")
    for column, least in _LEAST.get(config, {}).items():
        if column in rows.column_names and (pc.min(rows.column(column)).as_py() or 0) < least:
            raise InputError(f"A row of {config} has a {column} below {least}.", "count from 0")
    if config == "episodes":
        _check_agents(rows)
        _check_lengths(rows)


def _nulls(array: pa.Array, path: str) -> Iterator[str]:
    """The paths at which there is a NULL, in a column and in what is inside it."""
    if array.null_count:
        yield path
        array = array.drop_null()
    if is_list(array.type):
        yield from _nulls(array.flatten(), f"{path}[]")
    elif pt.is_struct(array.type):
        for i, field in enumerate(array.type):
            yield from _nulls(array.field(i), f"{path}.{field.name}")


def _check_agents(rows: pa.Table) -> None:
    """Raises InputError unless each episode's agents differ, and its turns, scores and observations are theirs."""
    kinds = pc.unique(pc.struct_field(pc.list_flatten(rows.column("turns")), "action_type")).to_pylist()
    strange = sorted(set(kinds).difference(ACTION_TYPES))
    if strange:
        raise InputError(f"A turn has the action type {strange[0]!r}.", f"use one of: {', '.join(ACTION_TYPES)}")
    agents: list[set[str]] = [set() for _ in range(rows.num_rows)]
    for row, agent in _named(rows, "agents"):
        if agent in agents[row]:
            raise _wrong(rows, row, f"two agents with the id {agent!r}")
        agents[row].add(agent)
    for column in ("turns", "scores", "observations"):
        for row, agent in _named(rows, column):
            if agent not in agents[row]:
                raise _wrong(rows, row, f"{column} of {agent!r}, who is not one of its agents")


def _check_lengths(rows: pa.Table) -> None:
    """Raises InputError where an episode is too long for prompts; most are far too short, by the size of the column."""
    for batch in rows.to_batches():
        turns = pc.list_value_length(batch.column("turns")).to_numpy(zero_copy_only=False).astype(np.int64)
        crowds = pc.list_value_length(batch.column("agents")).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero((turns * batch.nbytes > MOST_PROMPTS) | (crowds > MOST_AGENTS)).tolist():
            episode = row_episode(batch.slice(row, 1).to_pylist()[0])
            if episode.too_long:
                what = f"No prompts can be made of the episode {episode.episode_id!r}: {episode.too_long}"
                raise InputError(what, "leave this episode out")


def _named(rows: pa.Table, column: str) -> Iterator[tuple[int, str]]:
    """(row, the agent that it names) for each item of a list of structs."""
    before = 0
    for chunk in rows.column(column).chunks:
        lengths = np.asarray(pc.list_value_length(chunk).to_numpy(zero_copy_only=False))
        owners = np.repeat(np.arange(before, before + len(chunk)), lengths)
        yield from zip(owners.tolist(), pc.struct_field(pc.list_flatten(chunk), "agent").to_pylist(), strict=True)
        before += len(chunk)


def _wrong(rows: pa.Table, row: int, what: str) -> InputError:
    episode = rows.column("episode_id")[row].as_py()
    return InputError(f"The episode {episode!r} has {what}.", "give each agent an id, and name agents by it")
