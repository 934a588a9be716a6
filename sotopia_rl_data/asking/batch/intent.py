"""A batch is recorded on disk before it is submitted, so that no crash submits it twice or forgets it.

    LEDGER/batches/TARGET/INTENT/asked.jsonl     which request each line is: custom_id and `BatchLine`
                                lines.jsonl      the lines as the provider gets them
                                intent.json      how far the batch is; written last, replaced as a whole at every step

A folder without `intent.json` was never finished and is removed. So is a batch's folder when its results are in the
ledger. Several processes may be at work on a target's batches. One at a time drafts new ones, under the target's lock,
and so knows of all others; each batch is looked after by the process that holds the lock in its folder. Both locks are
given up however a process ends: then another one adopts its batches.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from sotopia_rl_data.asking.forms import MEANT, RequestForm
from sotopia_rl_data.costs.tokens import most_prompt_tokens
from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.formats import check_fields, newer
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.ledger.lookup import PendingRequest
from sotopia_rl_data.locks import NO_LOCKS, is_held, open_lock, take_where_possible
from sotopia_rl_data.request import Target
from sotopia_rl_data.store.disk import private_file, storing, sync_file

_LEDGER = ("ledger", "another ledger with --ledger")
_STATE, _ASKED, _LINES = "intent.json", "asked.jsonl", "lines.jsonl"
_LOCK = ".lock"
_DRAFT = {_ASKED, _LINES, _LOCK, "intent.tmp"}  # what may be in a folder whose batch was not sealed
_KEY_SHOWN = 40  # hex digits of a key in a custom_id: Anthropic allows 64 characters, the intent's id takes 16


@dataclass(frozen=True, slots=True)
class Intent:
    """One batch: `count` lines under an `id` of ours, `made` at this time (Unix seconds).

    `way` is the way in which an earlier version passed the answer's schema, `file` the provider's id of the uploaded
    lines, `after` the id of the newest batch before this one, `tried` the time of the last `create` (Unix seconds; 0:
    never), `batch` the provider's id of the batch, empty until we received it."""

    id: str
    count: int
    made: float
    way: int = 0
    file: str = ""
    after: str = ""
    tried: float = 0.0
    batch: str = ""

    def custom_id(self, key: str) -> str:
        """The name of a key's line: 57 characters of `[0-9a-f-]`."""
        return f"{self.id}-{key[:_KEY_SHOWN]}"

    def owns(self, custom_id: str) -> bool:
        """Whether a line of this name belongs to this batch."""
        return custom_id.startswith(f"{self.id}-")


@dataclass(frozen=True, slots=True)
class BatchLine:
    """The request behind a line: what an attempt in the ledger records of it, the most tokens of its prompt, the form
    in which it is put, as JSON, where it is not put as it is meant, and the limit of its answer that follows from the
    schema, where it is sent with one (`answer_limit.py`; else 0). `control` is the key of the request that a control
    was made for (`filters.py`); else empty."""

    key: str
    question: str
    sample: int
    input: int
    sampling: Mapping[str, Any] = field(default_factory=dict)
    form: Mapping[str, Any] = field(default_factory=dict)
    limit: int = 0
    control: str = ""


class BatchFolder:
    """A target's intents, in the folder `dir`. Raises StoreError where the folder cannot be written."""

    def __init__(self, ledger: Path, target: Target) -> None:
        self.name = sha256_of([target.provider, target.base_url, target.model])[:16]
        self.dir = ledger / "batches" / self.name

    @contextmanager
    def drafting(self) -> Iterator[Callable[[], bool]]:
        """Gives a function that says whether, from now to the end of the block, no other process drafts batches; while
        one does, call it again."""
        with storing(self.dir, *_LEDGER):
            self.dir.parents[1].mkdir(mode=0o700, parents=True, exist_ok=True)  # the ledger is its owner's alone
            self.dir.mkdir(parents=True, exist_ok=True)
            lock = open_lock(self.dir / _LOCK)
        try:
            yield lambda: take_where_possible(lock)
        finally:
            os.close(lock)

    def is_drafted_in(self) -> bool:
        """Whether a process drafts batches now: it may have put any request into one."""
        try:
            return is_held(self.dir / _LOCK)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return False

    def sweep(self) -> None:
        """Remove drafts that were never finished. To be called while no other process drafts."""
        for folder in self._folders():
            with suppress(FileNotFoundError):
                if not (folder / _STATE).is_file():
                    if {path.name for path in folder.iterdir()} - _DRAFT:
                        raise newer(folder)
                    shutil.rmtree(folder, ignore_errors=True)

    def hold(self, intent: Intent) -> int | None:
        """A handle that makes this process the one that looks after the batch, until it is closed; None while another
        process does. Raises FileNotFoundError where the batch's results are in the ledger."""
        handle = self._lock(intent)
        if handle is not None and not (self._folder(intent) / _STATE).is_file():
            os.close(handle)
            raise FileNotFoundError(self._folder(intent))
        return handle

    def _lock(self, intent: Intent) -> int | None:
        handle = open_lock(self._folder(intent) / _LOCK)
        if take_where_possible(handle):
            return handle
        os.close(handle)
        return None

    def intents(self) -> list[Intent]:
        """The batches whose results are not in the ledger yet, the oldest first. Changes nothing and needs no lock."""
        return sorted(self._sealed(), key=lambda intent: intent.made)

    def ids(self) -> frozenset[str]:
        """The ids of all intents. Changes nothing and needs no lock."""
        return frozenset(intent.id for intent in self._sealed())

    def under_way(self) -> Iterator[tuple[Intent, BatchLine]]:
        """Every request that is in a batch, or about to be. Changes nothing and needs no lock: a batch that another
        process removes meanwhile is left out."""
        for intent in self._sealed():
            with suppress(FileNotFoundError):
                for line in self.batch_lines(intent).values():
                    yield intent, line

    def _sealed(self) -> Iterator[Intent]:
        for folder in self._folders():
            path = folder / _STATE
            with suppress(FileNotFoundError), _undamaged(path):
                record = json.loads(path.read_text())
                check_fields(record, Intent, path)
                yield Intent(**record)

    def _folders(self) -> list[Path]:
        if not self.dir.is_dir():
            return []
        return [path for path in self.dir.iterdir() if path.is_dir()]

    def keep(self, intent: Intent) -> Intent:
        """Record how far a batch is; durable when this returns."""
        with storing(self.dir, *_LEDGER):
            path = self._folder(intent) / _STATE
            beside = path.with_suffix(".tmp")
            private_file(beside).write_text(json.dumps(asdict(intent)))
            sync_file(beside)
            beside.replace(path)
            sync_file(path.parent)
        return intent

    def lines(self, intent: Intent) -> Path:
        """The file that the provider gets."""
        return self._folder(intent) / _LINES

    def batch_lines(self, intent: Intent) -> dict[str, BatchLine]:
        """The request behind each custom_id."""
        path = self._folder(intent) / _ASKED
        batch_lines = {}
        with path.open() as lines, _undamaged(path):
            for record in map(json.loads, lines):
                custom_id = record.pop("id")
                check_fields(record, BatchLine, path)
                batch_lines[custom_id] = BatchLine(**record)
        return batch_lines

    def remove(self, intent: Intent) -> None:
        """Remove the folder of a batch whose results are in the ledger, or that never began."""
        (self._folder(intent) / _STATE).unlink()
        shutil.rmtree(self._folder(intent), ignore_errors=True)  # what is left is swept like an unfinished draft

    def draft(self) -> BatchDraft:
        """A new batch to put lines into."""
        intent = Intent(secrets.token_hex(8), 0, time.time())
        with storing(self.dir, *_LEDGER):
            self._folder(intent).mkdir(parents=True)
            return BatchDraft(self, intent, self._lock(intent))

    def _folder(self, intent: Intent) -> Path:
        return self.dir / intent.id


class BatchDraft:
    """A batch that is being filled. `seal` makes it an intent, which `lock` holds for this process."""

    def __init__(self, parent: BatchFolder, intent: Intent, lock: int | None) -> None:
        self._parent, self.intent, self.lock = parent, intent, lock
        self.count = self.size_bytes = 0
        self._lines: IO[bytes] = private_file(parent.lines(intent)).open("wb")
        self._asked: IO[bytes] = private_file(parent.lines(intent).with_name(_ASKED)).open("wb")

    def add(self, line: bytes, pending: PendingRequest, form: RequestForm, control: str = "") -> None:
        """Add a request and its line in this form; `control` is the key of the request that a control is for."""
        request, custom_id = pending.request, self.intent.custom_id(pending.key)
        sampling = dict(request.target.sampling)
        told = {} if form == MEANT else form.as_dict()
        tokens, limit = most_prompt_tokens(request), request.limit or 0
        record = BatchLine(pending.key, pending.question, request.sample, tokens, sampling, told, limit, control)
        with storing(self._parent.lines(self.intent).parent, *_LEDGER):
            self._lines.write(line + b"\n")
            self._asked.write(json.dumps({"id": custom_id, **asdict(record)}).encode() + b"\n")
        self.count += 1
        self.size_bytes += len(line) + 1

    def seal(self) -> Intent:
        """Make the batch durable: from now on this run, or the next after a crash, submits it."""
        with storing(self._parent.lines(self.intent).parent, *_LEDGER):
            for file in (self._lines, self._asked):
                file.flush()
                os.fsync(file.fileno())
                file.close()
            sync_file(self._parent.lines(self.intent).parent.parent)  # the entry of the batch's own folder
        return self._parent.keep(Intent(self.intent.id, self.count, self.intent.made))


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Raises StoreError where what the block reads from a batch's file is not what we wrote."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = f"restore it from a copy; or delete the folder {path.parent} to ask, and pay for, its requests again"
        raise StoreError(f"The record of a batch {path} is damaged: {error}.", hint) from error
