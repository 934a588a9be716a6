"""A run's model as a release on the Hub. How it is published is in `hub/push.py`, as for datasets; here is what.

Published are the weights or the adapter, the tokenizer, `run.json` without local paths, metrics, the card, and the
results as the Hub reads them; not checkpoints, optimiser states and pickles. Whatever else is in the repository is
deleted, but for results that others added. A tag never moves: the same
weights again are a no-op, other weights get the next number. A release is recognised by the digest in its `run.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sotopia_rl_data.cards.model import eval_results, model_card
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.hub import leaks
from sotopia_rl_data.hub.client import Hub
from sotopia_rl_data.hub.plan import EVAL_RESULTS, Remote, next_number
from sotopia_rl_data.hub.push import PushOptions, publish
from sotopia_rl_data.hub.release import Claim, Content, Release, claim_at
from sotopia_rl_data.store import versions
from sotopia_rl_data.trainers.run_folder import METRICS, PLOT, RUN, RunFolder

WEIGHTS = (".safetensors", ".safetensors.index.json")
NAMES = (
    "config.json", "generation_config.json", "adapter_config.json", "reward_head.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "tokenizer.model",
    "added_tokens.json", "chat_template.jinja",
)  # fmt: skip


def release_run(
    run: str | Path, repo: str, version: str | None = None, options: PushOptions | None = None
) -> dict[str, Any]:
    """Publish the model of the folder `run` as a release of the model repository `repo` (ORG/NAME).

    Returns state ("published", "tagged" where only the tag was missing, "already published"), repo, version, commit,
    digest. Raises NotFound where there is no run, InputError where it has no weights, VersionExists, SecretsFound,
    HubError.
    """
    folder = RunFolder.existing(run)
    record = folder.read()
    model = {name: Content.of(path) for name, path in model_files(folder.path).items()}
    digest = digest_of(model)
    extra = {name: Content.of(folder.path / name) for name in (METRICS, PLOT) if (folder.path / name).exists()}
    hub = Hub(kind="model")

    def release_for(remote: Remote) -> Release:
        number = _number(hub, repo, remote.tags, digest, version)
        public = public_record(record) | {"release": {"version": number, "digest": digest}}
        text = json.dumps(public, indent=1, ensure_ascii=False) + "\n"
        results = eval_results(public)
        beside = {EVAL_RESULTS: Content.of(results.encode())} if results else {}
        return Release(repo, number, digest, RUN, text, model_card(public, repo), model | extra | beside)

    hint = (
        "revoke them, take them out of the folder, and release it again: from sotopia_rl_data.trainers import api; "
        f"api.release({str(folder.path)!r}, {repo!r}); with allow_secrets=True they are published as they are"
    )
    published = publish(hub, repo, RUN, release_for, replace(options or PushOptions(), against_secrets=hint))
    return {name: getattr(published, name) for name in ("state", "repo", "version", "commit", "digest")}


def _number(hub: Hub, repo: str, tags: Mapping[str, str], digest: str, version: str | None) -> str:
    """The version under which these weights are published already; else `version`, or the next number."""
    for tag, commit in tags.items():
        if versions.number(tag) and claim_at(hub, repo, commit, RUN) == Claim(tag, digest):
            return tag
    return versions.check(version) if version else next_number(tags)


def check_release(repo: str, model: str, adapter: str) -> None:
    """Checks before the training what can be checked. Raises HubError where the user may not publish as `repo`, and
    InputError where an adapter would belong to a model in a local directory."""
    hub = Hub(kind="model")
    hub.user()
    hub.head(repo)
    if adapter != "none":
        _check_base(model)


def model_files(folder: Path) -> dict[str, Path]:
    """The files that make up the model, by name. Raises InputError where there are no weights."""
    files = {p.name: p for p in sorted(folder.iterdir()) if p.name in NAMES or p.name.endswith(WEIGHTS)}
    if not any(name.endswith(".safetensors") for name in files):
        raise InputError(f"{folder} has no weights to publish.", "let the training finish, or resume it with --resume")
    adapter = files.get("adapter_config.json")
    base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path", "") if adapter else ""
    _check_base(base)
    return files


def _check_base(base: str) -> None:
    if base and Path(base).is_dir():
        raise InputError(
            f"The adapter cannot be published: its base model, {Path(base).name}, is a directory that nobody else has.",
            "publish the base model and train from its Hub id, or train with --set adapter=none",
        )


def digest_of(files: Mapping[str, Content]) -> str:
    """Hex SHA-256 over the names and contents of the model's files."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name].sha256}\n".encode())
    return digest.hexdigest()


def public_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """`run.json` as others may see it: without local paths and the addresses of servers, which may hold passwords."""
    config = {k: v for k, v in record.get("config", {}).items() if k not in ("output_dir", "store")}
    public: dict[str, Any] = leaks.without_paths({**record, "config": config}, urls=False)
    return public
