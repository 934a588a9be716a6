"""Where a version of the store stands on the Hub: `.hub.json` in its directory, which no digest and no reader sees.

Written by push and pull, read to find a version by its commit. The manifest cannot hold it: a commit's name covers
the manifest.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.store import Version

FILE_NAME = ".hub.json"


@dataclass(frozen=True, slots=True)
class Pin:
    """`version` of `repo` is what these `commits` hold, the first one known first."""

    repo: str
    version: str
    commits: tuple[str, ...]
    endpoint: str

    @property
    def commit(self) -> str:
        """The commit that the version was first seen at: that of the release, as a rule."""
        return self.commits[0]


def read(directory: Path) -> Pin | None:
    """What is noted of the version in `directory`; None where it was never pushed or pulled."""
    try:
        data = json.loads((directory / FILE_NAME).read_bytes())
        return Pin(data["repo"], data["version"], tuple(map(str, data["commits"])), data["endpoint"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreError(
            f"{directory / FILE_NAME} cannot be read.", "delete it, and `sotopia-rl-data pull` the version again"
        ) from error


def write(directory: Path, pin: Pin) -> Pin:
    """Note `pin`, with the commits that were known of the same repository before."""
    before = read(directory)
    if before and (before.repo, before.endpoint) == (pin.repo, pin.endpoint):
        pin = Pin(pin.repo, pin.version, tuple(dict.fromkeys((*before.commits, *pin.commits))), pin.endpoint)
    beside = directory / f"{FILE_NAME}.new"
    beside.write_text(json.dumps(asdict(pin), indent=1) + "\n", encoding="utf-8")
    os.replace(beside, directory / FILE_NAME)
    return pin


def commit_of(version: Version) -> str | None:
    """The Hub's commit of a version; None where it was never pushed or pulled."""
    pin = read(version.dir)
    return pin.commit if pin else None
