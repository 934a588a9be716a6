"""What a newer version of this program wrote is one sentence: nothing is read by half, changed or deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.attempts import an_answer
from fixtures.batches import question
from fixtures.stores import commit, toy

from sotopia_rl_data.asking.batch.intent import BatchFolder
from sotopia_rl_data.asking.forms import MEANT
from sotopia_rl_data.costs.reservations import Hold, Reservations, left_behind
from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.ledger import calls
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import PendingRequest
from sotopia_rl_data.request import Target
from sotopia_rl_data.store import Store, versions
from sotopia_rl_data.trainers.reward_model import head
from sotopia_rl_data.trainers.run_folder import RunFolder

NEWER = "was written by a newer sotopia-rl-data"
TARGET = Target("openai", "sim", "http://127.0.0.1:9/v1")
OURS = an_answer("1")


def as_newer(line: bytes) -> bytes:
    return line.replace(b'{"v":1,', b'{"v":2,')


def with_a_field(line: bytes) -> bytes:
    return line[:-2] + b',"lease":3}\n'


def another(line: bytes) -> bytes:
    return b'{"v":2,"lease":"00ff"}\n'


def without_a_number(line: bytes) -> bytes:
    return b'{"lease":"00ff"}\n'


def torn(line: bytes) -> bytes:
    return as_newer(line)[:60]


def journal_with(folder: Path, change: Callable[[bytes], bytes], first: bool = False) -> Path:
    """A journal with a line of ours, and one as a newer version may write it."""
    folder.mkdir(exist_ok=True)
    lines = [OURS.line(), change(an_answer("2", "Something else?").line())]
    journal = folder / "journal-1-1.jsonl"
    journal.write_bytes(b"".join(reversed(lines) if first else lines))
    return journal


@pytest.mark.parametrize("change", [as_newer, another, torn])
def test_a_newer_line_anywhere_in_a_journal_is_a_sentence(tmp_path: Path, change: Callable[[bytes], bytes]):
    """What cannot be read would look unanswered, and be paid for again."""
    journal_with(tmp_path, change, first=change is not torn)
    with pytest.raises(StoreError, match=NEWER) as told:
        Ledger(tmp_path)
    assert told.value.hint == "install a newer sotopia-rl-data"
    journal_with(tmp_path, change)
    with pytest.raises(StoreError, match=NEWER):
        Ledger(tmp_path)


@pytest.mark.parametrize("change", [as_newer, with_a_field, another, without_a_number, torn])
def test_compaction_takes_a_newer_line_for_no_torn_one_and_deletes_nothing(
    tmp_path: Path, change: Callable[[bytes], bytes]
):
    journal = journal_with(tmp_path, change)
    before = journal.read_bytes()
    with pytest.raises(StoreError, match=NEWER):
        calls.compact(tmp_path)
    assert journal.read_bytes() == before
    assert not list(tmp_path.glob("calls-*"))


@pytest.mark.parametrize("torn", [b'{"v":1,"key":"00', b'"text":"a"}\n', b"\0\0\0\n", b"[1]\n", b"\n"])
def test_a_torn_line_of_ours_is_left_out_as_before(tmp_path: Path, torn: bytes):
    journal = journal_with(tmp_path, lambda _: torn, first=torn.endswith(b"\n"))
    assert calls.compact(tmp_path) == 1
    assert not journal.exists()
    assert Ledger(tmp_path).attempts(OURS.key) == [OURS]


def test_a_field_that_this_version_does_not_know_is_not_dropped_at_a_lookup(tmp_path: Path):
    journal_with(tmp_path, with_a_field)
    ledger, other = Ledger(tmp_path), an_answer("2", "Something else?")
    assert ledger.attempts(OURS.key) == [OURS]
    with pytest.raises(StoreError, match=NEWER):
        ledger.attempts(other.key)


def test_what_a_newer_version_appends_while_the_ledger_is_open_is_a_sentence(tmp_path: Path):
    ledger = Ledger(tmp_path)
    ledger.append(OURS)
    (tmp_path / "journal-2-2.jsonl").write_bytes(as_newer(OURS.line()))
    with pytest.raises(StoreError, match=NEWER):
        ledger.catch_up()


@pytest.mark.parametrize(
    "table",
    [
        calls.calls_schema().with_metadata({"ledger_format": "2"}).empty_table(),
        calls.calls_schema().append(pa.field("lease", pa.string())).empty_table(),
    ],
    ids=["a higher number", "one more column"],
)
def test_a_newer_compacted_file_is_a_sentence_and_is_merged_into_none(tmp_path: Path, table: pa.Table):
    journal = journal_with(tmp_path, lambda line: line)
    path = tmp_path / "calls-1-1.parquet"
    pq.write_table(table, path)
    for use in (Ledger, calls.compact):
        with pytest.raises(StoreError, match=NEWER):
            use(tmp_path)
    assert path.exists()
    assert journal.exists()


def sealed(ledger: Path) -> Path:
    """The folder of a batch that was sealed."""
    folder, request = BatchFolder(ledger, TARGET), question(0, TARGET)
    draft = folder.draft()
    draft.add(b"{}", PendingRequest(request, *request.hashes), MEANT)
    return folder.lines(draft.seal()).parent


@pytest.mark.parametrize("name", ["intent.json", "asked.jsonl"])
def test_a_batch_of_a_newer_version_is_a_sentence(tmp_path: Path, name: str):
    path = sealed(tmp_path) / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lease": 3}) + "\n")
    folder = BatchFolder(tmp_path, TARGET)
    with pytest.raises(StoreError, match=f"{name} {NEWER}"):
        list(folder.under_way())
    path.write_text("{")
    with pytest.raises(StoreError, match=f"{name} is damaged"):
        list(folder.under_way())


def test_a_folder_of_batches_is_removed_only_where_it_holds_nothing_but_a_draft_of_ours(tmp_path: Path):
    folder, draft = BatchFolder(tmp_path, TARGET), sealed(tmp_path)
    (draft / "intent.json").rename(draft / "intent.cbor")
    with pytest.raises(StoreError, match=NEWER):
        folder.sweep()
    (draft / "intent.cbor").rename(draft / "intent.tmp")
    folder.sweep()
    assert not draft.exists()


@pytest.mark.parametrize("record", [{"key": "00", "usd": 1.0, "time": 1.0, "lease": 3}, {"v": 2, "holds": ["00"]}])
def test_a_newer_record_of_reservations_is_a_sentence_and_stays(tmp_path: Path, record: dict[str, object]):
    path = tmp_path / "holds-shared.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(StoreError, match=NEWER):
        Reservations(tmp_path)
    assert json.loads(path.read_text()) == record
    path.write_text("")
    ours, theirs = Reservations(tmp_path), Reservations(tmp_path)
    with ours.turn():
        ours.reserve(Hold("00", 1.0, 1.0, run=ours.run))
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    with pytest.raises(StoreError, match=NEWER), theirs.turn():
        pass
    with pytest.raises(StoreError, match=NEWER):
        list(left_behind(tmp_path))


def test_a_newer_manifest_is_not_said_to_be_damaged_for_then_it_would_be_deleted(tmp_path: Path):
    store = Store(tmp_path)
    path = commit(store, toy(0)).version.dir / "manifest.json"
    manifest = json.loads(path.read_text())
    for newer in (manifest | {"manifest_version": 2}, manifest | {"licences": []}):
        path.write_text(json.dumps(newer))
        with pytest.raises(StoreError, match=NEWER):
            store.resolve("org/toy")


def test_a_newer_note_of_where_a_version_is_published_is_a_sentence(tmp_path: Path):
    note = versions.Published("org/toy", "v1.0.0", ("c0",), "https://127.0.0.1")
    versions.note_published(tmp_path, note)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mirrors": []}))
    with pytest.raises(StoreError, match=NEWER):
        versions.note_published(tmp_path, note)
    assert "mirrors" in path.read_text()


def test_a_newer_run_of_a_trainer_is_a_sentence(tmp_path: Path):
    folder = RunFolder(tmp_path)
    record = {"kind": "rm", "model": "m", "dataset": {"name": "a", "version": "v1.0.0", "digest": "d"}}
    folder.write(record | {"run_version": 1})
    assert folder.read() == record | {"run_version": 1}
    folder.write(record | {"run_version": 2})
    with pytest.raises(StoreError, match=f"run.json {NEWER}"):
        folder.read()


def test_a_newer_reward_head_is_a_sentence(tmp_path: Path):
    class Config:
        reward_head = head.fit(["reward"], {}, [[0.0], [1.0]]).to_config()

    assert head.from_config(Config).targets == ("reward",)
    Config.reward_head |= {"squash": "tanh"}
    with pytest.raises(StoreError, match=NEWER):
        head.from_config(Config)
