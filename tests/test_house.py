"""The code as a whole: what keeps it easy to carry on, counted by `benchmarks/house.py`."""

from __future__ import annotations

import re
import sys

import pytest
from fixtures.places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from house import Figures, circles, measure

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures() -> Figures:
    return measure(ROOT)


def test_no_files_import_each_other_in_a_circle(figures: Figures):
    assert figures.circles == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]  # it would be seen


def test_no_function_has_more_than_eight_parameters(figures: Figures):
    assert figures.wide == []


def test_no_file_is_longer_than_600_lines(figures: Figures):
    assert max(figures.lines) <= 600


def test_a_class_name_stands_for_one_class(figures: Figures):
    assert figures.shared == {}


def test_the_tests_lie_as_the_rooms_do_and_no_test_file_imports_another():
    """`hostile` goes through all rooms."""
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")} - {ROOT / "tests", ROOT / "tests/hostile"}
    assert len(folders) > 20
    for folder in folders:
        assert (ROOT / "sotopia_rl_data" / folder.relative_to(ROOT / "tests")).is_dir(), folder
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r"^ *(from|import) ([\w.]+\.)?test_", text, re.MULTILINE), path
