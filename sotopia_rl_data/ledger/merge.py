"""Ledgers into one: every attempt of theirs that is not there yet, in the order written.

An attempt is there if all of it is equal, so that merging again adds nothing, and a merge that was killed goes on.
Leaves out the batches that are under way in a ledger: the command that submitted them fetches them into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.ledger import calls
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.claims import FILE as CLAIMS
from sotopia_rl_data.ledger.journal import is_being_written
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.segments import local_folder
from sotopia_rl_data.store.bucket import is_address, spelled


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did: how many attempts it has `read` and `added`; at how many keys more than one of the ledgers has
    an answer (`asked_twice`); and the ledgers that were not finished when they were read (`unfinished`): a run
    was writing one of them, or batches are under way."""

    read: int
    added: int
    asked_twice: int
    unfinished: tuple[str, ...]


class AskedTwice:
    """At how many keys more than one source has an answer, of all whose attempts come into a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._keys = ledger, set[str]()

    def __len__(self) -> int:
        return len(self._keys)

    def known(self, attempt: Attempt, is_own: Callable[[Attempt], bool]) -> list[Attempt]:
        """The attempts that the ledger has at the key of one that comes; `is_own` says whether its source has another
        too."""
        known = self._ledger.attempts(attempt.key) if self._ledger.tries(attempt.key) else []
        if attempt.status == "answer" and attempt.key not in self._keys:
            others = (one for one in known if one.status == "answer" and one != attempt)
            if not all(map(is_own, others)):
                self._keys.add(attempt.key)
        return known


def merge(directory: Path, sources: Sequence[Path]) -> Merged:
    """Add every attempt of the ledgers `sources` to the one in `directory`, which is made if missing. Raises UsageError
    where there is no such ledger, before anything is written, and where another merge is at work; StoreError."""
    directory = local_folder(directory)
    for source in sources:
        _check(source, directory)
    read = added = 0
    unfinished: list[str] = []
    with Ledger(directory) as ledger:
        ledger.check()
        if not ledger.claims.take(sha256_of("merge")):
            raise UsageError(
                f"Another process is merging ledgers into {directory}.", "run the same command again when it has ended"
            )
        twice = AskedTwice(ledger)
        for source in sources:
            # asked before reading: what a run writes after its ledger was read is missed
            if _is_unfinished(source):
                unfinished.append(str(source))
            with Ledger(source) as other:
                for attempt in other.scan():
                    read += 1
                    if attempt not in twice.known(attempt, lambda one: one in other.attempts(one.key)):
                        ledger.append(attempt)
                        added += 1
    return Merged(read, added, len(twice), tuple(unfinished))


def _check(source: Path, directory: Path) -> None:
    """Raises UsageError where `source` is not a ledger, or is the one in `directory`."""
    if is_address(source):
        raise UsageError(
            f"{spelled(source)} is a ledger in a bucket, which needs no merging: all its machines have its answers.",
            f"leave it out, or name it where answers are to be found: --ledger {spelled(source)}",
        )
    if not source.is_dir() or not ((source / CLAIMS).exists() or calls.live_files(source)):
        inside = source / ".ledger"
        hint = "name the folder that the shard's command got as --ledger"
        raise UsageError(f"There is no ledger at {source}.", f"name {inside}" if inside.is_dir() else hint)
    if directory.exists() and source.samefile(directory):
        raise UsageError(f"{source} is the ledger that the others are merged into.", "name only the others")


def _is_unfinished(source: Path) -> bool:
    writing = any(is_being_written(path) for path in source.glob("journal-*.jsonl"))
    return writing or any(source.glob("batches/*/*/intent.json"))
