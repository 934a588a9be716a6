"""Habits of servers in what is around a completion: the tokens that they bill, and faults in place of an answer."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from sotopia_rl_data.fake_provider.answers import RequestRefused, draw
from sotopia_rl_data.fake_provider.habits.call import Call, Habit, Response, named
from sotopia_rl_data.fake_provider.habits.thoughts import streamed

_TIMES = 3  # the first of every so many calls meets the fault
_FILTERED = 4  # one of so many questions meets a content filter
_BOMB = 64 << 20  # bytes that a small packed body unpacks to


# --- tokens -----------------------------------------------------------------------------------------------------------


def _usage(change: Callable[[dict[str, Any]], Any], words: str) -> Habit:
    """A habit that changes the usage in place, or replaces it by what `change` returns."""

    def habit(call: Call) -> Response:
        reply = call.reply()
        replaced = change(reply["usage"])
        if replaced is not None:
            reply["usage"] = replaced
        return Response(reply)

    habit.__doc__ = words
    return habit


def _each(value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A usage that has this value everywhere."""
    return lambda usage: dict.fromkeys(usage, value)


def _think(usage: dict[str, Any]) -> None:
    """3,000 tokens of thought that only the total has."""
    read = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    answer = usage.get("completion_tokens", usage.get("output_tokens", 0))
    usage["total_tokens"] = read + usage.get("cache_read_input_tokens", 0) + answer + 3_000
    usage["total_tokens"] += usage.get("cache_creation_input_tokens", 0)


def _details(value: Any) -> Callable[[dict[str, Any]], None]:
    def change(usage: dict[str, Any]) -> None:
        usage |= {"prompt_tokens_details": value, "completion_tokens_details": value, "cache_creation": value}

    return change


def _cached(usage: dict[str, Any]) -> None:
    if "prompt_tokens" in usage:
        usage["prompt_tokens_details"] = {"cached_tokens": 10**6, "cache_write_tokens": "some"}


def _without(*parts: str) -> Callable[[dict[str, Any]], None]:
    """No tokens under names that have one of these parts, and no total."""

    def change(usage: dict[str, Any]) -> None:
        usage.pop("total_tokens", None)
        usage |= {name: 0 for name, told in usage.items() if isinstance(told, int) and any(x in name for x in parts)}

    return change


_USAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "thinks_outside_completion_tokens": (_think, "The tokens of thoughts are counted in the total alone."),
    "usage_details_as_a_list": (_details([{"modality": "TEXT", "token_count": 9}]), "Details are a list by modality."),
    "usage_details_as_text": (_details("none"), "Details are a text."),
    "usage_as_text": (_each("many"), "Tokens are words."),
    "usage_beyond_reason": (_each(10**30), "Tokens are more than there can be."),
    "usage_below_zero": (_each(-5), "Tokens are negative."),
    "usage_not_a_number": (_each(float("nan")), "Tokens are NaN, which is not JSON."),
    "usage_as_a_list": (lambda _: [1, 2, 3], "The usage is a list."),
    "usage_as_floats": (lambda usage: {k: float(v) if isinstance(v, int) else v for k, v in usage.items()}, "Floats."),
    "usage_without_a_prompt": (_without("prompt", "input"), "The prompt has no tokens."),
    "usage_without_an_answer": (_without("completion", "output"), "The answer has a text and no tokens."),
    "more_cached_than_sent": (_cached, "More tokens were in the cache than were sent."),
}


# --- faults in place of an answer -------------------------------------------------------------------------------------


def _fault(answer: Callable[[Call], Response], words: str) -> Habit:
    """A habit of the first of every few calls."""

    def habit(call: Call) -> Response | None:
        return answer(call) if call.number % _TIMES == 1 else None

    habit.__doc__ = words
    return habit


@cache
def _packed() -> bytes:
    return gzip.compress(b" " * _BOMB)


def _in_the_choice(call: Call) -> Response:
    response = call.answer(lambda text: text[: len(text) // 2], finish="error")
    if call.openai:
        response.body["choices"][0]["error"] = {"code": 502, "message": "upstream was silent"}
    return response


def _beside_a_whole_answer(call: Call) -> Response:
    response = call.answer(str, finish="stop" if call.openai else "gave_up")
    if call.openai:
        response.body["choices"][0]["message"]["error"] = "the answer may be another's"
    return response


def _unknown_reason(call: Call) -> Response:
    return call.answer(lambda text: text[: len(text) // 2], finish="resources_ran_out")


def _broken_stream(call: Call) -> Response:
    body: bytes = streamed(call.reply(), call.openai).body
    return Response(body[: 2 * len(body) // 3])


def _nothing(call: Call) -> Response:
    reply = call.reply()
    reply["choices" if call.openai else "content"] = [] if call.openai else None
    return Response(reply)


_FAULTS: dict[str, tuple[Callable[[Call], Response], str]] = {
    "error_inside_a_choice": (_in_the_choice, "A fault inside the choice, with half an answer."),
    "error_beside_an_answer": (_beside_a_whole_answer, "A fault beside a whole answer."),
    "unknown_finish_reason": (_unknown_reason, "An unknown reason for the end, with half an answer."),
    "error_in_a_200": (lambda _: Response({"error": {"message": "The upstream is gone.", "code": "x"}}), "A fault."),
    "empty_body": (lambda _: Response(b""), "A body without a byte."),
    "stream_that_breaks_off": (_broken_stream, "A stream of events without its end."),
    "no_choices": (_nothing, "A reply without an answer."),
    "null_body": (lambda _: Response(None), "A body that is null."),
    "page_of_a_proxy": (lambda _: Response(b"<html>Please wait.</html>"), "A page of HTML."),
    "deep_json": (lambda _: Response(b'{"a":' * 60_000), "JSON that is nested without end."),
    "packed_beyond_memory": (
        lambda _: Response(_packed(), 200, {"Content-Encoding": "gzip"}),
        "A small body that unpacks to a large one.",
    ),
}


def half_of_a_character(call: Call) -> Response:
    """Bytes that are not UTF-8 in a field that nobody needs."""
    return Response(json.dumps(call.reply() | {"id": "é"}, ensure_ascii=False).encode("latin-1"))


def packed_without_a_word(call: Call) -> Response:
    """The body is packed, and no header says so. A line of a batch comes as it is."""
    return Response(gzip.compress(json.dumps(call.reply()).encode()) if call.headers else call.reply())


def header_of_many_bytes(call: Call) -> Response:
    """A header longer than HTTP libraries take by themselves."""
    return Response(call.reply(), headers={"X-Policy": "a" * 20_000})


def number_of_a_thousand_digits(call: Call) -> Response:
    """A number too long for a computer's word, in a field that nobody needs."""
    return Response(json.dumps(call.reply()).encode()[:-1] + b', "nonce": ' + b"1" * 9_000 + b"}")


def _is_filtered(call: Call) -> bool:
    return draw(0, str(call.body["messages"])) % _FILTERED == 0


def content_filter_as_400(call: Call) -> None:
    """A content filter refuses some questions with an error."""
    if _is_filtered(call):
        raise RequestRefused(400, "The text trips one of our policies.", code="content_filter", kind="content_filter")


def content_filter_inside_an_error(call: Call) -> Response | None:
    """The same, told deep inside the error."""
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
    error = {"message": "Change your text and try again.", "code": None, "type": None, "innererror": inner}
    return Response({"error": error}, 400) if _is_filtered(call) else None


def content_filter_in_words(call: Call) -> None:
    """A content filter that only its message tells refuses one question: the one with a 3 at its end."""
    if str(call.body["messages"]).rstrip("'}] ").endswith(" 3"):
        raise RequestRefused(400, "We would rather not.", "invalid_request_error")


def content_filter_in_a_sentence(call: Call) -> None:
    """A content filter that only a sentence tells refuses some questions, in whatever form they are put."""
    told = call.body["messages"][-1]["content"]
    text = told if isinstance(told, str) else "".join(part["text"] for part in told)
    if draw(0, text.partition("\n\nAnswer with one JSON object and")[0]) % _FILTERED == 0:
        raise RequestRefused(400, "Your text goes against our rules of use.", "invalid_request_error", "invalid_prompt")


def content_filter_by_another_name(call: Call) -> Response | None:
    """A content filter takes some answers away, and the reason for the end has a router's name for it."""
    return call.answer(lambda _: "", finish="CONTENT_FILTERED") if _is_filtered(call) else None


def content_filter_in_a_reply(call: Call) -> Response | None:
    """A content filter takes some answers away."""
    filtered = "content_filter" if call.openai else "refusal"
    return call.answer(lambda _: "", finish=filtered) if _is_filtered(call) else None


HABITS: dict[str, Habit] = {
    **{name: _usage(change, words) for name, (change, words) in _USAGES.items()},
    **{name: _fault(answer, words) for name, (answer, words) in _FAULTS.items()},
    **named(
        [
            half_of_a_character,
            packed_without_a_word,
            header_of_many_bytes,
            number_of_a_thousand_digits,
            content_filter_as_400,
            content_filter_inside_an_error,
            content_filter_in_words,
            content_filter_in_a_sentence,
            content_filter_by_another_name,
            content_filter_in_a_reply,
        ]
    ),
}
