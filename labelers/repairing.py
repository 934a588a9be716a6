"""The second and last try at a question whose answer cannot be used: at most one extra call each.

An answer that breaks its form is shown to the judge again, with the reason in a sentence. One that was cut off at a
limit of ours is asked for again, in the same words, with a higher limit. A refusal is taken as it stands.

The follow-up is a function of the question and the answer alone, so it has a key of its own in the ledger, is found
there by every later run, and a run that was killed before it asks it when it goes on.
"""

from __future__ import annotations

from dataclasses import replace

from sotopia_rl_data.costs.tokens import LIMITS
from sotopia_rl_data.labelers.judges.sending import Ask, request_of
from sotopia_rl_data.labelers.schemas import phrasing
from sotopia_rl_data.request import Reply, Target
from sotopia_rl_data.schema import Message

_HIGHER = 4  # times the limit
_MOST = 32_000  # tokens, which every current model may answer; beyond it only twofold: more might be refused
_SHOWN = 6_000  # characters of an unusable answer that are sent back
_WORD_IS_FINAL = ("human", "offline")  # providers that would say the same again


def follow_up(asked: Ask, reply: Reply, reason: str) -> Ask | None:
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
