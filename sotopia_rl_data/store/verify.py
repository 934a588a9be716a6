"""Whether a version is what its manifest says. Every file is read: size, SHA-256, columns, rows, order, digest.
`pull` asks the same of what it has downloaded, before it becomes a version.

Problems are returned, not raised, so that one damaged file does not hide the next. A file that is not listed and that
`load_dataset` would read counts as a problem too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.hashing import file_sha256
from sotopia_rl_data.schema import DataFile, Split
from sotopia_rl_data.store import Version, readme
from sotopia_rl_data.store.columns import first_line, type_names
from sotopia_rl_data.store.digest import RowDigest, version_digest
from sotopia_rl_data.store.fields import MOST_BYTES
from sotopia_rl_data.store.manifest import listed_files, split_digests
from sotopia_rl_data.store.ordering import InOrder
from sotopia_rl_data.store.parts import read_parquet, too_large
from sotopia_rl_data.store.values import check_values


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


def verify(
    version: Version,
    on_file: Callable[[DataFile], None] | None = None,
    derived: Callable[[Version], Iterator[str]] | None = None,
) -> Verification:
    """Read all of `version` and compare it with its manifest.

    `on_file` is called after each file (progress). `derived` tells what is wrong with the configs that are derived from
    others, and is called where nothing else is wrong.
    """
    if version.mirror is not None:
        with version.mirror.copied(version) as copy:
            return verify(copy, on_file, derived)
    problems: list[str] = []
    files = list(listed_files(version.manifest))
    damaged = set()
    for file in files:
        for problem in _file(version.dir / file.path, file):
            damaged.add(file.path)
            problems.append(f"{file.path}: {problem}")
        if on_file is not None:
            on_file(file)
    problems += contents(version, damaged)
    problems += _strays(version.dir, {file.path for file in files})
    problems += _readme(version)
    if derived is not None and not problems:
        problems += derived(version)
    rows = sum(split.rows for splits in version.manifest.configs.values() for split in splits.values())
    return Verification(version.ref, len(files), sum(file.size for file in files), rows, tuple(problems))


def contents(version: Version, damaged: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with the rows of `version`, or with what its manifest says of them: columns, counts, order, values,
    digests, and that no episode and no environment is in two splits. Splits with `damaged` files are left out."""
    manifest = version.manifest
    for config, splits in manifest.configs.items():
        readable = {
            name: split for name, split in splits.items() if not any(file.path in damaged for file in split.files)
        }
        for name, split in list(readable.items()):
            try:
                for problem in _rows(version, config, split):
                    readable.pop(name, None)
                    yield f"{config}/{name}: {problem}"
            except (OSError, pa.ArrowException, InputError) as error:
                readable.pop(name, None)
                yield f"{config}/{name}: unreadable ({first_line(error)})"
        yield from _shared(version, config, readable)
    if version_digest(split_digests(manifest.configs), manifest.recipe) != version.digest:
        yield "manifest.json: the digest is not that of the listed splits and the recipe"


def _file(path: Path, file: DataFile) -> Iterator[str]:
    try:
        state = path.stat()
        if not S_ISREG(state.st_mode):
            yield "not a file"
        elif state.st_size != file.size:
            yield f"{state.st_size} bytes, not {file.size}"
        elif (sha256 := file_sha256(path)) != file.sha256:
            yield f"SHA-256 {sha256[:12]}…, not {file.sha256[:12]}…"
    except OSError as error:
        yield f"{error.strerror}"


def _rows(version: Version, config: str, split: Split) -> Iterator[str]:
    columns = version.manifest.columns[config]
    digest: RowDigest | None = None
    ordered = True
    for file in split.files:
        path = version.dir / file.path
        with pq.ParquetFile(path) as parquet:
            schema, meta = parquet.schema_arrow.remove_metadata(), parquet.metadata
        if type_names(schema) != columns:
            yield f"{file.path} has the columns {type_names(schema)}, not {dict(columns)}"
            return
        if meta.num_rows != file.rows:
            yield f"{file.path} has {meta.num_rows} rows, not {file.rows}"
            return
        if too_large(meta):
            yield f"{file.path} has row groups that are too large to read"
            return
        if digest is None:
            digest, order = RowDigest(schema), InOrder.of(config, schema)
        for rows in read_parquet(path):
            check_values(config, rows)
            digest.update(rows)
            ordered = ordered and order.takes(rows)
    if digest is not None and (digest.rows, digest.hexdigest()) != (split.rows, split.digest):
        yield "the rows have another digest"
    if not ordered:
        yield "the rows are not in order"


def _shared(version: Version, config: str, splits: Mapping[str, Split]) -> Iterator[str]:
    """The first episode and the first environment that two of these splits have."""
    if config == "failures":  # one whose episode is not known is filed under train: splits may share ids here
        return
    for column in ("episode_id", "environment_id"):
        if column not in version.manifest.columns[config]:
            continue
        seen: dict[Any, str] = {}
        for name, split in splits.items():
            values = {
                value
                for file in split.files
                for rows in read_parquet(version.dir / file.path, [column])
                for value in pc.unique(rows.column(column)).to_pylist()
            }
            both = sorted(value for value in values if value and value in seen)
            if both:
                yield f"{config}: the {column} {both[0]!r} is in {seen[both[0]]} and in {name}"
                break
            seen |= dict.fromkeys(values, name)


def _strays(directory: Path, listed: set[str]) -> Iterator[str]:
    for path in sorted(directory.glob("**/*.parquet")):
        if path.relative_to(directory).as_posix() not in listed:
            yield f"{path.relative_to(directory)}: not in the manifest, but readers would find it"


def _readme(version: Version) -> Iterator[str]:
    path = version.dir / "README.md"
    try:
        if not S_ISREG(path.stat().st_mode):
            yield "README.md: not a file"
            return
        with path.open("rb") as file:  # the front matter is at the beginning, and nobody has that much of it
            front, _ = readme.split_front(file.read(MOST_BYTES).decode("utf-8", "replace"))
    except OSError as error:
        yield f"README.md: {error.strerror}"
        return
    if front.get("configs") != readme.data_files(version.manifest.configs):
        yield "README.md: its configs are not those of the manifest"
