"""The environment `sotopia-dialogue` of OpenEnv as a server. Its settings are variables of the environment:

SOTOPIA_PARTNER     the partner's policy, as `rollout --b` names it        scripted:firm
SOTOPIA_JUDGE       who rewards, as `label --judge` names it               lexical
SOTOPIA_SCENARIOS   which scenes, as `rollout --scenarios` names them      samples
SOTOPIA_TURNS       the most turns of an episode                           20

uvicorn server.app:app --port 8000
"""

from __future__ import annotations

import os

from sotopia_rl_data.environments.openenv import dialogue_app
from sotopia_rl_data.environments.playing import outside
from sotopia_rl_data.environments.rewards import RewardChoice, turn_rewards
from sotopia_rl_data.rollouts.episode_run import Rules
from sotopia_rl_data.rollouts.rollout import plan_of
from sotopia_rl_data.rollouts.scenarios import scenes_of


def setting(name: str, usual: str) -> str:
    """The setting of this name."""
    return os.environ.get(f"SOTOPIA_{name}", usual)


plan = plan_of(
    scenes_of(setting("SCENARIOS", "samples")),
    Rules(layout="chat", turns=int(setting("TURNS", "20"))),
    a=outside(),
    b=setting("PARTNER", "scripted:firm"),
)
app = dialogue_app(plan, turn_rewards(RewardChoice(judge=setting("JUDGE", "lexical"))))
