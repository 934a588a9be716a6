"""Rubrics: utterances rated on dimensions of one's own, described in a YAML file. Episode scores are not used.

    name: support
    shows: history                # or reply, or episode
    about: One or two sentences, said before the dimensions.
    dimensions:
      empathy:
        description: Whether the utterance takes up what the other feels.
        levels: {0: passes over it, 1: names it, 2: answers it}
      brevity:
        description: Whether it is as short as it can be.
        range: [0, 10]            # without range and levels: 0 to --scale

The package comes with one rubric, `conversation-behaviour`: how an agent talks, whatever the outcome. A rubric of your
own is named as `rubric:FILE.yaml`. A rubric is identified by its content, never by the file's path: the recipe holds
its hash, the provenance its full text. Every mistake in the file is reported with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from sotopia_rl_data.dimensions import OWN_NAME, dimension
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.labelers.schemas import phrasing, turnwise
from sotopia_rl_data.labelers.schemas.turnwise import Turnwise, Views
from sotopia_rl_data.schema import Measure
from sotopia_rl_data.yaml_nodes import NodeReader, read_text, shown

Shows = Literal["history", "reply", "episode"]
PREFIX = "rubric:"
# A rubric has at most 20 dimensions, each from 0 to 20 at most, because providers limit the size of an answer schema.
MOST_DIMENSIONS, WIDEST = 20, 20
SHORTEST = "{name: mine, dimensions: {empathy: {description: Takes up what the other feels.}}}"
_HINT = f"begin with {SHORTEST}; a dimension may also have `range` and `levels`, the rubric `about` and `shows`"
_BEHAVIOUR = "conversation-behaviour.v1.yaml"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_TAKEN = frozenset({"reward", "overall_score"})
_INTEGER = re.compile(r"[+-]?\d{1,6}")
_VIEWS: Mapping[Shows, Views] = {
    "history": turnwise.prefixes,
    "reply": turnwise.with_reply,
    "episode": turnwise.whole,
}


@dataclass(frozen=True, slots=True)
class Criterion:
    """One dimension of a rubric: what it means, and its whole numbers.

    `ends` are the lowest and the highest number; None means 0 and `--scale`. `levels` says what some or all of the
    numbers mean.
    """

    name: str
    description: str
    ends: tuple[int, int] | None = None
    levels: tuple[tuple[int, str], ...] = ()

    def allowed(self, scale: int) -> range:
        """The numbers that may be given."""
        low, high = self.ends or (0, scale)
        return range(low, high + 1)

    def text(self, scale: int) -> str:
        """The dimension as a judge reads it, each level on a line of its own."""
        allowed = self.allowed(scale)
        head = f"- {self.name}, {allowed[0]} to {allowed[-1]}: {self.description}"
        return "\n".join([head, *(f"  {level}: {meaning}" for level, meaning in self.levels)])


@dataclass(frozen=True, slots=True)
class Rubric:
    """Dimensions of one's own, after an introduction (`about`). `shows` is how much of the episode a judge sees: the
    `history` up to the utterance, also the `reply` to it, or the whole `episode`."""

    name: str
    dimensions: tuple[Criterion, ...]
    about: str = ""
    shows: Shows = "history"

    def criterion(self, name: str) -> Criterion:
        """The dimension with this name."""
        return next(criterion for criterion in self.dimensions if criterion.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Its content, as JSON holds it."""
        return asdict(self)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the content, whatever the file's comments, layout and path."""
        return sha256_of(self.as_dict())


@dataclass(frozen=True, slots=True, kw_only=True)
class RubricSchema(Turnwise):
    """The schema that asks by a rubric: with views of the episode as in `turnwise.py`, on the rubric's dimensions."""

    rubric: Rubric
    rule: str = "quality"
    measure: Measure = "quality"
    task: str = "rubric.v1"
    question: str = "rubric.question.v1"
    in_range: bool = True
    version: int = 1

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The names of all that can be asked about."""
        return tuple(criterion.name for criterion in self.rubric.dimensions)

    def allowed(self, scale: int, dimension: str) -> range:
        """The numbers that may be given on this dimension of the rubric."""
        return self.rubric.criterion(dimension).allowed(scale)

    def values(self, scale: int) -> dict[str, object]:
        """What fills the placeholders of the task's wording: what is shown, and the rubric itself."""
        return {
            "shown": phrasing.wording(self._shown),
            "about": f"\n{self.rubric.about}\n" if self.rubric.about else "",
            "dimensions": "\n".join(criterion.text(scale) for criterion in self.rubric.dimensions),
        }

    def wording_sha256(self, scale: int = 3) -> str:
        """The hash of the wording files and of the rubric. Raises UsageError where no prompt explains the scale."""
        phrasing.levels_wording(scale)
        used = [self.task, self.question, self._shown, *phrasing.shared(self.wording), phrasing.VIEW_HANDOVER]
        return sha256_of([phrasing.wordings_sha256(used), self.rubric.sha256])

    @property
    def _shown(self) -> str:
        return f"rubric.{self.rubric.shows}.v1"


def schema_of(rubric: Rubric, id_: str | None = None) -> RubricSchema:
    """The schema that asks by this rubric; its `id` is by default `rubric:NAME`."""
    return RubricSchema(id=id_ or PREFIX + rubric.name, views=_VIEWS[rubric.shows], rubric=rubric)


def conversation_behaviour() -> RubricSchema:
    """The bundled rubric, as the schema `conversation-behaviour`."""
    text = (phrasing.PROMPTS / _BEHAVIOUR).read_text(encoding="utf-8")
    return schema_of(parse(text, _BEHAVIOUR), "conversation-behaviour")


def read(path: Path) -> Rubric:
    """The rubric in the file. Raises InputError with the line of what is wrong."""
    return parse(read_text(path, "rubric", "name a YAML file in UTF-8: rubric:FILE.yaml"), str(path))


def parse(text: str, where: str) -> Rubric:
    """The rubric that `text` describes; `where` names it in errors. Raises InputError."""
    reader = _RubricReader(where, "a rubric", _HINT)
    return reader.rubric(reader.root(text))


class _RubricReader(NodeReader):
    """Reads the nodes of one file, from the root down."""

    def rubric(self, root: Any) -> Rubric:
        keys = self.mapping(root, "the rubric", ("name", "dimensions"), ("about", "shows"))
        name = self.text(keys["name"], "name")
        if not _NAME.fullmatch(name):
            self.wrong(keys["name"], f"the name {name!r} may hold only small letters, digits and hyphens")
        shows = self.text(keys["shows"], "shows") if "shows" in keys else "history"
        if shows not in get_args(Shows):
            self.wrong(keys["shows"], f"`shows` must be {' or '.join(get_args(Shows))}, not {shows!r}")
        about = self.text(keys["about"], "about") if "about" in keys else ""
        return Rubric(name, tuple(self._dimensions(keys["dimensions"])), about, cast(Shows, shows))

    def _dimensions(self, node: Any) -> Iterator[Criterion]:
        pairs = self.pairs(node, "`dimensions`")
        if not 1 <= len(pairs) <= MOST_DIMENSIONS:
            self.wrong(node, f"there are {len(pairs)} dimensions, but a rubric takes 1 to {MOST_DIMENSIONS}")
        for key, value in pairs:
            yield self._criterion(self._dimension_name(key), value)

    def _dimension_name(self, key: Any) -> str:
        name = str(key.value)
        if not OWN_NAME.fullmatch(name):
            self.wrong(key, f"the dimension {name!r} may hold only small letters, digits and underscores")
        try:
            taken = name in _TAKEN or bool(dimension(name))
        except UsageError:
            taken = False
        if taken:
            self.wrong(key, f"the dimension {name!r} already has a meaning in every dataset: choose another name")
        return name

    def _criterion(self, name: str, node: Any) -> Criterion:
        keys = self.mapping(node, f"`{name}`", ("description",), ("range", "levels"))
        description = " ".join(self.text(keys["description"], "description").split())
        levels = tuple(self._levels(keys["levels"])) if "levels" in keys else ()
        if "range" in keys:
            low, high = self._range(keys["range"])
        elif levels:
            low, high = levels[0][0], levels[-1][0]
        else:
            return Criterion(name, description)
        about = keys["range" if "range" in keys else "levels"]
        if not 0 < high - low <= WIDEST:
            self.wrong(about, f"{name} goes from {low} to {high}, but must go up by 1 to {WIDEST}")
        outside = [level for level, _ in levels if not low <= level <= high]
        if outside:
            self.wrong(keys["levels"], f"level {outside[0]} of {name} lies outside {low} to {high}")
        return Criterion(name, description, (low, high), levels)

    def _range(self, node: Any) -> tuple[int, int]:
        import yaml

        if not isinstance(node, yaml.SequenceNode) or len(node.value) != 2:
            self.wrong(node, "`range` must be a pair of whole numbers, as in [0, 10]")
        low, high = (self._integer(end) for end in node.value)
        return low, high

    def _levels(self, node: Any) -> Sequence[tuple[int, str]]:
        pairs = self.pairs(node, "`levels`")
        meanings = [(self._integer(key), " ".join(self.text(value, "a level").split())) for key, value in pairs]
        levels = [level for level, _ in meanings]
        twice = next((level for level in levels if levels.count(level) > 1), None)
        if twice is not None:
            self.wrong(node, f"the level {twice} is given twice")
        return sorted(meanings)

    def _integer(self, node: Any) -> int:
        if not isinstance(node.value, str) or not _INTEGER.fullmatch(node.value):
            self.wrong(node, f"{shown(node)} is not a whole number")
        return int(node.value)
