"""How a planned release gets onto `main` at once: one commit, or one pull request that is merged.

Large files are uploaded first, where no commit names them. Then one commit against the head that was planned from,
so that the Hub refuses it (412) if anyone was faster. A commit of very many files can time out on the Hub: then
several go onto one pull request, the record (`manifest.json`, `run.json`) in the last, and `main` moves when it is
merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from sotopia_rl_data.errors import HubError, HubUnavailable
from sotopia_rl_data.hub.client import Hub, RemoteFile
from sotopia_rl_data.hub.plan import ReleasePlan, Remote
from sotopia_rl_data.hub.release import Content, Release
from sotopia_rl_data.store import readme

Operation = CommitOperationAdd | CommitOperationDelete
OnBytes = Callable[[int], None]

COMMIT_FILES = 250  # in one commit; the Hub advises against many more
_UPLOAD_FILES, _UPLOAD_BYTES = 50, 200_000_000  # in one call, so that progress can be shown


@dataclass(frozen=True, slots=True)
class Landing:
    """Where the release is: a commit of `main`, or the open pull request `pull`."""

    commit: str
    pull: int | None = None


def land(hub: Hub, release: Release, plan: ReleasePlan, message: str, as_pull: bool, on_bytes: OnBytes) -> Landing:
    """Bring what is planned onto `main`; with `as_pull` only as far as a pull request.

    Raises HubUnavailable where anything came between: nothing is on `main` then, or all of it.
    """
    head = plan.remote.head
    if head is None:
        raise HubError(f"{release.repo} has no commit to build upon.", "delete the empty repository and push again")
    opened = _opened(hub, release, plan.remote) if as_pull or plan.operations > COMMIT_FILES else None
    adds = [_add(path, release.files[path]) for path in plan.adds if not opened or path not in opened.has]
    _upload(hub, release.repo, adds, as_pull, on_bytes)
    last = _last(release, plan)
    if not as_pull and plan.operations <= COMMIT_FILES:
        return Landing(_commit(hub, release, [*adds, *last], head, message).commit)
    pull = _on_a_pull(hub, release, opened, adds, last, head, message)
    return pull if as_pull else _merged(hub, release, pull, head)


def release_commit(hub: Hub, release: Release, head: str) -> str:
    """The commit that brought the record which `head` has: others may have written since, a card as a rule."""
    repo, record = release.repo, release.record
    wanted, found = hub.oid(repo, record, head), head
    for commit in hub.history(repo, head):
        if hub.oid(repo, record, commit) != wanted:
            break
        found = commit
    return found


def _upload(hub: Hub, repo: str, adds: Sequence[CommitOperationAdd], as_pull: bool, on_bytes: OnBytes) -> None:
    group: list[CommitOperationAdd] = []
    for i, add in enumerate(adds):
        group.append(add)
        size = sum(one.upload_info.size for one in group)
        if len(group) == _UPLOAD_FILES or size >= _UPLOAD_BYTES or i == len(adds) - 1:
            hub.upload(repo, group, as_pull)
            on_bytes(size)
            group = []


def _add(path: str, content: Content) -> CommitOperationAdd:
    operation = CommitOperationAdd(path, content.source if isinstance(content.source, bytes) else str(content.source))
    operation.upload_info.sha256 = bytes.fromhex(content.sha256)  # known and checked: not to be worked out again
    return operation


def _last(release: Release, plan: ReleasePlan) -> list[Operation]:
    """What completes a release: without these, `main` (or a pull request) does not claim to be it."""
    return [
        *(CommitOperationDelete(path) for path in plan.deletes),
        CommitOperationAdd(readme.FILE_NAME, plan.card.encode()),
        CommitOperationAdd(release.record, release.text.encode()),
    ]


def _commit(
    hub: Hub,
    release: Release,
    operations: Sequence[Operation],
    parent: str,
    message: str,
    onto: str = "main",
    as_pull: bool = False,
) -> Landing:
    made = hub.commit(
        release.repo,
        operations,
        parent=parent,
        title=release.title,
        description=f"{message}\n\ndigest {release.digest}".strip(),
        onto=onto,
        as_pull=as_pull,
    )
    return Landing(made.commit, made.pull)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A pull request of an earlier run that was stopped: its newest commit, and the files that it has of ours."""

    number: int
    commit: str
    has: frozenset[str]
    complete: bool


def _opened(hub: Hub, release: Release, remote: Remote) -> _Opened | None:
    """The pull request to go on with. One that began elsewhere, or holds anything else, is closed."""
    for number in hub.pulls(release.repo, release.title):
        head = hub.commit_of(release.repo, f"refs/pr/{number}")
        tree = hub.tree(release.repo, head)
        changed = {path for path in {*tree, *remote.tree} if _oid(tree, path) != _oid(remote.tree, path)}
        has = frozenset(p for p in changed if p in release.files and _sha256(tree, p) == release.files[p].sha256)
        complete = release.record in changed
        ours = not changed - has if not complete else hub.text(release.repo, release.record, head) == release.text
        if ours and remote.head in hub.history(release.repo, head):
            return _Opened(number, head, has, complete)
        hub.close(release.repo, number, "Another attempt at this release follows.")
    return None


def _on_a_pull(
    hub: Hub,
    release: Release,
    opened: _Opened | None,
    adds: Sequence[Operation],
    last: Sequence[Operation],
    head: str,
    message: str,
) -> Landing:
    """All operations on one pull request, those of `last` at the end, as few commits as may be."""
    if opened and opened.complete:
        return Landing(opened.commit, opened.number)
    number, parent = (opened.number, opened.commit) if opened else (None, head)
    operations = [*adds, *last]
    for start in range(0, len(operations), COMMIT_FILES):
        group = operations[start : start + COMMIT_FILES]
        onto = "main" if number is None else f"refs/pr/{number}"
        made = _commit(hub, release, group, parent, message, onto, as_pull=number is None)
        number, parent = number or made.pull, made.commit
    return Landing(parent, number)


def _merged(hub: Hub, release: Release, made: Landing, head: str) -> Landing:
    if made.pull is None:
        raise HubError("The Hub named no pull request.", f"look at {hub.page(release.repo)}/discussions")
    if hub.head(release.repo) != head:
        raise HubUnavailable(f"Someone else wrote to {release.repo} meanwhile.", "run it again", status=412)
    hub.merge(release.repo, made.pull)
    now = hub.head(release.repo)
    if now is None or hub.text(release.repo, release.record, now) != release.text:
        raise HubUnavailable(f"Pull request {made.pull} of {release.repo} is not merged yet.", "run it again")
    return Landing(release_commit(hub, release, now))


def _oid(tree: Mapping[str, RemoteFile], path: str) -> str | None:
    return tree[path].oid if path in tree else None


def _sha256(tree: Mapping[str, RemoteFile], path: str) -> str | None:
    return tree[path].sha256 if path in tree else None
