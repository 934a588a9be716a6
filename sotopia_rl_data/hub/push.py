"""Publishing a release on the Hub, whole or not at all: `push` for a version of the store, `publish` for any release.

    inspect   every file is what the manifest says, and nothing in it looks like a key       release.py, leaks.py
    plan      the steps from the repository as it is to the release                          plan.py
    commit    upload, then ONE commit on top of the head that was planned for                commit.py
    tag       vX.Y.Z on that commit
    check     the tag, every file, the record, and what `load_dataset` makes of it           checking.py

After 409, 412, 429, 5xx or a lost connection a new plan is made from the new head: a commit whose response was lost is
found there by its record, and only the missing steps are done.
"""

from __future__ import annotations

import logging
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
from sotopia_rl_data.hub.release import Release, dataset_release, inspect, with_card
from sotopia_rl_data.store import Version, readme
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.readme import Card
from sotopia_rl_data.store.versions import note_published

log = logging.getLogger(__name__)

State = Literal["published", "already published", "tagged", "pull request", "planned"]

ATTEMPTS = 6
_LONGEST_WAIT_S = 300.0  # a longer Retry-After ends the push


class OnStep(Protocol):
    """Called with the bytes done and the total of a step ("search", "upload", …)."""

    def __call__(self, step: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How to push. `private` None: the account's default. `load`: whether the check loads the release with
    `load_dataset` into a temporary cache. `calls`: files of a redacted ledger to publish too, by path."""

    private: bool | None = None
    create_pr: bool = False
    dry_run: bool = False
    message: str = ""
    allow_secrets: bool = False
    load: bool = True
    calls: Mapping[str, Path] | None = None
    against_secrets: str = (  # the hint where the release has some
        "revoke them, take them out of the source, make the version anew; --allow-secrets publishes them as they are"
    )


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did. `state`: "published", or "tagged" where only the tag was missing; "already published" as
    `version`; "pull request" number `pull`; "planned" by a dry run. `rows[config][split]` counts the rows loaded
    back."""

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

    Raises SecretsFound before anything is sent, and what `publish` raises.
    """
    began = time.monotonic()
    on_step = on_step or (lambda step, done, total: None)
    version.fetch()
    release = dataset_release(version, repo, card, options.calls)
    _search(version, release, options, on_step)
    own_card = readme.read(version.dir)

    def release_for(remote: Remote) -> Release:
        return with_card(release, readme.merge(release.card, remote.card or own_card))

    done = _Pushing(hub, repo, manifests.FILE_NAME, release_for, options, on_step, own_card).run()
    return replace(done, seconds=time.monotonic() - began, warnings=tuple(_warnings(version, done, hub)))


def publish(
    hub: Hub, repo: str, record: str, release_for: Callable[[Remote], Release], options: PushOptions = PushOptions()
) -> Pushed:
    """Publish on `repo` the release that `release_for` makes for the repository as it is. `record` is the file that
    says which release a repository has.

    Raises SecretsFound before anything is written; VersionExists where the number is published with other content;
    HubError and HubUnavailable. After any error `main` is the old release or the new one, and the next run finishes
    the job.
    """
    return _Pushing(hub, repo, record, release_for, options, lambda step, done, total: None).run()


def _search(version: Version, release: Release, options: PushOptions, on_step: OnStep) -> None:
    total = sum(file.size for file in manifests.listed_files(version.manifest))
    read = 0

    def on_bytes(count: int) -> None:
        nonlocal read
        read += count
        on_step("search", read, total)

    secrets = inspect(version, options.calls or {}, on_bytes)
    secrets += leaks.in_text(release.card.block, "the card") + leaks.in_text(options.message, "the message")
    if not options.allow_secrets:
        leaks.check(secrets, version.ref, options.against_secrets)


class _Pushing:
    """The publishing of one release on one repository."""

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
        self._wrote = False  # whether this run has written to the Hub
        self._commit: str | None = None  # the release's commit, once this run knows it
        self._card: str | None = None  # the card's text, if this run wrote it

    def run(self) -> Pushed:
        """Publish the release. Attempts that failed for a temporary reason are repeated."""
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
            self._check_secrets(release, steps.card)
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
                result = planned.make(options.create_pr, self._on_bytes(release, steps))
                if result.pull is not None:
                    return self._outcome("pull request", release, steps, result.commit, pull=result.pull)
                self._commit = result.commit
            hub.tag(self._repo, release.version, str(self._commit), f"digest {release.digest}")
        rows = checking.check(hub, release, self._card, str(self._commit), options.load)
        return replace(self._outcome(state, release, steps, self._commit), rows=rows)

    def _check_secrets(self, release: Release, card: str) -> None:
        """Raises SecretsFound where anything that would be sent has one; the rows of a dataset were searched before."""
        texts = {"the card": card, release.record: release.text, "the message": self._options.message}
        secrets = [leak for where, text in texts.items() for leak in leaks.in_text(text, where)]
        for path, content in release.files.items():
            if not path.endswith(".parquet"):
                secrets += leaks.in_file(content.source, path)
        leaks.check(secrets, f"{self._repo}@{release.version}", self._options.against_secrets)

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

    def _outcome(
        self, state: State, release: Release, steps: ReleasePlan, commit: str | None, pull: int | None = None
    ) -> Pushed:
        version = steps.published_as or release.version
        url = self._hub.page(self._repo)
        if pull is not None:
            url += f"/discussions/{pull}"
        elif commit:
            url += f"/tree/{version}"
        return Pushed(state, self._repo, version, release.digest, commit, steps, release, url, pull)


def _wait(busy: HubUnavailable, attempt: int) -> None:
    """Wait as long as the Hub asks, else longer each time, with jitter. Raises `busy` where the Hub asks for too
    long."""
    if busy.retry_after is not None and busy.retry_after > _LONGEST_WAIT_S:
        raise busy
    backoff = min(2.0**attempt, 30.0) * random.uniform(0.25, 0.5)
    wait = max(backoff, busy.retry_after or 0.0)
    log.info("%s (tried again in %.1f s)", busy.message, wait)
    time.sleep(wait)


def _warnings(version: Version, done: Pushed, hub: Hub) -> Iterator[str]:
    """Note the release in the store; warnings where that failed, or where the store's README was not published."""
    own = readme.prose(readme.read(version.dir))
    if done.plan.remote.card and any(part not in done.plan.card for part in own):
        path = version.dir / readme.FILE_NAME
        yield f"{done.repo} keeps its own text; the text of {path} differs and was not published"
    try:
        _note(version, done, hub)
    except OSError as error:
        yield f"the store could not record the release ({error.strerror}): {version.dir}"


def _note(version: Version, done: Pushed, hub: Hub) -> None:
    """Note the release beside the version; and keep its card in the store, if both have the same name."""
    if done.state in ("pull request", "planned") or done.commit is None:
        return
    note_published(version.dir, hub.published(done.repo, done.version, done.commit))
    if done.repo == version.name and done.state == "published":
        readme.write(version.dir, done.plan.card, done.release.card)
    version.keep_notes()
