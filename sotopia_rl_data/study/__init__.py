"""A paper as one command: what a YAML file declares is made step by step, and ends in tables and figures.

    declared.py   the file's names and settings as frozen nouns, each mistake with its line
    steps.py      the steps that make versions of data: import, label, rewards, evaluate; playing.py: rollout
    training.py   the steps that train, and that measure reward models side by side
    planning.py   from a study to its steps, in an order in which each finds what it needs
    run.py        what is there is not made again: a step's identity is its name, its settings and its inputs' digests
    tables.py     the tables, read from versions alone, with intervals from resampled episodes
    writing.py    Markdown, LaTeX and PNG, the same bytes each time

Each step calls the library function that the command of the same name calls. Leaves out several GPUs: training runs in
this process (a run that `train` made elsewhere cannot be handed in).
"""
