"""A fleet: several servers of one model, asked as one target. Its name, not its URLs, stands in the ledger's key.

A request goes to the server where it would probably be answered first: the one with the least in flight, weighed by how
long its answers take lately. Requests that share a prefix stay together, where the server's prefix cache has it, unless
that server is much busier than others; then the prefix has one home more. A server that cannot be reached, refuses what
others take, or fails several times in a row is taken out, and one request tries it again after a while. Nothing is sent
twice here: `dispatch.py` retries, and the retry goes to a server that is in service.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from sotopia_rl_data.asking.memory import EndpointMemory
from sotopia_rl_data.asking.prompt_cache import shared_prefix
from sotopia_rl_data.asking.transport import ApiClient
from sotopia_rl_data.errors import Rejected, Unavailable
from sotopia_rl_data.request import Reply, Request, Target

log = logging.getLogger(__name__)

SCHEME = "fleet"
_SPARE = 32  # a home may have so many requests in flight above …
_MUCH_BUSIER = 2.0  # … this many times the load of the server with the least
_FAULTS = 3  # faults in a row (5xx, time limits) that take a server out; one is enough where it cannot be reached
_OUT_S, _LONGEST_OUT_S = 1.0, 30.0  # the first time out, which doubles each time that the server still fails
_BUSY = 429
# Refusals that are about the server, until all have refused: of a key, of a model that it lacks. So is every refusal by
# a server that has not answered anything yet.
_ITS_OWN = (401, 403, 404)
# Refusals that may be about the request. They count against a server that has answered nothing only once another one
# has answered a request at least as long.
_ABOUT_REQUEST = (400, 413, 422)
_RECENT = 0.1  # the weight of the newest answer in how long answers take
_PREFIXES = 16_384  # only the homes of this many prefixes are remembered


@dataclass(slots=True, eq=False)
class _Server:
    """One server, and how it does. Times in seconds; `answer_s` is 0 until something was answered."""

    client: ApiClient
    in_flight: int = 0
    sent: int = 0
    answer_s: float = 0.0
    longest: int = 0  # characters of the longest request that it answered
    faults: int = 0  # in a row
    times_out: int = 0  # how often it was taken out since its last answer
    out_until: float = 0.0

    def answered(self, seconds: float, length: int) -> None:
        """It answered a request of this length: it is in service."""
        if self.times_out:
            log.info("%s is back", self.client.target.base_url)
        self.faults = self.times_out = 0
        self.longest = max(self.longest, length)
        self.answer_s = self.answer_s + _RECENT * (seconds - self.answer_s) if self.answer_s else seconds

    def failed(self, now: float, is_gone: bool) -> None:
        """A request met a fault there."""
        self.faults += 1
        if now < self.out_until or not (is_gone or self.times_out or self.faults >= _FAULTS):
            return
        seconds = min(_OUT_S * 2**self.times_out, _LONGEST_OUT_S)
        self.times_out += 1
        self.out_until = now + seconds
        log.info("%s is out of service for %g s", self.client.target.base_url, seconds)

    def is_in_service(self, now: float) -> bool:
        """Whether it may be sent a request. One that was out is tried with one request at a time."""
        return now >= self.out_until and not (self.times_out and self.in_flight)


class Fleet:
    """The servers of `clients`, which all have the same model, under one `target`. Used from one event loop."""

    def __init__(self, target: Target, clients: Sequence[ApiClient]) -> None:
        self.target = target
        self._servers = [_Server(client) for client in clients]
        self._homes: OrderedDict[int, set[int]] = OrderedDict()  # prefix -> numbers of the servers that have seen it
        self._refused: dict[str, set[_Server]] = {}  # key of a request that others may take -> who refused it

    async def send(self, request: Request) -> Reply:
        """One answer from one of the servers. Raises what its client raises."""
        server = self._choose(request, time.monotonic())
        server.in_flight += 1
        server.sent += 1
        began, length = time.monotonic(), request.length
        try:
            reply = await server.client.send(request)
        except asyncio.CancelledError:  # by the time limit, or because the run ends
            server.failed(time.monotonic(), False)
            raise
        except Unavailable as error:
            if error.status != _BUSY:
                server.failed(time.monotonic(), error.status == 0)
            raise
        except Rejected as error:
            is_its_own = error.status in _ITS_OWN or not server.answer_s
            refused = self._refused.pop(request.key, set()) | {server}
            others = [one for one in self._servers if one not in refused]
            if not is_its_own or not any(one.answer_s or not one.times_out for one in others):
                raise
            if error.status in _ABOUT_REQUEST and all(one.longest < length for one in others):
                self._refused[request.key] = refused
            else:
                server.failed(time.monotonic(), True)
            # another server may answer: it is worth another try, and nothing was billed
            raise Unavailable(error.message, error.hint, status=error.status, sent=False) from error
        finally:
            server.in_flight -= 1
        self._refused.pop(request.key, None)
        server.answered(time.monotonic() - began, length)
        return reply

    def use_memory(self, memory: EndpointMemory) -> None:
        """Remember there what each server takes, and go by what an earlier run has found."""
        for server in self._servers:
            server.client.use_memory(memory)

    async def close(self) -> None:
        """Close the connections; the next `send` opens new ones."""
        for server in self._servers:
            await server.client.close()

    def _choose(self, request: Request, now: float) -> _Server:
        """The server for a request: one that has not refused it."""
        prefix, refused = shared_prefix(request), self._refused.get(request.key, ())
        numbers = [number for number, server in enumerate(self._servers) if server not in refused]
        serving = [number for number in numbers if self._servers[number].is_in_service(now)]
        if not serving:  # the one that is tried again first tells what is wrong
            left = (self._servers[number] for number in numbers)
            return min(left, key=lambda server: (server.in_flight, server.out_until))
        measured = [server.answer_s for server in self._servers if server.answer_s]
        usual = min(measured, default=1.0)

        def load(number: int, spare: int = 0) -> float:
            server = self._servers[number]
            return max(server.in_flight + 1 - spare, 0) * (server.answer_s or usual)

        least = min(serving, key=lambda number: (load(number), self._servers[number].sent))
        if prefix is None:
            return self._servers[least]
        homes = self._homes.setdefault(prefix, set())
        self._homes.move_to_end(prefix)
        if len(self._homes) > _PREFIXES:
            self._homes.popitem(last=False)
        home = min((number for number in serving if number in homes), key=load, default=least)
        if load(home, _SPARE) > _MUCH_BUSIER * load(least):
            home = least
        homes.add(home)
        return self._servers[home]
