"""The Hub as this project sees it: dataset repositories, commits, files; and its errors as ours.

A thin layer over huggingface_hub's HfApi. It plans nothing and retries nothing: an error that may go away is raised as
HubUnavailable, and the caller decides. Address, token and caches are huggingface_hub's own settings (HF_ENDPOINT,
HF_TOKEN or `hf auth login`, HF_HOME), read when it is first imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError comes from its HTTP library
    EntryNotFoundError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import tqdm

from sotopia_rl_data.errors import HubError, HubUnavailable, NotFound
from sotopia_rl_data.refs import is_path
from sotopia_rl_data.secrets import without_credentials
from sotopia_rl_data.store.fields import MOST_BYTES
from sotopia_rl_data.store.hub_answers import bounded_answers
from sotopia_rl_data.store.hub_errors import hub_errors, no_room, one_line
from sotopia_rl_data.store.versions import Published

DATASET = "dataset"
_TIMEOUT_S = 20.0
_COMMIT = re.compile("[0-9a-f]{40}")
_NO_ROOM = re.compile("StorageFull|FileTooLarge|QuotaExceeded|No space left")  # hf_xet's words for a full disk


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a commit: `sha256` where the Hub keeps it as a large file, `oid` its git blob."""

    path: str
    size: int
    oid: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The result of a commit; `pull` is the number of the pull request that it opened."""

    commit: str
    pull: int | None = None


class Hub:
    """Repositories of one kind ("dataset", "model") at one address, with one token (None: huggingface_hub's own)."""

    def __init__(self, endpoint: str | None = None, token: str | None = None, kind: str = DATASET) -> None:
        self._api = HfApi(endpoint=endpoint, token=token, library_name="sotopia-rl-data")
        self.kind = kind

    @property
    def endpoint(self) -> str:
        """https://huggingface.co, or the address in HF_ENDPOINT, without a name, password or token in it."""
        return without_credentials(self.address)

    @property
    def address(self) -> str:
        """What requests begin with: HF_ENDPOINT as it is, never to be shown or kept."""
        return self._api.endpoint

    def page(self, repo: str) -> str:
        """The web page of a repository."""
        return f"{self.endpoint}/{repo}" if self.kind == "model" else f"{self.endpoint}/{self.kind}s/{repo}"

    @property
    def token(self) -> str | None:
        """The token that requests carry."""
        from huggingface_hub import get_token

        return self._api.token if isinstance(self._api.token, str) else get_token()

    def user(self) -> str:
        """The user of the token. Raises HubError without a token."""
        with self._boundary("your account"):
            return str(self._api.whoami()["name"])

    def head(self, repo: str) -> str | None:
        """The newest commit of `main`; None where there is no such repository, or the token cannot see it."""
        try:
            return self.commit_of(repo, "main")
        except NotFound:
            return None

    def commit_of(self, repo: str, revision: str) -> str:
        """The full SHA that a branch, a tag or the beginning of a SHA stands for. Raises NotFound."""
        with self._boundary(repo):
            sha: object = self._info(repo, "sha", revision).sha
        if not isinstance(sha, str) or not _COMMIT.fullmatch(sha):
            raise HubError(f"The Hub did not say which commit {repo}@{revision} is.", "run the same command again")
        return sha

    def private(self, repo: str) -> bool:
        """Whether the repository is private."""
        with self._boundary(repo):
            private: object = self._info(repo, "private").private
        if not isinstance(private, bool):
            raise HubError(f"The Hub did not say whether {repo} is private.", "run the same command again")
        return private

    def _info(self, repo: str, name: Literal["sha", "private"], revision: str | None = None) -> Any:
        """One property of a repository, without its card, whose aliases may expand, and every file's name."""
        return self._api.repo_info(repo, repo_type=self.kind, revision=revision, timeout=_TIMEOUT_S, expand=name)

    def tags(self, repo: str) -> dict[str, str]:
        """Tag -> commit."""
        with self._boundary(repo):
            tags = self._api.list_repo_refs(repo, repo_type=self.kind).tags
            return {_text(tag.name): _text(tag.target_commit) for tag in tags}

    def tree(self, repo: str, commit: str) -> dict[str, RemoteFile]:
        """Every file of a commit, by path."""
        with self._boundary(repo):
            entries = self._api.list_repo_tree(repo, repo_type=self.kind, revision=commit, recursive=True)
            files = [entry for entry in entries if isinstance(entry, RepoFile)]
            return {
                _text(file.path): RemoteFile(
                    file.path, _count(file.size), _text(file.blob_id), _text(file.lfs.sha256) if file.lfs else None
                )
                for file in files
            }

    def oid(self, repo: str, path: str, commit: str) -> str | None:
        """The git blob of one file of a commit; None where it has no such file."""
        with self._boundary(repo):
            entries = self._api.get_paths_info(repo, path, repo_type=self.kind, revision=commit)
        return next((entry.blob_id for entry in entries if isinstance(entry, RepoFile)), None)

    def history(self, repo: str, commit: str) -> list[str]:
        """The commits that lead to `commit`, newest first."""
        with self._boundary(repo):
            return [_text(c.commit_id) for c in self._api.list_repo_commits(repo, repo_type=self.kind, revision=commit)]

    def text(self, repo: str, path: str, commit: str) -> str | None:
        """A small file of a commit; None where it has no such file. Raises HubError where it is a large one."""
        try:
            return self.file(repo, path, commit, most=MOST_BYTES).read_text("utf-8")
        except EntryNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise HubError(f"{path} of {repo} is not UTF-8 text.", f"repair it on {self.endpoint}") from error

    def file(self, repo: str, path: str, commit: str, again: bool = False, *, most: int) -> Path:
        """The path of a commit's file in huggingface_hub's cache, downloaded if it is not there (`again`: in any case).

        Raises EntryNotFoundError where the commit has no such file; HubError where the server says that it has more
        than `most` bytes, or sends more; StoreError where the disk is full.
        """
        with self._boundary(repo), _transfers():
            found = Path(
                self._api.hf_hub_download(
                    repo,
                    path,
                    repo_type=self.kind,
                    revision=commit,
                    force_download=again,
                    etag_timeout=_TIMEOUT_S,
                    tqdm_class=_bounded(most, path, repo),
                )
            )
        if found.stat().st_size <= most:
            return found
        if again:
            raise _too_large(most, path, repo)
        return self.file(repo, path, commit, True, most=most)  # the cached one is damaged

    def create(self, repo: str, private: bool | None) -> None:
        """Make the repository, if it does not exist."""
        with self._boundary(repo):
            self._api.create_repo(repo, repo_type=self.kind, private=private, exist_ok=True)

    def upload(self, repo: str, additions: Sequence[CommitOperationAdd], as_pull: bool) -> None:
        """Upload large files before a commit names them. A second call transfers nothing again."""
        with self._boundary(repo), _transfers():
            self._api.preupload_lfs_files(repo, additions, repo_type=self.kind, create_pr=as_pull, free_memory=False)

    def commit(
        self,
        repo: str,
        operations: Sequence[CommitOperationAdd | CommitOperationDelete],
        *,
        parent: str,
        title: str,
        description: str,
        onto: str = "main",
        as_pull: bool = False,
    ) -> CommitResult:
        """Commit to a branch or pull request whose newest commit is `parent`; `as_pull` opens a pull request."""
        with self._boundary(repo), _transfers():
            info = self._api.create_commit(
                repo,
                operations,
                repo_type=self.kind,
                commit_message=title,
                commit_description=description,
                parent_commit=parent,
                revision=None if as_pull else onto,
                create_pr=as_pull,
            )
        return CommitResult(info.oid, info.pr_num if as_pull else None)

    def tag(self, repo: str, name: str, commit: str, message: str) -> None:
        """Make a tag. Raises HubUnavailable (409) where it exists already."""
        with self._boundary(repo):
            self._api.create_tag(repo, repo_type=self.kind, tag=name, revision=commit, tag_message=message)

    def pulls(self, repo: str, title: str) -> list[int]:
        """The numbers of the open pull requests of this title, newest first."""
        with self._boundary(repo):
            discussions = self._api.get_repo_discussions(repo, repo_type=self.kind, discussion_type="pull_request")
            pulls = [
                _count(pull.num) for pull in discussions if pull.title == title and pull.status in ("open", "draft")
            ]
        return sorted(pulls, reverse=True)

    def merge(self, repo: str, pull: int) -> None:
        """Merge a pull request into `main`. Raises HubUnavailable (409) where it conflicts with what `main` has now."""
        with self._boundary(repo):
            self._api.merge_pull_request(repo, pull, repo_type=self.kind)

    def close(self, repo: str, pull: int, comment: str) -> None:
        """Close a pull request without merging it."""
        with self._boundary(repo):
            self._api.change_discussion_status(repo, pull, "closed", repo_type=self.kind, comment=comment)

    def published(self, repo: str, version: str, commit: str) -> Published:
        """What the store notes about a release."""
        return Published(repo, version, (commit,), self.endpoint)

    @contextmanager
    def _boundary(self, repo: str) -> Iterator[None]:
        """Turns huggingface_hub's errors about `repo` into ours, with a hint."""
        with hub_errors(repo, self.kind, self.page(repo), self.endpoint):
            yield


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{type(value).__name__} for a count")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} for a text")
    return value


def _too_large(most: int, path: str, repo: str) -> HubError:
    return HubError(
        f"{path} of {repo} has more than {most:,} bytes; it was not downloaded.",
        "its publisher has to make a new version; until then, pull another version",
    )


def _bounded(most: int, path: str, repo: str) -> type[tqdm]:
    """A progress bar, which huggingface_hub makes when it knows the size that the server says, and moves before it
    writes a piece: more than `most` bytes are an error, before the first or after these. Its methods for what crosses
    the network, which huggingface_hub looks for, count nothing: hf_xet may fetch more than the file has."""

    class Bounded(tqdm):
        taken = 0

        def __init__(self, *args: Any, total: float | None = None, **options: Any) -> None:
            if total is not None and total > most:
                raise _too_large(most, path, repo)
            super().__init__(*args, total=total, **options)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            self.taken += int(n or 0)
            if self.taken > most:
                raise _too_large(most, path, repo)
            moved: bool | None = super().update(n)
            return moved

        def update_transfer(self, n: float | None = 1) -> None:
            pass

        def set_transfer_postfix_str(self, postfix: str, refresh: bool = False) -> None:
            pass

    return Bounded


def why_not_found(model: str, error: BaseException) -> str:
    """Why `model`, a folder or a Hub id, was not found, where `error` comes from that; "" for any other error."""
    if Path(model).exists():
        return ""
    behind = [error]
    while (before := behind[-1].__cause__ or behind[-1].__context__) is not None:
        behind.append(before)

    def has(*kinds: type[Exception]) -> bool:
        return any(isinstance(one, kinds) for one in behind)

    if is_path(model) or has(HFValidationError):
        return f"there is no folder {model}"
    if has(RepositoryNotFoundError):
        return f"there is no folder ./{model}, and the Hub has no such model, or none that your token may see"
    if has(LocalEntryNotFoundError):
        reached = "is not asked, because HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "cannot be reached"
        return f"there is no folder ./{model}, and the Hub {reached}"
    return ""


def quiet(bars: bool | None = None) -> None:
    """Silence huggingface_hub's log; `bars` says whether it draws its own progress bars (None: as before)."""
    import logging

    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None and bars is not None:
        if bars:
            enable_progress_bars()
        else:
            disable_progress_bars()


@contextmanager
def _transfers() -> Iterator[None]:
    """Leaves a transfer its time, and unwraps its errors: the transfer library wraps the real ones."""
    try:
        with bounded_answers(transfer=True):
            yield
    except (RuntimeError, ValueError) as error:
        inner: BaseException | None = error
        while inner is not None and not isinstance(inner, (HTTPError, OSError)):
            inner = inner.__cause__ or inner.__context__
        if inner is not None:
            raise inner from error
        if _NO_ROOM.search(str(error)):
            raise no_room(one_line(error)) from error
        if isinstance(error, ValueError):
            raise HubError(
                f"The Hub does not accept this release: {one_line(error)}.", "push-to-hub --dry-run shows the card"
            ) from error
        raise HubUnavailable(f"The transfer broke off: {one_line(error)}.", "run the same command again") from error
