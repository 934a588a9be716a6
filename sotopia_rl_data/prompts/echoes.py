"""Braces inside observations that the simulator itself filled in.

A simulator that fills its slots one after the other also fills those that somebody said: SOTOPIA puts the history in
before the action list and the action's schema, so an agent that says "{format_instructions}" makes later prompts
show the whole schema in its place. What a log shows of this is learned. Where no observation of the log holds those
letters, the two names that SOTOPIA uses are assumed for episodes of its dialects, and the report says so.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.prompts.check import compare, reorderings
from sotopia_rl_data.prompts.render import features, slot_values
from sotopia_rl_data.prompts.served import Index, Known, Served, read_served
from sotopia_rl_data.prompts.slots import fill
from sotopia_rl_data.prompts.template import Template, compose
from sotopia_rl_data.schema import Message

LIBRARY = {"{action_list}": "actions", "{format_instructions}": "schema"}
_LETTERS = re.compile(r"(\{\w+\})")
_HERE = "\x00"
_SLOTS = ("schema", "actions", "agent", "partner", "goal", "turn", "turn_from_1")


def with_echoes(
    served_log: str | Path, index: Index, template: Template, *, library: bool
) -> tuple[Template, tuple[str, ...]]:
    """The template with its echoes, and the letters of those that are assumed."""
    shown: dict[str, str | None] = {}
    for served in read_served(served_log):
        if served is not None:
            shown |= _shown(served, index, template)
    assumed = tuple(letters for letters in LIBRARY if library and letters not in shown)
    echoes = {letters: slot for letters, slot in shown.items() if slot} | {one: LIBRARY[one] for one in assumed}
    return (
        compose(
            name=template.name,
            joiner=template.joiner,
            separator=template.separator,
            strip=template.strip,
            echoes=dict(sorted(echoes.items())),
            variants=template.variants,
        ),
        assumed,
    )


def _shown(served: Served, index: Index, template: Template) -> Mapping[str, str | None]:
    """For letters in braces that the request's observations hold: the slot that replaced them, or None: nothing did."""
    for known, turn in index.guesses(served):
        texts = [text for text, at in zip(known.texts, known.turns, strict=True) if at <= turn]
        joined = template.joiner.join(text.strip() if template.strip else text for text in texts)
        if not _LETTERS.search(joined):
            continue
        if compare(template, known.episode, known.agent, turn, served.messages) != "different":
            return dict.fromkeys(_LETTERS.findall(joined))
        for one in (template, *reorderings(template, served.messages)):
            found = _aligned(served.messages, known, turn, joined, one)
            if found is not None:
                return found
    return {}


def _aligned(
    messages: Sequence[Message], known: Known, turn: int, joined: str, template: Template
) -> dict[str, str | None] | None:
    """What became of the letters, where the messages are the template's but for that."""
    try:
        variant = template.variant(features(known.episode, known.agent, turn))
    except InputError:  # no variant for this episode
        return None
    values = slot_values(known.episode, known.agent, turn, _HERE, dataclasses.replace(template, echoes={}), variant)
    if len(messages) != len(variant.messages):
        return None
    found: dict[str, str | None] | None = None
    for wrapper, message in zip(variant.messages, messages, strict=True):
        before, here, after = fill(wrapper["content"], values).partition(_HERE)
        content = message["content"]
        if not here:
            if content != before:
                return None
        elif content.startswith(before) and content.endswith(after):
            found = _walk(content[len(before) : len(content) - len(after)], joined, values)
    return found


def _walk(shown: str, joined: str, values: Mapping[str, str]) -> dict[str, str | None] | None:
    """Go along what was shown and what was observed; at letters in braces either they stand there or a slot's text."""
    at, became = 0, dict[str, str | None]()
    for i, piece in enumerate(_LETTERS.split(joined)):
        if i % 2 and not shown.startswith(piece, at):
            slot = next((s for s in _SLOTS if values[s] and shown.startswith(values[s], at)), None)
            if slot is None or became.get(piece, slot) != slot:
                return None
            became[piece] = slot
            at += len(values[slot])
            continue
        if not shown.startswith(piece, at):
            return None
        if i % 2:
            became.setdefault(piece, None)
        at += len(piece)
    return became if at == len(shown) else None
