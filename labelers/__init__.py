"""What judges are asked, and what their answers mean. See `judge.py` for the nouns and `run.py` for the only loop."""
