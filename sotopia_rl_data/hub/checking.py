"""Whether a release was published as planned, read back from the Hub: the tag, every file, the manifest, the rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from sotopia_rl_data.errors import HubError, HubUnavailable
from sotopia_rl_data.hub.client import Hub
from sotopia_rl_data.hub.release import Release, manifest_at
from sotopia_rl_data.schema import Manifest
from sotopia_rl_data.secrets import redact
from sotopia_rl_data.store import readme
from sotopia_rl_data.store.manifest import listed_files
from sotopia_rl_data.store.readme import data_files

Rows = Mapping[str, Mapping[str, int]]
_LOADER = Path(__file__).parent / "loading.py"
_CACHES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_XET_CACHE", "HF_ASSETS_CACHE")
_SMALL_BUFFERS = {  # with its defaults, hf_xet takes a large part of the machine's memory
    "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_SIZE": "32mb",
    "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_LIMIT": "64mb",
}
_LONGEST_LOAD_S = 3600


def check(hub: Hub, release: Release, card: str | None, commit: str, load: bool) -> Rows | None:
    """Check that `commit` holds the release; returns the counts of the rows that were loaded, if `load`.

    `card` is the README's text, or None where this run did not write it. Raises HubError where anything differs, and
    HubUnavailable.
    """
    problems = list(_problems(hub, release, card, commit))
    rows = None
    if load and release.manifest is not None and not problems:
        rows = loaded(hub, release.manifest, commit)
        problems = list(_different(release.manifest, rows))
    if problems:
        raise _not_as_planned(release.repo, release.version, problems)
    return rows


def check_whole(hub: Hub, repo: str, version: str, commit: str) -> None:
    """Raises HubError where a release of an earlier run lacks what its own manifest lists."""
    manifest, tree = manifest_at(hub, repo, commit), hub.tree(repo, commit)
    listed = list(listed_files(manifest)) if manifest else []
    problems = []
    for file in listed:
        remote = tree.get(file.path)
        if remote is None or remote.size != file.size or remote.sha256 not in (file.sha256, None):
            problems.append(f"{file.path} is missing or has other content")
    if problems:
        raise _not_as_planned(repo, version, problems)


def loaded(hub: Hub, manifest: Manifest, commit: str) -> Rows:
    """The rows of each config and split as `load_dataset` finds them, in a new process with an empty cache.

    The default config, loaded without a name, is under "".
    """
    configs = [file["config_name"] for file in data_files(manifest.configs)]
    with TemporaryDirectory(prefix="sotopia-rl-data-check-") as home:
        clean = _SMALL_BUFFERS | {name: value for name, value in os.environ.items() if name not in _CACHES}
        clean |= {"HF_HOME": home, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
        if hub.token:
            clean["HF_TOKEN"] = hub.token
        done = subprocess.run(
            [sys.executable, "-P", str(_LOADER), manifest.name, commit, *configs],
            env=clean,
            capture_output=True,
            text=True,
            timeout=_LONGEST_LOAD_S,
            check=False,
        )
    if done.returncode:
        reason = redact((done.stderr.strip().splitlines() or ["no reason given"])[-1], loosely=False)
        raise HubUnavailable(
            f"load_dataset cannot load {manifest.name}@{commit[:8]} ({reason}).", "run the same command again"
        )
    rows: Rows = json.loads(done.stdout.splitlines()[-1])
    return rows


def _not_as_planned(repo: str, version: str, problems: list[str]) -> HubError:
    return HubError(
        f"{repo}@{version} is published, but not as planned: {'; '.join(problems[:5])}.",
        "make the next version and push that; pulling this one gives an error, not wrong rows",
    )


def _problems(hub: Hub, release: Release, card: str | None, commit: str) -> Iterator[str]:
    tagged = hub.tags(release.repo).get(release.version)
    if tagged != commit:
        yield f"the tag {release.version} is on {tagged}, not on {commit}"
    tree = hub.tree(release.repo, commit)
    for path, content in release.files.items():
        if path == readme.CROISSANT and card is None and path in tree:
            continue  # it says what the README of its commit said, which people may have edited since
        if not content.is_in(tree.get(path)):
            yield f"{path} has other content" if path in tree else f"{path} is missing"
    if hub.text(release.repo, release.record, commit) != release.text:
        yield f"{release.record} is not what was sent"
    if card is not None and hub.text(release.repo, readme.FILE_NAME, commit) != card:
        yield f"{readme.FILE_NAME} is not what was sent"


def _different(manifest: Manifest, rows: Rows) -> Iterator[str]:
    configs = data_files(manifest.configs)
    expected = {config["config_name"]: manifest.configs[config["config_name"]] for config in configs}
    default = next(config["config_name"] for config in configs if config.get("default"))
    for config, splits in {**expected, "": expected[default]}.items():
        counts = {name: split.rows for name, split in splits.items()}
        if rows.get(config) != counts:
            yield f"load_dataset gives {rows.get(config)} rows of {config or 'the default config'}, not {counts}"
