"""What is compared: the units of each run, the method that each unit belongs to, and which units make a pair.

A unit is an agent of an episode, with its scores by every evaluator. A run has episodes of one method's agent with a
partner, in one position or (--swap) in both. A rollout records which model is the method. In other runs the method is
by default the one model that not every run has; a model that all runs share is the partner. In a run of a single model
(self-play) all agents count; where there is only one run, each of its models is a method. Otherwise the caller must
name the method.

Units of two methods are paired by environment, agents and position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.schema import named_with_drafts
from sotopia_rl_data.statistics import Floats
from sotopia_rl_data.store import Version
from sotopia_rl_data.streams import read

SEVEN = tuple(one.name for one in SOTOPIA_EVAL)
AVERAGE = "average"
"""The plain mean of the seven dimensions (the papers' AVG); missing where one of them is."""

UNNAMED = "unnamed"
POSITIONS = {"first": 0, "second": 1}
ALL = "all"
ITSELF, EACH_OTHER = "itself", "each other"
ANY = "any"
BOTH = -1

Key = tuple[str, tuple[str, ...], int]
"""(environment, the agents in speaking order, position); position -1: both, averaged."""

_HINT = "say which agents are compared: --partner MODEL, --agent MODEL, or --agent first"
_BATCH = 128
_COLUMNS = ("episode_id", "environment_id", "codename", "agents", "turns", "scores")


@dataclass(frozen=True, slots=True)
class Unit:
    """One agent in one episode of run number `run`.

    `cast` holds the agents' ids in speaking order, `position` is the agent's place among them. `model` plays it,
    `partner` names the models of the others. `turns` is the episode's number of turns; `utterances` the agent's own
    that are more than nothing, `words` those of its speech, and `speech` what it said, an utterance each. `scores` by
    evaluator and dimension; missing is absent.
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
    speech: tuple[str, ...] = ()

    @property
    def episode(self) -> str:
        """The episode among those of all runs."""
        return f"{self.run} {self.episode_id}"

    @property
    def agent(self) -> str:
        """The agent's id."""
        return self.cast[self.position]

    def score(self, evaluator: str, dimension: str) -> float | None:
        """The score on a dimension, or on `AVERAGE`; None where it is missing."""
        scores = self.scores.get(evaluator, {})
        if dimension != AVERAGE:
            return scores.get(dimension)
        if not all(name in scores for name in SEVEN):
            return None
        return sum(scores[name] for name in SEVEN) / len(SEVEN)


def units_of(versions: Sequence[Version]) -> list[Unit]:
    """Every agent of every episode of every version, in the versions' order.

    Raises UsageError where a version holds no episodes, StoreError where its files are damaged.
    """
    units: list[Unit] = []
    for run, version in enumerate(versions):
        if "episodes" not in version.manifest.configs:
            raise UsageError(
                f"{version.ref} holds no episodes, so it has no agents with scores.",
                "name a dataset of dialogues: sotopia-rl-data list",
            )
        for files in version.files("episodes").values():
            for batch in read(files, _COLUMNS, _BATCH, encoded=False):
                for row in batch.to_pylist():
                    units += _units_of_row(run, row)
    return units


def _units_of_row(run: int, row: Mapping[str, Any]) -> Iterator[Unit]:
    cast = tuple(agent["agent"] for agent in row["agents"])
    models = [agent["model"] or UNNAMED for agent in row["agents"]]
    for position, agent in enumerate(cast):
        scores: dict[str, dict[str, float]] = {}
        for score in row["scores"]:
            if score["agent"] == agent:
                scores.setdefault(score["evaluator"], {})[score["dimension"]] = score["score"]
        mine = [turn for turn in row["turns"] if turn["agent"] == agent and turn["action_type"] != "none"]
        speech = tuple(turn["text"] for turn in mine if turn["action_type"] == "speak")
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
            words=sum(len(text.split()) for text in speech),
            scores=scores,
            speech=speech,
        )


def read_methods(
    versions: Sequence[Version], agents: Sequence[str] = (), partners: Sequence[str] = ()
) -> tuple[list[Unit], dict[str, list[Unit]]]:
    """All units of the runs, and those of each method by its name, in the runs' order.

    `agents` says which agents count, once for all runs or once for each: "first", "second", "all" or a model's name.
    `partners` are models that are not a method. Where neither is given, or all models of a run are partners, a rollout
    records itself which model it tests: so a model that others were played against can be compared with them.
    Raises UsageError where none of these tells the method.
    """
    units, refs = units_of(versions), [version.ref for version in versions]
    if agents and len(agents) not in (1, len(refs)):
        raise UsageError(
            f"--agent is given {len(agents)} times for {len(refs)} run{'s' * (len(refs) > 1)}.",
            "give --agent once, or once for each run",
        )
    unknown = [name for name in partners if name not in _models(units)]
    if unknown:
        raise UsageError(
            f"No episode is played by {unknown[0]!r}, which --partner names.",
            f"name one of: {', '.join(sorted(_models(units)))}",
        )
    if len(refs) == 1 and not agents:
        models = _models(units) - set(partners) or _models(units)
        return units, {model: [unit for unit in units if unit.model == model] for model in sorted(models)}
    by_run = [[unit for unit in units if unit.run == run] for run in range(len(refs))]
    picked = []
    for run, version in enumerate(versions):
        if agents:
            who = agents[run] if len(agents) == len(refs) else agents[0]
        else:
            tested = tested_in(version)
            is_among_partners = bool(partners) and _models(by_run[run]) <= set(partners)
            recorded = tested if is_among_partners or not partners else None  # a partner too may be a row
            who = recorded or _own_model(run, by_run, refs, set(partners))
        picked.append(_picked(who, by_run[run], version.ref))
    methods: dict[str, list[Unit]] = {}
    for name, some in zip(_names(picked, refs), picked, strict=True):
        methods.setdefault(name, []).extend(some)
    return units, methods


def tested_in(version: Version) -> str | None:
    """The model that a rollout tests (`--a`); "all" for self-play. None where a version does not record it."""
    played = version.manifest.recipe.get("rollout", {})
    a, b = (played.get(side, {}).get("model") for side in "ab")
    if a is None:
        return None
    return ALL if a == b else named_with_drafts(str(a), played.get("best_of", 1))


def by_partner(methods: Mapping[str, Sequence[Unit]], pooled: bool = False) -> dict[str, dict[str, list[Unit]]]:
    """Partner -> method -> its units with that partner: the columns of an ablation.

    Where no two methods share a partner, a method's partner is "itself" or, where it is another method, "each other".
    `pooled` treats all partners as one.
    """
    if pooled:
        return {ANY: {name: list(units) for name, units in methods.items()}}
    met = [{unit.partner for unit in units} for units in methods.values()]
    shared = len(met) < 2 or bool(set().union(*(a & b for a, b in combinations(met, 2))))
    compared = {unit.model for units in methods.values() for unit in units}
    columns: dict[str, dict[str, list[Unit]]] = {}
    for name, units in methods.items():
        for unit in units:
            partner = unit.partner
            if not shared and partner in compared:
                partner = ITSELF if partner == unit.model else EACH_OTHER
            columns.setdefault(partner, {}).setdefault(name, []).append(unit)
    return columns


def _own_model(run: int, by_run: Sequence[Sequence[Unit]], refs: Sequence[str], partners: set[str]) -> str:
    """The run's own model; "all" where the run has only one model."""
    models = _models(by_run[run])
    if len(models) == 1:
        return ALL
    shared = partners or set.intersection(*map(_models, by_run))
    own = models - shared
    if len(own) == 1:
        return own.pop()
    listed = ", ".join(sorted(models))
    if not own:
        raise UsageError(
            f"The run {refs[run]} is played by {listed}, as the other runs are, so no model belongs to it alone.", _HINT
        )
    raise UsageError(f"The run {refs[run]} is played by {listed}, and which of them is compared is not clear.", _HINT)


def _picked(who: str, units: Sequence[Unit], ref: str) -> list[Unit]:
    """The units that `who` names. Raises UsageError where `who` names no unit."""
    if who == ALL:
        return list(units)
    found = [unit for unit in units if (unit.position == POSITIONS[who] if who in POSITIONS else unit.model == who)]
    if not found:
        raise UsageError(
            f"No agent of {ref} is {who!r}.", f"name one of: {', '.join([*POSITIONS, ALL, *sorted(_models(units))])}"
        )
    return found


def _names(picked: Sequence[Sequence[Unit]], refs: Sequence[str]) -> list[str]:
    """The names of the runs' methods: the model, with the run's reference where the same model meets the same partner
    in another run. Runs of one model with different partners are one method."""
    models = [_models(units) for units in picked]
    names = [next(iter(some)) if len(some) == 1 else ref for some, ref in zip(models, refs, strict=True)]
    partners = [{unit.partner for unit in units} for units in picked]
    runs = range(len(refs))

    def is_met_twice(run: int) -> bool:
        others = (other for other in runs if other != run and names[other] == names[run])
        return any(partners[run] & partners[other] for other in others)

    return [f"{names[run]} · {refs[run]}" if is_met_twice(run) else names[run] for run in runs]


def _models(units: Iterable[Unit]) -> set[str]:
    return {unit.model for unit in units}


@dataclass(frozen=True, slots=True)
class PairedScores:
    """`a` and `b` are (pairs, dimensions), NaN where a side has no score; `keys` says what each row is about.

    `alone` counts the units of a and of b that have no counterpart.
    """

    keys: tuple[Key, ...]
    a: Floats
    b: Floats
    alone: tuple[int, int]


def pair_up(a: Sequence[Unit], b: Sequence[Unit], evaluator: str, dimensions: Sequence[str]) -> PairedScores:
    """The pairs of two methods. Repetitions of one key are averaged first.

    Where both agents of an episode count, their scores are averaged, since they come from one conversation; the pair is
    then of environment and agents.
    """
    together = one_conversation(a) or one_conversation(b)
    sides = [_by_key(units, together) for units in (a, b)]
    keys = tuple(sorted(sides[0].keys() & sides[1].keys()))
    alone_a = sum(len(some) for key, some in sides[0].items() if key not in sides[1])
    alone_b = sum(len(some) for key, some in sides[1].items() if key not in sides[0])
    values = [_values([side[key] for key in keys], evaluator, dimensions) for side in sides]
    return PairedScores(keys, values[0], values[1], (alone_a, alone_b))


def matrix(units: Iterable[Unit], evaluator: str, dimensions: Sequence[str]) -> Floats:
    """(units, dimensions) of scores, NaN where there is none."""
    scores = [[unit.score(evaluator, name) for name in dimensions] for unit in units]
    return np.array(scores, dtype=np.float64).reshape(len(scores), len(dimensions))


def key_of(unit: Unit, together: bool = False) -> Key:
    """What a unit is paired by."""
    return unit.environment, unit.cast, BOTH if together else unit.position


def one_conversation(units: Sequence[Unit]) -> bool:
    """Whether several agents of one episode are among these."""
    return len({unit.episode for unit in units}) < len(units)


def _by_key(units: Iterable[Unit], together: bool) -> dict[Key, list[Unit]]:
    by_key: dict[Key, list[Unit]] = {}
    for unit in units:
        by_key.setdefault(key_of(unit, together), []).append(unit)
    return by_key


def _values(groups: Sequence[Sequence[Unit]], evaluator: str, dimensions: Sequence[str]) -> Floats:
    """The mean score of each group, without missing scores."""
    scores = matrix((unit for some in groups for unit in some), evaluator, dimensions)
    if len(scores) == len(groups):
        return scores
    group = np.repeat(np.arange(len(groups)), [len(some) for some in groups])
    return mean_by_group(scores, group, len(groups))


def mean_by_group(values: Floats, group: NDArray[np.intp], groups: int) -> Floats:
    """The mean of each group's rows, without missing values: (groups, columns), NaN where there are no values."""
    there = ~np.isnan(values)
    total, count = np.zeros((groups, values.shape[1])), np.zeros((groups, values.shape[1]))
    np.add.at(total, group, np.where(there, values, 0.0))
    np.add.at(count, group, there)
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)
