"""A hard cap on what a run may cost: each call's highest cost is reserved before it is sent.

When the answer comes, the reservation is replaced by the real cost. A call whose reservation does not fit waits for the
calls in flight; where none is in flight and it still does not fit, the budget is exhausted. A call that may have been
billed without an answer (a timeout, a lost connection) keeps all of its reservation. Some servers do not count thoughts
under the limit of an answer: until the first answer comes, only one call at a time is on its way, and where it cost
more than its most, this run counts each of its reservations at that price as so much more. Reservations are on record
before the call is sent (`reservations.py`): calls in flight when a process was killed still count in the next run, and
runs with a budget at the same time on one ledger see what the others spend on their own requests; what these have
reserved counts as it is on record. A request in a batch is reserved at the batch price, from `take` or `carry` to
`came`; the batch's own folder records that it is under way.
Runs of one process that share a budget wait for each other's releases (`Waiters`). Leaves out taxes, subscriptions and
other charges that are not by tokens.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from sotopia_rl_data.costs.price import NOTHING, Price
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.costs.reservations import CLOCK_S, Event, Hold, Reservations
from sotopia_rl_data.costs.tokens import limit_in, limit_of, most_prompt_tokens
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.ledger.index import short
from sotopia_rl_data.request import Request, Target, Usage

_SLACK = 1e-9  # USD by which a sum may exceed the cap, since sums of floats have rounding errors
_MARGIN = 1.5  # where a call cost more than its upper bound, others may cost so many times as much
_FIRST_S = 60.0  # the longest that other calls wait for the first answer
_LOOK_S = 0.05  # seconds between two looks at what other processes have released


class Budget:
    """The cap, what is spent, what is reserved; all in USD. `directory` is the ledger's. For one event loop.

    What other runs reserve and spend from now on counts too. Raises StoreError where the directory cannot be written or
    has no locks.
    """

    def __init__(self, cap: float, prices: Prices, directory: Path, spent: float = 0.0) -> None:
        self._record = Reservations(directory)
        self._before = list(self._record.others.values())
        self._keys: Set[int] | None = None  # short keys of the requests that count; None: all do
        self.cap = cap
        self.spent = spent
        self.reserved = 0.0
        self.in_batches = 0.0
        self.exhausted = False
        self._prices = prices
        self._held: set[Hold] = set()
        self._elsewhere: dict[tuple[str, str, float], Hold] = {}  # reservations of other living runs
        self._released: list[tuple[Hold, float]] = []  # with the cost of each; their release is not on record yet
        self._left: list[Hold] = []  # given up while their calls were under way
        self._batched: dict[str, float] = {}  # key of a request in a batch -> USD reserved for it
        self.seen: set[str] = set()  # ids of the batches that this budget counts
        self.began = time.time()
        self.waiters = Waiters()  # runs that ask in batches
        self.was_passed = False  # whether a call of this run cost more than its upper bound
        self._beyond: dict[Price, float] = {}  # factors of upper bounds that were too low
        self.first_alone = False  # whether one call goes ahead at each price, until something was answered at it
        self._known: set[Price] = {NOTHING}  # prices at which something was answered
        self.keep_beyond: Callable[[Price, float], None] = lambda price, times: None
        self.lease: Callable[[float], Awaitable[float]] | None = None  # raises the cap by this much, if it can be
        self._stopped = False
        self._gate = asyncio.Lock()
        self._moved = asyncio.Event()

    def start(self, spent: float, keys: Set[int], is_counted: Callable[[Hold], bool]) -> None:
        """Count the USD that earlier runs have `spent` on the requests with these short keys, and, of the reservations
        for them and what follows them, those that are not counted in it."""
        self.spent += spent
        self._keys = keys
        events: list[Event] = [(hold, None) for hold in self._before]
        for hold, cost in events + self._record.news():
            if cost is not None or not is_counted(hold):
                self._count(hold, cost)
        self._bury()

    def expect_beyond(self, price: Price, times: float) -> None:
        """Calls at this price may cost so many times what their limit allows."""
        self._beyond[price] = times

    @property
    def over(self) -> bool:
        """Whether more is spent and reserved than the cap allows: earlier runs had a larger cap, or none."""
        return not self._fits(0.0)

    async def reserve(self, key: str, request: Request, chain: str = "") -> Hold | None:
        """Reserve the most that the call can cost, on record; `chain` is the key of the first request of its chain.
        None after `stop`, or where it can never fit."""
        price = price_of(self._prices, request.target)
        usd = price.most(most_prompt_tokens(request), limit_of(request))
        while not self._stopped:
            if self._waits_for_first(price):  # calls at other prices go on
                await self._wait()
                continue
            async with self._gate:
                while not (self._stopped or self._waits_for_first(price)):
                    hold = self._reserved(key, usd, price, chain)
                    if hold is not None:
                        return hold
                    self._bury()
                    if self._record.is_recent(key):
                        await asyncio.sleep(CLOCK_S)
                    elif self.lease is not None and await self.lease(self._missing(self._most(usd, price))) > 0:
                        continue
                    elif self._held or self._elsewhere:
                        await self._wait()
                    else:
                        self.exhausted = True
                        return None
        return None

    def lend(self, key: str, usd: float, chain: str) -> Hold | None:
        """Reserve `usd` for the calls of a worker, on record until `settle`; None where that does not fit now."""
        return self._reserved(key, usd, NOTHING, chain)

    @property
    def left(self) -> float:
        """What is neither spent nor reserved."""
        return -self._missing(0.0)

    def settle(self, hold: Hold, cost: float) -> None:
        """Replace what was lent by what was spent of it."""
        self._release(hold, cost)

    def reserve_at_once(self, key: str, request: Request, chain: str = "") -> Hold | None:
        """As `reserve`, for a call that others wait for: None where it does not fit now."""
        price = price_of(self._prices, request.target)
        usd = price.most(most_prompt_tokens(request), limit_of(request))
        return None if self._stopped else self._reserved(key, usd, price, chain)

    def answered(self, hold: Hold, usage: Usage) -> None:
        """Replace the reservation by the cost of the answer; all of it is spent where the tokens are unknown. Where the
        answer cost more, since the server does not count thoughts under the limit of an answer, what is reserved now
        and later counts as so much more."""
        cost = self._most(hold.usd, hold.price) if usage == Usage() else hold.price.at(usage.input).cost(usage)
        if cost > self._most(hold.usd, hold.price):
            self.was_passed = True
            self.expect_beyond(hold.price, _MARGIN * cost / hold.usd)
            self.keep_beyond(hold.price, self._beyond[hold.price])
        self._known.add(hold.price)
        self._release(hold, cost)

    def failed(self, hold: Hold, maybe_billed: bool) -> None:
        """Release the reservation of a call without an answer; all of it is spent where it may have been billed."""
        self._release(hold, self._most(hold.usd, hold.price) if maybe_billed else 0.0)

    def given_up(self, hold: Hold) -> None:
        """Give up waiting for the answer: all is spent, and stays on record for the next run."""
        self._left.append(hold)
        self._drop(hold, self._most(hold.usd, hold.price))

    def take(self, key: str, request: Request, chain: str = "") -> bool:
        """Reserve the most that the call can cost in a batch, without waiting. False where it does not fit now."""
        usd = self._in_a_batch(request.target, most_prompt_tokens(request))
        with self._turn():
            fits = not self._stopped and self._fits(usd)
            if fits:
                self._record.reserve(Hold(key, usd, time.time(), chain=chain, run=self._record.run, batch=True))
                self._put_in_batch(key, usd)
        return fits

    def carry(self, key: str, target: Target, most_input: int) -> None:
        """Reserve for a request that another run put into a batch, unless that run did; beyond the cap too, since it
        will be billed."""
        if key not in self._batched:
            self._put_in_batch(key, self._in_a_batch(target, most_input))

    def counts(self, key: str) -> bool:
        """Whether the cap is on what this request costs."""
        return self._keys is None or short(key) in self._keys

    def is_reserved(self, key: str) -> bool:
        """Whether something is reserved for a request in a batch."""
        return key in self._batched

    def catch_up(self) -> None:
        """Count what other runs have reserved and released."""
        with self._turn():
            pass

    def came(self, key: str, target: Target, usage: Usage | None) -> None:
        """Replace the reservation of a request in a batch by its cost: nothing where `usage` is None, all of it where
        the tokens are unknown."""
        usd = self._batched.get(key)
        if usd is None:  # the request belongs to another plan, or an earlier run has paid for it
            return
        cost = 0.0
        if usage is not None:
            price = price_of(self._prices, target, in_batch=True)
            cost = price.at(usage.input).cost(usage) if usage != Usage() else usd
        self._take_from_batch(key, cost)
        self._record.release(Hold(key, usd, 0.0, run=self._record.run, batch=True), cost)

    def stop(self) -> None:
        """Reserve nothing any more."""
        self._stopped = True
        self._moved.set()
        self.waiters.close()

    def close(self) -> None:
        """Leave the record of reservations; what was given up stays there."""
        self._record_releases()
        self._record.close([*self._left, *self._held])

    def _reserved(self, key: str, usd: float, price: Price, chain: str) -> Hold | None:
        """A reservation on record; None where it does not fit now."""
        with self._turn():
            if not self._fits(self._most(usd, price)) or self._record.is_recent(key):
                return None
            hold = Hold(key, usd, time.time(), price, chain, self._record.run)
            self._record.reserve(hold)
        self._held.add(hold)
        self.reserved += usd
        return hold

    def _waits_for_first(self, price: Price) -> bool:
        """Whether a call at this price is on its way and none was answered yet: until it is known what one really
        costs, one is enough, unless it takes too long."""
        since = time.time() - _FIRST_S if self.first_alone else math.inf
        return price not in self._known and any(hold.price == price and hold.time > since for hold in self._held)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Inside the block no other run reserves anything, and all that they did is counted."""
        self._record_releases()
        with self._record.turn() as events:
            for hold, cost in events:
                self._count(hold, cost)
            yield

    def _count(self, hold: Hold, cost: float | None) -> None:
        """Count what another run reserved (None), where it is for a request of this one, or released."""
        if cost is None:
            ours = self.counts(hold.key) or self.counts(hold.chain or hold.key)
            if ours and hold.batch:
                self._put_in_batch(hold.key, hold.usd)
            elif ours:
                self._elsewhere[hold.place] = hold
        elif hold.batch:
            self._take_from_batch(hold.key, cost)
        elif self._elsewhere.pop(hold.place, None) is not None:
            self.spent += cost

    def _bury(self) -> None:
        """What killed runs had reserved is spent."""
        for run in {hold.run for hold in self._elsewhere.values()}:
            if not self._record.is_alive(run):
                dead = [hold for hold in self._elsewhere.values() if hold.run == run]
                self.spent += sum(self._elsewhere.pop(hold.place).usd for hold in dead)

    async def _wait(self) -> None:
        """Wait for a release of this run, or a while where others may release something, or a first answer is late."""
        self._moved.clear()
        late = _FIRST_S if self.first_alone and any(hold.price not in self._known for hold in self._held) else None
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S if self._elsewhere else late):
                await self._moved.wait()

    def _fits(self, usd: float) -> bool:
        return self._missing(usd) <= _SLACK

    def _missing(self, usd: float) -> float:
        """How much larger the cap would have to be."""
        elsewhere = sum(hold.usd for hold in self._elsewhere.values())
        reserved = sum(self._most(hold.usd, hold.price) for hold in self._held) if self._beyond else self.reserved
        return self.spent + reserved + elsewhere + self.in_batches + usd - self.cap

    @property
    def waits_for_others(self) -> bool:
        """Whether calls of other runs are in flight, which may cost less than is reserved for them."""
        self._bury()
        return bool(self._elsewhere) and not self._stopped

    def _most(self, usd: float, price: Price) -> float:
        """The most that a call can cost, where `usd` is the most by its limit."""
        return usd * self._beyond.get(price, 1.0)

    def _in_a_batch(self, target: Target, most_input: int) -> float:
        """The most that a call in a batch can cost."""
        return price_of(self._prices, target, in_batch=True).most(most_input, limit_in(target.sampling))

    def _put_in_batch(self, key: str, usd: float) -> None:
        self.in_batches += usd - self._batched.get(key, 0.0)
        self._batched[key] = usd

    def _take_from_batch(self, key: str, cost: float) -> None:
        usd = self._batched.pop(key, None)
        if usd is not None:
            self.in_batches = self.in_batches - usd if self._batched else 0.0
            self.spent += cost

    def _release(self, hold: Hold, cost: float) -> None:
        """It goes on record soon, when its answer is certainly in the ledger."""
        if not self._released:
            with suppress(RuntimeError):  # no event loop: `close` does it
                asyncio.get_running_loop().call_soon(self._record_releases)
        self._released.append((hold, cost))
        self._drop(hold, cost)

    def _drop(self, hold: Hold, cost: float) -> None:
        self._held.discard(hold)
        self.reserved = self.reserved - hold.usd if self._held else 0.0
        self.spent += cost
        self._moved.set()

    def _record_releases(self) -> None:
        for hold, cost in self._released:
            self._record.release(hold, cost)
        self._released.clear()


def price_of(prices: Prices, target: Target, in_batch: bool = False) -> Price:
    """The price that a budget counts with. Raises UsageError where the price or the longest answer is not known, so
    that no budget can be kept."""
    price = prices.of(target, in_batch)
    if price is None:
        raise UsageError(
            f"There is no price for {target.model} at {target.base_url or target.provider}, so no budget can be kept.",
            "write its USD per million tokens (input, cached, written, output) into a file for --prices: "
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
