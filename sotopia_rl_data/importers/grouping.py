"""The environment of what names none: episodes and examples of the same scenario stay on one side of every split."""

from __future__ import annotations

import hashlib


def environment_of(scenario: str) -> str:
    """ "scenario-" and a hash of the text, whatever its spacing."""
    return "scenario-" + hashlib.sha256(" ".join(scenario.split()).encode("utf-8", "replace")).hexdigest()[:16]
