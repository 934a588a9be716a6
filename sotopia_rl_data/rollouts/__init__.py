"""Self-play: SOTOPIA's environment as a state machine. Policies, which are plain callables, play it.

world.py scene.py actions.py   one episode: the state machine, what it starts from, what agents do
markup.py                      which spans of a text an agent sees
scenarios.py profiles.py       scenes from scenario files, and from the sotopia library's profiles
policies.py                    who plays: scripted policies, callables, models by name
plan.py episode_run.py rollout.py  which episodes; one episode as a chain of requests; all of them into a version
next_turns.py                  the next action in episodes that have begun
estimate.py                    what a run would cost
"""

from sotopia_rl_data.rollouts.actions import DIALECTS, FAILED, NOTHING, Action, DialectName, read_action
from sotopia_rl_data.rollouts.policies import Exchange, Policy, play, scripted
from sotopia_rl_data.rollouts.profiles import HARD, Profiles, read_profiles
from sotopia_rl_data.rollouts.scenarios import bundled, read_scenarios
from sotopia_rl_data.rollouts.scene import Environment, Person, Scene
from sotopia_rl_data.rollouts.world import TurnPrompt, World

__all__ = [
    "DIALECTS",
    "FAILED",
    "HARD",
    "NOTHING",
    "Action",
    "DialectName",
    "Environment",
    "Exchange",
    "Person",
    "Policy",
    "Profiles",
    "Scene",
    "TurnPrompt",
    "World",
    "bundled",
    "play",
    "read_action",
    "read_profiles",
    "read_scenarios",
    "scripted",
]
