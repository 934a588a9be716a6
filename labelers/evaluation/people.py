"""People's scores read back from a form, and added to the datasets that the dialogues came from.

A line that cannot be used is listed with its number and the reason, and the others count. Scores of one evaluator add
up over files: a later score of the same agent on the same dimension takes the place of an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sotopia_rl_data.dimensions import SOTOPIA_EVAL, Dimension, dimension
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.evaluations import SCHEMA, Evaluated, Judged, add_scores, check_evaluator, provenance
from sotopia_rl_data.labelers.evaluation.drawing import item_id
from sotopia_rl_data.labelers.evaluation.forms import COLUMNS
from sotopia_rl_data.schema import Attribution
from sotopia_rl_data.sheets import read_sheet
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.streams import read

EVALUATOR = "human"
_NEEDED = COLUMNS[:4]
_HINT = "fill in the file that `sotopia-rl-data annotate export REF… -o FILE.csv` writes"

Said = dict[tuple[str, str, str], tuple[float, str]]
"""(episode, agent, dimension) -> (score, comment)."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of the file that says nothing usable, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Added:
    """What a dataset got: `version` is its newest, `created` False where it had all of this already."""

    version: str
    created: bool
    scores: int


@dataclass(frozen=True, slots=True)
class ImportedScores:
    """`added` for each dataset that the file speaks about; `bad` lines; `empty` ones have no score and are no fault."""

    evaluator: str
    added: tuple[Added, ...]
    bad: tuple[BadLine, ...]
    empty: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def import_scores(
    store: Store, path: Path, versions: Sequence[Version], *, evaluator: str = EVALUATOR
) -> ImportedScores:
    """Add the scores of a filled form to the datasets of `versions`, as the next version of each.

    Raises InputError where the file is no form or no line of it can be used, UsageError where a dataset is named twice
    or has imported scores by that name, StoreError.
    """
    names = [version.name for version in versions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is named twice.", "scores go to the next version: name each dataset once")
    for version in versions:
        check_evaluator(version, evaluator)
    reading = _Reading(path, {key: who for version in versions for key, who in _items(version)})
    if not reading.said:
        why = f": line {reading.bad[0].line}: {reading.bad[0].reason}" if reading.bad else ""
        raise InputError(f"{path} has no score that can be used{why}.", _HINT)
    added = [
        _add(store, version, evaluator, reading.said[version.name], reading.sha256)
        for version in versions
        if version.name in reading.said
    ]
    return ImportedScores(evaluator, tuple(added), tuple(reading.bad), reading.empty)


def _items(version: Version) -> Iterator[tuple[str, tuple[str, str, list[str]]]]:
    """Item -> (dataset, episode, its agents in speaking order)."""
    for files in version.files("episodes").values():
        for batch in read(files, ["episode_id", "agents"], 1 << 12, encoded=False):
            for row in batch.to_pylist():
                agents = [one["agent"] for one in row["agents"]]
                yield item_id(version.name, row["episode_id"]), (version.name, row["episode_id"], agents)


@dataclass(slots=True)
class _Reading:
    """The file, line by line: what is said of each dataset's episodes."""

    path: Path
    items: Mapping[str, tuple[str, str, list[str]]]
    said: dict[str, Said] = field(default_factory=dict)
    bad: list[BadLine] = field(default_factory=list)
    empty: int = 0
    sha256: str = ""

    def __post_init__(self) -> None:
        self.sha256, rows = read_sheet(self.path, COLUMNS, _NEEDED, _HINT)
        for line, row in rows:
            self._row(line, *row.values())

    def _row(self, line: int, item: str, agent: str, name: str, score: str, comment: str) -> None:
        if not score:
            self.empty += 1
            return
        try:
            dataset, episode, agents = self._item(item)
            about = dimension(name)
            key = (episode, agents[_place(agent, len(agents))], about.name)
            value = _score(score, about)
        except UsageError as wrong:
            self.bad.append(BadLine(line, wrong.message.rstrip(".")))
            return
        known = self.said.setdefault(dataset, {}).setdefault(key, (value, comment))
        if known[0] != value:
            self.bad.append(BadLine(line, f"an earlier line gives {known[0]:g}, this one {value:g}"))

    def _item(self, item: str) -> tuple[str, str, list[str]]:
        if item not in self.items:
            raise UsageError(f"{item!r} is no dialogue of the datasets that are named", "")
        return self.items[item]


def _place(agent: str, agents: int) -> int:
    """The place of agent_1, agent_2 …"""
    keys = [f"agent_{place}" for place in range(1, agents + 1)]
    if agent not in keys:
        raise UsageError(f"{agent!r} is none of {', '.join(keys)}", "")
    return keys.index(agent)


def _score(text: str, about: Dimension) -> float:
    try:
        value = int(text)
    except ValueError:
        raise UsageError(f"{text!r} is no whole number", "") from None
    if not about.low <= value <= about.high:
        raise UsageError(f"{about.name} is {value}, outside {about.low:g} to {about.high:g}", "")
    return float(value)


def _add(store: Store, version: Version, evaluator: str, said: Said, sha256: str) -> Added:
    dimensions = {name for _, _, name in said}
    named = tuple(one.name for one in SOTOPIA_EVAL if one.name in dimensions)
    evaluated = Evaluated(evaluator, named, {"provider": "human", "files": [sha256]}, frozenset(said))
    judged = {split: _judged(files, said, evaluator, sha256) for split, files in version.files("episodes").items()}
    with store.stage(version.name) as stage:
        recipe = add_scores(stage, version, [evaluated], judged)
        committed = stage.commit(recipe, provenance(version, [{"judge": evaluator}]))
    return Added(committed.version.ref, committed.created, len(said))


def _judged(files: Sequence[Path], said: Said, evaluator: str, sha256: str) -> Iterator[Judged]:
    """What people said of each episode, in the files' order."""
    by_episode: dict[str, list[tuple[str, str, float, str]]] = {}
    for (episode, agent, name), (score, comment) in sorted(said.items()):
        by_episode.setdefault(episode, []).append((agent, name, score, comment))
    for batch in read(files, ["episode_id"], 1 << 12, encoded=False):
        for episode in batch.column("episode_id").to_pylist():
            yield [_label(episode, *one, evaluator, sha256) for one in by_episode.get(episode, [])], []


def _label(episode: str, agent: str, name: str, score: float, comment: str, evaluator: str, sha256: str) -> Attribution:
    about = dimension(name)
    return Attribution(
        episode_id=episode,
        agent=agent,
        turn=-1,
        dimension=name,
        schema=SCHEMA,
        measure="evaluation",
        judge=evaluator,
        sample=0,
        raw=score,
        scale_min=about.low,
        scale_max=about.high,
        call_id=sha256,
        reasoning=comment or None,
    )
