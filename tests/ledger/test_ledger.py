"""The ledger: what was answered is durable, found again, never doubled, and holds no key."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fixtures.attempts import USAGE, an_answer, an_error, request
from fixtures.places import ROOT
from hypothesis import given
from hypothesis import strategies as st

from sotopia_rl_data.asking.memory import EndpointMemory
from sotopia_rl_data.errors import QueryError, StoreError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.ledger import calls
from sotopia_rl_data.ledger.attempt import parse_line
from sotopia_rl_data.ledger.journal import Journal
from sotopia_rl_data.ledger.ledger import Ledger, answered
from sotopia_rl_data.request import Reply, Target, Usage
from sotopia_rl_data.secrets import redact

CHILD = """
import os, signal, sys
sys.path[:0] = {paths!r}
from fixtures.attempts import an_answer
from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.ledger.ledger import Ledger
"""


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process that runs `code` with a ledger and its attempts at hand."""
    start = CHILD.format(paths=[str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen([sys.executable, "-c", start + code, *arguments], text=True, stdout=subprocess.PIPE)


def test_an_attempt_comes_back_as_it_was_kept_and_the_newest_comes_first(tmp_path: Path):
    older, newer, other = an_answer("2"), an_answer("3"), an_answer("1", "Something else?")
    with Ledger(tmp_path) as ledger:
        for attempt in (older, newer, an_error(), other):
            ledger.append(attempt)
        assert [a.text for a in ledger.attempts(older.key)] == ["", "3", "2"]
        assert ledger.attempts(older.key)[1] == newer
    with Ledger(tmp_path) as again:
        assert again.attempts(older.key)[1:] == [newer, older]
        assert again.attempts(other.key) == [other]
        assert again.attempts("0" * 64) == []
        assert len(again) == 4


def test_a_question_is_found_whoever_was_asked(tmp_path: Path):
    other_judge = request(target=Target("anthropic", "claude"))
    with Ledger(tmp_path) as ledger:
        ledger.append(an_answer("2"))
        assert [a.text for a in ledger.attempts_at(request().question)] == ["2"]
        ledger.append(answered(other_judge, other_judge.key, other_judge.question, Reply("1"), 0.1))
        assert {a.model for a in ledger.attempts_at(request().question)} == {"sim", "claude"}


def test_keys_that_begin_alike_are_told_apart(tmp_path: Path):
    one, two = "ab" * 8 + "0" * 48, "ab" * 8 + "1" * 48
    with Ledger(tmp_path) as ledger:
        for key in (one, two):
            ledger.append(answered(request(), key, key, Reply(key[-1]), 0.1))
        assert [a.text for a in ledger.attempts(one)] == ["0"]
        assert [a.text for a in ledger.attempts_at(two)] == ["1"]


def test_opening_and_looking_up_leaves_no_trace(tmp_path: Path):
    with Ledger(tmp_path / "none") as ledger:
        assert ledger.attempts("a" * 64) == []
        assert ledger.compact() == 0
        assert ledger.query("SELECT count(*) AS n FROM calls").to_pylist() == [{"n": 0}]
    assert not (tmp_path / "none").exists()


def test_tokens_that_nobody_named_are_unknown_not_zero(tmp_path: Path):
    with Ledger(tmp_path) as ledger:
        ledger.append(an_answer(usage=Usage()))
        assert ledger.attempts(request().key)[0].usage is None
        ledger.compact()
        assert ledger.query("SELECT input, output FROM calls").to_pylist() == [{"input": None, "output": None}]


@given(st.text(), st.text())
def test_any_text_survives_the_journals_line(text: str, error: str):
    attempt = answered(request(), "a" * 64, "b" * 64, Reply(text), 0.1)
    assert parse_line(attempt.line(), Path()) == attempt
    assert attempt.line().count(b"\n") == 1


def test_lone_surrogates_are_replaced_so_that_parquet_can_hold_the_text(tmp_path: Path):
    with Ledger(tmp_path) as ledger:
        ledger.append(an_answer("a \ud83d b \U0001f600"))
        assert ledger.attempts(request().key)[0].text == "a � b \U0001f600"
        ledger.compact()
        assert ledger.attempts(request().key)[0].text == "a � b \U0001f600"


def test_a_torn_last_line_is_skipped_and_all_others_are_read(tmp_path: Path):
    with Ledger(tmp_path) as ledger:
        ledger.append(an_answer("1", "first"))
        ledger.append(an_answer("2", "second"))
    journal = next(tmp_path.glob("journal-*.jsonl"))
    whole = journal.read_bytes()
    for cut in (1, 40, 150, len(whole) // 2 - 1):
        journal.write_bytes(whole[:-cut])
        with Ledger(tmp_path) as torn:
            assert [a.text for a in torn.attempts(request("first").key)] == ["1"]
            assert torn.attempts(request("second").key) == []
            assert [a.text for a in torn.scan()] == ["1"]


def test_a_line_torn_in_the_middle_of_a_file_costs_only_itself(tmp_path: Path):
    lines = [an_answer(str(n), f"question {n}").line() for n in range(3)]
    (tmp_path / "journal-1-1.jsonl").write_bytes(lines[0] + lines[1][:120] + lines[2] + lines[1][:50] + b"\n")
    (tmp_path / "journal-2-2.jsonl").write_bytes(lines[1])
    with Ledger(tmp_path) as ledger:
        for n in range(3):
            assert [a.text for a in ledger.attempts(request(f"question {n}").key)] == [str(n)]
        assert ledger.compact() == 3
        assert sorted(a.text for a in ledger.scan()) == ["0", "1", "2"]


def test_a_full_disk_is_a_sentence_and_the_next_record_begins_a_line_of_its_own(tmp_path: Path):
    code = """
import resource
ledger = Ledger(sys.argv[1])
ledger.append(an_answer("1", "first"))
size = ledger._journal.path.stat().st_size
sys.dont_write_bytecode = True  # the limit would cut compiled modules short
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    ledger.append(an_answer("2", "second"))
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ledger.append(an_answer("3", "third"))
"""
    said, _ = child(code, str(tmp_path)).communicate(timeout=60)
    lines = next(tmp_path.glob("journal-*")).read_text().splitlines()
    assert [json.loads(line)["text"] for line in (lines[0], lines[2])] == ["1", "3"]
    assert "cannot be written" in said
    assert "hint: make the path a writable folder with free space" in said
    with Ledger(tmp_path) as ledger:
        assert [[a.text for a in ledger.attempts(request(q).key)] for q in ("first", "second", "third")] == [
            ["1"],
            [],
            ["3"],
        ]


def test_a_full_disk_leaves_no_empty_file_neither_of_a_journal_nor_of_a_compaction(tmp_path: Path):
    with Ledger(tmp_path) as ledger:
        ledger.append(an_answer())
    before = sorted(path.name for path in tmp_path.glob("*[!k]"))
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.dont_write_bytecode = True
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
ledger = Ledger(sys.argv[1])
for act in (lambda: ledger.append(an_answer("2", "second")), ledger.close, ledger.compact):
    try:
        act()
    except StoreError as error:
        print(error.message)
"""
    said, _ = child(code, str(tmp_path)).communicate(timeout=60)
    assert "cannot be written" in said
    assert "cannot be compacted" in said
    assert sorted(path.name for path in tmp_path.glob("*[!k]")) == before


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with Ledger(tmp_path / "file" / "ledger") as ledger, pytest.raises(StoreError, match="cannot be written"):
        ledger.append(an_answer())


@pytest.mark.slow
def test_what_append_returned_for_survives_kill_9(tmp_path: Path):
    """A child tells each record after it was kept; whatever moment it is killed at, all it told of are there."""
    code = """
ledger = Ledger(sys.argv[1])
for n in range(100_000):
    ledger.append(an_answer(f"{n}" * 20, f"{sys.argv[2]} {n}"))
    os.write(1, f"{n}\\n".encode())
"""
    for turn in range(6):
        process = child(code, str(tmp_path), str(turn))
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 * turn)
        process.kill()
        told = process.stdout.read().split()
        process.wait()
        with Ledger(tmp_path) as ledger:
            found = {a.question for a in ledger.scan()}
            assert {request(f"{turn} {n}").question for n in told} <= found


@pytest.mark.slow
def test_several_processes_append_at_once_and_nothing_is_lost(tmp_path: Path):
    code = """
ledger = Ledger(sys.argv[1])
for n in range(500):
    ledger.append(an_answer(str(n), f"{sys.argv[2]} {n}"))
"""
    for process in [child(code, str(tmp_path), str(writer)) for writer in range(4)]:
        assert process.wait(timeout=120) == 0
    with Ledger(tmp_path) as ledger:
        assert len({a.key for a in ledger.scan()}) == 2_000
        assert len(list(tmp_path.glob("journal-*.jsonl"))) == 4
        assert ledger.compact() == 2_000
    assert sorted(p.suffix for p in tmp_path.glob("[cj]*")) == [".arrow", ".parquet"]


def test_compaction_keeps_every_attempt_and_leaves_a_living_writers_journal_alone(tmp_path: Path):
    with Ledger(tmp_path) as mine, Ledger(tmp_path) as theirs:
        theirs.append(an_answer("theirs", "theirs"))
        mine.append(an_answer("1"))
        mine.append(an_error())
        assert mine.compact() == 2
        mine.append(an_answer("2"))
        theirs.append(an_answer("more", "theirs"))
        assert [a.text for a in mine.attempts(request().key)] == ["2", "", "1"]
    with Ledger(tmp_path) as again:
        assert [a.text for a in again.attempts(request("theirs").key)] == ["more", "theirs"]
        assert again.compact() == 5  # the small Parquet file is merged with the two journals
        assert len(list(again.scan())) == 5
        assert again.compact() == 0


@pytest.mark.slow
def test_journals_that_come_and_go_while_another_process_compacts_are_all_kept(tmp_path: Path):
    code = """
for n in range(60):
    with Ledger(sys.argv[1]) as ledger:
        ledger.append(an_answer(str(n), f"{sys.argv[2]} {n}"))
"""
    writers = [child(code, str(tmp_path), str(writer)) for writer in range(3)]
    while any(process.poll() is None for process in writers):
        if tmp_path.is_dir():
            calls.compact(tmp_path)
    assert [process.wait() for process in writers] == [0, 0, 0]
    with Ledger(tmp_path) as ledger:
        found = [a.key for a in ledger.scan()]
    assert (len(found), len(set(found))) == (180, 180)


def test_tidying_compacts_only_what_has_grown(tmp_path: Path):
    with Ledger(tmp_path) as ledger:
        ledger.append(an_answer())
        assert ledger.tidy() == 0
        assert ledger.tidy(journal_bytes=100) == 1
        assert ledger.tidy(journals=0) == 0
        ledger.append(an_answer("4"))
        assert ledger.tidy(journals=0) == 2
        assert [a.text for a in ledger.attempts(request().key)] == ["4", "3"]


def test_a_reader_goes_on_when_another_process_compacts_under_it(tmp_path: Path):
    with Ledger(tmp_path) as writer:
        writer.append(an_answer("1"))
    with Ledger(tmp_path) as reader, Ledger(tmp_path) as other:
        assert reader.attempts_at(request().question)
        other.compact()
        assert [a.text for a in reader.attempts(request().key)] == ["1"]
    with Ledger(tmp_path) as reader:
        calls.compact(tmp_path)
        assert [a.text for a in reader.attempts_at(request().question)] == ["1"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["written", "renamed", "removing", "lines"])
def test_a_kill_inside_compaction_neither_loses_nor_doubles(tmp_path: Path, moment: str):
    """The child kills itself at a file-system step of compaction; the ledger holds the same 300 attempts throughout."""
    with Ledger(tmp_path) as ledger:
        for n in range(200):
            ledger.append(an_answer(str(n), f"question {n}"))
        ledger.compact()
        for n in range(200, 300):
            ledger.append(an_answer(str(n), f"question {n}"))
    code = """
moment = sys.argv[2]
def end(event, arguments):
    step = {"os.rename": "lines" if moment == "lines" else "written", "os.remove": "removing"}.get(event)
    if moment == "renamed" and event == "os.remove":
        step = "renamed"
    if step == moment:
        end.count = getattr(end, "count", 0) + 1
        if end.count == (2 if moment in ("removing", "lines") else 1):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(end)
Ledger(sys.argv[1]).compact()
print("survived")
"""
    process = child(code, str(tmp_path), moment)
    assert process.wait(timeout=60) == -signal.SIGKILL
    wanted = sorted(str(n) for n in range(300))
    for _ in range(2):
        with Ledger(tmp_path) as ledger:
            assert sorted(a.text for a in ledger.scan()) == wanted
            assert ledger.query("SELECT count(*) AS n, count(DISTINCT key) AS k FROM calls").to_pylist() == [
                {"n": 300, "k": 300}
            ]
            assert [a.text for a in ledger.attempts(request("question 250").key)] == ["250"]
            ledger.compact()
    assert sorted(p.suffix for p in tmp_path.glob("[cj]*")) == [".arrow", ".parquet"]


@pytest.mark.slow
def test_kill_9_at_any_moment_of_append_and_compaction_loses_and_doubles_nothing(tmp_path: Path):
    code = """
ledger = Ledger(sys.argv[1])
for n in range(100_000):
    ledger.append(an_answer(str(n), f"{sys.argv[2]} {n}"))
    os.write(1, f"{n}\\n".encode())
    if n % 40 == 39:
        ledger.compact()
"""
    told: set[str] = set()
    for turn in range(12):
        process = child(code, str(tmp_path), str(turn))
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.037 * turn)
        process.kill()
        told |= {request(f"{turn} {n}").question for n in process.stdout.read().split()}
        process.wait()
    with Ledger(tmp_path) as ledger:
        found = [a.question for a in ledger.scan()]
        assert told <= set(found)
        assert len(found) == len(set(found))
        ledger.compact()
        assert sorted(a.question for a in ledger.scan()) == sorted(found)


def test_the_ledger_answers_sql_before_and_after_compaction(tmp_path: Path):
    sql = "SELECT status, count(*) AS n, sum(cached) AS cached FROM calls GROUP BY status ORDER BY status"
    wanted = [{"status": "answer", "n": 2, "cached": 100}, {"status": "error", "n": 1, "cached": None}]
    with Ledger(tmp_path) as ledger:
        for attempt in (an_answer(), an_answer(question="other"), an_error()):
            ledger.append(attempt)
        assert ledger.query(sql).to_pylist() == wanted
        ledger.compact()
        assert ledger.query(sql).to_pylist() == wanted
        ledger.append(an_answer(question="third"))
        assert ledger.query("SELECT count(*) AS n FROM calls").to_pylist() == [{"n": 4}]
    file = next(tmp_path.glob("calls-*.parquet"))
    assert pq.read_schema(file).names == calls.calls_schema().names


def test_what_came_in_a_batch_is_told_from_what_was_asked_live_also_beside_files_from_before(tmp_path: Path):
    live, asked = an_answer("2"), request()
    line = answered(asked, asked.key, asked.question, Reply("3", "stop", "sim-1", USAGE), 0, batch="batch_1")
    with Ledger(tmp_path) as ledger:
        ledger.append(live)
        ledger.compact()
        compacted = next(tmp_path.glob("calls-*.parquet"))
        table = pq.read_table(compacted).drop_columns(["batch"])  # as it was written before there were batches
        pq.write_table(table, compacted)
        ledger.reload()
        ledger.append(line)
        assert ledger.attempts(asked.key) == [line, live]
        assert ledger.query("SELECT text, batch FROM calls ORDER BY ALL").to_pylist() == [
            {"text": "2", "batch": None},
            {"text": "3", "batch": "batch_1"},
        ]
        ledger.compact()
        assert ledger.attempts(asked.key) == [line, live]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW calls",
        "SELECT 1; SELECT 2",
        "COPY calls TO 'x.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_parquet('{other}')",
        "SET enable_external_access = true",
        "PRAGMA show_tables",
        "WITH x AS (COPY (SELECT 1) TO '{own}' (FORMAT csv, USE_TMP_FILE false)) FROM x",
        "FROM enable_logging(storage = 'file', storage_config = {{'path': '{other}'}})",
        "SELECT nothing FROM calls",
        "nonsense",
    ],
)
def test_sql_can_read_the_ledger_and_nothing_else(tmp_path: Path, sql: str):
    other = tmp_path / "other" / "secret.parquet"
    other.parent.mkdir()
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.append(an_answer())
        ledger.compact()
        own = next((tmp_path / "ledger").glob("calls-*.parquet"))
        before = own.read_bytes()
        own.with_name("x").write_text("")
        pq.write_table(ledger.query("SELECT * FROM calls"), other)
        with pytest.raises(QueryError):
            ledger.query(sql.format(other=other, own=own))
        assert own.read_bytes() == before


def test_a_damaged_parquet_file_is_a_sentence(tmp_path: Path):
    with Ledger(tmp_path) as ledger:
        ledger.append(an_answer())
        ledger.compact()
    file = next(tmp_path.glob("calls-*.parquet"))
    whole = pq.read_table(file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match="is damaged"):
        Ledger(tmp_path)
    for column in ("key", "question", "sampling", "input"):
        pq.write_table(whole.drop([column]), file)
        with pytest.raises(StoreError, match="is damaged: it lacks a column"):
            Ledger(tmp_path)


@pytest.mark.parametrize("sample", ["true", str(2**40)])
def test_a_record_that_cannot_be_kept_is_a_sentence_that_names_its_file(tmp_path: Path, sample: str):
    for _ in range(2):
        with Ledger(tmp_path) as ledger:
            ledger.append(an_answer())
    *_, last = sorted(tmp_path.glob("journal-*"))
    last.write_text(last.read_text().replace('"sample":0', f'"sample":{sample}'))
    before = last.read_bytes()
    with Ledger(tmp_path) as ledger, pytest.raises(StoreError, match=f"{last.name} is damaged"):
        ledger.compact()
    assert last.read_bytes() == before


def test_no_key_is_ever_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "plantedsecret-in-the-environment")
    planted = [
        "plantedsecret-in-the-environment",
        "sk-proj-abcDEF123456",
        "hf_abcdefghijklmnop",
        "Bearer abc.def.ghi",
        "hunter2secret",
    ]
    errors = [
        f"401 Incorrect API key provided: {planted[0]}",
        f'{{"error": "you sent {planted[1]}"}}',
        f"headers: {{'Authorization': '{planted[3]}', 'x': 1}}",
        f"token {planted[2]} expired",
        f"cannot reach https://me:{planted[4]}@host/v1",
        f'{{"api_key": "{planted[4]}"}}',
    ]
    with Ledger(tmp_path) as ledger:
        for error in errors:
            ledger.append(an_error(error))
        ledger.compact()
        for error in errors:
            ledger.append(an_error(error))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    told = " ".join(a.error for a in Ledger(tmp_path).scan())
    for secret in planted:
        assert secret.encode() not in kept
        assert secret not in told
    assert told.count("[hidden]") >= 2 * len(errors)
    assert redact("an ordinary sentence about keyboards and tokens: 12") == (
        "an ordinary sentence about keyboards and tokens: 12"
    )


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "compacted"), [(200_000, False), (50_000, True), pytest.param(1_000_000, True, marks=pytest.mark.long)]
)
def test_a_large_ledger_is_opened_quickly_and_held_in_little_memory(tmp_path: Path, count: int, compacted: bool):
    """Opening costs a small part of parsing the same journal; the index takes tens of bytes a record."""
    line = an_answer("x" * 400).line()
    start, end = line.index(b'"key":"') + 7, line.index(b'","question"')
    journal = tmp_path / "journal-1-1.jsonl"
    with journal.open("wb") as file:
        for n in range(count):
            file.write(line[:start] + sha256_of(n).encode() + line[end:])
    parsing = seconds(lambda: [parse_line(line, journal) for line in journal.open("rb")])
    if compacted:
        calls.compact(tmp_path)
    opening = min(seconds(lambda: Ledger(tmp_path)) for _ in range(3))
    print(f"{opening:.2f} s to open {count:,} records, {parsing:.2f} s to parse them")
    assert opening < parsing / 2
    ledger = Ledger(tmp_path)
    assert len(ledger) == count
    assert ledger.size_bytes < count * 20
    assert ledger.attempts(sha256_of(7))[0].text == "x" * 400


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def test_a_journal_is_flushed_in_groups_by_a_thread_and_at_the_end(tmp_path: Path):
    journal = Journal(tmp_path)
    assert [journal.append(b"0123456789\n") for _ in range(3)] == [0, 11, 22]
    assert journal.path is not None
    assert os.path.getsize(journal.path) == 33
    journal.close()
    journal.close()
    assert journal.append(b"new file\n") == 0
    journal.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_ledger_is_its_owners_alone(tmp_path: Path):
    directory = tmp_path / "team" / "ledger"
    with Ledger(directory) as ledger:
        ledger.append(an_error("x"))
        ledger.compact()
        ledger.append(an_error("y"))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    journals = list(directory.glob("*.jsonl"))
    assert journals
    assert {stat.S_IMODE(path.stat().st_mode) for path in journals} == {0o600}


def test_in_a_folder_that_others_may_enter_no_file_of_a_ledger_can_be_read_by_them(tmp_path: Path):
    (tmp_path / "ledger").mkdir(mode=0o755)
    directory, memory = tmp_path / "ledger", EndpointMemory(tmp_path / "ledger")
    memory.keep(request().target, "pace", {})
    with Ledger(directory) as ledger:
        ledger.append(an_answer())
        ledger.compact()
        ledger.append(an_answer(question="And now?"))
    EndpointMemory(directory / "new").keep(request().target, "pace", {})
    (directory / "worker").mkdir()
    EndpointMemory(directory / "worker").adopt(memory.text())
    assert (directory / "worker" / "endpoints.json").exists()
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert {".parquet", ".arrow", ".jsonl", ".json", ".lock"} == {path.suffix for path in files}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((directory / "new").stat().st_mode) == 0o700
