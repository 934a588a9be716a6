"""What is installed: this project's version and commit, for provenance, and whether optional libraries are."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from sotopia_rl_data.errors import UsageError

_UNKNOWN = "unknown"  # the version where the package is not installed


def code() -> dict[str, str]:
    """`{"version": "0.1.0", "commit": "<40 hex>[+dirty]"}`; no commit outside a clone of this project."""
    root = Path(__file__).resolve().parents[1]
    known = {"version": version()}
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    if commit:
        known["commit"] = commit + ("+dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    return known


def check_installed(what: str, *libraries: str, hint: str = "", extra: str = "train") -> None:
    """Raises UsageError where libraries that `what` needs are not installed. Imports none of them. The default hint
    installs an `extra` of this installation, or of this clone."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        named = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
        install = (hint or _install(extra)).replace("pip install", f"{_pip()} install", 1)
        raise UsageError(f"{what} needs {named}, which {are} not installed.", install)


def _install(extra: str) -> str:
    if version() == _UNKNOWN:
        return f"pip install -e {shlex.quote(f'{Path(__file__).resolve().parents[1]}[{extra}]')}"
    return f"pip install 'sotopia-rl-data[{extra}]'"


def _pip() -> str:
    """What calls the pip of this interpreter: in an environment that is not activated, `pip` is another's, or none."""
    found = shutil.which("pip")
    if found and os.path.dirname(os.path.abspath(found)) == os.path.dirname(sys.executable):
        return "pip"
    return f"{shlex.quote(sys.executable or 'python')} -m pip"


def version() -> str:
    """This project's version, as it is installed."""
    try:
        return importlib.metadata.version("sotopia-rl-data")
    except importlib.metadata.PackageNotFoundError:  # the package runs from its source tree, without being installed
        return _UNKNOWN


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
