"""A log of requests that policies really received, matched with imported episodes.

Each line is one JSON object: `{"prompt": text or messages}`, `{"messages": […]}`, or a request body under `body` or
`request`; with `episode_id`, `agent` (id or name) and `turn` where they are known. Without them a request belongs to
the episode and agent whose first observation it contains; its turn is that of the last observation it contains.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.prompts.view import recorded
from sotopia_rl_data.schema import Episode, Message

_FAR = 64
"""The largest number of characters between two observations."""


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """One request of a log: its messages, and the episode, agent and turn if the log names them. `line` is from 1."""

    line: int
    messages: tuple[Message, ...]
    episode_id: str | None = None
    agent: str | None = None
    turn: int | None = None


@dataclass(frozen=True, slots=True)
class Observer:
    """An agent of an episode, by id, with the texts of its observations and their turns, in order."""

    episode: Episode
    agent: str
    turns: tuple[int, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request shows observations: in message `index`, between the texts `before` and `after`.

    `turn` is the turn of the last shown observation. `joiner` is the text between two of them (None: only one is
    shown). `strip`: they are shown without the white space around them.
    """

    observer: Observer
    turn: int
    index: int
    before: str
    after: str
    joiner: str | None
    strip: bool


def read_served(path: str | Path) -> Iterator[ServedRequest | None]:
    """The log's requests, streamed; None for a record that is not a request. An incomplete last line is left out.

    Raises InputError where the file cannot be read or is not JSON lines.
    """
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                try:
                    yield _request(json.loads(raw), number)
                except (ValueError, RecursionError) as error:
                    if not raw.endswith(b"\n") and number > 1:
                        return
                    raise InputError(
                        f"Line {number} of the served log {str(path)!r} is not JSON.",
                        "a served log has one JSON object a line",
                    ) from error
    except OSError as error:
        raise InputError(f"Served log {str(path)!r} cannot be read: {error.strerror}.", "check the path") from error


def _request(record: Any, line: int) -> ServedRequest | None:
    if not isinstance(record, dict):
        return None
    bodies = [body for body in (record, record.get("body"), record.get("request")) if isinstance(body, dict)]
    body = next((body for body in bodies if "messages" in body or "prompt" in body), {})
    messages = _messages(body.get("messages", body.get("prompt")))
    if messages is None:
        return None
    episode_id, agent, turn = (record.get(key) for key in ("episode_id", "agent", "turn"))
    return ServedRequest(
        line,
        messages,
        episode_id if isinstance(episode_id, str) else None,
        agent if isinstance(agent, str) else None,
        turn if type(turn) is int else None,
    )


def _messages(value: Any) -> tuple[Message, ...] | None:
    if isinstance(value, str):
        return ({"role": "user", "content": value},)
    if not isinstance(value, list) or not value:
        return None
    messages = [message for message in map(_message, value) if message is not None]
    return tuple(messages) if len(messages) == len(value) else None


def _message(value: Any) -> Message | None:
    """A message; content in parts (`[{"type": "text", "text": …}]`) is joined. None for anything else."""
    if not isinstance(value, dict) or value.get("role") not in ("system", "user", "assistant"):
        return None
    content = value.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    return {"role": value["role"], "content": content} if isinstance(content, str) else None


class ObservationIndex:
    """The agents of imported episodes, looked up by episode id, or by a line of their first observation.

    `trust_ids`: a request that names an episode belongs to that episode or to none. Otherwise its text alone decides.
    """

    def __init__(self, episodes: Iterable[Episode], *, trust_ids: bool = True) -> None:
        self.trust_ids = trust_ids
        self._of_episode: dict[str, list[Observer]] = {}
        self._by_line: dict[str, list[Observer]] = {}
        self._short: list[Observer] = []
        for episode in episodes:
            for agent in episode.agents:
                logged = recorded(episode, agent.agent)
                if logged:
                    turns, texts = tuple(one.turn for one in logged), tuple(one.text for one in logged)
                    self._add(Observer(episode, agent.agent, turns, texts))

    def _add(self, observer: Observer) -> None:
        self._of_episode.setdefault(observer.episode.episode_id, []).append(observer)
        whole_lines = observer.texts[0].strip().split("\n")[1:-1]
        if whole_lines:
            self._by_line.setdefault(max(whole_lines, key=len), []).append(observer)
        else:
            self._short.append(observer)

    def candidates(self, request: ServedRequest) -> list[Observer]:
        """The agents that the request may have been for: by its episode id, or else by the lines of its text."""
        if self.trust_ids and request.episode_id is not None:
            possible = self._of_episode.get(request.episode_id, [])
        else:
            lines = dict.fromkeys(line for message in request.messages for line in message["content"].split("\n"))
            possible = [*(observer for line in lines for observer in self._by_line.get(line, ())), *self._short]
        shown = [o for o in possible if any(o.texts[0].strip() in m["content"] for m in request.messages)]
        named = [o for o in shown if request.agent in (o.agent, o.episode.agent(o.agent).name)]
        return named or shown

    def guesses(self, request: ServedRequest) -> Iterator[tuple[Observer, int]]:
        """The agents and turns that the request may have been for, the likeliest first."""
        if request.turn is not None:
            yield from ((observer, request.turn) for observer in self.candidates(request))
            return
        placed = self.place(request)
        if placed is not None:
            yield placed.observer, placed.turn
        for observer in self.candidates(request):
            yield from ((observer, turn) for turn in reversed(observer.turns))

    def place(self, request: ServedRequest) -> Placement | None:
        """Where the request shows an agent's observations, one after the other. Of several agents, the one of whom the
        latest turn is shown."""
        places = (_place(request, observer) for observer in self.candidates(request))
        return max((place for place in places if place is not None), key=lambda place: place.turn, default=None)


def _place(request: ServedRequest, observer: Observer) -> Placement | None:
    for index, message in enumerate(request.messages):
        content = message["content"]
        for strip in (False, True):
            texts = [text.strip() for text in observer.texts] if strip else observer.texts
            row = _locate(content, texts, observer.turns, request.turn)
            if row is not None:
                start, end, shown, joiner = row
                turn = observer.turns[shown - 1]
                return Placement(observer, turn, index, content[:start], content[end:], joiner, strip)
    return None


def _locate(
    content: str, texts: Sequence[str], turns: Sequence[int], turn: int | None
) -> tuple[int, int, int, str | None] | None:
    """(start, end, observations shown, joiner) of the row of observations in `content`, or None.

    If the turn is known, the row must have exactly the observations up to it; otherwise it has as many as there are.
    """
    due = len(texts) if turn is None else len([observed for observed in turns if observed <= turn])
    start = content.find(texts[0])
    if start < 0 or due == 0:
        return None
    end, shown, joiner = start + len(texts[0]), 1, None
    for text in texts[1:due]:
        if joiner is None:
            at = content.find(text, end, end + _FAR + len(text))
            if at < 0:
                break
            joiner = content[end:at]
        if not content.startswith(joiner + text, end):
            break
        end, shown = end + len(joiner) + len(text), shown + 1
    return (start, end, shown, joiner) if turn is None or shown == due else None
