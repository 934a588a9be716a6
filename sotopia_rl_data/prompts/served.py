"""A log of requests that policies really received, matched with imported episodes.

One JSON object a line: `{"prompt": text or messages}`, `{"messages": […]}`, or a request body under `body` or
`request`; `episode_id`, `agent` (id or name) and `turn` where they are known. Without them a request belongs to the
episode and agent whose first observation stands in it, and its turn is the last whose observation does.
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
"""How many characters may stand between two observations, at most."""


@dataclass(frozen=True, slots=True)
class Served:
    """One request of a log: its messages, and what the log says of where it belongs."""

    line: int
    messages: tuple[Message, ...]
    episode_id: str | None = None
    agent: str | None = None
    turn: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """An agent of an episode with what it observed, in the order of turns."""

    episode: Episode
    agent: str
    turns: tuple[int, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a request shows the observations: `before` and `after` are what stands around them in message `index`."""

    known: Known
    turn: int
    index: int
    before: str
    after: str
    joiner: str | None
    strip: bool


def read_served(path: str | Path) -> Iterator[Served | None]:
    """The log's requests, streamed; None for a record that is none. Raises InputError: no file, no JSON lines."""
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield from _read(raw, number, path)
    except OSError as error:
        raise InputError(f"Served log {str(path)!r} cannot be read: {error.strerror}.", "check the path") from error


def _read(raw: bytes, number: int, path: str | Path) -> Iterator[Served | None]:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError) as error:
        if not raw.endswith(b"\n") and number > 1:
            return  # a last line torn by a crash
        raise InputError(
            f"Line {number} of the served log {str(path)!r} is not JSON.", "a served log has one JSON object a line"
        ) from error
    body = next((b for b in _bodies(record) if "messages" in b or "prompt" in b), None)
    messages = None if body is None else _messages(body.get("messages", body.get("prompt")))
    yield None if messages is None else Served(number, messages, *_labels(record))


def _bodies(record: Any) -> Iterator[dict[str, Any]]:
    if isinstance(record, dict):
        yield from (one for one in (record, record.get("body"), record.get("request")) if isinstance(one, dict))


def _labels(record: dict[str, Any]) -> tuple[str | None, str | None, int | None]:
    episode_id, agent, turn = (record.get(key) for key in ("episode_id", "agent", "turn"))
    return (
        episode_id if isinstance(episode_id, str) else None,
        agent if isinstance(agent, str) else None,
        turn if type(turn) is int else None,
    )


def _messages(given: Any) -> tuple[Message, ...] | None:
    if isinstance(given, str):
        return ({"role": "user", "content": given},)
    if not isinstance(given, list):
        return None
    messages = [_message(one) for one in given]
    return tuple(m for m in messages if m is not None) if messages and None not in messages else None


def _message(given: Any) -> Message | None:
    """A message; content in parts (`[{"type": "text", "text": …}]`) is joined. None where it is something else."""
    if not isinstance(given, dict) or given.get("role") not in ("system", "user", "assistant"):
        return None
    content = given.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    return {"role": given["role"], "content": content} if isinstance(content, str) else None


class Index:
    """Imported episodes, found by id, or by a line of the first observation that a request shows.

    `trust_ids`: a request that names an episode belongs to that one or to none. Off, what it shows decides alone.
    """

    def __init__(self, episodes: Iterable[Episode], *, trust_ids: bool = True) -> None:
        self.trust_ids = trust_ids
        self._of_episode: dict[str, list[Known]] = {}
        self._by_line: dict[str, list[Known]] = {}
        self._short: list[Known] = []
        for episode in episodes:
            for agent in episode.agents:
                logged = recorded(episode, agent.agent)
                if logged:
                    self._add(Known(episode, agent.agent, *zip(*((o.turn, o.text) for o in logged), strict=True)))

    def __len__(self) -> int:
        """How many episodes have observations."""
        return len(self._of_episode)

    def _add(self, known: Known) -> None:
        self._of_episode.setdefault(known.episode.episode_id, []).append(known)
        whole_lines = known.texts[0].strip().split("\n")[1:-1]
        if whole_lines:
            self._by_line.setdefault(max(whole_lines, key=len), []).append(known)
        else:
            self._short.append(known)

    def candidates(self, served: Served) -> list[Known]:
        """The agents of episodes that the request may have been for, by its labels, or else by what it shows."""
        if self.trust_ids and served.episode_id is not None:
            shown = [k for k in self._of_episode.get(served.episode_id, []) if _shows(served, k)]
            return _named(served, shown) or shown
        lines = dict.fromkeys(line for m in served.messages for line in m["content"].split("\n"))
        near = [*(k for line in lines for k in self._by_line.get(line, ())), *self._short]
        shown = [k for k in near if _shows(served, k)]
        return _named(served, shown) or shown

    def guesses(self, served: Served) -> Iterator[tuple[Known, int]]:
        """Agents and turns that the request may have been for, the likeliest first."""
        placed = self.place(served) if served.turn is None else None
        if placed is not None:
            yield placed.known, placed.turn
        for known in self.candidates(served):
            for turn in known.turns[::-1] if served.turn is None else (served.turn,):
                yield known, turn

    def place(self, served: Served) -> Placed | None:
        """Where the request shows an agent's observations, one after the other; of several, the longest row."""
        placed = [p for known in self.candidates(served) if (p := _place(served, known))]
        return max(placed, key=lambda p: p.turn, default=None)


def _named(served: Served, known: Sequence[Known]) -> list[Known]:
    return [k for k in known if served.agent in (k.agent, k.episode.agent(k.agent).name)]


def _shows(served: Served, known: Known) -> bool:
    return any(known.texts[0].strip() in m["content"] for m in served.messages)


def _place(served: Served, known: Known) -> Placed | None:
    for index, message in enumerate(served.messages):
        for strip in (False, True):
            texts = [text.strip() for text in known.texts] if strip else known.texts
            found = _locate(message["content"], texts, known.turns, served.turn)
            if found is not None:
                start, end, shown, joiner = found
                before, after = message["content"][:start], message["content"][end:]
                return Placed(known, known.turns[shown - 1], index, before, after, joiner, strip)
    return None


def _locate(
    content: str, texts: Sequence[str], turns: Sequence[int], turn: int | None
) -> tuple[int, int, int, str | None] | None:
    """(start, end, observations shown, joiner) of the row of observations in `content`, or None.

    Where the turn is known, exactly the observations until then must be there; else as many as there are.
    """
    due = len(texts) if turn is None else sum(t <= turn for t in turns)
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
