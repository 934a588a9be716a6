"""Files of sotopia-rl's annotation: each is what its numbers and its name say, and several of one episode are several
opinions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.annotated import EPISODES, METHODS, direct, pair, rewards_in, rows, score, write
from fixtures.records import ANN, SAM, lines, log

from sotopia_rl_data import open_dataset
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.formats.methods import SCALE_UNKNOWN
from sotopia_rl_data.importers.importing import ImportReport, import_dataset
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.rewards import Recipe
from sotopia_rl_data.rewards.build import remake
from sotopia_rl_data.rewards.rules import RULES
from sotopia_rl_data.store import Store

UTTERANCES = 7 * len(EPISODES)
AS = {
    "direct.default": ("direct", "direct", (0,), "direct"),
    "direct_generic.10_scale-goal": ("direct", "direct", (1,), "direct"),
    "direct_generic.5_scale-goal": ("direct", "direct", (2,), "direct"),
    "direct_generic.default-goal": ("direct", "direct", (3,), "direct"),
    "direct_generic.default-relationship": ("direct", "direct", (3,), "direct"),
    "direct_generic.default-knowledge": ("direct", "direct", (3,), "direct"),
    "direct_generic.default-conversation_behavior": ("direct", "direct", (3,), "direct"),
    "direct_normalized.default": ("direct_normalized", "scaled", (0,), "scaled"),
    "only_response.default": ("only_response", "only-response", (0,), "quality-score"),
    "utterance_quality.default": ("utterance_quality", "utterance-quality", (0,), "quality"),
    "utterance_quality_normalized.default": (
        "utterance_quality_normalized",
        "utterance-quality-normalized",
        (0,),
        "quality-share",
    ),
    "key_utterance.default": ("key_utterance", "singular", (0,), "singular"),
    "goal_progress.default": ("goal_progress", "goal-progress-steps", (0,), "progress-score"),
    "discounting.default": ("discounting", None, (), "discounted"),
    "all_the_same.default": ("all_the_same", None, (), "uniform"),
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, ImportReport, dict[str, Path]]:
    """All files of one folder, imported at once."""
    folder = tmp_path_factory.mktemp("opinions")
    files = write(folder / "annotated")
    store = Store(folder / "store")
    return store, import_dataset(store, [folder / "annotated"], "o/n", options=ImportOptions(seed=1)), files


def rewards(store: Store, recipe: Recipe, name: str = "o/n") -> dict[tuple[str, str, int], float | None]:
    """The rewards of a dataset by this recipe, by (episode, agent, turn)."""
    made = remake(store, open_dataset(name, store).version, recipe, out="o/made")
    query = "SELECT episode_id, agent, turn, reward FROM rewards"
    return {
        (r["episode_id"], r["agent"], r["turn"]): r["reward"]
        for r in open_dataset(made.version.ref, store).sql(query).to_pylist()
    }


def of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def alone(tmp_path: Path, name: str, made: list[dict[str, Any]], **options: Any) -> ImportReport:
    path = lines(tmp_path / name, *made)
    return import_dataset(Store(tmp_path / "store"), [path], "o/n", options=ImportOptions(**options))


def test_every_file_is_read_by_its_method(imported):
    _, report, _ = imported
    assert {one.file: (one.method, one.schema, one.samples, one.rule) for one in report.methods} == {
        f"toy.{name}.jsonl": read for name, read in AS.items()
    }
    assert {read[3] for read in AS.values()} <= set(RULES)
    assert report.warnings == ()


def test_no_label_of_any_file_is_lost_and_no_episode_is_twice(imported):
    store, report, _ = imported
    judged = [name for name, (_, schema, *_) in AS.items() if schema]
    assert (report.episodes, report.utterances, report.duplicates) == (len(EPISODES), UTTERANCES, 0)
    assert report.attributions + report.failures == UTTERANCES * len(judged)
    reasons = "SELECT DISTINCT reason FROM failures ORDER BY reason"
    assert [r["reason"] for r in open_dataset("o/n", store).sql(reasons).to_pylist()] == [
        "the annotation has no label for this utterance",  # the first word has no progress before it
        "the score is 0 or missing, so the reward does not tell the progress",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", AS)
def test_its_rule_gives_the_files_own_rewards(imported, name):
    store, _, files = imported
    _, schema, samples, rule = AS[name]
    dimension = name.rpartition("-")[2] if "generic" in name else "goal"
    recipe = Recipe({dimension: 1}, rule=rule, normaliser="none", schema=schema, sample=samples[0] if samples else None)
    made, own = rewards(store, recipe), rewards_in(of(files[name]))
    units = 10 if rule == "quality" else 1
    assert len(made) == len(own) == UTTERANCES
    for place, reward in own.items():
        if reward is None:  # of a score of 0 any progress is 0
            assert made[place] in ((None, 0.0) if score(*place[:2]) == 0 else (None,))
        else:
            assert made[place] == pytest.approx(reward / units, abs=1e-12)


def test_two_methods_of_the_same_numbers_are_told_apart_by_the_files_name_or_the_option(tmp_path):
    made = rows(METHODS["direct_normalized"], "x")
    unnamed = alone(tmp_path, "shares.jsonl", made)
    assert (unnamed.attributions, unnamed.failures) == (0, UTTERANCES)
    reason = "its numbers fit direct_normalized and utterance_quality_normalized alike: name one with --method."
    assert {f.reason for f in unnamed.rejected} == {reason}
    assert unnamed.warnings[0] == f"shares.jsonl: {reason}"
    told = alone(tmp_path, "shares.jsonl", made, method="utterance_quality_normalized")
    assert [(m.method, told.attributions) for m in told.methods] == [("utterance_quality_normalized", UTTERANCES)]
    named = alone(tmp_path, "annotated-direct-normalized_gpt-4o.jsonl", made)
    assert [(m.method, named.attributions) for m in named.methods] == [("direct_normalized", UTTERANCES)]


def test_what_may_be_direct_is_and_that_is_said_where_the_name_does_not_tell(tmp_path):
    unnamed = alone(tmp_path, "a.jsonl", rows(METHODS["only_response"], "x"))
    assert [m.method for m in unnamed.methods] == ["direct"]
    assert unnamed.warnings[0].startswith("a.jsonl: direct and only_response give the same numbers")
    named = alone(tmp_path, "only_response.jsonl", rows(METHODS["only_response"], "x"))
    assert [m.method for m in named.methods] == ["only_response"]


def test_a_scale_that_the_numbers_do_not_tell_is_not_guessed_for_a_named_method_either(tmp_path):
    made = [row | {"goal_score": 0} for row in rows(direct(5), "x", 5, ("E0",))]
    for row in made:
        for _, label in row["attributed_utterances"].values():
            if label:
                label |= {"reward": 0.0, "attribution": 5}
    for options in ({}, {"method": "direct"}):
        report = alone(tmp_path, "a.jsonl", made, **options)
        assert (report.attributions, report.failures) == (0, 7)
        assert {failure.reason for failure in report.rejected} == {SCALE_UNKNOWN}


def test_numbers_say_more_than_a_name_and_one_odd_row_does_not_change_the_file(tmp_path):
    made = rows(METHODS["key_utterance"], "key_utterance")
    made[6]["attributed_utterances"] = rows(direct(), "x")[6]["attributed_utterances"]  # three of ANN's in E3
    report = alone(tmp_path, "direct.jsonl", made)
    assert [m.method for m in report.methods] == ["key_utterance"]
    assert report.warnings[0] == "direct.jsonl: its name says direct, its numbers are those of key_utterance."
    assert (report.attributions, report.failures) == (UTTERANCES - 4, 4)
    assert {(f.agent, f.episode_id) for f in report.rejected} == {(ANN, "E3")}
    assert {f.reason for f in report.rejected} == {
        "its rewards are not those of key_utterance, as its file is read: the score at one utterance and 0 elsewhere."
    }


def test_a_row_whose_score_is_zero_is_read_as_its_file_is(tmp_path):
    report = alone(tmp_path, "ten.jsonl", rows(direct(10), "x", 10))
    attributions = open_dataset("o/n", Store(tmp_path / "store")).sql("SELECT DISTINCT scale_max FROM attributions")
    assert score("E0", ANN) == 0
    assert (report.failures, attributions.to_pylist()) == (0, [{"scale_max": 10.0}])


def test_parts_of_a_file_and_other_dimensions_are_one_opinion_and_a_second_judge_is_another(tmp_path):
    goal, knowledge = direct(3, "goal", "default"), direct(3, "knowledge", "default")
    paths = [
        lines(tmp_path / "1.jsonl", *rows(goal, "a", episodes=EPISODES[:5])),
        lines(tmp_path / "2.jsonl", *rows(goal, "a", episodes=EPISODES[3:])),  # two episodes are in both
        lines(tmp_path / "3.jsonl", *rows(knowledge, "b")),
        lines(tmp_path / "4.jsonl", *rows(goal, "another judge")),
        lines(tmp_path / "5.jsonl", *rows(goal, "another judge"), *rows(knowledge, "c")),  # files one after the other
    ]
    report = import_dataset(Store(tmp_path / "store"), paths, "o/n")
    assert [m.samples for m in report.methods] == [(0,), (0,), (0,), (1,), (1,)]
    assert (report.duplicates, report.attributions) == (2 + len(EPISODES), 4 * UTTERANCES)
    query = "SELECT dimension, sample, count(*) AS n FROM attributions GROUP BY ALL ORDER BY ALL"
    assert [tuple(r.values()) for r in open_dataset("o/n", Store(tmp_path / "store")).sql(query).to_pylist()] == [
        ("goal", 0, UTTERANCES),
        ("goal", 1, UTTERANCES),
        ("knowledge", 0, UTTERANCES),
        ("knowledge", 1, UTTERANCES),
    ]


def test_files_of_the_same_name_in_two_folders_are_two_files(tmp_path):
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder, judge in zip(folders, ("a", "a", "b"), strict=True):
        folder.mkdir()
        lines(folder / "rows.jsonl", *rows(direct(), judge))
    report = import_dataset(Store(tmp_path / "store"), folders, "o/n")
    assert [(m.file, m.samples) for m in report.methods] == [("rows.jsonl", (n,)) for n in (0, 0, 1)]
    assert (report.duplicates, report.attributions, report.failures) == (len(EPISODES), 2 * UTTERANCES, 0)


def test_one_opinion_among_several_is_chosen_by_judge_and_sample(tmp_path):
    paths = [lines(tmp_path / f"{i}.jsonl", *rows(direct(), f"judge {i}")) for i in range(2)]
    store = Store(tmp_path / "store")
    import_dataset(store, paths, "o/n")
    recipe = Recipe({"goal": 1}, normaliser="none")
    first, second = (rewards(store, replace(recipe, judge="sotopia-rl", sample=i)) for i in range(2))
    both = rewards(store, recipe)
    assert first == pytest.approx(rewards_in(of(paths[0])), abs=1e-12)
    assert second == pytest.approx(rewards_in(of(paths[1])), abs=1e-12)
    assert both == pytest.approx({place: (first[place] + second[place]) / 2 for place in first}, abs=1e-12)
    assert "sample" not in recipe.as_dict()  # so that the digests of versions made before stay
    with pytest.raises(UsageError, match="No attribution by the schema 'direct' is of sample 2"):
        rewards(store, replace(recipe, sample=2))


def test_another_score_of_the_same_episode_is_listed_and_the_first_stays(tmp_path):
    made = rows(direct(), "x", episodes=("E3",))
    other = [row | {"goal_score": 1.5} for row in rows(direct(3, "knowledge", "default"), "y", episodes=("E3",))]
    paths = [lines(tmp_path / "1.jsonl", *made), lines(tmp_path / "2.jsonl", *other)]
    report = import_dataset(Store(tmp_path / "store"), paths, "o/n")
    assert report.attributions == 7
    first = f"the goal score of {ANN} is 1.5, but {score('E3', ANN):g} in another file."
    assert [(f.source, f.reason) for f in report.rejected] == [("2.jsonl:1", first), ("2.jsonl:2", first)]


@pytest.mark.parametrize("top", [3, 10], ids=["new", "of a new kind"])
def test_the_new_row_of_an_episode_is_read_beside_one_that_was_read_before(tmp_path, top):
    ann, sam = rows(direct(3, "goal", "default"), "x", episodes=("E3",))
    sam = {3: sam, 10: rows(direct(10, "goal", "10_scale"), "y", 10, ("E3",))[1]}[top]
    more = rows(direct(3, "goal", "default"), "x", episodes=("E4",))
    paths = [lines(tmp_path / "1.jsonl", ann, *more), lines(tmp_path / "2.jsonl", ann, sam, *more)]
    report = import_dataset(Store(tmp_path / "store"), paths, "o/n")
    query = "SELECT agent, scale_max, count(*) AS n FROM attributions WHERE episode_id = 'E3' GROUP BY ALL ORDER BY ALL"
    given = open_dataset("o/n", Store(tmp_path / "store")).sql(query).to_pylist()
    assert [tuple(row.values()) for row in given] == [(ANN, 3, 4), (SAM, top, 3)]
    assert (report.attributions, report.duplicates) == (2 * 7, 1)


def test_the_new_row_of_an_episode_is_read_beside_one_that_contradicts_its_file(tmp_path):
    goal, other, knowledge = (
        rows(direct(3, name, "default"), judge, episodes=("E3",))
        for name, judge in (("goal", "x"), ("goal", "y"), ("knowledge", "x"))
    )
    report = alone(tmp_path, "a.jsonl", [*goal, other[0], knowledge[1]])
    reason = "the file has other labels of the same agent and dimension before it."
    assert [(f.source, f.reason) for f in report.rejected] == [("a.jsonl:3", reason)]
    assert (report.attributions, report.duplicates) == (7 + 3, 0)


def test_another_dialogue_with_the_same_id_is_rejected(tmp_path):
    other = [row | {"scenario": "Elsewhere."} for row in rows(direct(3, "knowledge", "default"), "y")]
    paths = [lines(tmp_path / "1.jsonl", *rows(direct(), "x")), lines(tmp_path / "2.jsonl", *other)]
    report = import_dataset(Store(tmp_path / "store"), paths, "o/n")
    assert (report.attributions, report.failures) == (UTTERANCES, len(EPISODES))
    assert {f.reason for f in report.rejected} == {
        f"another episode with the id {e!r} was read before it." for e in EPISODES
    }


@pytest.mark.parametrize("hidden", [False, True], ids=["named", "pseudonyms"])
def test_every_opinion_finds_the_turns_of_its_log(tmp_path, hidden):
    made = {name: rows(label, name) for name, label in METHODS.items() if name in ("direct", "key_utterance")}
    logs = []
    for episode in EPISODES:
        turns: list[dict[str, str]] = [{}]  # a no-op that the rows do not have
        turns += [{(ANN, SAM)[place % 2]: f'said: "{episode} {place}"'} for place in range(7)]
        logs.append(log(turns, pk=episode))
    paths = [lines(tmp_path / f"{name}.jsonl", *some) for name, some in made.items()]
    store = Store(tmp_path / "store")
    report = import_dataset(
        store, [*paths, lines(tmp_path / "logs.jsonl", *logs)], "o/n", options=ImportOptions(pseudonymise=hidden)
    )
    assert (report.episodes, report.duplicates, report.attributions) == (len(EPISODES), 0, 2 * UTTERANCES)
    query = "SELECT schema, min(turn) AS first, max(turn) AS last FROM attributions GROUP BY ALL ORDER BY ALL"
    assert [tuple(r.values()) for r in open_dataset("o/n", store).sql(query).to_pylist()] == [
        ("direct", 1, 7),
        ("singular", 1, 7),
    ]


def test_what_nobody_scores_has_its_score_beside_a_log_too_and_names_no_evaluator_of_the_others(tmp_path):
    made = rows(direct(3, "conversation_behavior", "default"), "b")
    turns = [{(ANN, SAM)[place % 2]: f'said: "E3 {place}"'} for place in range(7)]
    paths = [
        lines(tmp_path / "goal.jsonl", *rows(direct(3, "goal", "default"), "g", episodes=("E3",))),
        lines(tmp_path / "behaviour.jsonl", *(row for row in made if row["episode_id"] == "E3")),
        lines(tmp_path / "log.jsonl", log(turns, pk="E3")),
    ]
    store = Store(tmp_path / "store")
    import_dataset(store, paths, "o/n")
    recipe = Recipe({"conversation_behavior": 1}, normaliser="none")
    found = {place[2]: reward for place, reward in rewards(store, recipe).items()}
    own = {place[2]: reward for place, reward in rewards_in(made).items() if place[0] == "E3"}
    assert found == pytest.approx(own, abs=1e-12)
    assert None not in rewards(store, replace(recipe, weights={"goal": 1})).values()  # the log's evaluator scored it


def test_a_shared_label_is_kept_where_that_is_asked_for(tmp_path):
    given = {
        f"Utterance 0 by {ANN}": ['said: "b"', {"reward": 4.0, "attribution": 2}],  # places 0 and 1
        f"Utterance 1 by {SAM}": ['said: "c"', 0],
        f"Utterance 1 by {ANN}": ['said: "d"', {"reward": 2.0, "attribution": 1}],
    }
    row = rows(direct(), "x", episodes=("E3",))[0] | {"attributed_utterances": given, "goal_score": 6}
    lost, kept = alone(tmp_path, "a.jsonl", [row]), alone(tmp_path, "a.jsonl", [row], shared_labels=True)
    assert (lost.attributions, kept.attributions) == (1, 2)
    told = "labels that stand for two utterances in a row were left out (1); --shared-labels keeps them, "
    assert [any(told in warning for warning in report.warnings) for report in (lost, kept)] == [True, False]
    counts = [report.version.manifest.provenance["counts"].get("shared labels") for report in (lost, kept)]
    assert counts == [1, None]
    others = rows(direct(), "x", episodes=("E4",))
    unwritten = alone(tmp_path, "a.jsonl", [row, *others], where="episode_id = 'E4'")
    assert not any("--shared-labels" in warning for warning in unwritten.warnings)


def test_the_method_of_files_that_are_not_annotated_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--method says how annotated rows are read, and there are none"):
        alone(tmp_path, "a.jsonl", [log([{ANN: 'said: "one"'}, {SAM: "[action] nods"}])], method="direct")
    with pytest.raises(UsageError, match="'indirect' is not a method of annotated rows"):
        alone(tmp_path, "a.jsonl", rows(direct(), "x"), method="indirect")


def test_a_part_of_a_sum_is_a_share_whatever_the_scale(tmp_path):
    report = alone(
        tmp_path, "direct_normalized.jsonl", rows(pair(lambda k, g, ks: k / sum(ks) * g if sum(ks) else 0.0), "x", 10)
    )
    assert (report.attributions, report.failures) == (UTTERANCES, 0)


def test_the_papers_reward_is_rebuilt_by_one_import_and_one_command(tmp_path):
    files = write(tmp_path / "annotated")
    paths = [files[f"direct_generic.default-{name}"] for name in ("goal", "relationship", "knowledge")]
    store = ("--store", str(tmp_path / "store"))
    assert CliRunner().invoke(cli, ["import", *map(str, paths), "--name", "o/p", *store]).exit_code == 0
    assert CliRunner().invoke(cli, ["rewards", "o/p", "--preset", "reference", *store]).exit_code == 0
    made = open_dataset("o/p", Store(tmp_path / "store")).sql("SELECT * FROM rewards").to_pylist()
    maps = []
    for path in paths:  # as its notebook: each dimension over all rows, the mean of the three, times ten
        own = rewards_in(of(path))
        low, high = min(own.values()), max(own.values())
        maps.append({place: (reward - low) / (high - low) for place, reward in own.items()})
    expected = {place: sum(one[place] for one in maps) / 3 * 10 for place in maps[0]}
    assert {(r["episode_id"], r["agent"], r["turn"]): r["reward"] for r in made} == pytest.approx(expected, abs=1e-12)


def test_the_commands_that_import_offers_make_each_files_rewards(tmp_path):
    write(tmp_path / "annotated")
    store = ("--store", str(tmp_path / "store"))
    shown = CliRunner().invoke(cli, ["import", str(tmp_path / "annotated"), "--name", "o/p", *store])
    assert shown.exit_code == 3  # the first words of goal_progress have no label
    offered = [line.split()[1:] for line in shown.stderr.splitlines() if " rewards o/p --rule" in line]
    assert {command[3] for command in offered} == {rule for *_, rule in AS.values()}
    assert len(offered) == 12
    for command in offered[::4]:
        assert CliRunner().invoke(cli, command).exit_code == 0
