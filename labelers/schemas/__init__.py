"""Schemas: how an episode's score is traced back to its utterances. One file for each family; the lookup is here.

    offline.py   show the whole episode (direct, scaled, singular), or ask no judge (uniform, discounted)
    turnwise.py  show views of it: direct-online, goal-progress, utterance-quality, only-response, leave-one-out
    rubric.py    ask about dimensions of one's own: conversation-behaviour, `rubric:FILE.yaml`
    phrasing.py  the wording and the transcript, which all schemas share
    answers.py   what an answer may look like

A schema owns its wording, its answer schema, its validation and what it yields. Turning its numbers into rewards is the
business of rules (`sotopia_rl_data.rewards`), which can therefore be re-run without a call. A new built-in schema is an
entry in BUILTINS: a subclass of `Offline`, or a `Turnwise` with two wording files of its own. A schema of your own is
an object with the members of `Schema`, or a class or function that makes one, named as `path/to/file.py:Name` or by an
entry point in the group `sotopia_rl_data.schemas`. It is checked when it is loaded, and what it raises is reported in a
sentence instead of a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol, get_args

from sotopia_rl_data import plugins
from sotopia_rl_data.dimensions import OWN_NAME
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas.phrasing import WORDINGS, Packing, Wording
from sotopia_rl_data.schema import Episode, Measure

GROUP = "sotopia_rl_data.schemas"
BUILTINS = {
    "direct": "sotopia_rl_data.labelers.schemas.offline:DIRECT",
    "scaled": "sotopia_rl_data.labelers.schemas.offline:SCALED",
    "singular": "sotopia_rl_data.labelers.schemas.offline:SINGULAR",
    "uniform": "sotopia_rl_data.labelers.schemas.offline:UNIFORM",
    "uniform-share": "sotopia_rl_data.labelers.schemas.offline:UNIFORM_SHARE",
    "discounted": "sotopia_rl_data.labelers.schemas.offline:DISCOUNTED",
    "direct-online": "sotopia_rl_data.labelers.schemas.turnwise:DIRECT_ONLINE",
    "goal-progress": "sotopia_rl_data.labelers.schemas.turnwise:GOAL_PROGRESS",
    "utterance-quality": "sotopia_rl_data.labelers.schemas.turnwise:UTTERANCE_QUALITY",
    "only-response": "sotopia_rl_data.labelers.schemas.turnwise:ONLY_RESPONSE",
    "leave-one-out": "sotopia_rl_data.labelers.schemas.turnwise:LEAVE_ONE_OUT",
    "conversation-behaviour": "sotopia_rl_data.labelers.schemas.rubric:conversation_behaviour",
}


_MEMBERS = ("id", "version", "measure", "rule", "needs_judge", "bounds", "wording_sha256", "questions", "read")
_HINT = "see what a schema has: python -m pydoc sotopia_rl_data.labelers.schemas.Schema"


class Schema(Protocol):
    """What is asked, what is accepted, what it yields.

    `id` stands in the `schema` column. `version` rises with every change of its own wording or meaning. `measure` is
    the kind of raw number. `rule` names the default rule that turns it into a reward. `needs_judge` is False where
    nothing is asked. A schema may also have `needs_score = False`, where its numbers mean something without the
    episode's score (default: True), and `dimensions`, where it asks about others than SOTOPIA-EVAL's (default: none).
    The built-in families have `wording`, how episodes are shown to judges, which a run chooses.
    """

    @property
    def id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def measure(self) -> Measure: ...
    @property
    def rule(self) -> str: ...
    @property
    def needs_judge(self) -> bool: ...

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """The range [scale_min, scale_max] of a raw attribution on this dimension, for levels from 0 to `scale`."""
        ...

    def wording_sha256(self, scale: int = 3) -> str:
        """A hash of all wordings that a question on this scale is made from."""
        ...

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """The questions that label this episode; none about an agent's dimension where its score is needed and
        missing."""
        ...

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """The raw number of every slot of the question. Raises BadAnswer, with a readable reason, where one is
        missing."""
        ...


def schema(name: str) -> Schema:
    """The schema called `name`. Raises UsageError, which lists the schemas, and InputError where a rubric's file cannot
    be used."""
    if name.startswith("rubric:"):
        return _rubric(name.removeprefix("rubric:"))
    if name.endswith((".yaml", ".yml")):
        raise UsageError(f"{name} is a file, not a schema's name.", f"if the file holds a rubric, write rubric:{name}")
    found = plugins.load("schema", GROUP, name, BUILTINS)
    if name in BUILTINS:
        builtin: Schema = found() if isinstance(found, FunctionType) else found
        return builtin
    return PluginSchema(check_plugin(name, found))


def _rubric(path: str) -> Schema:
    from sotopia_rl_data.labelers.schemas import rubric

    if not path:
        raise UsageError(
            "The schema 'rubric:' needs a file after the colon.",
            f"write rubric:FILE.yaml; the shortest such file is {rubric.SHORTEST}",
        )
    return rubric.schema_of(rubric.read(Path(path)))


def own_dimensions(schema: Schema) -> tuple[str, ...]:
    """The dimensions that the schema asks about, where they are not SOTOPIA-EVAL's; else none."""
    return tuple(getattr(schema, "dimensions", ()))


def wording_of(schema: Schema) -> Wording | None:
    """How the schema shows episodes to judges; None where it asks nobody, or is a plug-in with a way of its own."""
    wording = getattr(schema, "wording", None)
    return wording if wording in WORDINGS else None


def in_wording(schema: Schema, wording: str | None) -> Schema:
    """The schema, showing episodes in this wording; None: in its own. Raises UsageError where there is no such wording,
    or the schema has no choice."""
    if wording is None:
        return schema
    if wording not in WORDINGS:
        raise UsageError(f"{wording!r} is not a wording.", f"use --wording {' or --wording '.join(WORDINGS)}")
    if wording_of(schema) is None:
        raise UsageError(
            f"The schema {schema.id!r} does not show episodes in one of our wordings, so none can be chosen.",
            "leave --wording out",
        )
    if isinstance(schema, PluginSchema):
        return PluginSchema(in_wording(schema.inner, wording))
    return replace(schema, wording=wording)  # type: ignore[type-var]  # a schema with a wording is a dataclass of ours


# --- plug-ins ---------------------------------------------------------------------------------------------------------


def check_plugin(name: str, plugin: Any) -> Schema:
    """The schema that the plug-in is, or that it makes. Raises UsageError where it lacks a member or one makes no
    sense."""
    from sotopia_rl_data.rewards.rules import rule

    hint = "repair the plug-in: calling it without arguments must return the schema"
    with plugins.calling(lambda error: UsageError(f"The schema {name} cannot be made: {error}.", hint)):
        schema = plugin() if isinstance(plugin, type | FunctionType) else plugin
    lacking = [member for member in _MEMBERS if not hasattr(schema, member)]
    if lacking:
        raise UsageError(f"{name} is not a schema: it lacks {', '.join(lacking)}.", _HINT)
    if not isinstance(schema.id, str) or not schema.id:
        raise UsageError(
            f"The schema {name} has the id {schema.id!r}, but its id must be a name.",
            "set its `id` to a short name, which the column `schema` of the data will hold",
        )
    if schema.measure not in get_args(Measure):
        raise UsageError(
            f"The schema {name} measures {schema.measure!r}, which is not a known measure.",
            f"set its `measure` to one of: {', '.join(get_args(Measure))}",
        )
    if not isinstance(schema.version, int):
        raise UsageError(
            f"The schema {name} has the version {schema.version!r}, but a whole number is needed.",
            "set its `version` to 1, and raise it with every change of the wording",
        )
    rule(schema.rule)  # raises UsageError where no rule has this name
    own = getattr(schema, "dimensions", ())
    if not isinstance(own, tuple | list):
        raise UsageError(
            f"The schema {name} has the dimensions {own!r}, but a tuple of names is needed.",
            'write a tuple also for one dimension: dimensions = ("charm",)',
        )
    misnamed = [dimension for dimension in own if not OWN_NAME.fullmatch(str(dimension))]
    if misnamed:
        raise UsageError(
            f"The schema {name} has a dimension {misnamed[0]!r}, which cannot be the name of a column.",
            "name the dimension with small letters, digits and underscores, a letter first",
        )
    checked: Schema = schema
    return checked


class PluginSchema:
    """A plug-in schema with every call guarded: what it raises becomes a UsageError that says where it failed."""

    def __init__(self, inner: Schema) -> None:
        self.inner = inner
        self.id, self.version, self.measure, self.rule = inner.id, inner.version, inner.measure, inner.rule
        self.needs_judge = inner.needs_judge

    def __getattr__(self, name: str) -> Any:
        """The optional members of a schema."""
        return getattr(self.inner, name)

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """See `Schema.bounds`."""
        with self._at("its bounds"):
            low, high = map(float, self.inner.bounds(scale, dimension))
        return low, high

    def wording_sha256(self, scale: int = 3) -> str:
        """See `Schema.wording_sha256`."""
        with self._at("the hash of its wording"):
            return self.inner.wording_sha256(scale)

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """See `Schema.questions`."""
        with self._at(f"its questions about the episode {episode.episode_id}"):
            for question in self.inner.questions(episode, dimensions, evaluator, packing, scale):
                if not isinstance(question, Question):
                    raise TypeError(f"expected a Question and got: {type(question).__name__}")
                yield question

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """See `Schema.read`. Slots that the question is not about are left out."""
        with self._at(f"reading an answer about the episode {question.episode.episode_id}"):
            values = self.inner.read(question, text)
            return {slot: float(values[slot]) for slot in question.slots.values() if slot in values}

    def _at(self, doing: str) -> AbstractContextManager[None]:
        hint = "repair the schema, then run the same command again: the answers so far are kept"
        return plugins.calling(lambda error: UsageError(f"The schema {self.id!r} failed at {doing}: {error}.", hint))
