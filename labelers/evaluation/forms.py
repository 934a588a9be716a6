"""What people fill in: a CSV, or a page that needs nothing but a browser and gives the same CSV back.

Neither says which method or run a dialogue is of. A row is an agent and dimension of a dialogue; its number goes into
the column `score`, why into `comment`. `people.py` reads it back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from sotopia_rl_data.dimensions import dimension
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.labelers.evaluation.drawing import Item
from sotopia_rl_data.labelers.schemas import phrasing
from sotopia_rl_data.outputs import aside
from sotopia_rl_data.prompts.visible import without_tags
from sotopia_rl_data.report.page import asset, document

COLUMNS = ("item", "agent", "dimension", "score", "comment")
SHOWN = ("allowed", "about", "dialogue")
_TITLE = "Dialogues to score"


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
    shown = [_shown(one) for one in items]
    data = {
        "title": _TITLE,
        "form": sha256_of([shown, list(dimensions)])[:16],  # what the browser remembers is kept under it
        "columns": COLUMNS,
        "dimensions": [_dimension(name) for name in dimensions],
        "items": shown,
    }
    styles = [asset("style.css"), _file("form.css")]
    return document(_TITLE, data, styles=styles, scripts=[asset("tools.js"), _file("form.js")])


def _dimension(name: str) -> dict[str, Any]:
    about = dimension(name)
    return {"name": name, "low": int(about.low), "high": int(about.high), "about": _wordings()[name]}


@cache
def _wordings() -> dict[str, str]:
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


def _file(name: str) -> str:
    return (files("sotopia_rl_data.labelers") / "evaluation" / name).read_text(encoding="utf-8")
