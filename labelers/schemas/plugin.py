"""A schema of somebody's own: checked when it is loaded; what it raises becomes a sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import FunctionType
from typing import TYPE_CHECKING, Any, get_args

from sotopia_rl_data import plugins
from sotopia_rl_data.dimensions import OWN_NAME
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.rewards.rules import rule
from sotopia_rl_data.schema import Episode, Measure

if TYPE_CHECKING:
    from sotopia_rl_data.labelers.schemas import Schema

_MEMBERS = ("id", "version", "measure", "rule", "needs_judge", "bounds", "wording_sha256", "questions", "read")
_HINT = "see what a schema has: python -m pydoc sotopia_rl_data.labelers.schemas.Schema"


def check_plugin(name: str, found: Any) -> Schema:
    """The schema that a plug-in is, or makes. Raises UsageError where it lacks a member or one makes no sense."""
    hint = "let it be made without arguments"
    with plugins.calling(lambda said: UsageError(f"The schema {name} cannot be made: {said}.", hint)):
        made = found() if isinstance(found, type | FunctionType) else found
    lacking = [member for member in _MEMBERS if not hasattr(made, member)]
    if lacking:
        raise UsageError(f"{name} is not a schema: it lacks {', '.join(lacking)}.", _HINT)
    if not isinstance(made.id, str) or not made.id:
        raise UsageError(f"The schema {name} has the id {made.id!r}.", "give it a name: it stands in the data")
    if made.measure not in get_args(Measure):
        raise UsageError(
            f"The schema {name} measures {made.measure!r}.", f"its measure is one of: {', '.join(get_args(Measure))}"
        )
    if not isinstance(made.version, int):
        raise UsageError(f"The schema {name} has the version {made.version!r}.", "count its wordings: 1, 2 …")
    rule(made.rule)
    own = getattr(made, "dimensions", ())
    if not isinstance(own, tuple | list):
        raise UsageError(f"The schema {name} has the dimensions {own!r}.", 'name them in a tuple, as in ("charm",)')
    odd = [one for one in own if not OWN_NAME.fullmatch(str(one))]
    if odd:
        raise UsageError(
            f"The schema {name} has a dimension {odd[0]!r}.", "name it in small letters, digits and underscores"
        )
    checked: Schema = made
    return checked


class PluginSchema:
    """The schema, with every call guarded. Raises UsageError, saying where the schema went wrong."""

    def __init__(self, inner: Schema) -> None:
        self._inner = inner
        self.id, self.version, self.measure, self.rule = inner.id, inner.version, inner.measure, inner.rule
        self.needs_judge = inner.needs_judge

    def __getattr__(self, name: str) -> Any:
        """What a schema may have besides."""
        return getattr(self._inner, name)

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """See `Schema.bounds`."""
        with self._at("its bounds"):
            low, high = map(float, self._inner.bounds(scale, dimension))
        return low, high

    def wording_sha256(self, scale: int = 3) -> str:
        """See `Schema.wording_sha256`."""
        with self._at("the hash of its wording"):
            return self._inner.wording_sha256(scale)

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """See `Schema.questions`."""
        with self._at(f"its questions about the episode {episode.episode_id}"):
            for question in self._inner.questions(episode, dimensions, evaluator, packing, scale):
                if not isinstance(question, Question):
                    raise TypeError(f"{type(question).__name__} is not a Question")
                yield question

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """See `Schema.read`. What it says of slots that the question is not about is left out."""
        with self._at(f"reading an answer about the episode {question.episode.episode_id}"):
            said = self._inner.read(question, text)
            return {slot: float(said[slot]) for slot in question.slots.values() if slot in said}

    def _at(self, doing: str) -> AbstractContextManager[None]:
        hint = "repair it, then run the same command again: what was answered is kept"
        return plugins.calling(lambda said: UsageError(f"The schema {self.id} failed at {doing}: {said}.", hint))
