"""Reward models, behaviour cloning and GRPO by dataset id: thin over transformers, trl and peft.

Nothing here is imported by the core. `import trainers` is cheap: torch and transformers are imported by the modules
that use them, and `trainers.commands` is the way in for the command line.
"""
