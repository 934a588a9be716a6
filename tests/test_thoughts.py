"""A completion without the thought before it: decided by tags, for judges and policies alike."""

from __future__ import annotations

import time

import pytest

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.thoughts import without_thought

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
    ],
)
def test_a_completion_without_a_thought_stands_as_it_is(completion: str):
    assert without_thought(completion) == completion


def test_words_around_a_thought_are_no_part_of_it():
    assert without_thought(f"Sure. <think>{DRAFT}</think>{ANSWER}") == f"Sure. {ANSWER}"
    assert without_thought(f"<think>{DRAFT}</think>") == ""


@pytest.mark.parametrize(
    "completion", ["<think>", f"<think>maybe {DRAFT}", f"{ANSWER}<think>", f"a</think><think>{DRAFT}"]
)
def test_a_thought_that_was_cut_off_leaves_no_answer(completion: str):
    with pytest.raises(BadAnswer, match="the thought was cut off"):
        without_thought(completion)


def test_many_braces_before_a_tag_take_no_time():
    began = time.process_time()
    assert without_thought("{ " * 50_000 + "</think>" + ANSWER) == ANSWER
    assert time.process_time() - began < 1.0
