"""Whether a version is still what its manifest says. Every file is read: size, SHA-256, rows, their order and digest.

Problems are returned, not raised, so that one damaged file does not hide the next. A file that is not listed and that
`load_dataset` would read counts as a problem too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.hashing import file_sha256
from sotopia_rl_data.schema import DataFile, Split
from sotopia_rl_data.store import Version, readme
from sotopia_rl_data.store.columns import first_line, type_names
from sotopia_rl_data.store.digest import RowDigest, version_digest
from sotopia_rl_data.store.manifest import listed_files, split_digests
from sotopia_rl_data.store.ordering import InOrder
from sotopia_rl_data.store.parts import read_parquet


@dataclass(frozen=True, slots=True)
class Verification:
    """What was read, and its `problems`: none where the version is whole."""

    ref: str
    files: int
    bytes: int
    rows: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the version is what its manifest says."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"ok": self.ok}


def verify(version: Version, on_file: Callable[[DataFile], None] | None = None) -> Verification:
    """Read all of `version` and compare it with its manifest; `on_file` is called after each file (progress)."""
    problems: list[str] = []
    files = list(listed_files(version.manifest))
    for config, splits in version.manifest.configs.items():
        for name, split in splits.items():
            problems += _split(version, config, name, split, on_file or (lambda _: None))
    if version_digest(split_digests(version.manifest.configs), version.manifest.recipe) != version.digest:
        problems.append("manifest.json: the digest is not that of the listed splits and the recipe")
    problems += _strays(version.dir, {file.path for file in files})
    problems += _readme(version)
    rows = sum(split.rows for splits in version.manifest.configs.values() for split in splits.values())
    return Verification(version.ref, len(files), sum(file.size for file in files), rows, tuple(problems))


def _split(
    version: Version, config: str, name: str, split: Split, on_file: Callable[[DataFile], None]
) -> Iterator[str]:
    """The problems of one split: those of its files, and if there are none, those of its rows."""
    damaged = False
    for file in split.files:
        for problem in _file(version.dir / file.path, file):
            damaged = True
            yield f"{file.path}: {problem}"
        on_file(file)
    if damaged:
        return
    try:
        for problem in _rows(version, config, split, version.manifest.columns[config]):
            yield f"{config}/{name}: {problem}"
    except (OSError, pa.ArrowException, InputError) as error:
        yield f"{config}/{name}: unreadable ({first_line(error)})"


def _file(path: Path, file: DataFile) -> Iterator[str]:
    try:
        size, sha256 = path.stat().st_size, file_sha256(path)
    except OSError as error:
        yield f"{error.strerror}"
        return
    if size != file.size:
        yield f"{size} bytes, not {file.size}"
    elif sha256 != file.sha256:
        yield f"SHA-256 {sha256[:12]}…, not {file.sha256[:12]}…"


def _rows(version: Version, config: str, split: Split, columns: Mapping[str, str]) -> Iterator[str]:
    digest: RowDigest | None = None
    ordered = True
    for file in split.files:
        before = digest.rows if digest else 0
        for rows in read_parquet(version.dir / file.path):
            if digest is None:
                digest, order = RowDigest(rows.schema), InOrder.of(config, rows.schema)
                if type_names(rows.schema) != columns:
                    yield f"columns {type_names(rows.schema)}, not {dict(columns)}"
            digest.update(rows)
            ordered = ordered and order.takes(rows)
        if (digest.rows if digest else 0) - before != file.rows:
            yield f"{file.path} has {(digest.rows if digest else 0) - before} rows, not {file.rows}"
    if digest and digest.hexdigest() != split.digest:
        yield "the rows have another digest"
    if not ordered:
        yield "the rows are not in order"


def _strays(directory: Path, listed: set[str]) -> Iterator[str]:
    for path in sorted(directory.glob("**/*.parquet")):
        if path.relative_to(directory).as_posix() not in listed:
            yield f"{path.relative_to(directory)}: not in the manifest, but readers would find it"


def _readme(version: Version) -> Iterator[str]:
    try:
        front, _ = readme.split_front((version.dir / "README.md").read_text("utf-8", "replace"))
    except OSError as error:
        yield f"README.md: {error.strerror}"
        return
    if front.get("configs") != readme.data_files(version.manifest.configs):
        yield "README.md: its configs are not those of the manifest"
