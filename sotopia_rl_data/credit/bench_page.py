"""The bench as one self-contained page: accuracy, its cost, sizes, errors by place, length and wording, the checklist.

The machinery (policy, embedding, elements that cannot be escaped) is the report's, `report/page.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sotopia_rl_data.credit.bench import Bench
from sotopia_rl_data.credit.checklist import Point
from sotopia_rl_data.report.page import asset, document, write_page

_SCRIPTS = ("tools.js", "charts.js", "bench.js")


def write_bench(bench: Bench, points: Sequence[Point], path: Path) -> int:
    """Write the page to `path`, whole or not at all; returns its size in bytes. Raises StoreError."""
    data: dict[str, Any] = bench.as_dict() | {"checklist": [tuple(point) for point in points]}
    styles = [asset("style.css"), asset("comparison.css")]
    return write_page(document(f"Credit: {bench.games}", data, styles=styles, scripts=map(asset, _SCRIPTS)), path)
