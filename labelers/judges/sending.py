"""From Question to Request and from any judge to something that can be sent Requests.

A Request that is made here carries its Question along, so that a judge that only knows Questions can be asked through
the same loop, the same ledger and the same pacing as a provider.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data import plugins
from sotopia_rl_data.errors import AskingError, Rejected, SotopiaDataError, UsageError
from sotopia_rl_data.labelers.judge import Judge, Question
from sotopia_rl_data.request import Hashed, Reply, Request, Target

_UNNAMEABLE = re.compile(r"[^A-Za-z0-9_-]")  # what providers do not take in a schema's name

Send = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Hashed):
    """A Request that knows its Question. `follows`: it is a second try."""

    asked: Question
    follows: bool = False


def request_of(question: Question, target: Target, sample: int = 0) -> Ask:
    """The Request that puts `question` to `target`. Same hashes as the plain Request has."""
    return Ask(
        target=target,
        messages=question.messages,
        answer_schema=question.answer_schema,
        sample=sample,
        schema_name=_UNNAMEABLE.sub("_", question.schema)[:64] or "answer",
        cache_until=question.cache_until,
        asked=question,
        hashes=Request(target, question.messages, question.answer_schema, sample).hashes,
    )


def target_of(judge: Judge) -> Target:
    """What determines the judge's answers: what it says itself, or else its id (and the file it came from, where it was
    named by its path: a judge that is being written changes its answers). Raises UsageError."""
    target = getattr(judge, "target", None)
    if target is None:
        source = plugins.source_sha256(judge)
        return Target("plugin", judge.id, "", {"source_sha256": source} if source else {})
    if not isinstance(target, Target):
        raise UsageError(
            f"The judge {judge.id} has a `target` that is no Target.",
            "leave it out, or make it one: python -m pydoc sotopia_rl_data.request.Target",
        )
    return target


def sender(judge: Judge) -> Send:
    """How the judge is sent Requests: its own `send`, or its `answer` to the Question that the Request carries."""
    own: Send | None = getattr(judge, "send", None)
    if own is not None:
        return own

    async def send(request: Request) -> Reply:
        if not isinstance(request, Ask):
            raise TypeError(f"a {type(request).__name__} carries no question")
        hint = "repair the judge, then run the same command again"
        try:
            with plugins.calling(lambda said: Rejected(f"The judge {judge.id} failed: {said}", hint)):
                answer: Any = await judge.answer(request.asked)
        except AskingError:
            raise
        except SotopiaDataError as wrong:
            raise Rejected(f"{judge.id}: {wrong.message}", wrong.hint) from wrong
        if isinstance(answer, str):
            return Reply(answer, model=judge.id)
        if isinstance(answer, Reply):
            return answer
        raise Rejected(
            f"The judge {judge.id} returned {type(answer).__name__}, not text.", "return str or Reply from `answer`"
        )

    return send


async def close(judge: Judge) -> None:
    """Let the judge release what it holds."""
    closing = getattr(judge, "close", None)
    if closing is not None:
        await closing()
