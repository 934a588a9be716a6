"""A completion without the thought that a reasoning model writes before it answers.

A thought is a draft, not the answer, and a model that learns from the completion should not imitate it. Thoughts are
recognised by the structure of their marks, whatever these are called:

- `<name> … </name>`, in brackets of any kind, is a block. The answer is what stands outside the blocks; or in the last
  one, where nothing stands outside and blocks of another name came before, or where it ends the completion and holds a
  JSON object and nothing else, perhaps in a few blocks of its own
- `</name>` alone ends what the prompt has begun (vLLM without a reasoning parser): all before it is the thought
- `<|name|>`, and `<|name>` or `<name|>`, begin the next part of a completion in channels; the last part is the answer,
  unless it is the word that opens a turn after it

A block that has no end was cut off, unless one last mark stands before a JSON object that ends the completion. Marks
inside a JSON object are plain text. A thought without any mark cannot be recognised.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.json_objects import BLANK, Tries, is_bare

_OPEN, _SHUT = "<[({◁【〈《「『«‹⟨⟪〔〖［｛（＜", ">])}▷】〉》」』»›⟩⟫〕〗］｝）＞"
_PARTNER = dict(zip(_OPEN, _SHUT, strict=True)) | {"&lt;": "&gt;"}
_TAG = re.compile(
    rf"(?P<open>[{re.escape(_OPEN)}]|&lt;)[|｜]?\s?(?P<end>[/\\])?\s?(?P<name>[^\W\d_][\w:.▁-]{{0,40}})(?:=[\w.-]{{1,60}})?"
    rf"(?:\s[^<>\[\]{{}}\n]{{0,200}})?[|｜]?(?P<shut>[{re.escape(_SHUT)}]|&gt;)"
)
_MARK = re.compile(r"<[|｜][^<>|｜/\n]{1,60}[|｜]?>|<[^<>|｜/\s][^<>|｜/\n]{0,60}[|｜]>")
# a channel that holds thoughts by its format's own rules (OpenAI's harmony)
_ANALYSIS = re.compile(r"<\|channel\|>\s*analysis\b[^<]*<\|message\|>\s*\Z")
_THOUGHT = ("think", "thinking")  # blocks of these names are thoughts even where no answer follows
_DEEPEST = 5  # blocks around an answer
_SEEN = re.compile(rf"[^{BLANK}]")
_DECODER = json.JSONDecoder(strict=False)


def without_thought(completion: str) -> str:
    """`completion` without its thoughts and the white space around them; unchanged if it has none.

    Raises BadAnswer where a thought has no end: it was cut off before the answer began.
    """
    last = _last_part(completion)
    answer = _outside_blocks(last)
    return completion if answer == completion else answer.strip(BLANK)


def answer_text(text: str, thought: str) -> str:
    """What a reply says, of its text and of the thought that its server told apart: the text, or where that is blank
    the JSON object in which the thought ends, since some servers take a whole answer for a thought."""
    try:
        if not thought or without_thought(text).strip(BLANK):
            return text
        ending = without_thought(thought)
    except BadAnswer:
        return text
    return ending if ending.rstrip(BLANK + "`~").endswith("}") else text


def _last_part(text: str) -> str:
    """The last part of a completion in channels that is not blank; all of it where there are no channels."""
    marks = list(_outside_objects(_MARK, text, Tries()))
    if not marks:
        return text
    ends = [*(mark.start() for mark in marks), len(text)]
    starts = [0, *(mark.end() for mark in marks)]
    parts = [(start, end) for start, end in zip(starts, ends, strict=True) if text[start:end].strip(BLANK)]
    if not parts:
        return ""
    start, end = parts[-1]
    is_role = end < len(text) and text[start:end].strip(BLANK).isalpha()
    if is_role and len(parts) > 1 and is_bare(text[slice(*parts[-2])]):
        start, end = parts[-2]
    if _ANALYSIS.search(text, 0, start):
        raise _cut_off()
    return text[start:end]


def _outside_blocks(text: str, depth: int = 0) -> str:
    """What stands outside the blocks, or in the last one where that is the answer; `depth` is how many blocks `text`
    stands in."""
    closers: dict[str, list[re.Match[str]]] = {}
    last_closer = -1
    for mark in _tags(_TAG.finditer(text)):
        if mark["end"]:
            closers.setdefault(_name(mark), []).append(mark)
            last_closer = mark.start()
    pieces: list[str] = []  # outside the blocks; there may be a million
    is_blank, blocks, position, tries = True, [], 0, Tries()
    while (tag := _next_tag(text, tries, position)) is not None:
        name = _name(tag)
        pieces.append(text[position : tag.start()])
        is_blank = is_blank and _is_blank(pieces[-1])
        closer = _next_of(closers.get(name, []), tag.end())
        position = tag.end()
        if tag["end"]:
            is_answer = name not in _THOUGHT and _is_blank(text, position) and is_bare("".join(pieces))
            if not is_answer:
                pieces, is_blank = [], True
                blocks.append((name, ""))
        elif closer is not None:
            blocks.append((name, text[position : closer.start()]))
            position = closer.end()
        elif name in _THOUGHT:
            raise _cut_off()
        elif tag["open"] == "<" and is_blank and last_closer < position and not _is_blank(text, position):
            *_, last = [tag, *_tags(_outside_objects(_TAG, text, tries, position))]
            if not is_bare(text[last.end() :]):
                raise _cut_off()
            pieces, position = [], last.end()
        else:
            pieces.append(tag.group())
            is_blank = False
    outside, after = "".join(pieces), text[position:]
    name, inside = blocks[-1] if blocks else ("", "")
    if not blocks or name in _THOUGHT or not _is_blank(after) or "{" in outside:
        return outside + after
    if _is_blank(outside) and {other for other, _ in blocks} != {name}:
        return inside
    nested = _outside_blocks(inside, depth + 1) if depth < _DEEPEST else ""
    return nested if is_bare(nested) else outside + after


def _next_of(tags: Sequence[re.Match[str]], position: int) -> re.Match[str] | None:
    """The first of these tags, which are in order, that begins at `position` or after it."""
    place = bisect_left(tags, position, key=lambda tag: tag.start())
    return tags[place] if place < len(tags) else None


def _is_blank(text: str, position: int = 0) -> bool:
    return _SEEN.search(text, position) is None


def _next_tag(text: str, tries: Tries, position: int) -> re.Match[str] | None:
    return next(_tags(_outside_objects(_TAG, text, tries, position)), None)


def _tags(matches: Iterator[re.Match[str]]) -> Iterator[re.Match[str]]:
    return (tag for tag in matches if _PARTNER[tag["open"]] == tag["shut"])


def _name(tag: re.Match[str]) -> str:
    return tag["name"].casefold()


def _outside_objects(pattern: re.Pattern[str], text: str, tries: Tries, position: int = 0) -> Iterator[re.Match[str]]:
    """The matches from `position` on that are not inside a JSON object. Raises BadAnswer after too many `tries`."""
    found = pattern.search(text, position)
    while found is not None:
        brace = text.find("{", position, found.start())
        if brace < 0:
            yield found
            position = found.end()
        else:
            try:
                _, position = _DECODER.raw_decode(text, brace)
            except RecursionError:
                return
            except ValueError as error:
                tries.failed(text, brace, error)
                position = brace + 1
        if position > found.start():
            found = pattern.search(text, position)


def _cut_off() -> BadAnswer:
    return BadAnswer("the thought was cut off, and no answer came")
