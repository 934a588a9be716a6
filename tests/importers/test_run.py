"""`import_dataset`: what reaches the store, what does not, and that a refusal leaves nothing behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fixtures.records import ANN, PLAIN, SAM, TALK, document, export, lines, log, row, table

from sotopia_rl_data import open_dataset
from sotopia_rl_data.errors import InputError, QueryError, UsageError, VersionExists
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.refs import DatasetRef
from sotopia_rl_data.schema import split_of
from sotopia_rl_data.store import Store

MANY = [log(TALK, pk=f"E{i:03}", environment=f"ENV{i % 40}") for i in range(300)]
ROWS = [
    {"input": f"Scenario: s{i % 9}\nParticipants: x", "output": f"o{i}", "value": float(i % 5 - 1)} for i in range(50)
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def left_behind(store: Store) -> list[Path]:
    """What lies in a store, hidden files included, but for the folder of stages."""
    return [p for p in store.root.rglob("*") if p.name != ".staging"] if store.root.exists() else []


def test_a_file_whose_name_is_not_utf_8_is_imported_and_its_failures_name_it(tmp_path, store):
    folder = tmp_path / "logs"
    folder.mkdir()
    path = Path(os.fsdecode(os.fsencode(folder) + b"/a\xff.jsonl"))
    path.write_bytes(lines(tmp_path / "a.jsonl", *MANY[:2]).read_bytes() + b"{broken\n")
    for named in (folder, path):
        report = import_dataset(store, [named], "o/n")
        assert (report.episodes, report.failures) == (2, 1)
        (failure,) = open_dataset("o/n", store).sql("SELECT source FROM failures").to_pylist()
        assert failure["source"] == "a\ufffd.jsonl:3"


def test_episodes_reach_the_store_whole_and_in_the_split_of_their_environment(tmp_path, store):
    path = lines(tmp_path / "a.jsonl", *MANY)
    report = import_dataset(store, [path], "o/n", options=ImportOptions(seed=3))
    assert (report.episodes, report.utterances, report.failures, report.created) == (300, 1200, 0, True)
    found = open_dataset("o/n", store).sql("SELECT episode_id, environment_id, split FROM episodes").to_pylist()
    assert [f["episode_id"] for f in found if f["split"] != split_of(f["environment_id"], 3)] == []
    assert {f["episode_id"] for f in found} == {r["pk"] for r in MANY}
    assert dict(report.version.manifest.recipe) == {"kind": "episodes", "seed": 3}


def test_the_same_episodes_are_the_same_version_whatever_order_and_format_they_come_in(tmp_path, store):
    rows = [export(TALK, episode_id=f"E{i}", environment_id=f"ENV{i}") for i in range(20)]
    first = import_dataset(store, [lines(tmp_path / "a.jsonl", *rows)], "o/n")
    again = import_dataset(store, [table(tmp_path / "b.csv", *rows[::-1])], "o/n")
    assert (again.created, again.version.digest) == (False, first.version.digest)


def test_a_repeated_episode_is_counted_and_another_of_its_id_rejected(tmp_path, store):
    other = log(TALK, rewards=[0.0, 0.0])
    path = lines(tmp_path / "a.jsonl", log(TALK), log(TALK), export(TALK), other)
    report = import_dataset(store, [path, lines(tmp_path / "b.jsonl", export(TALK))], "o/n")
    assert (report.episodes, report.duplicates, report.failures) == (1, 2, 2)
    assert [(f.source, f.reason) for f in report.rejected] == [
        ("a.jsonl:3", "`pk` is blank."),
        ("a.jsonl:4", "another episode with the id 'E1' was read before it."),
    ]
    assert json.loads(report.rejected[1].record) == other


def test_rejected_records_are_kept_in_failures(tmp_path, store):
    path = lines(tmp_path / "a.jsonl", log(TALK), "{broken", log(TALK, pk="E2", rewards=[[1, {"goal": 99}], 0.0]))
    report = import_dataset(store, [path], "o/n")
    rows = (
        open_dataset("o/n", store).sql("SELECT episode_id, agent, dimension, source, record FROM failures").to_pylist()
    )
    assert report.failures == 2
    assert [tuple(r.values()) for r in rows] == [
        (None, None, None, "a.jsonl:2", "{broken"),
        ("E2", "id-0", "goal", "a.jsonl:3", None),
    ]


@pytest.mark.parametrize("bad", ["{broken", json.dumps(log(TALK, pk="E2", rewards=[[1, {"goal": 99}], 0.0]))])
def test_strict_makes_the_first_rejection_an_error_and_leaves_nothing(tmp_path, store, bad):
    path = lines(tmp_path / "a.jsonl", log(TALK), bad, log(TALK, pk="E3"))
    with pytest.raises(InputError) as error:
        import_dataset(store, [path], "o/n", options=ImportOptions(strict=True))
    assert error.value.message.startswith("a.jsonl:2: ")
    assert left_behind(store) == []


def test_strict_lets_a_repeated_episode_pass_and_not_another_of_its_id(tmp_path, store):
    assert (
        import_dataset(
            store, [lines(tmp_path / "a.jsonl", log(TALK), log(TALK))], "o/n", options=ImportOptions(strict=True)
        ).duplicates
        == 1
    )
    with pytest.raises(InputError) as error:
        import_dataset(
            store,
            [lines(tmp_path / "b.jsonl", log(TALK), log(TALK, rewards=None))],
            "o/m",
            options=ImportOptions(strict=True),
        )
    assert "b.jsonl:2: another episode with the id 'E1'" in error.value.message


def test_where_keeps_what_it_is_true_for_and_what_belongs_to_it(tmp_path, store):
    bad_score = log(TALK, pk="X", rewards=[[1, {"goal": 99}], 0.0])
    path = lines(tmp_path / "a.jsonl", *MANY, bad_score)
    report = import_dataset(store, [path], "o/n", options=ImportOptions(where="episode_id < 'E010' AND len(turns) = 4"))
    assert (report.episodes, report.filtered, report.failures) == (10, 291, 0)
    assert report.version.manifest.provenance["where"] == "episode_id < 'E010' AND len(turns) = 4"


@pytest.mark.parametrize(
    "where",
    [
        "",
        "nothing_like_it = 1",
        "len(turns) >",
        "true; DROP TABLE x",
        "true) FROM x --",
        "(SELECT count(*) FROM read_csv('/etc/hosts')) > 0",
        "(SELECT count(*) FROM '/etc/hosts') > 0",
        "EXISTS (SELECT * FROM episodes)",
        "EXISTS (FROM enable_logging(storage = 'file', storage_config = {'path': '/nowhere/log'}))",
        "count(*) > 1",
        "*",
        "tag = '\udcff'",
    ],
)
def test_a_where_that_is_no_condition_over_the_rows_is_refused_before_anything_is_read(tmp_path, store, where):
    read: list[int] = []
    path = lines(tmp_path / "a.jsonl", log(TALK))
    with pytest.raises(QueryError) as error:
        import_dataset(
            store, [path], "o/n", options=ImportOptions(where=where), progress=lambda done, _: read.append(done)
        )
    assert error.value.message.startswith(f"{where!r} is not a condition: ")
    assert "episode_id" in error.value.hint
    assert read == left_behind(store) == []


def test_a_where_that_fails_on_the_rows_themselves_leaves_nothing_behind(tmp_path, store):
    with pytest.raises(QueryError) as error:
        import_dataset(
            store, [lines(tmp_path / "a.jsonl", *MANY)], "o/n", options=ImportOptions(where="tag::INTEGER = 1")
        )
    assert "'toy'" in error.value.message
    assert left_behind(store) == []


def test_training_rows_become_rewards_without_identity_grouped_by_scenario(tmp_path, store):
    report = import_dataset(store, [document(tmp_path / "a.json", ROWS)], "o/n", options=ImportOptions(sentinel=-1.0))
    assert (report.examples, report.episodes) == (50, 0)
    dataset = open_dataset("o/n", store)
    rows = dataset.sql("SELECT * FROM rewards").to_pylist()
    assert set(rows[0]) == {"environment_id", "prompt", "completion", "reward", "n_opinions", "spread", "split"}
    assert sum(r["reward"] is None for r in rows) == 10
    assert len({r["environment_id"] for r in rows}) == 9
    assert all(r["split"] == split_of(r["environment_id"]) for r in rows)
    assert {r["prompt"][0]["role"] for r in rows} == {"user"}
    assert {r["completion"][0]["role"] for r in rows} == {"assistant"}
    assert all(r["n_opinions"] is None and r["spread"] is None for r in rows)
    kept = import_dataset(store, [tmp_path / "a.json"], "o/m", options=ImportOptions(where="reward > 2"))
    assert (kept.examples, kept.filtered) == (10, 40)


def test_annotated_rows_bring_an_attributions_config(tmp_path, store):
    given = {
        f"Utterance 0 by {ANN}": ['said: "a"', {"reward": 4.0, "attribution": 2}],
        f"Utterance 0 by {SAM}": ["did nothing", 0],
    }
    rows = [row(ANN, given, True, episode_id=f"E{i}") for i in range(200)]
    report = import_dataset(store, [lines(tmp_path / "a.jsonl", *rows)], "o/n")
    assert (report.episodes, report.attributions, report.failures) == (200, 200, 200)  # Sam has no row
    assert set(report.version.manifest.configs) == {"episodes", "attributions", "failures"}
    (one,) = (
        open_dataset("o/n", store)
        .sql("SELECT DISTINCT agent, turn, raw, scale_max, judge FROM attributions")
        .to_pylist()
    )
    assert one == {"agent": ANN, "turn": 0, "raw": 2.0, "scale_max": 3.0, "judge": "sotopia-rl"}


def test_episodes_and_training_rows_do_not_mix(tmp_path, store):
    paths = [lines(tmp_path / "a.jsonl", PLAIN), document(tmp_path / "b.json", ROWS)]
    with pytest.raises(UsageError) as error:
        import_dataset(store, paths, "o/n")
    assert "two names" in error.value.hint
    assert left_behind(store) == []


def test_where_nothing_can_be_imported_nothing_is_made(tmp_path, store):
    path = lines(tmp_path / "a.jsonl", log(TALK, messages=[]), log(TALK, messages=[]))
    with pytest.raises(InputError) as error:
        import_dataset(store, [path], "o/n")
    assert error.value.message == "None of 2 records could be imported; a.jsonl:1: its messages are empty."
    with pytest.raises(InputError) as error:
        import_dataset(store, [lines(tmp_path / "b.jsonl", log(TALK))], "o/n", options=ImportOptions(where="false"))
    assert error.value.message == "None of the 1 records meets the condition."
    for missing in ([tmp_path / "nowhere"], []):
        with pytest.raises(InputError):
            import_dataset(store, missing, "o/n")
    assert left_behind(store) == []


def test_a_version_that_is_taken_by_other_content_is_refused(tmp_path, store):
    import_dataset(store, [lines(tmp_path / "a.jsonl", log(TALK))], DatasetRef("o/n", "v2.0.0"))
    before = {p: p.read_bytes() for p in left_behind(store) if p.is_file()}
    with pytest.raises(VersionExists):
        import_dataset(store, [lines(tmp_path / "b.jsonl", PLAIN)], DatasetRef("o/n", "v2.0.0"))
    assert {p: p.read_bytes() for p in left_behind(store) if p.is_file()} == before


def test_provenance_names_files_and_formats_but_no_folder_of_this_machine(tmp_path, store):
    (tmp_path / "mine").mkdir()
    path = lines(tmp_path / "mine" / "a.jsonl", log(TALK), "{broken")
    report = import_dataset(store, [path, tmp_path / "mine"], "o/n")
    (source,) = report.version.manifest.provenance["sources"]
    assert (source["format"], source["files"], source["names"]) == ("episode-log", 2, ["a.jsonl", "a.jsonl"])
    assert len(source["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(
        [dict(report.version.manifest.provenance), [f.source for f in report.rejected]]
    )
