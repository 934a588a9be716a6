"""Anthropic's messages: system apart, explicit cache markers, a token limit that must be named.

What siblings share (`Request.cache_until`) ends in a marker; so does the system text before it, which other episodes
share too. A server that knows no structured output is given the schema in words, once found out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sotopia_rl_data.asking import transport
from sotopia_rl_data.asking.schemas import with_schema_in_words
from sotopia_rl_data.errors import Rejected
from sotopia_rl_data.request import Finish, Reply, Request, Target, Usage
from sotopia_rl_data.schema import Message

PROVIDER = "anthropic"
KEY = "ANTHROPIC_API_KEY"
URL = "https://api.anthropic.com"
# Where the sampling names no limit; the API wants one. 40 turns on seven dimensions of two agents take about 4,000.
MAX_TOKENS = 8_192
_FINISH: dict[str, Finish] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


def target(model: str, base_url: str = "", sampling: Mapping[str, Any] | None = None) -> Target:
    """Whom to ask: `base_url`, else ANTHROPIC_BASE_URL, else Anthropic. Raises UsageError for an unusable URL."""
    url = base_url or os.environ.get("ANTHROPIC_BASE_URL") or URL
    return Target(PROVIDER, model, transport.clean_url(url), dict(sampling or {}))


class AnthropicClient:
    """Asks `target`. Raises KeyMissing where there is no key."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._headers = _headers(transport.api_key(KEY, target.base_url), target.base_url)
        self._in_words = False
        self._channel: transport.Channel | None = None

    async def send(self, request: Request) -> Reply:
        """One message. Raises Unavailable or Rejected; never retries."""
        if self._channel is None:
            url = f"{self.target.base_url}/v1/messages"
            self._channel = transport.Channel(self.target, url, self._headers, KEY)
        while True:
            in_words = self._in_words
            try:
                return read_message(self.target, await self._channel.post(body_of(request, in_words)))
            except Rejected as error:
                if in_words or request.answer_schema is None or not refuses_format(error):
                    raise
                self._in_words = True

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None


def _headers(key: str, url: str) -> dict[str, object]:
    """How the SDK would sign and version a request, what a person set in the environment included."""
    import anthropic
    import httpx2

    sdk = anthropic.AsyncAnthropic(api_key=key, base_url=url, http_client=httpx2.AsyncClient())
    return {**sdk.default_headers, **sdk.auth_headers}


def body_of(request: Request, in_words: bool = False) -> dict[str, Any]:
    """The JSON that is posted. With `in_words` the answer's schema stands in the last message."""
    messages = list(request.messages)
    if request.answer_schema is not None and in_words:
        messages = with_schema_in_words(messages, request.answer_schema)
    system, rest = _marked(messages, request.cache_until)
    body: dict[str, Any] = {
        "model": request.target.model,
        "max_tokens": MAX_TOKENS,
        **request.target.sampling,
        "messages": rest,
    }
    if system:
        body["system"] = system
    if request.answer_schema is not None and not in_words:
        schema = _supported(json.dumps(request.answer_schema))
        body["output_config"] = {**body.get("output_config", {}), "format": {"type": "json_schema", "schema": schema}}
    return body


def read_message(target: Target, data: Any) -> Reply:
    """The Reply in a message. Raises Unavailable where there is none."""
    try:
        text = "".join(block["text"] for block in data["content"] if block["type"] == "text")
        finish = _FINISH.get(data.get("stop_reason") or "", "stop")
        return Reply(text, finish, str(data.get("model") or ""), _usage(data.get("usage") or {}))
    except (KeyError, TypeError, AttributeError):
        raise transport.not_an_answer(target, data) from None


def _marked(messages: Sequence[Message], cache_until: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """System blocks and messages. The last shared block, and the last system block before it, carry a marker."""
    system: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    shared: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        block: dict[str, Any] = {"type": "text", "text": message["content"]}
        if message["role"] == "system":
            system.append(block)
        else:
            rest.append({"role": message["role"], "content": [block]})
        if number < cache_until and message["content"]:
            shared.append(block)
    last_system = [block for block in shared if any(block is one for one in system)][-1:]
    for block in (*last_system, *shared[-1:]):
        block["cache_control"] = {"type": "ephemeral"}
    return system, rest


@lru_cache(maxsize=1_024)
def _supported(schema: str) -> dict[str, Any]:
    """The schema without the words that Anthropic's structured outputs do not know (ranges become descriptions)."""
    import anthropic

    return anthropic.transform_schema(json.loads(schema))


def refuses_format(error: Rejected) -> bool:
    """Whether the server refused the way in which the answer's schema was given."""
    words = ("output_config", "output_format", "structured output", "json_schema")
    return error.status == 400 and any(w in error.message for w in words)


def _usage(usage: Mapping[str, Any]) -> Usage:
    """Anthropic counts what it read from and wrote to its cache apart from the rest of the input."""
    cached = int(usage.get("cache_read_input_tokens") or 0)
    written = int(usage.get("cache_creation_input_tokens") or 0)
    fresh = int(usage.get("input_tokens") or 0)
    return Usage(fresh + cached + written, cached, written, int(usage.get("output_tokens") or 0))
