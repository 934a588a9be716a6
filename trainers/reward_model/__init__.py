"""The regression reward model: its head and units, rows that share prefixes, training, metrics, and the model in use.

    tree.py attention.py  utterances that share a prefix packed into one row, with the same scores
    precision.py          the score head in float32
    rows.py               from a dataset's rows to what the model is trained on
    trainer.py            the loss and the trainer
    metrics.py head.py    how good the model is, and what its outputs mean
    model.py              the trained model in use: `from sotopia_rl_data.trainers import RewardModel`

What all trainers share (data, token ids, configurations) is one folder up. Importing this package loads no torch.
"""
