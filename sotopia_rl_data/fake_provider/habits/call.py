"""What a habit is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sotopia_rl_data.fake_provider.answers import WireProtocol


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent back: a JSON value, or bytes that go out as they are. A line of a batch takes JSON alone. `after` is
    how many seconds the server waits first, `drip` how many it waits between two bytes."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0
    drip: float = 0.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a model. `number` counts the calls that met this habit, from 1; `_complete` makes the reply that
    is given without a habit, and counts it."""

    protocol: type[WireProtocol]
    body: Mapping[str, Any]
    number: int
    headers: Mapping[str, str]
    _complete: Callable[[], dict[str, Any]]

    @property
    def openai(self) -> bool:
        """True for OpenAI's protocol, False for Anthropic's."""
        return self.protocol.path.endswith("completions")

    def reply(self) -> dict[str, Any]:
        """The reply that is given without a habit. Raises RequestRefused."""
        return self._complete()

    def answer(
        self, change: Callable[[str], str], *, finish: str = "", usage: Mapping[str, Any] | None = None
    ) -> Response:
        """The reply with its text changed; with another reason why it stopped, or other usage, where these are
        given."""
        reply = self.reply()
        self.protocol.set_text(reply, change(self.protocol.text_of(reply)))
        if finish:
            self.protocol.set_finish(reply, finish)
        if usage is not None:
            reply["usage"] = dict(usage)
        return Response(reply)


Habit = Callable[[Call], Response | None]


def named(habits: Iterable[Habit]) -> dict[str, Habit]:
    """Habits by the names of their functions."""
    return {habit.__name__: habit for habit in habits}
