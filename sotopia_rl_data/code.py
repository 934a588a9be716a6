"""Which code made a version: the distribution's version and, in a git clone, its commit. For provenance alone."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path


def code() -> dict[str, str]:
    """`{"version": "0.1.0", "commit": "<40 hex>[+dirty]"}`; no commit outside a clone of this project."""
    root = Path(__file__).resolve().parents[1]
    known = {"version": _version()}
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    if commit:
        known["commit"] = commit + ("+dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    return known


def _version() -> str:
    try:
        return importlib.metadata.version("sotopia-rl-data")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
