"""ConvoKit's own library reads what `export --to convokit` writes, and what it dumps of that is imported again.

    python -m pytest -m long tests/exporters/test_convokit_library.py

Its models alone are imported, in an environment of their own: all that it can do besides would be 6 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.environments import packages_of, python_of
from fixtures.formats import corpus

from sotopia_rl_data.exporters.convokit import export_convokit
from sotopia_rl_data.importers import read, samples_path
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.query import Dataset
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store

pytestmark = pytest.mark.long

NEEDED = ("numpy", "pandas", "scipy", "scikit-learn", "tqdm", "pyyaml", "pymongo", "requests")
LIBRARY = """
import json, sys, types
package = types.ModuleType("convokit")
package.__path__ = [sys.argv[1]]
sys.modules["convokit"] = package
from convokit.model import Corpus
corpus = Corpus(filename=sys.argv[2])
assert all(one.check_integrity(verbose=False) for one in corpus.iter_conversations())
for one in corpus.iter_utterances():
    row = [one.id, one.conversation_id, one.speaker.id, one.text, one.reply_to, dict(one.meta), dict(one.speaker.meta)]
    print("row", json.dumps(row))
corpus.dump("again", base_path=sys.argv[3])
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """An environment that has ConvoKit and what its models need (a minute)."""
    folder = tmp_path_factory.mktemp("convokit")
    pip = [sys.executable, "-m", "pip", "--python", str(python_of(folder)), "install", "-q"]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [*pip, "--no-deps", "convokit==5.0.0"],
        [*pip, *NEEDED],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            pytest.skip(f"ConvoKit cannot be installed ({' '.join(command[3:])}): {done.stderr.strip()[-300:]}")
    return folder


@pytest.mark.parametrize("name", ["boats", "samples"])
def test_the_library_reads_an_exported_corpus_and_its_dump_is_the_same_episodes(name: str, library: Path, tmp_path):
    source = corpus(tmp_path / "boats") if name == "boats" else samples_path()
    version = import_dataset(Store(tmp_path / "store"), [source], f"o/{name}").version
    export_convokit(version, tmp_path / "out")
    done = subprocess.run(
        [python_of(library), "-c", LIBRARY, packages_of(library) / "convokit", tmp_path / "out", tmp_path],
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("row ")]
    speakers = json.loads((tmp_path / "out" / "speakers.json").read_text())
    written = [json.loads(line) for line in (tmp_path / "out" / "utterances.jsonl").read_text().splitlines()]
    own = ("id", "conversation_id", "speaker", "text", "reply-to", "meta")
    assert seen == [[*(row[key] for key in own), speakers[row["speaker"]]["meta"]] for row in written]
    episodes = {one.episode_id: one for one in Dataset(version).episodes()}
    again = [one for one in read([tmp_path / "again"]) if isinstance(one, Episode)]
    assert len(again) == len(episodes)
    for one in again:
        said = [(turn.agent, turn.text) for turn in one.turns]
        assert said == [(turn.agent, turn.text) for turn in episodes[one.episode_id].turns]
