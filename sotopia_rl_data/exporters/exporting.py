"""The core of `export`: the episodes of a version into a folder that the sotopia library reads as its local storage.

    DIR/EpisodeLog/<episode>.json  DIR/EnvironmentProfile/<id>.json  DIR/AgentProfile/<id>.json  DIR/episodes.jsonl

Each record is read by our own importer before it is written, and differences from the episode are counted by field.
The folder is written under another name and then renamed: it is there completely or not at all.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import InputError, StoreError, UsageError
from sotopia_rl_data.exporters.sotopia import Record, agent_profile, environment_profile, episode_log, export_row
from sotopia_rl_data.importers.formats.episode_log import read_episode_log
from sotopia_rl_data.importers.profiles import GatheredProfiles
from sotopia_rl_data.query import Dataset
from sotopia_rl_data.rewards.resolve import choose_evaluator, evaluators
from sotopia_rl_data.schema import Agent, Episode, Turn
from sotopia_rl_data.store import Version

_LONGEST_NAME = 250  # bytes: with ".json" the file's name has at most 255, the limit of common file systems


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote. `equal` counts the episodes that are read back as they are in the version, except for their
    `source`; `differs` counts the others, by field. `failures` has the episodes that could not be written, and why."""

    version: str
    directory: str
    episodes: int
    environments: int
    agents: int
    evaluator: str
    equal: int
    differs: Mapping[str, int]
    failures: tuple[str, ...]


def export_sotopia(
    version: Version, directory: Path, *, evaluator: str | None = None, progress: Callable[[int], None] | None = None
) -> ExportReport:
    """Write every episode of `version` into `directory`, which must not exist or be empty.

    `evaluator` names the evaluator whose scores are written, if there are several. `progress(1)` is called for each
    episode. Raises NotFound where there are no episodes, UsageError, StoreError; after an error `directory` is
    unchanged.
    """
    dataset = Dataset(version)
    chosen = _evaluator(dataset, evaluator)
    with written_beside(directory) as beside:
        folder = _ExportFolder(beside, chosen)
        with (beside / "episodes.jsonl").open("w", encoding="utf-8") as rows:
            for episode in dataset.episodes():
                row = folder.add(episode)
                if row is not None:
                    rows.write(json.dumps(row) + "\n")
                if progress is not None:
                    progress(1)
        if not folder.episodes:
            reason = folder.failures[0] if folder.failures else "the version has none"
            raise InputError(
                f"No episode of {version.ref} could be exported; the first reason: {reason}.",
                "export a version that has such episodes",
            )
    return ExportReport(
        version=version.ref,
        directory=str(directory),
        episodes=folder.episodes,
        environments=len(folder.environments),
        agents=len(folder.agents),
        evaluator=chosen,
        equal=folder.equal,
        differs=dict(folder.differs.most_common()),
        failures=tuple(folder.failures),
    )


@dataclass(slots=True)
class _ExportFolder:
    """The folder that is being written, and what it has so far."""

    directory: Path
    evaluator: str
    episodes: int = 0
    equal: int = 0
    environments: set[str] = field(default_factory=set)
    agents: set[str] = field(default_factory=set)
    differs: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _profiles: GatheredProfiles = field(default_factory=GatheredProfiles)

    def add(self, episode: Episode) -> Record | None:
        """Write an episode's log and its new profiles. Returns its export row, or None if it cannot be written."""
        ids = (episode.episode_id, episode.environment_id, *(agent.agent for agent in episode.agents))
        unusable = [name for name in ids if not _can_name_file(name)]
        if unusable:
            self.failures.append(f"{episode.episode_id}: {unusable[0]!r} cannot be the name of a file")
            return None
        log = episode_log(episode, self.evaluator)
        self._add_profile(self.environments, "EnvironmentProfile", environment_profile(episode))
        for agent in episode.agents:
            self._add_profile(self.agents, "AgentProfile", agent_profile(agent, episode))
        try:
            read_back, _ = read_episode_log(json.loads(json.dumps(log)), "", self._profiles)
        except InputError as error:
            self.failures.append(f"{episode.episode_id}: {error.message.rstrip('.')}")
            return None
        self._write("EpisodeLog", episode.episode_id, log)
        changed = differences(episode, read_back)
        self.differs.update(changed)
        self.episodes += 1
        if not changed:
            self.equal += 1
        return export_row(episode, log)

    def _add_profile(self, known: set[str], folder: str, profile: Record) -> None:
        if profile["pk"] not in known:
            known.add(profile["pk"])
            self._profiles.add(profile["pk"], profile)
            self._write(folder, profile["pk"], profile)

    def _write(self, folder: str, name: str, record: Record) -> None:
        path = self.directory / folder / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record), encoding="utf-8")


def differences(episode: Episode, read_back: Episode) -> list[str]:
    """The fields in which an episode differs after it was read back: `agents.goal` for a field of an agent,
    `turns.failed` where the turns differ only in that flag.

    `source` is not compared: it names the format from which an episode was read.
    """
    compared = [name for name in Episode.__slots__ if name not in ("source", "agents")]
    changed = [name for name in compared if getattr(episode, name) != getattr(read_back, name)]
    if "turns" in changed and _unflagged(episode) == _unflagged(read_back):
        changed[changed.index("turns")] = "turns.failed"
    if len(episode.agents) != len(read_back.agents):
        return [*changed, "agents"]
    for name in Agent.__slots__:
        if [getattr(agent, name) for agent in episode.agents] != [getattr(agent, name) for agent in read_back.agents]:
            changed.append(f"agents.{name}")
    return changed


def _unflagged(episode: Episode) -> list[Turn]:
    return [replace(turn, failed=None) for turn in episode.turns]


def _evaluator(dataset: Dataset, named: str | None) -> str:
    """The evaluator whose scores are written; "" where there are no scores."""
    dimensions = [dimension.name for dimension in SOTOPIA_EVAL]
    files = [path for paths in dataset.version.files("episodes").values() for path in paths]
    known = evaluators(files, dimensions)
    return choose_evaluator(known, named, dimensions) if known or named else ""


def _can_name_file(name: str) -> bool:
    return bool(name) and name[0] != "." and not set(name) & set("/\\\0") and len(name.encode()) <= _LONGEST_NAME


@contextmanager
def written_beside(directory: Path) -> Iterator[Path]:
    """A folder beside `directory`. It takes the place of `directory` if the block succeeds; else it is removed."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(
            f"The export needs a new folder, but {directory} exists and is not an empty folder.",
            "name a folder that does not exist, or an empty folder",
        )
    beside = directory.resolve().parent / f".{directory.resolve().name}.{secrets.token_hex(4)}"
    try:
        beside.mkdir(parents=True)
        yield beside
        os.rename(beside, directory.resolve())
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"The folder {directory} cannot be written ({reason}).", "name a folder that can be written"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
