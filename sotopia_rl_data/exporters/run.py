"""The core of `export`: the episodes of a version into a folder that the sotopia library reads as its local storage.

    DIR/EpisodeLog/<episode>.json  DIR/EnvironmentProfile/<id>.json  DIR/AgentProfile/<id>.json  DIR/episodes.jsonl

Each record is read back by our own importer before it is written, and what does not come back is counted by field.
The folder is written beside and renamed: it is there whole, or not at all.
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
from sotopia_rl_data.schema import Agent, Episode
from sotopia_rl_data.store import Version

_LONGEST_NAME = 250  # bytes: what every file system takes, with ".json"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote. `equal` episodes come back as they are in the version (but for their `source`); `differs`
    counts, by field, those that do not. `failures` names what could not be written, and why."""

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

    `evaluator` says whose scores are written, where several scored. `progress(1)` is called for each episode. Raises
    NotFound where there are no episodes, UsageError, StoreError; whatever is raised, `directory` is as it was.
    """
    dataset = Dataset(version)
    chosen = _evaluator(dataset, evaluator)
    with _whole(directory) as beside:
        writing = _ExportFolder(beside, chosen)
        with (beside / "episodes.jsonl").open("w", encoding="utf-8") as rows:
            for episode in dataset.episodes():
                row = writing.add(episode)
                if row is not None:
                    rows.write(json.dumps(row) + "\n")
                if progress is not None:
                    progress(1)
        if not writing.episodes:
            reason = writing.failures[0] if writing.failures else "the version has none"
            raise InputError(f"No episode of {version.ref} could be exported: {reason}.", "export another version")
    return ExportReport(
        version=version.ref,
        directory=str(directory),
        episodes=writing.episodes,
        environments=len(writing.environments),
        agents=len(writing.agents),
        evaluator=chosen,
        equal=writing.equal,
        differs=dict(writing.differs.most_common()),
        failures=tuple(writing.failures),
    )


@dataclass(slots=True)
class _ExportFolder:
    """The folder being written, and what is in it so far."""

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
        """Write one episode's log and the profiles that are new; its export row, or None where it cannot be written."""
        ids = (episode.episode_id, episode.environment_id, *(agent.agent for agent in episode.agents))
        unusable = next((one for one in ids if not _names_a_file(one)), None)
        if unusable is not None:
            self.failures.append(f"{episode.episode_id}: {unusable!r} cannot be the name of a file")
            return None
        log = episode_log(episode, self.evaluator)
        self._add_profile(self.environments, "EnvironmentProfile", environment_profile(episode))
        for agent in episode.agents:
            self._add_profile(self.agents, "AgentProfile", agent_profile(agent))
        try:
            again, _ = read_episode_log(json.loads(json.dumps(log)), "", self._profiles)
        except InputError as error:
            self.failures.append(f"{episode.episode_id}: {error.message.rstrip('.')}")
            return None
        self._write("EpisodeLog", episode.episode_id, log)
        lost = differences(episode, again)
        self.differs.update(lost)
        self.episodes += 1
        if not lost:
            self.equal += 1
        return export_row(episode, log)

    def _add_profile(self, known: set[str], folder: str, profile: Record) -> None:
        if profile["pk"] not in known:
            known.add(profile["pk"])
            self._profiles.add(profile["pk"], profile)
            self._write(folder, profile["pk"], profile)

    def _write(self, folder: str, name: str, record: Record) -> None:
        place = self.directory / folder
        place.mkdir(exist_ok=True)
        (place / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")


def differences(episode: Episode, again: Episode) -> list[str]:
    """The fields in which an episode differs once it was read back: `agents.goal` for one of an agent's fields,
    `turns.failed` where the turns are the same but for that flag.

    `source` is left out: it names the format that an episode came in.
    """
    compared = [name for name in Episode.__slots__ if name not in ("source", "agents")]
    changed = [name for name in compared if getattr(episode, name) != getattr(again, name)]
    unflagged = [[replace(turn, failed=None) for turn in one.turns] for one in (episode, again)]
    if "turns" in changed and unflagged[0] == unflagged[1]:
        changed[changed.index("turns")] = "turns.failed"
    if len(episode.agents) != len(again.agents):
        return [*changed, "agents"]
    pairs = list(zip(episode.agents, again.agents, strict=True))
    return [
        *changed,
        *(f"agents.{name}" for name in Agent.__slots__ if any(getattr(a, name) != getattr(b, name) for a, b in pairs)),
    ]


def _evaluator(dataset: Dataset, named: str | None) -> str:
    """Whose scores are written: "" where nobody scored."""
    dimensions = [one.name for one in SOTOPIA_EVAL]
    files = [path for paths in dataset.version.files("episodes").values() for path in paths]
    known = evaluators(files, dimensions)
    return choose_evaluator(known, named, dimensions) if known or named else ""


def _names_a_file(name: str) -> bool:
    return bool(name) and name[0] != "." and not set(name) & set("/\\\0") and len(name.encode()) <= _LONGEST_NAME


@contextmanager
def _whole(directory: Path) -> Iterator[Path]:
    """A folder beside `directory`, which takes its place when the block succeeds and is removed when it fails."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is there already.", "name a folder that does not exist, or an empty one")
    beside = directory.resolve().parent / f".{directory.resolve().name}.{secrets.token_hex(4)}"
    try:
        beside.mkdir(parents=True)
        yield beside
        os.rename(beside, directory.resolve())
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"{directory} cannot be written ({reason}).", "name a folder that can be") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
