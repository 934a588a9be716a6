"""The calls behind a version, fit to be published: what was asked of whom and answered, without addresses and keys.

Only the calls that the version's own attributions and failures name, each attempt a row. Base URLs are left out,
because they name people's machines; texts and errors go through `redact`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.errors import NotFound
from sotopia_rl_data.hub.release import LEDGER
from sotopia_rl_data.secrets import redact
from sotopia_rl_data.store import Version

if TYPE_CHECKING:
    import pyarrow as pa

    from sotopia_rl_data.ledger.ledger import Attempt, Ledger

_BATCH = 2048
_TEXTS = ("key", "question", "provider", "model", "status", "text", "finish", "returned_model", "error")
_TOKENS = ("input", "cached", "written", "output")


def write_calls(version: Version, ledger: Ledger, folder: Path) -> dict[str, Path]:
    """Write the version's calls as Parquet into `folder`: the files, by their path in the release.

    Raises NotFound where the ledger has none of them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [(name, pa.string()) for name in (*_TEXTS, "sampling")]
    columns += [(name, pa.int64()) for name in ("sample", *_TOKENS)]
    schema = pa.schema([*columns, ("time", pa.float64()), ("seconds", pa.float64())])
    path = folder / "calls-00000-of-00001.parquet"
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd", use_content_defined_chunking=True) as writer:
        for rows in _batches(version, ledger):
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
            count += len(rows)
    if not count:
        raise NotFound(
            f"The ledger {ledger.directory} has none of the calls of {version.ref}.", "leave --with-ledger out"
        )
    return {f"{LEDGER}/{path.name}": path}


def _batches(version: Version, ledger: Ledger) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for key in _keys(version):
        rows += [_row(attempt) for attempt in reversed(ledger.attempts(key))]
        if len(rows) >= _BATCH:
            yield rows
            rows = []
    if rows:
        yield rows


def _keys(version: Version) -> list[str]:
    """The calls that the version names, sorted."""
    from sotopia_rl_data.query import sql

    named = [c for c, columns in version.manifest.columns.items() if "call_id" in columns]
    if not named:
        return []
    union = " UNION ".join(f"SELECT call_id FROM {config} WHERE call_id IS NOT NULL" for config in named)
    found: pa.Table = sql(version, f"SELECT DISTINCT call_id FROM ({union}) ORDER BY 1")
    return [key for key in found.column(0).to_pylist() if key]


def _row(attempt: Attempt) -> dict[str, Any]:
    known = asdict(attempt)
    texts = {name: redact(known[name]) if name in ("text", "error") else known[name] for name in _TEXTS}
    usage = known["usage"] or dict.fromkeys(_TOKENS)
    tokens = {name: usage[name] for name in _TOKENS}
    sampling = json.dumps(dict(attempt.sampling), sort_keys=True)
    return texts | tokens | {"sampling": sampling} | {name: known[name] for name in ("sample", "time", "seconds")}
