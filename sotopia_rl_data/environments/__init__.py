"""The simulator as an environment that other trainers play: over the same World as `rollout`, so that the same policy
on the same scenes gives the same episodes.

    rewards.py      the reward of each of an agent's utterances: by judges, a reward model or a reward server
    dialogue.py     an environment of `verifiers`, with two seats (extra: `verifiers`)
    playing.py      one seat played from outside, step by step, its partner by a policy …
    trl.py          … by the tool calls of TRL's GRPO (`environment_factory`)
    multi_turn.py   … by TRL's GRPO without tools, an episode as one completion (`rollout_func`)
    openenv.py      … by the clients of an OpenEnv server (extra: `openenv`)
"""
