"""Pull requests: opened, listed, closed, merged. A merge is three-way, and refuses where both sides changed a file."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from hub_server.state import MAIN, Hub, Pull, Refused, Repository, Tree, body, now


def opened(repository: Repository, title: str, description: str, base: str, author: str) -> tuple[int, str]:
    """A new pull request that begins at the commit `base`: its number and its ref."""
    number = len(repository.pulls) + 1
    repository.pulls[number] = Pull(title, base, author, description=description)
    repository.refs[f"refs/pr/{number}"] = base
    return number, f"refs/pr/{number}"


async def discussions(
    hub: Hub, request: Request, kind: str, id_: str, number: str | None = None, action: str | None = None
) -> dict[str, Any]:
    """All pull requests or one; POST opens, merges or closes one."""
    repository, user = hub.repository(request, kind, id_, write=action == "merge"), hub.user(request)
    if number is None and request.method == "POST":
        asked = await body(request)
        if user is None:
            raise Refused(401, "Invalid username or password.")
        new, _ = opened(repository, asked["title"], asked.get("description", ""), repository.refs[MAIN], user.name)
        repository.pulls[new].status = "draft"
        return {"num": new}
    if number is None:
        found = [_described(repository, n) for n in repository.pulls]
        return {"discussions": found, "count": len(found), "start": 0}
    if int(number) not in repository.pulls:
        raise Refused(404, "Discussion not found")
    pull = repository.pulls[int(number)]
    if action == "merge":
        _merge(repository, int(number), user.name if user else "")
    elif action == "status":
        pull.status = (await body(request))["status"]
    if request.method == "POST":
        event = {"id": "0", "type": "status-change", "createdAt": now(), "author": {"name": user.name if user else ""}}
        return {"newStatus": event | {"data": {"status": pull.status}}}
    opening = {
        "id": "1",
        "type": "comment",
        "createdAt": pull.date,
        "author": {"name": pull.author},
        "data": {"edited": False, "hidden": False, "latest": {"raw": pull.description}},
    }
    more = {"changes": {"base": MAIN}, "filesWithConflicts": _conflicts(repository, int(number)), "diffUrl": ""}
    return _described(repository, int(number)) | {"events": [opening]} | more


def _described(repository: Repository, number: int) -> dict[str, Any]:
    pull = repository.pulls[number]
    return {
        "num": number,
        "title": pull.title,
        "status": pull.status,
        "isPullRequest": True,
        "createdAt": pull.date,
        "author": {"name": pull.author},
        "repo": {"name": repository.id, "type": repository.kind},
        "repoOwner": {},
    }


def _trees(repository: Repository, number: int) -> tuple[Tree, Tree, Tree]:
    """Where the pull request began, what it says now, and what main says."""
    base = repository.commits[repository.pulls[number].base].tree
    return base, repository.at(f"refs/pr/{number}").tree, repository.at("main").tree


def _conflicts(repository: Repository, number: int) -> list[str]:
    base, theirs, main = _trees(repository, number)
    both = (p for p in {*base, *theirs, *main} if base.get(p) != theirs.get(p) and base.get(p) != main.get(p))
    return sorted(p for p in both if theirs.get(p) != main.get(p))


def _merge(repository: Repository, number: int, who: str) -> None:
    pull = repository.pulls[number]
    if pull.status not in ("open", "draft"):
        raise Refused(409, f"Pull request is {pull.status}")
    if conflicts := _conflicts(repository, number):
        raise Refused(409, f"Merge conflicts in {', '.join(conflicts)}")
    base, theirs, main = _trees(repository, number)
    merged = dict(main)
    for path in {*base, *theirs}:
        if base.get(path) == theirs.get(path):
            continue
        if path in theirs:
            merged[path] = theirs[path]
        else:
            merged.pop(path, None)
    repository.commit(MAIN, merged, f"{pull.title} (#{number})", author=who)
    pull.status = "merged"
