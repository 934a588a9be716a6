"""The two hashes that the project's keys and digests are made of: of a value as canonical JSON, and of a file.

Keys of the ledger, digests of versions and hashes of wordings stand on `canonical_json`: its output for a value that
was hashed before must never change. What is merely put into an order by hash, or hashed as a plain text, does that
where it is needed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the form that every hash in this project is taken over.

    Raises ValueError for NaN and infinities, TypeError for what JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(value: Any) -> str:
    """Hex SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
