"""The core of `import`: files in, a version of the store out.

Episodes become a version of episodes, with the attributions of annotated files; training rows become a version of
rewards alone. The two are never mixed. `batches.py` writes them, in bounded memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from sotopia_rl_data import tables
from sotopia_rl_data.dimensions import in_order
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.importers.batches import REWARDS, USUAL_SENTINEL, Batches, MetaFound, RowFilter
from sotopia_rl_data.importers.files import ImportPlan, Source, plan
from sotopia_rl_data.importers.formats import EXAMPLES, PEOPLES, annotated
from sotopia_rl_data.importers.formats.format import Item, Located, TrainingRow
from sotopia_rl_data.importers.opinions import AnnotatedFiles, FileMethod, opinions_of
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.importers.own_scores import with_scores
from sotopia_rl_data.importers.pseudonyms import NamesFound, key_of, with_pseudonyms
from sotopia_rl_data.importers.reading import read_plan
from sotopia_rl_data.importers.splits import empty_splits
from sotopia_rl_data.refs import DatasetRef
from sotopia_rl_data.schema import Episode, Failure
from sotopia_rl_data.shards import Shard
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.stage import Committed

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Check = Callable[[Set[tuple[str, str]] | None], object]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. `failures` counts the rows of that config; `rejected` has the first hundred of them.

    `duplicates` counts episodes that were read again, in the same or another format. `filtered` counts rows that the
    condition left out. `skipped` are files in folders that are of no known format. `splits` counts
    episodes or training rows, and `scored` names the dimensions on which there are scores. `methods` says how each
    annotated file was read. `pseudonyms` counts the speakers who have one, the names that were replaced in texts, and
    the words left that are also names.
    """

    version: Version
    created: bool
    episodes: int
    utterances: int
    examples: int
    attributions: int
    failures: int
    rejected: tuple[Failure, ...]
    duplicates: int
    filtered: int
    dialects: Mapping[str, int]
    skipped: tuple[str, ...]
    splits: Mapping[str, int]
    scored: tuple[str, ...]
    methods: tuple[FileMethod, ...]
    warnings: tuple[str, ...]
    pseudonyms: Mapping[str, int]


def import_dataset(
    store: Store,
    paths: Sequence[str | Path],
    name: str | DatasetRef,
    *,
    options: ImportOptions | None = None,
    progress: Progress | None = None,
    check: Check | None = None,
) -> ImportReport:
    """Import `paths` into the store as the next version of `name`; a reference with a version names that one.

    `progress(done, total)` counts bytes. `check` is called before the commit with the (dimension, evaluator) pairs of
    the episodes' scores (None for training rows), and may raise. Raises InputError where a path has nothing to import,
    QueryError for a wrong `where`, UsageError where episodes and training rows are mixed or an option is wrong, and
    whatever committing raises. After an error the store is unchanged.
    """
    options = options or ImportOptions()
    import_plan = plan(paths, options.columns, options.format, options.only_columns)
    for source in import_plan.sources:
        log.info("%s is read as %s", source.path, source.kind)
    ref = name if isinstance(name, DatasetRef) else DatasetRef(name)
    opinions = opinions_of(import_plan, options.told, options.shared_labels)
    run = _Import(store, import_plan, ref, options, opinions, check)
    try:
        committed, batches = run.commit(tables.EPISODES, progress)
    except MetaFound:  # the columns of `episodes` are known only now, and rows are written already
        run = replace(run, found=NamesFound())
        committed, batches = run.commit(tables.EPISODES_WITH_META, progress)
    counts = batches.counts
    return ImportReport(
        version=committed.version,
        created=committed.created,
        episodes=counts["episodes"],
        utterances=counts["utterances"],
        examples=counts["examples"],
        attributions=counts["attributions"],
        failures=counts["failures"],
        rejected=tuple(batches.rejected),
        duplicates=counts["duplicates"],
        filtered=counts["filtered"],
        dialects=dict(batches.dialects),
        skipped=import_plan.skipped,
        splits=dict(batches.split_sizes),
        scored=in_order({dimension for dimension, _ in batches.scored}),
        methods=tuple(opinions.methods),
        warnings=(
            *import_plan.warnings,
            *opinions.warnings,
            *_told_of_shared_labels(batches),
            *_told_of_sentinels(batches, options),
            *_told_of_map(import_plan, options),
            *empty_splits(batches.split_sizes, batches.environments, batches.episodes, options),
        ),
        pseudonyms=run.found.counts() if options.pseudonymise else {},
    )


def check_import(paths: Sequence[str | Path], where: str | None) -> None:
    """Raises what `import_dataset` raises for paths with nothing to import and for a wrong `where`, before anything is
    read or written."""
    is_training = _holds_training_rows(plan(paths))
    if where is not None:
        RowFilter(where, REWARDS if is_training else tables.EPISODES).close()


@dataclass(frozen=True, slots=True)
class _Import:
    """One import: a plan, and where it goes to."""

    store: Store
    plan: ImportPlan
    ref: DatasetRef
    options: ImportOptions
    opinions: AnnotatedFiles
    check: Check | None
    found: NamesFound = field(default_factory=NamesFound)

    def commit(self, columns: pa.Schema, progress: Progress | None) -> tuple[Committed, Batches]:
        """Read everything and commit it; `columns` are those of the episodes. Raises MetaFound where they have no room
        for the `meta` of an episode."""
        is_training = _holds_training_rows(self.plan)
        if is_training and self.options.split_by == "episode":
            raise UsageError(
                "Training rows do not name their episode, so they cannot be split by it.",
                "leave --split-by out: they are split by scenario",
            )
        if self.options.sentinel is not None and not is_training:
            raise UsageError(
                "--sentinel says which reward of training rows stands for none, and there are none of them.",
                "leave --sentinel out: annotated rows say themselves where a label is missing",
            )
        where, hashes = self.options.where, dict[Source, str]()
        rows = None if where is None else RowFilter(where, REWARDS if is_training else columns)
        with rows or nullcontext(), self.store.stage(self.ref.name) as stage:
            align = annotated.FORMAT in self.plan.formats
            batches = Batches(stage, rows, self.options, columns, align=align)
            read = read_plan(
                self.plan,
                ranges=self.options.ranges,
                opinions=self.opinions,
                on_progress=progress,
                on_file=hashes.__setitem__,
                whole_files=self.options.whole_files,
            )
            shard = self.options.shard
            for item, record in self._treated(read):
                if shard is None or _belongs_to(shard, item):
                    batches.add(item, record)
            batches.finish()
            self._check_map()
            if shard is not None and shard.count > 1:  # a part may be empty
                config, empty = ("rewards", REWARDS) if is_training else ("episodes", columns)
                stage.write(config, "train", empty.empty_table())
            elif not batches.counts["episodes"] + batches.counts["examples"]:
                raise _nothing_imported(batches)
            if self.check is not None:
                self.check(None if is_training else batches.scored)
            recipe = self._recipe(is_training)
            return stage.commit(recipe, self._provenance(batches, hashes), self.ref.version), batches

    def _check_map(self) -> None:
        """Raises InputError for a column of the map that no record has, unless rows may lack it."""
        needed = [column for column in _unused(self.plan, self.options) if self.options.columns[column] != "reward"]
        if needed:
            raise InputError(
                f"No record has anything in the column {needed[0]!r}, which --map names.",
                "see how the records are read: run the same command with --dry-run",
            )

    def _treated(self, located: Located) -> Located:
        """The items with the scores and under the names that the options ask for."""
        scored = with_scores(located, self.options.scores)
        if not self.options.pseudonymise:
            return scored
        marked = annotated.FORMAT in self.plan.formats
        return with_pseudonyms(scored, key_of(self.store.folder_for("Pseudonyms do")), self.found, annotated=marked)

    def _recipe(self, is_training: bool) -> dict[str, Any]:
        """What determines the rows and what must be known of them wherever they go."""
        options, recipe = self.options, {"kind": "examples" if is_training else "episodes", "seed": self.options.seed}
        people = any(form in PEOPLES for form in self.plan.formats)
        more = {
            "split_by": options.split_by if options.split_by != "environment" else None,
            "license": options.license,
            "speakers": "pseudonyms" if options.pseudonymise else "named" if people else None,
        }
        return recipe | {name: value for name, value in more.items() if value is not None}

    def _provenance(self, batches: Batches, hashes: Mapping[Source, str]) -> dict[str, Any]:
        scores = {one.name: [one.low, one.high] for one in self.options.scores}
        told = {
            "map": dict(self.options.columns),
            "format": self.options.form,
            "sentinel": self.options.sentinel,
            "scores": scores,
            "shared_labels": self.options.shared_labels,
            "shard": None if self.options.shard is None else str(self.options.shard),
            "methods": [{"file": one.file, "method": one.method} for one in self.opinions.methods],
        }
        return {
            "command": "import",
            "sources": _sources(self.plan, hashes),
            "where": self.options.where,
            "counts": dict(sorted(batches.counts.items())),
            "dialects": dict(sorted(batches.dialects.items())),
            "skipped": list(self.plan.skipped),
            **{name: value for name, value in told.items() if value not in (None, {}, []) and value is not False},
        }


def _belongs_to(shard: Shard, item: Item) -> bool:
    """Whether an item is imported with this part."""
    if isinstance(item, TrainingRow):
        return shard.has(repr((item.prompt, item.completion)))
    if isinstance(item, Episode):
        return shard.has(item.episode_id)
    return shard.has(item.episode_id or getattr(item, "source", None) or "")


def _told_of_shared_labels(batches: Batches) -> list[str]:
    """How many labels stand for two utterances and were left out."""
    shared = batches.counts["shared labels"]
    told = f"labels that stand for two utterances in a row were left out ({shared:,})"
    return [f"{told}; --shared-labels keeps them, for the later utterance"] if shared else []


def _told_of_sentinels(batches: Batches, options: ImportOptions) -> list[str]:
    """How many rewards were the sentinel, or may be one although nobody has said so."""
    sentinels, usual = batches.counts["sentinels"], batches.counts["usual sentinels"]
    rows = batches.counts["examples"] + batches.counts["filtered"]
    if options.sentinel is not None:
        return [f"{sentinels:,} of {rows:,} rewards were {options.sentinel:g}, the sentinel: they are NULL"]
    if not usual:
        return []
    told = f"{usual:,} of {rows:,} rewards are exactly {USUAL_SENTINEL:g}, and are kept as they are"
    return [f"{told}; where that stands for no label, import again with --sentinel {USUAL_SENTINEL:g}"]


def _unused(import_plan: ImportPlan, options: ImportOptions) -> list[str]:
    """The columns of the map in which no record has anything."""
    return sorted(options.columns.keys() - set[str]().union(*(source.used for source in import_plan.sources)))


def _told_of_map(import_plan: ImportPlan, options: ImportOptions) -> list[str]:
    """Which column of rewards is empty, or not there at all: rows may lack a reward."""
    return [
        f"no record has anything in the column {column!r}, which --map names as {options.columns[column]}"
        for column in _unused(import_plan, options)
    ]


def _holds_training_rows(import_plan: ImportPlan) -> bool:
    """True for training rows, False for episodes. Raises UsageError for both at once."""
    examples = import_plan.formats & EXAMPLES
    if examples and import_plan.formats - EXAMPLES:
        raise UsageError(
            "Training rows and episodes cannot be in one dataset, because training rows do not name their episode.",
            "import them with two commands, under two names",
        )
    return bool(examples)


def _nothing_imported(batches: Batches) -> InputError:
    if batches.counts["filtered"]:
        return InputError(
            f"None of the {batches.counts['filtered']:,} records meets the condition.",
            "loosen the condition",
        )
    first = batches.rejected[0] if batches.rejected else Failure("it holds no record")
    counted = f"None of {batches.counts['failures']:,} records could be imported"
    return InputError(
        f"{counted}; {first.source}: {first.reason}", "sotopia-rl-data import --help says which formats it reads"
    )


def _sources(import_plan: ImportPlan, hashes: Mapping[Source, str]) -> list[dict[str, Any]]:
    """What was read, by format: the number of files and bytes, and a hash of their names and contents."""
    by_kind: dict[str, list[Source]] = {}
    for source in import_plan.sources:
        by_kind.setdefault(source.kind, []).append(source)
    entries = []
    for kind, sources in sorted(by_kind.items()):
        contents = "".join(f"{source.label}\0{hashes[source]}\n" for source in sources)
        entries.append(
            {
                "format": kind,
                "files": len(sources),
                "bytes": sum(source.size for source in sources),
                "sha256": hashlib.sha256(contents.encode()).hexdigest(),
                "names": [source.label for source in sources[:10]],
            }
        )
    return entries
