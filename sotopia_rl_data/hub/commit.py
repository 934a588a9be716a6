"""How a planned release gets onto `main` at once: one commit, or one pull request that is merged.

Large files are uploaded first, where no commit names them. Then one commit against the head that was planned from,
so that the Hub refuses it (412) if anyone was faster. A commit of very many files can time out on the Hub: then
several go onto one pull request, the record (`manifest.json`, `run.json`) in the last, and `main` moves when it is
merged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from sotopia_rl_data.errors import HubError, HubUnavailable
from sotopia_rl_data.hub.client import CommitResult, Hub
from sotopia_rl_data.hub.plan import ReleasePlan
from sotopia_rl_data.hub.release import Content, Release
from sotopia_rl_data.store import readme

Operation = CommitOperationAdd | CommitOperationDelete

COMMIT_FILES = 250  # in one commit; the Hub advises against many more
_UPLOAD_FILES, _UPLOAD_BYTES = 50, 200_000_000  # in one call, so that progress can be shown


@dataclass(frozen=True, slots=True)
class PlannedCommit:
    """A release as it was planned, for the repository that it is to be committed to; `message` is for people."""

    hub: Hub
    release: Release
    plan: ReleasePlan
    message: str

    def make(self, as_pull: bool, on_bytes: Callable[[int], None]) -> CommitResult:
        """Bring the release onto `main`; with `as_pull` only as far as a pull request. `on_bytes` hears of uploads.

        Raises HubUnavailable where anything came between: nothing is on `main` then, or all of it.
        """
        release, plan = self.release, self.plan
        head = plan.remote.head
        if head is None:
            raise HubError(f"{release.repo} has no commit to build upon.", "delete the empty repository and push again")
        small = plan.operations <= COMMIT_FILES
        opened = self._opened() if as_pull or not small else None
        adds = [_add(path, release.files[path]) for path in plan.adds if opened is None or path not in opened.has]
        self._upload(adds, as_pull, on_bytes)
        operations: list[Operation] = [
            *adds,  # then what completes a release: without it, `main` (or a pull request) does not claim to be it
            *(CommitOperationDelete(path) for path in plan.deletes),
            CommitOperationAdd(readme.FILE_NAME, plan.card.encode()),
            CommitOperationAdd(release.record, release.text.encode()),
        ]
        if small and not as_pull:
            return self._commit(operations, head)
        pull = self._on_a_pull(opened, operations, head)
        return pull if as_pull else self._merged(pull, head)

    def _upload(self, adds: Sequence[CommitOperationAdd], as_pull: bool, on_bytes: Callable[[int], None]) -> None:
        group: list[CommitOperationAdd] = []
        for i, add in enumerate(adds):
            group.append(add)
            size = sum(one.upload_info.size for one in group)
            if len(group) == _UPLOAD_FILES or size >= _UPLOAD_BYTES or i == len(adds) - 1:
                self.hub.upload(self.release.repo, group, as_pull)
                on_bytes(size)
                group = []

    def _commit(
        self, operations: Sequence[Operation], parent: str, onto: str = "main", as_pull: bool = False
    ) -> CommitResult:
        return self.hub.commit(
            self.release.repo,
            operations,
            parent=parent,
            title=self.release.title,
            description=f"{self.message}\n\ndigest {self.release.digest}".strip(),
            onto=onto,
            as_pull=as_pull,
        )

    def _opened(self) -> _Opened | None:
        """The pull request to go on with. One that began elsewhere, or holds anything else, is closed."""
        hub, release, remote = self.hub, self.release, self.plan.remote
        before = {path: file.oid for path, file in remote.tree.items()}
        for number in hub.pulls(release.repo, release.title):
            head = hub.commit_of(release.repo, f"refs/pr/{number}")
            tree = hub.tree(release.repo, head)
            after = {path: file.oid for path, file in tree.items()}
            changed = {path for path in {*after, *before} if after.get(path) != before.get(path)}
            has = {p for p in changed & tree.keys() & release.files.keys() if tree[p].sha256 == release.files[p].sha256}
            complete = release.record in changed
            ours = not changed - has if not complete else hub.text(release.repo, release.record, head) == release.text
            if ours and remote.head in hub.history(release.repo, head):
                return _Opened(number, head, frozenset(has), complete)
            hub.close(release.repo, number, "Another attempt at this release follows.")
        return None

    def _on_a_pull(self, opened: _Opened | None, operations: Sequence[Operation], head: str) -> CommitResult:
        """All operations on one pull request, in their order, as few commits as may be."""
        if opened and opened.complete:
            return CommitResult(opened.commit, opened.number)
        number, parent = (opened.number, opened.commit) if opened else (None, head)
        for start in range(0, len(operations), COMMIT_FILES):
            onto = "main" if number is None else f"refs/pr/{number}"
            made = self._commit(operations[start : start + COMMIT_FILES], parent, onto, as_pull=number is None)
            number, parent = number or made.pull, made.commit
        return CommitResult(parent, number)

    def _merged(self, made: CommitResult, head: str) -> CommitResult:
        hub, release = self.hub, self.release
        if made.pull is None:
            raise HubError("The Hub named no pull request.", f"look at {hub.page(release.repo)}/discussions")
        if hub.head(release.repo) != head:
            raise HubUnavailable(f"Someone else wrote to {release.repo} meanwhile.", "run it again", status=412)
        hub.merge(release.repo, made.pull)
        now = hub.head(release.repo)
        if now is None or hub.text(release.repo, release.record, now) != release.text:
            raise HubUnavailable(f"Pull request {made.pull} of {release.repo} is not merged yet.", "run it again")
        return CommitResult(release_commit(hub, release, now))


@dataclass(frozen=True, slots=True)
class _Opened:
    """A pull request of an earlier run that was stopped: its newest commit, and the files that it has of ours."""

    number: int
    commit: str
    has: frozenset[str]
    complete: bool


def release_commit(hub: Hub, release: Release, head: str) -> str:
    """The commit that brought the record which `head` has: others may have written since, a card as a rule."""
    repo, record = release.repo, release.record
    wanted, found = hub.oid(repo, record, head), head
    for commit in hub.history(repo, head):
        if hub.oid(repo, record, commit) != wanted:
            break
        found = commit
    return found


def _add(path: str, content: Content) -> CommitOperationAdd:
    operation = CommitOperationAdd(path, content.source if isinstance(content.source, bytes) else str(content.source))
    operation.upload_info.sha256 = bytes.fromhex(content.sha256)  # known and checked: not to be worked out again
    return operation
