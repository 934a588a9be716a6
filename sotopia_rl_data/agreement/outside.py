"""Opinions beside what importers keep: how a dialogue came out, and what people have noted of its turns.

    annotation   a number of each turn, in its `meta`: one more opinion on every dimension
    outcome      a number of an agent or of the whole dialogue: a score on a dimension of that name (where several
                 evaluators gave one: `DIMENSION by EVALUATOR`), or in `meta`. Each opinion is then an agent's mean over
                 its turns, since an outcome belongs to no turn

Numbers, true and false (1 and 0) and texts that are numbers count; anything else is a missing value.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from sotopia_rl_data.agreement.opinions import Opinion, Opinions
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.store import Version

Kind = Literal["annotation", "outcome"]
_WHOLE = -1  # the turn of what belongs to an agent's whole dialogue


def with_column(opinions: Opinions, versions: Sequence[Version], kind: Kind, column: str) -> Opinions:
    """The opinions, and the column of the versions' episodes as one more.

    All values become shares: of an opinion's scale, and of the column's own range. Raises UsageError where no turn,
    agent or episode that was judged has a number in the column, naming the columns that have some.
    """
    found = _read(versions, kind, column)
    shares = _shares(opinions)
    if kind == "outcome":
        shares = _means(shares)
    units = [
        (shares.episodes[episode], shares.agents[agent], int(turn))
        for episode, agent, turn in zip(shares.episode, shares.agent, shares.turn, strict=True)
    ]
    values = np.array([found.get(column, {}).get(unit, math.nan) for unit in units])
    if np.isnan(values).all():
        judged = set(units)
        there = Counter({name: len(judged & each.keys()) for name, each in found.items()})
        listed = ", ".join(name for name, count in there.most_common(10) if count)
        raise UsageError(
            f"Nothing that was judged has a number in the column {column!r} as its {kind}.",
            f"name one of: {listed}" if listed else f"import the {kind}s with the episodes, as numbers",
        )
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    share = (values - low) / (high - low) if high > low else np.where(np.isnan(values), values, 0.5)
    ref = versions[0].ref
    return replace(
        shares,
        opinions=(*shares.opinions, Opinion(ref, judge=f"{kind} {column}")),
        names=(*shares.names, f"{kind} {column}"),
        values=np.vstack([shares.values, share]),
    )


def _shares(opinions: Opinions) -> Opinions:
    """The opinions as shares of their scale, if they share one; else as they are."""
    if opinions.scale is None:
        return opinions
    low, high = opinions.scale
    return replace(opinions, values=(opinions.values - low) / ((high - low) or 1.0), scale=None, ranges={})


def _means(opinions: Opinions) -> Opinions:
    """Each opinion's mean over an agent's turns, by episode and dimension: over the turns that it judged."""
    keys = np.stack([opinions.episode, opinions.agent, opinions.dimension])
    whole, place = np.unique(keys, axis=1, return_inverse=True)
    place = place.ravel()
    values = np.full((len(opinions.opinions), whole.shape[1]), np.nan)
    for row, own in zip(values, opinions.values, strict=True):
        told = ~np.isnan(own)
        counts = np.bincount(place[told], minlength=len(row))
        sums = np.bincount(place[told], weights=own[told], minlength=len(row))
        np.divide(sums, counts, out=row, where=counts > 0)
    episode, agent, dimension = whole
    turn = np.full(len(episode), _WHOLE, np.int32)
    return replace(opinions, episode=episode, agent=agent, turn=turn, dimension=dimension, values=values)


Found = dict[str, dict[tuple[str, str, int], float]]
"""By column: the number of each (episode_id, agent, turn)."""


def _read(versions: Sequence[Version], kind: Kind, wanted: str) -> Found:
    """Every number that could be the column. Raises UsageError where several evaluators gave the one that is wanted."""
    import pyarrow.parquet as pq

    found: Found = {}
    scores: dict[str, Found] = {}  # by dimension and evaluator
    paths = dict.fromkeys(
        path for version in versions for paths in version.files("episodes").values() for path in paths
    )
    for path in paths:
        names = [
            name for name in ("episode_id", "agents", "turns", "scores", "meta") if name in pq.read_schema(path).names
        ]
        for row in pq.read_table(path, columns=names).to_pylist():
            for column, unit, value in _turns(row) if kind == "annotation" else _wholes(row):
                number = _number(value)
                if number is not None:
                    found.setdefault(column, {})[unit] = number
            for score in row["scores"] if kind == "outcome" else ():
                of_one = scores.setdefault(score["dimension"], {}).setdefault(score["evaluator"], {})
                of_one[row["episode_id"], score["agent"], _WHOLE] = score["score"]
    if len(scores.get(wanted, ())) > 1:
        forms = [f"--outcome {shlex.quote(f'{wanted} by {name}')}" for name in sorted(scores[wanted])]
        raise UsageError(f"Several evaluators gave scores on {wanted!r}.", f"name one: {', or '.join(forms)}")
    for dimension, by_evaluator in scores.items():
        for evaluator, values in by_evaluator.items():
            column = dimension if len(by_evaluator) == 1 else f"{dimension} by {evaluator}"
            found.setdefault(column, {}).update(values)  # a score counts, and not a note of the same name
    return found


def _turns(episode: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str, int], Any]]:
    for turn in episode["turns"]:
        for column, value in _object(turn.get("meta")).items():
            yield column, (episode["episode_id"], turn["agent"], turn["turn"]), value


def _wholes(episode: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str, int], Any]]:
    """Of the dialogue, then of each agent: what is nearer to the agent comes last, and counts."""
    of_episode = _object(episode.get("meta"))
    for agent in episode["agents"]:
        unit = (episode["episode_id"], agent["agent"], _WHOLE)
        for column, value in [*of_episode.items(), *_object(agent.get("meta")).items()]:
            yield column, unit, value


def _object(text: str | None) -> Mapping[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
