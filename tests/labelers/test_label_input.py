"""What label refuses before anything is asked or written, and the files that it imports first."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.flat_calls import label
from fixtures.labelling import BOAT, BY, UNSCORED, Highest, put

from sotopia_rl_data.errors import (
    InputError,
    KeyMissing,
    NotFound,
    SotopiaDataError,
    StoreError,
    UsageError,
)  # fmt: skip
from sotopia_rl_data.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"judges": []}, UsageError, "No judge is named"),
        ({"judges": ["gtp-4o"]}, UsageError, "'gtp-4o' is not a judge"),
        ({"judges": ["gpt-4o"]}, KeyMissing, "OPENAI_API_KEY is not set"),
        ({"schema": "indirect"}, UsageError, "no schema 'indirect'"),
        ({"dimensions": ["goals"]}, UsageError, "'goals' is not a SOTOPIA-EVAL dimension"),
        ({"dimensions": []}, UsageError, "No dimension is named"),
        ({"dimensions": ["goal"]}, UsageError, "The rewards weigh relationship, knowledge"),
        ({"scale": 4}, UsageError, "no wording for a scale of 0 to 4"),
        ({"packing": "all"}, UsageError, "The packing 'all' does not exist"),
        ({"samples": 0}, UsageError, "number of samples is 0"),
        ({"preset": "sotopia"}, UsageError, "'sotopia' is not a preset"),
        ({"preset": "singular"}, UsageError, "the schema 'direct' yields none"),
        ({"evaluator": "nobody"}, UsageError, "No episode is scored by 'nobody'"),
        ({"out": "a/b/c"}, UsageError, "is not a possible name of a dataset"),
        ({"version": "newest"}, UsageError, "'newest' is not a version"),
        ({"source": "lab/nothing"}, NotFound, "has no dataset 'lab/nothing'"),
        ({"source": "./no-such-file.jsonl"}, InputError, "The file no-such-file.jsonl does not exist"),
        ({"source": "lab/scoreless"}, InputError, "No episode has a score"),
        ({"source": "lab/two"}, UsageError, "several evaluators"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_asked_or_written(
    store: Store, options: dict[str, Any], error: type[SotopiaDataError], said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    put(store, [BOAT])
    put(store, [replace(BOAT, scores=())], "lab/scoreless")
    put(store, [BOAT, UNSCORED], "lab/two")
    before = lying(store)
    judge = Highest()
    given_ = {"source": "lab/episodes", "judges": [judge]} | options
    with pytest.raises(error, match=said) as caught:
        label(store, **given_)
    assert caught.value.hint
    assert judge.calls == 0
    assert lying(store) == before


def lying(store: Store) -> list[Path]:
    return sorted(path for path in store.root.rglob("*") if ".staging" not in path.parts)


def test_a_file_that_is_no_episodes_is_an_input_error(store: Store, tmp_path: Path):
    (tmp_path / "bad.jsonl").write_text("this is not JSON\n")
    with pytest.raises(InputError):
        label(store, tmp_path / "bad.jsonl", judges=["lexical"])
    assert store.names() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_store_is_found_before_anything_is_asked(store: Store):
    put(store, [BOAT])
    store.root.chmod(0o555)
    judge = Highest()
    try:
        with pytest.raises(StoreError):
            label(store, "lab/episodes", judges=[judge])
    finally:
        store.root.chmod(0o755)
    assert judge.calls == 0


def test_a_store_that_cannot_take_a_stage_is_found_before_anything_is_asked(store: Store):
    put(store, [BOAT])
    staging = store.root / ".staging"
    if staging.exists():
        for inner in staging.iterdir():
            inner.unlink()
        staging.rmdir()
    staging.write_text("a file where a folder should be")
    judge = Highest()
    with pytest.raises(StoreError):
        label(store, "lab/episodes", judges=[judge])
    assert judge.calls == 0


def test_a_ledger_that_cannot_be_written_is_found_before_anything_is_asked_or_imported(store: Store, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    judge = Highest()
    with pytest.raises(StoreError, match=r"The ledger in .* cannot be written: Not a directory"):
        label(store, plain_file(tmp_path), judges=[judge], preset="goal-only", ledger=tmp_path / "file" / "ledger")
    assert (judge.calls, store.names()) == (0, [])


def plain_file(folder: Path) -> Path:
    """One episode in our own format."""
    plain = {
        "episode_id": "e1",
        "scenario": "A boat.",
        "agents": [{"agent": "a", "name": "Ann"}, {"agent": "b", "name": "Bob"}],
        "turns": [{"turn": 0, "agent": "a", "text": "Hello."}, {"turn": 1, "agent": "b", "text": "Hi."}],
        "scores": [{"agent": "a", "dimension": "goal", "score": 5, "evaluator": BY}],
    }
    file = folder / "my épisodes.jsonl"
    file.write_text(json.dumps(plain) + "\n")
    return file


def test_a_file_is_imported_first_under_its_own_name(store: Store, tmp_path: Path):
    file = plain_file(tmp_path)
    done = label(store, file, judges=["lexical"], preset="goal-only")
    assert store.names() == ["my-episodes", "my-episodes-rewards"]
    assert done.labels == 1
    assert label(store, str(file), judges=["lexical"], preset="goal-only").created is False
    by_path = label(store, str(store.resolve("my-episodes").dir), judges=["lexical"], preset="goal-only")
    assert by_path.digest == done.digest


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"evaluator": "nobody"}, "No episode is scored by 'nobody'"),
        ({"out": "a/b/c"}, "is not a possible name of a dataset"),
        ({"version": "newest"}, "'newest' is not a version"),
        ({"scale": 4}, "no wording for a scale"),
        ({"dimensions": ["knowledge"], "preset": None, "schema": "uniform"}, "weigh relationship, goal"),
    ],
)
def test_a_wrong_option_leaves_nothing_of_a_file_in_the_store(
    store: Store, tmp_path: Path, options: dict[str, Any], said: str
):
    file = plain_file(tmp_path)
    judges = [] if "schema" in options else ["lexical"]
    with pytest.raises(UsageError, match=said):
        label(store, file, **{"judges": judges, "preset": "goal-only"} | options)
    assert store.names() == []


def test_a_file_of_training_rows_is_not_imported_to_be_refused(store: Store, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"input": "You are Ann.", "output": "Hello.", "value": 0.5}\n')
    with pytest.raises(UsageError, match=r"rows.jsonl holds no episodes"):
        label(store, tmp_path / "rows.jsonl", judges=["lexical"])
    assert store.names() == []
