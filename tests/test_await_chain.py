"""How many files of ours a plain question of `label` goes through on its way to a provider."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.await_chain import watched
from fixtures.labelling import BOAT, put, sim

from sotopia_rl_data.cli.program import main
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.store import Store

# Counted likewise, version 0.1.0 had 10 files from the command down, 7 from `label()` down, and 5 that await.
MOST_OF_THE_COMMAND = 6
MOST_OF_THE_FUNCTION = 4
MOST_AWAITING = 3


@pytest.mark.slow
def test_a_plain_question_goes_through_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(tmp_path / "store")
    put(store, [BOAT])
    with running() as provider, watched(monkeypatch) as chain, pytest.raises(SystemExit) as ended:
        main(["label", "lab/episodes", "--judge", sim(provider), "--store", str(store.root), "--json"])
    assert ended.value.code == 0
    command, function, awaiting = chain.files(), chain.files(below="labelers/labelling.py"), chain.files(awaits=True)
    print(
        f"one question goes through {len(command)} files, {len(function)} from label() down; {len(awaiting)} await it:"
    )
    for step in chain.steps:
        print(f"  {'await' if step.awaits else '     '} {step.file}  {step.function}")
    assert 0 < len(awaiting) <= MOST_AWAITING
    assert len(function) <= MOST_OF_THE_FUNCTION
    assert len(command) <= MOST_OF_THE_COMMAND
