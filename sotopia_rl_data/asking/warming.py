"""Requests that share a long prefix: the first goes ahead, the others wait until the provider's cache holds it.

Sent at once, they would all be billed in full. Other prefixes go on meanwhile, so that nothing stands still.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from sotopia_rl_data.asking.desk import Open
from sotopia_rl_data.asking.request import Request, Usage

_SHORTEST = 3_500  # characters: no provider keeps a shorter prefix
_REMEMBERED = 4_096  # prefixes


class Warming:
    """Who goes ahead, who waits, who may go now. `missed` of the `expected` requests found no cached prefix."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[Open]] = {}  # prefix on its way -> those that wait for it
        self._warm: OrderedDict[int, None] = OrderedDict()
        self.ready: deque[Open] = deque()
        self.held = 0
        self.expected = self.missed = 0

    def holds(self, asked: Open) -> bool:
        """Whether the request has to wait; it will turn up in `ready`. If not, it is on its way."""
        prefix = _prefix(asked.request)
        if prefix is None or prefix in self._warm:
            return False
        if prefix in self._waiting:
            self._waiting[prefix].append(asked)
            self.held += 1
            return True
        self._waiting[prefix] = []
        return False

    def landed(self, request: Request, usage: Usage | None) -> None:
        """The request ended, `usage` says how where it was answered: those that waited for it may go."""
        prefix = _prefix(request)
        if prefix is None:
            return
        if prefix in self._warm:
            self._watch(usage)
            return
        followers = self._waiting.pop(prefix, [])
        self.held -= len(followers)
        self.ready.extend(followers)
        self._warm[prefix] = None
        if len(self._warm) > _REMEMBERED:
            self._warm.popitem(last=False)

    def _watch(self, usage: Usage | None) -> None:
        if usage is not None and usage.input:
            self.expected += 1
            self.missed += usage.cached == 0


def _prefix(request: Request) -> int | None:
    """What stands for the shared prefix; None where there is none worth waiting for."""
    shared = [message["content"] for message in request.messages[: request.cache_until]]
    if sum(map(len, shared)) < _SHORTEST:
        return None
    target = request.target
    return hash((target.provider, target.base_url, target.model, *shared))
