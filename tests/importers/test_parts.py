"""`import --shard I/N` on N machines, then `import --join`: the version is that of one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers import samples_path
from sotopia_rl_data.importers.importing import ImportOptions, import_dataset
from sotopia_rl_data.importers.parts import join
from sotopia_rl_data.refs import DatasetRef
from sotopia_rl_data.shards import Shard
from sotopia_rl_data.store import Store

CHATS = [
    {"messages": [{"role": "user", "content": f"How are you, {n}?"}, {"role": "assistant", "content": "Well."}], **more}
    for n, more in enumerate(({}, {"mood": "sunny"}, {}, {}, {}, {}))
]
ROWS = [{"prompt": f"Say {n % 4}.", "completion": f"{n}", "reward": n / 10} for n in range(9)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def parts_of(store: Store, file: Path, count: int) -> list[Path]:
    made = []
    for number in range(1, count + 1):
        options = ImportOptions(shard=Shard(number, count))
        made.append(import_dataset(store, [file], f"lab/part-{number}", options=options).version.dir)
    return made


@given(st.text(), st.integers(1, 50))
def test_every_name_is_in_exactly_one_part(name: str, count: int):
    assert sum(Shard(number, count).has(name) for number in range(1, count + 1)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("what", ["samples", "chats with meta in one part, and a broken line", "training rows"])
def test_the_parts_of_an_import_joined_are_the_import_of_one_process(
    what: str, count: int, store: Store, tmp_path: Path
):
    file = tmp_path / "records.jsonl"
    if what == "samples":
        file.write_text(samples_path().read_text("utf-8"), "utf-8")
    else:
        lines = [json.dumps(row) for row in (ROWS if what == "training rows" else CHATS)]
        file.write_text("\n".join([*lines[:3], *([] if what == "training rows" else ["{broken"]), *lines[3:]]), "utf-8")
    whole = import_dataset(store, [file], "lab/whole")
    parts = parts_of(store, file, count)
    joined = join(store, parts, DatasetRef("lab/joined"))
    assert joined.committed.version.digest == whole.version.digest
    assert joined.rows["failures"] == whole.failures
    counts = joined.committed.version.manifest.provenance["counts"]
    assert [counts.get(name, 0) for name in ("episodes", "examples")] == [whole.episodes, whole.examples]


@pytest.mark.slow
def test_parts_that_do_not_make_a_whole_are_refused(store: Store, tmp_path: Path):
    parts = parts_of(store, samples_path(), 3)
    other = tmp_path / "other.jsonl"
    other.write_text(samples_path().read_text("utf-8") + "\n", "utf-8")
    strange = import_dataset(store, [other], "lab/strange", options=ImportOptions(shard=Shard(3, 3))).version.dir
    whole = import_dataset(store, [samples_path()], "lab/whole").version.dir
    for named, told in (
        (parts[:2], "Part 3/3 is missing"),
        ([*parts, parts[0]], "Part 1/3 is there twice"),
        ([*parts[:2], strange], "imported from other files"),
        ([*parts[:2], whole], "is not a part of an import"),
    ):
        with pytest.raises(UsageError, match=told):
            join(store, named, DatasetRef("lab/joined"))
    assert "lab/joined" not in store.names()


@pytest.mark.slow
def test_the_commands_divide_and_join(store: Store):
    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, ["import", *words, "--store", str(store.root)])
        assert done.exit_code == 0, done.output
        return done.stderr

    for number in (1, 2, 3):
        said = run("--name", f"lab/part-{number}", "--shard", f"{number}/3")
        assert "warning" not in said  # that a part has nothing in a split says nothing of the whole
        assert " label " not in said
    names = [f"lab/part-{number}" for number in (1, 2, 3)]
    parts = [str(store.resolve(name).dir) for name in names]
    run("--join", *parts, "--name", "lab/joined")
    run("--join", *names, "--name", "lab/by-name")
    assert store.resolve("lab/by-name").digest == store.resolve("lab/joined").digest
    run("--name", "lab/whole")
    assert store.resolve("lab/joined").digest == store.resolve("lab/whole").digest
    refused = CliRunner().invoke(cli, ["import", "--join", *parts, "--name", "lab/joined", "--seed", "3"])
    assert str(refused.exception).startswith("--seed does not apply to --join")


@pytest.mark.slow
def test_a_join_of_parts_with_records_that_could_not_be_read_ends_as_an_import_of_them_does(
    store: Store, tmp_path: Path
):
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join([*map(json.dumps, CHATS), "{broken"]), "utf-8")
    parts = [str(path) for path in parts_of(store, file, 2)]
    for words in (["import", str(file), "--name", "lab/whole"], ["import", "--join", *parts, "--name", "lab/joined"]):
        done = CliRunner().invoke(cli, [*words, "--store", str(store.root)])
        assert done.exit_code == 3, done.output
    assert store.resolve("lab/joined").digest == store.resolve("lab/whole").digest
