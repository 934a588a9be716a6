"""Habits of models in how long they answer, and of servers in what they take for a limit."""

from __future__ import annotations

from typing import Any

from sotopia_rl_data.fake_provider.answers import RequestRefused
from sotopia_rl_data.fake_provider.habits.call import Call, Response, named

_THOUGHT = 1_500  # tokens of a thought
_MOST = 5_000  # tokens of an answer without a limit


def runs_away(call: Call) -> Response:
    """The answer is right, and white space inside it never ends."""
    most = _limit(call) or _MOST
    return _ended(call, lambda text: text[:-1] + " " * (2 * most), "length", most)


def thinks_before_it_answers(call: Call) -> Response:
    """A hidden thought comes first, and its tokens count."""
    limit = _limit(call)
    if limit is not None and limit <= _THOUGHT:
        return _ended(call, lambda _: "", "length", limit)
    return _ended(call, lambda text: text, "", _THOUGHT + 50)


def talks_before_it_answers(call: Call) -> Response:
    """Long words come first, with or without a schema."""
    limit = _limit(call)
    words = "Let me look at what they said to each other. " * 120
    if limit is not None and limit <= _THOUGHT:
        return _ended(call, lambda _: words[: 2 * limit], "length", limit)
    return _ended(call, lambda text: words + text, "", _THOUGHT + 50)


def takes_no_limit(call: Call) -> None:
    """A limit of tokens is a parameter that the model does not take."""
    if _limit(call) is not None and call.openai:
        raise RequestRefused(400, "This is not a parameter of the model.", "invalid_request_error")


def _limit(call: Call) -> int | None:
    limit = call.body.get("max_completion_tokens") or call.body.get("max_tokens")
    return None if limit is None or limit >= 8_192 else int(limit)  # Anthropic's own default is as good as none


def _ended(call: Call, change: Any, finish: str, output: int) -> Response:
    response = call.answer(change, finish=(finish if call.openai else "max_tokens") if finish else "")
    response.body["usage"]["completion_tokens" if call.openai else "output_tokens"] = output
    if call.openai:
        response.body["usage"]["total_tokens"] = response.body["usage"]["prompt_tokens"] + output
    return response


HABITS = named([runs_away, thinks_before_it_answers, talks_before_it_answers, takes_no_limit])
