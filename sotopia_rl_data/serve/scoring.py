"""Requests of many clients scored together: a bounded queue, and one thread that scores whatever waits in it.

A batch is as many whole requests as have waited while the batch before was scored, so that a lone client waits for
nobody and many share their prefixes in packed rows. What waits is bounded by its number of completions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sotopia_rl_data.errors import Unavailable
from sotopia_rl_data.serve.sources import Dialogue, Scores

Score = Callable[[Sequence[Dialogue]], Scores]
"""See `RewardSource.score`."""


class Full(Exception):
    """The queue has no room; `seconds` is about how long until it has."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


@dataclass(slots=True)
class _Waiting:
    """A request in the queue, and where its scores or its error go."""

    dialogues: Sequence[Dialogue]
    scores: asyncio.Future[Scores]


class BatchedScoring:
    """Scores dialogues in batches of about `batch`, with at most `most_waiting` of them waiting. `run` is a task for as
    long as the server lives."""

    def __init__(self, score: Score, *, batch: int = 64, most_waiting: int = 4_096) -> None:
        self.waiting = 0  # dialogues in the queue
        self.scored = 0  # dialogues so far
        self._score_all, self._batch, self._most = score, batch, most_waiting
        self._queue: deque[_Waiting] = deque()
        self._more = asyncio.Event()
        self._pace = 0.05  # seconds that a dialogue took of late

    async def score(self, dialogues: Sequence[Dialogue]) -> Scores:
        """[N, K] rewards by target. Raises Full, and InputError where one of these dialogues cannot be scored."""
        if self.waiting and self.waiting + len(dialogues) > self._most:
            raise Full(self.waiting * self._pace)
        waiting = _Waiting(dialogues, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self.waiting += len(dialogues)
        self._more.set()
        return await waiting.scores

    async def run(self) -> None:
        """Score what comes, until cancelled."""
        with ThreadPoolExecutor(1, "scoring") as thread:
            while True:
                await self._more.wait()
                batch = self._next()
                if not batch:
                    self._more.clear()
                    continue
                began = asyncio.get_running_loop().time()
                await asyncio.get_running_loop().run_in_executor(thread, self._score, batch)
                size = sum(len(waiting.dialogues) for waiting in batch)
                self._pace = (asyncio.get_running_loop().time() - began) / max(size, 1)
                self.scored += size

    def _next(self) -> list[_Waiting]:
        """The next whole requests of the queue; a client that has gone is left out."""
        batch: list[_Waiting] = []
        size = 0
        while self._queue and (not batch or size + len(self._queue[0].dialogues) <= self._batch):
            waiting = self._queue.popleft()
            self.waiting -= len(waiting.dialogues)
            if not waiting.scores.cancelled():
                batch.append(waiting)
                size += len(waiting.dialogues)
        return batch

    def _score(self, batch: Sequence[_Waiting]) -> None:
        """Score a batch; where that fails, each of its requests alone, so that only one that is to blame fails. Where a
        judge is down, none is asked again."""
        try:
            scores = self._score_all([one for waiting in batch for one in waiting.dialogues])
        except Exception as error:  # noqa: BLE001  whatever it is, its client has to be told
            if len(batch) == 1 or isinstance(error, Unavailable):
                for waiting in batch:
                    _tell(waiting.scores, error)
            else:
                for waiting in batch:
                    self._score([waiting])
            return
        for waiting in batch:
            own, scores = scores[: len(waiting.dialogues)], scores[len(waiting.dialogues) :]
            _tell(waiting.scores, own)


def _tell(future: asyncio.Future[Scores], result: Scores | Exception) -> None:
    """Settle a future of the event loop from the scoring thread."""

    def settle() -> None:
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    future.get_loop().call_soon_threadsafe(settle)
