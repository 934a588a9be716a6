"""A run's model as a release on the Hub, as a dataset is released: one commit, then the tag vX.Y.Z, checked.

What goes up is listed here: weights or adapter, tokenizer, `run.json` without paths of this machine, metrics, the
card. Checkpoints, optimiser states and pickles stay. A tag never moves: the same weights again are a no-op, other
weights get the next number. After 409, 412, 429, 5xx or a lost connection the repository is looked at again; a commit
whose answer was lost is recognised by the digest in its `run.json`.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from sotopia_rl_data.cards.model import model_card
from sotopia_rl_data.errors import HubError, HubUnavailable, InputError, VersionExists
from sotopia_rl_data.hashing import file_sha256
from sotopia_rl_data.hub import leaks
from sotopia_rl_data.hub.client import Hub
from sotopia_rl_data.store import readme, versions
from sotopia_rl_data.trainers.run_folder import METRICS, PLOT, RUN, RunFolder

WEIGHTS = (".safetensors", ".safetensors.index.json")
NAMES = (
    "config.json", "generation_config.json", "adapter_config.json", "reward_head.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "tokenizer.model",
    "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
CARD, IGNORED = "README.md", (".gitattributes",)
ATTEMPTS, PATIENCE_S = 6, 60.0


def release_run(
    run: str | Path, repo: str, *, version: str | None = None, private: bool | None = None, message: str = ""
) -> dict[str, Any]:
    """Publish the model of the folder `run` as a release of the model repository `repo` (ORG/NAME).

    Returns state ("published", "already published"), repo, version, commit, digest. Raises NotFound where there is no
    run, InputError where it has no weights, VersionExists, SecretsFound, HubError.
    """
    folder = RunFolder.existing(run)
    record = folder.read()
    files = model_files(folder.path)
    digest = digest_of(files)
    hub = Hub(kind="model")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _once(hub, folder, record, files, digest, repo, version, private, message)
        except HubUnavailable as busy:
            wait = busy.retry_after or 0.0
            if attempt == ATTEMPTS or wait > PATIENCE_S:
                raise
            time.sleep(max(wait, min(2.0**attempt, 30.0) * random.uniform(0.25, 0.5)))
    raise AssertionError("the loop returns or raises")


def check_release(repo: str, model: str, adapter: str) -> None:
    """What can be known before the training: raises HubError where nobody may publish as `repo`, and InputError where
    an adapter would belong to a model that lies in a directory."""
    hub = Hub(kind="model")
    hub.user()
    hub.head(repo)
    if adapter != "none":
        _check_base(model)


def _once(
    hub: Hub, folder: RunFolder, record: dict[str, Any], files: Mapping[str, Path], digest: str, repo: str,
    version: str | None, private: bool | None, message: str,
) -> dict[str, Any]:  # fmt: skip
    head = hub.head(repo)
    tags = {t: c for t, c in (hub.tags(repo) if head else {}).items() if versions.number(t)}
    for tag, commit in tags.items():
        if published(hub, repo, commit) == digest:
            return _said("already published", repo, tag, commit, digest)
    number = next_version(tags, version)
    if head is None:
        hub.create(repo, private)
        head = hub.commit_of(repo, "main")
    if published(hub, repo, head) != digest:  # else the commit is there, and only its tag is missing
        head = _commit(hub, folder, record, files, digest, repo, number, head, message)
    hub.tag(repo, number, head, f"digest {digest}")
    _check(hub, repo, number, head, files)
    return _said("published", repo, number, head, digest)


def _commit(
    hub: Hub, folder: RunFolder, record: dict[str, Any], files: Mapping[str, Path], digest: str, repo: str,
    number: str, head: str, message: str,
) -> str:  # fmt: skip
    public = public_record(record) | {"release": {"version": number, "digest": digest}}
    card = readme.merge(model_card(public, repo), hub.text(repo, CARD, head))
    texts = {RUN: json.dumps(public, indent=1, ensure_ascii=False) + "\n", CARD: card}
    leaks.check([leak for name, text in texts.items() for leak in leaks.in_text(text, name)], str(folder.path))
    extra = {name: folder.path / name for name in (METRICS, PLOT) if (folder.path / name).exists()}
    adds = [CommitOperationAdd(name, path) for name, path in {**files, **extra}.items()]
    adds += [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
    kept = {a.path_in_repo for a in adds} | set(IGNORED)
    gone = [CommitOperationDelete(path) for path in hub.tree(repo, head) if path not in kept]
    hub.upload(repo, adds, as_pull=False)
    title = f"Release {number}"
    return hub.commit(repo, [*adds, *gone], parent=head, title=title, description=message).commit


def model_files(folder: Path) -> dict[str, Path]:
    """What makes the model, by name. Raises InputError where there are no weights."""
    found = {p.name: p for p in sorted(folder.iterdir()) if p.name in NAMES or p.name.endswith(WEIGHTS)}
    if not any(name.endswith(".safetensors") for name in found):
        raise InputError(f"{folder} has no weights to publish.", "let the training finish, or resume it")
    adapter = found.get("adapter_config.json")
    base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path", "") if adapter else ""
    _check_base(base)
    return found


def _check_base(base: str) -> None:
    if base and Path(base).is_dir():
        raise InputError(
            f"An adapter on {Path(base).name}, a directory that nobody else has, cannot be published.",
            "publish that model, and train from its id; or train with --set adapter=none",
        )


def digest_of(files: Mapping[str, Path]) -> str:
    """Hex SHA-256 over the names and contents of the model's files."""
    known = hashlib.sha256()
    for name in sorted(files):
        known.update(f"{name}\0{file_sha256(files[name])}\n".encode())
    return known.hexdigest()


def published(hub: Hub, repo: str, commit: str) -> str | None:
    """The digest that a commit's `run.json` claims, or None."""
    text = hub.text(repo, RUN, commit)
    try:
        return str(json.loads(text)["release"]["digest"]) if text else None
    except (ValueError, KeyError, TypeError):
        return None


def next_version(tags: Mapping[str, str], asked: str | None) -> str:
    """The number asked for, or the next minor one. Raises VersionExists, UsageError."""
    latest = max((n for n in map(versions.number, tags) if n), default=None)
    free = versions.spelled((latest[0], latest[1] + 1, 0) if latest else versions.FIRST)
    if asked is None:
        return free
    wanted = versions.check(asked)
    if wanted in tags:
        raise VersionExists(f"{wanted} is published with other weights.", f"the next free version is {free}")
    return wanted


def public_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """`run.json` as others may see it: no path of this machine."""
    config = {k: v for k, v in record.get("config", {}).items() if k not in ("output_dir", "store")}
    found: dict[str, Any] = leaks.without_paths({**record, "config": config})
    return found


def _check(hub: Hub, repo: str, number: str, commit: str, files: Mapping[str, Path]) -> None:
    """Raises HubError where the tag or a file is not what was sent."""
    if hub.tags(repo).get(number) != commit:
        raise HubError(f"The tag {number} of {repo} is not on {commit}.", "push again")
    there = hub.tree(repo, commit)
    for name, path in files.items():
        if name not in there or there[name].size != path.stat().st_size:
            raise HubError(f"{name} of {repo}@{number} is not what was sent.", "push again")


def _said(state: str, repo: str, number: str, commit: str, digest: str) -> dict[str, Any]:
    return {"state": state, "repo": repo, "version": number, "commit": commit, "digest": digest}
