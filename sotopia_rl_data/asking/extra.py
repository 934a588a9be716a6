"""Parameters of a request that this toolkit has no option for: `--extra reasoning_effort=low`, `extra:` in a judges
file.

They are sent as they are given, and are part of the request's key like every other sampling parameter. What a request
is made of (the model, the messages, the answer's form) cannot be replaced, and a secret is not a parameter: parameters
are kept in the ledger and in datasets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.secrets import redact

# A parameter that cannot be given here -> what to do instead.
_RESERVED = {
    "model": "name the model in the spec",
    "messages": "leave it out: the messages are the question",
    "system": "leave it out: the messages are the question",
    "prompt": "leave it out: the messages are the question",
    "response_format": "leave it out: the answer's form follows from the question",
    "output_config.format": "leave it out: the answer's form follows from the question",
    "tools": "leave it out: answers are text",
    "tool_choice": "leave it out: answers are text",
    "stream": "leave it out: an answer is read when it is complete",
    "n": "ask several times with --samples",
    "temperature": "write --temperature, or `temperature` under `sampling` in a judges file",
    "max_tokens": "write --max-tokens, or `max_tokens` under `sampling` in a judges file",
}

_LONGEST = 100_000  # characters as JSON: they are part of every request, and of its record


def extra_of(options: Iterable[str]) -> dict[str, Any]:
    """The parameters that `KEY=VALUE` options give: a dotted KEY is a path into objects, a VALUE is JSON, or else text.
    Raises UsageError."""
    extra: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise UsageError(
                f"{redact(option)!r} is not of the form KEY=VALUE.",
                "write --extra reasoning_effort=low or --extra provider.sort=price",
            )
        place = extra
        for name in path[:-1]:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise UsageError(f"--extra gives both {name!r} and a part of it.", "give the parameter once")
        if path[-1] in place:
            raise UsageError(f"--extra gives {key.strip()!r} twice.", "give the parameter once")
        place[path[-1]] = _value(text)
    check_extra(extra)
    return extra


def check_extra(extra: Mapping[str, Any]) -> None:
    """Raises UsageError where a parameter would replace what a request is made of, is not JSON, or holds a secret."""
    for name, hint in _RESERVED.items():
        place: Any = extra
        for part in name.split("."):
            place = place.get(part, _ABSENT) if isinstance(place, Mapping) else _ABSENT
        if place is not _ABSENT:
            raise UsageError(f"The parameter {name!r} cannot be given as an extra.", hint)
    _check_names(extra)
    try:
        text = json.dumps(extra, allow_nan=False)
        json.dumps(extra, ensure_ascii=False).encode()  # half of a surrogate pair could not be kept
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The extra parameters hold a value that JSON cannot: {error}.",
            "use strings, finite numbers, true, false, null, lists and objects",
        ) from error
    if len(text) > _LONGEST:
        raise UsageError(
            f"The extra parameters have more than {_LONGEST:,} characters.", "leave out what the server does not need"
        )
    if redact(text) != text:
        raise UsageError(
            "An extra parameter holds a key or a password, which would be kept in the ledger and in datasets.",
            "put the key into an environment variable and name that: --key HOST=VARIABLE",
        )


def _check_names(extra: Mapping[str, Any]) -> None:
    """Raises UsageError where the key of an object is not text: YAML has such keys, JSON has not."""
    left: list[Any] = [extra]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            for name in value:
                if not isinstance(name, str):
                    raise UsageError(
                        f"The extra parameters have the name {name!r}, which is not text.", "put quotes around it"
                    )
        left += value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()


_ABSENT = object()


def _value(text: str) -> Any:
    """The JSON that a text holds, or else the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, float) and not math.isfinite(value) else value
