"""goal-progress: how far an agent has got after each of its utterances; the difference is the reward, P_t − P_(t−1).

P_t is judged from the episode up to and with the utterance, P_(−1) from the setting alone, so that an agent's first
utterance counts as well and its rewards add up to all of its progress: P_(T−1) − P_(−1). The differences are the rule's
business. It says where an agent stands on any dimension, the goal being the one that gave it its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sotopia_rl_data.labelers.schemas.turnwise import BASELINE, Turnwise, View, prefixes
from sotopia_rl_data.schema import Turn


def views(turns: Sequence[Turn], agents: tuple[str, ...]) -> Iterator[View]:
    """Nothing yet, for everybody; then the episode up to each utterance."""
    if agents:
        yield View(agents, BASELINE, ())
    yield from prefixes(turns, agents)


GOAL_PROGRESS = Turnwise(
    id="goal-progress",
    rule="progress",
    measure="progress",
    task="progress.v1",
    question="progress.question.v1",
    views=views,
)
