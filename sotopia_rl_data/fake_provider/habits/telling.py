"""Habits of servers in what they tell of themselves: prompts that they cut, models that change, reasons from behind."""

from __future__ import annotations

import json

from sotopia_rl_data.fake_provider.habits.call import Call, Response, named


def _read_as(call: Call, most: int) -> Response:
    """The reply to a prompt of which no more than so many tokens were read."""
    reply = call.reply()
    usage = reply["usage"]
    name = "prompt_tokens" if call.openai else "input_tokens"
    usage[name] = min(most, usage[name])
    if call.openai:
        usage["total_tokens"] = usage[name] + usage["completion_tokens"]
        usage["prompt_tokens_details"] = {"cached_tokens": 0}
    else:
        usage |= {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    return Response(reply)


def prompt_cut_in_silence(call: Call) -> Response:
    """The server reads the end of a prompt, and says so in its usage alone."""
    return _read_as(call, 50)


def context_of_100_tokens(call: Call) -> Response:
    """The context of the server is shorter than its operator thinks."""
    return _read_as(call, 100)


def another_snapshot(call: Call) -> Response | None:
    """After twenty calls another snapshot of the model answers."""
    if call.number <= 20:
        return None
    return Response(call.reply() | {"model": f"{call.body['model']}-2026-02-02"})


def upstream_in_raw(call: Call) -> Response:
    """A router passes the error of the server behind it on as text."""
    raw = json.dumps({"error": {"message": "The context of 512 tokens is too short for this.", "type": "x"}})
    error = {"message": "Provider returned an error", "code": 400, "metadata": {"raw": raw, "provider_name": "Lab"}}
    return Response({"error": error}, 400)


def upstream_in_causes(call: Call) -> Response:
    """A gateway lists what it was told, deep inside."""
    causes = [{"worker": 3, "detail": {"why": ["the worker wants fp8 weights"]}}]
    return Response({"type": "error", "error": {"type": "bad", "message": "Bad gateway answer", "causes": causes}}, 400)


HABITS = named([prompt_cut_in_silence, context_of_100_tokens, another_snapshot, upstream_in_raw, upstream_in_causes])
