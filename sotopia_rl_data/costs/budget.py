"""A hard cap on what a run may cost. The worst that a call can cost is reserved before it leaves, and released to what
it did cost when its answer comes.

What cannot be reserved waits for what is in flight; where nothing is in flight and it still does not fit, the budget
is exhausted. A call that may have been billed without an answer (a timeout, a lost connection) keeps all of its
reservation. Reservations are durable before the call leaves: what was in flight when a process was killed still counts
in the next run. What is in a batch is reserved likewise, at a batch's price, from `take` or `carry` to `came`; that it
is under way is on record beside the batch itself. Runs that share a budget wait for what the others release
(`Waiters`). Leaves out taxes, subscriptions and whatever a provider does not bill by tokens.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotopia_rl_data.costs.prices import NOTHING, Price, Prices
from sotopia_rl_data.costs.tokens import limit_in, limit_of, most_prompt_tokens
from sotopia_rl_data.errors import StoreError, UsageError
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.index import short
from sotopia_rl_data.ledger.journal import Journal
from sotopia_rl_data.locks import open_lock, take
from sotopia_rl_data.request import Request, Target, Usage

_LOCK = ".budget.lock"
_SLACK = 1e-9  # USD, of sums of floats
_CLOCK_S = 0.01  # between what was reserved and what was sent


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """What is reserved for one call: USD, since when (Unix seconds)."""

    key: str
    usd: float
    time: float
    price: Price = NOTHING


class Budget:
    """The cap, what is spent, what is reserved; all in USD. `directory` is the ledger's. For one event loop.

    Raises StoreError where another process keeps a budget on the same ledger: two could not see each other's spending.
    """

    def __init__(self, cap: float, prices: Prices, directory: Path, spent: float = 0.0) -> None:
        self._alone = _lock(directory)
        self.cap = cap
        self.spent = spent
        self.reserved = 0.0
        self.in_batches = 0.0
        self.exhausted = False
        self._prices = prices
        self._journal = Journal(directory, "holds")
        self._held: set[Hold] = set()
        self._released: list[Hold] = []  # of which the record does not say so yet
        self._left = False  # whether any hold was given up
        self._batched: dict[int, float] = {}  # short key of what is in a batch -> what is reserved for it
        self.seen: dict[str, frozenset[str]] = {}  # name of a folder of batches -> those that were told (`carry`)
        self.waiters = Waiters()  # of those who ask in batches
        self._stopped = False
        self._gate = asyncio.Lock()
        self._moved = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether the cap is passed by what is reserved: it was larger once, or there was none."""
        return not self._fits(0.0)

    async def reserve(self, key: str, request: Request) -> Hold | None:
        """Reserve the worst that the call can cost, durably. None after `stop`, or where it can never fit."""
        price = price_of(self._prices, request.target)
        usd = price.most(most_prompt_tokens(request), limit_of(request))
        async with self._gate:
            while not self._stopped and not self._fits(usd):
                if not self._held:
                    self.exhausted = True
                    return None
                self._moved.clear()
                await self._moved.wait()
            return None if self._stopped else self._take(Hold(key, usd, time.time(), price))

    def answered(self, hold: Hold, usage: Usage) -> None:
        """Release the reservation to what the answer cost: all of it, where the tokens are unknown."""
        self._release(hold, hold.usd if usage == Usage() else hold.price.cost(usage))

    def failed(self, hold: Hold, maybe_billed: bool) -> None:
        """Release the reservation of a call that brought no answer; where it may have been billed, all is spent."""
        self._release(hold, hold.usd if maybe_billed else 0.0)

    def given_up(self, hold: Hold) -> None:
        """Nobody waits for the answer any more: all is spent, and on record for the next run."""
        self._left = True
        self._drop(hold, hold.usd)

    def take(self, key: str, request: Request) -> bool:
        """Reserve the worst that the call can cost in a batch, without waiting. False where it does not fit now."""
        most = most_prompt_tokens(request)
        fits = not self._stopped and self._fits(self._in_a_batch(request.target, most))
        if fits:
            self.carry(key, request.target, most)
        return fits

    def carry(self, key: str, target: Target, most_input: int) -> None:
        """Reserve for what is in a batch since an earlier run. It may pass the cap: it will be billed all the same."""
        usd, before = self._in_a_batch(target, most_input), self._batched.get(short(key), 0.0)
        self._batched[short(key)] = usd
        self.in_batches += usd - before

    def came(self, key: str, target: Target, usage: Usage | None) -> None:
        """Release the reservation of what was in a batch to what it cost: nothing where `usage` is None, all of it
        where the tokens are unknown."""
        held = self._batched.pop(short(key), None)
        if held is None:  # of other labels, or paid by an earlier run
            return
        self.in_batches = self.in_batches - held if self._batched else 0.0
        if usage is not None:
            cost = price_of(self._prices, target).cost(usage) * self._prices.batch
            self.spent += held if usage == Usage() else cost

    def stop(self) -> None:
        """Reserve nothing any more."""
        self._stopped = True
        self._moved.set()
        self.waiters.close()

    def close(self) -> None:
        """Close the record of reservations; where all were released it goes."""
        self._record()
        self._journal.close()
        if self._journal.path is not None and not self._held and not self._left:
            self._journal.path.unlink(missing_ok=True)
        os.close(self._alone)

    def _fits(self, usd: float) -> bool:
        return self.spent + self.reserved + self.in_batches + usd <= self.cap + _SLACK

    def _in_a_batch(self, target: Target, most_input: int) -> float:
        """The worst that a call can cost there."""
        return price_of(self._prices, target).most(most_input, limit_in(target.sampling)) * self._prices.batch

    def _take(self, hold: Hold) -> Hold:
        self._record()
        self._write(hold, 1)
        self._held.add(hold)
        self.reserved += hold.usd
        return hold

    def _release(self, hold: Hold, cost: float) -> None:
        self._released.append(hold)
        self._drop(hold, cost)

    def _drop(self, hold: Hold, cost: float) -> None:
        self._held.discard(hold)
        self.reserved = self.reserved - hold.usd if self._held else 0.0
        self.spent += cost
        self._moved.set()

    def _record(self) -> None:
        """Write down what was released: only now, when its answer is surely in the ledger."""
        for hold in self._released:
            self._write(hold, -1)
        self._released.clear()

    def _write(self, hold: Hold, sign: int) -> None:
        record = {"key": hold.key, "usd": sign * hold.usd, "time": hold.time}
        self._journal.append(json.dumps(record).encode() + b"\n")


def left_behind(directory: Path) -> Iterator[Hold]:
    """Reservations that were never released: by a process that was killed, or that is still at work."""
    for path in sorted(directory.glob("holds-*.jsonl")):
        open_: dict[tuple[str, float], Hold] = {}
        for record in _records(path):
            place = record["key"], record["time"]
            if record["usd"] > 0:
                open_[place] = Hold(record["key"], record["usd"], record["time"])
            else:
                open_.pop(place, None)
        yield from open_.values()


def is_lost(hold: Hold, attempts: Iterable[Attempt]) -> bool:
    """Whether none of the attempts at the hold's key is the call that it was reserved for: it may have been billed, and
    nobody knows. A later run may have made the call again: that attempt began after the hold."""
    return not any(
        attempt.time - attempt.seconds - _CLOCK_S <= hold.time <= attempt.time
        for attempt in attempts
        if not attempt.batch
    )


def price_of(prices: Prices, target: Target) -> Price:
    """The price by which a cap on costs is kept. Raises UsageError where it cannot be kept: the price is unknown, or
    the longest answer."""
    price = prices.of(target)
    if price is None:
        raise UsageError(
            f"There is no price for {target.model} at {target.base_url or target.provider}, so no budget can be kept.",
            "write its USD per million tokens (input, cached, written, output) into a file for --prices FILE: "
            f'{{as_of: 2026-11-01, hosts: {{"*": {{"{target.model}": [2.5, 1.25, 2.5, 10]}}}}}}',
        )
    if price != NOTHING and limit_in(target.sampling) is None and price.longest is None:
        raise UsageError(
            f"How long an answer of {target.model} may get is not known, so no budget can be kept.",
            "set the longest answer: --max-tokens 4096",
        )
    return price


def check_cap(cap: float) -> None:
    """Raises UsageError where it is no cap."""
    if not 0 < cap < float("inf"):
        raise UsageError(f"A budget of {cap} USD makes no sense.", "give --budget a number of USD above zero")


def _lock(directory: Path) -> int:
    """A handle that holds the lock of all budgets on a ledger until it is closed."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = open_lock(directory / _LOCK)
    except OSError as error:
        raise StoreError(
            f"The ledger in {directory} cannot be written: {error.strerror or error}.", "make the folder writable"
        ) from error
    if not take(handle):
        os.close(handle)
        raise StoreError(
            f"Another run keeps a budget on the ledger in {directory}.",
            "wait until it ends, then run the command again",
        )
    return handle


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # torn by the kill: it was never sent
            continue


class Waiters:
    """For one event loop. `releases` counts how often something was released."""

    def __init__(self) -> None:
        self.releases = 0
        self._runs = 0
        self._idle: list[asyncio.Future[bool]] = []
        self._closed = False

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """A run inside the block may release something, unless it waits in `more` itself."""
        self._runs += 1
        try:
            yield
        finally:
            self._runs -= 1
            self._see()

    def release(self) -> None:
        """There is more room now: those who wait may look."""
        self.releases += 1
        self._wake(True)

    def close(self) -> None:
        """Nothing is taken any more: nobody needs to wait, now or later."""
        self._closed = True
        self._wake(False)

    async def more(self, since: int) -> bool:
        """Wait for more `releases` than `since`. False where no run is left that could bring one, and after `close`."""
        if self._closed or self.releases > since:
            return not self._closed
        mine: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._idle.append(mine)
        self._see()
        try:
            return await mine
        finally:
            if mine in self._idle:
                self._idle.remove(mine)

    def _see(self) -> None:
        if len(self._idle) >= self._runs:
            self._wake(False)

    def _wake(self, more: bool) -> None:
        for one in self._idle:
            if not one.done():
                one.set_result(more)
        self._idle.clear()
