"""Whatever shape a response has: a Reply or an error of ours, and tokens that can be."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.asking.batch.client import lines_of
from sotopia_rl_data.asking.event_stream import END, completion_of, events_of, message_of
from sotopia_rl_data.asking.reading import MOST_BYTES, json_or_none, texts_of, thought_of, with_call
from sotopia_rl_data.errors import AskingError, Unavailable
from sotopia_rl_data.request import Reply, Target, Usage, usage_of

TARGET = Target("openai", "sim", "http://127.0.0.1:1/v1")
NUMBERS = st.integers() | st.floats() | st.just(10**30) | st.booleans()
NAMES = st.sampled_from(
    [
        *("choices", "message", "content", "text", "finish_reason", "stop_reason", "usage", "prompt_tokens", "error"),
        *("total_tokens", "completion_tokens", "code", "input_tokens", "output_tokens", "refusal", "type", "thinking"),
        *("cache_read_input_tokens", "prompt_tokens_details", "cached_tokens"),
    ]
)
ANYTHING = st.recursive(
    st.none() | NUMBERS | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner)
)


def is_possible(usage: Usage) -> bool:
    numbers = (usage.input, usage.cached, usage.written, usage.output)
    return all(type(number) is int and 0 <= number <= 2 * 10**7 for number in numbers) and (
        usage.cached + usage.written <= usage.input
    )


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(odd=ANYTHING, usage=ANYTHING, where=st.sampled_from(["all", "choice", "message", "content", "usage"]))
def test_any_shape_is_a_reply_or_an_error_of_ours(odd: Any, usage: Any, where: str):
    message = odd if where == "message" else {"content": odd if where == "content" else "hi", "reasoning": odd}
    choice = odd if where == "choice" else {"message": message, "finish_reason": odd if where == "usage" else "stop"}
    bodies = [
        (openai.read_completion, odd if where == "all" else {"choices": [choice], "usage": usage, "model": odd}),
        (anthropic.read_message, odd if where == "all" else {"content": odd, "usage": usage, "stop_reason": odd}),
        (anthropic.read_message, {"content": [{"type": "text", "text": odd}], "usage": usage}),
        (openai.read_completion, completion_of([{"choices": odd}, {"choices": [choice], "usage": usage}])),
        (anthropic.read_message, message_of([{"message": {"usage": usage}}, {"delta": odd, "usage": odd}])),
    ]
    for read, body in bodies:
        try:
            reply = read(TARGET, body)
        except AskingError:
            continue
        assert isinstance(reply, Reply)
        assert isinstance(reply.text, str)
        assert isinstance(reply.thought, str)
        assert is_possible(reply.usage)


@pytest.mark.parametrize("told", [{"code": 429}, {"status": 429}, {"type": "rate_limit_error"}])
def test_a_limit_in_an_answers_place_is_a_limit_however_it_is_told(told: dict[str, Any]):
    for body in ({"error": told}, {"choices": [{"message": {"content": ""}, "error": told}]}):
        with pytest.raises(Unavailable) as limited:
            openai.read_completion(TARGET, body)
        assert limited.value.status == 429


def test_a_stream_of_lines_that_are_not_json_is_read_through_once():
    """Where each line is read together with all before it, these take a minute."""
    began = time.process_time()
    assert events_of(b"data: {x\n" * 120_000) == []
    assert time.process_time() - began < 15


MANY = ",".join(f'"{i}":1' for i in range(20_000))
NUMBERED = ",".join(f'{{"index":{i}}}' for i in range(20_000))
TEXT = '{"content_block":{"type":"text","text":"a"}}', '{"type":"content_block_delta","delta":{"text":"b"}}'


@pytest.mark.parametrize(
    ("first", "more", "joined"),
    [
        (f'{{"choices":[{NUMBERED}]}}', '{"choices":[{"index":0}]}', completion_of),
        (f'{{"choices":[{{"a":[{NUMBERED}]}}]}}', '{"choices":[{"a":[{"index":0}]}]}', completion_of),
        (f'{{"usage":{{{MANY}}}}}', '{"usage":{}}', message_of),
        (f'{{"content_block":{{{MANY}}}}}', TEXT[1], message_of),
    ],
)
def test_what_an_event_adds_takes_no_longer_the_more_there_is(
    first: str, more: str, joined: Callable[[list[dict[str, Any]]], dict[str, Any]]
):
    began = time.process_time()
    joined([json.loads(first), *(json.loads(more) for _ in range(20_000))])
    assert time.process_time() - began < 5


def test_a_text_in_many_events_is_put_together():
    chunks = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]} for text in ["a", None, "b"]]
    assert completion_of(chunks)["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": "ab"}, "finish_reason": "the stream broke off"}
    ]
    events = [{"message": {"usage": {"input_tokens": 3}}}, *map(json.loads, TEXT), {"usage": {"output_tokens": 2}}]
    assert message_of([*events, END]) == {
        "content": [{"type": "text", "text": "ab"}],
        "stop_reason": None,
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_any_numbers_are_a_usage_that_can_be(input_: Any, cached: Any, written: Any, output: Any):
    assert is_possible(usage_of(input_, cached, written, output))


def thinking(tokens: int) -> Any:
    return {"reasoning_tokens": tokens}


@pytest.mark.parametrize(
    ("prompt", "answer", "more", "usage"),
    [
        (1000, 10, {"total_tokens": 4010}, Usage(1000, 0, 0, 3010)),
        (9.0, 2.0, {}, Usage(9, 0, 0, 2)),
        (9, 2, {"completion_tokens_details": thinking(7)}, Usage(9, 0, 0, 9)),
        (9, 8, {"completion_tokens_details": thinking(7)}, Usage(9, 0, 0, 8)),
        (9, 2, {"completion_tokens_details": [thinking(7)]}, Usage(9, 0, 0, 2)),
        (9, None, {"total_tokens": 11}, Usage(9, 0, 0, 2)),
        (None, 2, {"total_tokens": 11}, Usage(9, 0, 0, 2)),
        (9, 2, {"total_tokens": 10**30}, Usage(9, 0, 0, 2)),
        (9, 2, {"prompt_tokens_details": {"cached_tokens": 50}}, Usage(9, 9, 0, 2)),
        (9, 2, {"prompt_tokens_details": {"cached_tokens": 1.5}}, Usage(9, 0, 0, 2)),
        ("9", 2, {}, Usage()),
        (9, -2, {}, Usage()),
        (9, None, {}, Usage()),
        (9, True, {}, Usage()),
    ],
)
def test_usage_is_read_number_by_number(prompt: Any, answer: Any, more: Any, usage: Usage):
    told = {"prompt_tokens": prompt, "completion_tokens": answer, **more}
    choice = {"message": {"content": "hi"}, "finish_reason": "stop"}
    assert openai.read_completion(TARGET, {"choices": [choice], "usage": told}).usage == usage


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'\xef\xbb\xbf {"a": 1}\n', {"a": 1}),
        (b'{"a": "\xe9"}', {"a": "\ufffd"}),
        (b'{"a": ' + b"1" * 9_000 + b"}", {"a": float("inf")}),
        (b'{"a":' * 100_000, None),
        (b"[" * 100_000, None),
        (b"[" * 100 + b"]" * 100, reduce(lambda inner, _: [inner], range(99), [])),
        (b"[" * 101 + b"]" * 101, None),
        (b"", None),
        (b"<html>", None),
    ],
)
def test_json_of_any_bytes(raw: bytes, value: Any):
    assert json_or_none(raw) == value


def test_the_thought_is_the_longest_text_that_is_no_answer_and_no_signature():
    message = {
        "role": "assistant",
        "content": None,
        "sig": "c2ln" * 99,
        "inner": [{"type": "x", "text": "I think so."}],
    }
    assert thought_of(message, ("content",)) == "I think so."
    assert thought_of({"content": "It is.", "index": 3, "flags": {"a": [None]}}, ("content",)) == ""


@pytest.mark.parametrize(
    ("parts", "said", "thought"),
    [
        ([{"type": "text", "text": '{"a":'}, {"type": "text", "text": "1}", "final": True}], '{"a":1}', ""),
        ([{"text": "{}", "final": True}, {"text": ""}], "{}", ""),
        ([{"text": "Hm.", "thought": True}, {"text": "{}"}, {"text": " ", "thought": True}], "{}", "Hm. "),
        ([{"text": "Hm.", "thought": True}, {"text": "{}", "final": True}], "{}", "Hm."),
        ([{"type": "thinking", "thinking": "Hm."}, "{}"], "{}", "Hm."),
    ],
)
def test_parts_are_thoughts_where_the_last_one_with_a_text_lacks_their_mark(parts: Any, said: str, thought: str):
    assert texts_of(parts) == (said, thought)


@pytest.mark.parametrize(
    ("said", "answer"), [("", "{}"), ("I use {tool}.", "{}"), ('So: {"a": 1}', 'So: {"a": 1}'), ("{", "{}")]
)
def test_the_answer_is_in_the_call_unless_there_is_an_object_among_the_words(said: str, answer: str):
    assert with_call(said, "", [{"arguments": "{}"}])[0] == answer


def test_a_line_of_results_that_never_ends_is_left_out_and_the_next_is_read():
    async def chunks() -> Any:
        yield b'{"a": 1}\n{"b": "'
        for _ in range(MOST_BYTES // (1 << 20) + 1):
            yield b"x" * (1 << 20)
        yield b'"}\n{"c": '
        yield b"3}"

    async def lines() -> list[Any]:
        return [line async for line in lines_of(chunks())]

    assert asyncio.run(lines()) == [{"a": 1}, {"c": 3}]
