"""Of the requests that share a long prefix, the first is sent alone; the others wait until the provider has cached the
prefix.

Sent together they would all be billed in full. Requests with other prefixes go on meanwhile. If the first gets no
answer, the next is sent alone. The answer schema is part of the prefix: providers put it before the messages.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.lookup import PendingRequest
from sotopia_rl_data.request import Request

_SHORTEST = 3_500  # characters; no provider caches a shorter prefix
_REMEMBERED = 4_096  # only this many prefixes are remembered
# This provider reports the tokens that it wrote to its cache. Without such a report the prefix was too short for the
# model's cache, so later requests are not expected to find it there.
_EXPLICIT = "anthropic"


class PromptCacheWarmup:
    """Which requests wait for a prefix and which are `ready` to be sent. Of the `expected` requests, whose prefix
    should have been in the cache, `missed` did not find it there."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[PendingRequest]] = {}  # prefix in flight -> requests that wait for it
        self._warm: OrderedDict[int, bool] = OrderedDict()  # prefix -> whether the cache certainly has it
        self.ready: deque[PendingRequest] = deque()
        self.held = 0
        self.expected = self.missed = 0

    def holds(self, pending: PendingRequest) -> bool:
        """Whether the request has to wait, until it appears in `ready`. If not, the caller sends it now."""
        prefix = shared_prefix(pending.request)
        if prefix is None or prefix in self._warm:
            return False
        if prefix in self._waiting:
            self._waiting[prefix].append(pending)
            self.held += 1
            return True
        self._waiting[prefix] = []
        return False

    def ended(self, request: Request, answer: Attempt | None) -> None:
        """After an answer all requests that waited for this one are ready, else only the next of them."""
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
            if answer.usage.cached == 0:
                self.missed += 1


def shared_prefix(request: Request) -> int | None:
    """A hash of the prefix that the request shares with others; None where it is too short to be cached."""
    if not request.cache_until:
        return None
    shared = [message["content"] for message in request.messages[: request.cache_until]]
    schema = "" if request.answer_schema is None else repr(request.answer_schema)
    if len(schema) + sum(map(len, shared)) < _SHORTEST:
        return None
    target = request.target
    return hash((target.provider, target.base_url, target.model, schema, *shared))
