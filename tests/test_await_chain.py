"""How many files of ours a plain question of `label` goes through on its way to a provider."""

from __future__ import annotations

from pathlib import Path

import pytest
from await_chain import watched
from label_toys import BOAT, put, sim

from sotopia_rl_data.cli.program import main
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.store import Store

MOST = 9  # files, from the command down; version 0.1.0 went through 10
MOST_AWAITING = 4  # files whose coroutines await it; version 0.1.0 had 5


def test_a_plain_question_goes_through_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(tmp_path / "store")
    put(store, [BOAT])
    with running() as provider, watched(monkeypatch) as chain, pytest.raises(SystemExit) as ended:
        main(["label", "lab/episodes", "--judge", sim(provider), "--store", str(store.root), "--json"])
    assert ended.value.code == 0
    awaiting = chain.files(awaits=True)
    print(f"one question goes through {len(chain.files())} files, of which {len(awaiting)} await it:")
    for step in chain.steps:
        print(f"  {'await' if step.awaits else '     '} {step.file}  {step.function}")
    assert 0 < len(awaiting) <= MOST_AWAITING
    assert len(chain.files()) <= MOST
