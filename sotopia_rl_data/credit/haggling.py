"""Haggling: a seller and a buyer of a second-hand thing close a gap between their prices, or do not.

The state is (keen, rushed, gap, tilt, mood, extras of the seller, extras of the buyer, phase). `keen` (the buyer needs
the thing) is the buyer's secret, `rushed` (the seller must be rid of it) the seller's. `gap` is how many steps the
prices are apart; `tilt` whose way the price went (above 0: the seller's). Two moves look better than they are: `charm`
pleases and changes nothing; `promise` closes a step, and costs its speaker more than a concession would have.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from sotopia_rl_data.credit.game import NEUTRAL, Consequence, State, among, mixed, with_chance

OPEN, DEAL, WALKED = 0, 1, 2
SELLER, BUYER = 0, 1
_LEAST, _MOST = -2, 2  # of the tilt
_CONTENT = 3  # the best mood, in which they begin: nobody can have left before the fourth turn


@dataclass(frozen=True, slots=True)
class Haggling:
    """One set of rules. `persuasion` is the chance that a fair reason or a question convinces a partner in no hurry,
    `bluff` that pressure does; `mistakes` is the share of an agent's moves that are mistakes (seller's, buyer's)."""

    gap: int = 3
    persuasion: float = 0.6
    bluff: float = 0.4
    mistakes: tuple[float, float] = (0.3, 0.3)
    kind: str = "haggling"
    moves: tuple[str, ...] = (NEUTRAL, "concede", "reason", "press", "charm", "listen", "promise", "accept", "leave")

    def starts(self) -> Sequence[Consequence]:
        """Both secrets are fair coins."""
        return [
            Consequence(0.25, (keen, rushed, self.gap, 0, _CONTENT, 0, 0, OPEN))
            for keen in range(2)
            for rushed in range(2)
        ]

    def over(self, state: State) -> bool:
        """After a deal, or when one has left."""
        return state[7] != OPEN

    def legal(self, state: State, agent: int) -> Sequence[str]:
        """One can accept once the prices meet, and leave in a bad mood alone."""
        _, _, gap, _, mood, *extras, _ = state
        haggling = ["concede", "reason", "press"] if gap else ["accept"]
        promise = ["promise"] if gap and not extras[agent] else []
        return [NEUTRAL, "charm", "listen", *haggling, *promise, *(["leave"] if mood == 0 else [])]

    def outcomes(self, state: State, agent: int, move: str) -> Sequence[Consequence]:
        """See the module's first lines."""
        keen, rushed, gap, tilt, mood, extra_a, extra_b, _ = state
        pressed = rushed if agent == BUYER else keen  # whether the partner is in need
        mine = 1 if agent == SELLER else -1

        def at(
            gap: int = gap,
            tilt: int = tilt,
            mood: int = mood,
            extras: tuple[int, int] = (extra_a, extra_b),
            end: int = OPEN,
        ) -> State:
            return keen, rushed, gap, min(_MOST, max(_LEAST, tilt)), mood, *extras, end

        same = Consequence(1.0, state)
        if move == "concede":
            return [Consequence(1.0, at(gap - 1, tilt - mine), "moved")]
        if move == "reason":
            chance = min(0.95, self.persuasion + 0.2 * pressed - 0.15 * (_CONTENT - mood))
            return with_chance(
                chance, Consequence(1, at(gap - 1, tilt + mine), "convinced"), Consequence(1, state, "unmoved")
            )
        if move == "press":
            chance = min(0.95, self.bluff * (2 if pressed else 0.5))
            offended = at(mood=mood - 1) if mood else at(end=WALKED)
            return with_chance(
                chance, Consequence(1, at(gap - 1, tilt + mine), "yielded"), Consequence(1, offended, "offended")
            )
        if move == "listen":
            if mood == _CONTENT:
                return [same]
            return with_chance(self.persuasion, Consequence(1, at(mood=mood + 1), "warmed"), Consequence(1, state))
        if move == "promise":
            extras = (1, extra_b) if agent == SELLER else (extra_a, 1)
            return [Consequence(1.0, at(gap - 1, extras=extras), "pleased")]
        if move == "accept":
            return [Consequence(1.0, at(end=DEAL))]
        if move == "leave":
            return [Consequence(1.0, at(end=WALKED))]
        return [same if move == NEUTRAL else Consequence(1.0, state, "flattered")]

    def policy(self, state: State, agent: int) -> Mapping[str, float]:
        """A sensible haggler, who reasons while the mood is good and concedes when in need, with mistakes."""
        legal, in_need, mood = self.legal(state, agent), state[1 - agent], state[4]
        good = {"accept": 8.0, "reason": 3.0 if mood > 1 else 1.0, "concede": 2.5 if in_need else 1.0}
        good |= {"listen": 2.5 if mood < 2 else 0.6 if mood < _CONTENT else 0.0}
        bad = {
            NEUTRAL: 1.0,
            "charm": 2.0,
            "press": 1.5,
            "promise": 1.5,
            "listen": 0.5,
            "leave": 0.5 if in_need else 1.5,
        }
        return mixed(among(good, legal), among(bad, legal), self.mistakes[agent])

    def knows(self, state: State, agent: int) -> Hashable:
        """Everything but the partner's secret: state[1] is the seller's, state[0] the buyer's."""
        return state[1 - agent], state[2:]

    def score(self, state: State, agent: int) -> float:
        """A deal is worth 5.5 and 1.25 a step of the tilt, 1 more to who needs it, 2.5 less to who promised extras;
        without one the agent keeps 3 if it is in no need, else 0.5, and 0.5 less if somebody left."""
        in_need, tilt, phase = state[1 - agent], state[3], state[7]
        if phase != DEAL:
            return (0.5 if in_need else 3.0) - (0.5 if phase == WALKED else 0.0)
        return 5.5 + 1.25 * (tilt if agent == SELLER else -tilt) + in_need - 2.5 * state[5 + agent]

    def secret(self, state: State, agent: int) -> str:
        """The agent's own need."""
        if agent == SELLER:
            return (
                "You move house on Sunday and must be rid of it."
                if state[1]
                else "You can keep it as long as you like."
            )
        return "You need it this week." if state[0] else "You have seen others like it for sale."
