"""What differs between versions of the sotopia library: how things are written, who sees what, what ends an episode.

    legacy   0.1.4 and before, which the paper's numbers were made with; two agents. A friend's background is seen. The
             episode ends when somebody leaves, or when more than two actions in a row, forced ones included, are none
    0.1.5    two agents or more; everybody else's background is hidden. Ends when fewer than two are left, by the last
             action of each: a forced no-op after leaving counts as being there again. Silence counts as in legacy
    head     git after January 2026: as 0.1.5, but forced no-ops do not count, so that silence is three turns of it and
             who left stays away until its next turn. Actions begin with a space and may name the only ones who see them

The turn limit ends an episode in all of them. Written out in docs/rollouts.md, with what follows from these rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.actions import LoggedAction, render_action
from sotopia_rl_data.rollouts.actions import Action

DialectName = Literal["legacy", "0.1.5", "head"]
DIALECTS: tuple[DialectName, ...] = get_args(DialectName)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The rules of one version. `counts_forced`: the no-ops of those who wait count as their actions. `trims`: the
    backgrounds, taken together, lose the white space at their end."""

    name: DialectName
    two_only: bool = False
    shows_backgrounds: bool = False
    counts_forced: bool = True
    private: bool = False
    trims: bool = True

    def written(self, action: Action, names: Mapping[str, str]) -> str:
        """An action as it stands in the log. `names` gives the recipients' names by id."""
        to = tuple(names[agent] for agent in action.to) if self.private else ()
        return render_action(LoggedAction(action.action_type, action.text, to), spaced=self.private)

    def reasons(
        self, agents: Sequence[str], history: Sequence[Mapping[str, Action]], max_turns: int, max_stale: int
    ) -> tuple[str, ...]:
        """Why the episode ends after `history`: what each who counts did, turn by turn. (): it goes on."""
        reasons = ["The conversation is too long"] if len(history) >= max_turns else []
        if self.two_only:
            last = history[-1]
            reasons += [f"Agent {i} is leaving" for i, agent in enumerate(agents, 1) if _left(last.get(agent))]
        elif len([agent for agent in agents if not _left(_last(agent, history))]) < 2:
            reasons.append("Too few active agents")
        if _silence(history) > max_stale:
            reasons.append("The conversation stales for too long")
        return tuple(reasons)


_KNOWN = {
    "legacy": Dialect("legacy", two_only=True, shows_backgrounds=True, trims=False),
    "0.1.5": Dialect("0.1.5"),
    "head": Dialect("head", counts_forced=False, private=True),
}


def dialect(name: str) -> Dialect:
    """The dialect of this name. Raises UsageError."""
    if name not in _KNOWN:
        raise UsageError(f"{name!r} is not a dialect.", f"name one of: {', '.join(DIALECTS)}")
    return _KNOWN[name]


def _left(action: Action | None) -> bool:
    return action is not None and action.action_type == "leave"


def _last(agent: str, history: Sequence[Mapping[str, Action]]) -> Action | None:
    return next((turn[agent] for turn in reversed(history) if agent in turn), None)


def _silence(history: Sequence[Mapping[str, Action]]) -> int:
    """How many of the last actions in a row are none."""
    silent = 0
    for turn in reversed(history):
        for action in reversed(list(turn.values())):
            if action.action_type != "none":
                return silent
            silent += 1
    return silent
