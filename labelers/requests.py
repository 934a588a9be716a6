"""How a Question becomes a Request, how any judge is sent Requests, and the second try at an answer.

A Request made here carries its Question along. So a judge that only knows Questions goes through the same loop, the
same ledger and the same pacing as a provider.

There is one second try, so at most one extra call for each question. An answer that breaks its form is shown to the
judge again, with a sentence that says why. An answer that was cut off at a token limit of ours is asked for again in
the same words, with a higher limit. A refusal stands. The follow-up depends on the question and the answer alone, so it
has its own key in the ledger, and every later run finds it there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sotopia_rl_data import plugins
from sotopia_rl_data.asking.dispatch import Send
from sotopia_rl_data.asking.memory import EndpointMemory, remember
from sotopia_rl_data.costs.tokens import LIMITS
from sotopia_rl_data.errors import AskingError, Rejected, SotopiaDataError, UsageError
from sotopia_rl_data.labelers.judge import Judge, Question
from sotopia_rl_data.labelers.schemas import phrasing
from sotopia_rl_data.request import Hashed, Reply, Request, Target
from sotopia_rl_data.schema import Message

# Matches the characters that providers do not allow in the name of an answer schema.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
# An answer that was cut off is asked for again with _RAISE times the token limit, up to _MOST, which every current
# model allows. A limit that is already above half of _MOST is doubled, even past _MOST.
_RAISE, _MOST = 4, 32_000
# A second try shows the judge at most this many characters of its unusable answer.
_SHOWN = 6_000
# Judges of these providers would give the same answer again.
_NO_SECOND_TRY = ("human", "offline")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRequest(Hashed):
    """A Request that knows the Question it was `asked` for. `follows` says that it is a second try."""

    asked: Question
    follows: bool = False


def request_of(question: Question, target: Target, sample: int = 0) -> JudgeRequest:
    """The Request that puts `question` to `target`. Its hashes are those of the plain Request."""
    return JudgeRequest(
        target=target,
        messages=question.messages,
        answer_schema=question.answer_schema,
        sample=sample,
        schema_name=_NOT_IN_NAMES.sub("_", question.schema)[:64] or "answer",
        cache_until=question.cache_until,
        asked=question,
        hashes=Request(target, question.messages, question.answer_schema, sample).hashes,
    )


def target_of(judge: Judge) -> Target:
    """What determines the judge's answers: its own `target`, or else its id, and the hash of its file where it was
    named by a path, since a judge that is still being written changes its answers. Raises UsageError."""
    target = getattr(judge, "target", None)
    if target is None:
        source = plugins.source_sha256(judge)
        return Target("plugin", judge.id, "", {"source_sha256": source} if source else {})
    if not isinstance(target, Target):
        raise UsageError(
            f"The `target` of the judge {judge.id!r} is not a Target but a value of the type {type(target).__name__}.",
            "leave `target` out, or make it a Target: python -m pydoc sotopia_rl_data.request.Target",
        )
    return target


@dataclass(frozen=True, slots=True)
class AskedJudge:
    """A judge that can be sent Requests: by its own `send`, or by its `answer` to the Question that a Request
    carries."""

    judge: Judge
    target: Target

    @property
    def id(self) -> str:
        """The judge's id, as in the data."""
        return self.judge.id

    @property
    def concurrency(self) -> int:
        """How many requests the judge takes at once; 1 where it does not say."""
        return int(getattr(self.judge, "concurrency", 1))

    @property
    def paid(self) -> bool:
        """Whether asking costs anything: False for a judge that replays a ledger."""
        return bool(getattr(self.judge, "paid", True))

    @property
    def sends(self) -> Send:
        """What sends the judge a Request."""
        own: Send | None = getattr(self.judge, "send", None)
        return own or self._answer

    def use_memory(self, memory: EndpointMemory) -> None:
        """Let the judge remember there what its model takes, if it does so."""
        remember(self.judge, memory)

    async def close(self) -> None:
        """Let the judge release what it holds."""
        close = getattr(self.judge, "close", None)
        if close is not None:
            await close()

    async def _answer(self, request: Request) -> Reply:
        question = question_of(request)
        hint = "repair the judge, then run the same command again"
        try:
            with plugins.calling(lambda error: Rejected(f"The judge {self.id} failed: {error}", hint)):
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
    """The judges, ready to be sent Requests. Raises UsageError as `target_of` does."""
    return tuple(AskedJudge(judge, target_of(judge)) for judge in judges)


def judge_request(request: Request) -> JudgeRequest:
    """The same request, typed as a JudgeRequest. Raises TypeError where it is not one."""
    if not isinstance(request, JudgeRequest):
        raise TypeError(f"expected a JudgeRequest, which carries its question, and got a {type(request).__name__}")
    return request


def question_of(request: Request) -> Question:
    """The question that a request carries. Raises TypeError where it carries none."""
    return judge_request(request).asked


def follow_up(request: JudgeRequest, reply: Reply, reason: str) -> JudgeRequest | None:
    """The second try where `reply` to `request` cannot be used for `reason`; None where there is none."""
    if request.follows or reply.finish == "refusal" or request.target.provider in _NO_SECOND_TRY:
        return None
    higher = raised(request.target) if reply.finish == "length" else None
    if higher is not None:
        return replace(request_of(request.asked, higher, request.sample), follows=True)
    repair: list[Message] = [
        {"role": "assistant", "content": reply.text.strip()[:_SHOWN] or "(no answer)"},
        {"role": "user", "content": phrasing.fill("repair.v1", reason=reason)},
    ]
    question = replace(request.asked, messages=[*request.asked.messages, *repair])
    return replace(request_of(question, request.target, request.sample), follows=True)


def raised(target: Target) -> Target | None:
    """The same target with a higher token limit; None where no limit is set."""
    name = next((name for name in LIMITS if isinstance(target.sampling.get(name), int)), None)
    if name is None:
        return None
    limit = target.sampling[name]
    return replace(target, sampling={**target.sampling, name: min(_RAISE * limit, max(_MOST, 2 * limit))})
