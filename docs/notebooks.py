"""Runs the notebooks of `examples/notebooks/` and keeps what they show: forges and the site show it as it was kept.

python docs/notebooks.py [NAME…]      needs the extra `dev`; runs offline, each in an empty folder and a fresh kernel
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
LONGEST_HTML = 10_000
_HIDDEN = re.compile(r"\x1b\[[0-9;]*m|[^\n]*\r")  # colours, and what a progress bar wrote over
_TIMEOUT_S = 600  # of a cell


def execute(path: Path, folder: Path) -> Any:
    """The notebook of `path` as it runs in `folder`, where the file `ran` then has each command with its exit code.

    Raises CellExecutionError.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    program = folder / "bin" / "sotopia-rl-data"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n{sys.executable} -m sotopia_rl_data "$@"\ncode=$?\necho "$code $*" >> {folder}/ran\nexit $code\n'
    )
    program.chmod(0o755)
    work = folder / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_BASE_URL"))}
    environment |= {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
    }
    notebook = nbformat.read(path, as_version=4)
    with chdir(work):
        try:
            NotebookClient(notebook, timeout=_TIMEOUT_S, kernel_name="python3").execute(cwd=str(work), env=environment)
        except CellExecutionError as error:  # often since a command failed before, which stops no cell
            outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
            error.add_note("".join(one.get("text", "") for one in outputs)[-3_000:])
            raise
    return notebook


def tidy(notebook: Any) -> Any:
    """The same with what belongs into a repository: streams as they read and without colours, pictures in 64 of
    them, no page inside a page, and nothing about when and where it ran."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata = {}
        outputs: list[Any] = []
        for output in cell.outputs:
            if output.get("name") == "stderr":  # what libraries warn of; commands tell all on one stream
                continue
            if output.output_type == "stream":
                output.text = _HIDDEN.sub("", output.text.replace("\r\n", "\n"))
                if outputs and outputs[-1].output_type == "stream":
                    outputs[-1].text += output.text
                    continue
            elif "data" in output:
                _tidy_data(output.data)
            outputs.append(output)
        for output in outputs:
            if "text" in output:
                output.text = output.text.strip("\n") + "\n"
        cell.outputs = outputs
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _tidy_data(data: dict[str, str]) -> None:
    if len(data.get("text/html", "")) > LONGEST_HTML:
        del data["text/html"]
        data["text/plain"] = "(The page stands here when the cell is run.)"
    if "image/png" in data:
        from PIL import Image

        small = io.BytesIO()
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        picture.quantize(64).save(small, "PNG", optimize=True)
        data["image/png"] = base64.b64encode(small.getvalue()).decode() + "\n"


def main(names: list[str]) -> None:
    """Run those that are named, or all, and write them."""
    import nbformat

    for path in NOTEBOOKS:
        if not names or path.name in names:
            with tempfile.TemporaryDirectory() as folder:
                notebook = tidy(execute(path, Path(folder)))
            nbformat.write(notebook, path)
            print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
