"""A completion without the thought that a reasoning model writes before it answers.

What stands in a thought is a draft: it is not the answer, and nobody who learns from the completion should imitate it.
Decided by the tags alone, never by what the thought says. A server that has opened the thought in the prompt (vLLM
without a reasoning parser) sends its end without its beginning. Tags inside a JSON object are text. Leaves out servers
that send thoughts in a field of their own, which are not part of the completion, and a thought without any tag.
"""

from __future__ import annotations

import json
import re

from sotopia_rl_data.errors import BadAnswer

_TAG = re.compile(r"<(?P<end>/)?think(?:ing)?>|\[(?P<closed>/)?THINK\]")
_DECODER = json.JSONDecoder(strict=False)


def without_thought(completion: str) -> str:
    """`completion` without its thoughts and the white space around them; as it stands where it has none.

    Raises BadAnswer where a thought has no end: it was cut off before there was an answer.
    """
    tag = _next_tag(completion, 0)
    if tag is None:
        return completion
    answer, position, thinking = "", 0, False
    while tag is not None:
        if tag["end"] or tag["closed"]:
            if not thinking:  # its beginning was in the prompt: all that came until now is the thought
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
