"""What is labelled: the episodes of a dataset or of a file, and with `--only` some of their utterances.

Episodes come from a dataset of the store, or from a file, which is imported first; by default from the bundled samples.
The list of `--only` is a CSV. A row names an episode, and each further column narrows it down: to an agent, one of its
turns, one dimension; an empty cell stands for all of them. A question about several turns is asked whole, where any of
the turns is named. A label that is a difference needs two numbers, so the second number is asked for too: the baseline,
or for progress the number of the agent's turn before.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sotopia_rl_data import refs
from sotopia_rl_data.dimensions import full_name
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.outputs import Row, read_sheet
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.manifest import FILE_NAME

if TYPE_CHECKING:
    from sotopia_rl_data.importers.importing import Check

COLUMNS = ("episode_id", "agent", "turn", "dimension")
_HINT = f"write a CSV with the columns {COLUMNS[0]}[,{COLUMNS[1]}[,{COLUMNS[2]}[,{COLUMNS[3]}]]]"

Key = tuple[str, str | None, int | None, str | None]


@dataclass(frozen=True, slots=True)
class Selection:
    """What the list names: (episode_id, agent, turn, dimension); None stands for all agents, turns or dimensions."""

    keys: frozenset[Key]

    @property
    def sha256(self) -> str:
        """A hash of what is named, whatever the order of the rows."""
        return sha256_of(sorted([list(map(str, key)) for key in self.keys]))

    def wants(self, question: Question) -> bool:
        """Whether the question is about anything that is named."""
        slots = list(question.slots.values())
        # A label of progress is a difference, so the number that this question asks for also counts for the next turn.
        if question.measure == "progress":
            following = [(slot, _next_turn(question, slot)) for slot in slots]
            slots += [replace(slot, turn=turn) for slot, turn in following if turn is not None]
        return any(self._names(question.episode.episode_id, slot) for slot in slots)

    def names(self, episode: str, agent: str, turn: int) -> bool:
        """Whether the list names this turn, on any dimension."""
        return any(key[0] == episode and key[1] in (None, agent) and key[2] in (None, turn) for key in self.keys)

    def _names(self, episode: str, slot: Slot) -> bool:
        """Whether the list names the slot. It names a baseline where it names any turn of the same agent."""
        if slot.turn < 0:
            return any(
                key[0] == episode and key[1] in (None, slot.agent) and key[3] in (None, slot.dimension)
                for key in self.keys
            )
        return any(
            (episode, agent, turn, dimension) in self.keys
            for agent in (None, slot.agent)
            for turn in (None, slot.turn)
            for dimension in (None, slot.dimension)
        )


def _next_turn(question: Question, slot: Slot) -> int | None:
    """The turn in which the slot's agent acts next; None after its last."""
    later = (turn.turn for turn in question.episode.turns if turn.agent == slot.agent and turn.turn > slot.turn)
    return min(later, default=None)


def read_selection(path: Path, dimensions: Sequence[str] = ()) -> Selection:
    """The list in a CSV; other columns are ignored. `dimensions` are those that may be named (empty:
    SOTOPIA-EVAL's). Raises InputError, and UsageError where the list is empty."""
    _, rows = read_sheet(path, COLUMNS, COLUMNS[:1], _HINT)
    keys = frozenset(_keys(path, rows, dimensions))
    if not keys:
        raise UsageError(f"The list {path} has no episode in it.", _HINT)
    return Selection(keys)


def _keys(path: Path, rows: Iterable[Row], dimensions: Sequence[str]) -> Iterable[Key]:
    for line, row in rows:
        episode, agent, turn, name = row.values()
        if not episode:
            continue
        try:
            dimension = full_name(name, dimensions) if name else None
            yield episode, agent or None, int(turn) if turn else None, dimension
        except UsageError as wrong:
            raise InputError(f"{path}:{line}: {wrong.message}", wrong.hint) from wrong
        except ValueError as wrong:
            hint = "write the number of one turn, or leave the cell empty for all turns"
            raise InputError(f"{path}:{line}: {turn!r} is not a turn number.", hint) from wrong


SAMPLES = "samples"
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
"""What a dataset's name cannot have."""


def episodes_version(store: Store, source: str | Path | None, check: Check) -> Version:
    """The version whose episodes `source` names: by a dataset's reference or path, or by a file to import (None: the
    bundled samples).

    A file `NAME.jsonl` becomes the dataset NAME. Nothing is written where the store has its content already, or where
    `check` raises. Raises NotFound, InputError, UsageError.
    """
    check_there(source)
    path = _to_import(source)
    if path is not None:
        return _imported(store, path, SAMPLES if source is None else _name_of(path), check)
    if isinstance(source, str) and not refs.is_path(source):
        return _with_episodes(resolve(store, source))
    return _with_episodes(resolve(store, refs.DatasetRef(path=Path(str(source)))))


def check_there(source: str | Path | None) -> None:
    """Raises InputError where `source` is a file to import that does not exist."""
    path = _to_import(source)
    if path is not None and not path.exists():
        raise InputError(
            f"The file {path} does not exist.",
            "name a file of episodes, or a dataset by its name: sotopia-rl-data list",
        )


def is_imported(source: str | Path | None) -> bool:
    """Whether `source` is a file, which is imported before it is labelled, and not a dataset. None stands for the file
    of the samples."""
    return _to_import(source) is not None


def _to_import(source: str | Path | None) -> Path | None:
    """The file to import; None where `source` names a dataset, or a folder that holds versions of one."""
    if source is None:
        from sotopia_rl_data.importers import samples_path

        return samples_path()
    if isinstance(source, str) and not refs.is_path(source):
        return None
    path = Path(source)
    holds_versions = (path / FILE_NAME).is_file() or any(path.glob(f"v*/{FILE_NAME}"))
    return None if holds_versions else path


def _imported(store: Store, path: Path, name: str, check: Check) -> Version:
    from sotopia_rl_data.importers.importing import import_dataset

    def checked(scored: Set[tuple[str, str]] | None) -> None:
        if scored is None:
            raise _no_episodes(str(path))
        check(scored)

    import_dataset(store, [path], name, check=checked)
    return _with_episodes(resolve(store, name))


def _with_episodes(version: Version) -> Version:
    if "episodes" not in version.manifest.configs:
        raise _no_episodes(version.ref)
    return version


def _no_episodes(name: str) -> UsageError:
    hint = "import the episodes that it was made from, with `sotopia-rl-data import`"
    return UsageError(f"{name} holds no episodes, so it has no utterances that could be judged.", hint)


def _name_of(path: Path) -> str:
    """A dataset's name made from a file's: `my día.v2.jsonl` -> `my-dia.v2`."""
    real = os.path.realpath(path)  # Path.resolve raises for a link to itself
    plain = unicodedata.normalize("NFKD", Path(real).stem).encode("ascii", "ignore").decode()
    stem = NOT_IN_NAMES.sub("-", plain).strip("-.")
    return stem if stem[:1].isalnum() else "episodes"
