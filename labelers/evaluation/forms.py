"""What people score: dialogues drawn from the methods that are compared, as a CSV or as a page that gives that CSV.

So many dialogues of each method are drawn, of the same scenes for every method, and laid in random order. The page
needs nothing but a browser. Neither file says which method or run a dialogue is of: an item's id is a hash of the
dataset's name and the episode's id, which tells people nothing, and leads back to the episode without a key that could
be lost. A row is an agent and dimension of a dialogue; its number goes into the column `score`, why into `comment`.
`people.py` reads it back.
"""

from __future__ import annotations

import csv
import hashlib
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from sotopia_rl_data.comparing.methods import Key, Unit, key_of, one_conversation, read_methods
from sotopia_rl_data.dimensions import dimension
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.labelers.plan import episodes_of
from sotopia_rl_data.labelers.schemas import phrasing
from sotopia_rl_data.outputs import aside
from sotopia_rl_data.prompts.view import without_tags
from sotopia_rl_data.report.page import asset, document
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Version

DIALOGUES = 28
"""How many dialogues of each method people score (as in the evaluation of Sotopia-RL, arXiv 2508.03905)."""

COLUMNS = ("item", "agent", "dimension", "score", "comment")
SHOWN = ("allowed", "about", "dialogue")
_TITLE = "Dialogues to score"


@dataclass(frozen=True, slots=True)
class Item:
    """A dialogue to score; `rated` are the ids of the agents that are asked about."""

    item: str
    episode: Episode
    rated: tuple[str, ...]


def item_id(dataset: str, episode_id: str) -> str:
    """The name under which people know an episode."""
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
    """The items in random order. `agents` and `partners` are `compare`'s; with `compared_only` people score the
    methods' own agents and not their partners.

    Raises UsageError where it is not clear which agents are compared, InputError where there is nothing to score.
    """
    _, methods = read_methods(versions, agents, partners)
    rated: dict[tuple[int, str], set[str]] = {}
    for units in _chosen(methods, dialogues, seed):
        for unit in units:
            rated.setdefault((unit.run, unit.episode_id), set()).add(unit.agent)
    if not rated:
        raise InputError("There is no dialogue to score.", "see what there is: sotopia-rl-data show REF")
    items = []
    for run, version in enumerate(versions):
        for episode in episodes_of(path for paths in version.files("episodes").values() for path in paths):
            chosen = rated.get((run, episode.episode_id))
            if chosen is not None:
                agents_rated = [one.agent for one in episode.agents if not compared_only or one.agent in chosen]
                items.append(Item(item_id(version.name, episode.episode_id), episode, tuple(agents_rated)))
    items.sort(key=lambda one: one.item)
    random.Random(seed).shuffle(items)
    return items


def _chosen(methods: Mapping[str, Sequence[Unit]], dialogues: int, seed: int) -> Iterator[list[Unit]]:
    """The units of `dialogues` scenes of each method: those that every method played come first."""
    together = any(one_conversation(units) for units in methods.values())
    by_key: list[dict[Key, Unit]] = []
    for units in methods.values():
        first: dict[Key, Unit] = {}
        for unit in units:
            first.setdefault(key_of(unit, together), unit)
        by_key.append(first)

    def rank(key: Key) -> tuple[int, bytes]:
        played = sum(1 for other in by_key if key in other)
        return -played, hashlib.sha256(f"{seed}\0{key!r}".encode()).digest()

    for mine in by_key:
        order = sorted(mine, key=rank)
        chosen = {(mine[key].run, mine[key].episode_id) for key in order[:dialogues]}
        yield [unit for units in methods.values() for unit in units if (unit.run, unit.episode_id) in chosen]


def write_form(items: Sequence[Item], dimensions: Sequence[str], out: Path) -> int:
    """Write the form, CSV or HTML by its name, and return how many scores it asks for.

    Raises UsageError for another kind of file, or one that is there already, perhaps filled in; StoreError where it
    cannot be written.
    """
    if out.suffix not in (".csv", ".html"):
        raise UsageError(f"{out} is neither a CSV nor a page.", "name it FILE.csv or FILE.html with -o")
    if out.exists():
        raise UsageError(f"{out} is there already, perhaps with scores.", "name another file with -o")
    text = _csv(items, dimensions) if out.suffix == ".csv" else _html(items, dimensions)
    with aside(out) as beside:
        beside.write_text(text, encoding="utf-8", newline="")
    return sum(len(one.rated) for one in items) * len(dimensions)


def _csv(items: Sequence[Item], dimensions: Sequence[str]) -> str:
    made = io.StringIO()
    writer = csv.writer(made)
    writer.writerow([*COLUMNS, *SHOWN])
    for one in items:
        writer.writerows(_rows(one, dimensions))
    return made.getvalue()


def _rows(one: Item, dimensions: Sequence[str]) -> Iterator[list[str]]:
    """A row an agent and dimension; the dialogue stands in the first."""
    keys = phrasing.agent_keys(one.episode)
    text = phrasing.episode_text(one.episode)
    for agent in one.rated:
        for name in dimensions:
            about = dimension(name)
            shown = phrasing.named(one.episode, agent)
            yield [one.item, keys[agent], name, "", "", f"{about.low:g} to {about.high:g}", shown, text]
            text = "(as above)"


def _html(items: Sequence[Item], dimensions: Sequence[str]) -> str:
    shown, meanings = [_shown(one) for one in items], _meanings()
    data = {
        "title": _TITLE,
        "form": sha256_of([shown, list(dimensions)])[:16],  # what the browser remembers is kept under it
        "columns": COLUMNS,
        "dimensions": [
            {"name": name, "low": numbers[0], "high": numbers[-1], "about": meanings[name]}
            for name, numbers in ((name, phrasing.whole_numbers(name)) for name in dimensions)
        ],
        "items": shown,
    }
    folder = files("sotopia_rl_data.labelers") / "evaluation"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("form.css", "form.js"))
    return document(_TITLE, data, styles=[asset("style.css"), style], scripts=[asset("tools.js"), script])


def _meanings() -> dict[str, str]:
    """What each dimension is about, in the words that judges are given."""
    lines = [line.removeprefix("- ").partition(": ") for line in phrasing.wording("dimensions.v1").splitlines()]
    return {head.partition(",")[0]: said for head, _, said in lines}


def _shown(one: Item) -> dict[str, Any]:
    episode = one.episode
    place = {agent.agent: i for i, agent in enumerate(episode.agents)}
    keys = phrasing.agent_keys(episode)
    return {
        "item": one.item,
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
        "rated": [place[agent] for agent in one.rated],
    }
