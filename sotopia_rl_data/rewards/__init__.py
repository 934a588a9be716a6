"""From judged numbers to one reward for each utterance: pure, vectorised arithmetic without any model call.

    recipe.py      Recipe: rule, weights, normaliser, evaluator; the presets
    rules.py       the formulas of A (importance) and G (the episode's score): direct, scaled, singular …
    normalise.py   opinions averaged; min-max, z-score or rank, fitted on the train split; the weighted mean
    resolve.py     what the recipe reads of a version: opinions, dimensions, and the evaluator that G is taken from
    widen.py       long attributions -> one row for each utterance, the rule applied
    texts.py       prompts and completions: passed through from a version, or rendered from its episodes
    build.py       build(): makes the rewards, for `label` and `rewards`; remake(): commits them as the next version

The order of steps is fixed: each opinion (judge, sample) goes through the rule alone; opinions are averaged; each
dimension is normalised; the dimensions are aggregated by weight. Left out: asking (`labelers`), the wording of
prompts (`prompts`), and where the rows end up (`store`).

    from sotopia_rl_data.rewards import preset
    from sotopia_rl_data.rewards.build import Sources, build
    from sotopia_rl_data.rewards.texts import RenderedTexts, StoredTexts

    with store.stage(name) as stage:
        built = build(
            preset("sotopia-rl"),
            Sources(
                episodes=version.files("episodes"),          # split -> Parquet files in key order
                attributions=version.files("attributions"),  # split -> Parquet files in key order
                texts=RenderedTexts(version.files("episodes"), lambda e: prompts_of(e, layout, template)),
            ),
            write=partial(stage.write, "rewards"),           # write(split, tables): tables come in key order
            scratch=Path(...),                               # an empty directory; what is left there can be removed
            dimensions=("goal", "relationship", "knowledge"),  # None: those that the attributions hold
        )
    built.recipe.as_dict()      # evaluator and schema resolved: for the manifest's recipe
    built.provenance()          # statistics, counts, warnings: for the manifest's provenance
"""

from sotopia_rl_data.rewards.recipe import Recipe, preset, presets

__all__ = ["Recipe", "preset", "presets"]
