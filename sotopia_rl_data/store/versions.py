"""How versions are numbered: v1.0.0 first; changed columns, layout or scale: next major; other content: next minor."""

from __future__ import annotations

import re

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.schema import Manifest

Number = tuple[int, int, int]
FIRST: Number = (1, 0, 0)
_VERSION = re.compile(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_SHAPE = ("layout", "scale")  # of the recipe: what changes how every row is read


def number(text: str) -> Number | None:
    """(1, 2, 0) for "v1.2.0"; None where the text is no version."""
    found = _VERSION.fullmatch(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def spelled(version: Number) -> str:
    """ "v1.2.0" for (1, 2, 0)."""
    return "v" + ".".join(map(str, version))


def check(text: str) -> str:
    """`text` as a version ("1.2.0" and "v1.2.0" alike). Raises UsageError."""
    version = text if text.startswith("v") else f"v{text}"
    if number(version) is None:
        raise UsageError(f"{text!r} is no version.", "write it as v1.2.0")
    return version


def following(latest: Manifest | None, new: Manifest) -> Number:
    """The number of `new`, whose content differs from `latest`."""
    before = number(latest.version) if latest else None
    if latest is None or before is None:
        return FIRST
    after = _columns(new)  # a config more breaks nobody's reading of the others
    reshaped = any(after.get(config) != columns for config, columns in _columns(latest).items())
    reshaped |= any(latest.recipe.get(k) != new.recipe.get(k) for k in _SHAPE)
    return (before[0] + 1, 0, 0) if reshaped else (before[0], before[1] + 1, 0)


def _columns(manifest: Manifest) -> dict[str, dict[str, str]]:
    return {config: dict(columns) for config, columns in manifest.columns.items()}
