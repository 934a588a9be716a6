"""People as evaluators: the form that they fill in, and their scores read back and added to the datasets.

A number of dialogues is drawn for each method, from scenes that every method played where there are such scenes, and
put in random order. The form is a CSV, or a page that needs nothing but a browser and writes the same CSV. Neither says
which method or run a dialogue comes from. An item's id is a hash of the dataset's name and the episode's id: it tells
people nothing, and leads back to the episode without a key file that could be lost. There is one row for each agent and
dimension of a dialogue; its number goes into the column `score`, the reason into `comment`.

When a form is read, a line that cannot be used is listed with its number and the reason, and the others count. Scores
of one evaluator add up over files: a later score of the same agent on the same dimension replaces an earlier one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from sotopia_rl_data.comparing.methods import Key, Unit, key_of, one_conversation, read_methods
from sotopia_rl_data.dimensions import SOTOPIA_EVAL, dimension
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.evaluations import SCHEMA, Evaluated, Judged, add_scores, check_evaluator, provenance
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.labelers.plan import episodes_of
from sotopia_rl_data.labelers.schemas import phrasing
from sotopia_rl_data.outputs import aside, read_sheet
from sotopia_rl_data.report.page import asset, document
from sotopia_rl_data.schema import Attribution, Episode
from sotopia_rl_data.spans import without_tags
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.streams import read

EVALUATOR = "human"
_HINT = "fill in the file that `sotopia-rl-data annotate export` writes"

Scores = dict[tuple[str, str, str], tuple[float, str]]
"""(episode, agent, dimension) -> (score, comment)."""
Items = Mapping[str, tuple[str, str, list[str]]]
"""Item -> (dataset, episode, its agents in speaking order)."""
DIALOGUES = 28
"""How many dialogues of each method people score (as in the evaluation of Sotopia-RL, arXiv 2508.03905)."""

COLUMNS = ("item", "agent", "dimension", "score", "comment")
SHOWN = ("allowed", "about", "dialogue")
_TITLE = "Dialogues to score"


# --- the form ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """A dialogue to score; `rated` are the ids of the agents to score."""

    item: str
    episode: Episode
    rated: tuple[str, ...]


def item_id(dataset: str, episode_id: str) -> str:
    """The id that an episode has in the form."""
    return hashlib.sha256(f"annotate\0{dataset}\0{episode_id}".encode()).hexdigest()[:12]


def draw(
    versions: Sequence[Version],
    *,
    dialogues: int = DIALOGUES,
    seed: int = 0,
    agents: Sequence[str] = (),
    partners: Sequence[str] = (),
    compared_only: bool = False,
) -> list[Item]:
    """The items in random order. `agents` and `partners` are as in `compare`; with `compared_only` people score the
    methods' own agents and not their partners.

    Raises UsageError where it is not clear which agents are compared, InputError where there is nothing to score.
    """
    _, methods = read_methods(versions, agents, partners)
    rated: dict[tuple[int, str], set[str]] = {}
    for units in _chosen(methods, dialogues, seed):
        for unit in units:
            rated.setdefault((unit.run, unit.episode_id), set()).add(unit.agent)
    if not rated:
        raise InputError(
            f"There is no dialogue to score in {', '.join(version.ref for version in versions)}.",
            f"see which episodes there are: sotopia-rl-data show {versions[0].ref}",
        )
    items = []
    for run, version in enumerate(versions):
        for episode in episodes_of(path for paths in version.files("episodes").values() for path in paths):
            chosen = rated.get((run, episode.episode_id))
            if chosen is not None:
                agents_rated = [a.agent for a in episode.agents if not compared_only or a.agent in chosen]
                items.append(Item(item_id(version.name, episode.episode_id), episode, tuple(agents_rated)))
    items.sort(key=lambda item: item.item)
    random.Random(seed).shuffle(items)
    return items


def _chosen(methods: Mapping[str, Sequence[Unit]], dialogues: int, seed: int) -> Iterator[list[Unit]]:
    """The units of `dialogues` scenes of each method; scenes that every method played come first."""
    together = any(one_conversation(units) for units in methods.values())
    by_key: list[dict[Key, Unit]] = []
    for units in methods.values():
        of_method: dict[Key, Unit] = {}
        for unit in units:
            of_method.setdefault(key_of(unit, together), unit)
        by_key.append(of_method)

    def rank(key: Key) -> tuple[int, bytes]:
        played = sum(1 for other in by_key if key in other)
        return -played, hashlib.sha256(f"{seed}\0{key!r}".encode()).digest()

    for first in by_key:
        order = sorted(first, key=rank)
        chosen = {(first[key].run, first[key].episode_id) for key in order[:dialogues]}
        yield [unit for units in methods.values() for unit in units if (unit.run, unit.episode_id) in chosen]


def write_form(items: Sequence[Item], dimensions: Sequence[str], out: Path) -> int:
    """Write the form, as CSV or HTML by its name, and return how many scores it asks for.

    Raises UsageError for another kind of file, or one that exists already, perhaps filled in; StoreError where it
    cannot be written.
    """
    if out.suffix not in (".csv", ".html"):
        raise UsageError(
            f"By its name, the form {out} is neither a CSV nor a page.", "name it FILE.csv or FILE.html with -o"
        )
    if out.exists():
        raise UsageError(
            f"The form {out} exists already and may hold scores, so it is not overwritten.",
            "name another file with -o",
        )
    text = _csv(items, dimensions) if out.suffix == ".csv" else _html(items, dimensions)
    with aside(out) as beside:
        beside.write_text(text, encoding="utf-8", newline="")
    return sum(len(item.rated) for item in items) * len(dimensions)


def _csv(items: Sequence[Item], dimensions: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, *SHOWN])
    for item in items:
        writer.writerows(_rows(item, dimensions))
    return text.getvalue()


def _rows(item: Item, dimensions: Sequence[str]) -> Iterator[list[str]]:
    """One row for each agent and dimension; the first holds the dialogue."""
    keys = phrasing.agent_keys(item.episode)
    text = phrasing.episode_text(item.episode)
    for agent in item.rated:
        for name in dimensions:
            about = dimension(name)
            shown = phrasing.named(item.episode, agent)
            yield [item.item, keys[agent], name, "", "", f"{about.low:g} to {about.high:g}", shown, text]
            text = "(as above)"


def _html(items: Sequence[Item], dimensions: Sequence[str]) -> str:
    shown, meanings = [_shown(item) for item in items], _meanings()
    data = {
        "title": _TITLE,
        "form": sha256_of([shown, list(dimensions)])[:16],  # unfinished scores are kept in the browser under this id
        "columns": COLUMNS,
        "dimensions": [
            {"name": name, "low": numbers[0], "high": numbers[-1], "about": meanings[name]}
            for name, numbers in ((name, phrasing.whole_numbers(name)) for name in dimensions)
        ],
        "items": shown,
    }
    folder = package_files("sotopia_rl_data.labelers") / "evaluation"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("form.css", "form.js"))
    return document(_TITLE, data, styles=[asset("style.css"), style], scripts=[asset("tools.js"), script])


def _meanings() -> dict[str, str]:
    """What each dimension means, in the words that judges are given."""
    lines = [line.removeprefix("- ").partition(": ") for line in phrasing.wording("dimensions.v1").splitlines()]
    return {head.partition(",")[0]: meaning for head, _, meaning in lines}


def _shown(item: Item) -> dict[str, Any]:
    """An item as the page's script reads it."""
    episode = item.episode
    place = {agent.agent: i for i, agent in enumerate(episode.agents)}
    keys = phrasing.agent_keys(episode)
    return {
        "item": item.item,
        "scenario": without_tags(episode.scenario),
        "relationship": episode.relationship,
        "agents": [
            {"key": keys[a.agent], "name": a.name, "secret": without_tags(a.secret)}
            | {"background": without_tags(a.background), "goal": without_tags(a.goal)}
            for a in episode.agents
        ],
        "turns": [
            [place[t.agent], t.turn, t.action_type, t.text, [episode.agent(to).name for to in t.to if to in place]]
            for t in sorted(episode.turns, key=lambda t: t.turn)
        ],
        "rated": [place[agent] for agent in item.rated],
    }


# --- the scores -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of the file that cannot be used, and the reason."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Added:
    """How many scores a dataset received. `version` is its newest; `created` is False where it had these scores
    already."""

    version: str
    created: bool
    scores: int


@dataclass(frozen=True, slots=True)
class ImportedScores:
    """What was `added` to each dataset that the file has scores for; the `bad` lines; how many lines are `empty`,
    that is, without a score, which is not a fault."""

    evaluator: str
    added: tuple[Added, ...]
    bad: tuple[BadLine, ...]
    empty: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(slots=True)
class FilledForm:
    """What a file holds: the `scores` for each dataset, `bad` lines, and how many lines are `empty`."""

    sha256: str
    scores: dict[str, Scores] = field(default_factory=dict)
    bad: list[BadLine] = field(default_factory=list)
    empty: int = 0


def import_scores(
    store: Store, path: Path, versions: Sequence[Version], *, evaluator: str = EVALUATOR
) -> ImportedScores:
    """Add the scores of a filled form to the datasets of `versions`, as the next version of each.

    Raises InputError where the file is not a form or none of its lines can be used, UsageError where a dataset is named
    twice or has imported scores under that evaluator's name, StoreError.
    """
    names = [version.name for version in versions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"The dataset {twice} is named twice.", "name each dataset once: all its scores go into one version"
        )
    for version in versions:
        check_evaluator(version, evaluator)
    form = _read_form(path, {item: episode for version in versions for item, episode in _items(version)})
    if not form.scores:
        first = f": line {form.bad[0].line}: {form.bad[0].reason}" if form.bad else ""
        hint = "name the datasets that the form was exported from, and change only its columns score and comment"
        raise InputError(f"The form {path} has no score that can be used{first}.", hint if form.bad else _HINT)
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
                agents = [agent["agent"] for agent in row["agents"]]
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
    """The dataset, (episode, agent, dimension) and score of a line. Raises UsageError, which says what is wrong."""
    if row["item"] not in items:
        raise UsageError(f"the item {row['item']!r} is not a dialogue of the named datasets", "")
    dataset, episode, agents = items[row["item"]]
    about = dimension(row["dimension"])
    by_key = {f"agent_{place}": agent for place, agent in enumerate(agents, start=1)}
    if row["agent"] not in by_key:
        raise UsageError(f"the agent {row['agent']!r} is not one of {', '.join(by_key)}", "")
    try:
        value = int(row["score"])
    except ValueError:
        raise UsageError(f"the score {row['score']!r} is not a whole number", "") from None
    if not about.low <= value <= about.high:
        raise UsageError(f"{about.name} is {value}, outside {about.low:g} to {about.high:g}", "")
    return dataset, (episode, by_key[row["agent"]], about.name), float(value)


def _add(store: Store, version: Version, evaluator: str, scores: Scores, sha256: str) -> Added:
    dimensions = {name for _, _, name in scores}
    in_order = tuple(known.name for known in SOTOPIA_EVAL if known.name in dimensions)
    evaluated = Evaluated(evaluator, in_order, {"provider": "human", "files": [sha256]}, frozenset(scores))
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
        by_hand = {"command": "annotate import"}
        committed = stage.commit(recipe, provenance(version, [{"judge": evaluator}]) | by_hand)
    return Added(committed.version.ref, committed.created, len(scores))


def _judged(files: Sequence[Path], by_episode: Mapping[str, list[Attribution]]) -> Iterator[Judged]:
    """The labels that people gave to each episode, in the files' order."""
    for batch in read(files, ["episode_id"], 1 << 12, encoded=False):
        for episode in batch.column("episode_id").to_pylist():
            yield by_episode.get(episode, []), []
