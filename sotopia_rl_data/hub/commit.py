"""How a planned release gets onto `main` in one step: by one commit, or by one pull request that is merged.

Large files are uploaded first, before any commit names them. Then one commit follows on top of the head that was
planned for; the Hub refuses it (412) if another writer was faster. A commit of very many files can time out on the Hub:
then several commits go onto one pull request, the record (`manifest.json`, `run.json`) in the last of them, and `main`
changes when the pull request is merged.
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

COMMIT_FILES = 250  # most files of one commit; the Hub advises against many more
_UPLOAD_FILES, _UPLOAD_BYTES = 50, 200_000_000  # most of one upload call: between calls, progress is shown


@dataclass(frozen=True, slots=True)
class PlannedCommit:
    """A release and its plan for a repository; `message` is for people."""

    hub: Hub
    release: Release
    plan: ReleasePlan
    message: str

    def make(self, as_pull: bool, on_bytes: Callable[[int], None]) -> CommitResult:
        """Bring the release onto `main`, or with `as_pull` into a pull request. `on_bytes` is called with bytes
        uploaded.

        Raises HubUnavailable where it failed halfway: then `main` has nothing of the release, or all of it.
        """
        release, plan = self.release, self.plan
        head = plan.remote.head
        if head is None:
            raise HubError(f"{release.repo} has no commit to build on.", "delete the empty repository and push again")
        small = plan.operations <= COMMIT_FILES
        opened = self._opened() if as_pull or not small else None
        adds = [_add(path, release.files[path]) for path in plan.adds if opened is None or path not in opened.has]
        self._upload(adds, as_pull, on_bytes)
        operations: list[Operation] = [
            *adds,  # the record comes last: without it, `main` (or a pull request) is not this release
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
            size = sum(operation.upload_info.size for operation in group)
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
        """The pull request of an earlier run to go on with. Others of the same title are closed."""
        hub, release, remote = self.hub, self.release, self.plan.remote
        before = {path: file.oid for path, file in remote.tree.items()}
        for number in hub.pulls(release.repo, release.title):
            head = hub.commit_of(release.repo, f"refs/pr/{number}")
            tree = hub.tree(release.repo, head)
            after = {path: file.oid for path, file in tree.items()}
            changed = {path for path in {*after, *before} if after.get(path) != before.get(path)}
            present = changed & tree.keys() & release.files.keys()
            has = {path for path in present if tree[path].sha256 == release.files[path].sha256}
            complete = release.record in changed
            ours = changed <= has or (complete and hub.text(release.repo, release.record, head) == release.text)
            if ours and remote.head in hub.history(release.repo, head):
                return _Opened(number, head, frozenset(has), complete)
            hub.close(release.repo, number, "Another attempt at this release follows.")
        return None

    def _on_a_pull(self, opened: _Opened | None, operations: Sequence[Operation], head: str) -> CommitResult:
        """All operations in order on one pull request, in as few commits as possible."""
        if opened and opened.complete:
            return CommitResult(opened.commit, opened.number)
        number, parent = (opened.number, opened.commit) if opened else (None, head)
        for start in range(0, len(operations), COMMIT_FILES):
            onto = "main" if number is None else f"refs/pr/{number}"
            result = self._commit(operations[start : start + COMMIT_FILES], parent, onto, as_pull=number is None)
            number, parent = number or result.pull, result.commit
        return CommitResult(parent, number)

    def _merged(self, pull: CommitResult, head: str) -> CommitResult:
        hub, release = self.hub, self.release
        if pull.pull is None:
            raise HubError(
                "The Hub did not give the number of the pull request that it opened.",
                f"run the same command again; if that fails, see {hub.page(release.repo)}/discussions",
            )
        if hub.head(release.repo) != head:
            raise HubUnavailable(
                f"Someone else changed {release.repo} during this push.", "run the same command again", status=412
            )
        hub.merge(release.repo, pull.pull)
        now = hub.head(release.repo)
        if now is None or hub.text(release.repo, release.record, now) != release.text:
            raise HubUnavailable(
                f"Pull request {pull.pull} of {release.repo} is not merged yet.", "run the same command again"
            )
        return CommitResult(release_commit(hub, release, now))


@dataclass(frozen=True, slots=True)
class _Opened:
    """The pull request of an earlier run that was stopped: its newest commit, and which files of ours it has."""

    number: int
    commit: str
    has: frozenset[str]
    complete: bool


def release_commit(hub: Hub, release: Release, head: str) -> str:
    """The commit that wrote the record of `head`. Later commits may have changed other files, as a rule the card."""
    repo, record = release.repo, release.record
    blob, first = hub.oid(repo, record, head), head
    for commit in hub.history(repo, head):
        if hub.oid(repo, record, commit) != blob:
            break
        first = commit
    return first


def _add(path: str, content: Content) -> CommitOperationAdd:
    operation = CommitOperationAdd(path, content.source if isinstance(content.source, bytes) else str(content.source))
    operation.upload_info.sha256 = bytes.fromhex(content.sha256)  # so that the library does not compute it again
    return operation
