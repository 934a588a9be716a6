"""A completion without the thought that a reasoning model writes before it answers.

A thought is a draft, not the answer, and a model that learns from the completion should not imitate it. Thoughts are
recognised only by their tags. If the prompt has opened the thought already (vLLM without a reasoning parser), the
completion has only the closing tag. Tags inside a JSON object are plain text. Nothing needs to be done for servers that
send thoughts in a field of their own; a thought without any tag cannot be recognised.
"""

from __future__ import annotations

import json
import re

from sotopia_rl_data.errors import BadAnswer

_TAG = re.compile(r"<(?P<end>/)?think(?:ing)?>|\[(?P<closed>/)?THINK\]")
_DECODER = json.JSONDecoder(strict=False)


def without_thought(completion: str) -> str:
    """`completion` without its thoughts and the white space around them; unchanged if it has none.

    Raises BadAnswer where a thought has no end: it was cut off before the answer began.
    """
    tag = _next_tag(completion, 0)
    if tag is None:
        return completion
    answer, position, thinking = "", 0, False
    while tag is not None:
        if tag["end"] or tag["closed"]:
            if not thinking:  # the prompt opened the thought, so all text before this tag is the thought
                answer = ""
            thinking = False
        elif not thinking:
            answer += completion[position : tag.start()]
            thinking = True
        position = tag.end()
        tag = _TAG.search(completion, position) if thinking else _next_tag(completion, position)
    if thinking:
        raise BadAnswer("the thought was cut off, and no answer came")
    return (answer + completion[position:]).strip()


def _next_tag(text: str, position: int) -> re.Match[str] | None:
    """The first tag from `position` on that is not inside a JSON object."""
    tag = _TAG.search(text, position)
    while tag is not None:
        brace = text.find("{", position, tag.start())
        if brace < 0:
            return tag
        try:
            _, position = _DECODER.raw_decode(text, brace)
        except (ValueError, RecursionError):
            position = brace + 1
        if position > tag.start():
            tag = _TAG.search(text, position)
    return None
