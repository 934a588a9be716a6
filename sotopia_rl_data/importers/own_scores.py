"""Scores on dimensions of a source's own: found in its `meta`, or read with its episodes, and checked against the
ranges that were declared for them.

    --score csat=1..5            --score csat@assistant=1..5            --score rubric.yaml

A number in the meta of turns is an utterance's, and becomes an attribution; in the meta of agents it is an agent's
score; in the meta of the episode a score of everybody, or of the agent whose id or name is above or below it (as in
{"outcomes": {"Mia": {"points": 20}}}), or of the one agent that the declaration names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sotopia_rl_data.dimensions import OWN_NAME, dimension
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.importers.formats.format import Located, loosely
from sotopia_rl_data.importers.record import UNNAMED, finite
from sotopia_rl_data.schema import Attribution, Episode, Failure, Score

SCHEMA = "imported"
"""The schema of an utterance's imported scores; they have the measure `quality`."""

_DECLARED = re.compile(r"(?P<name>[^@=]+)(?:@(?P<agent>[^=]+))?=(?P<low>[^=]+?)\.\.(?P<high>[^=]+)")
_HINT = "write --score NAME=LOW..HIGH, as in --score csat=1..5, or --score NAME@AGENT=LOW..HIGH for one agent's"

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeclaredScore:
    """A dimension of the source's own, whose scores lie in [low, high]; `agent` is the id or name of the only agent
    that a dialogue's score is about (None: all)."""

    name: str
    low: float
    high: float
    agent: str | None = None

    def __post_init__(self) -> None:
        try:
            known = dimension(self.name)
        except UsageError:
            known = None
        if known is None and (not OWN_NAME.fullmatch(self.name) or self.name in ("reward", "overall_score")):
            raise UsageError(
                f"{self.name!r} cannot be the name of a dimension.",
                "use small letters, digits and underscores, a letter first, not `reward`; --map can rename a column",
            )
        if known is not None and (known.name, known.low, known.high) != (self.name, self.low, self.high):
            raise UsageError(
                f"{self.name!r} is the SOTOPIA-EVAL dimension {known.name}, which goes from {known.low:g} to "
                f"{known.high:g}.",
                f"write --score {known.name}={known.low:g}..{known.high:g}, or --map the column to another name",
            )
        if not self.low < self.high:
            raise UsageError(f"The range of {self.name} goes from {self.low:g} to {self.high:g}.", _HINT)

    def check(self, value: Any) -> float:
        """`value` (a number, its text, or true and false for 1 and 0) as a score. Raises InputError."""
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise InputError(f"the {self.name} score is {value[:40]!r}, not a number.") from None
        number = finite(float(value) if isinstance(value, bool) else value, f"the {self.name} score")
        if not self.low <= number <= self.high:
            raise InputError(f"the {self.name} score {number:g} lies outside {self.low:g} to {self.high:g}.")
        return number


def parse_score(text: str) -> DeclaredScore:
    """ "csat=1..5" or "csat@assistant=1..5". Raises UsageError."""
    match = _DECLARED.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        low, high = float(match["low"]), float(match["high"])
    except ValueError:
        raise UsageError(f"{text!r} does not declare a score.", _HINT) from None
    return DeclaredScore(match["name"].strip(), low, high, match["agent"] and match["agent"].strip())


def with_scores(located: Located, declared: Sequence[DeclaredScore]) -> Located:
    """The items with their records; an Episode has its scores on the declared dimensions too, and is followed by its
    utterances' scores and by a Failure for each score that is refused."""
    for item, record in located:
        if not declared or not isinstance(item, Episode):
            yield item, record
            continue
        more: list[Attribution | Failure] = []
        for one in declared:
            item = _scored(item, one, more)
        yield item, record
        for label in more:
            yield replace(label, source=record.source) if isinstance(label, Failure) else label, record


def _scored(episode: Episode, one: DeclaredScore, more: list[Attribution | Failure]) -> Episode:
    scores = [
        _in_range(episode, score, one, more) if score.dimension == one.name else score for score in episode.scores
    ]
    found: list[Score] = []
    utterances = [(turn, value) for turn in episode.turns for _, value in _leaves(turn.meta, one.name)]
    for turn, value in utterances:
        _kept(episode, one, turn.agent, value, more, turn.turn)
    for agent in episode.agents:
        for _, value in _leaves(agent.meta, one.name):
            found += _kept(episode, one, agent.agent, value, more)
    for path, value in _leaves(episode.meta, one.name):
        for name in _about(episode, path, one.agent):
            found += _kept(episode, one, name, value, more)
    known = {(score.agent, score.dimension, score.evaluator) for score in scores if score}
    fresh = {(score.agent, score.dimension, score.evaluator): score for score in found}
    added = [score for key, score in fresh.items() if key not in known]
    return replace(episode, scores=(*(score for score in scores if score), *added))


def _in_range(episode: Episode, score: Score, one: DeclaredScore, more: list[Attribution | Failure]) -> Score | None:
    """A score that came with the episode, with its declared range; None where it lies outside."""
    kept = _kept(episode, one, score.agent, score.score, more)
    return replace(kept[0], evaluator=score.evaluator) if kept else None


def _kept(
    episode: Episode,
    one: DeclaredScore,
    agent: str,
    value: Any,
    more: list[Attribution | Failure],
    turn: int | None = None,
) -> list[Score]:
    """The score, if it is an agent's; an utterance's goes into `more`, and so does a refusal."""
    try:
        number = one.check(value)
    except InputError as error:
        reason = f"{error.message.rstrip('.')}, and was left out."
        more.append(Failure(reason, episode.episode_id, agent, turn, one.name))
        return []
    if turn is None:
        return [Score(agent, one.name, number, UNNAMED, *_own_range(one))]
    more.append(
        Attribution(
            episode.episode_id, agent, turn, one.name, SCHEMA, "quality", UNNAMED, 0, number, one.low, one.high, ""
        )
    )
    return []


def _own_range(one: DeclaredScore) -> tuple[float | None, float | None]:
    """The range that a score carries: none on a dimension of SOTOPIA-EVAL."""
    return (one.low, one.high) if OWN_NAME.fullmatch(one.name) and not _is_known(one.name) else (None, None)


def _is_known(name: str) -> bool:
    try:
        return bool(dimension(name))
    except UsageError:
        return False


def _about(episode: Episode, path: Path, only: str | None) -> list[str]:
    """The ids of the agents that a number of the episode's meta is about."""
    if only is not None:
        return [one.agent for one in episode.agents if only in (one.agent, one.name)]
    in_path = [one.agent for one in episode.agents if one.agent in path or one.name in path]
    return in_path or [one.agent for one in episode.agents]


def _leaves(meta: str | None, name: str) -> list[tuple[Path, Any]]:
    """The values below the key `name` in a meta, with the keys above each; of nested keys only the outermost count."""
    return [] if meta is None else list(_below(json.loads(meta), name, (), False))


def _below(value: Any, name: str, path: Path, inside: bool) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping):
        here = [key for key in value if loosely(str(key)) == name]
        keys = here if here and not inside else list(value)
        for key in keys:
            yield from _below(value[key], name, (*path, str(key)), inside or key in here)
    elif inside and value is not None and not isinstance(value, list):
        yield path, value
