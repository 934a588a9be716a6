"""--dry-run: what a label run would ask, and what that would cost. It asks nobody and writes no version.

The calls are those of the run itself, looked up in the ledger by its own rule. What is left out: second tries, since
nobody knows which answers will need one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sotopia_rl_data.asking.expected import SPOKEN, ExpectedUsage
from sotopia_rl_data.asking.progress import Outcome
from sotopia_rl_data.asking.transport import without_api_keys
from sotopia_rl_data.costs.prices import NOTHING, Prices, load
from sotopia_rl_data.costs.tokens import limit_in, most_prompt_tokens
from sotopia_rl_data.labelers.asking import Asking, Progress
from sotopia_rl_data.labelers.judge import Judge, is_paid
from sotopia_rl_data.labelers.judges.batches import keys_under_way
from sotopia_rl_data.labelers.judges.sending import target_of
from sotopia_rl_data.labelers.plan import Plan, episodes_of
from sotopia_rl_data.labelers.preparing import prepare, with_episodes
from sotopia_rl_data.labelers.source import is_imported
from sotopia_rl_data.ledger.index import short
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup, PendingRequest
from sotopia_rl_data.request import Request, Usage
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store

_OFTEN = 100  # calls


@dataclass(frozen=True, slots=True)
class Line:
    """One judge. Of its `calls`, `free` have an answer in the ledger, `repeated` are equal to others, `in_batches` are
    under way (second tries, too), and `asked` would go out, with `usage` tokens for `cost` USD: None where they are not
    known. `most` is what they may cost if nothing is cached and every answer is as long as it may be: what a budget
    reserves. `measured` says whether the tokens were scaled by what answers in the ledger took."""

    judge: str
    calls: int
    free: int
    repeated: int
    in_batches: int
    asked: int
    usage: Usage | None
    cost: float | None
    most: float | None
    measured: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would cost, by judge. `as_of` is the price list's date."""

    as_of: str
    lines: tuple[Line, ...]

    @property
    def total(self) -> float | None:
        """USD; None where a judge's cost is not known."""
        return _sum(line.cost for line in self.lines)

    @property
    def most(self) -> float | None:
        """USD at worst; None where a judge's worst is not known."""
        return _sum(line.most for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON holds it."""
        return {
            "as_of": self.as_of,
            "total": self.total,
            "most": self.most,
            "judges": [asdict(line) for line in self.lines],
        }


def estimate(
    store: Store,
    source: str | Path | None,
    *,
    retry_failed: bool = False,
    concurrency: int | None = None,
    ledger: Path | None = None,
    prices: Path | None = None,
    in_batches: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Estimate:
    """What `label` would cost with the same arguments; `options` are those that say what is asked (see `prepare`), and
    `in_batches` that the batch API's price counts.

    Raises what `label` raises before it asks, but that no API key is needed.
    """
    price_list = load(prices)
    with without_api_keys():
        plan, _ = prepare(**options)
    with _aside(store, source) as read_from, Ledger(ledger or store.root / ".ledger") as kept:
        parent, plan = with_episodes(plan, read_from, source)
        files = [path for paths in parent.files("episodes").values() for path in paths]
        asked = plan, kept, lambda: episodes_of(files), price_list
        return of_plan(*asked, retry_failed, concurrency, in_batches, progress)


def of_plan(
    plan: Plan,
    ledger: Ledger,
    episodes: Callable[[], Iterable[Episode]],
    prices: Prices,
    retry_failed: bool = False,
    concurrency: int | None = None,
    in_batches: bool = False,
    progress: Progress | None = None,
) -> Estimate:
    """What asking a plan's questions about these episodes would cost."""
    told = _Told(progress)
    counted = [_Counted(plan, judge, ledger, episodes, retry_failed, concurrency, told) for judge in plan.judges]
    share = prices.batch if in_batches else 1.0
    return Estimate(prices.as_of, tuple(one.line(prices, share) for one in counted))


@contextmanager
def _aside(store: Store, source: str | Path | None) -> Iterator[Store]:
    """The store to read from; where a file is to be imported, one that goes away again."""
    if not is_imported(source):
        yield store
        return
    with TemporaryDirectory(prefix="sotopia-rl-data-") as folder:
        yield Store(Path(folder))


class _Told:
    """Tells the progress now and then."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._done = progress, 0

    def one(self) -> None:
        self._done += 1
        if self._progress is not None and self._done % _OFTEN == 0:
            self._progress(self._done)


class _Counted:
    """One judge's requests, counted in the order in which they would be asked."""

    def __init__(
        self,
        plan: Plan,
        judge: Judge,
        ledger: Ledger,
        episodes: Callable[[], Iterable[Episode]],
        retry_failed: bool,
        concurrency: int | None,
        told: _Told,
    ) -> None:
        self._judge, self._target = judge, target_of(judge)
        speaks = self._target.provider in SPOKEN and is_paid(judge)
        own: int = getattr(judge, "concurrency", 1)
        self._expected = ExpectedUsage(concurrency or own) if speaks else None
        asking = Asking(plan, ledger, episodes)
        self._lookup = Lookup(ledger, asking.accepts, asking.second_try, retry_failed, Outcome())
        self._seen: set[str] = set()
        self._under_way = keys_under_way(judge, ledger)
        self._calls = self._free = self._repeated = self._in_batches = self._asked = self._most_input = 0
        for request in plan.requests(episodes(), judge):
            self._calls += 1
            told.one()
            if request.key in self._seen:
                self._repeated += 1
            else:
                self._look_up(request)

    def line(self, prices: Prices, share: float) -> Line:
        """What was counted, at this share of these prices."""
        usage = None if self._expected is None else self._expected.usage
        measured = self._expected is not None and self._expected.measured
        counts = self._calls, self._free, self._repeated, self._in_batches, self._asked
        costs = self._cost(prices, usage, share), self._most(prices, share)
        return Line(self._judge.id, *counts, usage, *costs, measured)

    def _look_up(self, request: Request) -> None:
        """Follow a request to what would be asked of it: itself, a second try, or nothing."""
        wanted: Request | None = request
        while wanted is not None:
            open_ = PendingRequest(wanted, *wanted.hashes)
            self._seen.add(open_.key)
            if short(open_.key) in self._under_way:
                self._in_batches += 1
                return
            settled = self._lookup.look_up(open_)
            if settled is None:
                self._ask(wanted)
                return
            self._free += wanted is request
            if self._expected is not None and settled.attempt is not None and settled.attempt.usage is not None:
                self._expected.learn(wanted, settled.attempt.usage)
            wanted = self._lookup.hand_over(wanted, settled)

    def _ask(self, request: Request) -> None:
        self._asked += 1
        self._most_input += most_prompt_tokens(request)
        if self._expected is not None:
            self._expected.ask(request)

    def _cost(self, prices: Prices, usage: Usage | None, share: float) -> float | None:
        if not self._asked or not is_paid(self._judge):
            return 0.0
        price = prices.of(self._target)
        if price is None or usage is None:
            return 0.0 if price == NOTHING else None
        return price.cost(usage) * share

    def _most(self, prices: Prices, share: float) -> float | None:
        if not self._asked or not is_paid(self._judge):
            return 0.0
        price = prices.of(self._target)
        limit = limit_in(self._target.sampling) or (price and price.longest)
        if price is None or (limit is None and price != NOTHING):
            return None
        return price.most(self._most_input, self._asked * (limit or 0)) * share


def _sum(some: Iterable[float | None]) -> float | None:
    """None where one of them is not known."""
    values = list(some)
    known = [one for one in values if one is not None]
    return sum(known) if len(known) == len(values) else None
