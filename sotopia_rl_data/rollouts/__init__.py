"""Self-play: SOTOPIA's environment as a state machine, played by policies that are plain callables."""

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
