"""What -o names: a file goes, whole or not at all, into a folder that is there; a folder is made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fixtures.opinions import rewarded, two_party

from sotopia_rl_data.cli import program
from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.outputs import aside, check_output
from sotopia_rl_data.store import Store

FILES = [
    ["query", "lab/toy", "SELECT 1 AS one", "-o", "OUT.csv"],
    ["query", "lab/toy", "SELECT 1 AS one", "-o", "OUT.parquet"],
    ["report", "lab/toy", "-o", "OUT.html"],
    ["curate", "lab/toy", "-o", "OUT.csv"],
    ["agreement", "lab/toy", "--resamples", "0", "--plot", "OUT.png"],
    ["compare", "lab/toy", "--agent", "all", "--resamples", "0", "--html", "OUT.html"],
    ["annotate", "template", "lab/toy", "--dimensions", "goal", "-o", "OUT.csv"],
    ["annotate", "export", "lab/toy", "--agent", "all", "-o", "OUT.csv"],
    ["annotate", "export", "lab/toy", "--agent", "all", "-o", "OUT.html"],
]
FOLDERS = [["card", "lab/toy", "-o", "OUT"], ["export", "lab/toy", "--to", "sotopia", "-o", "OUT"]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("outputs") / "store")
    rewarded(store, [two_party(i) for i in range(2)])
    return store


def run(store: Store, words: list[str], out: Path) -> int:
    with pytest.raises(SystemExit) as done:
        program.main([*(word.replace("OUT", str(out)) for word in words), "--store", str(store.root)])
    return int(done.value.code or 0)


@pytest.mark.invented  # a dataset whose episodes have other scores than its labels say
@pytest.mark.slow
@pytest.mark.parametrize("words", FILES, ids=" ".join)
def test_a_file_is_written_into_a_folder_that_is_there_and_makes_none(
    store: Store, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(store, words, tmp_path / "missing" / "made") == 1
    told = capsys.readouterr().err
    assert "cannot be written (No such file or directory)." in told
    assert "name a file in a folder that exists" in told
    assert list(tmp_path.iterdir()) == []
    assert run(store, words, tmp_path / "made") == 0
    (made,) = tmp_path.iterdir()
    assert (made.stem, made.stat().st_size > 0) == ("made", True)


@pytest.mark.slow
@pytest.mark.parametrize("words", FOLDERS, ids=" ".join)
def test_a_folder_that_is_written_is_made(store: Store, words: list[str], tmp_path: Path):
    assert run(store, words, tmp_path / "missing" / "made") == 0
    assert any((tmp_path / "missing" / "made").iterdir())


def half(path: Path, wrong: Exception) -> None:
    with aside(path) as beside:
        beside.write_text("half")
        raise wrong


def test_what_was_there_stays_where_writing_breaks_off(tmp_path: Path):
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(StoreError, match="No space left on device"):
        half(tmp_path / "a.txt", OSError(28, "full"))
    with pytest.raises(ValueError, match="broken"):
        half(tmp_path / "a.txt", ValueError("broken"))
    with pytest.raises(StoreError, match="Not a directory"):
        half(tmp_path / "a.txt" / "b.txt", ValueError("broken"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "before")]


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "null.csv").symlink_to(os.devnull)
    (tmp_path / "gone.csv").symlink_to("nowhere")
    for name in ("pipe.csv", "null.csv"):
        for refused in (check_output, lambda path: half(path, ValueError("begun"))):
            with pytest.raises(StoreError, match=rf"{name} cannot be written \(it is not a regular file\)\."):
                refused(tmp_path / name)
    check_output(tmp_path / "gone.csv")
    kinds = {path.name: (path.is_fifo(), path.is_symlink()) for path in tmp_path.iterdir()}
    assert kinds == {"pipe.csv": (True, False), "null.csv": (False, True), "gone.csv": (False, True)}
