"""utterance-quality and only-response: how well an utterance serves its speaker, whatever came of the episode.

utterance-quality shows the history and the utterance; only-response also the reply that it drew, that is, what the
others did until the agent acted again, and nothing later. The episode's score plays no part: r is the quality itself.
Source: two of the attribution methods compared in Sotopia-RL (arXiv 2508.03905).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sotopia_rl_data.labelers.schemas.turnwise import Turnwise, View, prefixes
from sotopia_rl_data.schema import Turn


def with_reply(turns: Sequence[Turn], agents: tuple[str, ...]) -> Iterator[View]:
    """For each utterance of these agents, the episode up to the agent's next one, without that one."""
    for place, turn in enumerate(turns):
        if turn.agent in agents:
            later = range(place + 1, len(turns))
            end = next((i for i in later if turns[i].agent == turn.agent), len(turns))
            yield View((turn.agent,), turn.turn, tuple(turns[:end]))


UTTERANCE_QUALITY = Turnwise(
    id="utterance-quality",
    rule="quality",
    measure="quality",
    task="quality.v1",
    question="quality.question.v1",
    views=prefixes,
)
ONLY_RESPONSE = Turnwise(
    id="only-response",
    rule="quality",
    measure="quality",
    task="response.v1",
    question="response.question.v1",
    views=with_reply,
)
