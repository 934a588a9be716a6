"""A request to a model, its reply, and the key under which the answer is kept.

The key is made of what determines the answer (provider, base URL, model, sampling parameters, messages, answer schema,
sample number) and of nothing else: not the row's position, not a timeout, not the concurrency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.json_objects import BLANK, begins_with_object, unquoted
from sotopia_rl_data.schema import Message
from sotopia_rl_data.thoughts import answer_text, without_thought

Finish = Literal["stop", "length", "refusal"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes, and how the model samples. `sampling` has temperature, max_tokens, seed … as sent. `key` is
    the environment variable that holds the API key, where one is named; `fleet` is the name
    of the fleet that the server is one of. Neither determines an answer."""

    provider: str
    model: str
    base_url: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    key: str = field(default="", compare=False)
    fleet: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One call: messages and the JSON schema that the answer must obey (None: free text).

    `schema_name` labels the schema for providers that want a name; `sample` tells repeated draws apart;
    `cache_until` counts the leading messages that siblings share (for prompt caches); `limit` is the most tokens of the
    answer where nobody has set any. Of these four only `sample` is part of the key.
    """

    target: Target
    messages: Sequence[Message]
    answer_schema: Mapping[str, Any] | None = None
    sample: int = 0
    schema_name: str = "answer"
    cache_until: int = 0
    limit: int | None = None

    @property
    def length(self) -> int:
        """Characters of the messages."""
        return sum(len(message["content"]) for message in self.messages)

    @property
    def question(self) -> str:
        """Hash of messages, answer schema and sample, without the target. `replay` looks up by it."""
        return sha256_of([list(self.messages), self.answer_schema, self.sample])

    @property
    def key(self) -> str:
        """Hash of all that determines the answer: the ledger's key, and `call_id` in the data."""
        return self.hashes[1]

    @property
    def hashes(self) -> tuple[str, str]:
        """`question` and `key`, computed together: the messages are hashed once."""
        t, question = self.target, self.question
        return question, sha256_of([t.provider, t.base_url, t.model, dict(t.sampling), question])


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashed(Request):
    """A Request with its hashes (those of the same plain Request), so that they are not computed again."""

    hashes: tuple[str, str] = ("", "")

    @property
    def question(self) -> str:
        return self.hashes[0]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider bills them. `cached` is the part of `input` read from its prompt cache, `written` the
    part that it charged for writing there. All zero: the provider did not say, which is unknown and not nothing."""

    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0


_MOST_TOKENS = 10**7  # no call takes more


def token_count(value: object) -> int | None:
    """A number of tokens as somebody told it; None where it is not a whole number from 0 to 10 million."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None


def usage_of(input_: object, cached: object, written: object, output: object) -> Usage:
    """The usage that these numbers tell. Without a possible number for input and output it is unknown; without one for
    the cache, or where the cache would hold more than the input, so much of it is not counted as cached."""
    prompt, answer = token_count(input_), token_count(output)
    if prompt is None or answer is None:
        return Usage()
    read = min(token_count(cached) or 0, prompt)
    return Usage(prompt, read, min(token_count(written) or 0, prompt - read), answer)


@dataclass(frozen=True, slots=True)
class Reply:
    """A provider's answer. `model` is the id that it returned, which may be more exact than the requested one;
    `thought` is what it told apart from the text as the model's thought. `form` says in words how the request was put,
    where its server did not take it as it is meant."""

    text: str
    finish: Finish = "stop"
    model: str = ""
    usage: Usage = Usage()
    thought: str = ""
    form: str = ""

    @property
    def answer(self) -> str:
        """What the reply says: its text, or where that is blank the JSON object in which its thought ends. Raises
        BadAnswer where the token limit cut it off before the answer began."""
        text = unquoted(answer_text(self.text, self.thought))
        if self.finish != "length":
            return text
        try:
            outside = without_thought(text)
        except BadAnswer:
            raise BadAnswer(CUT_OFF_THOUGHT) from None
        if not outside.strip(BLANK) and (self.thought or outside != text):
            raise BadAnswer(CUT_OFF_THOUGHT)
        # the object may be a draft in a thought that was cut off
        if "{" in outside and not begins_with_object(outside):
            raise BadAnswer(CUT_OFF)
        return text


CUT_OFF = "the answer was cut off at the token limit"
CUT_OFF_THOUGHT = "the thought was cut off at the token limit, and no answer came"


class Client(Protocol):
    """Something that can be sent requests: one method, and its target.

    `send` raises Unavailable where asking again may help (429, 5xx, timeout), Rejected where it cannot,
    KeyMissing where there is no key. It never retries by itself: pacing and retries live in `dispatch.py`.
    """

    target: Target

    async def send(self, request: Request) -> Reply: ...

    async def close(self) -> None: ...
