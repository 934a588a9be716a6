"""What is to go wrong: the next `times` requests whose method and path match.

{"method": "POST", "path": "/commit/", "status": 500}                 refused before anything is done
{…, "status": 503, "after": true}                                     done, but the answer says otherwise
{…, "drop": true, "after": true}                                      done, and the connection breaks off
{…, "status": 429, "headers": {"Retry-After": "2"}}
{…, "sleep": 30}                                                      hangs; not done where the client is gone by then
{…, "intrude": {"notes.md": "hello"}}                                 another writer's commit lands first
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from starlette.requests import Request


@dataclass
class Fault:
    path: str
    method: str = "POST"
    times: int = 1
    status: int = 0
    after: bool = False
    drop: bool = False
    sleep: float = 0
    headers: dict[str, str] = field(default_factory=dict)
    intrude: dict[str, str] = field(default_factory=dict)
    omit: str = ""


class Dropped(Exception):
    """The connection breaks off here."""


class Faults:
    """The faults that are still to come."""

    def __init__(self) -> None:
        self._coming: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._coming.append(fault)

    def clear(self) -> None:
        self._coming.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this request, if there is one."""
        for fault in self._coming:
            if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


async def hang(fault: Fault, request: Request) -> None:
    """Wait; Dropped where the client went away meanwhile."""
    ends = asyncio.get_running_loop().time() + fault.sleep
    await request.body()  # only then does the server hear of a client that is gone
    while asyncio.get_running_loop().time() < ends:
        if await request.is_disconnected():
            raise Dropped
        await asyncio.sleep(0.05)
