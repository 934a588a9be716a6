"""--dry-run: what a plan would ask, and what that would cost. Nothing is sent, and no version is written.

The calls are those of the run itself, looked up in the ledger by the same rule. Left out: repairs and later turns that
do not follow from an answer in the ledger, since nobody knows what will be answered.

Requests are counted as they would be sent (`ExpectedUsage`), with the providers' own rules for prompt caches. Prompts
in flight at the same time are not in the cache yet, except for siblings (`prompt_cache.py`). Where the ledger has real
answers, the counts are scaled by the tokens that those took: for most models no tokenizer is known, and a model's
reasoning tokens do not show in the answer schema."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.asking.batch.keys import BatchedKeys
from sotopia_rl_data.asking.plan import AskOptions, Group, Plan, is_paid, paid_targets, respondents_of
from sotopia_rl_data.asking.prompt_cache import shared_prefix
from sotopia_rl_data.costs.bill import added
from sotopia_rl_data.costs.price import LONG_FROM, NOTHING, Price
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.costs.tokens import (
    BLOCK,
    SHORTEST_CACHED,
    PrefixCache,
    PromptTokens,
    answer_tokens,
    anthropic_parts,
    limit_in,
    most_prompt_tokens,
    openai_prompt,
)
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup, PendingRequest
from sotopia_rl_data.request import Request, Usage

_REPORT_EVERY = 100  # calls between two reports of the progress


@dataclass(frozen=True, slots=True)
class EstimateLine:
    """One judge or policy. Of its `calls`, `hits` have an answer in the ledger, `repeated` are equal to others,
    `in_batches` are under way (repairs included), and `asked` would be sent, with `usage` tokens for `cost` USD (None
    where not known). `most` is what they cost if nothing is cached and every answer is as long as it may be, which is
    what a budget reserves. `measured` says whether the tokens were scaled by real answers in the ledger."""

    judge: str
    calls: int
    hits: int
    repeated: int
    in_batches: int
    asked: int
    usage: Usage | None
    cost: float | None
    most: float | None
    measured: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would cost, a line for each judge or policy. `as_of` is the price list's date."""

    as_of: str
    lines: tuple[EstimateLine, ...]

    @property
    def asked(self) -> int:
        """Calls that would be sent."""
        return sum(line.asked for line in self.lines)

    @property
    def total(self) -> float | None:
        """USD; None where the cost of a line is not known."""
        return _sum(line.cost for line in self.lines)

    @property
    def most(self) -> float | None:
        """USD at most; None where the most of a line is not known."""
        return _sum(line.most for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON holds it."""
        return {
            "as_of": self.as_of,
            "total": self.total,
            "most": self.most,
            "judges": [asdict(line) for line in self.lines],
        }


def estimate(plan: Plan, ledger: Ledger, options: AskOptions, prices: Prices) -> Estimate:
    """What it would cost to ask a plan with these options."""
    lines: list[EstimateLine] = []
    for group in plan.groups():
        done = sum(line.calls for line in lines)
        lines.append(_CountedGroup(plan, group, ledger, options, done).line(prices, options.batching is not None))
    as_of = ", ".join(dict.fromkeys(prices.source(respondent.target) for respondent in respondents_of(plan)))
    return Estimate(as_of or prices.as_of, tuple(lines))


class _CountedGroup:
    """The requests of a group with one respondent, counted in the order in which they would be asked. `done` is the
    number of calls of the groups before it, for the progress."""

    def __init__(self, plan: Plan, group: Group, ledger: Ledger, options: AskOptions, done: int) -> None:
        (self._respondent,) = group.respondents
        countable = self._respondent.target.provider in COUNTABLE and is_paid(self._respondent)
        self._expected = ExpectedUsage(options.concurrency or group.concurrency) if countable else None
        self._lookup = Lookup(
            ledger,
            lambda request, reply: plan.accepts(request, reply, ledger),
            plan.follow_up,
            retry_failed=options.retry_failed,
        )
        self._seen: set[str] = set()
        self._under_way = BatchedKeys(paid_targets(group.respondents), ledger)
        self._calls = self._hits = self._repeated = self._in_batches = self._asked = 0
        self._most_inputs: Counter[int] = Counter()  # calls by the most input tokens that they can have
        for request in group.requests():
            self._calls += 1
            if options.progress is not None and (done + self._calls) % _REPORT_EVERY == 0:
                options.progress(done + self._calls)
            if request.key in self._seen:
                self._repeated += 1
            else:
                self._look_up(request)

    def line(self, prices: Prices, in_batch: bool) -> EstimateLine:
        """The line of the estimate, at the prices of a batch API or of live calls."""
        price = prices.of(self._respondent.target, in_batch)
        usage = None if self._expected is None else self._expected.usage
        return EstimateLine(
            judge=self._respondent.id,
            calls=self._calls,
            hits=self._hits,
            repeated=self._repeated,
            in_batches=self._in_batches,
            asked=self._asked,
            usage=usage,
            cost=self._cost(price),
            most=self._most(price),
            measured=self._expected is not None and self._expected.measured,
        )

    def _look_up(self, request: Request) -> None:
        """Count what would be sent for a request: itself, its next follow-up without an answer, or nothing."""
        following: Request | None = request
        while following is not None:
            pending = PendingRequest(following, *following.hashes)
            self._seen.add(pending.key)
            if pending.key in self._under_way:
                self._in_batches += 1
                return
            settled = self._lookup.look_up(pending)
            if settled is None:
                self._ask(following)
                return
            if following is request:
                self._hits += 1
            if self._expected is not None and settled.attempt is not None and settled.attempt.usage is not None:
                self._expected.learn(following, settled.attempt.usage)
            following = self._lookup.hand_over(following, settled)

    def _ask(self, request: Request) -> None:
        self._asked += 1
        self._most_inputs[most_prompt_tokens(request)] += 1
        if self._expected is not None:
            self._expected.ask(request)

    def _cost(self, price: Price | None) -> float | None:
        if not self._asked or not is_paid(self._respondent):
            return 0.0
        if price is None or self._expected is None:
            return 0.0 if price == NOTHING else None
        return sum(price.at(size).cost(usage) for size, usage in self._expected.usages())

    def _most(self, price: Price | None) -> float | None:
        """If nothing is cached and every answer is as long as it may be; None where price or limit is not known."""
        if not self._asked or not is_paid(self._respondent):
            return 0.0
        limit = limit_in(self._respondent.target.sampling)
        if price is None or (price != NOTHING and not (limit or price.longest)):
            return None
        return sum(calls * price.most(most_input, limit) for most_input, calls in self._most_inputs.items())


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum; None where a value is not known."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


COUNTABLE = (openai.PROVIDER, anthropic.PROVIDER)  # providers whose tokens can be counted
_KEPT = 1 << 16  # at most this many blocks of prompts are remembered, the latest
_SIBLINGS = 1_024  # only this many shared prefixes are remembered


class ExpectedUsage:
    """The tokens that requests will take together. `concurrency` of them are in flight at the same time."""

    def __init__(self, concurrency: int) -> None:
        self._cache = PrefixCache(_KEPT)
        self._flight: deque[tuple[str, PromptTokens]] = deque(maxlen=concurrency)  # by model
        self._first: OrderedDict[int, PromptTokens] = OrderedDict()  # shared prefix -> the prompt of the first sibling
        self._guessed: dict[int, Usage] = {}  # by the input tokens of a call where these may have a long-context price
        # the real tokens of the answers in the ledger, and the tokens that would have been guessed for them
        self._known, self._guesses = Usage(), Usage()

    def ask(self, request: Request) -> None:
        """Add a request that will be asked after those added before."""
        prompt = _prompt(request, self._cache)
        if len(self._flight) == self._flight.maxlen:
            self._cache.learn(*self._flight[0])
        self._flight.append((request.target.model, prompt))
        read, written = self._cached(request, prompt)
        size = prompt.input if prompt.input > LONG_FROM else 0
        guess = Usage(prompt.input, read, written, answer_tokens(request))
        self._guessed[size] = added(self._guessed.get(size, Usage()), guess)

    def learn(self, request: Request, usage: Usage) -> None:
        """Note the tokens that a request really took."""
        guess = Usage(input=_prompt(request, PrefixCache()).input, output=answer_tokens(request))
        self._known, self._guesses = added(self._known, usage), added(self._guesses, guess)

    def _cached(self, request: Request, own: PromptTokens) -> tuple[int, int]:
        """Tokens read from the cache and written there. A sibling finds the prefix that the first sibling has
        written."""
        shared = shared_prefix(request)
        if shared is None:
            return own.read, own.written
        first = self._first.get(shared)
        if first is None:
            self._first[shared] = own
            if len(self._first) > _SIBLINGS:
                self._first.popitem(last=False)
            return own.read, own.written
        if request.target.provider == anthropic.PROVIDER:
            known = bool(own.hashes) and own.hashes[-1] in first.hashes
            return (own.read + own.written, 0) if known else (own.read, own.written)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own.hashes, first.hashes, strict=False)))
        return max(own.read, common * BLOCK if common * BLOCK >= SHORTEST_CACHED else 0), 0

    @property
    def measured(self) -> bool:
        """Whether the ledger had any answer."""
        return self._known != Usage()

    @property
    def usage(self) -> Usage:
        """The tokens that the requests will take."""
        return added(*(usage for _, usage in self.usages()))

    def usages(self) -> Iterator[tuple[int, Usage]]:
        """The same tokens by the input tokens of a call: 0 where that is too few for a long-context price."""
        into, out = _ratio(self._known.input, self._guesses.input), _ratio(self._known.output, self._guesses.output)
        for size, guess in self._guessed.items():
            cached, written = round(guess.cached * into), round(guess.written * into)
            yield round(size * into), Usage(round(guess.input * into), cached, written, round(guess.output * out))


def _prompt(request: Request, cache: PrefixCache) -> PromptTokens:
    """The request's tokens as it would be sent, with the answer's schema as a parameter."""
    model = request.target.model
    if request.target.provider == anthropic.PROVIDER:
        body = anthropic.body_of(request)
        schema = None if request.answer_schema is None else body["output_config"]["format"]["schema"]
        return cache.marked(model, anthropic_parts(body, schema))
    return cache.blocks(model, openai_prompt(openai.body_of(request)["messages"], request.answer_schema))


def _ratio(known: int, guessed: int) -> float:
    return known / guessed if known and guessed else 1.0
