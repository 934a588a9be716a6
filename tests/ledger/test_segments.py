"""A ledger in a bucket: what one machine has asked, the others find; what a lost machine loses is counted."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.attempts import an_answer
from fixtures.s3 import S3Server, address, s3_server  # noqa: F401
from fixtures.stores import python

from sotopia_rl_data.errors import StoreError, UsageError
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.segments import SEND_LINES, Segments, local_folder
from sotopia_rl_data.store.bucket import Bucket

pytestmark = pytest.mark.slow

# A machine that gets 300 answers a second, and says how many it has.
_ASK = """
import sys, time
from fixtures.attempts import an_answer
from sotopia_rl_data.ledger.ledger import Ledger

with Ledger(sys.argv[1]) as ledger:
    for i in range(100_000):
        ledger.append(an_answer(question=f"{sys.argv[2]} {i}"))
        print(i + 1, flush=True)
        time.sleep(1 / 300)
"""


@contextmanager
def another_machine(tmp_path: Path, name: str = "two") -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOTOPIA_RL_DATA_SPOOL", str(tmp_path / name))
        yield


def questions(address: str) -> list[str]:  # noqa: F811
    """What the ledger has answers to, as often as it has them."""
    with Ledger(address) as ledger:
        return sorted(attempt.question for attempt in ledger.scan())


def in_bucket(address: str) -> int:  # noqa: F811
    """How many answers are in the bucket."""
    bucket = Bucket(address)
    return sum(bucket.read(one.key)[0].count(b"\n") for one in bucket.list("segments"))


def until(so: Callable[[], bool], seconds: float = 60) -> float:
    began = time.monotonic()
    while not so():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


def test_what_one_machine_has_asked_the_others_find_once(address: str, tmp_path: Path) -> None:  # noqa: F811
    one, two = an_answer(question="one"), an_answer(question="two")
    with Ledger(address) as ledger:
        ledger.append(one)
    with another_machine(tmp_path):
        with Ledger(address) as ledger:
            assert ledger.attempts(one.key) == [one]
            ledger.append(two)
            ledger.flush()
            assert ledger.compact() == 2
        assert questions(address) == sorted([one.question, two.question])
    for _ in range(2):
        assert questions(address) == sorted([one.question, two.question])


def test_answers_are_in_the_bucket_in_seconds_or_after_a_thousand(address: str) -> None:  # noqa: F811
    with Ledger(address) as ledger:
        ledger.append(an_answer(question="first"))
        assert until(lambda: in_bucket(address) == 1) < 30  # 5 s, and what a busy machine adds
        for i in range(3 * SEND_LINES):
            ledger.append(an_answer(question=f"{i}"))
        until(lambda: in_bucket(address) >= 2 * SEND_LINES)
    assert in_bucket(address) == 3 * SEND_LINES + 1
    bucket = Bucket(address)
    assert max(bucket.read(one.key)[0].count(b"\n") for one in bucket.list("segments")) <= SEND_LINES


def test_a_killed_process_loses_nothing_and_a_lost_machine_the_last_seconds(address: str, tmp_path: Path) -> None:  # noqa: F811
    machine = python(_ASK, address, "a")
    assert machine.stdout is not None
    while (asked := int(machine.stdout.readline())) < 600 or not in_bucket(address):
        pass
    os.kill(machine.pid, signal.SIGKILL)
    asked = int(machine.communicate()[0].split()[-1])
    reached = in_bucket(address)
    assert reached > 0  # the first seconds' are there, and what is lost if the disk is lost is the rest
    with another_machine(tmp_path):
        assert len(questions(address)) == reached
    with Ledger(address) as ledger:  # the same machine goes on
        assert len(list(ledger.scan())) >= asked
        ledger.flush()
    with another_machine(tmp_path):
        found = questions(address)
    assert len(found) == len(set(found)) == in_bucket(address) >= asked


def test_while_the_bucket_is_away_answers_wait_on_the_disk(address: str, s3_server: S3Server, tmp_path: Path) -> None:  # noqa: F811
    with Ledger(address) as ledger:
        ledger.append(an_answer(question="before"))
        ledger.flush()
    bucket_away = pytest.raises(StoreError, match=r"answers HTTP status 503|answers SlowDown|cannot be reached")
    with Ledger(address) as ledger:
        with s3_server.away():
            ledger.append(an_answer(question="meanwhile"))
            with bucket_away:
                ledger.flush()
            with pytest.raises(StoreError):
                ledger.compact()
        assert in_bucket(address) == 1
    assert in_bucket(address) == 2
    with s3_server.away(), pytest.raises(StoreError, match="toys"):
        Ledger(address)


def test_what_waits_is_bounded_and_kept(address: str, s3_server: S3Server) -> None:  # noqa: F811
    folder = local_folder(address)
    with Ledger(folder) as ledger:
        segments = Segments(folder, Bucket(address), "machine", most_waiting=100)
        with s3_server.away():
            ledger.append(an_answer())
            segments.appended()
            segments.close()
            with pytest.raises(StoreError, match=r"waits in .* More than 0 MiB wait already"):
                segments.check()
    assert in_bucket(address) == 1


def test_a_bucket_that_may_only_be_read_is_told_before_anything_is_asked(address: str, s3_server: S3Server) -> None:  # noqa: F811
    with Ledger(address) as ledger, s3_server.away("read-only"), pytest.raises(StoreError, match="AccessDenied"):
        ledger.check()
    with Ledger(address) as ledger:
        ledger.check()
        with s3_server.away("read-only"):
            ledger.append(an_answer())
            with pytest.raises(StoreError, match=r"AccessDenied\)\. What was answered waits in /"):
                ledger.flush()
    assert in_bucket(address) == 1


def test_a_folder_from_others_sends_nothing_to_its_bucket(address: str, tmp_path: Path) -> None:  # noqa: F811
    with Ledger(address) as ledger:
        shutil.copytree(ledger.directory, tmp_path / "from others")
    with Ledger(tmp_path / "from others") as ledger:
        ledger.append(an_answer())
        ledger.flush()
    assert in_bucket(address) == 0


@pytest.mark.parametrize("said", [b"{", b"[1]", b"{}", b'{"address": 1, "machine": "m"}'])
def test_a_folder_that_does_not_name_its_bucket_is_refused(said: bytes, tmp_path: Path) -> None:
    (tmp_path / ".bucket").mkdir()
    (tmp_path / ".bucket" / "bucket.json").write_bytes(said)
    with pytest.raises(StoreError, match="does not name the bucket"):
        Ledger(tmp_path)


def test_an_address_without_a_bucket_is_not_a_folder_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    for place in ("s3://", Path("s3://")):  # which is `s3:`
        with pytest.raises(UsageError, match="What follows s3:// is not the name of a bucket"):
            Ledger(place)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_answers_on_their_way_that_depends_on_where_one_is_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOTOPIA_RL_DATA_SPOOL", "spool")
    with pytest.raises(StoreError, match="has no absolute path"):
        local_folder("s3://toys/ledger")


def test_a_kill_between_sending_and_noting_it_doubles_nothing(address: str, tmp_path: Path) -> None:  # noqa: F811
    with Ledger(address) as ledger:
        for i in range(3):
            ledger.append(an_answer(question=f"{i}"))
        ledger.flush()
        shutil.copy(ledger.directory / ".bucket" / "state.json", tmp_path)
        ledger.append(an_answer(question="3"))
        ledger.flush()
        with another_machine(tmp_path):
            assert len(questions(address)) == 4
        shutil.copy(tmp_path / "state.json", ledger.directory / ".bucket")  # as it was before the second segment
        ledger.append(an_answer(question="4"))
        ledger.flush()
    with another_machine(tmp_path):
        assert len(questions(address)) == len(set(questions(address))) == 5
