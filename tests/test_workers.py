"""What `make test`, `make test-drawn` and `make test-all` promise: several workers, those marked `alone` while nobody
else is at work, a few of the long ones, which the commit decides, and that commands which are printed work.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.places import ROOT

TOYS = """
import time
import pytest

@pytest.fixture(autouse=True)
def _told(request):
    began = time.monotonic()
    yield
    with open({told!r}, "a") as file:
        file.write(f"{{request.node.name}} {{began}} {{time.monotonic()}}\\n")

@pytest.mark.parametrize("i", range(4))
@pytest.mark.alone
def test_alone(i):
    time.sleep(0.05)

@pytest.mark.parametrize("i", range(12))
def test_together(i):
    time.sleep(0.05)
"""

OFFERS = '''
import subprocess
import sys
import time
import click
import pytest
from sotopia_rl_data.cli import console, program

@program.cli.command("offer", hidden=True)
@click.argument("line")
def offer(line):
    console.next_commands(line)

def listed(monkeypatch, tmp_path, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(program.COMMANDS["Read data"], "offer", ("test_toys:offer", ""))
    with pytest.raises(SystemExit):
        program.main(["offer", line])

def test_offers_what_works(monkeypatch, tmp_path):
    listed(monkeypatch, tmp_path, "sotopia-rl-data list")

def test_offers_what_does_not_work(monkeypatch, tmp_path):
    listed(monkeypatch, tmp_path, "sotopia-rl-data show lab/none")

@program.cli.command("offer-and-wait", hidden=True)
def offer_and_wait():
    console.next_commands("sotopia-rl-data log lab/none")
    time.sleep(60)

WAITS = """
from sotopia_rl_data.cli import program
program.COMMANDS["Read data"]["offer-and-wait"] = ("test_toys:offer_and_wait", "")
program.main(["offer-and-wait"])
"""

def test_offers_what_does_not_work_in_a_process_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", WAITS], stderr=subprocess.PIPE, text=True) as process:
        assert [process.stderr.readline().strip() for _ in range(2)] == ["next:", "sotopia-rl-data log lab/none"]
        process.kill()

@pytest.mark.invented
def test_offers_what_is_invented(monkeypatch, tmp_path):
    listed(monkeypatch, tmp_path, "sotopia-rl-data stats lab/none")
'''


def run(folder: Path, *options: str) -> None:
    """Run the toys in a pytest of their own, below our conftest.py; they write what ran into `told`."""
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    (folder / "test_toys.py").write_text(TOYS.format(told=str(folder / "told")))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    clean["PYTHONPATH"] = str(Path(__file__).parent)  # what conftest.py imports
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_seed_draws_the_same_few_of_the_selected_tests_each_time_and_another_seed_others(tmp_path: Path):
    def drawn(name: str, *options: str) -> list[str]:
        (folder := tmp_path / name).mkdir()
        run(folder, "-m", "not alone", *options)
        return sorted(line.split()[0] for line in (folder / "told").read_text().splitlines())

    first = drawn("first", "-n", "2", "--draw", "3", "--seed", "3f0c2d1")
    assert len(set(first)) == 3
    assert all(name.startswith("test_together") for name in first)
    assert drawn("again", "--draw", "3", "--seed", "3f0c2d1") == first
    assert drawn("other", "--draw", "3", "--seed", "8e1b7aa") != first
    assert len(drawn("all", "--draw", "99", "--seed", "3f0c2d1")) == 12


@pytest.mark.slow
def test_nobody_is_at_work_while_a_test_is_alone(tmp_path: Path):
    pytest.importorskip("xdist", reason="needs the test extra: pip install -e '.[test]'")
    run(tmp_path, "-n", "3")
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    spans = [(name, float(began), float(ended)) for name, began, ended in told]
    alone = [one for one in spans if one[0].startswith("test_alone")]
    assert (len(alone), len(spans)) == (4, 16)
    for one in alone:
        assert [other for other in spans if other != one and other[1] < one[2] and one[1] < other[2]] == []
    together = [one for one in spans if one not in alone]
    assert any(a[1] < b[2] and b[1] < a[2] for a in together for b in together if a != b)


@pytest.mark.invented  # of the toys, whose own run hears them
@pytest.mark.slow
def test_a_command_that_is_printed_and_does_not_work_fails_the_test_that_saw_it(tmp_path: Path):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    alone\n    invented\n")
    (tmp_path / "test_toys.py").write_text(OFFERS)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    clean["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    for more, ends in (([], "4 passed"), (["--run-printed"], "4 passed, 2 errors")):
        done = subprocess.run([*command, *more], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1].startswith(ends), done.stdout
    assert "ERROR at teardown of test_offers_what_does_not_work" in done.stdout
    assert "show lab/none" in done.stdout
    assert "log lab/none" in done.stdout
    assert "{'run': 3}" in done.stdout
