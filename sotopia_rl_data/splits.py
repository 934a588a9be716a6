"""Which split an environment belongs to: decided by hash, so an append moves nobody and nothing is on both sides."""

from __future__ import annotations

import hashlib

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def split_of(environment_id: str, seed: int = 0) -> str:
    """`train`, `validation` or `test` (80/10/10), a pure function of the seed and the environment's id."""
    digest = hashlib.sha256(f"{seed}\0{environment_id}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if point < 0.8 else "validation" if point < 0.9 else "test"


def environment_of(scenario: str) -> str:
    """The environment of what names none: "scenario-" and a hash of the scenario's text, whatever its spacing."""
    return "scenario-" + hashlib.sha256(" ".join(scenario.split()).encode("utf-8", "replace")).hexdigest()[:16]
