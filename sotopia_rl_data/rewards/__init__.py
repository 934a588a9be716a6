"""From judged numbers to one reward an utterance: pure, vectorised arithmetic that never asks anybody.

    recipe.py      Recipe: rule, weights, normaliser, evaluator; the presets
    rules.py       what one opinion makes of A (importance) and G (the episode's score): direct, scaled, singular …
    normalise.py   min-max, z-score, rank: fitted on the train split, applied unchanged to the others
    outcomes.py    which evaluator's scores G is taken from
    long.py        which opinions the attributions hold
    streams.py     sorted Parquet as a stream of whole episodes
    answers.py     a chunk of long attributions as numbers in their places
    widen.py       long attributions -> one row an utterance, its rule applied
    combine.py     several opinions -> one number; several dimensions -> one reward
    texts.py       prompts and completions: passed through from a version, or rendered from its episodes
    build.py       build(): the function that both `label` and `rewards` call

The order of steps is fixed: each opinion (judge, sample) goes through the rule alone; opinions are averaged; each
dimension is normalised; the dimensions are aggregated by weight. Left out: asking (`labelers`), the wording of
prompts (`prompts.py`), and where the rows end up (`store.py`).

    from sotopia_rl_data.rewards import preset
    from sotopia_rl_data.rewards.build import build
    from sotopia_rl_data.rewards.texts import RenderedTexts, StoredTexts

    with store.stage(name) as stage:
        built = build(
            preset("sotopia-rl"),
            episodes=version.files("episodes"),            # split -> Parquet files in key order
            attributions=version.files("attributions"),    # split -> Parquet files in key order
            texts=RenderedTexts(version.files("episodes"), lambda e: prompts_of(e, layout, template)),
            write=partial(stage.write, "rewards"),         # write(split, tables): tables come in key order
            scratch=Path(...),                             # an empty directory; what is left there can be removed
            asked=("goal", "relationship", "knowledge"),   # None: the dimensions that the attributions hold
        )
    built.recipe.as_dict()      # evaluator and schema resolved: for the manifest's recipe
    built.provenance()          # statistics, counts, warnings: for the manifest's provenance
"""

from sotopia_rl_data.rewards.recipe import Recipe, preset, presets

__all__ = ["Recipe", "preset", "presets"]
