"""How fast a provider may be asked: a window that opens, and a rate that its 429s teach.

Slow start opens the window of requests in flight, one more for every answer, up to the concurrency asked for. The
first 429s set a rate: what the provider really accepted (multiplicative decrease); every calm stretch raises it by a
step (additive increase) that grows while the calm lasts, so that a limit that was lifted is found again. Where well
below that rate as large a share meets 429, they do not follow our rate: they are the provider's weather, retried and
not obeyed. Requests and tokens a minute are respected from the start where they are given.

It does not retry and knows no requests: `dispatch.py` does.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

from sotopia_rl_data.errors import UsageError

_EPOCH_S = 0.5  # shortest stretch over which 429s are counted
_FEWEST_SENT = 20  # requests that a stretch needs before it is judged
_FEWEST = 5  # 429s, or timeouts, that say something
_STORM = 0.4  # no weather is worse
_NOISE = 0.03  # share of 429s that is not worth slowing down for
_WELL_BELOW = 0.6  # of the rate at which a limit was supposed
_AS_BEFORE = 0.3  # of the share met there; a limit would leave none
_ENOUGH = 40  # requests that tell weather from a limit
_DECREASE = 0.97  # of what was accepted
_STEP = 0.05  # of the rate at the last decrease, added after every calm stretch
_HUNT = 1.5  # times the rate after every calm stretch, from the first decrease to the second
_STEP_GROWTH = 1.15
_LOWEST_RATE = 0.2  # requests/s
_SLOW = 0.1  # share of timeouts that narrows the window
_BURST_S = 0.05  # of unused time that may be made up for


@dataclass(frozen=True, slots=True)
class Pacing:
    """What a person may set. None of it is part of a request's key.

    `rpm`, `tpm`: requests and tokens a minute, where the provider's limits are known. `timeout_s`: longest wait for one
    answer. `tries`: how often one request may meet 5xx, timeouts and lost connections; `throttles`: how often 429.
    `longest_wait_s`: a Retry-After beyond it gives the request up. `grace_s`: how long what is in flight may take to
    end when the run has failed, or a request when its time is up.
    """

    rpm: float | None = None
    tpm: float | None = None
    timeout_s: float = 180.0
    tries: int = 6
    throttles: int = 30
    backoff_s: float = 0.5
    longest_wait_s: float = 120.0
    grace_s: float = 15.0
    slow_start: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "seed" and value is not None and not value > 0:
                raise UsageError(f"{name} must be above zero, not {value}.", f"give {name} a number above zero")


@dataclass(slots=True)
class Epoch:
    """What left in one stretch of time, and how much of it met 429."""

    began: float
    ended: float = 0.0
    sent: int = 0
    throttled: int = 0

    @property
    def share(self) -> float:
        return self.throttled / self.sent if self.sent else 0.0

    def rates(self, now: float) -> tuple[float, float]:
        """Requests/s that left, and those of them that were accepted."""
        lasted = max((self.ended or now) - self.began, _EPOCH_S)
        return self.sent / lasted, (self.sent - self.throttled) / lasted


@dataclass(slots=True)
class _Doubt:
    """429s that may not follow our rate: the rate taken and their share when they were met; then, what is seen well
    below that rate."""

    taken: float
    share: float
    sent: int = 0
    throttled: int = 0


class Pacer:
    """Grants turns. One for each run, used from one event loop. `clock` gives seconds."""

    def __init__(self, pacing: Pacing, concurrency: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._pacing = pacing
        self._concurrency = concurrency
        self._clock = clock
        self._random = random.Random(pacing.seed)
        self._window = float(min(pacing.slow_start, concurrency))
        self._narrowed = False
        self._answers = self._timeouts = 0  # since it was narrowed
        self._gate = asyncio.Lock()
        self._stopped = asyncio.Event()
        self._next = 0.0
        self._cap = pacing.rpm / 60 if pacing.rpm else math.inf
        self._learned = math.inf
        self._step = 0.0
        self._hunting = False
        self._good = 0.0  # the last rate that was calm, since the last decrease
        self._weather = 0.0
        self._doubt: _Doubt | None = None
        self._last, self._epoch = Epoch(clock()), Epoch(clock())

    @property
    def window(self) -> int:
        """Requests that may be in flight now."""
        return int(self._window)

    @property
    def rate(self) -> float:
        """Requests/s that may leave now; infinite while nothing limits them."""
        return min(self._cap, self._learned)

    async def turn(self, tokens: float = 0.0) -> Epoch:
        """Wait for a request's moment to leave. `tokens` is what it will probably cost, for `tpm`."""
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
        """Sleep, but not beyond `stop`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    def stop(self) -> None:
        """End every wait, now and from now on: the run is over."""
        self._stopped.set()

    def answered(self) -> None:
        """A reply came: the window opens, twofold a round trip; once it had to be narrowed, by one."""
        self._answers += 1
        if self._window < self._concurrency:
            self._window = min(self._concurrency, self._window + (1 / self._window if self._narrowed else 1))

    def throttled(self, epoch: Epoch, retry_after: float | None) -> None:
        """The provider said 429 to a request that left in `epoch`."""
        epoch.throttled += 1
        if epoch is not self._epoch or epoch.throttled < _FEWEST:
            return
        if epoch.throttled == epoch.sent and retry_after:  # nothing gets through: wait as long as it asks us to
            self._next = max(self._next, self._clock() + min(retry_after, self._pacing.longest_wait_s))
        old_enough = self._learned == math.inf or self._clock() - epoch.began > _EPOCH_S / 2
        if old_enough and epoch.throttled >= 2 * _FEWEST and epoch.share > _STORM:  # no need to wait for its end
            self._decrease(epoch)

    def timed_out(self) -> None:
        """A request met the time limit. Where many do, the provider has too much to do: fewer in flight."""
        self._timeouts += 1
        if self._timeouts >= _FEWEST and self._timeouts > _SLOW * (self._timeouts + self._answers):
            self._window, self._narrowed = max(1.0, self._window * 0.7), True
            self._timeouts = self._answers = 0

    def backoff(self, failures: int, retry_after: float | None) -> float:
        """Seconds before a request that failed `failures` times is asked again: no less than the provider asks for,
        else an exponential; jitter on top of both."""
        jitter = self._random.random()
        if retry_after is not None:
            return max(retry_after, 0.05) * (1 + 0.25 * jitter)
        wait = self._pacing.backoff_s * 2.0 ** min(failures - 1, 16)
        return min(wait, self._pacing.longest_wait_s) * (0.5 + 0.5 * jitter)

    def spent(self, estimated: float, real: float) -> None:
        """The tokens that a request really cost: the difference moves the next turn."""
        if self._pacing.tpm:
            self._next += (real - estimated) * 60 / self._pacing.tpm

    def _spacing(self, tokens: float) -> float:
        return max(1 / self.rate, tokens * 60 / self._pacing.tpm if self._pacing.tpm else 0.0)

    def _roll(self) -> None:
        """Close the stretch where it is over, and judge the one before it: by now its 429s have arrived."""
        now = self._clock()
        if now - self._epoch.began < _EPOCH_S or self._epoch.sent < _FEWEST_SENT:
            return
        last, self._last, self._epoch = self._last, self._epoch, Epoch(now)
        self._last.ended = now
        if last.sent:
            self._judge(last)

    def _judge(self, epoch: Epoch) -> None:
        if self._doubt is not None and self._learned <= _WELL_BELOW * self._doubt.taken:
            self._settle_doubt(self._doubt, epoch)
        elif epoch.share > self._tolerated(epoch):
            self._decrease(epoch)
        else:
            self._increase(epoch)

    def _settle_doubt(self, doubt: _Doubt, epoch: Epoch) -> None:
        """Stay well below until there is enough to tell: a limit refuses nothing there, weather as much as before."""
        doubt.sent, doubt.throttled = doubt.sent + epoch.sent, doubt.throttled + epoch.throttled
        if doubt.sent < _ENOUGH:
            return
        share, self._doubt, self._hunting = doubt.throttled / doubt.sent, None, True
        self._weather = share if max(_NOISE, _AS_BEFORE * doubt.share) < share <= _STORM else 0.0

    def _increase(self, epoch: Epoch) -> None:
        if epoch.sent >= _ENOUGH:
            self._doubt = None
        if epoch.share < self._weather - 2 * _error(self._weather, epoch.sent):
            self._weather = epoch.share
        if self._learned < math.inf and epoch.rates(self._clock())[0] > 0.8 * self._learned:  # it was used
            self._good = self._learned
            self._learned = self._learned * _HUNT if self._hunting else self._learned + self._step
            self._step *= _STEP_GROWTH

    def _tolerated(self, epoch: Epoch) -> float:
        """The largest share of 429s that is no reason to slow down."""
        return 1.2 * self._weather + max(_NOISE, 2 * _error(max(self._weather, _NOISE), epoch.sent))

    def _decrease(self, epoch: Epoch) -> None:
        now, before = self._clock(), self._learned
        target = _DECREASE * epoch.rates(now)[1] / (1 - self._weather)
        self._hunting = before == math.inf
        if not self._hunting:
            target = max(target, 0.7 * before, 0.95 * self._good)
            target, self._good = min(target, 0.97 * before), 0.0
        self._learned = max(target, _LOWEST_RATE)
        self._step = _STEP * self._learned
        if epoch.share > _STORM:
            self._doubt = None
        elif self._doubt is None:
            self._doubt = _Doubt(self._learned, epoch.share)
        self._last, self._epoch = Epoch(now), Epoch(now)


def _error(share: float, sent: int) -> float:
    """Standard error of a share that was counted on `sent` requests."""
    return math.sqrt(share * (1 - share) / max(sent, 1))
