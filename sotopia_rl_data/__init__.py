"""Versioned episode and utterance-reward datasets for RL on social dialogue.

    from sotopia_rl_data import open_dataset
    data = open_dataset("org/name@v1.0.0")
    data.sql("SELECT split, avg(reward) FROM rewards GROUP BY split")

Names are looked up when they are first used: importing the package imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sotopia_rl_data.hub.resolve import open_dataset as open_dataset
    from sotopia_rl_data.query import Dataset as Dataset
    from sotopia_rl_data.store import Store as Store

_HOMES = {"open_dataset": "hub.resolve", "Dataset": "query", "Store": "store"}
__all__ = ["Dataset", "Store", "open_dataset"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
