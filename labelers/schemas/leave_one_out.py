"""leave-one-out: what an utterance was worth, by its loss: r = score of the episode − score without the utterance.

The judge scores the episode itself, once whole (turn −1) and once without each utterance, on the dimension's own range,
without knowing that anything was left out. Both scores are the judge's, so its leniency cancels; the evaluator's score
plays no part. The counterfactual is naive: the others' words stay what they were, though they answered the lost one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sotopia_rl_data.labelers.schemas.turnwise import BASELINE, Turnwise, View
from sotopia_rl_data.schema import Turn


def views(turns: Sequence[Turn], agents: tuple[str, ...]) -> Iterator[View]:
    """The whole episode, for everybody; then, for each utterance, the episode without it, for its speaker."""
    if agents:
        yield View(agents, BASELINE, tuple(turns))
    for place, turn in enumerate(turns):
        if turn.agent in agents:
            yield View((turn.agent,), turn.turn, (*turns[:place], *turns[place + 1 :]))


LEAVE_ONE_OUT = Turnwise(
    id="leave-one-out",
    rule="counterfactual",
    measure="episode_score",
    task="score.v1",
    question="score.question.v1",
    views=views,
    in_range=True,
)
