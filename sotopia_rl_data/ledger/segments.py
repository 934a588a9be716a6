"""A ledger that machines share through a bucket. Each keeps a ledger on its own disk, sends what it appends there in
segments, and fetches the others'.

    s3://BUCKET/PREFIX/segments/MACHINE/JOURNAL-START.jsonl    whole lines of a journal from a byte on, never changed
                       machines/MACHINE                        empty: this machine may write here
    SPOOL/BUCKET-…/                                            the ledger of this machine, one like any other, and
                  .bucket/bucket.json  state.json  lock        where the bucket is; what was sent and fetched

An answer is durable on this disk first. It is in the bucket at most `SEND_S` seconds or `SEND_LINES` answers later, and
before the version that is made of it: that is all a lost machine can lose. While the bucket is away, up to
`MOST_WAITING` bytes wait on the disk. What a process that was killed had not sent, the next one on this machine sends.
A segment is created only where there is none, so that a request whose answer was lost doubles nothing.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.ledger.journal import is_being_written
from sotopia_rl_data.locks import open_lock, wait
from sotopia_rl_data.store.bucket import Bucket, is_address
from sotopia_rl_data.store.disk import private_file, replace_file, storing

log = logging.getLogger(__name__)
SPOOL = "SOTOPIA_RL_DATA_SPOOL"
SEND_S, SEND_LINES = 4.0, 1_000
LOOK_S = 60.0  # between two looks for what other machines have sent
MOST_WAITING = 1 << 30  # bytes
_FOLDER, _WHERE, _STATE = ".bucket", "bucket.json", "state.json"
_FETCHED = "journal-{}-fetched.jsonl"
_SEGMENT_BYTES = 8 << 20
_AT_ONCE = 8


def local_folder(path: Path | str) -> Path:
    """The folder of a ledger: `path` itself, or for an address the one in which this machine keeps its part, which is
    made. Raises UsageError, StoreError."""
    if not is_address(path):
        return Path(path)
    bucket = Bucket(path)
    folder = _folder_of(bucket)
    with storing(folder, "spool", f"another with {SPOOL}=/DIR"):
        (folder / _FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / _FOLDER / _WHERE).exists():
            where = {"address": bucket.address, "machine": secrets.token_hex(8)}
            replace_file(folder / _FOLDER / _WHERE, json.dumps(where).encode())
    return folder


def _folder_of(bucket: Bucket) -> Path:
    home = os.environ.get(SPOOL) or os.path.join(
        os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "sotopia-rl-data"
    )
    if not os.path.isabs(home):
        raise StoreError(
            "The folder for answers on their way to a bucket has no absolute path.", f"name one: export {SPOOL}=/DIR"
        )
    return Path(home) / bucket.folder_name


@dataclass
class _State:
    """`sent`: of each journal, how many bytes are in the bucket. `fetched`: the segments of others that are here.
    `pending`: those in a file that is about to appear."""

    sent: dict[str, int] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    pending_in: str = ""


class Segments:
    """The exchange of one ledger's folder with its bucket, by any number of processes of this machine."""

    def __init__(self, directory: Path, bucket: Bucket, machine: str, most_waiting: int = MOST_WAITING) -> None:
        self._directory, self._bucket, self._machine, self._most = directory, bucket, machine, most_waiting
        self._wake, self._closing = threading.Event(), threading.Event()
        self._appended = 0
        self._away: StoreError | None = None
        self._too_much, self._may_write = False, False
        self._told = ""  # the last error that was told
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, directory: Path) -> Segments | None:
        """Those of a ledger's folder; None where it belongs to no bucket. A folder from others sends nothing anywhere:
        it is not where this machine keeps its part."""
        try:
            where = json.loads((directory / _FOLDER / _WHERE).read_bytes())
            bucket, machine = Bucket(where["address"]), where["machine"]
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(
                f"{directory / _FOLDER / _WHERE} does not name the bucket of the ledger.",
                f"use a copy of the folder without {_FOLDER}",
            ) from error
        is_ours = _folder_of(bucket).resolve() == directory.resolve()
        return cls(directory, bucket, machine) if is_ours else None

    def appended(self) -> None:
        """An answer is in a journal. Raises StoreError where too much waits for a bucket that is away; the answer is
        kept."""
        self._appended += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ledger-segments", daemon=True)
            self._thread.start()
        elif self._appended >= SEND_LINES:
            self._wake.set()
        self._check_waiting()

    @property
    def address(self) -> str:
        """Where the ledger is that the machines share."""
        return self._bucket.address

    def check(self) -> None:
        """Raises StoreError where the bucket is away and too much waits for it already; and, before the first answer is
        paid for, where this machine may not write there."""
        self._check_waiting()
        if not self._may_write:
            self._bucket.create(f"machines/{self._machine}", b"")
            self._may_write = True

    def _check_waiting(self) -> None:
        if self._away is not None and self._too_much:
            raise StoreError(
                f"{self._away.message} More than {self._most >> 20:,} MiB wait already.",
                "what was answered is kept: run the same command again when the bucket is back",
            )

    def flush(self) -> None:
        """As `send`; the caller tells of the error, so it is not told again."""
        try:
            self.send()
        except StoreError as error:
            self._told = error.message
            raise

    def send(self) -> None:
        """Send what was appended by whatever process of this machine. Raises StoreError where the bucket is away."""
        self._appended = 0
        try:
            with self._state() as state:
                self._send(state)
        except StoreError as error:
            kept = f"What was answered waits in {self._directory}, and the next command with this ledger sends it."
            raise StoreError(f"{error.message} {kept}", error.hint) from error

    def fetch(self) -> None:
        """Fetch what other machines have sent since the last look, into a journal of its own; and send what a process
        that was killed has left. Raises StoreError."""
        with self._state() as state:
            self._send(state)
            known, ours = set(state.fetched), f"segments/{self._machine}/"
            keys = [one.key for one in self._bucket.list("segments")]
            new = [key for key in keys if key not in known and not key.startswith(ours)]
            if not new:
                return
            path = self._directory / _FETCHED.format(time.time_ns())
            beside = self._directory / _FOLDER / path.name
            with private_file(beside).open("wb") as file, ThreadPoolExecutor(_AT_ONCE) as pool:
                for first in range(0, len(new), _AT_ONCE):  # a machine that joins late has GBs to fetch
                    file.writelines(data for data, _ in pool.map(self._bucket.read, new[first : first + _AT_ONCE]))
                file.flush()
                os.fsync(file.fileno())
            state.pending, state.pending_in = new, path.name
            self._keep(state)
            beside.rename(path)
            self._settle(state)
            log.info("fetched %d segments into %s", len(new), path)

    @contextmanager
    def settled(self) -> Iterator[list[Path]]:
        """The journals that are wholly in the bucket and that no process writes: compaction may take them while the
        block lasts. Raises StoreError."""
        with self._state() as state:
            ended = [path for path in self._journals() if not is_being_written(path)]
            self._send(state)
            fetched = self._directory.glob(_FETCHED.format("*"))
            yield [*(path for path in ended if state.sent.get(path.name, 0) >= path.stat().st_size), *fetched]

    def close(self) -> None:
        """Send the rest. Where the bucket is away, it stays on the disk, and the next process sends it."""
        if self._thread is None:
            return
        self._closing.set()
        self._wake.set()
        self._thread.join()
        self._thread = None
        self._closing.clear()
        self._try(self.send)

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._closing.is_set():
            self._wake.wait(SEND_S)
            self._wake.clear()
            if self._closing.is_set():
                return
            if self._appended:
                self._try(self.send)
            if time.monotonic() - looked > LOOK_S:
                self._try(self.fetch)
                looked = time.monotonic()

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
            self._away, self._told = None, ""
        except StoreError as error:
            self._appended += 1  # try again at the next turn
            self._away, self._too_much = error, self._waiting() > self._most
            if error.message != self._told:
                log.warning("%s", error.message)
            self._told = error.message

    def _journals(self) -> list[Path]:
        """The journals of this machine's processes."""
        fetched = set(self._directory.glob(_FETCHED.format("*")))
        return [path for path in sorted(self._directory.glob("journal-*.jsonl")) if path not in fetched]

    def _waiting(self) -> int:
        sent = self._read().sent
        return sum(path.stat().st_size - sent.get(path.name, 0) for path in self._journals())

    def _send(self, state: _State) -> None:
        journals = self._journals()
        state.sent = {path.name: state.sent.get(path.name, 0) for path in journals}
        for path in journals:
            with path.open("rb") as file:
                while True:
                    start = state.sent[path.name]
                    file.seek(start)
                    data = _whole_lines(file.read(_SEGMENT_BYTES)) or _whole_lines(_all_of(file, start))
                    if not data:
                        break
                    key = f"segments/{self._machine}/{path.stem}-{start:015d}.jsonl"
                    # where there is one, it was sent before, and the state of that was lost
                    length = len(data) if self._bucket.create(key, data) else self._bucket.size(key) or 0
                    state.sent[path.name] = start + length
                    self._keep(state)

    @contextmanager
    def _state(self) -> Iterator[_State]:
        """The state, which no other process reads or changes meanwhile."""
        with storing(self._directory, "spool", f"another with {SPOOL}=/DIR"):
            handle = open_lock(self._directory / _FOLDER / "lock")
            try:
                wait(handle)
                state = self._read()
                if state.pending:
                    self._settle(state)
                yield state
            finally:
                os.close(handle)

    def _settle(self, state: _State) -> None:
        if (self._directory / state.pending_in).exists():  # else a kill came before it appeared
            state.fetched += state.pending
        state.pending, state.pending_in = [], ""
        self._keep(state)

    def _read(self) -> _State:
        try:
            return _State(**json.loads((self._directory / _FOLDER / _STATE).read_bytes()))
        except FileNotFoundError:
            return _State()

    def _keep(self, state: _State) -> None:
        replace_file(self._directory / _FOLDER / _STATE, json.dumps(asdict(state)).encode())


def _whole_lines(data: bytes) -> bytes:
    """The first lines of `data`, at most `SEND_LINES`, without one that has no end."""
    end = 0
    for _ in range(SEND_LINES):
        found = data.find(b"\n", end)
        if found < 0:
            break
        end = found + 1
    return data[:end]


def _all_of(file: BinaryIO, start: int) -> bytes:
    file.seek(start)
    return file.read()
