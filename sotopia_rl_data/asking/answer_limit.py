"""How many tokens an answer may have where nobody has set a limit: twice the longest answer that its schema allows.

A model that runs away (that fills its answer with white space, say) then costs little. A model that thinks needs more
room, and so does one that talks before it answers; which models do is found out. An answer that was cut off at this
limit is asked for again without it where it was no JSON yet, and so is the first that was: where that one then ends
beyond the limit, the model gets all the room from now on; else the model has run away, and its answers that are cut off
stand. The limit is not part of a request's key. Batches, which cannot ask again at once, have rules of their own
(`batch/answer_limits.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.costs.tokens import limit_in, longest_answer_tokens
from sotopia_rl_data.errors import AskingError, Rejected
from sotopia_rl_data.json_objects import begins_with_object
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.request import Reply, Request, Target

_ROOM = 64  # tokens more, for a code fence and white space
_INVALID = (400, 422)  # statuses by which a server refuses a parameter
_Place = tuple[str, str]  # URL and model


class AnswerLimits:
    """What a run knows of the models that it asks."""

    def __init__(self) -> None:
        self._open: set[_Place] = set()  # models that get all the room
        self._taken: set[_Place] = set()  # models whose server takes a limit, or refuses for other reasons
        self._tried: dict[_Place, int] = {}  # the limit at which a model was cut off that was asked once more

    def limited(self, request: Request) -> Request:
        """The request with the limit that follows from its schema, or itself where it has none."""
        limit = _limit(request)
        return request if limit is None or _place(request.target) in self._open else replace(request, limit=limit)

    def is_suspect(self, sent: Request, error: AskingError) -> bool:
        """Whether a refusal may be one of the limit, which its server has not taken yet: ask again without it."""
        suspect = sent.limit is not None and _place(sent.target) not in self._taken
        return suspect and isinstance(error, Rejected) and error.status in _INVALID

    def cleared(self, target: Target) -> None:
        """The request was refused without the limit too."""
        self._taken.add(_place(target))

    def open(self, target: Target) -> None:
        """Give the model all the room from now on."""
        self._open.add(_place(target))

    def is_open(self, target: Target) -> bool:
        """Whether the model gets all the room."""
        return _place(target) in self._open

    def answered(self, sent: Request, reply: Reply, was_refused: bool) -> None:
        """Learn from an answer; `was_refused`: with the limit, the same request was refused."""
        place = _place(sent.target)
        if sent.limit is not None:
            self._taken.add(place)
        elif was_refused or (reply.finish != "length" and reply.usage.output > self._tried.get(place, math.inf)):
            self._open.add(place)

    def was_interrupted(self, request: Request, settled: Settled, attempts: Callable[[str], Sequence[Attempt]]) -> bool:
        """Whether the only answer that the ledger has was cut off at the limit before it began, in a run that ended
        before it could ask again."""
        attempt, limit = settled.attempt, None
        if attempt is not None and not settled.accepted and attempt.finish == "length":
            limit = _limit(request)
        if attempt is None or limit is None or has_begun(attempt.reply):
            return False
        told = attempt.reply.usage.output
        return 0 < told <= limit and sum(other.status == "answer" for other in attempts(attempt.key)) == 1

    def needs_room(self, sent: Request, reply: Reply) -> bool:
        """Whether an answer was cut off at the limit and is to be asked for without it."""
        place = _place(sent.target)
        if sent.limit is None or reply.finish != "length":
            return False
        if not has_begun(reply):
            self._open.add(place)
        if place in self._open:
            return True
        if 0 < reply.usage.output < sent.limit:  # a lower limit of the server's own cut it off
            return False
        first = place not in self._tried
        self._tried.setdefault(place, sent.limit)
        return first


def has_begun(reply: Reply) -> bool:
    """Whether a reply that was cut off has the beginning of its JSON, and nothing before it."""
    return not reply.thought and "{" in reply.text and begins_with_object(reply.text)


def _limit(request: Request) -> int | None:
    """Twice the longest valid answer; None where that says nothing, or a limit is set. At Anthropic, which wants one, a
    limit from its default on counts as none."""
    target = request.target
    if request.answer_schema is None or target.provider not in (openai.PROVIDER, anthropic.PROVIDER):
        return None
    limit = 2 * longest_answer_tokens(request) + _ROOM
    usual = anthropic.MAX_TOKENS if target.provider == anthropic.PROVIDER else math.inf
    return limit if limit < usual <= (limit_in(target.sampling) or usual) else None


def _place(target: Target) -> _Place:
    return target.base_url, target.model
