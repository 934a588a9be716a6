"""scaled: importance shared out, r_t = G·A_t / Σ_t A_t over the agent's utterances (0 where ΣA = 0).

It asks exactly what direct asks, in the same words: after direct it costs no call, and the other way round.
Source: Sotopia-RL (arXiv 2508.03905), section 3.
"""

from __future__ import annotations

from sotopia_rl_data.labelers.schemas.direct import Importance

SCALED = Importance(id="scaled", rule="scaled")
