"""What a release consists of: its files, the record that says which release it is, the card; for datasets also calls.

A release is of a dataset (its record is `manifest.json`) or of a model (`run.json`; made in `trainers/release.py`).
Nothing else is uploaded. A published record has the repository's name and no path of this machine; its digest is the
version's, which covers neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.errors import HubError, NotFound, StoreError
from sotopia_rl_data.formats import RUN_FORMAT, RUN_VERSION, check_number
from sotopia_rl_data.hashing import file_sha256
from sotopia_rl_data.hub import leaks
from sotopia_rl_data.hub.client import Hub, RemoteFile
from sotopia_rl_data.schema import Manifest
from sotopia_rl_data.secrets import redact, without_server
from sotopia_rl_data.store import Version, readme
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.parts import read_parquet
from sotopia_rl_data.store.readme import Card

if TYPE_CHECKING:
    from sotopia_rl_data.ledger.ledger import Attempt, Ledger

LEDGER = "ledger"  # the folder of the calls, and their key in the provenance
_BATCH = 2048  # rows of calls
_TEXTS = ("key", "question", "provider", "model", "status", "text", "finish", "returned_model", "error")
_TOKENS = ("input", "cached", "written", "output")


@dataclass(frozen=True, slots=True)
class Content:
    """A file of the release: `source` is its path on this machine, or its bytes."""

    source: Path | bytes
    size: int
    sha256: str

    @classmethod
    def of(cls, source: Path | bytes) -> Content:
        """The content at a path, or these bytes; read once for the SHA-256."""
        if isinstance(source, bytes):
            return cls(source, len(source), hashlib.sha256(source).hexdigest())
        return cls(source, source.stat().st_size, file_sha256(source))

    def is_in(self, remote: RemoteFile | None) -> bool:
        """Whether a file of the Hub (None: it does not exist) has this content."""
        if remote is None or remote.size != self.size:
            return False
        if remote.sha256:
            return remote.sha256 == self.sha256
        data = self.source if isinstance(self.source, bytes) else self.source.read_bytes()  # small, so kept by git
        return remote.oid == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Claim:
    """Which release a commit is, by its record."""

    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Release:
    """`version` ("v1.2.0") of a repository. `record` is the name of the file that says so, `text` its content.

    `files` are all other files by their path in the repository (Parquet, weights, pictures, calls), without the card,
    whose text depends on what people wrote in the repository's README. `manifest` is None except for a dataset.
    """

    repo: str
    version: str
    digest: str
    record: str
    text: str
    card: Card
    files: Mapping[str, Content]
    manifest: Manifest | None = None

    @property
    def title(self) -> str:
        """The title of the commit and of the pull request, by which a later run finds them."""
        return f"Release {self.version}"

    @property
    def claim(self) -> Claim:
        """What the record says."""
        return Claim(self.version, self.digest)


def dataset_release(version: Version, repo: str, card: Card, calls: Mapping[str, Path] | None = None) -> Release:
    """The release of `version` on `repo`, without what `with_card` adds. `calls` are a redacted ledger's files.

    Raises HubError where the recipe, which the digest covers, names a path of this machine.
    """
    if leaks.without_paths(dict(version.manifest.recipe)) != version.manifest.recipe:
        raise HubError(
            f"The recipe of {version.ref} names a path of this machine.",
            "label again with the plug-in or template named by a relative path: no answer is paid twice",
        )
    files = {
        file.path: Content(version.dir / file.path, file.size, file.sha256)
        for file in manifests.listed_files(version.manifest)
    }
    ledger = {path: Content.of(source) for path, source in (calls or {}).items()}
    provenance: dict[str, Any] = leaks.without_paths(dict(version.manifest.provenance))
    provenance.pop(LEDGER, None)
    if ledger:
        provenance[LEDGER] = [
            {"path": path, "size": content.size, "sha256": content.sha256} for path, content in ledger.items()
        ]
    manifest = replace(version.manifest, name=repo, provenance=provenance)
    return Release(
        repo,
        manifest.version,
        manifest.digest,
        manifests.FILE_NAME,
        manifests.dump(manifest),
        replace(card, block=leaks.without_paths(card.block)),
        files | ledger,
        manifest,
    )


def with_card(release: Release, text: str) -> Release:
    """The release with the files that its card has beside the README, where that is to be `text`."""
    beside = {path: Content.of(data) for path, data in readme.files(release.card, text).items()}
    return replace(release, files={**beside, **release.files})


def manifest_at(hub: Hub, repo: str, commit: str) -> Manifest | None:
    """Our manifest in a commit of a dataset; None where it has none."""
    text = hub.text(repo, manifests.FILE_NAME, commit)
    if text is None or '"manifest_version"' not in text:
        return None
    return manifests.parse(text, f"{repo}@{commit[:8]}", "pin another version, or ask its publisher")


def claim_at(hub: Hub, repo: str, commit: str, record: str) -> Claim | None:
    """What our record in a commit claims; None where it has none."""
    if record == manifests.FILE_NAME:
        manifest = manifest_at(hub, repo, commit)
        return Claim(manifest.version, manifest.digest) if manifest else None
    try:
        run = json.loads(hub.text(repo, record, commit) or "")
        check_number(run.get(RUN_VERSION), RUN_FORMAT, f"{record} of {repo}@{commit[:8]}")
        released = run["release"]
        return Claim(str(released["version"]), str(released["digest"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def inspect(version: Version, calls: Mapping[str, Path], on_bytes: Callable[[int], None]) -> list[leaks.Leak]:
    """Check every file of the version against its manifest and search it, and the calls, for leaks.

    `on_bytes` is called with the bytes read since the last call. Raises StoreError where a file is damaged.
    """
    for file in manifests.listed_files(version.manifest):
        path = version.dir / file.path
        if not path.is_file() or path.stat().st_size != file.size or file_sha256(path) != file.sha256:
            raise StoreError(
                f"{version.ref} is damaged: {file.path} is not what its manifest lists.",
                f"sotopia-rl-data verify {version.ref}",
            )
    provenance = json.dumps(version.manifest.provenance, ensure_ascii=False)
    recipe = json.dumps(version.manifest.recipe, ensure_ascii=False)
    secrets = leaks.in_text(provenance, "manifest.json, provenance") + leaks.in_text(recipe, "manifest.json, recipe")
    for name, source in calls.items():
        for rows in read_parquet(source):
            secrets += leaks.in_rows(rows, name, ("key",))
    return secrets + leaks.in_version(version, on_bytes)


def owned(manifest: Manifest | None, card: str) -> frozenset[str]:
    """The paths that a dataset's release made in its repository, by its manifest and card. The next release may remove
    them."""
    if manifest is None:
        return frozenset()
    calls = {str(call["path"]) for call in manifest.provenance.get(LEDGER, [])}
    return frozenset({file.path for file in manifests.listed_files(manifest)} | calls | readme.pictures(card))


def write_calls(version: Version, ledger: Ledger, folder: Path) -> dict[str, Path]:
    """Write the calls behind a version as Parquet into `folder`, one row for each attempt; returns the files by their
    path in the release.

    Only calls that the version's own attributions and failures name are written. Base URLs are left out, because they
    name people's machines; texts and errors go through `redact`. Raises NotFound where the ledger has none of the
    calls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [(name, pa.string()) for name in (*_TEXTS, "sampling")]
    columns += [(name, pa.int64()) for name in ("sample", *_TOKENS)]
    schema = pa.schema([*columns, ("time", pa.float64()), ("seconds", pa.float64())])
    path = folder / "calls-00000-of-00001.parquet"
    with pq.ParquetWriter(path, schema, compression="zstd", use_content_defined_chunking=True) as writer:
        rows: list[dict[str, Any]] = []
        count = 0
        for key in _call_ids(version):
            rows += [_call_row(attempt) for attempt in reversed(ledger.attempts(key))]
            if len(rows) >= _BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
                count, rows = count + len(rows), []
        if rows:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    if not count + len(rows):
        raise NotFound(
            f"The ledger {ledger.directory} has none of the calls of {version.ref}.", "leave --with-ledger out"
        )
    return {f"{LEDGER}/{path.name}": path}


def _call_ids(version: Version) -> list[str]:
    """The ids of the calls that the version names, sorted."""
    from sotopia_rl_data.query import sql

    named = [config for config, columns in version.manifest.columns.items() if "call_id" in columns]
    if not named:
        return []
    union = " UNION ".join(f"SELECT call_id FROM {config} WHERE call_id IS NOT NULL" for config in named)
    rows = sql(version, f"SELECT DISTINCT call_id FROM ({union}) ORDER BY 1")
    return [key for key in rows.column(0).to_pylist() if key]


def _call_row(attempt: Attempt) -> dict[str, Any]:
    known = asdict(attempt)
    # the text of a refusal may be the provider's error, and then names its URL
    for name in ("text", "error") if attempt.finish == "refusal" else ("error",):
        known[name] = without_server(known[name], attempt.base_url)
    texts = {name: redact(known[name]) if name in ("text", "error") else known[name] for name in _TEXTS}
    usage = known["usage"] or dict.fromkeys(_TOKENS)
    tokens = {name: usage[name] for name in _TOKENS}
    sampling = json.dumps(dict(attempt.sampling), sort_keys=True)
    return texts | tokens | {"sampling": sampling} | {name: known[name] for name in ("sample", "time", "seconds")}
