"""The notebooks run as they are written; what they show is kept, small and without a trace of where they ran."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures.places import ROOT

sys.path.insert(0, str(ROOT / "docs"))
from notebooks import NOTEBOOKS, execute

# not those of what a reward model chose, whose last digits differ from one machine to another
_DIGEST = re.compile(r"(\S*(?<!best4)@v\d+\.\d+\.\d+)  ([0-9a-f]{12})")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text("utf-8"))["cells"])


def texts(cells: list[Any]) -> str:
    """All that the cells show as words."""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "\n".join("".join(one.get("text") or one.get("data", {}).get("text/plain", "")) for one in outputs)


@each
def test_a_notebook_opens_anywhere_and_shows_what_each_of_its_cells_made(path: Path):
    notebook = json.loads(path.read_text("utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert "%pip install" in "".join(code[0]["source"])
    assert max(len(cell["source"]) for cell in notebook["cells"]) <= 20
    assert not re.search(r"(/tmp|/home|/root|/Users|site-packages|127\.0\.0\.1)\b", path.read_text("utf-8"))
    assert "Error" not in texts(code)
    assert path.read_text("utf-8").count('"image/png"') >= 2
    assert path.stat().st_size < 250_000


@each
def test_links_of_a_notebook_lead_to_files(path: Path):
    words = "\n".join("".join(cell["source"]) for cell in read(path) if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#:\s]+)\)", words)
    assert len(links) >= 3
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.long
@pytest.mark.train
@each
def test_a_notebook_runs_and_makes_the_datasets_that_it_shows(path: Path, tmp_path: Path):
    pytest.importorskip("nbclient", reason="needs the extra dev: pip install -e '.[dev]'")
    pytest.importorskip("ipykernel", reason="needs the extra dev: pip install -e '.[dev]'")
    pytest.importorskip("trl", reason="needs the train extra")
    cells = execute(path, tmp_path).cells
    ran = (tmp_path / "ran").read_text().splitlines()
    assert len(ran) == sum(
        "".join(cell["source"]).count("!sotopia-rl-data") for cell in cells if cell["cell_type"] == "code"
    )
    assert [line for line in ran if line.split()[0] not in ("0", "3")] == []
    kept = read(path)
    assert [[one["output_type"] for one in cell.get("outputs", ())][-1:] for cell in cells] == [
        [one["output_type"] for one in cell.get("outputs", ())][-1:] for cell in kept
    ]
    assert _DIGEST.findall(texts(cells)) == _DIGEST.findall(texts(kept))
