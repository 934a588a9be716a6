"""A model's name, without the address where it was served.

The library writes a custom model as "custom/NAME@http://HOST/v1". The address (which may hold a password) belongs to
somebody's machine and never reaches a dataset.
"""

from __future__ import annotations

import re
from typing import Any

_SERVED_AT = re.compile(r"@[a-z][a-z0-9+.-]*://.*", re.IGNORECASE | re.DOTALL)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.IGNORECASE | re.DOTALL)
UNNAMED = "unknown"


def model_name(logged: Any) -> str | None:
    """The name in `logged` ("custom/sim-judge@http://…" -> "sim-judge"); None where it names no model."""
    if not isinstance(logged, str):
        return None
    name = _SERVED_AT.sub("", logged).strip()
    if name != logged.strip() or name.startswith("custom/"):
        name = name.removeprefix("custom/")
    return _ADDRESS.sub("", name).strip("/ ") or None


def model_names(logged: Any) -> tuple[str, ...]:
    """The names of a list of models, [evaluator, first agent, second agent …]; () where there is no list."""
    return tuple(model_name(one) or UNNAMED for one in logged) if isinstance(logged, (list, tuple)) else ()
