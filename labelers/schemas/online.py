"""direct-online: importance judged without hindsight, from the episode up to and with the utterance; r = G·A.

The judge is not told the score either, since nobody has it yet. Source: Sotopia-RL (arXiv 2508.03905), the online
context of its ablation, against the offline one of `direct.py`.
"""

from __future__ import annotations

from sotopia_rl_data.labelers.schemas.turnwise import Turnwise, prefixes

DIRECT_ONLINE = Turnwise(
    id="direct-online",
    rule="direct",
    measure="importance",
    task="online.v1",
    question="online.question.v1",
    views=prefixes,
    levels=True,
    needs_score=True,
)
