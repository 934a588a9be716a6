"""How an episode is shown to a judge: the wording files, the keys that we enumerate, the transcript, the messages.

The wording files are in `labelers/prompts/`, each with its version in its name. A file that has been used is never
edited: a new wording is a new file and a new version of the schemas that use it. `tests/fixtures/goldens`
freezes every file's hash and what is rendered from it.

Constant parts come first (the task, then the episode) and what varies comes last (which agent's score, on which
dimension), so that providers' prompt caches hit. A short assistant turn stands between the two user turns, because some
chat templates refuse two user turns in a row. What is asked, and what the answer means, is left to the schemas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Literal, TypeVar

from sotopia_rl_data.dimensions import dimension, is_known
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.schema import Agent, Episode, Message, Score, Turn

T = TypeVar("T")

Packing = Literal["per-dimension", "packed"]
"""What one call asks about: one agent and dimension of an episode or a view of it, or all of them."""

SHARED = ("dimensions.v1", "reading.v1", "episode.v1")
"""The wording files that every question is made from, besides its handover."""
HANDOVER, VIEW_HANDOVER = "handover.v1", "handover.view.v1"

PROMPTS = files("sotopia_rl_data.labelers") / "prompts"
_SILENCE = "(Nothing has been said or done yet.)"
_DOES = {
    "speak": "says",
    "non-verbal communication": "does, without words",
    "action": "does",
    "leave": "leaves the conversation.",
    "none": "does nothing.",
}


@cache
def wording(name: str) -> str:
    """The file `labelers/prompts/<name>.txt`, without its last newline."""
    return (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").removesuffix("\n")


def fill(name: str, **values: object) -> str:
    """The wording with its `$placeholders` replaced in one pass, so that what is filled in is not read as a
    placeholder."""
    return Template(wording(name)).substitute({key: str(value) for key, value in values.items()})


def levels_wording(scale: int) -> str:
    """The name of the file that explains the levels 0..scale. Raises UsageError where there is none for this scale."""
    name = f"levels.{scale}.v1"
    if not (PROMPTS / f"{name}.txt").is_file():
        raise UsageError(
            f"There is no wording for a scale of 0 to {scale}: no prompt explains its levels.", "use --scale 3, 5 or 10"
        )
    return name


def wordings_sha256(names: Sequence[str]) -> str:
    """Hex SHA-256 over the named files' texts, in this order."""
    return sha256_of([[name, wording(name)] for name in names])


def agent_keys(episode: Episode) -> dict[str, str]:
    """For each agent's id the key that judges see: agent_1, agent_2 …, in speaking order."""
    return {agent.agent: f"agent_{place}" for place, agent in enumerate(episode.agents, start=1)}


def turn_key(turn: int) -> str:
    """The key of a turn: its number in the environment, never its place in a list."""
    return f"turn_{turn}"


def known_scores(episode: Episode, dimensions: Sequence[str], evaluator: str | None) -> list[Score]:
    """The evaluator's scores of the agents that said or did anything, on these dimensions, as far as there are any."""
    scores = {(s.agent, s.dimension): s for s in reversed(episode.scores) if s.evaluator == evaluator}
    acting = {turn.agent for turn in episode.turns}
    keys = ((agent.agent, name) for agent in episode.agents if agent.agent in acting for name in dimensions)
    return [scores[key] for key in keys if key in scores]


def whole_numbers(name: str) -> range:
    """The whole numbers in the range of a SOTOPIA-EVAL dimension."""
    about = dimension(name)
    return range(int(about.low), int(about.high) + 1)


def groups(every: Sequence[T], packing: Packing) -> list[Sequence[T]]:
    """The items that each call asks about: all of them (`packed`), or one at a time."""
    if packing == "packed":
        return [every] if every else []
    return [[item] for item in every]


def by_agent(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """For each agent its dimensions, each once, in the order of the (agent, dimension) pairs."""
    grouped: dict[str, dict[str, None]] = {}
    for agent, name in pairs:
        grouped.setdefault(agent, {})[name] = None
    return {agent: list(names) for agent, names in grouped.items()}


def shared_messages(
    task: str, episode: Episode, values: Mapping[str, object] | None = None, handover: str = HANDOVER
) -> list[Message]:
    """The leading messages that all questions about an episode share: the task, the episode, the handover.

    `values` fill the task's placeholders; `dimensions` is one of them where they are not SOTOPIA-EVAL's."""
    return [
        {"role": "system", "content": _system(task, **(values or {}))},
        {"role": "user", "content": episode_text(episode)},
        {"role": "assistant", "content": wording(handover)},
    ]


@cache
def _system(task: str, **values: object) -> str:
    defaults = {"dimensions": wording("dimensions.v1"), "reading": wording("reading.v1")}
    return fill(task, **defaults | values)


def episode_text(episode: Episode) -> str:
    """The episode as a judge reads it: scenario, agents with their whole profiles, transcript under turn keys."""
    keys = agent_keys(episode)
    scenario = episode.scenario.strip() or "(not given)"
    if episode.relationship.strip():
        scenario += f"\nRelationship of the agents: {_line(episode.relationship)}"
    return fill(
        "episode.v1",
        scenario=scenario,
        agents="\n".join(_agent_text(keys[agent.agent], agent) for agent in episode.agents),
        transcript="\n".join(_turn_text(keys, turn) for turn in sorted(episode.turns, key=lambda t: t.turn))
        or _SILENCE,
    )


def scores_text(episode: Episode, scores: Sequence[Score]) -> str:
    """The scores to attribute, one on each line."""
    lines = []
    for score in scores:
        lines.append(f"- {named(episode, score.agent)}: {score.dimension} {score.score:g}{_scale(score)}")
    return "\n".join(lines)


def _scale(score: Score) -> str:
    """A score's range in words; "" where nobody declared one."""
    low, high = score.low, score.high
    if is_known(score.dimension):
        low, high = dimension(score.dimension).low, dimension(score.dimension).high
    return "" if low is None or high is None else f" (range {low:g} to {high:g})"


def named(episode: Episode, agent: str) -> str:
    """An agent's key and name: `agent_1 (Finnegan O'Malley)`."""
    return f"{agent_keys(episode)[agent]} ({_line(episode.agent(agent).name)})"


def _agent_text(key: str, agent: Agent) -> str:
    known = (("Background", agent.background), ("Goal", agent.goal), ("Secret", agent.secret))
    lines = [
        f"{key}: {_line(agent.name)}",
        *(_indented(f"{title}: {text.strip()}") for title, text in known if text.strip()),
    ]
    return "\n".join(lines)


def _turn_text(keys: dict[str, str], turn: Turn) -> str:
    """One utterance. Its text is indented, so that none of its lines can be taken for another turn."""
    to = f", in private to {', '.join(keys.get(agent, agent) for agent in turn.to)}," if turn.to else ""
    head = f"[{turn_key(turn.turn)}] {keys[turn.agent]}{to} {_DOES[turn.action_type]}"
    if turn.failed:
        head += " (Its turn was lost to a technical failure.)"
    return head if turn.action_type in ("none", "leave") else f"{head.removesuffix('.')}:\n{_indented(turn.text)}"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))


def _line(text: str) -> str:
    return " ".join(text.split())
