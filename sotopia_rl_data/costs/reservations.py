"""What calls may cost, on record before they are sent, for all runs with a budget on one ledger: a file of lines that
they all append to.

A line is a reservation, or a release with what the call has cost. Reservations are made under a lock that is held for
microseconds, and only after the lines of the other runs were read: so runs see each other's spending before they add to
it. A run lives as long as it holds the lock on a file of its own, which it gives up however it ends. What a killed run
had reserved for calls in flight stays on record, and counts as spent. The last run that ends removes the rest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotopia_rl_data.costs.price import NOTHING, Price
from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.formats import newer
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.journal import Journal
from sotopia_rl_data.locks import LockedFolder, is_held, let_go, open_lock, take
from sotopia_rl_data.store.disk import private_file, sync_file

_SHARED = "holds-shared"
_LOCK, _RUNS = ".budget.lock", ".budget"
_PATIENCE_S = 10.0
CLOCK_S = 0.01  # between a reservation and its call


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """The reservation for one call: `usd` since `time` (Unix seconds), by `run`. `chain` is the key of the first
    request of the call's chain. In a `batch`, the batch's own folder says whether the call is under way."""

    key: str
    usd: float
    time: float
    price: Price = NOTHING
    chain: str = ""
    run: str = ""
    batch: bool = False

    @property
    def place(self) -> tuple[str, str, float]:
        """What names the hold: a request is in one batch at a time, whichever run looks after it."""
        return ("", self.key, 0.0) if self.batch else (self.run, self.key, self.time)


Event = tuple[Hold, float | None]  # a hold: with None when it is reserved, with its cost in USD when it is released


class Reservations:
    """The record as one run sees it; `run` is its name. `others` are the open reservations of all other runs, by place,
    those of killed runs included.

    Raises StoreError where the directory, which is the ledger's, cannot be written or has no locks.
    """

    def __init__(self, directory: Path) -> None:
        self._directory, self._path = directory, directory / f"{_SHARED}.jsonl"
        self._journal = Journal(directory, _SHARED, shared=True)
        self._offset = 0
        self.others: dict[tuple[str, str, float], Hold] = {}
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = open_lock(directory / _LOCK)
        except OSError as error:
            raise _unwritable(directory, error) from error
        self.run = "none yet"
        with self.turn():
            self._presence = LockedFolder(directory / _RUNS, "run")
            self.run = self._presence.dir.name
            self._remove_what_is_over()
            earlier = (hold for hold in left_behind(directory) if not hold.run)
            self.others |= {hold.place: hold for hold in earlier}

    @contextmanager
    def turn(self) -> Iterator[list[Event]]:
        """Inside the block no other run reserves anything. Gives what the others did since the last time."""
        try:
            if not take(self._lock, _PATIENCE_S):
                raise StoreError(
                    f"Another run keeps the record of reservations in {self._directory} locked: it was suspended, or "
                    "is of an earlier version.",
                    "wait until it ends, then run the command again",
                )
        except OSError as error:
            raise StoreError(
                f"No budget can be kept on the ledger in {self._directory}: its file system has no locks.",
                "leave --budget out, or name a ledger on a disk of this machine: --ledger FOLDER",
            ) from error
        try:
            yield self.news()
        except OSError as error:
            raise _unwritable(self._directory, error) from error
        finally:
            let_go(self._lock)

    def news(self) -> list[Event]:
        """What the other runs reserved and released since the last time, in the order written."""
        events = [(hold, cost) for hold, cost in self._new_lines() if hold.run != self.run]
        for hold, cost in events:
            if cost is None:
                self.others[hold.place] = hold
            else:
                self.others.pop(hold.place, None)
        return events

    def reserve(self, hold: Hold) -> None:
        """Record a reservation. To be called in `turn`."""
        self._write(hold, hold.usd)

    def release(self, hold: Hold, cost: float) -> None:
        """Record that a cost in USD takes the place of a reservation."""
        self._write(hold, -hold.usd, cost)

    def is_alive(self, run: str) -> bool:
        """Whether the process of another run lives, and has not ended the run."""
        return is_held(self._presence.dir.with_name(f"{run}.lock"))

    def is_recent(self, key: str) -> bool:
        """Whether another run has only just reserved for this key: a call made now could be taken for that run's."""
        after = time.time() - 2 * CLOCK_S
        return any(hold.key == key and hold.time > after for hold in self.others.values())

    def close(self, left: Iterable[Hold]) -> None:
        """End the run; `left` are its reservations that stay on record."""
        with self.turn():
            self._journal.close()
            self.others |= {hold.place: hold for hold in left}
            self._remove_what_is_over()
            self._presence.release()
        os.close(self._lock)

    def _remove_what_is_over(self) -> None:
        """Leave nothing in the file but what is open, unless another run still reads it."""
        runs = (path.stem for path in self._presence.dir.parent.glob("*.lock"))
        if any(run != self.run and self.is_alive(run) for run in runs):
            return
        self.others = {place: hold for place, hold in self.others.items() if hold.run and not hold.batch}
        beside = self._path.with_suffix(".tmp")
        private_file(beside).write_bytes(b"".join(_line(hold, hold.usd) for hold in self.others.values()))
        self._offset = beside.stat().st_size
        if self._offset:
            sync_file(beside)
            beside.replace(self._path)
        else:
            beside.unlink()
            self._path.unlink(missing_ok=True)

    def _new_lines(self) -> Iterator[Event]:
        try:
            if self._path.stat().st_size == self._offset:
                return
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        yield from _events(self._path, (line for line in data.splitlines() if self.run.encode() not in line))

    def _write(self, hold: Hold, usd: float, cost: float | None = None) -> None:
        self._journal.append(_line(hold, usd, cost))


def left_behind(directory: Path) -> Iterator[Hold]:
    """Reservations for calls that were never released, by a process that was killed or that still runs. Those of a
    batch are not among them: the batch's folder tells of it."""
    for path in sorted(directory.glob("holds-*.jsonl")):
        still: dict[tuple[str, str, float], Hold] = {}
        for hold, cost in _events(path, path.read_bytes().splitlines()):
            if cost is None:
                still[hold.place] = hold
            else:
                still.pop(hold.place, None)
        yield from (hold for hold in still.values() if not hold.batch)


def is_lost(hold: Hold, attempts: Iterable[Attempt]) -> bool:
    """Whether no attempt at the hold's key is the call that it was reserved for: such a call may have been billed. An
    attempt that began after the hold is a later run's."""
    if hold.batch:
        return not any(attempt.batch and attempt.time >= hold.time for attempt in attempts)
    return not any(
        attempt.time - attempt.seconds - CLOCK_S <= hold.time <= attempt.time
        for attempt in attempts
        if not attempt.batch
    )


def _line(hold: Hold, usd: float, cost: float | None = None) -> bytes:
    record: dict[str, Any] = {"key": hold.key, "usd": usd, "time": hold.time, "run": hold.run, "chain": hold.chain}
    if cost is not None:
        record["cost"] = cost
    if hold.batch:
        record["batch"] = True
    return json.dumps(record).encode() + b"\n"


def _events(path: Path, lines: Iterable[bytes]) -> Iterator[Event]:
    for line in lines:
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:  # an empty line, or one that was torn by a kill: the call was never sent
            continue
        try:
            usd, cost = record.pop("usd"), record.pop("cost", 0.0)
            hold = Hold(usd=abs(usd), **record)
        except (KeyError, TypeError, AttributeError) as error:  # the line is whole, and its fields are not ours
            raise newer(path) from error
        yield hold, cost if usd < 0 else None


def _unwritable(directory: Path, error: OSError) -> StoreError:
    return StoreError(
        f"The ledger in {directory} cannot be written: {error.strerror or error}.",
        "free space or make the folder writable, then run the command again",
    )
