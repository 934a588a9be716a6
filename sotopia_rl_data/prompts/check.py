"""Does a template give back, byte for byte, what a log says was served?

The one thing that may differ is the order of the action list: SOTOPIA keeps the types in a set, whose order changes
from process to process. Such a prompt counts as `reordered`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.prompts.render import render
from sotopia_rl_data.prompts.served import Index, Served, read_served
from sotopia_rl_data.prompts.template import Template
from sotopia_rl_data.prompts.wrapper import LIST, types_in
from sotopia_rl_data.schema import Episode, Message

Verdict = Literal["exact", "reordered", "different", "no log", "other"]
"""Requests that show no imported agent's first observation are `no log` where they name an agent: its episode was not
imported. Else they are `other`: an evaluator's, a repair of bad JSON …"""


def verdicts(served_log: str | Path, index: Index, template: Template) -> Iterator[tuple[Served | None, Verdict]]:
    """Each record of a log with what became of it. Raises InputError as `read_served` does."""
    for served in read_served(served_log):
        yield served, "other" if served is None else verdict(served, index, template)


def verdict(served: Served, index: Index, template: Template) -> Verdict:
    """What becomes of one request; of several agents and turns that it may have been for, the best counts."""
    found: Verdict = "other" if served.agent is None else "no log"
    for known, turn in index.guesses(served):
        now = compare(template, known.episode, known.agent, turn, served.messages)
        if now == "exact":
            return now
        found = "reordered" if "reordered" in (now, found) else "different"
    return found


def compare(template: Template, episode: Episode, agent: str, turn: int, messages: Sequence[Message]) -> Verdict:
    """`exact`, `reordered` or `different`: the template's prompt against the messages that were served."""
    if _renders(template, episode, agent, turn, messages):
        return "exact"
    others = reorderings(template, messages)
    return "reordered" if any(_renders(other, episode, agent, turn, messages) for other in others) else "different"


def _renders(template: Template, episode: Episode, agent: str, turn: int, messages: Sequence[Message]) -> bool:
    try:
        return render(episode, agent, turn, template.layout, template) == list(messages)
    except InputError:  # no variant for this episode: then it does not give the prompt back
        return False


def reorderings(template: Template, messages: Sequence[Message]) -> Iterator[Template]:
    """The template with its action lists in each order that the messages show."""
    shown = dict.fromkeys(types_in(m[0]) for message in messages for m in LIST.finditer(message["content"]))
    for order in shown:
        variants = tuple(
            dataclasses.replace(v, actions=(order,)) if set(order) == set(v.actions[0]) else v
            for v in template.variants
        )
        if variants != template.variants:
            yield dataclasses.replace(template, variants=variants)
