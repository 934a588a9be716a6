"""Chats, one a record: OpenAI's `messages` with roles or names, ShareGPT's `conversations`, and lists like them.

    {"messages": [{"role": "system", "content": …}, {"role": "user", "name": "Ada", "content": …}, …], "metadata": {…}}
    {"id": …, "system": …, "conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}

or the list of messages alone, whose id is the key that it lies under.

A speaker is a name, or else a role; a role with only one name is that name throughout. The instructions that come first
(of a system or a developer) are the background of the assistant, who alone reads them. A call of a tool is an action of
the assistant; its answer is said by the tool. All other keys of a record and of a message are kept as `meta`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.dialogue import (
    EPISODE_KEYS,
    Setting,
    Speaker,
    Utterance,
    content_id,
    dialogue,
    named,
)
from sotopia_rl_data.importers.formats.format import Format, one_by_one
from sotopia_rl_data.importers.record import identifier, kind, mapping, nested, rows_across, text
from sotopia_rl_data.schema import Episode

LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog")
ROLES, TEXTS = ("role", "from", "speaker", "author", "sender"), ("content", "value", "text", "utterance")
INSTRUCTED = ("assistant", "gpt", "model", "bot")
"""The roles that chat formats give the one who reads the instructions."""
_ABOUT = ("scenario", "environment_id", "system", "tag")
_CALLING = ("function_call", "tool_call")
"""The roles under which ShareGPT's tool calls stand, which are the assistant's."""
_BARE = frozenset({"role", "from", "speaker", "sender"})
_SPOKEN = _BARE | {*TEXTS, "name", "tool_calls", "tool_call_id", "function_call", "refusal", "weight"}


def is_bare(value: Any) -> bool:
    """Whether a value is the messages of one chat, and nothing around them."""
    return (
        isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) and _is_message(one) for one in value)
    )


def _is_message(value: Mapping[str, Any]) -> bool:
    keys = {str(key).lower() for key in value}
    return keys <= _SPOKEN and bool(keys & _BARE) and bool(keys & {*TEXTS, "tool_calls", "function_call"})


def read_chat(value: Any, key: str = "") -> Episode:
    """The episode of a chat; `key` is the id of one that is messages alone. Raises InputError."""
    if is_bare([value]):  # a list of one is unwrapped on its way here
        value = [value]
    if is_bare(value):
        value = {"messages": value, "id": key} if key else {"messages": value}
    record = _in_small_letters(mapping(value, "the record"), (*LISTS, *_ABOUT))
    listed = next((key for key in LISTS if record.get(key) is not None), None)
    if listed is None:
        present = next((key for key in LISTS if key in record), None)
        state = f"`{present}` is null" if present else "`messages` is missing"
        raise InputError(f"{state}, not a list of messages.")
    messages = nested(record[listed], f"`{listed}`")
    id_key = named({key: one for key, one in record.items() if key != listed}, (*EPISODE_KEYS, "id"))
    leading, rest = split_instructions(messages, listed)
    instructions = "\n\n".join(filter(None, [text(record, "system", ""), *leading]))
    meta = {key: one for key, one in record.items() if key not in (listed, id_key, *_ABOUT)}
    scene = Setting(
        identifier(record, id_key) if id_key else content_id("chat", record),
        "chat",
        identifier(record, "environment_id") if record.get("environment_id") is not None else "",
        text(record, "scenario", ""),
        instructions,
        text(record, "tag", ""),
        meta,
    )
    return instructed(scene, utterances(rest, listed))


def instructed(scene: Setting, said: Sequence[Utterance]) -> Episode:
    """The episode in which the scene's instructions are the assistant's background, or, where no assistant is seen,
    the scenario."""
    readers = [one for one in dict.fromkeys(u.speaker for u in said) if one.lower() in INSTRUCTED]
    if scene.instructions and not readers and not scene.scenario:
        scene = Setting(
            scene.episode_id, scene.source, scene.environment_id, scene.instructions, "", scene.tag, scene.meta
        )
    return dialogue(scene, said, {one: Speaker(background=scene.instructions) for one in readers})


def _in_small_letters(record: Mapping[str, Any], known: Sequence[str]) -> Mapping[str, Any]:
    """The record, whose keys among `known` may be written in any case ("From", "Messages")."""
    if all(key in known or str(key).lower() not in known for key in record):
        return record
    small = {str(key).lower(): one for key, one in record.items() if str(key).lower() in known}
    return {**{key: one for key, one in record.items() if str(key).lower() not in known}, **small}


FORMAT = Format(
    "chat",
    keys=(frozenset(LISTS),),
    reader=one_by_one(lambda record, _: [read_chat(record.value, record.key)]),
    spelled="loosely",
)


def split_instructions(messages: Any, where: str) -> tuple[list[str], list[Mapping[str, Any]]]:
    """The texts of the instructions at the beginning, and the messages after them, which may also be an object of
    columns, as the `datasets` library has them. Raises InputError."""
    messages = rows_across(messages) or messages
    if not isinstance(messages, (list, tuple)):
        raise InputError(f"`{where}` is {kind(messages)}, not a list of messages.")
    listed = [
        _in_small_letters(mapping(message, f"{where}[{i}]"), (*ROLES, *TEXTS, "name"))
        for i, message in enumerate(messages)
    ]
    count = 0
    while count < len(listed) and _role(listed[count], f"{where}[{count}]") in ("system", "developer"):
        count += 1
    return [content(one, f"{where}[{i}]") for i, one in enumerate(listed[:count])], listed[count:]


def utterances(messages: Sequence[Mapping[str, Any]], where: str) -> list[Utterance]:
    """The messages as utterances, a call of a tool as an action. Raises InputError."""
    names = defaultdict[str, set[str]](set)
    for i, message in enumerate(messages):
        if message.get("name") is not None and message.get("role") is not None:
            names[_role(message, f"{where}[{i}]")].add(identifier(message, "name"))
    only = {role: next(iter(of)) for role, of in names.items() if len(of) == 1 and role != "tool"}
    roles = [_role(message, f"{where}[{i}]") for i, message in enumerate(messages)]
    assistant = next((role for role in roles if role.lower() in INSTRUCTED), "assistant")
    said = []
    for i, (message, told) in enumerate(zip(messages, roles, strict=True)):
        place = f"{where}[{i}]"
        calling = told.lower() in _CALLING
        role = assistant if calling else "tool" if _is_tool_result(message) else told
        speaker = identifier(message, "name") if message.get("name") is not None else only.get(role, role)
        words, calls = content(message, place), _calls(message, place)
        used = {named(message, ROLES), _text_key(message), "name", "tool_calls", "function_call"}
        said.append(
            Utterance(
                speaker,
                "\n".join(filter(None, [words, *calls])),
                "action" if calling or (calls and not words) else "speak",
                meta={key: one for key, one in message.items() if key not in used},
            )
        )
    return said


def _role(message: Mapping[str, Any], place: str) -> str:
    key = named(message, (*ROLES, "name"))
    if key is None:
        raise InputError(f"{place} does not say who speaks: it has none of {', '.join(ROLES)}.")
    return identifier(message, key)


def _text_key(message: Mapping[str, Any]) -> str | None:
    return named(message, (*TEXTS, "refusal"))


def content(message: Mapping[str, Any], place: str) -> str:
    """The text of a message; "" for a message that only calls tools. Raises InputError."""
    key = _text_key(message)
    if key is None:
        if message.get("tool_calls") or message.get("function_call"):
            return ""
        raise InputError(f"{place} has no text: it has none of {', '.join(TEXTS)}.")
    words = message[key]
    if isinstance(words, (list, tuple)):
        return "\n".join(_part(part, place) for part in words if not _is_typed(part, "tool_use"))
    if not isinstance(words, str):
        raise InputError(f"the `{key}` of {place} is {kind(words)}, not text.")
    return words


def _part(part: Any, place: str) -> str:
    """The text of one part of a content that is a list: a text, or what a tool answered."""
    if _is_typed(part, "tool_result"):
        return content({"content": part.get("content") or ""}, place)
    words = part.get("text") if isinstance(part, Mapping) else part
    if not isinstance(words, str):
        raise InputError(f"{place} holds something other than text.")
    return words


def _is_typed(part: Any, name: str) -> bool:
    return isinstance(part, Mapping) and part.get("type") == name


def _is_tool_result(message: Mapping[str, Any]) -> bool:
    """Whether all that a message holds is what a tool answered, as Anthropic's messages have it."""
    parts = message.get("content")
    return isinstance(parts, (list, tuple)) and bool(parts) and all(_is_typed(part, "tool_result") for part in parts)


def _calls(message: Mapping[str, Any], place: str) -> list[str]:
    """The calls of tools, each as `name(arguments)`."""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, (list, tuple)) or not all(isinstance(call, Mapping) for call in calls):
        raise InputError(f"the `tool_calls` of {place} are not a list of objects.")
    parts, older = message.get("content"), message.get("function_call")
    used = [part for part in parts if _is_typed(part, "tool_use")] if isinstance(parts, (list, tuple)) else []
    shown = []
    for call in (*calls, *used, *([older] if isinstance(older, Mapping) else [])):
        inner = call.get("function")
        function = inner if isinstance(inner, Mapping) else call
        arguments = function.get("arguments", function.get("input"))
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False, default=str)
        shown.append(f"{function.get('name')}({arguments})")
    return shown
