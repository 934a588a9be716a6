"""What requests will probably take, in the order in which they are asked: tokens in, of these cached, tokens out.

A request is counted as it would be sent, with the providers' own rules for prompt caches; what is in flight at the
same time is not in the cache yet, but for siblings (`prompt_cache.py`). Where real answers are at hand, the counts are
scaled by what those took: no tokenizer is known for most models, and what a model thinks before it answers shows in no
schema.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import takewhile

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.asking.prompt_cache import shared_prefix
from sotopia_rl_data.costs.bill import added
from sotopia_rl_data.costs.prefix_cache import (
    BLOCK,
    SHORTEST,
    PrefixCache,
    PromptTokens,
    anthropic_parts,
    openai_prompt,
)
from sotopia_rl_data.costs.tokens import answer_tokens
from sotopia_rl_data.request import Request, Usage

SPOKEN = (openai.PROVIDER, anthropic.PROVIDER)  # whose requests can be counted
_KEPT = 1 << 16  # blocks of the prompts asked last
_SIBLINGS = 1_024  # shared prefixes


class ExpectedUsage:
    """Sums up requests. `usage` is what they will take together."""

    def __init__(self, concurrency: int) -> None:
        self._cache = PrefixCache(_KEPT)
        self._flight: deque[tuple[str, PromptTokens]] = deque(maxlen=concurrency)  # by model
        self._first: OrderedDict[int, PromptTokens] = OrderedDict()  # shared prefix -> what the first sibling had
        self._guessed = Usage()
        self._known, self._guesses = Usage(), Usage()  # of answers at hand: what they took, and what was guessed

    def ask(self, request: Request) -> None:
        """Add a request that will be asked, after all that were added before."""
        prompt = _prompt(request, self._cache)
        if len(self._flight) == self._flight.maxlen:
            self._cache.learn(*self._flight[0])
        self._flight.append((request.target.model, prompt))
        read, written = self._cached(request, prompt)
        self._guessed = added(self._guessed, Usage(prompt.input, read, written, answer_tokens(request)))

    def learn(self, request: Request, usage: Usage) -> None:
        """Take note of what a request really took."""
        guess = Usage(input=_prompt(request, PrefixCache()).input, output=answer_tokens(request))
        self._known, self._guesses = added(self._known, usage), added(self._guesses, guess)

    def _cached(self, request: Request, own: PromptTokens) -> tuple[int, int]:
        """Tokens read from the cache and written there, with what the first sibling brought into it."""
        shared = shared_prefix(request)
        first = None if shared is None else self._first.get(shared)
        if shared is not None and first is None:
            self._first[shared] = own
            if len(self._first) > _SIBLINGS:
                self._first.popitem(last=False)
        if first is None:
            return own.read, own.written
        if request.target.provider == anthropic.PROVIDER:
            known = bool(own.hashes) and own.hashes[-1] in first.hashes
            return (own.read + own.written, 0) if known else (own.read, own.written)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own.hashes, first.hashes, strict=False)))
        return max(own.read, common * BLOCK if common * BLOCK >= SHORTEST else 0), 0

    @property
    def measured(self) -> bool:
        """Whether any answer was at hand."""
        return self._known != Usage()

    @property
    def usage(self) -> Usage:
        """The tokens that the requests will take."""
        into, out = _ratio(self._known.input, self._guesses.input), _ratio(self._known.output, self._guesses.output)
        guess = self._guessed
        return Usage(
            round(guess.input * into),
            round(guess.cached * into),
            round(guess.written * into),
            round(guess.output * out),
        )


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
