"""compare(): agents side by side, as in the papers' tables, and what of it is noise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.comparisons import HARD, SEVEN, episode, goals, run, units
from fixtures.labelling import put
from fixtures.places import ROOT
from fixtures.playing import Longest, Sampler, act, brief, scenes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sotopia_rl_data import statistics
from sotopia_rl_data.comparing import Comparison, ComparisonOptions, compare, tables
from sotopia_rl_data.comparing.measure import compare_units
from sotopia_rl_data.comparing.methods import AVERAGE
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.evaluation.evaluating import evaluate
from sotopia_rl_data.labelers.plan import Elicitation
from sotopia_rl_data.rollouts.episode_run import Rules
from sotopia_rl_data.rollouts.rollout import plan_of, rollout
from sotopia_rl_data.rollouts.scenarios import scenes_of
from sotopia_rl_data.schema import Episode, Score
from sotopia_rl_data.store import Store

QUICK = ComparisonOptions(resamples=100)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def compared(store: Store, *runs: list[Episode], **options) -> Comparison:
    store = Store(tempfile.mkdtemp(dir=store.root.parent))
    versions = [put(store, episodes, f"lab/run{i}") for i, episodes in enumerate(runs)]
    return compare(versions, **{"options": QUICK, **options})


# --- the tables -------------------------------------------------------------------------------------------------------


def test_the_table_is_means_by_dimension_and_the_average_is_the_plain_mean_of_seven(store: Store):
    seven = dict(zip(SEVEN, (9, 2, 4, -1, 0, 1, 7), strict=True))
    a = [episode("1", ("A", "P"), {(0, n): v for n, v in seven.items()} | {(1, "goal"): 0.0})]
    b = [episode("1", ("B", "P"), {(0, n): v + (n == "goal") for n, v in seven.items()})]
    found = compared(store, a, b)
    (one,) = found.conditions
    assert (one.scenarios, one.partner, one.evaluator) == ("all", "P", "gpt-4o")
    assert found.methods == ("A", "B")
    assert found.dimensions == (*SEVEN, AVERAGE)
    assert one.means[0].means == seven | {AVERAGE: 22 / 7}
    assert one.means[1].means[AVERAGE] == 23 / 7
    (grid,) = tables.conditions(found)
    assert grid.columns == ("method", "n", "BEL", "REL", "KNO", "SEC", "SOC", "FIN", "GOAL", "AVG", "missing")
    assert grid.rows[0] == ("A", 1, "9.00", "2.00", "4.00", "-1.00", "0.00", "1.00", "7.00", "3.14", None)


def test_a_missing_score_is_left_out_counted_and_never_zero(store: Store):
    a = [episode(f"{i}", ("A", "P"), goals(score, 0), cast=(f"a{i}", "b")) for i, score in enumerate((6, 8, None))]
    b = [episode(f"{i}", ("B", "P"), goals(score, 0), cast=(f"a{i}", "b")) for i, score in enumerate((7, None, 9))]
    (one,) = compared(store, a, b).conditions
    assert [m.means["goal"] for m in one.means] == [7.0, 8.0]
    assert [m.missing["goal"] for m in one.means] == [1, 1]
    effect = one.contrasts[0].effect("goal")
    assert (one.contrasts[0].pairs, effect.pairs, effect.difference) == (3, 1, 1.0)
    assert (effect.t, effect.p, effect.low) == (None, None, None)
    assert not effect.significant


def test_where_one_of_the_seven_is_missing_there_is_no_average(store: Store):
    whole = {(0, name): 0.0 for name in SEVEN}
    part = {key: value for key, value in whole.items() if key[1] != "secret"}
    a = [episode(f"{i}", ("A", "P"), some, cast=(f"a{i}", "b")) for i, some in enumerate((whole, part))]
    means = compared(store, a, a[:1], agents=["first"]).conditions[0].means[0]
    assert (means.means[AVERAGE], means.missing[AVERAGE], means.missing["secret"]) == (0.0, 1, 1)
    assert means.missing["goal"] == 0


def test_pairs_are_of_one_environment_the_same_agents_and_the_same_position(store: Store):
    a = [
        episode("1", ("A", "P"), goals(5, 1)),
        episode("2", ("P", "A"), goals(1, 6)),
        episode("3", ("A", "P"), goals(9, 1), environment="other"),  # B was never there
        episode("4", ("A", "P"), goals(7, 1)),  # episode 1's setting again: A's goal there is the mean of 5 and 7, so 6
    ]
    b = [
        episode("1", ("B", "P"), goals(8, 1)),
        episode("2", ("P", "B"), goals(1, 4)),
        episode("3", ("B", "P"), goals(0, 1), cast=("b", "a")),  # the agents changed places
    ]
    found = compared(store, a, b)
    contrast = found.conditions[0].contrasts[0]
    effect = contrast.effect("goal")
    assert (contrast.pairs, contrast.alone, contrast.together) == (2, (1, 1), False)
    assert (effect.mean_a, effect.mean_b, effect.difference) == (6.0, 6.0, 0.0)
    assert (effect.wins, effect.ties, effect.losses, effect.win_rate) == (1, 0, 1, 0.5)
    assert found.remarks == ("1 of A and 1 of B have no counterpart with the partner P",)


def test_both_agents_of_one_conversation_are_one_pair(store: Store):
    a = [episode(f"{i}", ("A", "A"), goals(i, i + 2), environment=f"e{i}") for i in range(4)]
    b = [episode(f"{i}", ("B", "B"), goals(i + 1, i + 3), environment=f"e{i}") for i in range(4)]
    (one,) = compared(store, a, b).conditions
    assert one.partner == "itself"
    assert [m.units for m in one.means] == [8, 8]
    assert (one.contrasts[0].pairs, one.contrasts[0].together) == (4, True)
    assert one.contrasts[0].effect("goal").mean_a == 2.5


def test_hard_and_all_and_every_partner_and_evaluator_come_out_of_one_call(store: Store):
    """The shapes of the papers' tables: methods by (hard, all) and by partner × evaluator."""
    runs = [
        run(m, p, size=(4, 2, 2), seed=i) for i, (m, p) in enumerate([("A", "P"), ("B", "P"), ("A", "Q"), ("B", "Q")])
    ]
    also = [
        [
            replace(e, scores=(*e.scores, *(replace(s, score=s.score / 2, evaluator="human") for s in e.scores)))
            for e in some
        ]
        for some in runs
    ]
    found = compared(store, *also, partners=["P", "Q"], sets={"hard": ["env00", "env03"]})
    assert [(c.scenarios, c.partner, c.evaluator) for c in found.conditions] == [
        (s, p, e) for s in ("hard", "all") for p in "PQ" for e in ("gpt-4o", "human")
    ]
    assert found.methods == ("A", "B")
    assert all([m.method for m in c.means] == ["A", "B"] for c in found.conditions)
    assert {c.contrasts[0].pairs for c in found.conditions if c.scenarios == "hard"} == {8}
    assert {c.contrasts[0].pairs for c in found.conditions if c.scenarios == "all"} == {16}
    grid = tables.ablation(found)
    assert grid is not None
    assert grid.columns[:3] == ("method", "GOAL hard, P, gpt-4o", "GOAL hard, P, human")
    assert [(row[0], len(row)) for row in grid.rows] == [("A", 9), ("B", 9)]


def test_each_scenario_has_its_own_means(store: Store):
    a = [episode(f"{i}", ("A", "P"), goals(i, 0), environment=f"e{i // 2}", cast=(f"a{i}", "b")) for i in range(4)]
    b = [episode(f"{i}", ("B", "P"), goals(2 * i, 0), environment=f"e{i // 2}", cast=(f"a{i}", "b")) for i in range(4)]
    found = compared(store, a, b)
    condition = found.conditions[0]
    grid = tables.scenarios(condition, condition.contrasts[0], "goal")
    assert grid.rows == (("the e1", 2, 2.5, 5.0, 2.5), ("the e0", 2, 0.5, 1.0, 0.5))


def test_talk_counts_turns_of_the_episode_and_the_agents_own_utterances_and_words(store: Store):
    a = [episode("1", ("A", "P"), goals(1, 1), said=("one two three", "x", "four"))]
    b = [episode("1", ("B", "P"), goals(1, 1), said=("one", "x"))]
    told = [(t.method, t.turns, t.utterances, t.words, t.words_an_utterance) for t in compared(store, a, b).talk]
    assert told == [("A", 3.0, 2.0, 4.0, 2.0), ("B", 2.0, 1.0, 1.0, 1.0)]


def test_distinct_n_is_the_share_of_different_n_grams_and_its_interval_leaves_out_each_episode(store: Store):
    said = ("Yes, yes!", "x", "no"), ("yes: no", "x"), ("Don't", "x")
    a = [episode(f"{i}", ("A", "P"), goals(1, 1), said=texts) for i, texts in enumerate(said)]
    (talk,) = compared(store, a, agents=["A"]).talk
    one, two, three = talk.distinct
    assert one.value == 3 / 6  # yes yes no, yes no, don't
    left_out = [3 / 3, 3 / 4, 2 / 5]
    error = np.sqrt(2 / 3 * sum((each - np.mean(left_out)) ** 2 for each in left_out))
    assert (one.low, one.high) == pytest.approx((0.5 - 4.302653 * error, 0.5 + 4.302653 * error), abs=1e-6)
    assert (two.value, three.value) == (1.0, None)  # "yes yes" and "yes no"; nobody says three words in a row
    assert "distinct-2" in tables.talk(compared(store, a, agents=["A"])).columns


# --- whose agent ------------------------------------------------------------------------------------------------------


def played(store: Store, *casts: tuple[str, str], **options) -> list[tuple[str, list[str]]]:
    """By partner, the methods, of runs with these two models each, swapped."""
    runs = [
        [episode(f"{i}{j}", models, goals(1, 1)) for j, models in enumerate((cast, cast[::-1]))]
        for i, cast in enumerate(casts)
    ]
    found = compared(store, *runs, **options)
    return [(c.partner, [m.method for m in c.means]) for c in found.conditions]


def test_the_method_is_the_model_that_not_every_run_has(store: Store):
    assert played(store, ("A", "P"), ("B", "P")) == [("P", ["A", "B"])]
    assert played(store, ("P", "A"), ("P", "B"), ("P", "C")) == [("P", ["A", "B", "C"])]


def test_a_partner_that_plays_with_itself_is_a_method_too(store: Store):
    assert played(store, ("P", "P"), ("B", "P")) == [("P", ["P", "B"])]


def test_a_partner_is_a_row_against_each_partner_where_the_rollouts_say_whom_they_test(store: Store, tmp_path: Path):
    policies = tmp_path / "policies.py"
    policies.write_text("class RL:\n    def __call__(self, prompt):\n        return 'I agree with you.'\n")
    bc, gpt, rl = "scripted:warm", "scripted:firm", f"{policies}:RL"
    scene = scenes_of("samples", None, 1)[:1]
    versions = []
    for a, b in ((bc, bc), (rl, bc), (bc, gpt), (rl, gpt)):
        name = f"lab/run{len(versions)}"
        rollout(store, plan_of(scene, Rules(turns=4), a=a, b=b), name)
        versions.append(evaluate(store, name, Elicitation(judges=["lexical"])).committed.version)
    found = compare(versions, partners=[bc, gpt], options=QUICK)
    by_partner = {c.partner: [m.method for m in c.means] for c in found.conditions}
    assert by_partner == {bc: [bc, "RL"], gpt: [bc, "RL"]}
    assert all(condition.contrasts[0].pairs == 1 for condition in found.conditions)


def test_the_best_of_some_drafts_is_a_method_beside_the_policy_that_drafts(store: Store):
    versions = []
    for drafts in (1, 2):
        drafter = Sampler("drafter", lambda request: act(argument="I agree." + "!" * request.sample))
        rules = Rules(turns=4, best_of=drafts, scorer=Longest() if drafts > 1 else None)
        rollout(store, plan_of(scenes(1), rules, a=drafter, b=brief()), f"lab/run{drafts}")
        versions.append(evaluate(store, f"lab/run{drafts}", Elicitation(judges=["lexical"])).committed.version)
    found = compare(versions, options=QUICK)
    assert [m.method for m in found.conditions[0].means] == ["drafter", "drafter best-of-2"]


def test_self_play_is_compared_with_self_play(store: Store):
    assert played(store, ("A", "A"), ("B", "B")) == [("itself", ["A", "B"])]


def test_methods_that_share_no_scenario_are_said_to_in_a_sentence_about_how_they_play(store: Store):
    runs = [[episode(who, (who, who), goals(5, 5), environment=f"of {who}")] for who in "AB"]
    found = compared(store, *runs)
    assert found.remarks == (
        "A and B cannot be compared when each plays with itself: no scenario has both of them, with the same agents "
        "and in the same position",
    )


def test_only_the_signs_that_a_table_shows_are_explained(store: Store):
    alone = compared(store, [episode("1", ("A", "A"), goals(5, 5))])
    assert list(tables.signs(alone, set())) == ["n: agents of episodes"]
    found = compared(store, run("A", "P", seed=1, size=(3, 2, 2)), run("B", "P", seed=2, size=(3, 2, 2), shift=3))
    assert list(tables.signs(found, {"d"})) == [
        "n: agents of episodes",
        "*: p < 0.01 after Holm, against A",
        "95% intervals from 100 draws of pairs",
        "d: Cohen's d_z",
    ]


def test_one_run_compares_its_models(store: Store):
    assert played(store, ("A", "B")) == [("each other", ["A", "B"])]


def test_where_the_models_do_not_tell_it_is_asked(store: Store):
    with pytest.raises(UsageError, match="is played by A, P, as the other runs are") as told:
        played(store, ("A", "P"), ("A", "P"))
    assert "--agent" in told.value.hint
    with pytest.raises(UsageError, match="which of them is compared is not clear"):
        played(store, ("A", "P"), ("B", "Q"))
    assert played(store, ("A", "P"), ("A", "P"), agents=["A"]) == [
        ("P", ["A · lab/run0@v1.0.0", "A · lab/run1@v1.0.0"])
    ]
    with pytest.raises(UsageError, match=r"No agent of lab/run1@v1\.0\.0 is 'A'"):
        played(store, ("A", "P"), ("B", "P"), agents=["A", "A"])


def test_positions_and_pooled_partners_can_be_named(store: Store):
    assert played(store, ("A", "P"), ("B", "Q"), agents=["A", "B"], any_partner=True) == [("any", ["A", "B"])]
    assert played(store, ("A", "P"), ("B", "P"), agents=["first"]) == [
        (partner, methods)
        for partner, methods in [
            ("A", ["lab/run0@v1.0.0"]),
            ("B", ["lab/run1@v1.0.0"]),
            ("P", ["lab/run0@v1.0.0", "lab/run1@v1.0.0"]),
        ]
    ]


# --- the statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=2, max_size=60).filter(
        lambda pairs: len({a - b for a, b in pairs}) > 1
    )
)
def test_the_paired_t_test_is_scipys(pairs):
    a, b = np.array(pairs, float).T
    theirs = stats.ttest_rel(b, a)
    limits = theirs.confidence_interval(0.95)
    ours = statistics.paired_t_test(b - a)
    for mine, other in (
        (ours.t, theirs.statistic),
        (ours.p, theirs.pvalue),
        (ours.low, limits.low),
        (ours.high, limits.high),
    ):
        assert mine == pytest.approx(other, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 5, 13, 139, 899, 20_000])
def test_students_distribution_is_scipys_into_the_tails(freedom: int):
    for t in (0.0, 1e-6, 0.3, 1.0, 2.0, 5.0, 12.0, 40.0):
        assert statistics.student_p(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9, abs=1e-300)


def test_every_figure_of_a_contrast_is_scipys(store: Store):
    """On drawn scores with ties: t, p, d_z, win rate; Holm; the interval up to what another draw gives."""
    a, b = run("A", "P", seed=1, dimensions=SEVEN), run("B", "P", seed=2, shift=0.4, dimensions=SEVEN)
    found = compared(store, a, b, options=ComparisonOptions(resamples=4000))
    contrast = found.conditions[0].contrasts[0]
    keyed = [
        {(e.environment_id, e.agents[0].agent, s.agent[0], s.dimension): s.score for e in some for s in e.scores}
        for some in (a, b)
    ]
    raw = {}
    for name in SEVEN:
        keys = sorted(k for k in keyed[0] if k[3] == name)
        x, y = (np.array([side[k] for k in keys]) for side in keyed)
        effect, theirs = contrast.effect(name), stats.ttest_rel(y, x)
        raw[name] = theirs.pvalue
        assert effect.pairs == len(keys) == 140
        assert effect.difference == pytest.approx(np.mean(y - x), abs=1e-9)
        assert (effect.t, effect.p) == pytest.approx((theirs.statistic, theirs.pvalue), abs=1e-9)
        assert effect.effect == pytest.approx(theirs.statistic / np.sqrt(140), abs=1e-9)
        assert effect.win_rate == pytest.approx(np.mean((np.sign(y - x) + 1) / 2), abs=1e-9)
        limits = stats.bootstrap((y - x,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
        assert (effect.low, effect.high) == pytest.approx((limits.low, limits.high), abs=0.02)
    tested = {**raw, AVERAGE: contrast.effect(AVERAGE).p}
    for name, adjusted in zip(tested, statistics.holm(list(tested.values())), strict=True):
        assert contrast.effect(name).adjusted == pytest.approx(adjusted, abs=1e-9)


def test_scenarios_can_be_what_is_independent(store: Store):
    a, b = run("A", "P", seed=1), run("B", "P", seed=2, shift=1.0)
    effect = (
        compared(store, a, b, options=ComparisonOptions(resamples=100, resample="scenario"))
        .conditions[0]
        .contrasts[0]
        .effects[0]
    )
    means = [
        np.array(
            [np.mean([s.score for e in some if e.environment_id == f"env{i:02}" for s in e.scores]) for i in range(14)]
        )
        for some in (a, b)
    ]
    theirs = stats.ttest_rel(means[1], means[0])
    assert (effect.t, effect.p) == pytest.approx((theirs.statistic, theirs.pvalue), abs=1e-9)
    assert effect.pairs == 140


def weighed(seed: int, shift: float, dimensions: tuple[str, ...]) -> Comparison:
    """One simulated comparison on the hard benchmark's size, through what `compare` calls when it has read."""
    sides = {
        "A": units(0, "A", 2 * seed, 0.0, dimensions),
        "B": units(1, "B", 2 * seed + 1, shift, dimensions),
    }
    none = ComparisonOptions(resamples=0)
    return compare_units(sides, refs=("a", "b"), evaluators=["gpt-4o"], sets={"all": None}, options=none)


@pytest.mark.slow
def test_a_planted_difference_is_found_at_the_hard_benchmarks_size():
    """0.5 points on goal over 140 pairs, an episode's own noise being 1 point (sd): found at p < 0.01 in 9 of 10."""
    contrasts = [weighed(seed, 0.5, ("goal",)).conditions[0].contrasts[0] for seed in range(200)]
    assert {contrast.pairs for contrast in contrasts} == {np.prod(HARD)}
    p_values = np.array([contrast.effect("goal").p for contrast in contrasts])
    print(f"planted 0.5 points: p < 0.01 in {np.mean(p_values < 0.01):.0%} of 200, median p {np.median(p_values):.1g}")
    assert np.median(p_values) < 0.001
    assert np.mean(p_values < 0.01) >= 0.85


@pytest.mark.slow
def test_a_null_difference_is_called_significant_in_at_most_five_of_a_hundred():
    """1,000 comparisons of equals on seven dimensions and their average: any star at all is a false alarm. At an alpha
    of 0.05 the share is 0.05 but for the simulation's own error (0.007), neither blind nor loose."""
    starred, below, goal = 0, 0, 0
    for seed in range(1000):
        effects = weighed(seed, 0.0, SEVEN).conditions[0].contrasts[0].effects
        starred += any(effect.significant for effect in effects)
        below += any(effect.adjusted < 0.05 for effect in effects)
        goal += effects[6].significant
    print(f"equals: a star in {starred} of 1,000 comparisons (on goal {goal}); at alpha 0.05 in {below}")
    assert starred <= 50
    assert 29 <= below <= 71  # three standard errors around 50


# --- evaluators -------------------------------------------------------------------------------------------------------


def test_evaluators_and_people_are_compared_on_what_both_scored(store: Store):
    episodes = run("A", "P", seed=1)
    rng = np.random.default_rng(0)
    episodes = [
        replace(
            e,
            scores=(
                *e.scores,
                *(Score(s.agent, s.dimension, s.score + float(rng.integers(-1, 2)), "human") for s in e.scores),
            ),
        )
        for e in episodes[:40]
    ] + episodes[40:]
    found = compared(store, episodes, run("B", "P", seed=2))
    (one,) = found.agreement
    x, y = ([s.score for e in episodes[:40] for s in e.scores if s.evaluator == who] for who in ("gpt-4o", "human"))
    assert (one.a, one.b, one.dimension, one.units, one.episodes) == ("gpt-4o", "human", "goal", 40, 40)
    assert one.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert one.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    import krippendorff

    assert one.alpha.value == pytest.approx(krippendorff.alpha([x, y], level_of_measurement="interval"), abs=1e-9)
    assert one.pearson.low < one.pearson.value < one.pearson.high
    assert one.difference.value == pytest.approx((np.mean(x) - np.mean(y)) / 10, abs=1e-9)
    assert [c.evaluator for c in found.conditions] == ["gpt-4o"]  # people saw one run only


# --- the command ------------------------------------------------------------------------------------------------------


def command(store: Store, *arguments: str) -> subprocess.CompletedProcess[str]:
    told = [sys.executable, "cli.py", "compare", *arguments, "--store", str(store.root)]
    return subprocess.run(told, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))


@pytest.mark.slow
def test_the_command_prints_every_table_and_json(store: Store):
    put(store, run("A", "P", seed=1, size=(3, 2, 2)), "lab/a")
    put(store, run("B", "P", seed=2, size=(3, 2, 2), shift=3), "lab/b")
    done = command(store, "lab/a", "lab/b", "--by-scenario", "goal")
    assert done.returncode == 0, done.stderr
    for heading in ("scored by gpt-4o", "b = B  against  a = A", "GOAL by scenario", "how much is said"):
        assert heading in done.stdout
    told = json.loads(command(store, "lab/a", "lab/b", "--json", "--resamples", "0", "--alpha", "0.05").stdout)
    effect = told["conditions"][0]["contrasts"][0]["effects"][0]
    assert (effect["dimension"], effect["pairs"], effect["significant"], effect["low"]) == ("goal", 12, True, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "REF"),
        (["lab/none"], 2, "lab/none"),
        (["lab/a", "lab/b", "--evaluator", "nobody"], 2, "No episode is scored by 'nobody'"),
        (["lab/a", "lab/b", "--agent", "third"], 2, "No agent of lab/a@v1.0.0 is 'third'"),
        (["lab/a", "lab/b", "--agent", "A", "--agent", "B", "--agent", "P"], 2, "--agent is given 3 times for 2 runs"),
        (["lab/a", "--agent", "A", "--agent", "P"], 2, "--agent is given 2 times for 1 run."),
        (["lab/a", "lab/b", "--partner", "nobody"], 2, "No episode is played by 'nobody', which --partner names."),
        (["lab/a", "lab/d"], 2, "No episode of lab/d@v1.0.0 is scored.\n hint: "),
        (["lab/a", "lab/b", "--dimensions", "charm"], 2, "charm"),
        (["lab/a", "lab/b", "--dimensions", "secret"], 2, "No episode has a score on the dimension 'secret'"),
        (["lab/a", "lab/b", "--subset", "easy"], 2, "no built-in set of environments 'easy'"),
        (["lab/a", "lab/b", "--subset", "easy=missing.txt"], 1, "'missing.txt' cannot be read: No such file"),
        (["lab/a", "lab/b", "--subset", "hard"], 2, "No episode is set in the environments of 'hard'"),
        (["lab/a", "lab/b", "--by-scenario", "charm"], 2, "charm"),
        (["lab/a", "lab/b", "--alpha", "2"], 2, "alpha"),
        (["lab/a", "lab/c"], 2, "No evaluator scored every method"),
        (["lab/rows"], 2, "holds no episodes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_the_hint(store: Store, arguments, code, says):
    from fixtures.stores import commit, reward_row, rewards

    put(store, run("A", "P", size=(1, 1, 2)), "lab/a")
    put(store, run("B", "P", size=(1, 1, 2)), "lab/b")
    put(store, run("C", "P", size=(1, 1, 2), evaluator="else"), "lab/c")
    put(store, [replace(one, scores=()) for one in run("D", "P", size=(1, 1, 2))], "lab/d")
    commit(store, {("rewards", "train"): rewards(reward_row(0))}, "lab/rows")
    done = command(store, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert " hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
