"""The dialogues of the page: episodes, utterances and opinions, in columns, which keep the page small.

Where a version holds more utterances than the page may show, whole episodes are drawn by a hash of the seed and the
episode's id, so that the same command always shows the same episodes.

Imported training rows name no episode. Those of one scenario are then shown together, as if they were one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sotopia_rl_data.agreement.opinions import Opinions
from sotopia_rl_data.curate import spreads
from sotopia_rl_data.importers.formats.training import scenario_of
from sotopia_rl_data.query import connect
from sotopia_rl_data.schema import ACTION_TYPES
from sotopia_rl_data.spans import without_tags
from sotopia_rl_data.store import Version
from sotopia_rl_data.store.parts import read_parquet

UTTERANCES = 10_000
_SCENARIO = 2000  # characters of a scenario that a prompt names
Key = tuple[str, str, int]
"""(episode, agent, turn)."""


def dialogues(version: Version, opinions: Opinions | None, utterances: int, seed: int) -> dict[str, Any]:
    """The columns of `episodes` and `utterances`, and the lists that their numbers point into. `shown` is how many
    episodes the page shows, and how many there are."""
    chosen, total = _chosen(version, utterances, seed)
    rows = _rewards(version, chosen)
    dimensions = [
        name.removeprefix("norm_") for name in version.manifest.columns["rewards"] if name.startswith("norm_")
    ]
    episodes = _Episodes(version, chosen, rows)
    keys = {(row["episode_id"], row["agent"], row["turn"]): i for i, row in enumerate(rows)}
    table = {
        **episodes.utterances(rows),
        "reward": [rounded(row["reward"]) for row in rows],
        "spread": [rounded(row.get("spread")) for row in rows],
        "raw": [[rounded(row.get(f"raw_{d}")) for row in rows] for d in dimensions],
        "norm": [[rounded(row[f"norm_{d}"]) for row in rows] for d in dimensions],
        **_said(opinions, dimensions, keys, len(rows)),
    }
    return {
        "shown": {"episodes": len(episodes.ids), "of": total},
        "dimensions": dimensions,
        "opinions": [] if opinions is None else list(opinions.names),
        "scales": [None if opinions is None else opinions.scale or opinions.ranges.get(name) for name in dimensions],
        "actions": list(ACTION_TYPES),
        "environments": episodes.environments,
        "names": episodes.names,
        "episodes": episodes.table,
        "utterances": table,
        "lost": _lost(version, keys),
    }


def is_keyed(version: Version) -> bool:
    """Whether the rows of `rewards` say which utterance of which episode they are."""
    return "episode_id" in version.manifest.columns["rewards"]


def _keyed(version: Version) -> str:
    """`rewards` with a key for every row, as SQL: of rows that have none, those of a scenario are numbered."""
    if is_keyed(version):
        return "rewards"
    ordered = "row_number() OVER (PARTITION BY environment_id ORDER BY prompt, completion, reward) - 1"
    return f"(SELECT *, environment_id AS episode_id, completion[1].role AS agent, {ordered} AS turn FROM rewards)"


def _scenarios(version: Version) -> dict[str, str]:
    """The scenarios that the prompts name, by environment, for versions without episodes."""
    if "episodes" in version.manifest.configs:
        return {}
    with connect(version, threads=1) as connection:
        query = "SELECT environment_id, min(prompt[len(prompt)].content) FROM rewards GROUP BY 1"
        found = connection.execute(query).fetchall()
    return {one: scenario_of(({"role": "user", "content": prompt},))[:_SCENARIO] for one, prompt in found}


def _chosen(version: Version, utterances: int, seed: int) -> tuple[list[str] | None, int]:
    """The ids of the episodes to show (None: all of them), and how many there are."""
    with connect(version, threads=1) as connection:
        found = connection.execute(f"SELECT episode_id, count(*) FROM {_keyed(version)} GROUP BY 1").fetchall()
    if sum(n for _, n in found) <= utterances:
        return None, len(found)
    found.sort(key=lambda row: hashlib.sha256(f"{seed}\0{row[0]}".encode()).digest())
    chosen: list[str] = []
    room = utterances
    for episode, n in found:
        room -= n
        if room < 0 and chosen:
            break
        chosen.append(episode)
    return sorted(chosen), len(found)


def _rewards(version: Version, chosen: list[str] | None) -> list[dict[str, Any]]:
    """The rows of `rewards` to show, in dialogue order; with completions where the version has no episodes to read."""
    text = [] if "episodes" in version.manifest.configs else ["completion"]
    numbers = [
        name
        for name in version.manifest.columns["rewards"]
        if name in ("reward", "spread") or name.startswith(("raw_", "norm_"))
    ]
    columns = ", ".join(f'"{name}"' for name in ("episode_id", "environment_id", "agent", "turn", *numbers, *text))
    where, values = ("", []) if chosen is None else (" WHERE list_contains(?, episode_id)", [chosen])
    with connect(version, threads=1) as connection:
        query = f"SELECT {columns} FROM {_keyed(version)}{where} ORDER BY episode_id, turn, agent"
        found: Any = connection.sql(query, params=values).to_arrow_table()
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


class _Episodes:
    """The episodes of the shown rows. Where the version has no episodes, they hold only what the rows say."""

    def __init__(self, version: Version, chosen: list[str] | None, rows: Sequence[Mapping[str, Any]]) -> None:
        environment = {row["episode_id"]: row["environment_id"] or "" for row in rows}
        self.ids = list(environment)
        self.environments = sorted(set(environment.values()))
        stored, scenarios = _stored(version, set(self.ids)), _scenarios(version)
        speaking: dict[str, dict[str, None]] = {one: {} for one in self.ids}
        for row in rows:
            speaking[row["episode_id"]][row["agent"]] = None
        agents = {one: _agents(stored.get(one), speaking[one]) for one in self.ids}
        self.names = sorted({agent["name"] for of in agents.values() for agent in of})
        self._stored, self._agents = stored, agents
        self._place = {one: i for i, one in enumerate(self.ids)}
        place = {name: i for i, name in enumerate(self.environments)}
        self.table = {
            "id": self.ids,
            "environment": [place[environment[one]] for one in self.ids],
            "title": [stored.get(one, {}).get("codename") or "" for one in self.ids],
            "scenario": [
                without_tags(stored.get(one, {}).get("scenario") or scenarios.get(environment[one], ""))
                for one in self.ids
            ],
            "relationship": [stored.get(one, {}).get("relationship") or "" for one in self.ids],
            "agents": [agents[one] for one in self.ids],
            "scores": [
                [
                    [score["agent"], score["dimension"], rounded(score["score"]), score["evaluator"]]
                    for score in stored.get(one, {}).get("scores", [])
                ]
                for one in self.ids
            ],
        }

    def utterances(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Columns of who said what, with one element for each row. `agent` is the agent's place among those of the
        episode, `name` the place of its name in `names`."""
        turns = {
            (episode, turn["agent"], turn["turn"]): turn
            for episode, row in self._stored.items()
            for turn in row["turns"]
        }
        names = {name: i for i, name in enumerate(self.names)}
        found: dict[str, list[Any]] = {
            n: [] for n in ("episode", "agent", "name", "turn", "action", "text", "to", "failed")
        }
        for row in rows:
            episode, key = row["episode_id"], (row["episode_id"], row["agent"], row["turn"])
            turn = turns.get(key) or _spoken(row)
            place = [agent["agent"] for agent in self._agents[episode]].index(row["agent"])
            values = (
                self._place[episode],
                place,
                names[self._agents[episode][place]["name"]],
                row["turn"],
                ACTION_TYPES.index(turn["action_type"]),
                turn["text"],
                list(turn["to"]) or 0,
                1 if turn["failed"] else 0,
            )
            for column, value in zip(found.values(), values, strict=True):
                column.append(value)
        return found


def _stored(version: Version, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """The wanted rows of `episodes` by id, without the long columns that the page does not show."""
    columns = ["episode_id", "codename", "scenario", "relationship", "agents", "turns", "scores"]
    if "episodes" not in version.manifest.configs:
        return {}
    return {
        row["episode_id"]: row
        for paths in version.files("episodes").values()
        for path in paths
        for rows in read_parquet(path)
        for batch in rows.select(columns).to_batches(max_chunksize=256)
        for row in batch.to_pylist()
        if row["episode_id"] in wanted
    }


def _agents(row: Mapping[str, Any] | None, speaking: Iterable[str]) -> list[dict[str, str]]:
    """The agents in speaking order; where the episode is not stored, only those that speak."""
    if row is not None:
        return [
            {key: agent[key] or "" for key in ("agent", "name", "model")} | {"goal": without_tags(agent["goal"] or "")}
            for agent in row["agents"]
        ]
    return [{"agent": one, "name": one, "model": "", "goal": ""} for one in speaking]


def _spoken(row: Mapping[str, Any]) -> dict[str, Any]:
    """The action in a completion, for versions without episodes; where the completion is not an action, its text as
    speech."""
    text = "\n".join(message["content"] or "" for message in row.get("completion") or [])
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if isinstance(told, dict) and told.get("action_type") in ACTION_TYPES:
        return {"action_type": told["action_type"], "text": str(told.get("argument", "")), "to": [], "failed": False}
    return {"action_type": "speak", "text": text, "to": [], "failed": False}


def _said(opinions: Opinions | None, dimensions: Sequence[str], keys: Mapping[Key, int], rows: int) -> dict[str, Any]:
    """The numbers that each opinion gave (`said`), by opinion, dimension and utterance; and the `disagreement` about
    each utterance: the mean over dimensions of the spread by which `curate` ranks utterances."""
    names = () if opinions is None else opinions.names
    said: list[list[list[float | None]]] = [[[None] * rows for _ in dimensions] for _ in names]
    total, many = np.zeros(rows), np.zeros(rows)
    if opinions is not None:
        wanted = {key[0] for key in keys}
        here = np.array([episode in wanted for episode in opinions.episodes], bool)
        spread = spreads(opinions)
        for unit in np.flatnonzero(here[opinions.episode]):
            key = (
                opinions.episodes[opinions.episode[unit]],
                opinions.agents[opinions.agent[unit]],
                int(opinions.turn[unit]),
            )
            name, row = opinions.dimensions[opinions.dimension[unit]], keys.get(key)
            if row is None or name not in dimensions:
                continue
            place = dimensions.index(name)
            for opinion, value in enumerate(opinions.values[:, unit]):
                said[opinion][place][row] = rounded(opinions.level(int(opinions.dimension[unit]), float(value)))
            if not np.isnan(spread[unit]):
                total[row] += spread[unit]
                many[row] += 1
    disagreement = [rounded(float(t / n)) if n else None for t, n in zip(total, many, strict=True)]
    return {"said": said, "disagreement": disagreement}


def _lost(version: Version, keys: Mapping[Key, int]) -> dict[str, list[list[str]]]:
    """Why shown utterances have no label: utterance -> [dimension, judge, reason] for each missing label."""
    found: dict[str, list[list[str]]] = {}
    if "failures" not in version.manifest.configs:
        return found
    with connect(version, threads=1) as connection:
        query = """SELECT episode_id, agent, turn, dimension, judge, reason FROM failures
                   WHERE turn IS NOT NULL ORDER BY ALL LIMIT 100000"""
        for episode, agent, turn, *why in connection.execute(query).fetchall():
            row = keys.get((episode, agent, turn))
            if row is not None:
                found.setdefault(str(row), []).append([one or "" for one in why])
    return found


def rounded(value: float | None) -> float | None:
    """The value with four decimals, which are enough for the page; None for NaN."""
    return None if value is None or math.isnan(value) else round(value, 4)
