"""A release gets onto the Hub, whole or not at all: `push` for a version of the store, `publish` for anything released.

    inspect   every file is what the manifest says, and nothing in it looks like a key       release.py, leaks.py
    plan      the repository as it is, the release as it is to be                            plan.py
    commit    upload, then ONE commit against the head that was planned from                 commit.py
    tag       vX.Y.Z on that commit
    check     the tag, every file, the record, and what `load_dataset` makes of it           checking.py

After 409, 412, 429, 5xx or a lost connection it is planned anew from the new head: a commit whose answer was lost is
found there by its record, and only what is missing is done.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from sotopia_rl_data.errors import HubError, HubUnavailable
from sotopia_rl_data.hub import checking, leaks
from sotopia_rl_data.hub.client import Hub
from sotopia_rl_data.hub.commit import PlannedCommit, release_commit
from sotopia_rl_data.hub.plan import NOTHING, ReleasePlan, Remote, look, plan
from sotopia_rl_data.hub.release import Release, dataset_release, inspect
from sotopia_rl_data.store import Version, readme
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.readme import Card
from sotopia_rl_data.store.versions import note_published

State = Literal["published", "already published", "tagged", "pull request", "planned"]

ATTEMPTS = 6
_PATIENCE_S = 300.0  # the longest Retry-After that is waited for


class OnStep(Protocol):
    """Hears of each step ("search", "upload", …) how far it is, in bytes, and of how many."""

    def __call__(self, step: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How to push. `private` None: as the account's default. `load`: whether the check ends with a `load_dataset` of
    the release in a throw-away cache. `calls`: files of a redacted ledger that go along, by path."""

    private: bool | None = None
    create_pr: bool = False
    dry_run: bool = False
    message: str = ""
    allow_secrets: bool = False
    load: bool = True
    calls: Mapping[str, Path] | None = None


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did. `state`: "published", or "tagged" where only the tag was missing; "already published" as
    `version`; "pull request" number `pull`; "planned" by a dry run. `rows[config][split]` is what was loaded back."""

    state: State
    repo: str
    version: str
    digest: str
    commit: str | None
    plan: ReleasePlan
    release: Release
    url: str
    pull: int | None = None
    rows: Mapping[str, Mapping[str, int]] | None = None
    attempts: int = 1
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        files = self.release.files
        return {
            "state": self.state,
            "repo": self.repo,
            "version": self.version,
            "digest": self.digest,
            "commit": self.commit,
            "url": self.url,
            "pull": self.pull,
            "adds": {path: files[path].size for path in self.plan.adds},
            "deletes": list(self.plan.deletes),
            "unchanged": list(self.plan.unchanged),
            "rows": self.rows,
            "attempts": self.attempts,
            "seconds": round(self.seconds, 2),
            "warnings": list(self.warnings),
        }


def push(
    version: Version,
    card: Card,
    hub: Hub,
    repo: str,
    options: PushOptions = PushOptions(),
    on_step: OnStep | None = None,
) -> Pushed:
    """Publish `version` as a release of the dataset repository `repo` (ORG/NAME), with this card.

    Raises SecretsFound before anything is asked, and what `publish` raises.
    """
    began = time.monotonic()
    on_step = on_step or (lambda step, done, total: None)
    release = dataset_release(version, repo, card, options.calls)
    _search(version, release, options, on_step)
    pushing = _Pushing(
        hub, repo, manifests.FILE_NAME, lambda remote: release, options, on_step, readme.read(version.dir)
    )
    done = pushing.to_the_end()
    return replace(done, seconds=time.monotonic() - began, warnings=tuple(_warnings(version, done, hub)))


def publish(
    hub: Hub, repo: str, record: str, release_for: Callable[[Remote], Release], options: PushOptions = PushOptions()
) -> Pushed:
    """Bring to `repo` what `release_for` makes for the repository as it is; `record` is the file that says what it is.

    Raises SecretsFound before anything is written; VersionExists where the number is published with other content;
    HubError and HubUnavailable. Whatever is raised, `main` is the old release or the new one, and the next run
    finishes the job.
    """
    return _Pushing(hub, repo, record, release_for, options, lambda step, done, total: None).to_the_end()


def _search(version: Version, release: Release, options: PushOptions, on_step: OnStep) -> None:
    total = sum(file.size for file in manifests.listed_files(version.manifest))
    read = 0

    def on_bytes(count: int) -> None:
        nonlocal read
        read += count
        on_step("search", read, total)

    found = inspect(version, options.calls or {}, on_bytes)
    found += leaks.in_text(release.card.block, "the card") + leaks.in_text(options.message, "the message")
    if not options.allow_secrets:
        leaks.check(found, version.ref)


class _Pushing:
    """One release on its way to one repository."""

    def __init__(
        self,
        hub: Hub,
        repo: str,
        record: str,
        release_for: Callable[[Remote], Release],
        options: PushOptions,
        on_step: OnStep,
        own_card: str = "",
    ) -> None:
        self._hub, self._repo, self._record, self._release_for = hub, repo, record, release_for
        self._options, self._on_step, self._own_card = options, on_step, own_card
        self._wrote = False  # anything at all
        self._commit: str | None = None  # of the release, once this run knows it
        self._card: str | None = None  # as this run wrote it

    def to_the_end(self) -> Pushed:
        """The outcome. Attempts that may go better the next time are repeated."""
        attempt = 1
        while True:
            try:
                return replace(self._once(), attempts=attempt)
            except HubUnavailable as busy:
                if attempt == ATTEMPTS or (busy.status == 0 and not self._wrote):
                    raise
                _wait(busy, attempt)
                attempt += 1

    def _once(self) -> Pushed:
        hub, options = self._hub, self._options
        release, steps = self._planned()
        if not options.allow_secrets:
            found = leaks.in_text(steps.card, "the card") + leaks.in_text(release.text, release.record)
            leaks.check(found, f"{self._repo}@{release.version}")
        if steps.published and steps.published != self._commit:
            checking.check_whole(hub, self._repo, steps.published_as, steps.published)
            return self._outcome("already published", release, steps, steps.published)
        if options.dry_run:
            return self._outcome("planned", release, steps, None)
        state: State = "published" if self._wrote else "tagged"
        self._wrote = True
        if steps.remote is NOTHING:
            hub.create(self._repo, options.private)
            release, steps = self._planned()
        elif options.private is not None and hub.private(self._repo) != options.private:
            raise HubError(
                f"{self._repo} is {'public' if options.private else 'private'} already.",
                f"change it at {hub.page(self._repo)}/settings, or leave the option out",
            )
        if steps.published is None:
            if steps.untagged:
                self._commit = release_commit(hub, release, str(steps.remote.head))
            else:
                state, self._card = "published", steps.card
                planned = PlannedCommit(hub, release, steps, options.message)
                made = planned.make(options.create_pr, self._on_bytes(release, steps))
                if made.pull is not None:
                    return self._outcome("pull request", release, steps, made.commit, pull=made.pull)
                self._commit = made.commit
            hub.tag(self._repo, release.version, str(self._commit), f"digest {release.digest}")
        rows = checking.check(hub, release, self._card, str(self._commit), options.load)
        return self._outcome(state, release, steps, self._commit, rows=rows)

    def _planned(self) -> tuple[Release, ReleasePlan]:
        remote = look(self._hub, self._repo, self._record)
        release = self._release_for(remote)
        return release, plan(self._hub, release, remote, self._own_card)

    def _on_bytes(self, release: Release, steps: ReleasePlan) -> Callable[[int], None]:
        total, sent = sum(release.files[path].size for path in steps.adds), 0

        def on_bytes(count: int) -> None:
            nonlocal sent
            sent += count
            self._on_step("upload", min(sent, total), total)

        return on_bytes

    def _outcome(self, state: State, release: Release, steps: ReleasePlan, commit: str | None, **more: Any) -> Pushed:
        version = steps.published_as or release.version
        url = self._hub.page(self._repo)
        url += f"/discussions/{more['pull']}" if "pull" in more else f"/tree/{version}" if commit else ""
        return Pushed(state, self._repo, version, release.digest, commit, steps, release, url, **more)


def _wait(busy: HubUnavailable, attempt: int) -> None:
    """As long as the Hub asks; else longer each time, and not in step with other writers."""
    if busy.retry_after is not None and busy.retry_after > _PATIENCE_S:
        raise busy
    backoff = min(2.0**attempt, 30.0) * random.uniform(0.25, 0.5)
    time.sleep(max(backoff, busy.retry_after or 0.0))


def _warnings(version: Version, done: Pushed, hub: Hub) -> Iterator[str]:
    """Note the release in the store; what could not be noted, and what of the store's README was not published."""
    own = readme.prose(readme.read(version.dir))
    if done.plan.remote.card and any(part not in done.plan.card for part in own):
        path = version.dir / readme.FILE_NAME
        yield f"{done.repo} keeps its own prose; that of {path} differs and was not published"
    try:
        _note(version, done, hub)
    except OSError as error:
        yield f"the store could not note the release ({error.strerror}): {version.dir}"


def _note(version: Version, done: Pushed, hub: Hub) -> None:
    """Keep what the release is called on the Hub beside the version; and its card, if they share the name."""
    if done.state in ("pull request", "planned") or done.commit is None:
        return
    note_published(version.dir, hub.published(done.repo, done.version, done.commit))
    if done.repo == version.name and done.state == "published":
        readme.write(version.dir, done.plan.card, done.release.card.pictures)
