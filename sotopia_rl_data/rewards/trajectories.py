"""The `trajectories` config: an agent's part of an episode as one chat, with a reward or NULL for each of its actions.

It is derived: made of `episodes` and `rewards` whenever rewards are made, outside the version's digest, and checked by
making it again. Rewards in the layout `chat` have the messages in their prompts; for another layout they are rendered
from the episodes, in the wording of `chat`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotopia_rl_data.errors import InputError, NotFound, StoreError
from sotopia_rl_data.prompts import Layout, Template, layout_id, render
from sotopia_rl_data.rewards.resolve import Files
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Version
from sotopia_rl_data.store.digest import RowDigest
from sotopia_rl_data.store.parts import read_parquet
from sotopia_rl_data.store.stage import Stage
from sotopia_rl_data.streams import Episodes, changes, encode, read
from sotopia_rl_data.tables import EPISODES, row_episode, trajectories_schema

_ROWS = 1_024  # utterances that are held at a time
_NORM = "norm_"


def with_trajectories(stage: Stage, episodes: Files, layout: Layout) -> Callable[[str, Iterator[pa.Table]], None]:
    """What `build` writes with: each split's rewards into the stage, and their trajectories.

    `layout` is that of the rewards' prompts, `episodes` are each split's Parquet files in key order.
    """

    def write(split: str, tables: Iterator[pa.Table]) -> None:
        first = next(tables)
        stage.write("rewards", split, first.slice(0, 0))
        stage.write("trajectories", split, _schema(first.schema).empty_table())
        for trajectories in _made(written(chain([first], tables), split), episodes[split], layout):
            stage.write("trajectories", split, trajectories)

    def written(tables: Iterable[pa.Table], split: str) -> Iterator[pa.Table]:
        for table in tables:
            stage.write("rewards", split, table)
            yield table

    return write


def wording(layout: Layout, template: Template | None = None) -> dict[str, str]:
    """What determines the messages beside rewards of this layout, for the provenance: as the recipe's `layout`."""
    return layout_id("chat", template if layout == "chat" else None)


def problems(version: Version) -> Iterator[str]:
    """What is wrong with the trajectories of a version whose other rows are whole: whatever its episodes and rewards do
    not give. Messages in the wording of another version of this program are not compared."""
    configs, recipe = version.manifest.configs, version.manifest.recipe
    if "trajectories" not in configs:
        return
    if not {"episodes", "rewards"} <= configs.keys():
        yield "trajectories: the episodes and the rewards that they are made of are not there"
        return
    named = recipe.get("layout")
    layout: Layout = "chat" if named == "chat" or (isinstance(named, dict) and named["layout"] == "chat") else "single"
    reworded = layout != "chat" and version.manifest.provenance.get("trajectories") != wording(layout)
    stored, rewards, episodes = (version.files(config) for config in ("trajectories", "rewards", "episodes"))
    for split in dict.fromkeys([*stored, *rewards]):
        try:
            rows = (rows for path in rewards.get(split, ()) for rows in read_parquet(path))
            same = _digest(_made(rows, episodes.get(split, ()), layout), reworded) == _digest(
                (rows for path in stored.get(split, ()) for rows in read_parquet(path)), reworded
            )
            if not same:
                yield f"trajectories/{split}: not what its episodes and rewards give"
        except (InputError, NotFound, StoreError) as error:
            yield f"trajectories/{split}: cannot be made again ({error.message.rstrip('.')})"


def _digest(tables: Iterable[pa.Table], reworded: bool) -> str:
    """The digest of the rows; without their messages where these are `reworded`. "" where there are no rows."""
    digest = None
    for rows in tables:
        rows = rows.drop(["messages"]) if reworded and "messages" in rows.column_names else rows
        digest = digest or RowDigest(rows.schema)
        digest.update(rows)
    return digest.hexdigest() if digest is not None and digest.rows else ""


def _made(tables: Iterable[pa.Table], episodes: Sequence[Path], layout: Layout) -> Iterator[pa.Table]:
    """The trajectories of some whole episodes at a time, whose rewards are these."""
    files = () if layout == "chat" else episodes
    rendered = Episodes("episodes", read(files, EPISODES.names, 16, encoded=False))
    batches = (batch for table in tables for batch in _last_prompts(table, layout).to_batches())
    for rewards in Episodes("rewards", batches).chunks(_ROWS):
        last = rewards["episode_id"][-1].as_py()
        known = {row["episode_id"]: row_episode(row) for row in rendered.until(last).to_pylist()}
        yield _trajectories(rewards, None if layout == "chat" else known)


def _last_prompts(rewards: pa.Table, layout: Layout) -> pa.Table:
    """The rewards without the prompts that trajectories do not need: in the layout `chat` an agent's last prompt in an
    episode is enough, in others none is. All prompts of a long episode are many times as long as the episode."""
    prompts = rewards["prompt"]
    if layout != "chat":
        prompts = pa.nulls(rewards.num_rows, prompts.type)
    elif rewards.num_rows:
        keys = [encode(rewards[name])[0] for name in ("episode_id", "agent")]
        last = np.append(changes(*keys)[1:], True)
        prompts = pc.if_else(pa.array(last), prompts, pa.scalar(None, prompts.type))
    return rewards.set_column(rewards.schema.get_field_index("prompt"), rewards.schema.field("prompt"), prompts)


def _schema(rewards: pa.Schema) -> pa.Schema:
    return trajectories_schema([name.removeprefix(_NORM) for name in rewards.names if name.startswith(_NORM)])


def _trajectories(rewards: pa.Table, episodes: dict[str, Episode] | None) -> pa.Table:
    """The trajectories of some whole episodes. Without `episodes` the messages are those of the last prompts."""
    schema = _schema(rewards.schema)
    values = {name: rewards[name].to_pylist() for name in ("episode_id", "environment_id", "agent", "turn", "reward")}
    norms = {name: rewards[name].to_pylist() for name in rewards.column_names if name.startswith(_NORM)}
    heads = changes(*(encode(rewards[name])[0] for name in ("episode_id", "agent")))
    starts = [int(start) for start in np.flatnonzero(heads)]
    rows = []
    for start, end in zip(starts, [*starts[1:], rewards.num_rows], strict=True):
        episode_id, agent, own = values["episode_id"][start], values["agent"][start], values["reward"][start:end]
        if episodes is None:
            prompt = rewards["prompt"][end - 1].as_py()
        elif episode_id in episodes:
            prompt = render(episodes[episode_id], agent, values["turn"][end - 1], "chat")
        else:
            raise NotFound(
                f"The rewards name the episode {episode_id!r}, which is not there.", "make the version again"
            )
        rows.append(
            {
                "episode_id": episode_id,
                "environment_id": values["environment_id"][start],
                "agent": agent,
                "messages": prompt + rewards["completion"][end - 1].as_py(),
                "turns": values["turn"][start:end],
                "turn_rewards": own,
                "reward_components": {name.removeprefix(_NORM): norm[start:end] for name, norm in norms.items()},
                "return": None if None in own else sum(own),
            }
        )
    return pa.Table.from_pylist(rows, schema)
