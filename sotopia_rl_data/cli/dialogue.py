"""One dialogue on a terminal: what each agent did, and each utterance's reward beside it.

Within an episode low rewards are red and high rewards green; a block of the same height says it without colour. Control
characters in a dialogue are shown as escapes, never sent to the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sotopia_rl_data.display import printable
from sotopia_rl_data.prompts.view import without_tags
from sotopia_rl_data.schema import Episode, Turn
from sotopia_rl_data.screen import Screen

_AGENT_STYLES = ("cyan", "magenta", "yellow", "blue", "green", "red")
_BLOCKS = " ▁▂▃▄▅▆▇█"


def dialogue(episode: Episode, rewards: Mapping[tuple[str, int], Mapping[str, Any]]) -> RenderableType:
    """The episode with `rewards[(agent, turn)]` (columns of the `rewards` config) beside each utterance."""
    styles = {a.agent: _AGENT_STYLES[i % len(_AGENT_STYLES)] for i, a in enumerate(episode.agents)}
    known = [r["reward"] for r in rewards.values() if r.get("reward") is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    body = Table(box=None, pad_edge=False, show_header=bool(rewards), header_style="bold", padding=(0, 1))
    body.add_column("turn", justify="right", style="dim")
    body.add_column("utterance", overflow="fold", ratio=1)
    if rewards:
        body.add_column("reward", justify="right", no_wrap=True)
    for turn in episode.turns:
        row: list[RenderableType] = [str(turn.turn), _utterance(episode, turn, styles)]
        if rewards:
            row.append(_reward(rewards.get((turn.agent, turn.turn)), low, high))
        body.add_row(*row)
    return Group(_head(episode, styles), Padding(body, (1, 0)), _scores(episode))


def _head(episode: Episode, styles: Mapping[str, str]) -> RenderableType:
    ids = (printable(episode.episode_id), "bold"), " ", (printable(episode.environment_id), "dim")
    lines = [Text.assemble(*ids)]
    if episode.scenario:
        lines.append(Text(printable(episode.scenario)))
    for agent in episode.agents:
        lines.append(
            Text.assemble(
                (printable(agent.name), f"bold {styles[agent.agent]}"),
                "  ",
                (printable(without_tags(agent.goal)), "italic"),
            )
        )
    return Group(*lines)


def _utterance(episode: Episode, turn: Turn, styles: Mapping[str, str]) -> Text:
    line = Text()
    line.append(_name(episode, turn.agent), style=f"bold {styles.get(turn.agent, '')}")
    if turn.to:
        line.append(" to " + ", ".join(_name(episode, agent) for agent in turn.to), style="dim")
    if turn.action_type == "speak":
        line.append("  " + printable(turn.text))
    else:
        words = {"none": "does nothing", "leave": "leaves"}.get(turn.action_type, f"[{turn.action_type}]")
        if turn.failed:
            words += " (failed generation)"
        line.append(f"  {words} {printable(turn.text)}".rstrip(), style="italic dim")
    return line


def _name(episode: Episode, agent: str) -> str:
    return printable(next((a.name for a in episode.agents if a.agent == agent), agent))


def _reward(row: Mapping[str, Any] | None, low: float, high: float) -> Text:
    value = row.get("reward") if row else None
    if value is None:
        return Text("–", style="dim")
    place = 0.5 if high == low else (value - low) / (high - low)
    style = ""
    if place > 2 / 3:
        style = "green"
    elif place < 1 / 3:
        style = "red"
    return Text(f"{_BLOCKS[round(place * 8)]} {value:6.3f}", style=style)


def _scores(episode: Episode) -> RenderableType:
    if not episode.scores:
        return Text("no episode scores", style="dim")
    dimensions = list(dict.fromkeys(s.dimension for s in episode.scores))
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    shown.add_column("episode score")
    for agent in episode.agents:
        shown.add_column(Text(printable(agent.name)), justify="right")
    for evaluator in dict.fromkeys(s.evaluator for s in episode.scores):
        for name in dimensions:
            values = [episode.score(a.agent, name, evaluator) for a in episode.agents]
            label = Text.assemble(printable(name), " ", (printable(evaluator), "dim"))
            shown.add_row(label, *["–" if v is None else f"{v:g}" for v in values])
    return shown


def show(renderable: RenderableType) -> None:
    """Print to stdout; in a pipe without colour, and never narrower than 100 columns."""
    Screen(columns=100).print(renderable)
