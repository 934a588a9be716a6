"""Importing the asking side is cheap."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_asking_side_imports_no_heavy_library_and_no_fake_provider():
    code = """
import sys
from sotopia_rl_data.asking import anthropic, dispatch, estimate, openai
from sotopia_rl_data.costs import prices
from sotopia_rl_data.ledger import ledger
heavy = {"openai", "anthropic", "aiohttp", "httpx2", "duckdb", "pyarrow", "polars", "pandas", "torch"}
heavy.add("sotopia_rl_data.fake_provider")
sys.exit(", ".join(sorted(heavy & set(sys.modules))))
"""
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr.strip() == ""
    )
