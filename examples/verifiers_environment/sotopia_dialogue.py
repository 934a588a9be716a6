"""The environment `sotopia-dialogue` of `verifiers`: its classes, under the name by which hubs find it."""

from sotopia_rl_data.environments.dialogue import DialogueEnv, DialogueTaskset

__all__ = ["DialogueEnv", "DialogueTaskset"]
