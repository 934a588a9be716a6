"""Through which files of ours a question goes on its way to a provider: everything that waits for the request when it
is about to be sent, from the command down, and what created each task in between.

A reader who wants to know how a question is asked has all of them open. What is called and has returned before the
request leaves is not on the way.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
import pytest

import sotopia_rl_data

PACKAGE = Path(sotopia_rl_data.__file__).parent


@dataclass(frozen=True, slots=True)
class Step:
    """A file below the package, the function in it, and whether that is a coroutine."""

    file: str
    function: str
    awaits: bool


class AwaitChain:
    """The steps to the first request that leaves, from the command down; each once."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._creation: WeakKeyDictionary[asyncio.Future[Any], list[Step]] = WeakKeyDictionary()

    def files(self, below: str = "", awaits: bool = False) -> list[str]:
        """The distinct files, in the order in which they are met: from `below` on, with `awaits` those of
        coroutines alone."""
        files = list(dict.fromkeys(step.file for step in self.steps if step.awaits or not awaits))
        return files[files.index(below) :] if below else files

    def created(self, task: asyncio.Task[Any]) -> None:
        """A task begins: what it leads back to."""
        self._creation[task] = self._here()

    def leaving(self) -> None:
        """A request is about to be sent."""
        self.steps = self.steps or self._here()

    def _here(self) -> list[Step]:
        """What led to the current task, and the frames that wait for the one that runs now."""
        try:
            task = asyncio.current_task()
        except RuntimeError:  # the loop does not run yet
            task = None
        before = [] if task is None else self._creation.get(task, [])
        return list(dict.fromkeys([*before, *reversed(list(_waiting(sys._getframe())))]))


def _waiting(frame: FrameType | None) -> Iterator[Step]:
    while frame is not None:
        code, path = frame.f_code, Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            yield Step(
                path.relative_to(PACKAGE).as_posix(), code.co_qualname, bool(code.co_flags & inspect.CO_COROUTINE)
            )
        frame = frame.f_back


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwaitChain]:
    """Watch every event loop that is made inside the block."""
    chain = AwaitChain()
    create, send = asyncio.BaseEventLoop.create_task, aiohttp.ClientSession._request

    def create_task(self: asyncio.BaseEventLoop, *given: Any, **named: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = create(self, *given, **named)
        chain.created(task)
        return task

    async def request(self: aiohttp.ClientSession, *given: Any, **named: Any) -> Any:
        chain.leaving()
        return await send(self, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(asyncio.BaseEventLoop, "create_task", create_task)
        patched.setattr(aiohttp.ClientSession, "_request", request)
        yield chain
