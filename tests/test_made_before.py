"""A store and a ledger of version 0.1.0 are read as before: the same inputs give the same digests and keys.

`fixtures/made_by_0_1_0/README.md` says what is there. Nobody listens at the URL that its judges are asked at, so a key
that has changed is a call that fails.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.places import ROOT

from sotopia_rl_data.asking.batch.client import BatchResult, BatchState
from sotopia_rl_data.asking.batch.openai import OpenAIBatchClient
from sotopia_rl_data.cli.program import main
from sotopia_rl_data.request import Reply
from sotopia_rl_data.store import Store

MADE = ROOT / "tests" / "fixtures" / "made_by_0_1_0"
EXPECTED = json.loads((MADE / "expected.json").read_text())
JUDGED = ("label", "evaluate", "audit")
ASKING = (*JUDGED, "rollout")
Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The store, to be written to."""
    with tarfile.open(MADE / "store.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later
        archive.extractall(tmp_path)
    return tmp_path / "store"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the program in this process: its exit code, what it printed as JSON, and what else it said. Judges are asked
    in the wording of that time, which is the first."""
    monkeypatch.chdir(tmp_path)
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "SOTOPIA_RL_DATA_PRICES"):
        monkeypatch.delenv(variable, raising=False)

    def call(command: list[str], *options: str) -> tuple[int, Any, str]:
        then = ["--wording", "v1"] if command[0] in JUDGED else []
        with pytest.raises(SystemExit) as ended:
            main([*(part.format(folder=MADE) for part in command), *then, *options, "--json"])
        out, err = capsys.readouterr()
        return int(str(ended.value.code)), json.loads(out) if out else None, err

    return call


def digests(store: Store) -> dict[str, str]:
    refs = [f"{name}@{version}" for name in store.names() for version in store.versions(name)]
    return {ref: store.resolve(ref).digest for ref in refs}


@pytest.mark.slow
def test_every_version_is_read_and_verifies(kept: Path, run: Run):
    made = {one["version"]: one["digest"] for one in EXPECTED["again"]}
    assert digests(Store(kept)) == made
    for version in made:
        code, _, said = run(["verify", version], "--store", str(kept))
        assert (code, version in said or said == "") == (0, True), said


@pytest.mark.slow
def test_the_same_commands_ask_nobody_and_end_in_the_same_digests(kept: Path, run: Run, tmp_path: Path):
    """In an empty store, with the answers of the old ledger."""
    again = Store(tmp_path / "again")
    for one in EXPECTED["again"]:
        options = ["--ledger", str(kept / ".ledger")] if one["command"][0] in ASKING else []
        code, told, said = run(one["command"], "--store", str(again.root), *options)
        assert code in (0, 3), said
        assert told.get("asked", 0) == 0
        assert digests(again)[one["version"]] == one["digest"], one["command"]


@pytest.mark.slow
def test_the_same_labels_in_the_old_store_are_its_own_versions(kept: Path, run: Run):
    before = digests(Store(kept))
    for one in EXPECTED["again"]:
        if one["command"][0] in ("label", "rewards", "audit"):
            code, told, said = run(one["command"], "--store", str(kept))
            assert code in (0, 3), said
            assert (told["version"], told["created"]) == (one["version"], False)
    assert digests(Store(kept)) == before


@pytest.mark.slow
def test_the_ledger_holds_every_call(kept: Path, run: Run):
    code, told, _ = run(["ledger", "query", EXPECTED["calls"]["sql"]], "--store", str(kept))
    assert (code, told) == (0, EXPECTED["calls"]["rows"])
    assert run(["ledger", "compact"], "--store", str(kept))[0] == 0
    assert run(["ledger", "query", EXPECTED["calls"]["sql"]], "--store", str(kept))[1] == told


@pytest.mark.slow
def test_what_a_killed_run_had_reserved_still_counts(kept: Path, run: Run):
    held = EXPECTED["held"]
    for cap in (held["usd"] / 2, held["usd"] + 0.001):
        code, _, said = run(held["command"], "--store", str(kept), "--budget", str(cap))
        assert (code, f"{held['usd']:.4f} USD are spent, and 4 of 4 calls are left undone" in said) == (1, True), said


@pytest.mark.slow
def test_the_batch_under_way_is_seen(kept: Path, run: Run):
    code, told, said = run(EXPECTED["batch"]["command"], "--store", str(kept), "--dry-run")
    (line,) = told["judges"]
    assert (code, line["in_batches"], line["asked"]) == (0, EXPECTED["batch"]["requests"], 0), said


@pytest.mark.slow
def test_the_batch_under_way_is_fetched_and_not_submitted_again(kept: Path, run: Run, monkeypatch: pytest.MonkeyPatch):
    made = EXPECTED["batch"]
    (asked,) = kept.glob(".ledger/batches/*/*/asked.jsonl")
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    answers = {one["key"]: one["text"] for one in made["answers"]}

    async def newest(self: OpenAIBatchClient) -> str:
        return ""

    async def state(self: OpenAIBatchClient, batch: str) -> BatchState:
        return BatchState(ended=True, done=len(lines))

    async def results(self: OpenAIBatchClient, batch: str):
        for line in lines:
            yield BatchResult(line["id"], Reply(answers[line["key"]]))

    for method in (newest, state, results):
        monkeypatch.setattr(OpenAIBatchClient, method.__name__, method)
    code, told, said = run(made["command"], "--store", str(kept))
    assert code in (0, 3), said
    assert (told["version"], told["digest"], told["asked"]) == (made["version"], made["digest"], made["requests"])
    assert not asked.parent.exists()
