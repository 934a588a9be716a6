"""One version of a dataset: its directory and manifest, its number, and the commits of the Hub that hold it.

    STORE/ORG/NAME/v1.2.0/README.md  manifest.json  .hub.json  rewards/train-00000-of-00001.parquet  …

v1.0.0 is the first; changed columns, layout or scale make the next major, other content the next minor. The commits of
the Hub that hold a version are noted in `.hub.json`, which no digest covers and no reader of rows sees. The manifest
cannot name them, since a commit's hash covers the manifest. How the next version is written is in `stage.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from sotopia_rl_data.errors import NotFound, StoreError, UsageError
from sotopia_rl_data.formats import check_fields
from sotopia_rl_data.schema import Manifest
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.disk import replace_file

if TYPE_CHECKING:
    from sotopia_rl_data.store.mirror import Mirror

Number = tuple[int, int, int]
FIRST: Number = (1, 0, 0)
HUB_FILE = ".hub.json"
_MOST_NOTE = 1 << 20  # bytes of .hub.json
_VERSION = re.compile(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_SHAPE = ("layout", "scale")  # where one of these parts of the recipe changes, every row is read differently


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one dataset: a directory, and the manifest that lists what is in it. The files of one in a bucket
    are in the directory once they were asked for; `mirror` fetches them."""

    dir: Path
    manifest: Manifest
    mirror: Mirror | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """`org/name`."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """`v1.2.0`."""
        return self.manifest.version

    @property
    def digest(self) -> str:
        """The digest of the content: columns, rows and recipe."""
        return self.manifest.digest

    @property
    def ref(self) -> str:
        """`org/name@v1.2.0`."""
        return f"{self.name}@{self.version}"

    @property
    def address(self) -> str:
        """Where it is: its directory, or its place in a bucket."""
        return self.mirror.bucket.address_of(self.name, self.version) if self.mirror else str(self.dir)

    def keep_notes(self) -> None:
        """Call it after a change to what lies beside the manifest and the rows: a bucket gets it too."""
        if self.mirror is not None:
            self.mirror.keep_notes(f"{self.name}/{self.version}", self.dir)

    def fetch(self) -> None:
        """Have all files of a version in a bucket in the directory. Raises StoreError."""
        if self.mirror is not None:
            self.mirror.fetch(self, manifests.listed_files(self.manifest))

    def files(self, config: str) -> dict[str, list[Path]]:
        """The Parquet files of each split of `config`, in row order. Raises NotFound, naming the configs there are, and
        StoreError where a file is missing or has other columns than the manifest lists."""
        splits = self.manifest.configs.get(config)
        if splits is None:
            raise NotFound(f"{self.ref} has no config {config!r}.", f"name one of: {', '.join(self.manifest.configs)}")
        if self.mirror is not None:
            self.mirror.fetch(self, [file for split in splits.values() for file in split.files])
        paths = {name: [self.dir / file.path for file in split.files] for name, split in splits.items()}
        for path in (path for of in paths.values() for path in of):
            problem = _problem(path, self.manifest.columns[config])
            if problem:
                raise StoreError(
                    f"{self.ref} cannot be read: its file {config}/{path.name} {problem}.",
                    f"see what is damaged: sotopia-rl-data verify {self.ref}",
                )
        return paths


def _problem(path: Path, columns: Mapping[str, str]) -> str:
    """What keeps a Parquet file from being read as rows of these columns; "" where nothing does."""
    import pyarrow as pa

    from sotopia_rl_data.store.columns import first_line

    try:
        if not path.is_file():
            return "is missing"
        same = _columns_of(path, path.stat().st_mtime_ns) == columns
        return "" if same else "has other columns than the manifest lists"
    except (OSError, pa.ArrowException) as error:
        return f"cannot be read ({first_line(error)})"


@lru_cache(maxsize=10_000)  # the same file is opened many times in a command
def _columns_of(path: Path, changed_ns: int) -> dict[str, str]:
    import pyarrow.parquet as pq

    from sotopia_rl_data.store.columns import type_names

    return type_names(pq.read_schema(path))


def load(directory: Path, mirror: Mirror | None = None) -> Version:
    """The version in `directory`. Raises StoreError where its manifest is damaged, or is that of another version."""
    if mirror is not None:
        return Version(directory, mirror.manifest(directory), mirror)
    manifest = manifests.load(directory)
    if number(directory.name) and directory.name != manifest.version:
        raise StoreError(
            f"The folder {directory} has the manifest of {manifest.version}.",
            f"give the folder the name {manifest.version}, or delete it and make the version again",
        )
    return Version(directory, manifest)


def in_folder(folder: Path) -> list[Path]:
    """The version directories of a dataset, oldest first."""
    try:
        directories = [
            path for path in folder.iterdir() if number(path.name) and (path / manifests.FILE_NAME).is_file()
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(
            f"The dataset's folder {folder} cannot be read ({error.strerror}).",
            "name another store with --store or SOTOPIA_RL_DATA_STORE",
        ) from error
    return sorted(directories, key=lambda path: number(path.name) or (0, 0, 0))


def number(text: str) -> Number | None:
    """(1, 2, 0) for "v1.2.0"; None where the text is not a version."""
    match = _VERSION.fullmatch(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def spelled(version: Number) -> str:
    """ "v1.2.0" for (1, 2, 0)."""
    return "v" + ".".join(map(str, version))


def check(text: str) -> str:
    """`text` as a version ("1.2.0" and "v1.2.0" alike). Raises UsageError."""
    version = text if text.startswith("v") else f"v{text}"
    if number(version) is None:
        raise UsageError(f"{text!r} is not a version number.", "write three numbers, such as v1.2.0")
    return version


def following(latest: Manifest | None, new: Manifest) -> Number:
    """The number of `new`, whose content differs from `latest`."""
    before = number(latest.version) if latest else None
    if latest is None or before is None:
        return FIRST
    after = _columns(new)
    # Only the configs of `latest` are compared: a config that is new does not change how the others are read.
    other_columns = any(after.get(config) != columns for config, columns in _columns(latest).items())
    if other_columns or any(latest.recipe.get(key) != new.recipe.get(key) for key in _SHAPE):
        return before[0] + 1, 0, 0
    return before[0], before[1] + 1, 0


def _columns(manifest: Manifest) -> dict[str, dict[str, str]]:
    return {config: dict(columns) for config, columns in manifest.columns.items()}


@dataclass(frozen=True, slots=True)
class Published:
    """These `commits` of `repo` hold `version`; the commit that was known first comes first."""

    repo: str
    version: str
    commits: tuple[str, ...]
    endpoint: str

    @property
    def commit(self) -> str:
        """The commit at which the version was first seen: as a rule that of the release."""
        return self.commits[0]


def read_published(directory: Path) -> Published | None:
    """Where the version in `directory` is published; None where it was never pushed or pulled. Raises StoreError where
    the note is damaged."""
    path = directory / HUB_FILE
    try:
        if not S_ISREG(path.stat().st_mode):
            raise ValueError("it is not a file")
        with path.open("rb") as file:
            text = file.read(_MOST_NOTE + 1)
        if len(text) > _MOST_NOTE:
            raise ValueError("it is too long")
        data = json.loads(text)
        check_fields(data, Published, path)
        repo, version, commits, endpoint = (data[name] for name in ("repo", "version", "commits", "endpoint"))
        said = [repo, version, endpoint, *commits]
        if not commits or not isinstance(commits, list) or not all(isinstance(one, str) for one in said):
            raise ValueError("it does not list commits")
        return Published(repo, version, tuple(commits), endpoint)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"The note of where this version is on the Hub, {path}, cannot be read.",
            "delete the file, and pull the version again with `sotopia-rl-data pull`",
        ) from error


def note_published(directory: Path, now: Published) -> None:
    """Note `now` for the version in `directory`, and keep the commits noted before for the same repository."""
    before = read_published(directory)
    if before and (before.repo, before.endpoint) == (now.repo, now.endpoint):
        now = replace(now, commits=tuple(dict.fromkeys((*before.commits, *now.commits))))
    replace_file(directory / HUB_FILE, (json.dumps(asdict(now), indent=1) + "\n").encode())


def commit_of(version: Version) -> str | None:
    """The Hub's commit of a version; None where it was never pushed or pulled."""
    published = read_published(version.dir)
    return published.commit if published else None
