"""A completion without the thought before it: decided by tags, for judges and policies alike."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.json_objects import objects_in
from sotopia_rl_data.thoughts import answer_text, without_thought

DRAFT, ANSWER = '{"action_type": "leave", "argument": ""}', '{"action_type": "speak", "argument": "Hello."}'


@pytest.mark.parametrize(
    "completion",
    [
        ANSWER,
        f"<think>{DRAFT}</think>{ANSWER}",
        f"\n<think>\nmaybe {DRAFT}\n</think>\n\n{ANSWER}\n",
        f"<thinking>maybe {DRAFT}</thinking>{ANSWER}",
        f"[THINK]maybe {DRAFT}[/THINK]{ANSWER}",
        f"maybe {DRAFT}</think>\n{ANSWER}",
        f"<think>{DRAFT}</think><think>{DRAFT}</think>{ANSWER}",
        f"<think>I open <think> in a <think> {DRAFT}</think>{ANSWER}",
        f"<think>one <think>{DRAFT}</think> more {DRAFT}</think>{ANSWER}",
        f"<think>I write </think> before {DRAFT}</think>{ANSWER}",
        f"<think>braces {{{{ and {{'{DRAFT}</think>{ANSWER}",
        f"{ANSWER}<think>Was that right? {DRAFT}</think>",
        # other names, and other brackets
        f"<seed:think>maybe {DRAFT}</seed:think>{ANSWER}",
        f"<Reasoning effort='high'>maybe {DRAFT}</Reasoning>\n{ANSWER}",
        f"maybe {DRAFT}</scratchpad>\n{ANSWER}",
        f"◁think▷maybe {DRAFT}◁/think▷{ANSWER}",
        f"maybe {DRAFT}◁/think▷{ANSWER}",
        f"【plan】{DRAFT}【/plan】{ANSWER}",
        f"(draft) {DRAFT} (/draft) {ANSWER}",
        f"<details><summary>Thought</summary>{DRAFT}</details>{ANSWER}",
        f"<thought>{DRAFT}</thought><answer>{ANSWER}</answer>",
        f"maybe {DRAFT}</reasoning><final_answer>\n{ANSWER}\n</final_answer>",
        f"<answer>{ANSWER}</answer>",
        f"<json>{ANSWER}",
        f"They argued.\n<answer>{ANSWER}</answer>\n",
        f"<reply><reasoning>maybe {DRAFT}</reasoning><json>{ANSWER}</json></reply>",
        f"<reply><result><json>{ANSWER}</json></result></reply>",
        "<a><b><c><d><e>" + ANSWER + "</e></d></c></b></a>",
        f"<unused94>thought\nmaybe {DRAFT}<unused95>{ANSWER}",
        f"{ANSWER}</s>",
        f"&lt;plan&gt;maybe {DRAFT}&lt;/plan&gt;{ANSWER}",
        f"&lt;think&gt;maybe {DRAFT}&lt;/think&gt;{ANSWER}",
        # channels
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
        f"analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
        f"<|begin_of_thought|>{DRAFT}<|end_of_thought|><|begin_of_solution|>{ANSWER}<|end_of_solution|>",
        f"<|channel>thought\n{DRAFT}<channel|>{ANSWER}",
        f"{ANSWER}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        f"<|think|>maybe {DRAFT}<|/think|>{ANSWER}",
        f"<｜begin▁of▁thinking｜>{DRAFT}<｜end▁of▁thinking｜>{ANSWER}<｜end▁of▁sentence｜>",
    ],
)
def test_the_answer_is_what_stands_outside_the_thought(completion: str):
    assert without_thought(completion) == ANSWER


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "  Good morning.\n",
        f"  {ANSWER}\n",
        '{"argument": "He wrote <think> on the wall."}',
        '```json\n{"argument": "</think>"}\n```\n',
        '{"reason": "the model\'s <think>hm</think> is shown", "score": 3}',
        "<thoughtful>",
        '{"argument": "He wrote <|end|> and [/plan] on the wall."}',
        'See <name> and [1], (a/b): {"score": 3}',
        "Ann <ann@home> said: no [sic].",
    ],
)
def test_a_completion_without_a_thought_stands_as_it_is(completion: str):
    assert without_thought(completion) == completion


def test_words_around_a_thought_are_no_part_of_it():
    assert without_thought(f"Sure. <think>{DRAFT}</think>{ANSWER}") == f"Sure. {ANSWER}"
    assert without_thought(f"<think>{DRAFT}</think>") == ""
    assert without_thought(f"I would <b>leave</b>. <plan>{DRAFT}</plan> No.") == "I would .  No."


@pytest.mark.parametrize(
    "completion",
    [
        "<think>",
        f"<think>maybe {DRAFT}",
        f"{ANSWER}<think>",
        f"a</think><think>{DRAFT}",
        f"<reasoning>\nmaybe {DRAFT}",
        f"<unused94>thought\nmaybe {DRAFT}",
        f"<reasoning>\nmaybe <b> {DRAFT} or not",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>",
        f"<|channel|>analysis<|message|>{DRAFT}",
        f"<|start|>assistant<|channel|>analysis<|message|>maybe {DRAFT}<|end|>",
    ],
)
def test_a_thought_that_was_cut_off_leaves_no_answer(completion: str):
    with pytest.raises(BadAnswer, match="the thought was cut off"):
        without_thought(completion)


@pytest.mark.slow
def test_many_braces_before_a_tag_take_no_time():
    began = time.process_time()
    assert without_thought("{ " * 50_000 + "</think>" + ANSWER) == ANSWER
    assert time.process_time() - began < 1.0


def test_many_braces_in_an_answer_take_no_time():
    began = time.process_time()
    with pytest.raises(BadAnswer, match="not JSON"):
        objects_in("{" * 300_000)
    assert time.process_time() - began < 3.0


OPEN = ('{"a":[' + "0," * 3_000) * 400


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (objects_in, OPEN),
        (objects_in, '{"a":' * 400 + '"' + "x" * 1_000_000),
        (without_thought, OPEN + "<x>a</x>"),
        (without_thought, OPEN + "<|x|>"),
    ],
)
def test_many_objects_that_stay_open_take_no_time(read: Callable[[str], object], text: str):
    began = time.process_time()
    with pytest.raises(BadAnswer, match="not JSON"):
        read(text)
    assert time.process_time() - began < 3.0


@pytest.mark.parametrize("piece", ["[a]", "x<a></a>"])
def test_many_tags_in_a_text_take_no_time(piece: str):
    began = time.process_time()
    without_thought(piece * 500_000)
    assert time.process_time() - began < 4.0


def nested(count: int) -> str:
    """An answer in so many blocks, each with a name of its own."""
    blocks = range(count)
    return "".join(f"<a{n}>" for n in blocks) + ANSWER + "".join(f"</a{n}>" for n in reversed(blocks))


@pytest.mark.slow
def test_many_tags_take_no_time():
    began = time.process_time()
    assert without_thought("<a></a>" * 20_000 + ANSWER) == ANSWER
    assert without_thought("<a>" * 20_000 + "</b>" * 20_000 + ANSWER) == ANSWER
    assert ANSWER not in without_thought(nested(20_000))
    assert time.process_time() - began < 5.0


@pytest.mark.parametrize(
    ("thought", "said"),
    [
        (ANSWER, ANSWER),
        (f"They want a line.\n{ANSWER}\n", f"They want a line.\n{ANSWER}"),
        (f"maybe {DRAFT}</think>{ANSWER}", ANSWER),
        (f"```json\n{ANSWER}\n```", f"```json\n{ANSWER}\n```"),
        (f"maybe {DRAFT}, or not", ""),
        (f"<think>{ANSWER}", ""),
        ("", ""),
    ],
)
def test_a_reply_without_a_text_says_the_object_in_which_its_thought_ends(thought: str, said: str):
    assert answer_text("", thought).strip() == said
    assert answer_text("\n</think>\n", thought).strip() == (said or "</think>")
    assert answer_text("Hello.", thought) == "Hello."
