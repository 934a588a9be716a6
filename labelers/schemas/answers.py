"""What an answer may look like: one JSON schema, which providers enforce and which we check again.

It uses only what OpenAI's strict mode and Anthropic's structured outputs both accept: objects in which every key is
required and no other key allowed, enums, free strings, and `$defs` (an enum that is referred to counts once against
providers' limits). A reply that breaks the schema in any way is a BadAnswer with a readable reason; nothing is
repaired, rounded or filled in. Words, fences and stray bytes around the one object are not part of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.json_objects import BLANK, decoder, is_deep, is_part, objects_in
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.thoughts import without_thought

Path = tuple[str, ...]
Json = Mapping[str, Any]

_LONGEST = 4_000_000  # characters of an answer that is read
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL | re.IGNORECASE)


def one_of(values: Sequence[int] | Sequence[str]) -> dict[str, Any]:
    """Exactly one of these integers, or one of these strings."""
    return {"type": "string" if isinstance(values[0], str) else "integer", "enum": list(values)}


def of_keys(properties: Mapping[str, Any]) -> dict[str, Any]:
    """An object with exactly these keys."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def free_text() -> dict[str, Any]:
    """Any string, such as a reason, which is kept and never parsed."""
    return {"type": "string"}


def ref(name: str) -> dict[str, Any]:
    """A reference to the `$defs` entry with this name."""
    return {"$ref": f"#/$defs/{name}"}


def parse(text: str) -> Any:
    """The JSON value in a reply, after the model's thought: the whole text, or the only fenced block in it, or the only
    object that has words around it.

    Raises BadAnswer.
    """
    text = without_thought(text).strip(BLANK)
    if len(text) > _LONGEST:
        raise BadAnswer(f"the answer has {len(text):,} characters")
    blocks = list(_FENCED.finditer(text))
    body = blocks[0][1] if len(blocks) == 1 else text
    if not body.strip(BLANK):
        raise BadAnswer("the answer is empty")
    try:
        value = _DECODER.decode(body.strip(BLANK))
        if is_deep(value):
            raise RecursionError
    except RecursionError:
        raise BadAnswer("the answer is nested too deeply") from None
    except ValueError:
        return _only_object(text)
    if body is not text:
        around = objects_in(text[: blocks[0].start()] + text[blocks[0].end() :])
        if any(isinstance(value, dict) and other.value.keys() == value.keys() for other in around):
            raise BadAnswer("the answer is given more than once")
    return value


def _only_object(text: str) -> dict[str, Any]:
    """The one object in a text that is not JSON as a whole. Raises BadAnswer."""
    found = objects_in(text, _DECODER)
    if len(found) > 1:
        raise BadAnswer(f"there are {len(found)} JSON objects in the answer")
    if not found or is_part(text, found[0]):
        raise BadAnswer(f"the answer is not JSON: {shown(text)}")
    return found[0].value


def check(schema: Json, value: Any) -> dict[Path, int | str]:
    """The leaves of `value` by the path of keys that leads to each. Raises BadAnswer where it breaks `schema`."""
    leaves: dict[Path, int | str] = {}
    _walk(schema, schema, value, (), leaves)
    return leaves


def numbers(question: Question, text: str) -> dict[Slot, float]:
    """The number of every slot, where each is a leaf of the answer. Raises BadAnswer."""
    leaves = check(question.answer_schema, parse(text))
    return {slot: float(leaves[path]) for path, slot in question.slots.items()}


def compose(schema: Json, leaf: Callable[[Json, Path], Any]) -> Any:
    """An answer to `schema`, with the value of `leaf(schema, path)` at the end of each path; a key whose value would be
    None is left out."""
    return _compose(schema, schema, (), leaf)


def resolve(root: Json, schema: Json) -> Json:
    """`schema`, or the `$defs` entry that it refers to."""
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    if not name:
        return schema
    definition: Json = root["$defs"][name]
    return definition


def shown(value: Any) -> str:
    """A value as a reason quotes it: on one line, at most 60 characters."""
    text = " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _compose(root: Json, schema: Json, path: Path, leaf: Callable[[Json, Path], Any]) -> Any:
    schema = resolve(root, schema)
    if schema["type"] != "object":
        return leaf(schema, path)
    values = {key: _compose(root, inner, (*path, key), leaf) for key, inner in schema["properties"].items()}
    return {key: value for key, value in values.items() if value is not None}


def _walk(
    root: Mapping[str, Any], schema: Mapping[str, Any], value: Any, path: Path, leaves: dict[Path, int | str]
) -> None:
    schema = resolve(root, schema)
    if schema["type"] != "object":
        leaves[path] = _leaf(schema, value, path)
        return
    if not isinstance(value, dict):
        raise BadAnswer(f"{_at(path)}expected an object, got {shown(value)}")
    expected = schema["properties"]
    extra = [key for key in value if key not in expected]
    if extra:
        raise BadAnswer(f"{_at(path)}{shown(extra[0])} was not asked for")
    missing = [key for key in expected if key not in value]
    if missing:
        raise BadAnswer(f"{_at(path)}{missing[0]} is missing")
    for key, inner in expected.items():
        _walk(root, inner, value[key], (*path, key), leaves)


def _leaf(schema: Json, value: Any, path: Path) -> int | str:
    if "enum" not in schema and isinstance(value, str):
        return value
    allowed: Sequence[int] | Sequence[str] = schema.get("enum", ())
    for level in allowed:
        # JSON Schema calls 2.0 an integer; `==` alone would also accept True for 1.
        if level == value and (type(level) is type(value) or (isinstance(level, int) and isinstance(value, float))):
            return level
    raise BadAnswer(f"{_at(path)}expected {_expected(schema)}, got {_quoted(value)}")


def _expected(schema: Json) -> str:
    allowed = schema.get("enum")
    if allowed is None:
        return "a string"
    if schema["type"] == "integer":
        return f"an integer from {allowed[0]} to {allowed[-1]}"
    return f"one of {', '.join(allowed)}"


def _quoted(value: Any) -> str:
    return f'"{shown(value)}"' if isinstance(value, str) else shown(value)


def _at(path: Path) -> str:
    return f"at {'.'.join(path)}: " if path else ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise BadAnswer(f"{shown(key)} is given twice")
        unique[key] = value
    return unique


_DECODER = decoder(_unique)
