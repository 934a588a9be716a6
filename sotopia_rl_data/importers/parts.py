"""An import in parts: `import --shard I/N` on N machines, then `import --join`, which makes the version of one process.

A part has the episodes whose ids hash to it, with all that belongs to them; a training row belongs where its own hash
says, and a record that could not be read where its place in its file says. So the parts have nothing in common, and
together they are the whole. Leaves out which machine does which part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pyarrow as pa

from sotopia_rl_data import tables
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.refs import DatasetRef
from sotopia_rl_data.shards import Shard
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.stage import Committed, Stage

_ROWS = 1_024

Files = dict[str, bytes]
"""The content of the files of a version, by their paths in its folder."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What `join` made, and how many rows each config has."""

    committed: Committed
    rows: dict[str, int]


def join(store: Store, parts: Sequence[Path], ref: DatasetRef) -> Joined:
    """The parts of an import, each a version that `import --shard` made, by its folder or its name in the store, as the
    next version of a dataset; or as the one that the reference names.

    Raises UsageError where a part is missing, is there twice, or was imported otherwise than the first; NotFound; and
    what committing raises. After an error the store is unchanged.
    """
    versions = [store.resolve(str(path.resolve() if path.exists() else path)) for path in parts]
    _check(versions)
    configs = list(dict.fromkeys(chain.from_iterable(one.manifest.configs for one in versions)))
    with store.stage(ref.name) as stage:
        rows = {
            config: _copy(stage, config, [one for one in versions if config in one.manifest.configs])
            for config in configs
        }
        first = versions[0].manifest
        provenance = {name: value for name, value in first.provenance.items() if name != "shard"}
        for name in ("counts", "dialects"):
            sums: Counter[str] = Counter()
            for one in versions:
                sums.update(one.manifest.provenance.get(name, {}))
            provenance[name] = dict(sorted(sums.items()))
        return Joined(stage.commit(first.recipe, provenance, ref.version), rows)


class Mapper(Protocol):
    """Workers that do something with each of several shards."""

    def map(
        self, function: Callable[[Shard], Files], items: Callable[[int], Iterable[Shard]]
    ) -> Iterator[tuple[Shard, Files]]: ...


def import_on(
    workers: Mapper,
    store: Store,
    paths: Sequence[Path],
    ref: DatasetRef,
    options: ImportOptions,
    progress: Callable[[int, int], object],
) -> Joined:
    """Import `paths`, which every node has, on workers, a part on each, and join the parts here. `progress(done,
    total)` counts parts. Raises what `import_dataset` and `join` raise, and UsageError for pseudonyms, whose key is
    the store's."""
    if options.pseudonymise:
        raise UsageError("Pseudonyms need one key, which is the store's, so workers give none.", "leave --on out")
    with TemporaryDirectory(prefix="sotopia-rl-data-parts-") as folder:
        parts: list[Path] = []
        for shard, files in workers.map(partial(_imported, [path.resolve() for path in paths], options), _all_parts):
            part = Path(folder) / str(shard.number)
            for name, data in files.items():
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                (part / name).write_bytes(data)
            parts.append(part)
            progress(len(parts), shard.count)
        return join(store, parts, ref)


def _all_parts(count: int) -> list[Shard]:
    return [Shard(number, count) for number in range(1, count + 1)]


def _imported(paths: Sequence[Path], options: ImportOptions, shard: Shard) -> Files:
    """The files of a part, which a worker makes."""
    with TemporaryDirectory(prefix="sotopia-rl-data-part-") as folder:
        made = import_dataset(Store(folder), paths, "part/of", options=replace(options, shard=shard)).version.dir
        files = (path for path in made.rglob("*") if path.is_file())
        return {str(path.relative_to(made)): path.read_bytes() for path in files}


def _check(versions: Sequence[Version]) -> None:
    """Raises UsageError where the versions are not all parts of one import."""
    shards, first = dict[Shard, Version](), versions[0]
    for one in versions:
        told = one.manifest.provenance.get("shard")
        if not isinstance(told, str):
            raise UsageError(
                f"{one.ref} is not a part of an import.", "name the versions that `import --shard I/N` has made"
            )
        shard = Shard.parse(told)
        if shard in shards:
            raise UsageError(f"Part {shard} is there twice: {one.dir} and {shards[shard].dir}.", "name it once")
        shards[shard] = one
        if one.manifest.recipe != first.manifest.recipe or _sources(one) != _sources(first):
            raise UsageError(
                f"{one.dir} was imported from other files, or otherwise, than {first.dir}.",
                "import all parts by the same command, but for --shard and --name",
            )
    count = max(shard.count for shard in shards)
    missing = [number for number in range(1, count + 1) if Shard(number, count) not in shards]
    if missing:
        raise UsageError(f"Part {missing[0]}/{count} is missing.", f"name all {count} parts")


def _sources(version: Version) -> Any:
    return version.manifest.provenance.get("sources"), version.manifest.provenance.get("where")


def _copy(stage: Stage, config: str, versions: Sequence[Version]) -> int:
    """Write the rows of a config; returns how many there are."""
    files = [(split, path) for one in versions for split, paths in one.files(config).items() for path in paths]
    schema = None
    if config == "episodes":
        with_meta = any(tables.episode_schema([path]) is tables.EPISODES_WITH_META for _, path in files)
        schema = tables.EPISODES_WITH_META if with_meta else tables.EPISODES
    rows = 0
    for split, path in files:
        for table in _tables(path, schema):
            stage.write(config, split, table)
            rows += table.num_rows
    return rows


def _tables(path: Path, schema: pa.Schema | None) -> Iterator[pa.Table]:
    """The rows of a file, some at a time; those of episodes with the columns of `schema`."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS):
            table = pa.Table.from_batches([batch])
            if schema is not None and ("meta" in schema.names) != ("meta" in table.schema.names):
                table = tables.episode_table([tables.row_episode(row) for row in table.to_pylist()], schema)
            yield table
        if not file.metadata.num_rows:
            yield (schema or file.schema_arrow).empty_table()
