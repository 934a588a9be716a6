"""Cards: what a version or a model is, in Markdown and pictures, made from its records alone.

    dataset.py     the dataset card
    numbers.py     a version in figures and pictures: distributions, correlations, agreement
    croissant.py   the same as Croissant 1.1, for search engines and `mlcroissant`
    provenance.py  where a version comes from, as its manifest says
    model.py       the model card, from a run's record; each metric beside its interval and its baselines
    markdown.py    the pieces of Markdown that cards are made of
    templates/     the wording

Left out: laying a card over what people wrote (`sotopia_rl_data/store/readme.py`) and publishing (`hub/`).
"""

# Imported as `cards`, this folder would be a second package with a second copy of every class.
if __name__ != "sotopia_rl_data.cards":
    raise ImportError("Import sotopia_rl_data.cards: the folder cards/ is a part of that package.")
