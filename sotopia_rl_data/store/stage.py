"""Where the next version is written before anyone can see it, and the one rename that makes it visible.

    with store.stage("org/name") as stage:
        stage.write("rewards", "train", batches)
        committed = stage.commit(recipe={...}, provenance={...})

A stage is a folder under `STORE/.staging`, locked for as long as its process lives; it is gone when the block ends,
however it ends, and after a `kill -9` the next writer sweeps it. Committing syncs every file and folder, then renames.
A second writer that was faster makes the rename fail, and the number is planned anew.
"""

from __future__ import annotations

import datetime
import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sotopia_rl_data import tables
from sotopia_rl_data.errors import StoreError, UsageError, VersionExists
from sotopia_rl_data.locks import LockedFolder
from sotopia_rl_data.schema import CONFIGS, SPLITS, DataFile, Manifest, Split
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store import readme, versions
from sotopia_rl_data.store.columns import first_line, plain_schema, type_names
from sotopia_rl_data.store.digest import version_digest
from sotopia_rl_data.store.disk import is_full, link_or_copy, store_error, storing, sync_file, write_text
from sotopia_rl_data.store.parts import Limits, Part, adopt, read_parquet, shard_name
from sotopia_rl_data.store.versions import Version, load

_KNOWN = {"episodes": tables.EPISODES, "attributions": tables.ATTRIBUTIONS, "failures": tables.FAILURES}


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit left: the version, and whether it is new (False: the store already had this content)."""

    version: Version
    created: bool


class Stage:
    """The next version of `name` in the store at `root`, on its way. Use as a context manager; see the module."""

    def __init__(self, root: Path, name: str, limits: Limits | None = None) -> None:
        self.name = name
        self._root, self._limits = root, limits or Limits()
        self._schemas: dict[str, pa.Schema] = {}
        self._parts: dict[tuple[str, str], Part] = {}
        self._files: dict[tuple[str, str], Path] = {}
        self._linked: dict[tuple[str, str], tuple[Version, Split]] = {}

    def __enter__(self) -> Stage:
        with storing(self._root):
            self._folder = LockedFolder(self._root / ".staging", self.name.replace("/", "--"))
        self.dir = self._folder.dir
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self._parts.values():
            part.abandon()
        self._folder.release()
        if isinstance(error, OSError) and (is_full(error) or str(error.filename).startswith(str(self.dir))):
            raise store_error(error, self._root) or error from error

    def write(
        self, config: str, split: str, rows: pa.Table | pa.RecordBatch | Iterable[pa.Table | pa.RecordBatch]
    ) -> None:
        """Add rows to `config`/`split`, in any order and any number of calls; they are streamed to disk.

        The first table of a config sets its columns (episodes, attributions and failures have theirs). Raises
        InputError where rows do not fit, repeat an identity, or hold NaN; StoreError where the disk cannot take them.
        """
        self._check(config, split)
        if config in _KNOWN:
            self._part(config, split, _KNOWN[config])
        for table in [rows] if isinstance(rows, pa.Table | pa.RecordBatch) else rows:
            table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
            with storing(self._root):  # not around the loop: what reading `rows` raises is not about the store
                self._part(config, split, table.schema).write(table)

    def sorted_file(self, config: str, split: str) -> Path:
        """Where to write a Parquet file (zstd, sorted by `tables.KEYS`) that becomes `config`/`split` as it lies.

        It is checked when committing; one that is not in order, or not in plain types, is written anew. A path where
        nothing was written stands for no rows.
        """
        self._check(config, split)
        path = self.dir / config / f".{split}-given.parquet"
        with storing(self._root):
            path.parent.mkdir(exist_ok=True)
        self._files[config, split] = path
        return path

    def link(self, version: Version, config: str) -> None:
        """Take `config` over from `version` as it is: hard links, or copies on another device."""
        for split in version.files(config):  # raises NotFound where it has no such config
            self._check(config, split)
            one = version.manifest.configs[config][split]
            for file in one.files:
                if not _whole(version, file):
                    raise StoreError(
                        f"{version.ref} is damaged: {file.path} is missing or has another size.",
                        f"sotopia-rl-data verify {version.ref}",
                    )
            self._linked[config, split] = (version, one)

    def commit(
        self, recipe: Mapping[str, Any], provenance: Mapping[str, Any] | None = None, version: str | None = None
    ) -> Committed:
        """Make what was written a version, or find that the store already has it.

        `recipe` is what determines the rows (part of the digest); `provenance` what is worth knowing besides. `version`
        overrides the number. Raises VersionExists where that number has other content, StoreError where the disk is
        full or read-only; the store is then as it was.
        """
        with storing(self._root):
            draft = self._draft(manifests.plain(recipe, "recipe"), manifests.plain(provenance or {}, "provenance"))
            wanted = versions.check(version) if version else None
            while True:
                there = versions.in_folder(self._root / self.name)
                latest = load(there[-1]) if there else None
                found = self._same(draft, latest, wanted)
                if found is not None:
                    return Committed(found, False)
                number = wanted or versions.spelled(versions.following(latest.manifest if latest else None, draft))
                draft = replace(self._reuse(draft, latest) if latest else draft, version=number)
                target = self._publish(draft, latest)
                if target is not None:
                    return Committed(load(target), True)

    def _check(self, config: str, split: str) -> None:
        if config not in CONFIGS or split not in SPLITS:
            raise UsageError(
                f"A dataset has no {config}/{split}.", f"configs: {', '.join(CONFIGS)}; splits: {', '.join(SPLITS)}"
            )
        if any((config, split) in given for given in (self._files, self._linked)):
            raise UsageError(
                f"{config}/{split} was already given as a whole.", "write rows, hand in a file, or link: one of them"
            )

    def _part(self, config: str, split: str, schema: pa.Schema) -> Part:
        if (config, split) not in self._parts:
            plain = self._schemas.setdefault(config, plain_schema(schema))
            self._parts[config, split] = Part(self.dir, config, split, plain, self._limits)
        return self._parts[config, split]

    def _draft(self, recipe: dict[str, Any], provenance: dict[str, Any]) -> Manifest:
        """Finish every file; the manifest but for its version."""
        configs: dict[str, dict[str, Split]] = {}
        columns: dict[str, dict[str, str]] = {}
        for (config, split), path in self._files.items():
            if not path.exists():
                continue
            configs.setdefault(config, {})[split] = self._adopted(config, split, path)
        for (config, split), part in self._parts.items():
            configs.setdefault(config, {})[split] = part.finish()
        columns |= {config: type_names(schema) for config, schema in self._schemas.items()}
        for (config, split), (source, one) in self._linked.items():
            configs.setdefault(config, {})[split] = one
            columns[config] = dict(source.manifest.columns[config])
            self._place(source, one)
        if not configs:
            raise UsageError(f"Nothing was written for {self.name}.", "write at least one config")
        kept = {c: self._kept(c, configs[c]) for c in CONFIGS if c in configs}
        digest = version_digest(manifests.split_digests(kept), recipe)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return Manifest(self.name, "", digest, kept, {c: columns[c] for c in kept}, recipe, provenance, now)

    def _adopted(self, config: str, split: str, path: Path) -> Split:
        try:
            schema = plain_schema(pq.read_schema(path))
        except pa.ArrowInvalid as error:
            raise StoreError(
                f"What was written for {config}/{split} is not a Parquet file ({first_line(error)}).",
                "run the command again; nothing was kept",
            ) from error
        if self._schemas.setdefault(config, schema) == schema:
            split_ = adopt(path, config, shard_name(split, 0, 1), self._limits)
            if split_ is not None:
                return split_
        part = self._parts[config, split] = Part(self.dir, config, split, self._schemas[config], self._limits)
        for rows in read_parquet(path):
            part.write(rows)
        path.unlink()
        return self._parts.pop((config, split)).finish()

    def _kept(self, config: str, splits: Mapping[str, Split]) -> dict[str, Split]:
        """The splits that have rows, in their usual order; where none has, an empty `train`, so SQL finds it."""
        ordered = {s: splits[s] for s in SPLITS if s in splits}
        keep = {s: one for s, one in ordered.items() if one.rows}
        if not keep:
            first, one = next(iter(ordered.items()))
            keep = {"train": self._renamed(config, first, one)}
        for split in ordered.keys() - keep.keys():
            for file in ordered[split].files:
                (self.dir / file.path).unlink(missing_ok=True)
        return keep

    def _renamed(self, config: str, split: str, one: Split) -> Split:
        if split == "train":
            return one
        path = f"{config}/{shard_name('train', 0, 1)}"
        (self.dir / one.files[0].path).rename(self.dir / path)
        return replace(one, files=(replace(one.files[0], path=path),))

    def _same(self, draft: Manifest, latest: Version | None, wanted: str | None) -> Version | None:
        """The version that already has this content: the latest, or the one whose number is wanted."""
        if wanted is None:
            return latest if latest is not None and latest.digest == draft.digest else None
        path = self._root / self.name / wanted
        if path not in versions.in_folder(path.parent):
            return None
        taken = load(path)
        if taken.digest == draft.digest:
            return taken
        free = versions.spelled(versions.following(latest.manifest if latest else None, draft))
        raise VersionExists(
            f"{self.name}@{wanted} exists with other content.", f"--version {free}, or leave --version out"
        )

    def _publish(self, draft: Manifest, latest: Version | None) -> Path | None:
        """Write what is left, sync, rename. None where another writer took the number first."""
        card = readme.render(draft, readme.read(latest.dir) if latest else "")
        write_text(self.dir / manifests.FILE_NAME, manifests.dump(draft))
        write_text(self.dir / readme.FILE_NAME, card)
        shutil.rmtree(self.dir / ".runs", ignore_errors=True)
        return place(self.dir, self._root, draft)

    def _reuse(self, draft: Manifest, before: Version) -> Manifest:
        """Links to the files of `before` wherever a split has the same rows."""
        configs = {c: dict(splits) for c, splits in draft.configs.items()}
        for config, splits in configs.items():
            for split, one in splits.items():
                same = before.manifest.configs.get(config, {}).get(split)
                if (
                    same is None
                    or same.digest != one.digest
                    or before.manifest.columns[config] != draft.columns[config]
                ):
                    continue
                if not all(_whole(before, file) for file in same.files):
                    continue  # damaged there: ours is good
                for file in one.files:
                    (self.dir / file.path).unlink()
                self._place(before, same)
                splits[split] = same
        return replace(draft, configs=configs)

    def _place(self, source: Version, split: Split) -> None:
        for file in split.files:
            target = self.dir / file.path
            target.parent.mkdir(exist_ok=True)
            link_or_copy(source.dir / file.path, target)


def place(folder: Path, root: Path, manifest: Manifest) -> Path | None:
    """Make the finished `folder` the version of the store at `root` that `manifest` says it is: sync it, rename it.

    None where another writer took the number first. Raises StoreError where something that is not a version is there.
    """
    for inner in (*(folder / config for config in manifest.configs), folder):
        sync_file(inner)
    target = root / manifest.name / manifest.version
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        if not (target / manifests.FILE_NAME).is_file():
            raise StoreError(
                f"{target} is in the way: it is not a version (no {manifests.FILE_NAME}).", f"move or remove {target}"
            ) from error
        return None
    for outer in (target.parent, target.parent.parent, root):
        sync_file(outer)
    return target


def _whole(version: Version, file: DataFile) -> bool:
    """Is the file there, in its size? (`verify` reads it all.)"""
    path = version.dir / file.path
    return path.is_file() and path.stat().st_size == file.size
