"""A hard cap on what a run may cost: each call's highest cost is reserved before it is sent.

When the answer comes, the reservation is replaced by the real cost. A call whose reservation does not fit waits for the
calls in flight; where none is in flight and it still does not fit, the budget is exhausted. A call that may have been
billed without an answer (a timeout, a lost connection) keeps all of its reservation. Reservations are durable before
the call is sent, so that calls in flight when a process was killed still count in the next run. A request in a batch is
reserved at the batch price, from `take` or `carry` to `came`; the batch's own folder records that it is under way.
Runs that share a budget wait for each other's releases (`Waiters`). Leaves out taxes, subscriptions and other charges
that are not by tokens.
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
_SLACK = 1e-9  # USD by which a sum may exceed the cap, since sums of floats have rounding errors
_CLOCK_S = 0.01  # seconds by which the start of an attempt, computed from its end and duration, may be off


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """The reservation for one call: `usd` since `time` (Unix seconds)."""

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
        self._released: list[Hold] = []  # holds whose release is not in the journal yet
        self._left = False  # whether a hold was given up while its call was under way
        self._batched: dict[int, float] = {}  # short key of a request in a batch -> USD reserved for it
        self.seen: dict[str, frozenset[str]] = {}  # name of a batch folder -> batches that this budget counts
        self.waiters = Waiters()  # runs that ask in batches
        self._stopped = False
        self._gate = asyncio.Lock()
        self._moved = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether more is spent and reserved than the cap allows: earlier runs had a larger cap, or none."""
        return not self._fits(0.0)

    async def reserve(self, key: str, request: Request) -> Hold | None:
        """Reserve the most that the call can cost, durably. None after `stop`, or where it can never fit."""
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
        """Replace the reservation by the cost of the answer; all of it is spent where the tokens are unknown."""
        self._release(hold, hold.usd if usage == Usage() else hold.price.cost(usage))

    def failed(self, hold: Hold, maybe_billed: bool) -> None:
        """Release the reservation of a call without an answer; all of it is spent where it may have been billed."""
        self._release(hold, hold.usd if maybe_billed else 0.0)

    def given_up(self, hold: Hold) -> None:
        """Give up waiting for the answer: all is spent, and stays on record for the next run."""
        self._left = True
        self._drop(hold, hold.usd)

    def take(self, key: str, request: Request) -> bool:
        """Reserve the most that the call can cost in a batch, without waiting. False where it does not fit now."""
        most = most_prompt_tokens(request)
        fits = not self._stopped and self._fits(self._in_a_batch(request.target, most))
        if fits:
            self.carry(key, request.target, most)
        return fits

    def carry(self, key: str, target: Target, most_input: int) -> None:
        """Reserve for a request that an earlier run put into a batch; beyond the cap too, since it will be billed."""
        usd, before = self._in_a_batch(target, most_input), self._batched.get(short(key), 0.0)
        self._batched[short(key)] = usd
        self.in_batches += usd - before

    def came(self, key: str, target: Target, usage: Usage | None) -> None:
        """Replace the reservation of a request in a batch by its cost: nothing where `usage` is None, all of it where
        the tokens are unknown."""
        held = self._batched.pop(short(key), None)
        if held is None:  # the request belongs to another plan, or an earlier run has paid for it
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
        """Close the record of reservations; it is removed where all were released."""
        self._record()
        self._journal.close()
        if self._journal.path is not None and not self._held and not self._left:
            self._journal.path.unlink(missing_ok=True)
        os.close(self._alone)

    def _fits(self, usd: float) -> bool:
        return self.spent + self.reserved + self.in_batches + usd <= self.cap + _SLACK

    def _in_a_batch(self, target: Target, most_input: int) -> float:
        """The most that a call in a batch can cost."""
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
        """Record the releases. It is done late, when their answers are certainly in the ledger."""
        for hold in self._released:
            self._write(hold, -1)
        self._released.clear()

    def _write(self, hold: Hold, sign: int) -> None:
        record = {"key": hold.key, "usd": sign * hold.usd, "time": hold.time}
        self._journal.append(json.dumps(record).encode() + b"\n")


def left_behind(directory: Path) -> Iterator[Hold]:
    """Reservations that were never released, by a process that was killed or that still runs."""
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
    """Whether the ledger lacks the attempt that the hold was reserved for, although its call may have been billed. An
    attempt that began after the hold belongs to a later run."""
    return not any(
        attempt.time - attempt.seconds - _CLOCK_S <= hold.time <= attempt.time
        for attempt in attempts
        if not attempt.batch
    )


def price_of(prices: Prices, target: Target) -> Price:
    """The price that a budget counts with. Raises UsageError where the price or the longest answer is not known, so
    that no budget can be kept."""
    price = prices.of(target)
    if price is None:
        raise UsageError(
            f"There is no price for {target.model} at {target.base_url or target.provider}, so no budget can be kept.",
            "write its USD per million tokens (input, cached, written, output) into a file for --prices FILE: "
            f'{{as_of: 2026-11-01, hosts: {{"*": {{"{target.model}": [2.5, 1.25, 2.5, 10]}}}}}}',
        )
    if price != NOTHING and limit_in(target.sampling) is None and price.longest is None:
        raise UsageError(
            f"It is not known how long an answer of {target.model} can be, so a budget cannot be kept.",
            "limit the answers to a number of tokens: --max-tokens 4096",
        )
    return price


def check_cap(cap: float) -> None:
    """Raises UsageError where the cap is not a number of USD above zero."""
    if not 0 < cap < float("inf"):
        raise UsageError(f"The budget must be above 0 USD, not {cap}.", "give --budget a number of USD above zero")


def _lock(directory: Path) -> int:
    """A handle that holds the lock of all budgets on a ledger until it is closed."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = open_lock(directory / _LOCK)
    except OSError as error:
        raise StoreError(
            f"The ledger in {directory} cannot be written: {error.strerror or error}.",
            "make the path a writable folder with free space",
        ) from error
    if not take(handle):
        os.close(handle)
        raise StoreError(
            f"Another run with a budget uses the ledger in {directory}; two could not count each other's spending.",
            "wait until that run ends, then run the same command again",
        )
    return handle


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # a kill cut the line short, so the call was never sent
            continue


class Waiters:
    """Runs on one event loop that wait for each other's releases. `releases` counts these."""

    def __init__(self) -> None:
        self.releases = 0
        self._runs = 0
        self._idle: list[asyncio.Future[bool]] = []
        self._closed = False

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Inside the block a run may release something, except while it waits in `more`."""
        self._runs += 1
        try:
            yield
        finally:
            self._runs -= 1
            self._wake_if_all_idle()

    def release(self) -> None:
        """There is more room now: wake the runs that wait."""
        self.releases += 1
        self._wake(True)

    def close(self) -> None:
        """Nothing is reserved any more: end every wait, now and later."""
        self._closed = True
        self._wake(False)

    async def more(self, since: int) -> bool:
        """Wait for more `releases` than `since`. False where no other run could release anything, and after `close`."""
        if self._closed or self.releases > since:
            return not self._closed
        woken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._idle.append(woken)
        self._wake_if_all_idle()
        try:
            return await woken
        finally:
            if woken in self._idle:
                self._idle.remove(woken)

    def _wake_if_all_idle(self) -> None:
        if len(self._idle) >= self._runs:
            self._wake(False)

    def _wake(self, more: bool) -> None:
        for woken in self._idle:
            if not woken.done():
                woken.set_result(more)
        self._idle.clear()
