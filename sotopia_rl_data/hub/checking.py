"""Is what was published what was meant? Read back from the Hub: the tag, every file, the manifest, the rows."""

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
from sotopia_rl_data.store import readme
from sotopia_rl_data.store.manifest import listed_files
from sotopia_rl_data.store.readme import data_files

Rows = Mapping[str, Mapping[str, int]]
_LOADER = Path(__file__).parent / "loading.py"
_OF_OTHERS = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_XET_CACHE", "HF_ASSETS_CACHE")
_LEAN = {  # hf_xet would take a good part of the machine's memory for its buffers
    "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_SIZE": "32mb",
    "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_LIMIT": "64mb",
}
_PATIENCE_S = 3600


def check(hub: Hub, release: Release, card: str | None, commit: str, load: bool) -> Rows | None:
    """Raises HubError where the release in `commit` differs from what was meant; the rows that were loaded, if `load`.

    `card` is the README's text; None where it is not this run's. HubUnavailable passes through.
    """
    wrong = list(_problems(hub, release, card, commit))
    rows = None
    if load and release.manifest is not None and not wrong:
        rows = loaded(hub, release.manifest, commit)
        wrong = list(_different(release.manifest, rows))
    if wrong:
        raise _not_meant(release.repo, release.version, wrong)
    return rows


def check_whole(hub: Hub, repo: str, version: str, commit: str) -> None:
    """Raises HubError where a release of an earlier run lacks what its own manifest lists."""
    manifest, tree = manifest_at(hub, repo, commit), hub.tree(repo, commit)
    listed = list(listed_files(manifest)) if manifest else []
    wrong = [f.path for f in listed if f.path not in tree or tree[f.path].size != f.size]
    wrong += [f.path for f in listed if f.path not in wrong and tree[f.path].sha256 not in (f.sha256, None)]
    if wrong:
        raise _not_meant(repo, version, [f"{path} is missing or has other content" for path in wrong])


def loaded(hub: Hub, manifest: Manifest, commit: str) -> Rows:
    """The rows of each config and split as `load_dataset` finds them, in a new process with an empty cache.

    The default config, loaded without a name, is under "".
    """
    configs = [one["config_name"] for one in data_files(manifest.configs)]
    with TemporaryDirectory(prefix="sotopia-rl-data-check-") as home:
        clean = _LEAN | {name: value for name, value in os.environ.items() if name not in _OF_OTHERS}
        clean |= {"HF_HOME": home, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
        clean |= {"HF_TOKEN": hub.token} if hub.token else {}
        done = subprocess.run(
            [sys.executable, "-P", str(_LOADER), manifest.name, commit, *configs],
            env=clean,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise HubUnavailable(f"load_dataset cannot load {manifest.name}@{commit[:8]} ({said}).", "run it again")
    rows: Rows = json.loads(done.stdout.splitlines()[-1])
    return rows


def _not_meant(repo: str, version: str, wrong: list[str]) -> HubError:
    return HubError(
        f"{repo}@{version} is published, but not as it was meant: {'; '.join(wrong[:5])}.",
        "make the next version and push that; whoever pulls this one gets an error, not wrong rows",
    )


def _problems(hub: Hub, release: Release, card: str | None, commit: str) -> Iterator[str]:
    tagged = hub.tags(release.repo).get(release.version)
    if tagged != commit:
        yield f"the tag {release.version} is on {tagged}, not on {commit}"
    tree = hub.tree(release.repo, commit)
    for path, content in release.files.items():
        if not content.is_in(tree.get(path)):
            yield f"{path} has other content" if path in tree else f"{path} is missing"
    if hub.text(release.repo, release.record, commit) != release.text:
        yield f"{release.record} is not as it was sent"
    if card is not None and hub.text(release.repo, readme.FILE_NAME, commit) != card:
        yield f"{readme.FILE_NAME} is not as it was sent"


def _different(manifest: Manifest, rows: Rows) -> Iterator[str]:
    configs = data_files(manifest.configs)
    expected = {c["config_name"]: manifest.configs[c["config_name"]] for c in configs}
    default = next(c["config_name"] for c in configs if c.get("default"))
    for config, splits in {**expected, "": expected[default]}.items():
        counts = {split: one.rows for split, one in splits.items()}
        if rows.get(config) != counts:
            yield f"load_dataset gives {rows.get(config)} rows of {config or 'the default config'}, not {counts}"
