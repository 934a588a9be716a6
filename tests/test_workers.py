"""What `make test` promises: several workers, and those marked `alone` while nobody else is at work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_nobody_is_at_work_while_a_test_is_alone(tmp_path: Path):
    pytest.importorskip("xdist", reason="needs the test extra")
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    (tmp_path / "test_toys.py").write_text(TOYS.format(told=str(tmp_path / "told")))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    clean["PYTHONPATH"] = str(Path(__file__).parent)  # what conftest.py imports
    command = [sys.executable, "-m", "pytest", "-n", "3", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    spans = [(name, float(began), float(ended)) for name, began, ended in told]
    alone = [one for one in spans if one[0].startswith("test_alone")]
    assert (len(alone), len(spans)) == (4, 16)
    for one in alone:
        assert [other for other in spans if other != one and other[1] < one[2] and one[1] < other[2]] == []
    together = [one for one in spans if one not in alone]
    assert any(a[1] < b[2] and b[1] < a[2] for a in together for b in together if a != b)
