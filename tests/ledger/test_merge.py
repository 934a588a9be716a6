"""`ledger merge`: the calls of several ledgers in one, each once, however often they are merged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.attempts import an_answer, an_error
from fixtures.places import ROOT

from sotopia_rl_data.errors import StoreError, UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.ledger.ledger import Attempt, Ledger
from sotopia_rl_data.ledger.merge import Merged, merge


def put(directory: Path, *attempts: Attempt) -> Path:
    with Ledger(directory) as ledger:
        for attempt in attempts:
            ledger.append(attempt)
    return directory


def kept(directory: Path) -> list[Attempt]:
    with Ledger(directory) as ledger:
        return sorted(ledger.scan(), key=lambda attempt: attempt.time)


def test_all_calls_are_in_the_ledger_once_however_often_they_are_merged(tmp_path: Path):
    first, second, third = an_answer(question="one"), an_error(question="one"), an_answer(question="two")
    a, b, whole = put(tmp_path / "a", first, second), put(tmp_path / "b", third), tmp_path / "whole"
    with Ledger(b) as ledger:
        ledger.compact()
    assert merge(whole, [a, b]) == Merged(read=3, added=3, asked_twice=0, unfinished=())
    assert merge(whole, [b, a]) == Merged(read=3, added=0, asked_twice=0, unfinished=())
    assert kept(whole) == sorted([first, second, third], key=lambda attempt: attempt.time)


@pytest.mark.parametrize(("column", "value"), [("sampling", None), ("sampling", "[]"), ("key", None), ("text", None)])
def test_a_compacted_call_without_what_every_call_has_is_a_sentence_with_its_file(tmp_path: Path, column, value):
    whole, a = tmp_path / "whole", put(tmp_path / "a", an_answer())
    with Ledger(a) as ledger:
        ledger.compact()
    (file,) = a.glob("calls-*.parquet")
    table = pq.read_table(file)
    spoilt = table.set_column(table.schema.get_field_index(column), column, pa.array([value], pa.string()))
    pq.write_table(spoilt.replace_schema_metadata(table.schema.metadata), file)
    with pytest.raises(StoreError, match=f"{file.name} is damaged"):
        merge(whole, [a])


def test_what_was_asked_in_two_ledgers_is_counted_and_what_one_ledger_asked_again_is_not(tmp_path: Path):
    a = put(tmp_path / "a", an_answer("I would rather not."), an_answer("2"), an_answer(question="other"))
    b = put(tmp_path / "b", an_answer("3"), an_error(question="other"))
    assert merge(tmp_path / "whole", [a, b]) == Merged(read=5, added=5, asked_twice=1, unfinished=())
    assert merge(tmp_path / "whole", [a, b]) == Merged(read=5, added=0, asked_twice=1, unfinished=())


def test_a_folder_that_is_not_a_ledger_is_refused_before_anything_is_written(tmp_path: Path):
    a, whole = put(tmp_path / "a", an_answer()), tmp_path / "whole"
    put(tmp_path / "store" / ".ledger", an_answer())
    for wrong, hint in ((tmp_path / "none", "got as --ledger"), (tmp_path / "store", str(tmp_path / "store/.ledger"))):
        with pytest.raises(UsageError, match="There is no ledger") as told:
            merge(whole, [a, wrong])
        assert hint in told.value.hint
    assert not whole.exists()
    with pytest.raises(UsageError, match="s3://lab/answers is a ledger in a bucket, which needs no merging"):
        merge(whole, [a, Path("s3://lab/answers")])
    assert not whole.exists()
    with pytest.raises(UsageError, match="the others are merged into"):
        merge(a, [a])


def test_a_ledger_that_a_run_is_writing_is_named(tmp_path: Path):
    with Ledger(tmp_path / "a") as writing:
        writing.append(an_answer())
        assert merge(tmp_path / "whole", [tmp_path / "a"]).unfinished == (str(tmp_path / "a"),)
    assert merge(tmp_path / "whole", [tmp_path / "a"]).unfinished == ()


def test_a_ledger_whose_run_ends_while_the_next_one_is_read_is_named(tmp_path: Path):
    a, b = put(tmp_path / "a", an_answer()), put(tmp_path / "b", an_answer(question="other"))

    class Sources(list[Path]):
        """The first one's run asks once more and ends when both are read."""

        def __iter__(self) -> Iterator[Path]:
            yield from super().__iter__()
            if (tmp_path / "whole").exists():
                writing.append(an_answer(question="late"))
                writing.close()

    with Ledger(a) as writing:
        writing.append(an_answer(question="second"))
        assert merge(tmp_path / "whole", Sources([a, b])) == Merged(3, 3, 0, unfinished=(str(a),))
    assert merge(tmp_path / "whole", [a, b]) == Merged(4, 1, 0, unfinished=())


def test_one_merge_at_a_time(tmp_path: Path):
    a = put(tmp_path / "a", an_answer())
    merge(tmp_path / "whole", [a])
    with Ledger(tmp_path / "whole") as other:
        assert other.claims.take(sha256_of("merge"))
        with pytest.raises(UsageError, match="Another process is merging"):
            merge(tmp_path / "whole", [a])
    assert merge(tmp_path / "whole", [a]).added == 0


@pytest.mark.slow
def test_a_merge_that_was_killed_goes_on(tmp_path: Path):
    many = [an_answer(question=f"question {number}") for number in range(3_000)]
    a, whole = put(tmp_path / "a", *many), tmp_path / "whole"
    script = "import sys; from pathlib import Path; from sotopia_rl_data.ledger.merge import merge; "
    script += "merge(Path(sys.argv[1]), [Path(sys.argv[2])])"
    process = subprocess.Popen([sys.executable, "-c", script, str(whole), str(a)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in whole.glob("journal-*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(kept(whole))
    assert done > 0
    assert merge(whole, [a]) == Merged(read=3_000, added=3_000 - done, asked_twice=0, unfinished=())
    assert kept(whole) == kept(a)
