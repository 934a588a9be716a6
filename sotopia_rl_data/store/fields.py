"""Every field of a manifest, with its type and its limits.

A manifest may come from the Hub: it is a stranger's data. `manifest.parse` checks by these classes whatever it reads,
and a stage checks what it writes, so that no code behind them has to. They only check: a manifest's recipe and
provenance stay the dictionaries that they were, because the digest covers the recipe as it was written. Keys of them
that no command reads may hold anything. What is UNSET by default is there with its type or is not there: readers ask
whether it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from sotopia_rl_data.refs import can_name

MOST_BYTES = 16 << 20  # bytes of the file
MOST_DEPTH = 40  # of lists and objects inside each other
MOST_COLUMNS = 2_000  # of a config
MOST_FILES = 99_999  # of a split: their numbers have five digits
MOST = 2**53  # rows of a split, bytes of a file: whole numbers that a double holds exactly


Name = Annotated[str, Meta(max_length=200)]
Number = Annotated[str, Meta(pattern=r"^v(0|[1-9]\d{0,8})(\.(0|[1-9]\d{0,8})){2}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Created = Annotated[str, Meta(pattern=r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00)?\Z")]
Column = Annotated[str, Meta(min_length=1, max_length=1_000)]
ColumnType = Annotated[str, Meta(max_length=100_000)]
Calls = Annotated[str, Meta(pattern=r"^ledger/calls-\d{5}-of-\d{5}\.parquet\Z")]
Word = Annotated[str, Meta(max_length=10_000)]
Text = Annotated[str, Meta(max_length=1_000_000)]
Count = Annotated[int, Meta(ge=0, le=MOST)]
Config = Literal["rewards", "episodes", "attributions", "failures", "trajectories", "truth"]
Part = Literal["train", "validation", "test"]


class _Exact(Struct, forbid_unknown_fields=True):
    """These keys and no others."""


class _Open(Struct):
    """These keys, where they are there; others are not read."""


class FileFields(_Exact):
    path: str
    rows: Count
    size: Count
    sha256: Sha256


class SplitFields(_Exact):
    rows: Count
    digest: Sha256
    files: Annotated[list[FileFields], Meta(min_length=1, max_length=MOST_FILES)]


class SamplingFields(_Open):
    temperature: float | None = None


class PlayerFields(_Open):
    model: Word
    sampling: SamplingFields


class LayoutFields(_Open):
    layout: Word
    template: Word | None = None
    sha256: Word | None = None


class RolloutFields(_Open):
    a: PlayerFields
    b: PlayerFields
    dialect: Word
    turns: int
    seed: int
    prompts: LayoutFields
    swap: bool
    repeat: int
    best_of: int | UnsetType = UNSET
    reward_model: Word | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Drafts are chosen by a reward model, and a reward model chooses among drafts."""
        if (self.best_of is UNSET) != (self.reward_model is UNSET):
            raise ValueError("of best_of and reward_model one is missing")


class JudgeFields(_Open):
    """A judge in the recipe, and in the provenance, where it also has its calls and what they cost."""

    judge: Word
    remark: Text = ""
    evaluates: bool = False
    sampling: dict[Word, Any] | None = None
    forms: dict[Word, int] | None = None
    calls: int | None = None
    returned_models: dict[Word, int] | None = None
    usage: dict[Word, int] | None = None
    cost_usd: float | None = None
    cost: float | None = None
    usd: float | None = None


class LabelsFields(_Open, rename={"schema_": "schema"}):
    schema_: Word
    schema_version: int = 1
    dimensions: list[Word] = []
    evaluator: Word | None = None
    ask: Word = ""
    samples: int = 1
    wording: Word = ""
    judges: list[JudgeFields] = []


class RewardsFields(_Open, rename={"schema_": "schema"}):
    weights: dict[Word, float]
    rule: Word
    normaliser: Word
    average: Word = ""
    evaluator: Word | None = None
    schema_: Word | None = None
    judge: Word | None = None
    sample: int | None = None
    fit: Word = ""
    units: Word = ""
    gamma: float | UnsetType = UNSET


class EvaluationFields(_Open):
    evaluator: Word
    dimensions: list[Word]
    files: list[Word] = []


class GamesFields(_Open):
    seed: int | UnsetType = UNSET
    rules: int | UnsetType = UNSET


class RecipeFields(_Open):
    """What determined the rows."""

    labels: LabelsFields | UnsetType = UNSET
    rewards: RewardsFields | UnsetType = UNSET
    rollout: RolloutFields | UnsetType = UNSET
    replay: dict[Word, PlayerFields | int | Word | None] = {}
    games: GamesFields | UnsetType = UNSET
    layout: LayoutFields | Word | None = None
    scale: int | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    license: Word | UnsetType = UNSET
    weights: dict[Word, float] | None = None
    evaluations: list[EvaluationFields] = []
    scored_by: list[Word] = []


class ParentFields(_Open):
    name: Word
    version: Word
    digest: Word


class SourceFields(_Open):
    format: Word
    files: Count
    bytes: Count
    names: list[Text] = []


class CriterionFields(_Open):
    name: Word
    description: Text
    ends: tuple[int, int] | None = None


class RubricFields(_Open):
    name: Word
    dimensions: list[CriterionFields] = []


class FittedFields(_Open):
    normaliser: Word | None = None
    source: Word | None = None
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    deviation: float | None = None
    count: int | None = None


class BuiltFields(_Open):
    statistics: dict[Word, FittedFields] = {}
    warnings: list[Text] = []


class UnsureFields(_Open):
    """How many rows there are, and how many of them judges were asked about."""

    judged: Count
    rows: Count


class VerdictFields(_Open):
    verdict: Text
    sentence: Text


class CallsFields(_Open):
    path: Calls


class ProvenanceFields(_Open):
    """What else is worth knowing of the rows."""

    command: Word | None = None
    parents: list[ParentFields] = []
    sources: list[SourceFields] = []
    where: Text | None = None
    where_unsure: UnsureFields | None = None
    counts: dict[Word, int] = {}
    dialects: dict[Word, int] = {}
    ended: dict[Text, int] = {}
    judges: list[JudgeFields] = []
    wording_sha256: Word | None = None
    rubric: RubricFields | UnsetType = UNSET
    rewards: BuiltFields | None = None
    failures: dict[Text, int] = {}
    audit: VerdictFields | None = None
    ledger: list[CallsFields] = []
    trajectories: LayoutFields | None = None


class ManifestFields(_Exact):
    """All of `manifest.json`."""

    name: Name
    version: Number
    digest: Sha256
    configs: Annotated[dict[Config, Annotated[dict[Part, SplitFields], Meta(min_length=1)]], Meta(min_length=1)]
    columns: dict[Config, Annotated[dict[Column, ColumnType], Meta(min_length=1, max_length=MOST_COLUMNS)]]
    recipe: RecipeFields
    provenance: ProvenanceFields
    created: Created
    manifest_version: int

    def __post_init__(self) -> None:
        """The parts agree, and files lie where files of their config and split lie, and nowhere else."""
        if not can_name(self.name):
            raise ValueError(f"{self.name!r} is not a possible name of a dataset")
        if self.configs.keys() != self.columns.keys():
            raise ValueError("configs and columns are not of the same configs")
        for config, columns in self.columns.items():
            if not all(text.isprintable() for column in columns.items() for text in column):
                raise ValueError(f"a column of {config} has characters that cannot be printed")
            names = {name.lower() for name in columns} - {"split"}
            if len(names) < len(columns):
                raise ValueError(f"two columns of {config} have the same name, or one is called 'split'")
        for config, splits in self.configs.items():
            for name, split in splits.items():
                _check_files(f"{config}/{name}", split)


def _check_files(stem: str, split: SplitFields) -> None:
    for i, file in enumerate(split.files):
        path = f"{stem}-{i:05d}-of-{len(split.files):05d}.parquet"
        if file.path != path:
            raise ValueError(f"a file of {stem} is {file.path[:200]!r}, but has to be {path!r}")
    rows = sum(file.rows for file in split.files)
    if rows != split.rows:
        raise ValueError(f"{stem} has {split.rows} rows, but its files have {rows}")
