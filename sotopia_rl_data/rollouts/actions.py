"""One action of an agent: how it is read from a completion, and what each version of the sotopia library makes of it.

A model's thought is not read. The rest is read tolerantly where the library reads it so, or would ask again to repair
it: a code fence or words around the one object, the object inside "properties", a value inside {"value": …}, blanks
around the type. If no action can be read, the caller takes a no-op that is flagged as failed (`FAILED`).

A dialect is one version of the library: how actions are written, who sees what, and what ends an episode.

    legacy   0.1.4 and before, with which the paper's numbers were made; two agents. A friend's background is seen. The
             episode ends when an agent leaves, or when more than two actions in a row, forced ones included, are none
    0.1.5    two agents or more; all other agents' backgrounds are hidden. Ends when fewer than two agents are left, by
             the last action of each: a forced no-op after leaving counts as being back. Silence counts as in legacy
    head     git after January 2026: as 0.1.5, but forced no-ops do not count, so silence ends it after three turns, and
             an agent that left is away until its next turn. Actions begin with a space and may name who sees them

In all of them the turn limit ends the episode. docs/rollouts.md writes this out, with what follows from these rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sotopia_rl_data.errors import BadAnswer, UsageError
from sotopia_rl_data.importers.messages import LoggedAction, render_action
from sotopia_rl_data.importers.record import clean
from sotopia_rl_data.json_objects import decoder, is_part, objects_in
from sotopia_rl_data.schema import ACTION_TYPES, ActionType
from sotopia_rl_data.thoughts import without_thought

WORDLESS = ("none", "leave")


@dataclass(frozen=True, slots=True)
class Action:
    """What an agent does in its turn. `to` has the ids of the only other agents that see it (empty: all of them).

    `failed`: a no-op in place of a completion that could not be read.
    """

    action_type: ActionType
    text: str = ""
    to: tuple[str, ...] = ()
    failed: bool = False


NOTHING = Action("none")
FAILED = Action("none", failed=True)


def read_action(completion: str, partners: Mapping[str, str] | None = None) -> Action:
    """The action that `completion` holds as JSON. Raises BadAnswer with what is wrong.

    `partners` are the ids of the other agents by name, if actions may be private: `to` is then required, and names
    some of them. With None nothing is private, and `to` is ignored.
    """
    fields = _fields(decoder().decode(action_object(completion)))
    written_type = _unwrapped(fields.get("action_type"))
    name = written_type.strip() if isinstance(written_type, str) else None
    action_type = next((known for known in ACTION_TYPES if known == name), None)
    if action_type is None:
        raise BadAnswer(f"The action type is {written_type!r}; there are {', '.join(ACTION_TYPES)}.")
    argument = _unwrapped(fields.get("argument", "" if action_type in WORDLESS else None))
    if not isinstance(argument, str):
        raise BadAnswer(f"The argument of {action_type!r} is {argument!r}, not text.")
    to = () if partners is None else _recipients(_unwrapped(fields.get("to")), partners)
    return Action(action_type, "" if action_type in WORDLESS else clean(argument), to)


def action_schema(partners: Sequence[str] | None = None) -> dict[str, Any]:
    """The JSON schema of an action. `partners` are the names of the other agents, if actions may be private."""
    fields: dict[str, Any] = {
        "action_type": {"type": "string", "enum": list(ACTION_TYPES)},
        "argument": {"type": "string"},
    }
    if partners is not None:
        fields["to"] = {"type": "array", "items": {"type": "string", "enum": list(partners)}}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _recipients(listed: Any, partners: Mapping[str, str]) -> tuple[str, ...]:
    if not isinstance(listed, list):
        raise BadAnswer(f"`to` is {listed!r}, not a list of names.")
    names = [_unwrapped(name) for name in listed]
    unknown = [name for name in names if not isinstance(name, str) or name not in partners]
    if unknown:
        raise BadAnswer(f"`to` names {unknown[0]!r}; the others are {', '.join(partners)}.")
    return tuple(dict.fromkeys(partners[name] for name in names))


def action_object(completion: str) -> str:
    """The JSON object of an action as the completion has it, without thought, words and fences. Raises BadAnswer where
    there is none, or more than one."""
    text = without_thought(completion)
    found = [one for one in objects_in(text) if "action_type" in _fields(one.value)]
    if len(found) > 1:
        raise BadAnswer(f"There are {len(found)} actions in it.")
    if not found or is_part(text, found[0]):
        raise BadAnswer("There is no JSON object with an action_type in it.")
    return text[found[0].start : found[0].end]


def _fields(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of an action: the object's own, or those under "properties"."""
    inner = record.get("properties")
    return inner if isinstance(inner, dict) else record


def _unwrapped(value: Any) -> Any:
    return value["value"] if isinstance(value, dict) and "value" in value else value


DialectName = Literal["legacy", "0.1.5", "head"]
DIALECTS: tuple[DialectName, ...] = get_args(DialectName)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The rules of one version. `counts_forced`: the no-ops of agents that wait count as their actions. `trims`: the
    white space around the block of backgrounds is removed."""

    name: DialectName
    two_only: bool = False
    shows_backgrounds: bool = False
    counts_forced: bool = True
    private: bool = False
    trims: bool = True

    def written(self, action: Action, names: Mapping[str, str]) -> str:
        """An action as the log has it. `names` are the agents' names by id."""
        to = tuple(names[agent] for agent in action.to) if self.private else ()
        return render_action(LoggedAction(action.action_type, action.text, to), spaced=self.private)

    def reasons(
        self, agents: Sequence[str], history: Sequence[Mapping[str, Action]], max_turns: int, max_stale: int
    ) -> tuple[str, ...]:
        """Why the episode ends after `history`, the actions that count by agent, turn by turn. (): it goes on."""
        reasons = ["The conversation is too long"] if len(history) >= max_turns else []
        if self.two_only:
            last = history[-1]
            reasons += [f"Agent {i} is leaving" for i, agent in enumerate(agents, 1) if _left(last.get(agent))]
        elif sum(not _left(_last(agent, history)) for agent in agents) < 2:
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
    """How many of the last actions, counted back from the end, are none in a row."""
    silent = 0
    for turn in reversed(history):
        for action in reversed(list(turn.values())):
            if action.action_type != "none":
                return silent
            silent += 1
    return silent
