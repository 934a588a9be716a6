"""The loopback provider's batch APIs: batches that wait, batches under way, and their results.

The result of a line is drawn from its body and from how often that body was sent, so that a line that failed may
succeed when it is sent again. Batches live as long as this process, so a client may die and come back.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sotopia_rl_data.fake_provider import answers
from sotopia_rl_data.fake_provider.answers import RequestRefused, WireProtocol
from sotopia_rl_data.fake_provider.habits.call import Response
from sotopia_rl_data.fake_provider.running import ProviderOptions

Kind = Literal["succeeded", "errored", "expired", "canceled"]
ReplyTo = Callable[[type[WireProtocol], dict[str, Any]], Response]
_YIELD_EVERY = 32  # lines of a batch answered before the event loop may answer other requests


@dataclass(frozen=True, slots=True)
class LineResult:
    """The result of a request. `body` is its reply, or with `status` the error of a request that errored."""

    custom_id: str
    kind: Kind
    status: int = 200
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Batch:
    """Requests under way together. `ended` is when they ended (Unix seconds), None until then; `refused` is the error
    where none of them was begun."""

    id: str
    requests: list[tuple[str, dict[str, Any]]]
    input_file: str = ""
    metadata: Mapping[str, str] | None = None
    created: float = field(default_factory=time.time)
    cancelling: bool = False
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ended: float | None = None
    refused: tuple[str, str] | None = None
    lines: list[LineResult] = field(default_factory=list)
    looks: int = 0  # how often it was looked at since it ended

    def cancel(self) -> None:
        """End the batch with the requests that are finished."""
        self.cancelling = True
        self.stop.set()

    def count(self, kind: Kind) -> int:
        return sum(line.kind == kind for line in self.lines)


class BatchServer:
    """Every batch and file of one server. `reply` answers one body, and raises RequestRefused where it cannot."""

    def __init__(self, options: ProviderOptions, reply: ReplyTo) -> None:
        self._options = options
        self._reply = reply
        self._sent: Counter[str] = Counter()
        self._stalled: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost: set[str] = set()
        self._doubled = 0
        self._born = f"{time.time_ns() // 1_000_000:x}"
        self.batches: dict[str, Batch] = {}
        self.files: dict[str, bytes] = {}

    @property
    def told(self) -> str:
        """How batches are told, where it is not as their provider does."""
        return self._options.batch_told

    def known(self, name: str) -> Batch:
        """The batch of this id. Raises RequestRefused where there is none."""
        if name not in self.batches:
            raise RequestRefused(404, f"No such batch: {name}")
        return self.batches[name]

    def page(
        self,
        query: Mapping[str, str],
        after: str,
        prefix: str,
        shape: Callable[[BatchServer, Batch], dict[str, Any]],
    ) -> dict[str, Any]:
        """A page of the batches whose ids begin with `prefix`, the newest first. `after` is the parameter of the
        `query` that says where the page begins; `shape` gives the JSON of one batch."""
        names = sorted((name for name in self.batches if name.startswith(prefix)), reverse=True)
        if query.get(after):
            names = [name for name in names if name < query[after]]
        size = int(query.get("limit", 20))
        data = [shape(self, self.batches[name]) for name in names[:size]]
        ends = {"first_id": names[0], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return {"object": "list", "data": data, "has_more": len(names) > size, **ends}

    async def stream(self, lines: Sequence[bytes]) -> AsyncIterator[bytes]:
        """A file's bytes, in two halves; the options may stall the client between them."""
        middle = len(lines) // 2
        yield b"".join(lines[:middle])
        await self.reach("fetch")
        yield b"".join(lines[middle:])

    async def reach(self, step: str) -> None:
        """Hang at this step, where the options say so."""
        if step in self._options.stall.split(",") and self._stalled[step] < self._options.stalls:
            self._stalled[step] += 1
            await asyncio.sleep(self._options.hang)

    def name(self, prefix: str) -> str:
        """A new batch's id, unique among servers and restarts."""
        return f"{prefix}_{self._born}_{len(self.batches) + 1:06}"

    def keep_file(self, content: bytes) -> str:
        name = f"file-{len(self.files) + 1}"
        self.files[name] = content
        return name

    def begin(self, batch: Batch, protocol: type[WireProtocol]) -> Batch:
        """Register the batch and start it."""
        if any(_shared(batch, other) for other in self.batches.values()):
            self._doubled += 1
        self.batches[batch.id] = batch
        queue = self._options.batch_queue
        if queue and sum(len(b.requests) for b in self.batches.values() if b.ended is None) > queue:
            batch.refused = ("token_limit_exceeded", f"Enqueued token limit reached: {queue} requests.")
        if batch.refused:
            batch.ended = time.time()
            return batch
        task = asyncio.create_task(self._run(batch, protocol))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return batch

    def done_share(self, batch: Batch) -> float:
        """How much of a batch is finished, from 0 to 1."""
        seconds = self._options.batch_seconds
        return min((time.time() - batch.created) / seconds, 1.0) if seconds else 1.0

    def hurry(self) -> None:
        """End every batch that is under way now."""
        for batch in self.batches.values():
            batch.stop.set()

    async def _run(self, batch: Batch, protocol: type[WireProtocol]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.batch_seconds):
                await batch.stop.wait()
        reached = int(len(batch.requests) * self.done_share(batch)) if batch.cancelling else None
        for number, (custom_id, body) in enumerate(batch.requests):
            if number % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            begun = reached is None or number < reached
            batch.lines.append(self._line(protocol, custom_id, body) if begun else LineResult(custom_id, "canceled"))
        batch.ended = time.time()

    def _line(self, protocol: type[WireProtocol], custom_id: str, body: dict[str, Any]) -> LineResult:
        options, text = self._options, json.dumps(body, sort_keys=True)
        self._sent[text] += 1
        drawn = answers.share(answers.draw(options.seed, "batch", text, self._sent[text]))
        if drawn < options.batch_failed:
            return _errored(custom_id, protocol, RequestRefused(500, "The server had an error."))
        if drawn < options.batch_failed + options.batch_expired:
            return LineResult(custom_id, "expired")
        try:
            response = self._reply(protocol, body)
        except RequestRefused as refused:
            return _errored(custom_id, protocol, refused)
        return LineResult(
            custom_id, "succeeded" if response.status < 300 else "errored", response.status, response.body
        )

    def scattered(self, batch: Batch, lines: Sequence[LineResult], shape: Callable[[LineResult], bytes]) -> list[bytes]:
        """A results file as this server sends it: out of order, with lines missing, doubled, torn, or of unknown
        ids."""
        options = self._options
        chance = random.Random(f"{options.seed} {batch.id} {len(lines)}")
        sent: list[bytes] = []
        for line in lines:
            text, drawn = shape(line), chance.random()
            if drawn < options.batch_dropped + options.batch_torn and line.kind == "succeeded":
                self._lost.add(line.custom_id)
            if drawn < options.batch_dropped:
                continue
            if drawn < options.batch_dropped + options.batch_torn:
                text = text[: len(text) // 2] + b"\n"
            sent.append(text)
            if chance.random() < options.batch_doubled:
                sent.append(text)
            if chance.random() < options.batch_strange:
                sent.append(shape(replace(line, custom_id=f"strange-{line.custom_id}"[:64])))
        if options.batch_shuffled:
            chance.shuffle(sent)
        return sent

    def log(self) -> dict[str, Any]:
        """Counts since the start. `doubled` counts batches with a request that was under way in another batch or was
        sent before; `lost` the answers that were sent torn or not at all."""
        begun = [batch for batch in self.batches.values() if batch.refused is None]
        return {
            "batches": len(begun),
            "lines": sum(len(batch.requests) for batch in begun),
            "sizes": [len(batch.requests) for batch in begun],
            "ended": sum(batch.ended is not None for batch in begun),
            "doubled": self._doubled,
            "refused": len(self.batches) - len(begun),
            "lost": len(self._lost),
            "files": len(self.files),
            "stalled": dict(self._stalled),
        }


def _errored(custom_id: str, protocol: type[WireProtocol], refused: RequestRefused) -> LineResult:
    return LineResult(custom_id, "errored", refused.status, protocol.error(refused))


def _shared(batch: Batch, other: Batch) -> bool:
    """Whether a request of `batch` is under way in the other batch, or shares a custom_id with a request there."""
    if {name for name, _ in batch.requests} & {name for name, _ in other.requests}:
        return True
    if other.ended is not None:
        return False
    return bool({json.dumps(body) for _, body in batch.requests} & {json.dumps(body) for _, body in other.requests})
