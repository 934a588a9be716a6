"""One dialogue on a terminal: what each agent did, and each utterance's reward beside it.

Within an episode low rewards are red and high rewards green; a block of the same height says it without colour. Control
characters in a dialogue are shown as escapes, never sent to the terminal. Of a text, a cast or a dialogue that is
longer than anybody reads on a screen the beginning is shown, and how much more there is: laying out a megabyte takes
seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sotopia_rl_data.cli import console
from sotopia_rl_data.schema import Episode, Turn
from sotopia_rl_data.screen import Screen
from sotopia_rl_data.spans import without_tags

_AGENT_STYLES = ("cyan", "magenta", "yellow", "blue", "green", "red")
_BLOCKS = " ▁▂▃▄▅▆▇█"
_CHARACTERS, _NAME = 10_000, 200  # of a text and of a name
_AGENTS, _SCORED, _TURNS = 100, 20, 2_000

Rewards = Mapping[tuple[str, int], Mapping[str, Any]]


def show_dialogue(episode: Episode, rewards: Rewards, turns: int = _TURNS) -> None:
    """Print the episode, with `rewards[(agent, turn)]` (columns of the `rewards` config) beside each utterance, and
    only the first `turns` of them (2,000 at most); in a pipe without colour, and never narrower than 100 columns."""
    _Dialogue(episode, Screen(columns=100)).show(rewards, min(turns, _TURNS))
    _show_scores(episode)


class _Dialogue:
    """An episode on a screen."""

    def __init__(self, episode: Episode, screen: Screen) -> None:
        self._episode, self._screen = episode, screen
        self._names = {agent.agent: screen.plain(_beginning(agent.name, _NAME)) for agent in episode.agents}
        self._styles = {a.agent: _AGENT_STYLES[i % len(_AGENT_STYLES)] for i, a in enumerate(episode.agents)}

    def show(self, rewards: Rewards, turns: int) -> None:
        self._show_head()
        known = [r["reward"] for r in rewards.values() if r.get("reward") is not None]
        low, high = (min(known), max(known)) if known else (0.0, 0.0)
        body = Table(box=None, pad_edge=False, show_header=bool(rewards), header_style="bold", padding=(0, 1))
        body.add_column("turn", justify="right", style="dim")
        body.add_column("utterance", overflow="fold", ratio=1)
        if rewards:
            body.add_column("reward", justify="right", no_wrap=True)
        for turn in self._episode.turns[:turns]:
            row: list[RenderableType] = [str(turn.turn), self._utterance(turn)]
            if rewards:
                row.append(self._reward(rewards.get((turn.agent, turn.turn)), low, high))
            body.add_row(*row)
        self._screen.print(Padding(body, (1, 0)))
        more = len(self._episode.turns) - body.row_count
        if more:
            self._screen.say(f"and {more:,} more turns\n", "dim")

    def _show_head(self) -> None:
        episode, plain = self._episode, self._screen.plain
        self._screen.print(
            Text.assemble((plain(episode.episode_id), "bold"), " ", (plain(episode.environment_id), "dim"))
        )
        if episode.scenario:
            self._screen.print(Text(plain(_beginning(episode.scenario))))
        for agent in episode.agents[:_AGENTS]:
            line = Text(self._names[agent.agent], f"bold {self._styles[agent.agent]}")
            if agent.model:
                line.append(f" ({plain(agent.model)})", "not bold dim")
            if agent.goal:
                line.append(f": {plain(_beginning(without_tags(agent.goal)))}", "not bold italic default")
            self._screen.print(line)
        more = len(episode.agents) - _AGENTS
        if more > 0:
            self._screen.say(f"and {more:,} more agents", "dim")

    def _utterance(self, turn: Turn) -> Text:
        line = Text()
        line.append(self._name(turn.agent), style=f"bold {self._styles.get(turn.agent, '')}")
        if turn.to:
            line.append(" to " + _beginning(", ".join(map(self._name, turn.to))), style="dim")
        text = self._screen.plain(_beginning(turn.text))
        if turn.action_type == "speak":
            line.append("  " + text)
        else:
            words = {"none": "does nothing", "leave": "leaves"}.get(turn.action_type, f"[{turn.action_type}]")
            if turn.failed:
                words += " (failed generation)"
            line.append(f"  {words} {text}".rstrip(), style="italic dim")
        return line

    def _name(self, agent: str) -> str:
        return self._names.get(agent) or self._screen.plain(_beginning(agent, _NAME))

    def _reward(self, row: Mapping[str, Any] | None, low: float, high: float) -> Text:
        value = row.get("reward") if row else None
        if value is None:
            return Text(self._screen.plain("–"), style="dim")
        place = 0.5 if high == low else (value - low) / (high - low)
        style = ""
        if place > 2 / 3:
            style = "green"
        elif place < 1 / 3:
            style = "red"
        return Text(f"{self._screen.plain(_BLOCKS[round(place * 8)])} {value:6.3f}", style=style)


def _beginning(text: str, most: int = _CHARACTERS) -> str:
    """The first characters of a text, and how many more there are."""
    more = len(text) - most
    return f"{text[:most]} … and {more:,} more characters" if more > 0 else text


def _show_scores(episode: Episode) -> None:
    """What the evaluators gave; agents that nobody scored are left out."""
    if not episode.scores:
        Screen().say("no episode scores", "dim")
        return
    rows = []
    evaluators = list(dict.fromkeys(score.evaluator for score in episode.scores))
    given = {(s.agent, s.dimension, s.evaluator): s.score for s in reversed(episode.scores)}
    agents = episode.agents[:_SCORED]
    for evaluator in evaluators:
        for name in dict.fromkeys(score.dimension for score in episode.scores):
            values = [given.get((agent.agent, name, evaluator)) for agent in agents]
            if any(value is not None for value in values):
                rows.append([name.replace("_", " "), evaluator, *values])
    names = [_beginning(agent.name, _NAME) for agent in agents]
    if len(agents) < len(episode.agents):
        Screen().say(f"the scores of the first {_SCORED} agents", "dim")
    if len(evaluators) == 1:
        console.table([f"scores by {evaluators[0]}", *names], [[name, *values] for name, _, *values in rows])
    else:
        console.table(["episode score", "by", *names], rows)
