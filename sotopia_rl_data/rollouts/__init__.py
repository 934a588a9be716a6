"""Self-play: SOTOPIA's environment as a state machine, played by policies that are plain callables."""

from sotopia_rl_data.rollouts.action import FAILED, NOTHING, Action, read_action
from sotopia_rl_data.rollouts.dialects import DIALECTS, DialectName
from sotopia_rl_data.rollouts.play import Exchange, play
from sotopia_rl_data.rollouts.policies import Asked, Policy, scripted
from sotopia_rl_data.rollouts.profiles import HARD, Profiles, read_profiles
from sotopia_rl_data.rollouts.scenarios import bundled, read_scenarios
from sotopia_rl_data.rollouts.scene import Environment, Person, Scene
from sotopia_rl_data.rollouts.world import World

__all__ = [
    "DIALECTS",
    "FAILED",
    "HARD",
    "NOTHING",
    "Action",
    "Asked",
    "DialectName",
    "Environment",
    "Exchange",
    "Person",
    "Policy",
    "Profiles",
    "Scene",
    "World",
    "bundled",
    "play",
    "read_action",
    "read_profiles",
    "read_scenarios",
    "scripted",
]
