"""How files get in: preupload says how, LFS takes the big ones, a commit makes them part of a tree."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from hub_server import pulls, xet
from hub_server.state import Entry, Hub, Refused, Repository, Tree, address, body, git_oid

_BINARY = re.compile(r"\.(parquet|arrow|safetensors|bin|pt|onnx|zip|gz|zst|tar|npz|npy|png|jpg|msgpack|h5|7z|duckdb)$")
_LFS_FROM = 10 << 20  # bytes


async def preupload(hub: Hub, request: Request, kind: str, id_: str, revision: str) -> dict[str, Any]:
    """For each file: regular or LFS, and what lies there now."""
    repository = hub.repository(request, kind, id_, write="create_pr" not in request.query_params)
    head = repository.at(revision)
    found = []
    for file in (await body(request))["files"]:
        binary = _BINARY.search(file["path"]) or file["size"] > _LFS_FROM or b"\0" in base64.b64decode(file["sample"])
        there = head.tree.get(file["path"])
        mode = {"path": file["path"], "shouldIgnore": False, "uploadMode": "lfs" if binary else "regular"}
        found.append(mode | ({"oid": there.sha256 or there.oid} if there else {}))
    return {"files": found}


async def lfs_batch(hub: Hub, request: Request, kind: str, id_: str) -> dict[str, Any]:
    asked = await body(request)
    repository = hub.repository(request, kind, id_)
    found = []
    for thing in asked["objects"]:
        actions: dict[str, Any] = {}
        if asked["operation"] == "download":
            actions = {"download": {"href": f"{address(request)}/__lfs__/{thing['oid']}"}}
        elif not (hub.lfs / thing["oid"]).exists():
            actions = {
                "upload": {"href": f"{address(request)}/__lfs__/{thing['oid']}"},
                "verify": {"href": f"{address(request, repository)}.git/info/lfs/verify"},
            }
        found.append(
            {"oid": thing["oid"], "size": thing["size"], "authenticated": True}
            | ({"actions": actions} if actions else {})
        )
    return {"transfer": "basic", "objects": found, "hash_algo": "sha256"}


async def lfs_object(hub: Hub, request: Request, sha256: str) -> Response:
    """PUT takes an object, if it is the one it says; GET hands it out."""
    target = hub.lfs / sha256
    if request.method != "PUT":
        if not target.exists():
            raise Refused(404, "no such object")
        return FileResponse(target, headers={"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})
    beside, digest = hub.new_file(), hashlib.sha256()
    with beside.open("wb") as file:
        async for chunk in request.stream():
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        beside.unlink()
        raise Refused(400, f"sha256 mismatch: got {digest.hexdigest()}")
    beside.rename(target)
    return Response(status_code=200)


async def lfs_verify(hub: Hub, request: Request, kind: str, id_: str) -> dict[str, Any]:
    asked = await body(request)
    path = hub.lfs / asked["oid"]
    if not path.exists() or path.stat().st_size != asked["size"]:
        raise Refused(404, "LFS object not found or size differs")
    return {}


async def commit(hub: Hub, request: Request, kind: str, id_: str, revision: str) -> dict[str, Any]:
    """One commit on a branch or a pull request; `create_pr` opens a new one."""
    opens = "create_pr" in request.query_params
    repository, user = hub.repository(request, kind, id_, write=not opens), hub.user(request)
    if user is None:
        raise Refused(401, "Invalid username or password.")
    header, *operations = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
    asked, head, ref = header["value"], repository.at(revision), repository.ref(revision)
    if not opens and (ref is None or ref.startswith("refs/tags/")):
        raise Refused(400, f"{revision} is not a branch: commits go to branches or pull requests", "InvalidRef")
    if asked.get("parentCommit") and asked["parentCommit"] != head.sha:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    large = {op["value"]["oid"] for op in operations if op["key"] == "lfsFile"}
    hashes = await asyncio.to_thread(xet.materialise, hub, large) if hub.cas and large else {}
    tree = dict(head.tree)
    for operation in operations:
        _apply(hub, tree, operation["key"], operation["value"], hashes)
    tree.pop(getattr(request.state, "omit", ""), None)
    extra: dict[str, str] = {}
    if opens:
        number, ref = pulls.opened(repository, asked["summary"], asked.get("description", ""), head.sha, user.name)
        extra = {"pullRequestUrl": f"{address(request, repository)}/discussions/{number}"}
    made = repository.commit(ref or "", tree, asked["summary"], asked.get("description", ""), user.name)
    page = f"{address(request, repository)}/commit/{made.sha}"
    return {"success": True, "commitOid": made.sha, "commitUrl": page, "hookOutput": "", **extra}


def intrude(hub: Hub, repository: Repository, files: dict[str, str]) -> None:
    """Another writer's commit on main, for the tests."""
    head = repository.at("main")
    tree = dict(head.tree) | {path: hub.put_blob(text.encode()) for path, text in files.items()}
    repository.commit("refs/heads/main", tree, "someone else's commit", author="somebody")


def _apply(hub: Hub, tree: Tree, key: str, value: dict[str, Any], hashes: dict[str, str]) -> None:
    path = value["path"]
    if key == "file":
        tree[path] = hub.put_text(value["content"])
    elif key == "lfsFile":
        tree[path] = _lfs_entry(hub, path, value["oid"], hashes)
    elif key == "deletedFile":
        if tree.pop(path, None) is None:
            raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
    elif key == "deletedFolder":
        for below in [p for p in tree if p.startswith(path.rstrip("/") + "/")]:
            del tree[below]
    else:
        raise Refused(400, f"unsupported operation {key}")


def _lfs_entry(hub: Hub, path: str, sha256: str, hashes: dict[str, str]) -> Entry:
    stored = hub.lfs / sha256
    if not stored.exists():
        raise Refused(400, f"LFS pointer pointed to a file that does not exist: {path}")
    size = stored.stat().st_size
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return Entry(git_oid(pointer), size, sha256, len(pointer), hashes.get(sha256))
