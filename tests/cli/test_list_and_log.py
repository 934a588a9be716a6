"""`list` and `log`: every version is told of, the damaged ones by what is wrong with them, and many take seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.stores import commit, toy

from sotopia_rl_data.cli import program
from sotopia_rl_data.store import Store

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the store in this process: stdout and stderr. Its exit code must be 0."""

    def call(*command: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            program.main([*command, "--store", str(tmp_path)])
        assert ended.value.code == 0
        out, err = capsys.readouterr()
        return out, err

    return call


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """org/toy in two versions, whose latest is damaged, org/gone, whose only one is, and org/well."""
    store = Store(tmp_path)
    for name, ids in (("org/toy", (0,)), ("org/toy", (1,)), ("org/gone", (0,)), ("org/well", (0,))):
        commit(store, toy(*ids), name)
    for name, version in (("org/toy", "v1.1.0"), ("org/gone", "v1.0.0")):
        path = tmp_path / name / version / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"created": 12345}))
    return store


def test_a_dataset_is_called_as_it_lies_in_the_store_and_the_next_command_finds_it(tmp_path: Path, run: Run) -> None:
    commit(Store(tmp_path / "store"), toy(0), "bare")  # the folder above is taken for the store
    out, err = run("list")
    assert "store/bare" in out
    assert f"show store/bare --store {tmp_path}" in err
    assert "bare@v1.0.0" in run("show", "store/bare")[0]


def test_list_names_a_damaged_version_and_hides_no_other(store: Store, run: Run) -> None:
    out, err = run("list")
    rows = {line.split()[0]: line.split()[1:3] for line in out.splitlines()[1:] if line.strip()}
    assert rows == {"org/gone": ["–", "1"], "org/toy": ["v1.0.0", "2"], "org/well": ["v1.0.0", "1"]}
    assert err.count("error: ") == 2
    assert "org/toy@v1.1.0: The manifest" in err
    assert "is damaged (Expected `str`, got `int` - at `$.created`)" in err
    listed = {one["name"]: one for one in json.loads(run("list", "--json")[0])}
    assert [(name, one["version"], one["versions"]) for name, one in sorted(listed.items())] == [
        ("org/gone", None, []),
        ("org/toy", "v1.0.0", ["v1.0.0"]),
        ("org/well", "v1.0.0", ["v1.0.0"]),
    ]
    assert list(listed["org/toy"]["damaged"]) == ["v1.1.0"]


def test_log_names_a_damaged_latest_version_and_lists_the_others(store: Store, run: Run) -> None:
    out, err = run("log", "org/toy")
    assert [line.split()[0] for line in out.splitlines()[1:] if line.strip()] == ["v1.0.0"]
    assert "error: org/toy@v1.1.0: The manifest" in err


@pytest.mark.slow
@pytest.mark.alone
def test_log_of_5000_versions_takes_seconds(tmp_path: Path, run: Run) -> None:
    first = commit(Store(tmp_path), toy(0)).version
    text = (first.dir / "manifest.json").read_text()
    for minor in range(1, 5000):
        folder = first.dir.with_name(f"v1.{minor}.0")
        folder.mkdir()
        (folder / "manifest.json").write_text(text.replace('"v1.0.0"', f'"v1.{minor}.0"'))
    began = time.process_time()
    out, _ = run("log", "org/toy")
    assert time.process_time() - began < 20  # 3 s on a quiet machine; 400 s where the folder is read for each version
    assert (out.count("\nv1."), out.splitlines()[1].split()[0]) == (5000, "v1.4999.0")
