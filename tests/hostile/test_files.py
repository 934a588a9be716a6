"""What a stranger sends as a file: refused with a sentence, or taken and then readable by every reading command.

Each place that takes a file gets damaged ones, bytes of no format, and what is not a file. Whatever happens, nothing
that was there before changes, and nothing is written outside the store.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from fixtures.formats import CHAT, COMPLETION, CORPUS_ROWS, PREFERENCE, ROWS, SHAREGPT, SIMULATION
from fixtures.hostile_files import (
    HostileFile,
    Place,
    as_arrow,
    as_calls,
    as_csv,
    as_gzip,
    as_journal,
    as_json,
    as_lines,
    as_parquet,
    as_text,
    as_yaml,
    hostile_files,
    of_bytes,
)
from fixtures.hub_client import HubClient
from fixtures.places import ROOT
from fixtures.reading_commands import contents, read_everywhere, run_unharmed
from fixtures.records import PLAIN, TALK, export, log

from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.store import Store

SEED, MOST_MEMORY = 14, 1 << 30  # bytes
CAST = [{"id": "ann", "name": "Ann Lee", "secret": "None.", "goal": "Keep it"}, {"name": "Bob", "goal": "Fell it"}]
SCENE = {"environment": "env-tree", "codename": "tree", "relationship": "friend", "scenario": "One tree.", "cast": CAST}
FLAT_SCENE = {name: said for name, said in SCENE.items() if name != "cast"}
FLAT_SCENE |= {"name_1": "Ann", "goal_1": "Keep it", "name_2": "Bob", "goal_2": "Fell it"}
PROFILES = [
    {"env_id": "e", "scenario": "s", "agent_goals": ["g", "h"], "relationship": 3},
    {"agent_id": "a", "first_name": "a", "age": 20},
    {"agent_id": "b", "first_name": "b", "age": 50},
    {"env_id": "e", "agent_ids": ["a", "b"]},
]
JUDGES = [{"name": "mine", "model": "m", "url": "http://127.0.0.1:1/v1", "price": {"input": 1, "output": 4}}]
FLEET = [{"name": "mine", "model": "m", "urls": ["http://127.0.0.1:1/v1", "http://127.0.0.2:1/v1"], "key": "none"}]
STUDY = {
    "name": "tiny",
    "datasets": {"episodes": "lab/episodes"},
    "labels": {
        "direct": {"judges": ["lexical"], "dimensions": ["goal"], "weights": {"goal": 1}},
        "scaled": {"from": "direct", "rule": "scaled"},
    },
    "tables": {"attribution": {"show": "distributions", "of": ["direct", "scaled"]}},
}
PRICES = {"as_of": "2026-11-01", "hosts": {"*": {"m": [1, 1, 1, 4, 1000]}}}
SAMPLE = [{"episode_id": "sample-boat-sale-3"}]


def loaded(path: str) -> object:
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


RUBRIC = loaded("examples/rubric.yaml")
RANGES = {"name": "own", "dimensions": {"csat": {"description": "How glad.", "range": [1, 5]}}}
GOAL_ONLY = loaded("sotopia_rl_data/presets/goal-only.yaml")
SINGLE = loaded("sotopia_rl_data/templates/single.v1.yaml")
IMPORT = "import FILE --name lab/new"
LABEL = "label lab/episodes --out lab/new --judge"
DRY = f"{LABEL} openai:m@http://127.0.0.1:1/v1 --dry-run"
ROLLOUT = "rollout --turns 2 --pairs 1 --out lab/new --scenarios"
MERGE = "ledger merge FILE --ledger BESIDE"
QUERY = "ledger query 'FROM calls' --ledger FILE"
PLACES = [
    Place("import, lines", IMPORT, ".jsonl", [PLAIN, log(TALK)], as_lines),
    Place("import, a log", IMPORT, ".json", log(TALK), as_json),
    Place("import, an export", IMPORT, ".csv", [export(TALK)], as_csv),
    Place("import, chats", IMPORT, ".jsonl", [CHAT, SHAREGPT], as_lines),
    Place("import, utterances", IMPORT, ".csv", ROWS, as_csv),
    Place("import, Parquet", IMPORT, ".parquet", ROWS, as_parquet),
    Place("import, Arrow", IMPORT, ".arrow", ROWS, as_arrow),
    Place("import, gzip", IMPORT, ".jsonl.gz", [PLAIN], as_gzip),
    Place("import, TRL", IMPORT, ".jsonl", [COMPLETION, PREFERENCE], as_lines),
    Place("import, simulations", IMPORT, ".json", {"simulations": [SIMULATION]}, as_json),
    Place("import, a corpus", IMPORT, ".jsonl", CORPUS_ROWS, as_lines, within="utterances.jsonl"),
    Place("import --score", "import --name lab/new --score FILE", ".yaml", RANGES, as_yaml),
    Place("label", "label FILE --judge lexical --weights goal=1 --out lab/new", ".jsonl", [PLAIN], as_lines),
    Place("label --schema", f"{DRY} --schema rubric:FILE", ".yaml", RUBRIC, as_yaml),
    Place("label --preset", f"{LABEL} lexical --preset FILE", ".yaml", GOAL_ONLY, as_yaml),
    Place("label --prices", f"{DRY} --prices FILE", ".yaml", PRICES, as_yaml),
    Place("label --judges", f"{LABEL} mine --dry-run --judges FILE", ".yaml", JUDGES, as_yaml),
    Place("label --judges, a fleet", f"{LABEL} mine --dry-run --judges FILE", ".yaml", FLEET, as_yaml),
    Place("study", "study FILE --dry-run", ".yaml", STUDY, as_yaml),
    Place("label --template", f"{LABEL} lexical --template FILE", ".yaml", SINGLE, as_yaml),
    Place("label --only", f"{LABEL} lexical --only FILE", ".csv", SAMPLE, as_csv),
    Place("label --judge human", f"{LABEL} human:FILE", ".csv", [], as_csv),
    Place("label --judge a file", f"{LABEL} FILE:Judge", ".py", "class Judge:\n    pass\n", as_text),
    Place("rollout --scenarios, YAML", f"{ROLLOUT} FILE", ".yaml", [SCENE], as_yaml),
    Place("rollout --scenarios, CSV", f"{ROLLOUT} FILE", ".csv", [FLAT_SCENE], as_csv),
    Place("rollout --profiles", f"{ROLLOUT} all --profiles FILE", ".jsonl", PROFILES, as_lines, within="p.jsonl"),
    Place("annotate import", "annotate import FILE lab/episodes", ".csv", [], as_csv),
    Place("a journal", QUERY, ".jsonl", [], as_journal, within="journal-1.jsonl"),
    Place("a ledger to go on with", f"{DRY} --ledger FILE", ".jsonl", [], as_journal, within="journal-1.jsonl"),
    Place("ledger merge, journals", MERGE, ".jsonl", [], as_journal, within="journal-1.jsonl"),
    Place("ledger merge, compacted", MERGE, ".parquet", [], as_calls, within="calls-1.parquet"),
    Place("a compacted ledger", QUERY, ".parquet", [], as_calls, within="calls-1.parquet"),
]
FORMS = {  # that people fill in, by the place that takes them, and the column for what they say
    "label --judge human": ("raw", "annotate template lab/episodes --dimensions goal"),
    "annotate import": ("score", "annotate export lab/episodes --dialogues 2 --dimensions goal"),
}


class Recipient:
    """A store with a few versions, and the commands as its owner runs them on files that were sent."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "store")
        self.client = HubClient("http://127.0.0.1:1", folder / "hf", xet=False)
        where = "episode_id IN ('sample-boat-sale-3', 'sample-mothers-house-3')"
        self.client("import", "--name", "lab/episodes", "--where", where, "--store", self.store.root)
        self.client("label", "lab/episodes", "--judge", "lexical", "--store", self.store.root)
        (folder / "beside").write_text("beside")
        (folder / "sent").mkdir()

    def answer(self, place: Place) -> str:
        """What is said about a good file; empty where it is taken."""
        taken, said = self._take(of_bytes(place.name, place, place.write(place.good)))
        return "" if taken else said

    def take(self, file: HostileFile) -> bool:
        return self._take(file)[0]

    def _take(self, file: HostileFile) -> tuple[bool, str]:
        """Run the file's command; whether it was accepted, and what was said. What it made is read, and removed."""
        sent = self.folder / "sent" / f"file{file.place.suffix}"
        if file.place.within:
            sent = sent.with_suffix("")
            sent.mkdir()
            file.make(sent / file.place.within)
        else:
            file.make(sent)
        before, versions = self.state(), self.versions()
        named = {"FILE": str(sent), "BESIDE": str(sent.with_name("merged"))}
        command = [re.sub("FILE|BESIDE", lambda hole: named[hole[0]], one) for one in shlex.split(file.place.command)]
        done = run_unharmed(self.client, command, self.store.root)
        new = self.versions() - versions
        for ref in sorted(new):  # `label FILE` keeps the episodes, even if nothing of them can be labelled
            version = self.store.resolve(ref)
            read_everywhere(self.client, version, ref, self.store.root, self.folder / "out")
            shutil.rmtree(version.dir)
        after = self.state()
        written = {path for path in after if path not in before and not path.startswith(("store/", "sent/"))}
        assert {path: after.get(path) for path in before} == before, file.name
        assert not written, (file.name, written)
        shutil.rmtree(self.folder / "sent")
        (self.folder / "sent").mkdir()
        return done.code in (0, 3), done.err

    def versions(self) -> set[str]:
        return {f"{name}@{one}" for name in self.store.names() for one in self.store.versions(name)}

    def state(self) -> dict[str, str]:
        return {path: digest for path, digest in contents(self.folder).items() if not path.startswith("sent/")}


@pytest.fixture(scope="module")
def recipient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipient]:
    made = Recipient(tmp_path_factory.mktemp("recipient"))
    yield made
    made.client.stop()


@pytest.fixture(scope="module")
def places(recipient: Recipient) -> list[Place]:
    made, store = {}, ("--store", recipient.store.root)
    for name, (column, command) in FORMS.items():
        path = recipient.folder.with_suffix(".csv")
        recipient.client(*command.split(), "-o", path, *store)
        with path.open(newline="", encoding="utf-8-sig") as file:
            made[name] = [row | {column: "1"} for row in csv.DictReader(file)]
        path.unlink()
    with running() as provider:
        ledger = recipient.folder.with_name("ledger")
        judge = ("--judge", f"openai:sim-judge@{provider.openai_url}", "--dimensions", "goal", "--preset", "goal-only")
        recipient.client("label", "lab/episodes", *judge, "--out", "lab/judged", "--ledger", ledger, *store)
    (journal,) = ledger.glob("journal-*.jsonl")
    made["a journal"] = made["a ledger to go on with"] = made["ledger merge, journals"] = [
        json.loads(line) for line in journal.read_text("utf-8").splitlines()
    ]
    recipient.client("ledger", "compact", "--ledger", ledger)
    (calls,) = ledger.glob("calls-*.parquet")
    made["a compacted ledger"] = made["ledger merge, compacted"] = pq.read_table(calls).to_pylist()
    return [replace(one, good=made.get(one.name, one.good)) for one in PLACES]


@pytest.mark.invented  # what a file made is removed before what was printed of it could be run
@pytest.mark.slow
def test_a_good_file_is_taken_in_every_place(recipient: Recipient, places: list[Place]) -> None:
    answers = {place.name: recipient.answer(place) for place in places if place.suffix != ".py"}
    assert {name: answer for name, answer in answers.items() if answer} == {}


@pytest.mark.invented  # what a file made is removed before what was printed of it could be run
@pytest.mark.slow
@pytest.mark.parametrize("count", [24, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_hostile_file_is_refused_or_read_whole(recipient: Recipient, places: list[Place], count: int) -> None:
    every = hostile_files(places, SEED)
    assert len(every) >= 1000
    assert sum(file.place.suffix == ".yaml" for file in every) >= 300
    taken = [recipient.take(file) for file in every[:count]]
    assert 0 < sum(taken) < len(taken)
    assert recipient.client.most_memory() < MOST_MEMORY
