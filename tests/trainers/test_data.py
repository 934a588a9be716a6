"""From a reference to pinned, split, labelled rows: nothing guessed, nothing on two sides, losses counted."""

import json
from pathlib import Path

import pytest
from fixtures.training import answers_the_offer, make_dataset, says_thanks

from sotopia_rl_data.errors import InputError, NotFound, UsageError
from sotopia_rl_data.schema import split_of
from sotopia_rl_data.trainers.data import load_rows
from sotopia_rl_data.trainers.row_index import grouped_split


@pytest.mark.slow
def test_a_version_is_pinned_by_its_digest_and_stays_what_it_was(tmp_path: Path):
    first = make_dataset(tmp_path, seed=1)
    second = make_dataset(tmp_path, seed=2)
    assert (first, second) == ("toys/rewards@v1.0.0", "toys/rewards@v1.1.0")
    old, latest = (load_rows(ref, store=tmp_path) for ref in (first, "toys/rewards"))
    assert latest.pinned.version == "v1.1.0"
    assert old.pinned.digest != latest.pinned.digest
    assert next(iter(old)).completion != next(iter(latest)).completion
    by_path = load_rows(str(tmp_path / "toys/rewards/v1.0.0"))
    assert (by_path.pinned.digest, list(by_path)) == (old.pinned.digest, list(old))


def test_the_datasets_own_splits_are_used(tmp_path: Path):
    found = load_rows(make_dataset(tmp_path), store=tmp_path)
    assert found.splits_by == "dataset"
    assert {r.split for r in found} == {"train", "validation", "test"}
    assert all(r.split == split_of(r.environment_id) for r in found)
    assert sum(found.counts().values()) == len(found) == 240


def test_no_environment_and_no_episode_is_on_both_sides(tmp_path: Path):
    for split_by in ("dataset", "grouped"):
        found = load_rows(make_dataset(tmp_path), store=tmp_path, split_by=split_by)
        for column in ("environment_id", "episode_id"):
            sides = [{getattr(r, column) for r in found.read(s)} for s in ("train", "validation", "test")]
            assert all(sides)
            assert sum(map(len, sides)) == len(set.union(*sides))


def test_a_dataset_without_splits_is_divided_by_environment(tmp_path: Path):
    found = load_rows(make_dataset(tmp_path, splits=lambda row: "train"), store=tmp_path)
    assert found.splits_by == "environment_id"
    assert found.counts() == {"train": 192, "validation": 24, "test": 24}


def test_where_environments_are_unknown_episodes_stay_whole(tmp_path: Path):
    def forget(row: dict) -> None:
        row["environment_id"] = ""

    found = load_rows(make_dataset(tmp_path, change=forget, splits=lambda row: "train"), store=tmp_path)
    assert found.splits_by == "episode_id"


def test_what_cannot_be_divided_is_all_train_and_says_so(tmp_path: Path):
    ref = make_dataset(tmp_path, episodes=1, environments=1, splits=lambda row: "train")
    found = load_rows(ref, store=tmp_path)
    assert found.splits_by == "none"
    assert found.counts()["train"] == 6


def test_a_dataset_that_leaks_is_refused_and_can_be_split_again(tmp_path: Path):
    ref = make_dataset(tmp_path, splits=lambda row: "test" if row["turn"] == 3 else "train")
    with pytest.raises(InputError, match=r"env-.* is in both test and train: held-out scores would") as refused:
        load_rows(ref, store=tmp_path)
    assert "split_by=grouped" in refused.value.hint
    assert load_rows(ref, store=tmp_path, split_by="grouped").splits_by == "environment_id"


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation"])
def test_one_environment_is_divided_by_episode_whatever_split_it_fell_into(tmp_path: Path, split: str):
    ref = make_dataset(tmp_path, environments=1, splits=lambda row: split)
    for split_by in ("dataset", "grouped"):
        found = load_rows(ref, store=tmp_path, split_by=split_by)
        assert found.splits_by == "episode_id"
        assert min(found.counts().values()) > 0
    stored = load_rows(ref, store=tmp_path, split_by="stored")
    assert {row.split for row in stored} == {split}


def test_grouped_split_keeps_groups_whole_and_gives_each_split_one():
    assert sorted(grouped_split(["a", "b", "c"]).values()) == ["test", "train", "validation"]
    assert sorted(grouped_split(["a", "b"]).values()) == ["train", "validation"]
    assert grouped_split(["a"]) == {"a": "train"}
    sides = list(grouped_split([f"g{i}" for i in range(100)]).values())
    assert [sides.count(s) for s in ("train", "validation", "test")] == [80, 10, 10]


def test_missing_and_sentinel_rewards_are_dropped_and_counted(tmp_path: Path):
    def spoil(row: dict) -> None:
        row["reward"] = {0: None, 1: -1.0}.get(row["turn"], row["reward"])

    ref = make_dataset(tmp_path, change=spoil)
    assert load_rows(ref, store=tmp_path).dropped == {"no reward": 40, "no completion": 0}
    found = load_rows(ref, store=tmp_path, sentinels=[-1.0])
    assert found.dropped == {"no reward": 80, "no completion": 0}
    assert len(found) == 160


def test_targets_are_dimensions_by_any_name(tmp_path: Path):
    ref = make_dataset(tmp_path, extra={"goal": says_thanks, "knowledge": answers_the_offer})
    found = load_rows(ref, store=tmp_path, targets=["GOAL", "knowledge"])
    assert found.targets == ("goal", "knowledge")
    assert all(len(r.targets) == 2 for r in found)
    with pytest.raises(NotFound, match="no column 'norm_secret'"):
        load_rows(ref, store=tmp_path, targets=["secret"])


def test_where_filters_rows_and_an_impossible_one_says_so(tmp_path: Path):
    ref = make_dataset(tmp_path)
    found = load_rows(ref, store=tmp_path, where="reward >= 0.75")
    assert {r.reward for r in found} == {0.75, 1.0}
    with pytest.raises(UsageError, match="No row"):
        load_rows(ref, store=tmp_path, where="reward > 5")


@pytest.mark.slow
def test_where_knows_the_episode_and_whose_turn_it_is(tmp_path: Path):
    """The samples were played by two policies against each other: their own turns are half of each episode."""
    from fixtures.flat_calls import label

    from sotopia_rl_data.importers import samples_path
    from sotopia_rl_data.importers.importing import import_dataset
    from sotopia_rl_data.store import Store

    store = Store(tmp_path)
    import_dataset(store, [samples_path()], "demo/episodes")
    label(store, "demo/episodes", judges=["lexical"])

    def rows(where: str | None) -> int:
        return len(load_rows("demo/episodes-rewards", store=store, where=where, need_reward=False))

    own = [rows(f"model = 'sample-policy-{x}'") for x in "ab"]
    assert sum(own) == rows(None) == rows("list_contains(models, 'sample-policy-a')")
    assert all(0.4 * sum(own) < n < 0.6 * sum(own) for n in own)
    assert 0 < rows("codename = 'boat_sale' OR scenario LIKE '%boat%'") < rows(None)


def test_rows_of_somebody_elses_are_divided_by_situation(tmp_path: Path):
    """Training rows without splits or environments: what is imported has a grouped split."""
    from sotopia_rl_data.importers.importing import import_dataset
    from sotopia_rl_data.store import Store

    asked = "Imagine you are Mia.\nScenario: {}\nParticipants: Mia and Ben\nTurn #{}: say something"
    rows = [
        {"input": asked.format(f"Evening number {e} is planned.", t), "output": f"answer {e} {t}", "value": 0.5}
        for e in range(40)
        for t in range(3)
    ]
    (tmp_path / "theirs.json").write_text(json.dumps(rows))
    import_dataset(Store(tmp_path), [tmp_path / "theirs.json"], "lab/theirs")
    found = load_rows("lab/theirs", store=tmp_path)
    sides = [{r.prompt[0]["content"].split("Turn")[0] for r in found.read(s)} for s in ("train", "validation", "test")]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides)) == 40


def test_no_reward_at_all_is_one_sentence(tmp_path: Path):
    def unlabelled(row: dict) -> None:
        row["reward"] = None

    with pytest.raises(InputError, match="None of the 240 rows"):
        load_rows(make_dataset(tmp_path, change=unlabelled), store=tmp_path)
    assert len(load_rows("toys/rewards", store=tmp_path, need_reward=False)) == 240


def test_an_unknown_dataset_is_not_found(tmp_path: Path):
    with pytest.raises(NotFound):
        load_rows("toys/nowhere", store=tmp_path)
