"""Which version of the sotopia library wrote an episode, told by signs that only that version leaves.

    head    git after January 2026: an action begins with a space or with "[private to", or `agent_classes` is there
    0.1.5   the episode ended with "Too few active agents"; or it has more than two agents; or a bare score stands
            beside comments on each agent (a bug of 0.1.5, which loses every score)
    legacy  0.1.4 and before, and what bears none of these signs

The signs are looked for in this order. Up to 0.1.5 messages are written alike, so what bears no sign (two strangers,
ended by the turn limit or by silence, the evaluator failed) cannot be told apart and is called legacy: nothing that
reads an episode treats the two differently.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

Dialect = Literal["legacy", "0.1.5", "head"]

_ENDED = "Environment comments: terminated:"


def dialect_of(actions: Iterable[str], agents: int, reasoning: str, rewards: Any, agent_classes: bool) -> Dialect:
    """The dialect of an episode, from its actions as logged, its number of agents, its reasoning and raw rewards."""
    if agent_classes or any(action.startswith((" ", "[private to ")) for action in actions):
        return "head"
    ended, _, comments = reasoning.partition("\n")
    if ended.startswith(_ENDED) and "Too few active agents;" in ended:
        return "0.1.5"
    if agents > 2 or (comments.startswith("Agent 1 comments:") and _bare(rewards)):
        return "0.1.5"
    return "legacy"


def _bare(rewards: Any) -> bool:
    return isinstance(rewards, (list, tuple)) and bool(rewards) and all(isinstance(r, (int, float)) for r in rewards)
