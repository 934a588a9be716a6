"""Requests that share a long prefix: the first goes ahead, the others wait until the provider's cache holds it.

Sent at once, they would all be billed in full. Other prefixes go on meanwhile, so that nothing stands still. Where the
first gets no answer, the next goes ahead. The answer schema is part of the prefix: providers put it before the
messages.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.lookup import PendingRequest
from sotopia_rl_data.request import Request

_SHORTEST = 3_500  # characters: no provider keeps a shorter prefix
_REMEMBERED = 4_096  # prefixes
_EXPLICIT = "anthropic"  # says what it wrote to its cache; how short a prefix may be depends on the model there


class PromptCacheWarmup:
    """Who goes ahead, who waits, who may go now. `missed` of the `expected` requests found no cached prefix."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[PendingRequest]] = {}  # prefix on its way -> those that wait for it
        self._warm: OrderedDict[int, bool] = OrderedDict()  # prefix -> whether the cache surely has it
        self.ready: deque[PendingRequest] = deque()
        self.held = 0
        self.expected = self.missed = 0

    def holds(self, asked: PendingRequest) -> bool:
        """Whether the request has to wait; it will turn up in `ready`. If not, it is on its way."""
        prefix = shared_prefix(asked.request)
        if prefix is None or prefix in self._warm:
            return False
        if prefix in self._waiting:
            self._waiting[prefix].append(asked)
            self.held += 1
            return True
        self._waiting[prefix] = []
        return False

    def landed(self, request: Request, answer: Attempt | None) -> None:
        """The request ended, with an answer or without: those that waited for it may go, or the next of them."""
        prefix = shared_prefix(request)
        if prefix is None:
            return
        if prefix in self._warm:
            self._watch(prefix, answer)
            return
        waiting = self._waiting.pop(prefix, [])
        following = waiting if answer is not None else waiting[:1]
        self.held -= len(following)
        self.ready.extend(following)
        if answer is not None:
            self._learn(prefix, answer)
        elif following:
            self._waiting[prefix] = waiting[1:]

    def _learn(self, prefix: int, answer: Attempt) -> None:
        usage = answer.usage
        wrote = usage is not None and usage.written + usage.cached > 0
        self._warm[prefix] = wrote or answer.provider != _EXPLICIT
        if len(self._warm) > _REMEMBERED:
            self._warm.popitem(last=False)

    def _watch(self, prefix: int, answer: Attempt | None) -> None:
        if self._warm[prefix] and answer is not None and answer.usage is not None:
            self.expected += 1
            self.missed += answer.usage.cached == 0


def shared_prefix(request: Request) -> int | None:
    """What stands for the shared prefix; None where there is none worth waiting for."""
    if not request.cache_until:
        return None
    shared = [message["content"] for message in request.messages[: request.cache_until]]
    schema = "" if request.answer_schema is None else repr(request.answer_schema)
    if len(schema) + sum(map(len, shared)) < _SHORTEST:
        return None
    target = request.target
    return hash((target.provider, target.base_url, target.model, schema, *shared))
