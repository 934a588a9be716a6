"""Repositories: who asks, create and delete, info, refs, tags, branches, history, trees."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any
from urllib.parse import parse_qs

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse

from hub_server.state import MAIN, Commit, Hub, Refused, Repository, address, body

PAGE = 100  # entries of a tree; the real Hub has 1,000
_FRONT = re.compile(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))")


async def whoami(hub: Hub, request: Request) -> dict[str, Any]:
    user = hub.user(request)
    if user is None:
        raise Refused(401, "Invalid username or password.")
    return {
        "type": "user",
        "id": user.name,
        "name": user.name,
        "fullname": user.name,
        "isPro": False,
        "orgs": [{"type": "org", "name": org, "id": org} for org in user.orgs],
        "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}},
    }


async def create(hub: Hub, request: Request) -> Any:
    user, asked = hub.user(request), await body(request)
    if user is None or user.role != "write":
        raise Refused(401 if user is None else 403, "You don't have the rights to create a repo", "Forbidden")
    namespace, kind = asked.get("organization") or user.name, asked.get("type") or "model"
    if namespace not in user.namespaces:
        raise Refused(
            403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"', "Forbidden"
        )
    id_ = f"{namespace}/{asked['name'].split('/')[-1]}"
    private = bool(asked.get("private") or asked.get("visibility") == "private")
    new = Repository(kind, id_, private)
    known = {"url": address(request, new), "name": id_, "id": id_}
    if (kind, id_) in hub.repositories:
        return JSONResponse({"error": "You already created this repo"} | known, 409)
    attributes = hub.put_blob(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")
    new.commit(MAIN, {".gitattributes": attributes}, "initial commit", author=user.name)
    hub.repositories[kind, id_] = new
    return known


async def delete(hub: Hub, request: Request) -> dict[str, Any]:
    asked = await body(request)
    id_ = "/".join(filter(None, (asked.get("organization"), asked["name"])))
    kind = asked.get("type") or "model"
    hub.repository(request, kind, id_, write=True)
    del hub.repositories[kind, id_]
    return {}


async def validate_yaml(hub: Hub, request: Request) -> JSONResponse:
    errors = []
    found = _FRONT.match((await body(request)).get("content", ""))
    try:
        if found and not isinstance(yaml.safe_load(found.group(2)), dict):
            errors.append({"message": "YAML metadata must be a mapping"})
    except yaml.YAMLError as error:
        errors.append({"message": f"YAML parse error: {error}"})
    return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)


def described(hub: Hub, repository: Repository, commit: Commit, blobs: bool = False) -> dict[str, Any]:
    card = hub.card(commit)
    siblings = []
    for path, entry in sorted(commit.tree.items()):
        lfs = (
            {"lfs": {"sha256": entry.sha256, "size": entry.size, "pointerSize": entry.pointer}} if entry.sha256 else {}
        )
        siblings.append({"rfilename": path} | ({"size": entry.size, "blobId": entry.oid} | lfs if blobs else {}))
    return {
        "_id": hashlib.md5(repository.id.encode()).hexdigest()[:24],
        "id": repository.id,
        "author": repository.namespace,
        "sha": commit.sha,
        "createdAt": repository.created,
        "lastModified": commit.date,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "tags": [f"license:{card['license']}"] if card.get("license") else [],
        "downloads": 0,
        "likes": 0,
        "cardData": card,
        "siblings": siblings,
    } | ({"modelId": repository.id} if repository.kind == "model" else {})


async def info(hub: Hub, request: Request, kind: str, id_: str, revision: str = "main") -> dict[str, Any]:
    repository = hub.repository(request, kind, id_)
    return described(hub, repository, repository.at(revision), "blobs" in request.query_params)


async def listed(hub: Hub, request: Request, kind: str) -> list[dict[str, Any]]:
    user, asked = hub.user(request), request.query_params
    return [
        described(hub, one, one.at("main"))
        for (of, id_), one in hub.repositories.items()
        if of == kind
        and asked.get("search", "") in id_
        and asked.get("author", one.namespace) == one.namespace
        and (not one.private or (user and one.namespace in user.namespaces))
    ]


async def settings(hub: Hub, request: Request, kind: str, id_: str) -> dict[str, Any]:
    repository, asked = hub.repository(request, kind, id_, write=True), await body(request)
    shown = asked.get("private", asked.get("visibility", "private" if repository.private else "public"))
    repository.private = shown in (True, "private")
    return {"private": repository.private}


async def refs(hub: Hub, request: Request, kind: str, id_: str) -> dict[str, Any]:
    repository = hub.repository(request, kind, id_)

    def under(prefix: str) -> list[dict[str, str]]:
        named = {ref: sha for ref, sha in repository.refs.items() if ref.startswith(prefix)}
        return [{"name": r.removeprefix(prefix), "ref": r, "targetCommit": sha} for r, sha in named.items()]

    found = {"branches": under("refs/heads/"), "tags": under("refs/tags/"), "converts": under("refs/convert/")}
    return found | ({"pullRequests": under("refs/pr/")} if "include_prs" in request.query_params else {})


async def tag(hub: Hub, request: Request, kind: str, id_: str, name: str) -> dict[str, Any]:
    """POST makes a tag on the revision `name`; DELETE removes the tag `name`."""
    repository = hub.repository(request, kind, id_, write=True)
    if request.method == "DELETE":
        if repository.refs.pop(f"refs/tags/{name}", None) is None:
            raise Refused(404, f"Tag {name} not found", "RevisionNotFound")
        return {}
    new = f"refs/tags/{(await body(request))['tag']}"
    if new in repository.refs:
        raise Refused(409, "Tag reference exists already")
    repository.refs[new] = repository.at(name).sha
    return {}


async def branch(hub: Hub, request: Request, kind: str, id_: str, name: str) -> dict[str, Any]:
    repository, ref = hub.repository(request, kind, id_, write=True), f"refs/heads/{name}"
    if request.method == "DELETE":
        if repository.refs.pop(ref, None) is None:
            raise Refused(404, f"Branch {name} not found", "RevisionNotFound")
        return {}
    asked = await body(request)
    if ref in repository.refs and not asked.get("overwrite"):
        raise Refused(409, "Reference already exists")
    if name.startswith("refs/"):
        raise Refused(400, "Invalid branch name")
    repository.refs[ref] = repository.at(asked.get("startingPoint") or "main").sha
    return {}


async def history(hub: Hub, request: Request, kind: str, id_: str, revision: str) -> list[dict[str, Any]]:
    repository, found = hub.repository(request, kind, id_), []
    commit: Commit | None = repository.at(revision)
    while commit:
        found.append(commit.described() | {"message": commit.message, "authors": [{"user": commit.author}]})
        commit = repository.commits.get(commit.parent or "")
    return found


async def tree(hub: Hub, request: Request, kind: str, id_: str, revision: str, path: str = "") -> Any:
    """A page of the entries below `path`; the Link header names the next."""
    repository, path = hub.repository(request, kind, id_), path.strip("/")
    commit, asked = repository.at(revision), request.query_params
    recursive, expand = (asked.get(flag, "").lower() in ("1", "true") for flag in ("recursive", "expand"))
    below = path + "/" if path else ""
    paths = sorted(p for p in commit.tree if p.startswith(below))
    if path and not paths:
        raise Refused(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
    files = [_file(repository, commit, p, expand) for p in paths if recursive or "/" not in p[len(below) :]]
    folders = dict.fromkeys(folder for p in paths for folder in _folders(p, below))
    entries = files + [_folder(commit, f, expand) for f in folders if recursive or "/" not in f[len(below) :]]
    start = int(asked.get("cursor", 0))
    more = request.url.include_query_params(cursor=start + PAGE)
    headers = {"Link": f'<{more}>; rel="next"'} if start + PAGE < len(entries) else {}
    return JSONResponse(entries[start : start + PAGE], headers=headers)


async def paths_info(hub: Hub, request: Request, kind: str, id_: str, revision: str) -> list[dict[str, Any]]:
    repository, raw = hub.repository(request, kind, id_), await request.body()
    if "json" in request.headers.get("content-type", ""):
        asked = json.loads(raw)
    else:
        asked = {key: value if key == "paths" else value[0] for key, value in parse_qs(raw.decode()).items()}
    commit, expand = repository.at(revision), str(asked.get("expand", "")).lower() in ("1", "true")
    paths = asked.get("paths", [])
    found = []
    for path in [paths] if isinstance(paths, str) else paths:
        if path in commit.tree:
            found.append(_file(repository, commit, path, expand))
        elif any(p.startswith(path.rstrip("/") + "/") for p in commit.tree):
            found.append(_folder(commit, path, expand))
    return found


def _file(repository: Repository, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    entry = commit.tree[path].described(path)
    return entry | ({"lastCommit": repository.last_change(commit, path).described()} if expand else {})


def _folder(commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    entry = {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    return entry | ({"lastCommit": commit.described()} if expand else {})


def _folders(path: str, below: str) -> list[str]:
    parts = path[len(below) :].split("/")
    return [below + "/".join(parts[:i]) for i in range(1, len(parts))]
