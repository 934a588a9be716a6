"""Cards: what a version or a model is, in Markdown, made from records alone. Records in, text and pictures out.

    dataset.py     the dataset card
    numbers.py     a version in figures: distributions, correlations, agreement
    plots.py       figures as pictures (matplotlib, imported when one is drawn)
    provenance.py  where a version comes from, as its manifest says
    model.py       the model card, from a run's record; a run's metrics beside their intervals and baselines
    markdown.py    the pieces of Markdown that cards are made of
    templates/     the wording

How a card is laid over what people wrote is `sotopia_rl_data/store/readme.py`'s; publishing is `sotopia_rl_data/hub`'s.
"""

if __name__ != "sotopia_rl_data.cards":  # imported by its bare name: a second copy of all classes
    raise ImportError("Import sotopia_rl_data.cards: the folder cards/ is a part of that package.")
