"""uniform: every utterance of an agent gets the same; no judge is asked.

Both meanings are offered: `uniform` gives each utterance G itself (the text and the code of Sotopia-RL, arXiv
2508.03905), `uniform-share` gives each G/T, T being the number of the agent's utterances (its appendix).
"""

from __future__ import annotations

from sotopia_rl_data.labelers.schemas.unjudged import Unjudged

UNIFORM = Unjudged(id="uniform", rule="uniform")
UNIFORM_SHARE = Unjudged(id="uniform-share", rule="uniform-share")
