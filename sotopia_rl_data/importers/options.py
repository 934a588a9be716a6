"""How an import is done: which records it takes, as what, and into which splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.formats import FORMATS, format_named
from sotopia_rl_data.importers.formats.format import Format, Ranges
from sotopia_rl_data.importers.formats.methods import Method, method_named
from sotopia_rl_data.importers.own_scores import DeclaredScore
from sotopia_rl_data.shards import Shard


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What `import` can be told.

    `where` is a DuckDB condition over the columns of `episodes` (or, for training rows, of `rewards`). `strict` makes
    the first rejected record an error. `seed` is the seed of the splits, and `split_by` says of what each belongs whole
    into one split. `columns` renames keys of the records ({old: new}), and `form` names their format where it shall not
    be detected; `only_columns` leaves all other keys out. `method` is that of annotated files, where neither their
    numbers nor their names tell it, and `shared_labels` keeps a label that stands for two utterances in a row, for the
    later. `sentinel` is the reward that stands for none in training rows. `scores` are dimensions of the source's own.
    `license` is the data's, for the card; `pseudonymise` replaces speakers' names. `shard` is the part that is imported
    (None: the whole). `whole_files` makes a file that cannot be read to its end an error.
    """

    where: str | None = None
    strict: bool = False
    seed: int = 0
    split_by: Literal["environment", "episode"] = "environment"
    columns: Mapping[str, str] = field(default_factory=dict)
    form: str | None = None
    only_columns: bool = False
    method: str | None = None
    shared_labels: bool = False
    sentinel: float | None = None
    scores: tuple[DeclaredScore, ...] = ()
    license: str | None = None
    pseudonymise: bool = False
    shard: Shard | None = None
    whole_files: bool = False

    @property
    def ranges(self) -> Ranges:
        """The ranges of the declared dimensions."""
        return {one.name: (one.low, one.high) for one in self.scores}

    @property
    def format(self) -> Format | None:
        """The format that is named. Raises UsageError where there is none of this name."""
        return format_named(self.form) if self.form else None

    @property
    def told(self) -> Method | None:
        """The method that is named. Raises UsageError where there is none of this name."""
        return method_named(self.method) if self.method else None


def parse_columns(text: str) -> dict[str, str]:
    """ "Chat ID=conversation,Who=speaker" as {"Chat ID": "conversation", …}. Raises UsageError."""
    pairs = [part.rpartition("=") for part in text.split(",")]
    columns = {old.strip(): new.strip() for old, equals, new in pairs if equals}
    known = sorted({key for form in FORMATS for group in form.keys for key in group} | _FURTHER)
    hint = "write --map COLUMN=conversation,COLUMN=speaker,COLUMN=text, or COLUMN=prompt,COLUMN=completion"
    if len(columns) != len(pairs) or not all(columns) or len(set(columns.values())) < len(columns):
        raise UsageError(f"{text!r} is not a map of columns.", hint)
    unknown = [new for new in columns.values() if new not in known]
    if unknown:
        raise UsageError(f"--map names {unknown[0]!r}, which no format has.", f"{hint}; there are {', '.join(known)}")
    return columns


_FURTHER = {
    "turn", "timestamp", "scenario", "tag", "goal", "background", "name", "reward", "value", "system", "action_type",
}  # fmt: skip
