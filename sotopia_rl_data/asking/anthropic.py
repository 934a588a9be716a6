"""Anthropic's messages API: the system text is a field of its own, cache markers are explicit, a token limit is
required.

The messages that sibling requests share (`Request.cache_until`) end in a marker; so does the system text before them,
which other episodes share too. The schema of an answer is passed as structured output or in words.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.asking import event_stream, reading, refusals, transport
from sotopia_rl_data.asking.keys import without_key
from sotopia_rl_data.request import Finish, Reply, Request, Target, Usage, token_count, usage_of
from sotopia_rl_data.schema import Message

if TYPE_CHECKING:
    import anthropic

PROVIDER = "anthropic"
URL = "https://api.anthropic.com"
# The limit in tokens where the sampling names none, since the API requires a limit. A judge's answer about 40 turns,
# seven dimensions and two agents takes about 4,000 tokens.
MAX_TOKENS = 8_192
WAYS = ("json_schema", "text")
# Opus 4.7 and newer models refuse a temperature; the models before it take one.
_TAKES_TEMPERATURE = re.compile(r"claude-(3-|(haiku|sonnet)-4-|opus-4-[0156]|.*-4-20\d{6})")
# Why a message ended, beside refusals. Any other word is taken for a fault of the server.
_FINISH: dict[str, Finish] = {
    **dict.fromkeys(("end_turn", "stop_sequence", "tool_use", "pause_turn", "stop"), "stop"),
    **dict.fromkeys(("max_tokens", "model_context_window_exceeded", "length"), "length"),
}


def target(model: str, base_url: str = "", sampling: Mapping[str, Any] | None = None, key: str = "") -> Target:
    """The target at `base_url`, else ANTHROPIC_BASE_URL, else Anthropic. Raises UsageError for an unusable URL."""
    url = base_url or os.environ.get("ANTHROPIC_BASE_URL") or URL
    return Target(PROVIDER, model, transport.clean_url(url), dict(sampling or {}), key)


def takes_temperature(model: str) -> bool:
    """False for models that refuse a temperature other than their own."""
    return bool(_TAKES_TEMPERATURE.match(model))


def body_of(request: Request, way: str = "json_schema") -> dict[str, Any]:
    """The JSON that is posted. `way`, one of `WAYS`, says how the answer's schema is passed."""
    messages = list(request.messages)
    if request.answer_schema is not None and way == "text":
        messages = transport.with_schema_in_words(messages, request.answer_schema)
    system, rest = _marked(messages, request.cache_until)
    body: dict[str, Any] = {
        "model": request.target.model,
        "max_tokens": MAX_TOKENS,
        **request.target.sampling,
        "messages": rest,
    }
    if request.limit is not None:
        body["max_tokens"] = request.limit
    if system:
        body["system"] = system
    if request.answer_schema is not None and way == "json_schema":
        schema = _supported(json.dumps(request.answer_schema))
        body["output_config"] = {**body.get("output_config", {}), "format": {"type": "json_schema", "schema": schema}}
    return body


def read_message(target: Target, data: Any) -> Reply:
    """The Reply that a message holds. Raises Unavailable where it holds none, or a fault in place of one."""
    data = reading.unwrapped(data, "content")
    if isinstance(data, dict) and refusals.says_something(data.get("error")):
        raise refusals.error_inside(target, data)
    content = data.get("content") if isinstance(data, dict) else None
    if not isinstance(content, list | str):
        raise refusals.not_an_answer(target, data)
    usage, reason = _usage(data.get("usage")), data.get("stop_reason")
    finish = reading.finish_of(reason, _FINISH)
    if finish is None:
        raise refusals.fault_inside(target, f"the reason why it stopped is {str(reason)[:60]!r}", usage)
    tools = [block for block in content if isinstance(block, dict) and block.get("type") == "tool_use"]
    said, thought = reading.with_call(*reading.texts_of(content), tools)
    said, thought, name = (without_key(target, told) for told in (said, thought, reading.name_of(data)))
    return Reply(said, finish, name, reading.plausible(usage, said), thought)


def _marked(messages: Sequence[Message], cache_until: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """System blocks and messages. The last shared block, and the last system block before it, carry a marker."""
    system: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    shared: list[dict[str, Any]] = []
    last_system: dict[str, Any] | None = None
    for number, message in enumerate(messages):
        block: dict[str, Any] = {"type": "text", "text": message["content"]}
        if message["role"] == "system":
            system.append(block)
        else:
            rest.append({"role": message["role"], "content": [block]})
        if number < cache_until and message["content"]:
            shared.append(block)
            if message["role"] == "system":
                last_system = block
    for marked in (last_system, shared[-1] if shared else None):
        if marked is not None:
            marked["cache_control"] = {"type": "ephemeral"}
    return system, rest


@lru_cache(maxsize=1_024)
def _supported(schema: str) -> dict[str, Any]:
    """The schema without the keywords that Anthropic's structured outputs do not know (ranges become descriptions)."""
    import anthropic

    return anthropic.transform_schema(json.loads(schema))


def _usage(usage: object) -> Usage:
    """The tokens of a reply. Anthropic counts input read from or written to its cache separately from the rest."""
    if not isinstance(usage, dict):
        return Usage()
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    fresh, cached, written, output = (token_count(usage.get(name) or 0) for name in names)
    if fresh is None or cached is None or written is None:
        return Usage()
    total = token_count(usage.get("total_tokens"))
    if output is not None and total is not None:
        output = max(output, total - fresh - cached - written)
    return usage_of(fresh + cached + written, cached, written, output)


def sdk_client(key: str, url: str, http_client: Any) -> anthropic.AsyncAnthropic:
    """The SDK's client, which knows how a request is signed and versioned and reads the SDK's own environment
    variables. It never retries."""
    import anthropic

    return anthropic.AsyncAnthropic(api_key=key, base_url=url, max_retries=0, http_client=http_client)


API = transport.Api(
    path="/v1/messages",
    ways=WAYS,
    sdk_client=sdk_client,
    body_of=body_of,
    read=read_message,
    joined=event_stream.message_of,
)


class AnthropicClient(transport.ApiClient):
    """Asks for messages at `target`. Raises KeyMissing where there is no key."""

    api = API
