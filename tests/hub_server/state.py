"""What the server holds: users, repositories with their commits and refs, and blobs on the disk."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

MAIN = "refs/heads/main"


class Refused(Exception):
    """An HTTP error, as the Hub words it: `code` becomes X-Error-Code."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class User:
    """Whose token it is, the organisations it speaks for, and its role: write or read."""

    name: str
    orgs: tuple[str, ...]
    role: str

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (self.name, *self.orgs)


@dataclass(frozen=True)
class Entry:
    """A file in a tree. An LFS file has its SHA-256, the size of its pointer, and perhaps its Xet hash."""

    oid: str
    size: int
    sha256: str | None = None
    pointer: int = 0
    xet: str | None = None

    def described(self, path: str) -> dict[str, Any]:
        lfs = {"oid": self.sha256, "size": self.size, "pointerSize": self.pointer}
        return {"type": "file", "oid": self.oid, "size": self.size, "path": path} | (
            ({"lfs": lfs} | ({"xetHash": self.xet} if self.xet else {})) if self.sha256 else {}
        )


Tree = dict[str, Entry]


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    tree: Tree
    title: str
    message: str
    author: str
    date: str

    def described(self) -> dict[str, Any]:
        return {"id": self.sha, "title": self.title, "date": self.date}


@dataclass
class Pull:
    """A pull request: `base` is the commit of main that it began at."""

    title: str
    base: str
    author: str
    status: str = "open"
    description: str = ""
    date: str = field(default_factory=now)


@dataclass
class Repository:
    """`kind` is model, dataset or space; `refs` maps refs/heads/…, refs/tags/… and refs/pr/… to commits."""

    kind: str
    id: str
    private: bool
    created: str = field(default_factory=now)
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    pulls: dict[int, Pull] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def commit(self, ref: str, tree: Tree, title: str, message: str = "", author: str = "system") -> Commit:
        parent = self.refs.get(ref)
        named = repr((parent, sorted((p, e.oid) for p, e in tree.items()), title, time.time_ns()))
        sha = hashlib.sha1(named.encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, tree, title, message, author, now())
        self.refs[ref] = sha
        return self.commits[sha]

    def ref(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request."""
        return next((r for r in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}") if r in self.refs), None)

    def at(self, revision: str) -> Commit:
        if ref := self.ref(revision):
            return self.commits[self.refs[ref]]
        found = [s for s in self.commits if s.startswith(revision)] if re.fullmatch("[0-9a-f]{7,40}", revision) else []
        if len(found) != 1:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[found[0]]

    def last_change(self, head: Commit, path: str) -> Commit:
        """The commit that gave `path` the content it has in `head`."""
        commit = head
        while commit.parent and self.commits[commit.parent].tree.get(path) == head.tree[path]:
            commit = self.commits[commit.parent]
        return commit


class Hub:
    """Everything the server knows. `cas` is the address handed to hf_xet ("local:///DIR"); None: plain LFS."""

    def __init__(self, root: Path, tokens: dict[str, User], cas: str | None, cdn: str) -> None:
        self.root, self.tokens, self.cas, self.cdn = root, tokens, cas, cdn
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.links: dict[str, str] = {}  # keys of pre-signed addresses
        self.log: list[str] = []
        self.blobs, self.lfs, self.scratch = (root / d for d in ("blobs", "lfs", "scratch"))
        for folder in (self.blobs, self.lfs, self.scratch):
            folder.mkdir(parents=True, exist_ok=True)

    def user(self, request: Any) -> User | None:
        """Who asks; None without a token."""
        header = request.headers.get("authorization")
        if not header:
            return None
        user = self.tokens.get(header.removeprefix("Bearer ").strip())
        if user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return user

    def repository(self, request: Any, kind: str, id_: str, write: bool = False) -> Repository:
        """The repository, where whoever asks may see it (or write to it)."""
        user, found = self.user(request), self.repositories.get((kind, id_))
        if found is None or (found.private and not (user and found.namespace in user.namespaces)):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise Refused(401, "Invalid username or password.")
        if write and (user.role != "write" or found.namespace not in user.namespaces):
            raise Refused(
                403, "You don't have the required permissions: write access to this repo is needed", "Forbidden"
            )
        return found

    def put_blob(self, data: bytes) -> Entry:
        oid = git_oid(data)
        (self.blobs / oid).write_bytes(data)
        return Entry(oid, len(data))

    def put_text(self, encoded: str) -> Entry:
        return self.put_blob(base64.b64decode(encoded))

    def new_file(self) -> Path:
        """A path where nothing lies yet."""
        return self.scratch / secrets.token_hex(8)

    def link(self, sha256: str) -> str:
        """A pre-signed address on the second origin."""
        key = secrets.token_hex(8)
        self.links[key] = sha256
        return f"{self.cdn}/__cdn__/{key}"

    def card(self, commit: Commit) -> dict[str, Any]:
        """The front matter of README.md."""
        if "README.md" not in commit.tree:
            return {}
        text = (self.blobs / commit.tree["README.md"].oid).read_text()
        try:
            return (yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else None) or {}
        except yaml.YAMLError:
            return {}


async def body(request: Any) -> dict[str, Any]:
    """The request's JSON."""
    return json.loads(await request.body() or b"{}")


def address(request: Any, repository: Repository | None = None) -> str:
    """The server's address as the client knows it, or a repository's page."""
    base = f"http://{request.headers['host']}"
    if repository is None:
        return base
    return f"{base}/{'' if repository.kind == 'model' else repository.kind + 's/'}{repository.id}"
