"""Where the next version is written before it can be seen, and the rename that makes it visible.

    with store.stage("org/name") as stage:
        stage.write("rewards", "train", batches)
        committed = stage.commit(recipe={...}, provenance={...})

A stage is a folder under `STORE/.staging`, locked for as long as its process lives. It is removed when the block ends,
however it ends; after a `kill -9` the next writer removes it. Committing syncs every file and folder, then renames the
folder. If another writer was faster, the rename fails, and the next free number is tried.
"""

from __future__ import annotations

import datetime
import errno
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from sotopia_rl_data.store.mirror import Mirror

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Committed:
    """The result of a commit: the version, and whether it is new (False: the store already had this content)."""

    version: Version
    created: bool


class Stage:
    """The next version of `name` in the store at `root`, while it is written. Use it as a context manager."""

    def __init__(self, root: Path, name: str, limits: Limits | None = None, mirror: Mirror | None = None) -> None:
        self.name, self._mirror = name, mirror
        self._root, self._limits = root, limits or Limits()
        self._schemas: dict[str, pa.Schema] = {}
        self._parts: dict[tuple[str, str], Part] = {}
        self._files: dict[tuple[str, str], Path] = {}
        self._linked: dict[tuple[str, str], tuple[Version, Split]] = {}

    def __enter__(self) -> Stage:
        if self._mirror is not None:
            self._mirror.refresh(self.name)  # a bucket that is away, or refuses, is told before anything is made for it
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

        The first table of a config sets its columns (only `rewards` and `trajectories` have others in
        every dataset; episodes may have `meta`). Raises
        InputError where rows do not fit, repeat an identity, or hold NaN; StoreError where the disk cannot take them.
        """
        self._check(config, split)
        if config in tables.KNOWN:
            with_meta = isinstance(rows, pa.Table | pa.RecordBatch) and "meta" in rows.schema.names
            self._part(config, split, tables.EPISODES_WITH_META if with_meta else tables.KNOWN[config])
        for table in [rows] if isinstance(rows, pa.Table | pa.RecordBatch) else rows:
            table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
            with storing(self._root):  # inside the loop, because an OSError from reading `rows` is not the store's
                self._part(config, split, table.schema).write(table)
                self._spill()

    def sorted_file(self, config: str, split: str) -> Path:
        """Where to write a Parquet file (zstd, sorted by `tables.KEYS`) that becomes `config`/`split` unchanged.

        The file is checked when committing; it is written again if it is not in order, or not in plain types. If
        nothing is written there, the split has no rows.
        """
        self._check(config, split)
        path = self.dir / config / f".{split}-given.parquet"
        with storing(self._root):
            path.parent.mkdir(exist_ok=True)
        self._files[config, split] = path
        return path

    def link(self, version: Version, config: str) -> None:
        """Take `config` over from `version` as it is: hard links, or copies on another device."""
        for split in version.files(config):  # raises NotFound where `version` has no such config
            self._check(config, split)
            listed = version.manifest.configs[config][split]
            for file in listed.files:
                if not _whole(version, file):
                    raise StoreError(
                        f"{version.ref} is damaged: its file {file.path} is missing or does not have its listed size.",
                        f"see all that is wrong with it: sotopia-rl-data verify {version.ref}",
                    )
            self._linked[config, split] = (version, listed)

    def commit(
        self,
        recipe: Mapping[str, Any],
        provenance: Mapping[str, Any] | None = None,
        version: str | None = None,
        completes: bool = False,
    ) -> Committed:
        """Make the stage a version, or return the version of the store with the same content.

        `recipe` determines the rows and is part of the digest; `provenance` is everything else worth knowing. `version`
        overrides the number. With `completes` the latest version, if it has the same content but lacks a derived config
        of the stage, is followed by one that has it. Raises VersionExists where that number has other content,
        StoreError where the disk is full or read-only; the store is then unchanged.
        """
        with storing(self._root):
            draft = self._draft(manifests.plain(recipe, "recipe"), manifests.plain(provenance or {}, "provenance"))
            pinned = versions.check(version) if version else None
            while True:
                if self._mirror is not None:
                    self._mirror.refresh(self.name)
                directories = versions.in_folder(self._root / self.name)
                latest = load(directories[-1], self._mirror) if directories else None
                same = self._same(draft, latest, pinned)
                if same is not None:
                    lacking = draft.configs.keys() - same.manifest.configs.keys()
                    if not (completes and lacking and pinned is None):
                        return Committed(same, False)
                number = pinned or versions.spelled(versions.following(latest.manifest if latest else None, draft))
                draft = replace(self._reuse(draft, latest) if latest else draft, version=number)
                target = self._publish(draft, latest)
                if target is not None:
                    return Committed(load(target, self._mirror), True)

    def _check(self, config: str, split: str) -> None:
        if config not in CONFIGS or split not in SPLITS:
            raise UsageError(
                f"A dataset cannot have rows of {config}/{split}.",
                f"name one of the configs {', '.join(CONFIGS)}, and one of the splits {', '.join(SPLITS)}",
            )
        if (config, split) in self._files or (config, split) in self._linked:
            raise UsageError(
                f"The rows of {config}/{split} were already given as a whole, by a file or a link.",
                "use only one of `write`, `sorted_file` and `link` for a split",
            )

    def _spill(self) -> None:
        """Write the part that has most rows in memory, once all of them together hold more than a row group."""
        if sum(part.waiting_bytes for part in self._parts.values()) > self._limits.group_bytes:
            max(self._parts.values(), key=lambda part: part.waiting_bytes).spill()

    def _part(self, config: str, split: str, schema: pa.Schema) -> Part:
        if (config, split) not in self._parts:
            plain = self._schemas.setdefault(config, plain_schema(schema))
            self._parts[config, split] = Part(self.dir, config, split, plain, self._limits)
        return self._parts[config, split]

    def _draft(self, recipe: dict[str, Any], provenance: dict[str, Any]) -> Manifest:
        """Finish every file; returns the manifest without its version."""
        configs: dict[str, dict[str, Split]] = {}
        columns: dict[str, dict[str, str]] = {}
        for (config, split), path in self._files.items():
            if not path.exists():
                continue
            configs.setdefault(config, {})[split] = self._adopted(config, split, path)
        for (config, split), part in self._parts.items():
            configs.setdefault(config, {})[split] = part.finish()
        columns |= {config: type_names(schema) for config, schema in self._schemas.items()}
        for (config, split), (source, linked) in self._linked.items():
            configs.setdefault(config, {})[split] = linked
            columns[config] = dict(source.manifest.columns[config])
            self._place(source, linked)
        if not configs:
            raise UsageError(f"The new version of {self.name} has no rows of any config.", "write rows first")
        kept = {config: self._kept(config, configs[config]) for config in CONFIGS if config in configs}
        digest = version_digest(manifests.split_digests(kept), recipe)
        columns = {config: columns[config] for config in kept}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return Manifest(self.name, "", digest, kept, columns, recipe, provenance, now)

    def _adopted(self, config: str, split: str, path: Path) -> Split:
        try:
            schema = plain_schema(pq.read_schema(path))
        except pa.ArrowInvalid as error:
            raise StoreError(
                f"The file written for {config}/{split} is not a Parquet file: {first_line(error)}.",
                "run the command again; the store is unchanged",
            ) from error
        if self._schemas.setdefault(config, schema) == schema:
            adopted = adopt(path, config, shard_name(split, 0, 1), self._limits)
            if adopted is not None:
                return adopted
        part = self._parts[config, split] = Part(self.dir, config, split, self._schemas[config], self._limits)
        for rows in read_parquet(path):
            part.write(rows)
        path.unlink()
        return self._parts.pop((config, split)).finish()

    def _kept(self, config: str, splits: Mapping[str, Split]) -> dict[str, Split]:
        """The splits that have rows, in their usual order; where none has, an empty `train`, so that SQL finds it."""
        ordered = {name: splits[name] for name in SPLITS if name in splits}
        keep = {name: split for name, split in ordered.items() if split.rows}
        if not keep:
            first, empty = next(iter(ordered.items()))
            keep = {"train": self._as_train(config, first, empty)}
        for name in ordered.keys() - keep.keys():
            for file in ordered[name].files:
                (self.dir / file.path).unlink(missing_ok=True)
        return keep

    def _as_train(self, config: str, name: str, split: Split) -> Split:
        if name == "train":
            return split
        path = f"{config}/{shard_name('train', 0, 1)}"
        (self.dir / split.files[0].path).rename(self.dir / path)
        return replace(split, files=(replace(split.files[0], path=path),))

    def _same(self, draft: Manifest, latest: Version | None, pinned: str | None) -> Version | None:
        """The version that already has this content: the latest, or the version with the `pinned` number."""
        if pinned is None:
            return latest if latest is not None and latest.digest == draft.digest else None
        path = self._root / self.name / pinned
        if path not in versions.in_folder(path.parent):
            return None
        taken = load(path, self._mirror)
        if taken.digest == draft.digest:
            return taken
        free = versions.spelled(versions.following(latest.manifest if latest else None, draft))
        raise VersionExists(
            f"{self.name}@{pinned} exists with other content, and a version never changes.",
            f"write --version {free}, or leave --version out",
        )

    def _publish(self, draft: Manifest, latest: Version | None) -> Path | None:
        """Write manifest and README, sync, rename. None where another writer took the number first."""
        card = readme.render(draft, readme.read(latest.dir) if latest else "")
        write_text(self.dir / manifests.FILE_NAME, manifests.dump(draft))
        write_text(self.dir / readme.FILE_NAME, card)
        shutil.rmtree(self.dir / ".runs", ignore_errors=True)
        return place(self.dir, self._root, draft, self._mirror)

    def _reuse(self, draft: Manifest, before: Version) -> Manifest:
        """Replace files by links to those of `before` wherever a split has the same rows."""
        configs = {config: dict(splits) for config, splits in draft.configs.items()}
        for config, splits in configs.items():
            for name, split in splits.items():
                same = before.manifest.configs.get(config, {}).get(name)
                if (
                    same is None
                    or same.digest != split.digest
                    or before.manifest.columns[config] != draft.columns[config]
                ):
                    continue
                if not all(_whole(before, file) for file in same.files):
                    continue  # files of `before` are missing or cut short, so the new files are kept
                for file in split.files:
                    (self.dir / file.path).unlink()
                self._place(before, same)
                splits[name] = same
        return replace(draft, configs=configs)

    def _place(self, source: Version, split: Split) -> None:
        for file in split.files:
            target = self.dir / file.path
            target.parent.mkdir(exist_ok=True)
            link_or_copy(source.dir / file.path, target)


def place(folder: Path, root: Path, manifest: Manifest, mirror: Mirror | None = None) -> Path | None:
    """Sync the finished `folder` and rename it into the store at `root`, as the version that `manifest` describes; or
    have the `mirror` of a store in a bucket publish it.

    None where another writer took the number first. Raises StoreError where something else is at the version's path.
    """
    if mirror is not None:
        return mirror.publish(folder, manifest)
    for inner in (*(folder / config for config in manifest.configs), folder):
        sync_file(inner)
    target = root / manifest.name / manifest.version
    try:
        while True:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                folder.chmod(target.parent.stat().st_mode & 0o777)  # who may read the dataset may read its versions
                os.rename(folder, target)
                break
            except FileNotFoundError:  # the dataset's folder went to the trash just now
                if not folder.is_dir():
                    raise
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        if not (target / manifests.FILE_NAME).is_file():
            raise StoreError(
                f"The new version cannot be moved to {target}: a folder without a {manifests.FILE_NAME} is in the way.",
                f"move or remove {target}, and run the command again",
            ) from error
        return None
    for outer in (target.parent, target.parent.parent, root):
        sync_file(outer)
    log.info("wrote %s@%s to %s", manifest.name, manifest.version, target)
    return target


def _whole(version: Version, file: DataFile) -> bool:
    """Whether the file exists and has its size. (`verify` reads all of it.)"""
    path = version.dir / file.path
    return path.is_file() and path.stat().st_size == file.size
