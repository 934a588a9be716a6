"""People's scores read back from a form, and added to the datasets that the dialogues came from.

A line that cannot be used is listed with its number and the reason, and the others count. Scores of one evaluator add
up over files: a later score of the same agent on the same dimension takes the place of an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sotopia_rl_data.dimensions import SOTOPIA_EVAL, dimension
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.evaluations import SCHEMA, Evaluated, Judged, add_scores, check_evaluator, provenance
from sotopia_rl_data.labelers.evaluation.forms import COLUMNS, item_id
from sotopia_rl_data.schema import Attribution
from sotopia_rl_data.sheets import read_sheet
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.streams import read

EVALUATOR = "human"
_HINT = "fill in the file that `sotopia-rl-data annotate export REF… -o FILE.csv` writes"

Scores = dict[tuple[str, str, str], tuple[float, str]]
"""(episode, agent, dimension) -> (score, comment)."""
Items = Mapping[str, tuple[str, str, list[str]]]
"""Item -> (dataset, episode, its agents in speaking order)."""


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
    """`added` for each dataset that the file speaks about; `bad` lines; how many are `empty`: without a score, which is
    not a fault."""

    evaluator: str
    added: tuple[Added, ...]
    bad: tuple[BadLine, ...]
    empty: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(slots=True)
class FilledForm:
    """What a file says: the `scores` of each dataset, `bad` lines, and how many lines are `empty`."""

    sha256: str
    scores: dict[str, Scores] = field(default_factory=dict)
    bad: list[BadLine] = field(default_factory=list)
    empty: int = 0


def import_scores(
    store: Store, path: Path, versions: Sequence[Version], *, evaluator: str = EVALUATOR
) -> ImportedScores:
    """Add the scores of a filled form to the datasets of `versions`, as the next version of each.

    Raises InputError where the file is not a form or no line of it can be used, UsageError where a dataset is named
    twice or has imported scores by that name, StoreError.
    """
    names = [version.name for version in versions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is named twice.", "scores go to the next version: name each dataset once")
    for version in versions:
        check_evaluator(version, evaluator)
    form = _read_form(path, {item: episode for version in versions for item, episode in _items(version)})
    if not form.scores:
        why = f": line {form.bad[0].line}: {form.bad[0].reason}" if form.bad else ""
        raise InputError(f"{path} has no score that can be used{why}.", _HINT)
    added = [
        _add(store, version, evaluator, form.scores[version.name], form.sha256)
        for version in versions
        if version.name in form.scores
    ]
    return ImportedScores(evaluator, tuple(added), tuple(form.bad), form.empty)


def _items(version: Version) -> Iterator[tuple[str, tuple[str, str, list[str]]]]:
    for files in version.files("episodes").values():
        for batch in read(files, ["episode_id", "agents"], 1 << 12, encoded=False):
            for row in batch.to_pylist():
                agents = [one["agent"] for one in row["agents"]]
                yield item_id(version.name, row["episode_id"]), (version.name, row["episode_id"], agents)


def _read_form(path: Path, items: Items) -> FilledForm:
    """The file, line by line."""
    sha256, rows = read_sheet(path, COLUMNS, COLUMNS[:4], _HINT)
    form = FilledForm(sha256)
    for line, row in rows:
        if not row["score"]:
            form.empty += 1
            continue
        try:
            dataset, key, value = _score(row, items)
        except UsageError as wrong:
            form.bad.append(BadLine(line, wrong.message.rstrip(".")))
            continue
        known, _ = form.scores.setdefault(dataset, {}).setdefault(key, (value, row["comment"]))
        if known != value:
            form.bad.append(BadLine(line, f"an earlier line gives {known:g}, this one {value:g}"))
    return form


def _score(row: Mapping[str, str], items: Items) -> tuple[str, tuple[str, str, str], float]:
    """The dataset, (episode, agent, dimension) and score of a line. Raises UsageError, saying what is wrong with it."""
    if row["item"] not in items:
        raise UsageError(f"{row['item']!r} is not a dialogue of the datasets that are named", "")
    dataset, episode, agents = items[row["item"]]
    about = dimension(row["dimension"])
    by_key = {f"agent_{place}": agent for place, agent in enumerate(agents, start=1)}
    if row["agent"] not in by_key:
        raise UsageError(f"{row['agent']!r} is not one of {', '.join(by_key)}", "")
    try:
        value = int(row["score"])
    except ValueError:
        raise UsageError(f"{row['score']!r} is not a whole number", "") from None
    if not about.low <= value <= about.high:
        raise UsageError(f"{about.name} is {value}, outside {about.low:g} to {about.high:g}", "")
    return dataset, (episode, by_key[row["agent"]], about.name), float(value)


def _add(store: Store, version: Version, evaluator: str, scores: Scores, sha256: str) -> Added:
    dimensions = {name for _, _, name in scores}
    named = tuple(one.name for one in SOTOPIA_EVAL if one.name in dimensions)
    evaluated = Evaluated(evaluator, named, {"provider": "human", "files": [sha256]}, frozenset(scores))
    by_episode: dict[str, list[Attribution]] = {}
    for (episode, agent, name), (score, comment) in sorted(scores.items()):
        about = dimension(name)
        label = Attribution(
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
        by_episode.setdefault(episode, []).append(label)
    judged = {split: _judged(files, by_episode) for split, files in version.files("episodes").items()}
    with store.stage(version.name) as stage:
        recipe = add_scores(stage, version, [evaluated], judged)
        committed = stage.commit(recipe, provenance(version, [{"judge": evaluator}]))
    return Added(committed.version.ref, committed.created, len(scores))


def _judged(files: Sequence[Path], by_episode: Mapping[str, list[Attribution]]) -> Iterator[Judged]:
    """What people said of each episode, in the files' order."""
    for batch in read(files, ["episode_id"], 1 << 12, encoded=False):
        for episode in batch.column("episode_id").to_pylist():
            yield by_episode.get(episode, []), []
