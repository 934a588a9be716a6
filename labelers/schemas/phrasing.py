"""How an episode is shown to a judge: the wording files, the keys that we enumerate, the transcript, the messages.

The wording files are in `labelers/prompts/`, each with its version in its name. A file that has been used is never
edited: a new wording is a new file. `tests/fixtures/goldens` freezes every file's hash and what is rendered from it.

How an episode is shown has a version of its own, which all schemas share (`Wording`); the older one can be chosen, so
that its answers are found.

    v1   an utterance is indented; the scenario stands at the left margin; questions call agents by their names too
    v2   every line of a text that came with the episode begins with ">", whatever ends the line before it, and no
         such text stands anywhere else. So what is left of an episode without these lines depends on its structure
         alone, and no text can pass for a heading, a turn, a key or an instruction of ours

Constant parts come first (the task, then the episode) and what varies comes last (which agent's score, on which
dimension), so that providers' prompt caches hit. A short assistant turn stands between the two user turns, because some
chat templates refuse two user turns in a row. What is asked, and what the answer means, is left to the schemas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Literal, TypeVar, get_args

from sotopia_rl_data.dimensions import dimension, is_known
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.schema import Agent, Episode, Message, Score, Turn

T = TypeVar("T")

Packing = Literal["per-dimension", "packed"]
"""What one call asks about: one agent and dimension of an episode or a view of it, or all of them."""

Wording = Literal["v1", "v2"]
"""How an episode is shown."""
WORDINGS: tuple[Wording, ...] = get_args(Wording)
FIRST, NEWEST = WORDINGS[0], WORDINGS[-1]

HANDOVER, VIEW_HANDOVER = "handover.v1", "handover.view.v1"

PROMPTS = files("sotopia_rl_data.labelers") / "prompts"
_SILENCE, _NOT_GIVEN = "(Nothing has been said or done yet.)", "(not given)"
_UNLISTED = "somebody else"  # an addressee who is not among the agents has no key
_DOES = {
    "speak": "says",
    "non-verbal communication": "does, without words",
    "action": "does",
    "leave": "leaves the conversation.",
    "none": "does nothing.",
}
_WITHOUT_TEXT = ("none", "leave")


def shared(version: Wording) -> tuple[str, ...]:
    """The wording files that every question is made from, besides its handover."""
    return "dimensions.v1", f"reading.{version}", "episode.v1"


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
    task: str,
    text: str,
    values: Mapping[str, object] | None = None,
    handover: str = HANDOVER,
    version: Wording = NEWEST,
) -> list[Message]:
    """The leading messages that all questions about an episode, or a view of it, share: the task, its `text`, the
    handover.

    `values` fill the task's placeholders; `dimensions` is one of them where they are not SOTOPIA-EVAL's."""
    return [
        {"role": "system", "content": _system(task, version, **(values or {}))},
        {"role": "user", "content": text},
        {"role": "assistant", "content": wording(handover)},
    ]


@cache
def _system(task: str, version: Wording, **values: object) -> str:
    defaults = {"dimensions": wording("dimensions.v1"), "reading": wording(f"reading.{version}")}
    return fill(task, **defaults | values)


def episode_text(episode: Episode, version: Wording = NEWEST) -> str:
    """The episode as a judge reads it: scenario, agents with their whole profiles, transcript under turn keys."""
    shown = ShownEpisode(episode, version)
    return shown.text(shown.turns)


class ShownEpisode:
    """An episode laid out once, so that many views of it can be shown: `turns` are the texts of its turns, in order."""

    def __init__(self, episode: Episode, version: Wording) -> None:
        scenario, agent, turn = (
            (_scenario_text_v1, _agent_text_v1, _turn_text_v1)
            if version == "v1"
            else (_scenario_text, _agent_text, _turn_text)
        )
        keys = agent_keys(episode)
        self._scenario = scenario(episode)
        self._agents = "\n".join(agent(keys[one.agent], one) for one in episode.agents)
        self.turns = [turn(keys, one) for one in in_turn(episode)]

    def text(self, turns: Sequence[str]) -> str:
        """The episode with some of its turns."""
        transcript = "\n".join(turns) or _SILENCE
        return fill("episode.v1", scenario=self._scenario, agents=self._agents, transcript=transcript)


def in_turn(episode: Episode) -> list[Turn]:
    """The episode's turns in order."""
    return sorted(episode.turns, key=lambda turn: turn.turn)


def scores_text(episode: Episode, scores: Sequence[Score], version: Wording = NEWEST) -> str:
    """The scores to attribute, one on each line."""
    lines = []
    for score in scores:
        lines.append(f"- {called(episode, score.agent, version)}: {score.dimension} {score.score:g}{_scale(score)}")
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


def called(episode: Episode, agent: str, version: Wording) -> str:
    """How a question calls an agent: by its key and, in v1, its name, which is a text of the episode."""
    return named(episode, agent) if version == "v1" else agent_keys(episode)[agent]


def _scenario_text(episode: Episode) -> str:
    scenario = quoted(episode.scenario.strip()) if episode.scenario.strip() else _NOT_GIVEN
    if episode.relationship.strip():
        scenario += f"\nRelationship of the agents:\n{quoted(episode.relationship.strip())}"
    return scenario


def _agent_text(key: str, agent: Agent) -> str:
    known = (("Name", agent.name), *_profile(agent))
    return "\n".join([key, *(f"{title}:\n{quoted(text.strip())}" for title, text in known if text.strip())])


def _turn_text(keys: dict[str, str], turn: Turn) -> str:
    head = _head(turn, keys[turn.agent], [keys.get(agent, _UNLISTED) for agent in turn.to])
    return head if turn.action_type in _WITHOUT_TEXT else f"{head.removesuffix('.')}:\n{quoted(turn.text)}"


def quoted(text: str) -> str:
    """The text with a mark before each of its lines, whichever of Unicode's line breaks ends the line."""
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines() or [""])


def _profile(agent: Agent) -> tuple[tuple[str, str], ...]:
    return ("Background", agent.background), ("Goal", agent.goal), ("Secret", agent.secret)


def _head(turn: Turn, agent: str, to: Sequence[str]) -> str:
    """The line over an utterance."""
    private = f", in private to {', '.join(to)}," if to else ""
    head = f"[{turn_key(turn.turn)}] {agent}{private} {_DOES[turn.action_type]}"
    return f"{head} (Its turn was lost to a technical failure.)" if turn.failed else head


# --- v1 ---------------------------------------------------------------------------------------------------------------


def _scenario_text_v1(episode: Episode) -> str:
    scenario = episode.scenario.strip() or _NOT_GIVEN
    if episode.relationship.strip():
        scenario += f"\nRelationship of the agents: {_line(episode.relationship)}"
    return scenario


def _agent_text_v1(key: str, agent: Agent) -> str:
    texts = (_indented(f"{title}: {text.strip()}") for title, text in _profile(agent) if text.strip())
    return "\n".join([f"{key}: {_line(agent.name)}", *texts])


def _turn_text_v1(keys: dict[str, str], turn: Turn) -> str:
    head = _head(turn, keys[turn.agent], [keys.get(agent, agent) for agent in turn.to])
    return head if turn.action_type in _WITHOUT_TEXT else f"{head.removesuffix('.')}:\n{_indented(turn.text)}"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))


def _line(text: str) -> str:
    return " ".join(text.split())
