"""How a game is told: its scene, its people, and each move as an utterance.

A move has several wordings, and what surrounds it (polite filler, a distraction, an answer to what came before) is
drawn without regard to the move: length and politeness tell nothing of an utterance's credit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from sotopia_rl_data.credit.game import AGENTS, Consequence, Game, State
from sotopia_rl_data.credit.haggling import BUYER, SELLER
from sotopia_rl_data.schema import Agent

WORDINGS = {"plain": 0.45, "polite": 0.25, "distracted": 0.15, "polite and distracted": 0.15}
"""How an utterance is worded besides its move, and how often."""


@dataclass(frozen=True, slots=True)
class Telling:
    """A game's words: where it takes place, who speaks (agent 0's name first), and the chance that words things."""

    game: Game
    scene: Mapping[str, Any]
    names: Sequence[str]
    rng: np.random.Generator

    @classmethod
    def drawn(cls, game: Game, rng: np.random.Generator) -> Telling:
        """A scene and people."""
        words = words_of(game.kind)
        scene = words["scenes"][int(rng.integers(len(words["scenes"])))]
        return cls(game, scene, words["people"][int(rng.integers(len(words["people"])))], rng)

    def scenario(self, length: int) -> str:
        """What both know before they speak."""
        scene, (first, second) = self.scene, self.names
        most = f"They have time for {length} turns."
        if self.game.kind == "haggling":
            offer = f"{first} sells a {scene['thing']} and {second} may buy it, {scene['place']}."
            asked = f"The first price is {self._price(3, 0, SELLER)}, the first offer {self._price(3, 0, BUYER)}."
            return f"{offer} {asked} {most}"
        return (
            f"{first} and {second} prepare {scene['party']}, {scene['place']}: a {scene['dish']} has to be chosen, "
            f"ordered and fetched from the bakery, and a table booked. {most}"
        )

    def agents(self, start: State) -> tuple[Agent, ...]:
        """The two, with their goals and secrets."""
        if self.game.kind == "haggling":
            goals = [f"{verb} the {self.scene['thing']} for a good price." for verb in ("Sell", "Buy")]
        else:
            goals = ["Get everything ready, and run as few errands yourself as you can."] * 2
        return tuple(
            Agent(agent=name, name=name, goal=goals[a], secret=self.game.secret(start, a))
            for a, name in zip(AGENTS, self.names, strict=True)
        )

    def utterance(self, turn: int, move: str, before: Consequence, after: Consequence, wording: str) -> str:
        """What is said at `turn`: an answer to what came of the last move (`before`), then the move, which leads to
        `after`, with what the wording adds."""
        agent, words, filler = turn % 2, words_of(self.game.kind), words_of("filler")
        parts = [self._one_of(words["heard"][before.heard], before.state, agent)] if before.heard else []
        parts.append(self._one_of(words["moves"][move][agent], after.state, agent))
        if "polite" in wording:
            parts.insert(len(parts) - 1, self._one_of(filler["polite_before"], before.state, agent))
            parts.append(self._one_of(filler["polite_after"], before.state, agent))
        if "distracted" in wording:
            place = int(self.rng.integers(len(parts) + 1))
            parts.insert(place, self._one_of(filler["distraction"], before.state, agent))
        return " ".join(part for part in parts if part)

    def _one_of(self, texts: Sequence[str], state: State, agent: int) -> str:
        mine = self._price(state[2], state[3], agent) if self.game.kind == "haggling" else ""
        words = {name: text for name, text in self.scene.items() if isinstance(text, str)}
        partner = self.names[1 - agent].split()[0]
        return texts[int(self.rng.integers(len(texts)))].format(mine=mine, partner=partner, **words)

    def _price(self, gap: int, tilt: int, agent: int) -> str:
        """The price that the agent names when the prices are so far apart, and have moved so far."""
        middle = self.scene["base"] + self.scene["step"] * tilt / 2
        return f"{middle + (1 if agent == SELLER else -1) * self.scene['step'] * gap / 2:g} euros"


@cache
def words_of(name: str) -> Any:
    """What is said in games of a kind, or around any move (`filler`): a file of `words/`."""
    import yaml

    return yaml.safe_load(resources.files(__package__).joinpath("words", f"{name}.yaml").read_text("utf-8"))
