"""Rewards by name, from any project: `pip install -r requirements.txt && python main.py org/name v1.0.0`."""

import sys

from datasets import load_dataset

name, version = sys.argv[1:]
rewards = load_dataset(name, revision=version, split="train")
labelled = rewards.filter(lambda row: row["reward"] is not None)
best = max(labelled, key=lambda row: row["reward"])
print(f"{name} {version}: {len(rewards)} utterances, {len(labelled)} with a reward. The best, {best['reward']:.3f}:")
print(best["completion"][0]["content"])
