"""Toys of the Hub's tests: a server, a client, a store with tiny versions, and a few looks at a repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hub_client import Done, HubClient
from hub_server.running import HubServer
from store_toys import commit, episodes, reward_row, rewards

from sotopia_rl_data.store import Store, Version


class HubToys:
    """A server and a client that share nothing with another test but their process; `repo` gives names."""

    def __init__(self, root: Path, xet: bool) -> None:
        self.root, self.xet = root, xet
        self.server = HubServer(root / "server", xet)
        self.run = HubClient(self.server.url, root / "hf", xet)
        self._others: dict[str, HubClient] = {}
        self._names = 0

    def stop(self) -> None:
        for client in (self.run, *self._others.values()):
            client.stop()
        self.server.stop()

    def repo(self, name: str = "toy") -> str:
        """A name that no other test has."""
        self._names += 1
        return f"lab/{name}-{self._names}"

    def as_(self, token: str) -> HubClient:
        """A client with another token, and a cache of its own."""
        if token not in self._others:
            self._others[token] = HubClient(self.server.url, self.root / f"hf-{token}", self.xet, token)
        return self._others[token]

    def push(self, version: Version, *options: object, check: bool = True) -> Done:
        """Push without the `load_dataset` at the end, which takes seconds."""
        store = version.dir.parents[len(version.name.split("/"))]
        argv = ("push-to-hub", version.ref, "--store", store, "--json", "--check", "files", *options)
        return self.run(*argv, check=check)

    # What the server has -------------------------------------------------------------------------------------------

    def head(self, repo: str) -> str:
        return self.server.get(f"/api/datasets/{repo}")["sha"]

    def titles(self, repo: str) -> list[str]:
        """The commits of main, newest first."""
        return [one["title"] for one in self.server.get(f"/api/datasets/{repo}/commits/main")]

    def tags(self, repo: str) -> dict[str, str]:
        return {t["name"]: t["targetCommit"] for t in self.server.get(f"/api/datasets/{repo}/refs")["tags"]}

    def files(self, repo: str, revision: str = "main") -> set[str]:
        found = self.server.get(f"/api/datasets/{repo}/revision/{quote(revision, safe='')}")["siblings"]
        return {one["rfilename"] for one in found} - {".gitattributes"}

    def text(self, repo: str, path: str, revision: str = "main") -> str:
        return self.server.text(f"/datasets/{repo}/resolve/{quote(revision, safe='')}/{path}")

    def release(self, repo: str) -> tuple[str, str]:
        """What `main` claims to be and what it holds: the manifest's version, and a word on whether its files fit."""
        manifest = json.loads(self.text(repo, "manifest.json"))
        listed = {f["path"] for of in manifest["configs"].values() for one in of.values() for f in one["files"]}
        data = {path for path in self.files(repo) if path.endswith(".parquet")}
        return manifest["version"], "whole" if listed == data else f"mixed: {sorted(listed ^ data)}"

    def write(self, repo: str, files: dict[str, str]) -> None:
        """A person's commit."""
        code = "from huggingface_hub import HfApi, CommitOperationAdd as Add\n"
        code += f"HfApi().create_commit({repo!r}, [Add(p, t.encode()) for p, t in {files!r}.items()], "
        code += "repo_type='dataset', commit_message='by hand')\nprint('null')"
        self.run.python(code)


def toy(store: Store, name: str, *ids: int, reward: float = 0.5, **options: Any) -> Version:
    """A version with one episode and one utterance for each id."""
    table = rewards(*(reward_row(i, reward) for i in ids))
    return commit(store, {("rewards", "train"): table, ("episodes", "train"): episodes(*ids)}, name, **options).version
