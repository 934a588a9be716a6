"""Habits of models in how an answer is told: with thoughts before it or beside it, and with bytes around it.

A thought holds a draft of the answer that obeys the schema too, with other values: what takes it for the answer gives
itself away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from sotopia_rl_data.fake_provider.answers import draw
from sotopia_rl_data.fake_provider.habits.call import Call, Habit, Response, named

_LEAVE = '{"action_type": "leave", "argument": ""}'
_PROSE = "They want {braces} and [1] rated.\nFirst try: DRAFT\nNo, the score was high."

# The text of a completion, where ANSWER stands for what is asked for and DRAFT for another such answer.
_TEXTS: Mapping[str, tuple[str, str]] = {
    "thought_in_tags": ("A block of the usual name.", "<think>THOUGHT</think>\n\nANSWER"),
    "thought_in_other_tags": ("A block of another name.", "<inner:Voice depth='2'>\nTHOUGHT\n</inner:Voice>ANSWER"),
    "thought_in_escaped_tags": ("A block whose brackets are escaped.", "&lt;plan&gt;THOUGHT&lt;/plan&gt; ANSWER"),
    "thought_in_other_brackets": ("A block in other brackets.", "◁think▷THOUGHT◁/think▷ANSWER"),
    "thought_without_a_beginning": ("The prompt has opened the thought.", "THOUGHT\n</think>\n\nANSWER"),
    "other_thought_without_a_beginning": ("As before, in another block.", "THOUGHT\n[/PLAN]\n\nANSWER"),
    "thought_and_answer_in_tags": ("Both in blocks.", "<rationale>THOUGHT</rationale>\n<verdict>ANSWER</verdict>"),
    "channel_markers": (
        "Raw markers of channels.",
        "<|channel|>analysis<|message|>THOUGHT<|end|><|start|>assistant<|channel|>final<|message|>ANSWER",
    ),
    "other_channel_markers": ("Markers of other names.", "<|plan|>THOUGHT<|planned|><|reply|>ANSWER<|replied|>"),
    "half_open_channel_markers": ("Markers with one bar.", "<|channel>thought\nTHOUGHT<channel|>ANSWER"),
    "wide_channel_markers": ("Markers in full-width characters.", "THOUGHT<｜thinking▁over｜>ANSWER<｜end▁of▁turn｜>"),
    "fence_that_stays_open": ("A code fence without an end.", "```json\nANSWER"),
    "fence_of_tildes": ("A code fence of another kind.", "~~~\nANSWER\n~~~"),
    "fence_on_one_line": ("A code fence on the answer's line.", "`ANSWER`"),
    "byte_order_mark": ("A byte order mark.", "\ufeffANSWER"),
    "end_of_text_mark": ("The mark that ends a text.", "ANSWER</s>\x00"),
    "words_around_one_object": ("Words around the answer.", "Here it is:\n\nANSWER\n\nAnything else?"),
    "words_with_braces": ("Words with braces and brackets.", "As {asked}, see [1]: ANSWER. [2"),
    "answer_in_tags": ("The answer in a block.", "<verdict>\nANSWER\n</verdict>"),
    "thought_between_lone_marks": ("Marks that nothing closes.", "<unused94>THOUGHT<unused95>ANSWER"),
    "answer_in_tags_after_words": ("Words, then the answer in a block.", "They did well.\n<verdict>ANSWER</verdict>"),
    "blocks_inside_a_block": (
        "A block with all the others.",
        "<reply><why>THOUGHT</why>\n<json>ANSWER</json></reply>",
    ),
    "next_turn_begins": ("The marks of a next turn.", "ANSWER<|eot|><|begin_header|>assistant<|end_header|>\n\n"),
    "call_in_the_text": (
        "A tool call that the server has left in the text.",
        '<tool_call>\n{"name": "answer", "arguments": ANSWER}\n</tool_call>',
    ),
    "call_in_a_tag_with_a_name": ("A call in a tag that names the tool.", "<function=answer>\nANSWER\n</function>"),
    "two_objects": ("Two answers: neither counts.", "DRAFT\nor rather\nANSWER"),
    "two_fences": ("Two answers in fences: neither counts.", "```json\nDRAFT\n```\n```json\nANSWER\n```"),
    "answer_in_a_list": ("A list of answers: none counts.", "[ANSWER]"),
    "answer_in_a_broken_object": ("An object around the answer that does not end.", 'So: {"answer": ANSWER'),
    "comments": ("Comments in the JSON, so that it is not JSON.", "COMMENTED"),
    "thought_alone": ("A thought without an answer.", "<think>THOUGHT DRAFT</think>"),
}  # fmt: skip


def draft_of(answer: str) -> str:
    """Another answer that obeys the same schema; of an action, to leave."""
    return _LEAVE if "action_type" in answer else re.sub(r": \d+", ": 1", answer)


def said(text: str, answer: str) -> str:
    """One of the texts with an answer in it."""
    words = {"ANSWER": answer, "DRAFT": draft_of(answer), "COMMENTED": answer.replace(",", ", // all turns\n")}
    text = text.replace("THOUGHT", _PROSE)
    return re.sub("|".join(words), lambda word: words[word[0]], text)


def _habit(text: str, words: str) -> Habit:
    def habit(call: Call) -> Response:
        return call.answer(lambda answer: said(text, answer))

    habit.__doc__ = words
    return habit


def whole_numbers_as_floats(call: Call) -> Response:
    """Whole numbers are written with a fraction of zero."""
    return call.answer(lambda answer: re.sub(r": (\d+)", r": \1.0", answer))


def line_breaks_inside_strings(call: Call) -> Response:
    """Line breaks inside strings are not escaped."""
    return call.answer(lambda answer: re.sub(r'(": "[^"]+)"', '\\1\nand so on"', answer))


def thinks_in_every_way(call: Call) -> Response:
    """A model whose server finds another way to tell the thought with every question."""
    ways = [text for _, text in _TEXTS.values() if "THOUGHT" in text and "ANSWER" in text]
    return call.answer(lambda answer: said(ways[draw(0, str(call.body["messages"])) % len(ways)], answer))


def thought_that_is_cut_off(call: Call) -> Response:
    """The token limit ends the thought."""
    return call.answer(lambda answer: said("<think>THOUGHT", answer), finish="length")


def other_thought_that_is_cut_off(call: Call) -> Response:
    """The token limit ends a thought that has no mark at all."""
    return call.answer(lambda answer: said("THOUGHT", answer), finish="length")


def channel_that_is_cut_off(call: Call) -> Response:
    """The token limit ends the thought's channel."""
    return call.answer(lambda answer: said("<|channel|>analysis<|message|>THOUGHT", answer), finish="length")


def _beside(call: Call, thought: str, answer: str, field: str = "reasoning_content", finish: str = "") -> Response:
    """A reply with a thought in a field or a block of its own."""
    reply = call.reply()
    text = call.protocol.text_of(reply)
    call.protocol.set_text(reply, said(answer, text))
    if finish:
        call.protocol.set_finish(reply, finish)
    if call.openai:
        message: dict[str, Any] = reply["choices"][0]["message"]
        message[field] = said(thought, text)
        message["content"] = message["content"] or None
    else:
        block = {"type": "thinking", "thinking": said(thought, text), "signature": "c2lnbmF0dXJl"}
        reply["content"] = [block, *(part for part in reply["content"] if part["text"])]
    return Response(reply)


def thought_in_a_field(call: Call) -> Response:
    """The thought has a field of its own, or a block."""
    return _beside(call, "THOUGHT", "ANSWER")


def answer_in_reasoning_content(call: Call) -> Response:
    """The server takes the whole answer for a thought."""
    return _beside(call, "ANSWER", "")


def answer_after_the_thought_in_a_field(call: Call) -> Response:
    """The server takes the thought and the answer for a thought."""
    return _beside(call, "They want every turn rated.\n\n```json\nANSWER\n```", "", "reasoning")


def answer_after_a_tag_in_a_field(call: Call) -> Response:
    """As before, and the field has a name of the server's own and a mark between the two."""
    return _beside(call, "THOUGHT</think>ANSWER", "\n", "inner_voice")


def field_that_is_cut_off(call: Call) -> Response:
    """The token limit ends a thought that has a field of its own."""
    return _beside(call, "THOUGHT", "", finish="length")


def thought_in_parts(call: Call) -> Response:
    """The content is a list of parts, and the thought is one of them."""
    response = _beside(call, "THOUGHT", "ANSWER")
    if call.openai:
        message = response.body["choices"][0]["message"]
        thinking = {"type": "thinking", "thinking": [{"type": "text", "text": message.pop("reasoning_content")}]}
        message["content"] = [thinking, {"type": "text", "text": message["content"]}]
    return response


def answer_in_a_tool_call(call: Call) -> Response:
    """The server has the model call a tool with the answer."""
    reply = call.reply()
    text = call.protocol.text_of(reply)
    if call.openai:
        function = {"name": "answer", "arguments": text}
        called = {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}
        reply["choices"][0]["message"] |= called
    else:
        reply["content"] = [{"type": "tool_use", "id": "1", "name": "answer", "input": json.loads(text)}]
    call.protocol.set_finish(reply, "tool_calls" if call.openai else "tool_use")
    return Response(reply)


def words_beside_a_tool_call(call: Call) -> Response:
    """As before, and the model says that it calls one."""
    response = answer_in_a_tool_call(call)
    words = "I shall call the tool with what was asked for."
    if call.openai:
        response.body["choices"][0]["message"]["content"] = words
    else:
        response.body["content"].insert(0, {"type": "text", "text": words})
    return response


def answer_in_a_function_call(call: Call) -> Response:
    """A tool call in its older form; over Anthropic's protocol, its arguments as a text."""
    response = answer_in_a_tool_call(call)
    if call.openai:
        message = response.body["choices"][0]["message"]
        message["function_call"] = message.pop("tool_calls")[0]["function"]
    else:
        response.body["content"][0]["input"] = json.dumps(response.body["content"][0]["input"])
    return response


def two_equal_tool_calls(call: Call) -> Response:
    """The same call twice."""
    response = answer_in_a_tool_call(call)
    body = response.body
    calls = body["choices"][0]["message"]["tool_calls"] if call.openai else body["content"]
    calls.append(calls[0] | {"id": "2"})
    return response


def answer_in_a_parsed_field(call: Call) -> Response:
    """The server has parsed the answer, and gives nothing else."""
    reply = call.reply()
    value = json.loads(call.protocol.text_of(reply))
    if call.openai:
        reply["choices"][0]["message"] |= {"content": None, "parsed": value}
    else:
        reply["content"] = [{"type": "json", "json": value}]
    return Response(reply)


def answer_in_parts_of_parts(call: Call) -> Response:
    """The text of the answer's part is an object with a value."""
    reply = call.reply()
    part = {"type": "text", "text": {"value": call.protocol.text_of(reply), "annotations": []}}
    if call.openai:
        reply["choices"][0]["message"]["content"] = [part]
    else:
        reply["content"] = [part]
    return Response(reply)


def thought_in_parts_with_a_mark(call: Call) -> Response:
    """The thought is a part like the answer's, with a mark."""
    response = thought_in_parts(call)
    content = response.body["choices"][0]["message"]["content"] if call.openai else response.body["content"]
    told = content[0]["thinking"]
    content[0] = {"type": "text", "text": told if isinstance(told, str) else told[0]["text"], "thought": True}
    return response


def answer_encoded_twice(call: Call) -> Response:
    """The answer is JSON in a JSON string."""
    return call.answer(json.dumps)


def stream_that_nobody_asked_for(call: Call) -> Response:
    """The reply comes as a stream of events."""
    return streamed(call.reply(), call.openai)


def streamed(reply: dict[str, Any], openai: bool) -> Response:
    """A reply as a stream of events, its text in pieces."""
    if openai:
        (choice,) = reply["choices"]
        text = choice["message"]["content"]
        deltas = [{"role": "assistant", "content": ""}, *({"content": text[i : i + 9]} for i in range(0, len(text), 9))]
        parts = [{"delta": delta, "index": 0, "finish_reason": None} for delta in deltas]
        parts.append({"delta": {}, "index": 0, "finish_reason": choice["finish_reason"]})
        events = [reply | {"object": "chat.completion.chunk", "choices": [part], "usage": None} for part in parts]
        events.append(reply | {"choices": []})
    else:
        (block,) = reply["content"]
        text = block["text"]
        start = reply | {"content": [], "stop_reason": None, "usage": reply["usage"] | {"output_tokens": 1}}
        events = [{"type": "message_start", "message": start}]
        events.append({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        for i in range(0, len(text), 9):
            delta = {"type": "text_delta", "text": text[i : i + 9]}
            events.append({"type": "content_block_delta", "index": 0, "delta": delta})
        usage = {"output_tokens": reply["usage"]["output_tokens"]}
        events.append({"type": "message_delta", "delta": {"stop_reason": reply["stop_reason"]}, "usage": usage})
    lines = [": one moment", *(f"event: any\ndata: {json.dumps(event)}" for event in events), "data: [DONE]", ""]
    return Response("\n\n".join(lines).encode(), headers={"Content-Type": "text/event-stream"})


def _stream(call: Call, change: Callable[[str], str]) -> Response:
    """The stream, changed. A line of a batch comes as it is."""
    if not call.headers:
        return Response(call.reply())
    return Response(change(streamed(call.reply(), call.openai).body.decode()).encode())


def stream_in_split_lines(call: Call) -> Response:
    """A stream with a byte order mark, whose events have two lines of data each."""
    return _stream(call, lambda text: "\ufeff" + re.sub(r"(?m)^data: \{(.*)$", r"data: {\ndata: \1", text))


def stream_without_a_reason(call: Call) -> Response:
    """A stream that has its end, and no reason for it."""
    ended = "data: [DONE]" if call.openai else 'event: message_stop\ndata: {"type": "message_stop"}'
    reason = re.compile(r'("finish_reason"|"stop_reason"): "\w+"')
    return _stream(call, lambda text: reason.sub(r"\1: null", text).replace("data: [DONE]", ended))


def lines_in_place_of_a_stream(call: Call) -> Response:
    """A stream whose events are lines of JSON and nothing else."""
    return _stream(call, lambda text: "\n".join(re.findall(r"(?m)^data: (\{.*)$", text)))


def comments_around_the_reply(call: Call) -> Response:
    """A router sends comments while the model works, then the reply."""
    return Response(b": working\n\n" * 3 + json.dumps(call.reply()).encode() + b"\n\n: done\n")


def reply_in_a_text(call: Call) -> Response:
    """The reply is JSON in a JSON string."""
    return Response(json.dumps(call.reply()))


def empty_error_beside_the_reply(call: Call) -> Response:
    """Each reply has an error with nothing in it."""
    return Response(call.reply() | {"error": {"code": None, "message": "", "details": []}})


def reply_in_a_list(call: Call) -> Response:
    """The reply is the one element of a list."""
    return Response([call.reply()])


def reply_in_a_field_of_a_result(call: Call) -> Response:
    """The reply is one member of an object that says how it went."""
    return Response({"success": True, "errors": [], "result": call.reply()})


def reply_under_other_names(call: Call) -> Response:
    """The text stands under the name of an older API, or a stream's."""
    reply = call.reply()
    if call.openai:
        (choice,) = reply["choices"]
        message = choice.pop("message")
        choice |= {"text": message["content"]} if call.number % 2 else {"delta": message}
    return Response(reply)


def content_of_another_type(call: Call) -> Response:
    """The content is a parsed object, or a text where a list is due."""
    reply = call.reply()
    text = call.protocol.text_of(reply)
    if call.openai:
        reply["choices"][0]["message"]["content"] = json.loads(text)
    else:
        reply["content"] = text
    return Response(reply)


HABITS: dict[str, Habit] = {
    **{name: _habit(text, words) for name, (words, text) in _TEXTS.items()},
    **named(
        [
            whole_numbers_as_floats,
            line_breaks_inside_strings,
            thinks_in_every_way,
            thought_that_is_cut_off,
            other_thought_that_is_cut_off,
            channel_that_is_cut_off,
            thought_in_a_field,
            answer_in_reasoning_content,
            answer_after_the_thought_in_a_field,
            answer_after_a_tag_in_a_field,
            field_that_is_cut_off,
            thought_in_parts,
            answer_in_a_tool_call,
            words_beside_a_tool_call,
            answer_in_a_function_call,
            two_equal_tool_calls,
            answer_in_a_parsed_field,
            answer_in_parts_of_parts,
            thought_in_parts_with_a_mark,
            answer_encoded_twice,
            stream_that_nobody_asked_for,
            stream_in_split_lines,
            stream_without_a_reason,
            lines_in_place_of_a_stream,
            comments_around_the_reply,
            reply_in_a_text,
            empty_error_beside_the_reply,
            reply_in_a_list,
            reply_in_a_field_of_a_result,
            reply_under_other_names,
            content_of_another_type,
        ]
    ),
}
