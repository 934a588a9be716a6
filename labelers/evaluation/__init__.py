"""SOTOPIA-EVAL as data: episodes are scored by judges or by people, and the scores become a version of the dataset.

sotopia_eval.py   what a judge is asked about an episode, what is accepted, what it yields
evaluating.py     evaluate(): plan, ask, read, commit
people.py         the form that people fill in, as a CSV or a page, and their scores read back
"""
