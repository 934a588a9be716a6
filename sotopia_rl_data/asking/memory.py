"""What earlier runs have found out about an endpoint and a model: the form of requests that it takes, and how fast.

One small file in the ledger's folder, with a version. It is a memory and nothing more: where it is lost, damaged, of
another version or cannot be written, the next run finds out again. No key of a request depends on it.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.ledger.lookup import Outcome
from sotopia_rl_data.locks import locked
from sotopia_rl_data.request import Target
from sotopia_rl_data.store.disk import private_file

log = logging.getLogger(__name__)

VERSION = 1
FORMS_KEPT_S = 30 * 86_400.0  # a server may have learned more by then
PACE_KEPT_S = 86_400.0
_PACE = "pace"
_ENOUGH = 50  # after this many answers a run knows how fast it may ask
_FILE = "endpoints.json"
_WAIT_S = 2.0  # the longest wait for another process that is writing; after it, nothing is kept


class EndpointMemory:
    """The memory in a ledger's folder. An entry is a JSON object, kept under a target and a name, with its time."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE

    def recall(self, target: Target, name: str, longest_s: float) -> Any:
        """The entry, unless it is older than `longest_s` seconds; None where there is none."""
        entry = self._read().get(_id(target), {})
        told = entry.get(name) if isinstance(entry, dict) else None
        if not isinstance(told, dict) or not isinstance(told.get("time"), int | float):
            return None
        return told.get("value") if abs(time.time() - told["time"]) <= longest_s else None

    def keep(self, target: Target, name: str, value: Any) -> None:
        """Keep an entry, unless the folder cannot be written."""
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._path.with_suffix(".lock"), _WAIT_S) as ours:
                if not ours or self._is_of_another_version():
                    return
                endpoints = self._read()
                endpoints.setdefault(_id(target), {})[name] = {"value": value, "time": round(time.time(), 1)}
                beside = self._path.with_suffix(".tmp")
                private_file(beside).write_text(
                    json.dumps({"version": VERSION, "endpoints": endpoints}, indent=1), "utf-8"
                )
                beside.replace(self._path)

    def text(self) -> str:
        """All of it, for another machine; empty where there is nothing."""
        with suppress(OSError):
            return self._path.read_text("utf-8")
        return ""

    def adopt(self, text: str) -> None:
        """Take over the `text` of another machine's memory, unless something is remembered already."""
        if text and not self._path.exists():
            with suppress(OSError):
                private_file(self._path).write_text(text, "utf-8")

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            told = json.loads(self._path.read_text("utf-8"))
            if isinstance(told, dict) and told.get("version") == VERSION:
                endpoints = told.get("endpoints")
                if isinstance(endpoints, dict) and all(isinstance(entry, dict) for entry in endpoints.values()):
                    return endpoints
        return {}

    def _is_of_another_version(self) -> bool:
        with suppress(OSError, ValueError, RecursionError):
            told = json.loads(self._path.read_text("utf-8"))
            return isinstance(told, dict) and told.get("version") not in (None, VERSION)
        return False


def remember(respondent: object, memory: EndpointMemory) -> None:
    """Give a judge or policy the memory, if it has a use for one."""
    use_memory = getattr(respondent, "use_memory", None)
    if use_memory is not None:
        use_memory(memory)


def remembered_pace(memory: EndpointMemory, targets: Iterable[Target], pacing: Pacing) -> Pacing:
    """The pacing that begins where the last run at these targets ended, if that was within a day."""
    found = [memory.recall(target, _PACE, PACE_KEPT_S) for target in targets]
    windows, rates = [], []
    for pace in found:
        if not isinstance(pace, dict) or type(pace.get("slow_start")) is not int or pace["slow_start"] < 1:
            return pacing
        windows.append(pace["slow_start"])
        rate = pace.get("start_rate")
        if isinstance(rate, int | float) and 0 < rate < math.inf:
            rates.append(float(rate))
    return replace(pacing, slow_start=min(windows), start_rate=min(rates, default=None)) if windows else pacing


def keep_pace(memory: EndpointMemory, targets: Iterable[Target], outcome: Outcome) -> None:
    """Remember how fast a run has asked these targets, if it has asked enough to know."""
    if outcome.pace and outcome.asked >= _ENOUGH:
        for target in targets:
            memory.keep(target, _PACE, outcome.pace)


def _id(target: Target) -> str:
    return f"{target.provider} {target.base_url} {target.model}"
