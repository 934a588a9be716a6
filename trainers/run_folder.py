"""A run's folder: `run.json` (its record), `metrics.jsonl` (each logged line), `metrics.png` (the curves).

Everything that `inspect` and the model card show is read from here, without torch. Only the first process writes.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sotopia_rl_data import locks
from sotopia_rl_data.errors import InputError, NotFound, UsageError
from sotopia_rl_data.formats import RUN_FORMAT, RUN_VERSION, check_number
from sotopia_rl_data.json_objects import is_deep

RUN, METRICS, PLOT = "run.json", "metrics.jsonl", "metrics.png"
HELD_OUT = "held_out.jsonl"  # by evaluation: each held-out prompt's reward, and what a judge says
KINDS = ("rm", "sft", "dpo", "grpo")
_OBJECTS = ("config", "cut", "dropped", "metrics", "rows")
_OBJECTS_OR_NULL = ("best", "head", "held_out", "merged", "packages", "packing", "pairs", "release", "reward_model")
_TAKEN: dict[Path, int] = {}  # the folders that this process trains into, and the handle of each one's lock


class RunFolder:
    """The folder of one run, created where it does not exist. Raises InputError where it cannot be written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written: {error.strerror}.", "name another folder with --output"
            ) from error

    def take(self) -> None:
        """Keep other processes from training into the folder until `let_go`, or until this process ends. Raises
        UsageError where one does. On a file system without locks, nothing is kept."""
        place = self.path.resolve()
        if place in _TAKEN:
            return
        handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC)  # a folder can be locked itself, without a file in it
        if not locks.take_where_possible(handle):
            os.close(handle)
            raise UsageError(
                f"Another process is training into {self.path}.",
                "wait for its end, or name another folder: --output DIR",
            )
        _TAKEN[place] = handle

    def let_go(self) -> None:
        """Let other processes train into the folder."""
        handle = _TAKEN.pop(self.path.resolve(), None)
        if handle is not None:
            os.close(handle)

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """A folder that exists. Raises NotFound."""
        if not Path(path).is_dir():
            raise NotFound(f"There is no folder {path}.", "name a folder that `train` wrote")
        return cls(path)

    def keep(self, record: Mapping[str, Any], write: bool = True) -> dict[str, Any]:
        """The record as JSON holds it; with `write`, it is written as `run.json` and as the model card."""
        as_json: dict[str, Any] = {RUN_VERSION: RUN_FORMAT} | plain(record)
        if write:
            self.write(as_json)
            self.write_card(as_json)
        return as_json

    def write_card(self, record: Mapping[str, Any], title: str | None = None) -> None:
        """Write `README.md`, the model card, by default under the folder's name; what people wrote into an earlier card
        of ours stays."""
        from sotopia_rl_data.cards.model import model_card
        from sotopia_rl_data.store import readme

        path = self.path / "README.md"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        ours = before if readme.BEGIN in before else None  # without our marks, it is PEFT's stub
        path.write_text(readme.merge(model_card(record, title or self.path.resolve().name), ours), encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Write `run.json`, whole or not at all."""
        beside = self.path / f".{RUN}.{os.getpid()}"
        beside.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(self.path / RUN)

    def read(self) -> dict[str, Any]:
        """What `run.json` holds. Raises NotFound, InputError, and StoreError where a newer version wrote it."""
        try:
            record: dict[str, Any] = json.loads((self.path / RUN).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise NotFound(f"{self.path} is not a run: it has no {RUN}.", "name a folder that `train` wrote") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path / RUN} is damaged: {error}.", "train again") from error
        if isinstance(record, dict):
            check_number(record.get(RUN_VERSION), RUN_FORMAT, self.path / RUN)
        if is_deep(record) or not _is_record(record):
            raise InputError(f"{self.path / RUN} is not the record of a run.", "name a folder that `train` wrote")
        return record

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; an incomplete last line is left out."""
        return self._rows(METRICS)

    def _rows(self, name: str) -> list[dict[str, Any]]:
        try:
            lines = (self.path / name).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [row for row in map(_row, lines) if row is not None]

    def keep_until(self, step: int) -> None:
        """Delete metrics and completions after `step` (0: all), since a resumed run writes them again."""
        kept = [row for row in self.metrics() if step and row.get("step", 0) <= step]
        (self.path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        held_out = [row for row in self._rows(HELD_OUT) if step and row.get("step", 0) <= step]
        if held_out or (self.path / HELD_OUT).exists():
            (self.path / HELD_OUT).write_text("".join(json.dumps(row) + "\n" for row in held_out), encoding="utf-8")
        for path in (self.path / "completions").glob("completions_*.parquet"):
            if int(path.stem.rpartition("_")[2]) > step:
                path.unlink()

    def last_checkpoint(self) -> Path | None:
        """The newest complete `checkpoint-N`, or None. The last file written into a checkpoint is its `run.json`."""
        complete = [p for p in self.path.glob("checkpoint-*") if (p / RUN).exists()]
        return max(complete, key=lambda p: int(p.name.rpartition("-")[2]), default=None)

    def check_resumable(self, resume: bool, record: Mapping[str, Any]) -> None:
        """Raises UsageError where the folder has a checkpoint and the run does not resume, or where it resumes and the
        checkpoint's `dataset` (by digest), `kind`, `model` or `config` is not that of this `record`."""
        checkpoint = self.last_checkpoint()
        if checkpoint is None:
            return
        if not resume:
            raise UsageError(
                f"{self.path} has checkpoints of an earlier run, and those of a new run would be mixed with them.",
                "resume that run with --resume; or name another folder with --output",
            )
        before, now = RunFolder(checkpoint).read(), plain(record)
        if before["dataset"]["digest"] != now["dataset"]["digest"]:
            name = f"{before['dataset']['name']}@{before['dataset']['version']}"
            raise UsageError(
                f"{checkpoint} was trained on {name}, and this run would resume it with other rows.",
                f"name that version: --dataset {name}; or start a new run, in another folder with --output",
            )
        old, new = ({"kind": run["kind"], "model": run["model"], **run["config"]} for run in (before, now))
        if old.get("tokens_per_device_batch") is None and new.get("tokens_per_device_batch"):
            raise UsageError(
                f"{checkpoint} was trained with {old.get('rows_a_step', 'some')} rows a step; this run fills each "
                "batch with rows up to a number of tokens.",
                "set per_device_train_batch_size and gradient_accumulation_steps as they were; or start a new run: "
                "--output DIR",
            )
        for name, value in old.items():
            if name == "reward_model" and old.get("reward_server"):
                continue  # a server may have moved: what it serves is compared
            if value == new.get(name):
                continue
            back, shown = "set it back to that", name
            if name == "rows_a_step":  # the product, so that a smaller machine can go on
                back = "set per_device_train_batch_size or gradient_accumulation_steps so that it is the same"
                if new.get("tokens_per_device_batch"):  # a batch counts as one row, and has as many as fit
                    back, shown = "set gradient_accumulation_steps so that it is the same", "batches_a_step"
            raise UsageError(
                f"{checkpoint} was trained with {shown}={value}; this run has {shown}={new.get(name)}.",
                f"{back}; or start a new run, in another folder with --output",
            )


def environment() -> dict[str, Any]:
    """The command and the versions of Python and of the libraries that a run used."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in ("sotopia-rl-data", "torch", "transformers", "trl", "peft", "accelerate"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "packages": packages,
        "python": sys.version.split()[0],
    }


def plain(value: Any) -> Any:
    """A value as JSON holds it: without NaN, tuples, paths, enums and numpy's types."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool | int | str):
        return value.value if isinstance(value, Enum) else value
    return None if value is None else str(value)


def _is_record(value: Any) -> bool:
    """Whether a value has what every record of a run has, and no text or list where its readers look for an object."""
    if not isinstance(value, dict) or value.get("kind") not in KINDS or not isinstance(value.get("model"), str):
        return False
    dataset, metrics = value.get("dataset"), value.get("metrics", {})
    return (
        isinstance(dataset, dict)
        and all(isinstance(dataset.get(name), str) for name in ("name", "version", "digest"))
        and all(isinstance(value.get(name, {}), dict) for name in _OBJECTS)
        and all(isinstance(value.get(name) or {}, dict) for name in _OBJECTS_OR_NULL)
        and all(isinstance(of, dict) for of in metrics.values())
        and all(number is None or isinstance(number, int | float) for of in metrics.values() for number in of.values())
    )


def _row(text: str) -> dict[str, Any] | None:
    try:
        row = json.loads(text)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
