"""The regression reward model: its head and units, rows that share prefixes, training, metrics, and the model in use.

`tree` and `attention` pack utterances that share a prefix into one row, exactly; `rows` are what a model is given,
`trainer` is the loss, `metrics` how good it is, `head` what its outputs mean. `model` is what comes out of it all:
`from sotopia_rl_data.trainers import RewardModel`. What is common to all trainers (data, token ids, configurations)
lies one folder up. Importing this package loads no torch.
"""
