"""Episodes of one or several runs as units: one for each agent of each episode, with its scores by every evaluator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.store import Version
from sotopia_rl_data.streams import read

SEVEN = tuple(one.name for one in SOTOPIA_EVAL)
AVERAGE = "average"
"""The plain mean of the seven dimensions (the papers' AVG); missing where one of them is."""

UNNAMED = "unnamed"
_BATCH = 128
_COLUMNS = ("episode_id", "environment_id", "codename", "agents", "turns", "scores")


@dataclass(frozen=True, slots=True)
class Unit:
    """What one agent did in one episode of run number `run`.

    `cast` holds the agents' ids in speaking order, `position` is the agent's place among them. `model` plays it,
    `partner` names the models of the others. `turns` is the episode's number of turns; `utterances` the agent's own
    that are more than nothing, `words` those of its speech. `scores` by evaluator and dimension; missing is absent.
    """

    run: int
    episode_id: str
    environment: str
    codename: str
    cast: tuple[str, ...]
    position: int
    model: str
    partner: str
    turns: int
    utterances: int
    words: int
    scores: Mapping[str, Mapping[str, float]]

    @property
    def agent(self) -> str:
        """The agent's id."""
        return self.cast[self.position]

    def score(self, evaluator: str, dimension: str) -> float | None:
        """The score on a dimension, or on `AVERAGE`; None where it is missing."""
        given = self.scores.get(evaluator, {})
        if dimension != AVERAGE:
            return given.get(dimension)
        return sum(given[name] for name in SEVEN) / len(SEVEN) if all(name in given for name in SEVEN) else None


def units_of(versions: Sequence[Version]) -> list[Unit]:
    """Every agent of every episode of every version, in the versions' order.

    Raises UsageError where a version holds no episodes, StoreError where its files are damaged.
    """
    return [unit for run, version in enumerate(versions) for unit in _units(run, version)]


def _units(run: int, version: Version) -> Iterator[Unit]:
    if "episodes" not in version.manifest.configs:
        raise UsageError(f"{version.ref} holds no episodes.", "name a dataset of dialogues: sotopia-rl-data list")
    for files in version.files("episodes").values():
        for batch in read(files, _COLUMNS, _BATCH, encoded=False):
            for row in batch.to_pylist():
                yield from of_row(run, row)


def of_row(run: int, row: Mapping[str, Any]) -> Iterator[Unit]:
    """The units of a row of `episodes`."""
    cast = tuple(one["agent"] for one in row["agents"])
    models = [one["model"] or UNNAMED for one in row["agents"]]
    for position, agent in enumerate(cast):
        scores: dict[str, dict[str, float]] = {}
        for one in row["scores"]:
            if one["agent"] == agent:
                scores.setdefault(one["evaluator"], {})[one["dimension"]] = one["score"]
        mine = [turn for turn in row["turns"] if turn["agent"] == agent and turn["action_type"] != "none"]
        yield Unit(
            run=run,
            episode_id=row["episode_id"],
            environment=row["environment_id"],
            codename=row["codename"] or row["environment_id"],
            cast=cast,
            position=position,
            model=models[position],
            partner=", ".join(sorted({*models[:position], *models[position + 1 :]})),
            turns=len(row["turns"]),
            utterances=len(mine),
            words=sum(len(turn["text"].split()) for turn in mine if turn["action_type"] == "speak"),
            scores=scores,
        )
