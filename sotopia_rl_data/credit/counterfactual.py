"""What each utterance changed, by playing other utterances on to the end: the draws and plays of `label --schema
counterfactual`.

    draw      K utterances of the policy at each turn
    play      what was said and each of these, on to the end, M times
    judge     the ends
    credit    K differences a turn, each an opinion of the schema `counterfactual`

The estimand and its interval are in `replaying.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from sotopia_rl_data.credit.branching import Asking, CreditDraw, Gaps, Juncture, ReplaySettings, Scores, action_of
from sotopia_rl_data.errors import AskingError
from sotopia_rl_data.rollouts.actions import Action
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, EpisodeSpec
from sotopia_rl_data.schema import Failure


class Alternatives:
    """What the policy says at each turn, how both are played on, and the credit in the scores. `failures` are what
    could not be drawn."""

    unjudged = "no pair of plays has both scores"

    def __init__(self, settings: ReplaySettings, turns: Sequence[Juncture]) -> None:
        self._settings, self._turns = settings, turns
        self._drawn: dict[CreditDraw, Action] = {}
        self._pairs: dict[CreditDraw, list[tuple[str, str]]] = {}
        self.failures: list[tuple[CreditDraw, Failure]] = []

    @property
    def draws(self) -> list[CreditDraw]:
        """What was drawn."""
        return list(self._pairs)

    def plays(self, ask: Asking) -> list[EpisodeSpec]:
        """Have the policy speak K times at every turn. Returns how what was said and what was drawn is played on.
        Raises AskingError where nothing was drawn."""
        settings, specs = self._settings, list[EpisodeSpec]()
        self._draw(ask)
        for draw, action in self._drawn.items():
            self._pairs[draw] = []
            for m in range(settings.rollouts):
                said = draw.juncture.play(settings, "said", draw.juncture.said, draw.k, m)
                other = draw.juncture.play(settings, "drawn", action, draw.k, m)
                specs += [said, other]
                self._pairs[draw].append((said.episode_id, other.episode_id))
        if not specs:
            reason = self.failures[0][1].reason if self.failures else "none was asked for"
            raise AskingError(f"The policy drew no utterance that can be played on: {reason}.", "see what it answers")
        return specs

    def _draw(self, ask: Asking) -> None:
        settings = self._settings
        specs = [(turn, k, turn.draw(settings, k)) for turn in self._turns for k in range(settings.alternatives)]
        draws = {
            spec.episode_id: CreditDraw(turn, k, EpisodeRun(spec, settings.rules).first().key)
            for turn, k, spec in specs
        }

        def take(run: EpisodeRun) -> None:
            draw = draws[run.spec.episode_id]
            if run.failures:  # the policy could not be asked, or said nothing that can be read
                told = run.failures[0]
                failure = replace(told, episode_id=draw.episode_id, agent=draw.agent, turn=draw.turn)
                self.failures.append((draw, failure))
            else:
                self._drawn[draw] = action_of(run.episode().turns[-1])

        ask([spec for *_, spec in specs], take)

    def gaps(self, scores: Scores, judges: Sequence[str], dimensions: Sequence[str]) -> Gaps:
        """For each draw, dimension and judge, the mean difference of the scores of what was said and of what was drawn,
        over the plays of which both ends are judged; none where no pair is."""
        found = {}
        for (draw, names), dimension, judge in product(self._pairs.items(), dimensions, judges):
            ends = [[scores.get((play, draw.agent, dimension, judge)) for play in pair] for pair in names]
            whole = [said - other for said, other in ends if said is not None and other is not None]
            if whole:
                found[draw, dimension, judge] = float(np.mean(whole))
        return found
