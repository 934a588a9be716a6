"""What requests will probably take, in the order in which they are asked: tokens in, of these cached, tokens out.

A request is counted as it would be sent, with the providers' own rules for prompt caches, as the loopback provider
keeps them. Where real answers are at hand, the counts are scaled by what those took: no tokenizer is known for most
models, and what a model thinks before it answers shows in no schema.
"""

from __future__ import annotations

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.asking.bill import added
from sotopia_rl_data.asking.loopback.cache import PrefixCache
from sotopia_rl_data.asking.loopback.options import Options
from sotopia_rl_data.asking.loopback.protocols import Anthropic, Asked, OpenAI
from sotopia_rl_data.asking.request import Request, Usage
from sotopia_rl_data.asking.tokens import answer_tokens

SPOKEN = (openai.PROVIDER, anthropic.PROVIDER)  # whose requests can be counted
_KEPT = 1 << 16  # blocks of the prompts asked last


class Expected:
    """Sums up requests. `usage` is what they will take together."""

    def __init__(self) -> None:
        self._cache = PrefixCache(_KEPT)
        self._guessed = Usage()
        self._known, self._guesses = Usage(), Usage()  # of answers at hand: what they took, and what was guessed

    def ask(self, request: Request) -> None:
        """Add a request that will be asked, after all that were added before."""
        asked = _as_sent(request, self._cache)
        self._cache.learn(asked.model, asked.prefixes)
        prefixes = asked.prefixes
        self._guessed = added(
            self._guessed, Usage(asked.input, prefixes.read, prefixes.written, answer_tokens(request))
        )

    def learn(self, request: Request, usage: Usage) -> None:
        """Take note of what a request really took."""
        guess = Usage(input=_as_sent(request, PrefixCache()).input, output=answer_tokens(request))
        self._known, self._guesses = added(self._known, usage), added(self._guesses, guess)

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


def _as_sent(request: Request, cache: PrefixCache) -> Asked:
    if request.target.provider == anthropic.PROVIDER:
        return Anthropic.read(anthropic.body_of(request), Options(), cache)
    return OpenAI.read(openai.body_of(request), Options(), cache)


def _ratio(known: int, guessed: int) -> float:
    return known / guessed if known and guessed else 1.0
