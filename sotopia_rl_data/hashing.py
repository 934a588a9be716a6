"""The two hashes that keys and digests are made of: of a value as canonical JSON, and of a file.

Keys of the ledger, digests of versions and hashes of wordings depend on `canonical_json`: its output for a value must
never change. Hashes that only put things into an order, or of plain texts, are computed where they are used.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, the form in which values are hashed.

    Raises ValueError for NaN and infinities, TypeError for types that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(value: Any) -> str:
    """Hex SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
