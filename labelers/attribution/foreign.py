"""A schema of somebody's own: checked when it is loaded; what it raises becomes a sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from labelers.attribution.phrasing import Ask
from labelers.judge import Question, Slot
from sotopia_rl_data.dimensions import OWN_NAME
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.rewards.rules import rule
from sotopia_rl_data.schema import Episode, Measure

if TYPE_CHECKING:
    from labelers.attribution import Schema

_MEMBERS = ("id", "version", "measure", "rule", "needs_judge", "bounds", "wording_sha256", "questions", "read")
_MEND = "see what a schema has: python -m pydoc labelers.attribution.Schema"

# What code of somebody's own can raise when it goes wrong. An interrupt, and an error of ours, passes through.
_WRONG = (ArithmeticError, AttributeError, LookupError, NameError, OSError, RuntimeError, TypeError, ValueError)


def made_of(name: str, found: Any) -> Schema:
    """The schema that a plug-in is, or makes. Raises UsageError where it lacks a member or one makes no sense."""
    try:
        made = found() if isinstance(found, type | FunctionType) else found
    except _WRONG as wrong:
        raise UsageError(f"The schema {name} cannot be made: {wrong}.", "let it be made without arguments") from wrong
    lacking = [member for member in _MEMBERS if not hasattr(made, member)]
    if lacking:
        raise UsageError(f"{name} is not a schema: it lacks {', '.join(lacking)}.", _MEND)
    if not isinstance(made.id, str) or not made.id:
        raise UsageError(f"The schema {name} has the id {made.id!r}.", "give it a name: it stands in the data")
    if made.measure not in get_args(Measure):
        raise UsageError(
            f"The schema {name} measures {made.measure!r}.", f"its measure is one of: {', '.join(get_args(Measure))}"
        )
    rule(made.rule)
    odd = [one for one in getattr(made, "dimensions", ()) if not OWN_NAME.fullmatch(str(one))]
    if odd:
        raise UsageError(
            f"The schema {name} has a dimension {odd[0]!r}.", "name it in small letters, digits and underscores"
        )
    checked: Schema = made
    return checked


class Foreign:
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
        try:
            low, high = self._inner.bounds(scale, dimension)
        except _WRONG as wrong:
            self._failed("its bounds", wrong)
        return low, high

    def wording_sha256(self, scale: int = 3) -> str:
        """See `Schema.wording_sha256`."""
        try:
            return self._inner.wording_sha256(scale)
        except _WRONG as wrong:
            self._failed("the hash of its wording", wrong)

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, ask: Ask, scale: int
    ) -> Iterator[Question]:
        """See `Schema.questions`."""
        try:
            yield from self._inner.questions(episode, dimensions, evaluator, ask, scale)
        except _WRONG as wrong:
            self._failed(f"its questions about the episode {episode.episode_id}", wrong)

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """See `Schema.read`."""
        try:
            return self._inner.read(question, text)
        except _WRONG as wrong:
            self._failed(f"reading an answer about the episode {question.episode.episode_id}", wrong)

    def _failed(self, at: str, wrong: Exception) -> NoReturn:
        said = " ".join(f"{type(wrong).__name__}: {wrong}".split()).rstrip(".")
        raise UsageError(
            f"The schema {self.id} failed at {at}: {said}.",
            "repair it, then run the same command again: what was answered is kept",
        ) from wrong
