"""The keys of requests that are in batches: a live run asks none of them, and an estimate counts them apart."""

from __future__ import annotations

import os
from collections.abc import Iterable

from sotopia_rl_data.asking.batch.intent import BatchFolder
from sotopia_rl_data.ledger.index import short
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Target
from sotopia_rl_data.store.disk import time_of_change


class BatchedKeys:
    """The requests to these targets that are under way in batches, now and whenever it is asked.

    Who is about to ask claims the key, asks whether batches are `being_drafted`, and then whether the key is in one:
    a draft does not take up what is claimed, and what it took up before is in a batch when the drafting is over. The
    ledger is to be looked at last, since a batch goes when its results are there.
    """

    def __init__(self, targets: Iterable[Target], ledger: Ledger) -> None:
        # by folder: when its list of batches last changed, and the short keys of their requests
        self._keys = {BatchFolder(ledger.directory, target): (0, frozenset[int]()) for target in targets}
        self._look()
        ledger.catch_up()  # it may have been open for long

    def being_drafted(self) -> bool:
        """Whether another process drafts batches now: it may have put any request into one."""
        return any(folder.is_drafted_in() for folder in self._keys if os.path.isdir(folder.dir))

    def __contains__(self, key: str) -> bool:
        self._look()
        return any(short(key) in keys for _, keys in self._keys.values())

    def _look(self) -> None:
        for folder, (known, _) in self._keys.items():
            changed = time_of_change(folder.dir) if os.path.isdir(folder.dir) else 0
            if changed < 0 or changed != known:
                self._keys[folder] = changed, frozenset(short(line.key) for _, line in folder.under_way())
