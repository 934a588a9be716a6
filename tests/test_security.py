"""The page on security names tests that exist."""

from __future__ import annotations

import re

from fixtures.places import ROOT


def test_every_promise_names_tests_that_exist():
    promises = (ROOT / "docs/security.md").read_text("utf-8").split("## What is promised")[1].split("## ")[0]
    rows = [row for row in promises.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 12
    for row in rows:
        files = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert files, row
        for file in files:
            assert "def test_" in (ROOT / file).read_text("utf-8"), file
