"""What judges are asked, and what their answers mean. See `judge.py` for the nouns and `run.py` for the only loop."""

if __name__ != "sotopia_rl_data.labelers":  # imported by its bare name: a second copy of all classes
    raise ImportError("Import sotopia_rl_data.labelers: the folder labelers/ is a part of that package.")
