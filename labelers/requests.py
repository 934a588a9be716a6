"""From Question to Request and from any judge to somebody who can be sent Requests; and the second try at an answer.

A Request that is made here carries its Question along, so that a judge that only knows Questions can be asked through
the same loop, the same ledger and the same pacing as a provider.

The second try is the last: at most one extra call for each question. An answer that breaks its form is shown to the
judge again, with the reason in a sentence. One that was cut off at a limit of ours is asked for again, in the same
words, with a higher limit. A refusal is taken as it stands. The follow-up is a function of the question and the answer
alone, so it has a key of its own in the ledger and is found there by every later run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sotopia_rl_data import plugins
from sotopia_rl_data.asking.dispatch import Send
from sotopia_rl_data.costs.tokens import LIMITS
from sotopia_rl_data.errors import AskingError, Rejected, SotopiaDataError, UsageError
from sotopia_rl_data.labelers.judge import Judge, Question
from sotopia_rl_data.labelers.schemas import phrasing
from sotopia_rl_data.request import Hashed, Reply, Request, Target
from sotopia_rl_data.schema import Message

_UNNAMEABLE = re.compile(r"[^A-Za-z0-9_-]")  # what providers do not take in a schema's name

_HIGHER = 4  # times the limit
_MOST = 32_000  # tokens, which every current model may answer; beyond it only twofold: more might be refused
_SHOWN = 6_000  # characters of an unusable answer that are sent back
_WORD_IS_FINAL = ("human", "offline")  # providers that would say the same again


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRequest(Hashed):
    """A Request that knows its Question. `follows`: it is a second try."""

    asked: Question
    follows: bool = False


def request_of(question: Question, target: Target, sample: int = 0) -> JudgeRequest:
    """The Request that puts `question` to `target`. Same hashes as the plain Request has."""
    return JudgeRequest(
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


@dataclass(frozen=True, slots=True)
class AskedJudge:
    """A judge as the asking needs it: `sends` is its own `send`, or its `answer` to the Question that a Request
    carries."""

    judge: Judge
    target: Target

    @property
    def id(self) -> str:
        """What it is called in the data."""
        return self.judge.id

    @property
    def concurrency(self) -> int:
        """How many requests it takes at once; one where it does not say."""
        return int(getattr(self.judge, "concurrency", 1))

    @property
    def paid(self) -> bool:
        """False for one that replays a ledger."""
        return bool(getattr(self.judge, "paid", True))

    @property
    def sends(self) -> Send:
        """How it is sent Requests."""
        own: Send | None = getattr(self.judge, "send", None)
        return self._answer if own is None else own

    async def close(self) -> None:
        """Let the judge release what it holds."""
        closing = getattr(self.judge, "close", None)
        if closing is not None:
            await closing()

    async def _answer(self, request: Request) -> Reply:
        question = question_of(request)
        hint = "repair the judge, then run the same command again"
        try:
            with plugins.calling(lambda said: Rejected(f"The judge {self.id} failed: {said}", hint)):
                answer: Any = await self.judge.answer(question)
        except AskingError:
            raise
        except SotopiaDataError as wrong:
            raise Rejected(f"{self.id}: {wrong.message}", wrong.hint) from wrong
        if isinstance(answer, str):
            return Reply(answer, model=self.id)
        if isinstance(answer, Reply):
            return answer
        raise Rejected(
            f"The judge {self.id} returned {type(answer).__name__}, not text.", "return str or Reply from `answer`"
        )


def asked_judges(judges: Iterable[Judge]) -> tuple[AskedJudge, ...]:
    """The judges as the asking needs them. Raises UsageError as `target_of`."""
    return tuple(AskedJudge(judge, target_of(judge)) for judge in judges)


def judge_request(request: Request) -> JudgeRequest:
    """The same request, which knows its question. Raises TypeError for any other."""
    if not isinstance(request, JudgeRequest):
        raise TypeError(f"a {type(request).__name__} carries no question")
    return request


def question_of(request: Request) -> Question:
    """The question that a request carries. Raises TypeError where it carries none."""
    return judge_request(request).asked


def follow_up(asked: JudgeRequest, reply: Reply, reason: str) -> JudgeRequest | None:
    """What to ask next where `reply` cannot be used for `reason`; None where that was the last word."""
    if asked.follows or reply.finish == "refusal" or asked.target.provider in _WORD_IS_FINAL:
        return None
    higher = raised(asked.target) if reply.finish == "length" else None
    if higher is not None:
        return replace(request_of(asked.asked, higher, asked.sample), follows=True)
    said = reply.text.strip()[:_SHOWN] or "(no answer)"
    again: list[Message] = [
        {"role": "assistant", "content": said},
        {"role": "user", "content": phrasing.fill("repair.v1", reason=reason)},
    ]
    question = replace(asked.asked, messages=[*asked.asked.messages, *again])
    return replace(request_of(question, asked.target, asked.sample), follows=True)


def raised(target: Target) -> Target | None:
    """The same target with a higher token limit; None where it has no limit of ours that could be raised."""
    given = next((name for name in LIMITS if isinstance(target.sampling.get(name), int)), None)
    if given is None:
        return None
    limit = target.sampling[given]
    return replace(target, sampling={**target.sampling, given: min(_HIGHER * limit, max(_MOST, 2 * limit))})
