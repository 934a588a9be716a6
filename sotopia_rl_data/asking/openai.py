"""OpenAI's chat completions, and every server that speaks them: vLLM, Together, DeepSeek, Ollama, OpenRouter …

The schema of an answer is passed in one of three ways: as a strict JSON schema, in JSON mode, or in words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.asking import event_stream, reading, refusals, transport
from sotopia_rl_data.asking.keys import without_key
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.request import Finish, Reply, Request, Target, Usage, token_count, usage_of

if TYPE_CHECKING:
    import openai

PROVIDER = "openai"
URL = "https://api.openai.com/v1"
WAYS = ("json_schema", "json_object", "text")
_REASONS = re.compile(r"o\d|gpt-([5-9]|\d\d)")  # reasoning models, which take no temperature but their own
# Why a completion ended, beside refusals, in the words of OpenAI and of servers that kept words of their own. Any other
# word is taken for a fault of the server.
_FINISH: dict[str, Finish] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete"), "stop"),
    **dict.fromkeys(("tool_calls", "function_call"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_output_tokens"), "length"),
}
_SAID = ("role", "content", "refusal", "name", "tool_calls", "function_call", "annotations", "audio", "error")


def target(model: str, base_url: str = "", sampling: Mapping[str, Any] | None = None, key: str = "") -> Target:
    """The target at `base_url`, else OPENAI_BASE_URL, else OpenAI itself. Raises UsageError for an unusable URL."""
    url = base_url or os.environ.get("OPENAI_BASE_URL") or URL
    return Target(PROVIDER, model, transport.clean_url(url), dict(sampling or {}), key)


def takes_temperature(model: str) -> bool:
    """False for models that refuse a temperature other than their own."""
    return not _REASONS.match(model)


def body_of(request: Request, way: str = "json_schema") -> dict[str, Any]:
    """The JSON that is posted. `way`, one of `WAYS`, says how the answer's schema is passed."""
    body: dict[str, Any] = {
        "model": request.target.model,
        "messages": list(request.messages),
        **request.target.sampling,
    }
    if request.limit is not None:
        body.setdefault("max_tokens", request.limit)
    official = request.target.base_url == URL
    # OpenAI's own API has another name for the limit of a reasoning model's answer
    if "max_tokens" in body and official and _REASONS.match(request.target.model):
        body["max_completion_tokens"] = body.pop("max_tokens")
    if request.answer_schema is not None:
        if way == "json_schema":
            json_schema = {"name": request.schema_name, "strict": True, "schema": request.answer_schema}
            body["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        else:
            body["messages"] = transport.with_schema_in_words(body["messages"], request.answer_schema)
            if way == "json_object":
                body["response_format"] = {"type": "json_object"}
    if request.cache_until > 1 and official:  # OpenAI sends requests with equal keys to the machine with their prefix
        body["prompt_cache_key"] = sha256_of(list(request.messages[: request.cache_until]))[:32]
    return body


def read_completion(target: Target, data: Any) -> Reply:
    """The Reply that a chat completion holds. Raises Unavailable where it holds none, or a fault in place of one."""
    data = reading.unwrapped(data, "choices")
    if isinstance(data, dict) and refusals.says_something(data.get("error")):  # some gateways send errors so
        raise refusals.error_inside(target, data)
    try:
        usage = _usage(data.get("usage"))
        choice = data["choices"][0]
        texts = [choice.get("message"), choice.get("delta"), {"content": choice["text"]} if "text" in choice else None]
        message = max((told for told in texts if isinstance(told, dict)), key=bool)  # the first that is not empty
        reason = choice.get("finish_reason")
        fault = next(filter(refusals.says_something, (choice.get("error"), message.get("error"))), None)
        refusal = message.get("refusal")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise refusals.not_an_answer(target, data) from None
    finish = reading.finish_of(reason, _FINISH)
    if fault or finish is None:
        raise refusals.fault_inside(target, fault or f"the reason why it stopped is {str(reason)[:60]!r}", usage)
    if not message and finish == "stop":  # a refusal, or an answer that was cut off, may have no message
        raise refusals.not_an_answer(target, data, usage)
    said, thought = reading.texts_of(message.get("content"))
    said, thought = reading.with_call(
        said or reading.parsed_in(message),
        thought or reading.thought_of(message, _SAID),
        message.get("tool_calls") or [message.get("function_call")],
    )
    if refusal:
        said, finish = str(refusal), "refusal"
    said, thought, name = (without_key(target, told) for told in (said, thought, reading.name_of(data)))
    return Reply(said, finish, name, reading.plausible(usage, said), thought)


def _usage(usage: object) -> Usage:
    """The tokens of a completion. The output is at least the total without the prompt: some servers leave thoughts out
    of `completion_tokens`."""
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    cached = details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens")
    prompt, answer, total = (token_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    if total is not None:
        prompt = total - answer if prompt is None and answer is not None else prompt
        answer = max(answer or 0, total - prompt) if prompt is not None else answer
    thinking = usage.get("completion_tokens_details")
    thought = token_count(thinking.get("reasoning_tokens")) if isinstance(thinking, dict) else None
    if answer is not None and thought is not None and thought > answer:  # then the answer cannot include it
        answer += thought
    return usage_of(prompt, cached, details.get("cache_write_tokens"), answer)


def sdk_client(key: str, url: str, http_client: Any) -> openai.AsyncOpenAI:
    """The SDK's client, which knows how a request is signed and versioned and reads the SDK's own environment
    variables. It never retries."""
    import openai

    return openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=0, http_client=http_client)


API = transport.Api(
    path="/chat/completions",
    ways=WAYS,
    sdk_client=sdk_client,
    body_of=body_of,
    read=read_completion,
    joined=event_stream.completion_of,
)


class OpenAIClient(transport.ApiClient):
    """Asks for chat completions at `target`. Raises KeyMissing where there is no key."""

    api = API
