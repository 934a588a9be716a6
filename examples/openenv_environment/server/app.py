"""The environment `sotopia-dialogue` of OpenEnv as a server. Its settings are variables of the environment:

SOTOPIA_PARTNER       the partner's policy, as `rollout --b` names it        scripted:firm
SOTOPIA_JUDGE         who rewards, as `label --judge` names it               lexical
SOTOPIA_REWARD_MODEL  instead of a judge: a folder, a Hub id, a server's URL
SOTOPIA_SCENARIOS     which scenes, as `rollout --scenarios` names them      samples
SOTOPIA_PROFILES      for the scenes hard or all: the folder of profiles
SOTOPIA_TURNS         the most turns of an episode                           20
SOTOPIA_BUDGET        the most that the judge's answers may cost, in USD,    no cap
                      and the most that the partner's may

uvicorn server.app:app --port 8000
"""

from __future__ import annotations

import math
import os

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.environments.openenv import dialogue_app
from sotopia_rl_data.environments.playing import Partners, outside
from sotopia_rl_data.environments.rewards import RewardChoice, turn_rewards
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.rollouts.episode_run import Rules
from sotopia_rl_data.rollouts.rollout import plan_of
from sotopia_rl_data.rollouts.scenarios import scenes_of


def setting(name: str, usual: str) -> str:
    """The setting of this name."""
    return os.environ.get(f"SOTOPIA_{name}", usual)


def number(name: str, usual: str, kind: type[int] | type[float]) -> float:
    """The setting of this name as a number above 0. Raises UsageError."""
    try:
        value = kind(setting(name, usual))
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise UsageError(f"SOTOPIA_{name} is not a number above 0.", f"set it as in SOTOPIA_{name}=20")
    return value


plan = plan_of(
    scenes_of(setting("SCENARIOS", "samples"), setting("PROFILES", "") or None),
    Rules(layout="chat", turns=int(number("TURNS", "20", int))),
    a=outside(),
    b=setting("PARTNER", "scripted:firm"),
)
budget = number("BUDGET", "", float) if setting("BUDGET", "") else None
model = setting("REWARD_MODEL", "")
choice = RewardChoice(judge="" if model else setting("JUDGE", "lexical"), reward_model=model, budget=budget)
app = dialogue_app(plan, turn_rewards(choice), Partners(plan, AskOptions(budget=budget)))
