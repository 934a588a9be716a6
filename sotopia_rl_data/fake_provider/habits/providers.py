"""Habits of whole providers: what is true of all calls to one of them.

`as_NAME` plays the provider NAME: where its key stands, how it tells that a key is wrong (one with "wrong" in it),
which ways of passing a schema it takes, and the shape of its replies and usage. Its URL is left to the client.
"""

from __future__ import annotations

from typing import Any

from sotopia_rl_data.fake_provider.habits.call import Call, Response, named


def prose_unless_constrained(call: Call) -> Response | None:
    """A base model, which writes prose wherever no parameter of the request holds a schema."""
    if "response_format" in call.body or "output_config" in call.body:
        return None
    return call.answer(lambda _: "The two of them talk about it for a while, and she says that she is fine.")


def as_openai(call: Call) -> Response:
    """OpenAI: details of usage, a service tier, an empty refusal."""
    if _lacks_key(call):
        return _error(401, "Incorrect API key provided.", type="invalid_request_error", code="invalid_api_key")
    reply = call.reply()
    _detail(reply, completion_tokens_details={"reasoning_tokens": 0, "audio_tokens": 0})
    return Response(reply | {"service_tier": "default", "system_fingerprint": "fp_1"})


def as_azure(call: Call) -> Response:
    """Azure: the key under a header of its own on its older URL, codes as text, results of content filters."""
    if _lacks_key(call) and _lacks_key(call, "api-key"):
        return _error(401, "Access denied: this key or endpoint is not valid for the resource.", code="401")
    reply = call.reply()
    passed = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "violence")}
    reply["choices"][0]["content_filter_results"] = passed
    return Response(reply | {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": passed}]})


def as_anthropic(call: Call) -> Response:
    """Anthropic: the key where its SDKs put it, older ones under x-api-key; cache writes by how long they stay."""
    if _lacks_key(call) and _lacks_key(call, "x-api-key"):
        error = {"type": "authentication_error", "message": "The API key is not valid."}
        return Response({"type": "error", "error": error, "request_id": "req_1"}, 401)
    reply = call.reply()
    _detail(reply, cache_creation={"ephemeral_5m_input_tokens": 0}, service_tier="standard", inference_geo="not_given")
    return Response(reply)


def as_openrouter(call: Call) -> Response:
    """OpenRouter: numbers as codes, the upstream provider and its finish reason, a thought beside the answer, what it
    cost in the usage."""
    if _lacks_key(call):
        return _error(401, "No credentials, or wrong ones.", code=401)
    reply = call.reply()
    choice = reply["choices"][0]
    choice["native_finish_reason"] = "STOP"
    choice["message"] |= {"reasoning": "They get on well.", "reasoning_details": [{"type": "reasoning.text"}]}
    _detail(reply, cost=0.000021, is_byok=False, completion_tokens_details={"reasoning_tokens": 2})
    return Response(reply | {"provider": "Somewhere"})


def as_deepseek(call: Call) -> Response:
    """DeepSeek: no schemas but JSON mode, and that only where the prompt speaks of JSON; cache hits and misses."""
    if _lacks_key(call):
        return _error(401, "The api key is not valid.", type="authentication_error", code="invalid_request_error")
    kind = _format(call)
    speaks = "json" in str(call.body["messages"]).lower()
    if kind == "json_schema" or (kind == "json_object" and not speaks):
        return _error(400, "This type of response_format cannot be had now.", type="invalid_request_error", param=None)
    reply = call.reply()
    prompt = reply["usage"]["prompt_tokens"]
    _detail(reply, prompt_tokens_details=None, prompt_cache_hit_tokens=0, prompt_cache_miss_tokens=prompt)
    return Response(reply)


def as_gemini(call: Call) -> Response:
    """Gemini's OpenAI-compatible URL: errors inside a list, thinking tokens only in the total."""
    if _lacks_key(call):
        details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
        error = {"code": 400, "message": "The API key is not valid.", "status": "INVALID_ARGUMENT", "details": details}
        return Response([{"error": error}], 400)
    reply = call.reply()
    usage = reply["usage"]
    reply["usage"] = {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    reply["usage"]["total_tokens"] += 30
    return Response(reply)


def as_groq(call: Call) -> Response:
    """Groq: schemas on some models alone, seconds beside the tokens."""
    if _lacks_key(call):
        return _error(401, "Invalid API key.", type="invalid_request_error", code="invalid_api_key")
    if _format(call) == "json_schema" and not call.body["model"].startswith("openai/gpt-oss"):
        return _error(400, "No json_schema on this model.", type="invalid_request_error", param="response_format")
    reply = call.reply()
    _detail(reply, queue_time=0.02, prompt_time=0.001, completion_time=0.05, total_time=0.051)
    return Response(reply | {"x_groq": {"id": "req_1"}, "usage_breakdown": None})


def as_mistral(call: Call) -> Response:
    """Mistral: no parameter that it does not know, errors of three shapes, an answer in parts."""
    if _lacks_key(call):
        return Response({"detail": "Unauthorized"}, 401)
    known = {"model", "messages", "temperature", "max_tokens", "top_p", "random_seed", "response_format"}
    unknown = sorted(call.body.keys() - known)
    if unknown:
        fault = {"type": "extra_forbidden", "loc": ["body", unknown[0]], "msg": "Extra inputs are not permitted"}
        return Response({"object": "error", "message": {"detail": [fault]}, "code": None}, 422)
    reply = call.reply()
    message = reply["choices"][0]["message"]
    message["content"] = [{"type": "text", "text": message["content"]}]
    _detail(reply, prompt_tokens_details=None, num_cached_tokens=0)
    return Response(reply)


def as_together(call: Call) -> Response:
    """Together: answers that end at the end-of-sequence token, an empty list of prompts."""
    if _lacks_key(call):
        return _error(401, "Invalid API key provided.", type="invalid_request_error", code="invalid_api_key")
    reply = call.reply()
    reply["choices"][0] |= {"finish_reason": "eos", "seed": 7, "text": ""}
    _detail(reply, prompt_tokens_details=None, cached_tokens=0)
    return Response(reply | {"prompt": []})


def as_xai(call: Call) -> Response:
    """xAI: an error that is a text, told as a bad request; a thought whose tokens are counted apart."""
    if _lacks_key(call):
        return Response({"code": "Client specified an invalid argument", "error": "The API key is not right."}, 400)
    reply = call.reply()
    reply["choices"][0]["message"]["reasoning_content"] = "They get on well."
    total = reply["usage"]["total_tokens"] + 30
    _detail(reply, total_tokens=total, completion_tokens_details={"reasoning_tokens": 30}, num_sources_used=0)
    return Response(reply)


def as_vllm(call: Call) -> Response:
    """vLLM: many members that are null."""
    reply = call.reply()
    choice = reply["choices"][0]
    choice |= {"stop_reason": None, "token_ids": None, "logprobs": None}
    choice["message"] |= {"reasoning": None, "tool_calls": [], "function_call": None, "annotations": None}
    _detail(reply, prompt_tokens_details=None)
    return Response(reply | {"prompt_logprobs": None, "kv_transfer_params": None, "system_fingerprint": None})


def as_sglang(call: Call) -> Response:
    """SGLang: what stopped the model, and reasoning tokens beside the others."""
    reply = call.reply()
    reply["choices"][0] |= {"matched_stop": 151645, "logprobs": None}
    reply["choices"][0]["message"] |= {"reasoning_content": None, "tool_calls": None}
    _detail(reply, prompt_tokens_details=None, reasoning_tokens=0)
    return Response(reply | {"metadata": {"weight_version": "default"}})


def as_ollama(call: Call) -> Response:
    """Ollama: the bare counts of tokens."""
    reply = call.reply()
    usage = reply["usage"]
    reply["usage"] = {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    return Response(reply | {"system_fingerprint": "fp_ollama"})


def as_llamacpp(call: Call) -> Response:
    """llama.cpp: numbers as codes, timings."""
    reply = call.reply()
    timings = {"prompt_n": reply["usage"]["prompt_tokens"], "prompt_ms": 20.5, "predicted_per_second": 40.1}
    return Response(reply | {"timings": timings, "system_fingerprint": "b1-1"})


def _lacks_key(call: Call, header: str = "Authorization") -> bool:
    """Whether a live call has no key in this header, or a wrong one. Lines of batches come without headers."""
    sent = call.headers.get(header, "")
    return bool(call.headers) and (not sent.removeprefix("Bearer ") or "wrong" in sent)


def _format(call: Call) -> str:
    return str(call.body.get("response_format", {}).get("type", ""))


def _error(status: int, message: str, **members: Any) -> Response:
    return Response({"error": {"message": message, **members}}, status)


def _detail(reply: dict[str, Any], **members: Any) -> None:
    """Add to the usage of a reply."""
    reply["usage"] |= members


HABITS = named(
    [
        prose_unless_constrained,
        as_openai,
        as_azure,
        as_anthropic,
        as_openrouter,
        as_deepseek,
        as_gemini,
        as_groq,
        as_mistral,
        as_together,
        as_xai,
        as_vllm,
        as_sglang,
        as_ollama,
        as_llamacpp,
    ]
)
