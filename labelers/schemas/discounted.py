"""discounted: r_t = γ^(T−1−t)·G, t counting the agent's own utterances from 0; no judge is asked.

The last utterance gets G. γ belongs to the rule and is set where rewards are built. Source: Sotopia-RL (arXiv
2508.03905), the discounted baseline.
"""

from __future__ import annotations

from sotopia_rl_data.labelers.schemas.unjudged import Unjudged

DISCOUNTED = Unjudged(id="discounted", rule="discounted")
