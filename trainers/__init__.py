"""Reward models, behaviour cloning and GRPO by dataset id: thin over transformers, trl and peft.

Nothing here is imported by the core. Importing it is cheap: torch and transformers are imported by the modules
that use them, and `sotopia_rl_data.trainers.api` is the way in for the command line.
"""

if __name__ != "sotopia_rl_data.trainers":  # imported by its bare name: a second copy of all classes
    raise ImportError("Import sotopia_rl_data.trainers: the folder trainers/ is a part of that package.")
