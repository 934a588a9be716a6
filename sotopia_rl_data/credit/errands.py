"""Errands: two friends get a party ready before the evening; each task that one does is a task the other is spared.

The state is (shut, lame, part, room, warned, quarrel, effort of the first, effort of the second, phase). `shut` (the
bakery closes early today) is the second agent's secret, `lame` (the bicycle has a flat tyre) the first's. `part` is how
far the cake is: nothing, chosen, ordered, fetched; `room` whether the table is booked. Two moves look better than they
are: `boast` sounds like help and does nothing; `thank` ends a quarrel, and does nothing where there is none. `tell`
looks like small talk, and is what makes fetching succeed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from sotopia_rl_data.credit.game import NEUTRAL, Consequence, State, among, mixed, with_chance

ONGOING, READY, PARTED = 0, 1, 2
_PATIENCE, _EFFORT = 3, 2  # nobody can have parted before the fourth turn; a third errand costs no more


@dataclass(frozen=True, slots=True)
class Errands:
    """One set of rules. `luck` is the chance that an order or a booking goes through, `early` that the bakery shuts
    early; `mistakes` is the share of an agent's moves that are mistakes (the first's, the second's)."""

    luck: float = 0.7
    early: float = 0.5
    mistakes: tuple[float, float] = (0.3, 0.3)
    kind: str = "errands"
    moves: tuple[str, ...] = (
        *(NEUTRAL, "choose", "order", "fetch", "book", "tell", "boast", "thank", "blame", "finish"),
    )

    def starts(self) -> Sequence[Consequence]:
        """The bakery shuts early with probability `early`; the tyre is flat every other day."""
        return [
            Consequence(0.5 * (self.early if shut else 1 - self.early), (shut, lame, 0, 0, 0, 0, 0, 0, ONGOING))
            for shut in range(2)
            for lame in range(2)
        ]

    def over(self, state: State) -> bool:
        """When all is ready, or they have parted in anger."""
        return state[8] != ONGOING

    def legal(self, state: State, agent: int) -> Sequence[str]:
        """The next step of the cake, the booking until it is made, and talk."""
        _, _, part, room, warned, *_ = state
        step = [("choose", "order", "fetch")[part]] if part < 3 else []
        ready = ["finish"] if part == 3 and room else []
        return [
            NEUTRAL,
            "boast",
            "thank",
            "blame",
            *step,
            *ready,
            *([] if room else ["book"]),
            *([] if warned else ["tell"]),
        ]

    def outcomes(self, state: State, agent: int, move: str) -> Sequence[Consequence]:
        """See the module's first lines."""
        shut, lame, part, room, warned, quarrel, effort_a, effort_b, _ = state
        worked = (min(_EFFORT, effort_a + (agent == 0)), min(_EFFORT, effort_b + (agent == 1)))
        rested = (effort_a, effort_b)

        def at(
            part: int = part,
            room: int = room,
            warned: int = warned,
            quarrel: int = quarrel,
            effort: tuple[int, int] = rested,
            end: int = ONGOING,
        ) -> State:
            return shut, lame, part, room, warned, quarrel, *effort, end

        luck = self.luck - 0.1 * quarrel
        if move == "choose":
            return [Consequence(1.0, at(part=1), "chosen")]
        if move == "order":
            return with_chance(luck, Consequence(1, at(part=2), "ordered"), Consequence(1, state, "engaged"))
        if move == "book":
            done, tried = at(room=1, effort=worked), at(effort=worked)
            return with_chance(luck, Consequence(1, done, "booked"), Consequence(1, tried, "full"))
        if move == "fetch":
            chance = 0.95 if warned else 0.95 - 0.7 * shut - 0.2 * (lame and agent == 0)
            done, tried = at(part=3, effort=worked), at(effort=worked)
            return with_chance(chance, Consequence(1, done, "fetched"), Consequence(1, tried, "stranded"))
        if move == "tell":
            return [Consequence(1.0, at(warned=1), "noted")]
        if move == "blame":
            angrier = at(quarrel=quarrel + 1) if quarrel < _PATIENCE else at(end=PARTED)
            return [Consequence(1.0, angrier, "hurt")]
        if move == "thank":
            return [Consequence(1.0, at(quarrel=quarrel - 1) if quarrel else state, "touched")]
        if move == "finish":
            return [Consequence(1.0, at(end=READY))]
        return [Consequence(1.0, state, "relieved" if move == "boast" else "")]

    def policy(self, state: State, agent: int) -> Mapping[str, float]:
        """A helpful friend, who tells what can go wrong if it knows of it, with mistakes."""
        legal, knows_trouble = self.legal(state, agent), state[1] if agent == 0 else state[0]
        good = {"finish": 8.0, "choose": 3.0, "order": 3.0, "fetch": 1.0 if knows_trouble and not state[4] else 3.0}
        good |= {"book": 2.0, "tell": 3.0 if knows_trouble else 0.3, "thank": 2.0 if state[5] else 0.0}
        bad = {NEUTRAL: 1.5, "boast": 2.5, "thank": 1.0, "blame": 1.5, "fetch": 1.0, "tell": 0.3}
        return mixed(among(good, legal), among(bad, legal), self.mistakes[agent])

    def knows(self, state: State, agent: int) -> Hashable:
        """Everything but the partner's secret."""
        return state[1 - agent], state[2:]

    def score(self, state: State, agent: int) -> float:
        """2 a step of the cake, 3 for the table, 1 if nobody is cross, less 1 for each errand that the agent ran
        itself; not below 0."""
        _, _, part, room, _, quarrel, *effort, _ = state
        return max(0.0, 2.0 * part + 3.0 * room + (1.0 if quarrel == 0 else 0.0) - effort[agent])

    def secret(self, state: State, agent: int) -> str:
        """The agent's own piece of knowledge."""
        if agent == 0:
            return "Your bicycle has a flat tyre." if state[1] else "Your bicycle is in good order."
        return "The bakery shuts early today." if state[0] else "The bakery is open until the evening."
