"""How fast a provider may be asked: a window of requests in flight, and a rate learned from the provider's 429s.

Slow start widens the window by one request for every answer, up to the given concurrency. The first 429s set the rate
to what the provider really accepted (multiplicative decrease). After every epoch without too many 429s the rate rises
by a step (additive increase); the step grows each time, so that a limit that was lifted is found again. If the share of
429s stays as large well below that rate, they do not depend on our rate: they are the provider's background error rate,
and are retried without slowing down. Requests and tokens a minute are respected from the start where they are given.

Leaves out the retries and the requests themselves: `dispatch.py` has them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any

from sotopia_rl_data.errors import UsageError

log = logging.getLogger(__name__)

# 429s are counted by epochs. An epoch lasts at least `_EPOCH_S` seconds and has at least `_FEWEST_SENT` requests.
_EPOCH_S = 0.5
_FEWEST_SENT = 20
_FEWEST = 5  # fewer 429s in an epoch are not acted on before it ends; fewer timeouts never narrow the window
_NOISE = 0.03  # a share of 429s up to this one does not slow requests down
_HIGHEST_BACKGROUND = 0.4  # a larger share of 429s is always taken for a limit, never for background errors
# A suspected limit is tested with `_ENOUGH` requests at `_WELL_BELOW` of its rate or less, where a real limit would
# refuse nothing. If the share of 429s there is still above `_AS_BEFORE` of the share at the limit, these are background
# errors.
_ENOUGH = 40
_WELL_BELOW = 0.6
_AS_BEFORE = 0.3
_DECREASE = 0.97  # a decrease sets the rate to this share of the accepted rate
_STEP = 0.05  # after a decrease, every good epoch adds this share of the new rate
_STEP_GROWTH = 1.15  # the step grows by this factor each time that it is added
_SEARCH_FACTOR = 1.5  # while a limit is searched for, every good epoch multiplies the rate by this factor instead
_LOWEST_RATE = 0.2  # requests/s
_SLOW = 0.1  # a larger share of timeouts narrows the window
_BURST_S = 0.05  # after a pause, requests catch up on at most this many seconds


@dataclass(frozen=True, slots=True)
class Pacing:
    """What a person may set. None of it is part of a request's key.

    `rpm`, `tpm`: requests and tokens a minute, where the provider's limits are known. `timeout_s`: longest wait for one
    answer. `tries`: how many 5xx, timeouts and lost connections one request may meet; `throttles`: how many 429s.
    `longest_wait_s`: a request is given up when Retry-After is longer. `slow_start`: requests in flight at the start;
    `start_rate`: requests/s at the start, where a limit was met the last time. `wall_s`: a run ends where nothing was
    ever answered and everything is refused for rate for this long; `longest_wall_s`, where something was answered
    before or Retry-After asks for it; `silence_s`, where nothing comes back at all. `grace_s`: how long requests in
    flight may take to end after the run has failed, or one request after its time limit. `shared` makes the pacer of a
    run that shares its pace with others.
    """

    rpm: float | None = None
    tpm: float | None = None
    timeout_s: float = 180.0
    tries: int = 6
    throttles: int = 30
    backoff_s: float = 0.5
    longest_wait_s: float = 120.0
    wall_s: float = 45.0
    longest_wall_s: float = 105.0
    silence_s: float = 80.0
    grace_s: float = 15.0
    slow_start: int = 16
    start_rate: float | None = None
    seed: int = 0
    shared: Callable[[Pacing, int], Pacer] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self) if each.name not in ("seed", "shared")):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be above zero, not {value}.", f"give {name} a number above zero")


@dataclass(slots=True)
class Epoch:
    """The requests sent in one stretch of time, and how many of them met 429. Times in seconds of the clock."""

    began: float
    ended: float = 0.0
    sent: int = 0
    throttled: int = 0

    @property
    def share(self) -> float:
        return self.throttled / self.sent if self.sent else 0.0

    def rates(self, now: float) -> tuple[float, float]:
        """Requests/s that were sent, and requests/s that were accepted."""
        lasted = max((self.ended or now) - self.began, _EPOCH_S)
        return self.sent / lasted, (self.sent - self.throttled) / lasted


@dataclass(slots=True)
class _SuspectedLimit:
    """A limit that was met at `rate` with this `share` of 429s. `sent` and `throttled` count what happens well below
    that rate: a real limit refuses nothing there, background errors are as frequent as before."""

    rate: float
    share: float
    sent: int = 0
    throttled: int = 0


class Pacer:
    """Decides when a request may be sent. One for each run, used from one event loop. `clock` gives seconds.
    `interrupt`, which the run sets, ends it as Ctrl-C does."""

    def __init__(self, pacing: Pacing, concurrency: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._pacing = pacing
        self._concurrency = concurrency
        self._clock = clock
        self._random = random.Random(pacing.seed)
        self._window = float(min(pacing.slow_start, concurrency))
        self._narrowed = False
        self._answers = self._timeouts = 0  # both are counted since the window was last narrowed
        self._gate = asyncio.Lock()
        self._stopped = asyncio.Event()
        self._next = 0.0
        self._cap = pacing.rpm / 60 if pacing.rpm else math.inf
        self._learned = pacing.start_rate or math.inf
        self._step = _STEP * pacing.start_rate if pacing.start_rate else 0.0
        self._searching = False
        # the learned rate of the last good epoch that used the rate up; 0 if there was none since the last decrease
        self._good_rate = 0.0
        self._background = 0.0
        self._suspected: _SuspectedLimit | None = None
        self._last, self._epoch = Epoch(clock()), Epoch(clock())
        self.interrupt: Callable[[], None] = lambda: None

    @property
    def window(self) -> int:
        """How many requests may be in flight now."""
        return int(self._window)

    @property
    def pace(self) -> dict[str, Any]:
        """Where the next run may begin, as `Pacing` has it."""
        return {"slow_start": self.window, "start_rate": self._learned if self._learned < math.inf else None}

    @property
    def rate(self) -> float:
        """Requests/s that may be sent now; infinite while nothing limits them."""
        return min(self._cap, self._learned)

    async def admit(self, tokens: float = 0.0) -> Epoch:
        """Wait until a request may be sent; returns the epoch in which it counts. `tokens` is what it will probably
        take, for `tpm`."""
        if self.rate < math.inf or self._pacing.tpm:
            async with self._gate:
                wait = self._next - self._clock()
                if wait > 0.001:
                    await self.rest(wait)
                self._next = max(self._next, self._clock() - _BURST_S) + self._spacing(tokens)
        self._roll()
        self._epoch.sent += 1
        return self._epoch

    async def rest(self, seconds: float) -> None:
        """Sleep, but no longer than until `stop`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    def stop(self) -> None:
        """End every wait, now and from now on: the run is over."""
        self._stopped.set()

    def ended(self) -> None:
        """A request is not on the wire any more, whatever came of it."""

    def answered(self) -> None:
        """A reply came: the window doubles each round trip, or grows by one once it had to be narrowed."""
        self._answers += 1
        if self._window < self._concurrency:
            self._window = min(self._concurrency, self._window + (1 / self._window if self._narrowed else 1))

    def throttled(self, epoch: Epoch, retry_after: float | None) -> None:
        """The provider answered 429 to a request that was sent in `epoch`."""
        epoch.throttled += 1
        if epoch is not self._epoch or epoch.throttled < _FEWEST:
            return
        if epoch.throttled == epoch.sent and retry_after:  # all were refused: wait as long as the provider asks
            self._next = max(self._next, self._clock() + min(retry_after, self._pacing.longest_wait_s))
        old_enough = self._learned == math.inf or self._clock() - epoch.began > _EPOCH_S / 2
        if old_enough and epoch.throttled >= 2 * _FEWEST and epoch.share > _HIGHEST_BACKGROUND:
            # so many 429s cannot be background errors: slow down now instead of at the epoch's end
            self._decrease(epoch)

    def timed_out(self) -> None:
        """A request met the time limit. Where many do, the provider is overloaded: the window narrows."""
        self._timeouts += 1
        if self._timeouts >= _FEWEST and self._timeouts > _SLOW * (self._timeouts + self._answers):
            self._window, self._narrowed = max(1.0, self._window * 0.7), True
            self._timeouts = self._answers = 0

    def backoff(self, failures: int, retry_after: float | None) -> float:
        """Seconds before a request that failed `failures` times is sent again: at least `retry_after`, else
        exponential; jitter on top of both."""
        jitter = self._random.random()
        if retry_after is not None:
            return max(retry_after, 0.05) * (1 + 0.25 * jitter)
        wait = self._pacing.backoff_s * 2.0 ** min(failures - 1, 16)
        return min(wait, self._pacing.longest_wait_s) * (0.5 + 0.5 * jitter)

    def spent(self, estimated: float, real: float) -> None:
        """Correct the time of the next request by the tokens that this one really took."""
        if self._pacing.tpm:
            self._next += (real - estimated) * 60 / self._pacing.tpm

    def _spacing(self, tokens: float) -> float:
        return max(1 / self.rate, tokens * 60 / self._pacing.tpm if self._pacing.tpm else 0.0)

    def _roll(self) -> None:
        """Close the epoch where it is over, and judge the one before it: by now its 429s have arrived."""
        now = self._clock()
        if now - self._epoch.began < _EPOCH_S or self._epoch.sent < _FEWEST_SENT:
            return
        last, self._last, self._epoch = self._last, self._epoch, Epoch(now)
        self._last.ended = now
        if last.sent:
            self._judge(last)

    def _judge(self, epoch: Epoch) -> None:
        if self._suspected is not None and self._learned <= _WELL_BELOW * self._suspected.rate:
            self._test_suspected(self._suspected, epoch)
        elif epoch.share > self._tolerated(epoch):
            self._decrease(epoch)
        else:
            self._increase(epoch)

    def _test_suspected(self, limit: _SuspectedLimit, epoch: Epoch) -> None:
        """Stay well below the rate until enough requests tell whether there is a limit or a background error rate."""
        limit.sent, limit.throttled = limit.sent + epoch.sent, limit.throttled + epoch.throttled
        if limit.sent < _ENOUGH:
            return
        share, self._suspected, self._searching = limit.throttled / limit.sent, None, True
        self._background = share if max(_NOISE, _AS_BEFORE * limit.share) < share <= _HIGHEST_BACKGROUND else 0.0

    def _increase(self, epoch: Epoch) -> None:
        if epoch.sent >= _ENOUGH:
            self._suspected = None
        if epoch.share < self._background - 2 * _error(self._background, epoch.sent):
            self._background = epoch.share
        if self._learned < math.inf and epoch.rates(self._clock())[0] > 0.8 * self._learned:  # the rate was used up
            self._good_rate = self._learned
            self._learned = self._learned * _SEARCH_FACTOR if self._searching else self._learned + self._step
            self._step *= _STEP_GROWTH

    def _tolerated(self, epoch: Epoch) -> float:
        """The largest share of 429s at which the rate is not decreased."""
        return 1.2 * self._background + max(_NOISE, 2 * _error(max(self._background, _NOISE), epoch.sent))

    def _decrease(self, epoch: Epoch) -> None:
        now, before = self._clock(), self._learned
        target = _DECREASE * epoch.rates(now)[1] / (1 - self._background)
        self._searching = before == math.inf
        if not self._searching:
            target = max(target, 0.7 * before, 0.95 * self._good_rate)
            target, self._good_rate = min(target, 0.97 * before), 0.0
        self._learned = max(target, _LOWEST_RATE)
        log.info(
            "%.0f %% of the requests were refused: at most %.1f a second from now", 100 * epoch.share, self._learned
        )
        self._step = _STEP * self._learned
        if epoch.share > _HIGHEST_BACKGROUND:
            self._suspected = None
        elif self._suspected is None:
            self._suspected = _SuspectedLimit(self._learned, epoch.share)
        self._last, self._epoch = Epoch(now), Epoch(now)


def _error(share: float, sent: int) -> float:
    """Standard error of a share of `sent` requests."""
    return math.sqrt(share * (1 - share) / max(sent, 1))
