"""The price of one model's tokens, and what a call costs by it."""

from __future__ import annotations

from dataclasses import dataclass

from sotopia_rl_data.request import Usage

LONG_FROM = 32_000  # tokens: no price of a call with fewer input tokens is a long-context price


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens. `cached` is input read from the provider's cache, `written` input written there.
    `longest` is the most tokens that an answer of the model may have; None where that is not known. `long` has the
    prices of calls with more than so many input tokens, ascending; `batch` those of a batch API where they are
    known."""

    input: float
    cached: float
    written: float
    output: float
    longest: int | None = None
    long: tuple[tuple[int, Price], ...] = ()
    batch: Price | None = None

    def at(self, input_tokens: int) -> Price:
        """The price of a call with this many input tokens."""
        return next((price for start, price in reversed(self.long) if input_tokens > start), self)

    def times(self, share: float) -> Price:
        """This share of the price."""
        long = tuple((start, price.times(share)) for start, price in self.long)
        input_, output = self.input * share, self.output * share
        return Price(input_, self.cached * share, self.written * share, output, self.longest, long)

    def cost(self, usage: Usage) -> float:
        """USD of tokens at one price: those of a call, after `at`, or a sum. `usage.cached` and `usage.written` are
        parts of `usage.input`."""
        fresh = usage.input - usage.cached - usage.written
        parts = (fresh, self.input), (usage.cached, self.cached), (usage.written, self.written)
        return (sum(tokens * price for tokens, price in parts) + usage.output * self.output) / 1e6

    def most(self, input_tokens: int, answer_limit: int | None) -> float:
        """USD of a call at most: nothing is read from a cache, and the answer is as long as it may be. Without any
        limit the answer counts nothing; `Budget` requires a limit."""
        limit = answer_limit or self.longest or 0
        possible = [self, *(price for start, price in self.long if input_tokens > start)]
        return max((input_tokens * max(price.input, price.written) + limit * price.output) / 1e6 for price in possible)


NOTHING = Price(0.0, 0.0, 0.0, 0.0)
