"""A folder that runs as a Hugging Face Space: `app.py`, `requirements.txt`, the card, and this package beside them.

The package is copied, since a Space installs its requirements before it has its files, so that a wheel could not be
among them; and so a Space runs the very code that wrote it. The options are written into `app.py`; keys are secrets of
the Space, and never in the folder.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from string import Template

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hub import leaks
from sotopia_rl_data.refs import is_path
from sotopia_rl_data.secrets import redact

PACKAGE = Path(__file__).resolve().parents[1]
PORT = 7860  # where a Space listens
_OWN = ("app.py", "requirements.txt", "README.md", PACKAGE.name)  # what a Space has at its top


def write_space(folder: Path, options: Sequence[str]) -> list[Path]:
    """Write the Space, whole or not at all; `options` are those of `demo` that it runs with. Returns its files at the
    top. Files that the options name are copied beside `app.py`.

    Raises UsageError where the folder is not empty, or an option names a folder or a plug-in of this machine, or
    nothing at all, or contains a key or password; SecretsFound where a file that would be copied does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already.", "name a folder that is new or empty")
    copied: dict[str, Path] = {}
    kept = [_kept(word, copied) for word in options]
    secrets = [leak for name, path in copied.items() for leak in leaks.in_file(path, name)]
    leaks.check(secrets, "The Space", "take them out of the files, and give the Space its keys as secrets")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as work:
        beside = Path(work) / folder.name
        shutil.copytree(PACKAGE, beside / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        for name, path in copied.items():
            shutil.copyfile(path, beside / name)
        (beside / "app.py").write_text(_filled("app.py.template", options=json.dumps(kept), port=PORT), "utf-8")
        (beside / "requirements.txt").write_text("\n".join(_requirements(kept)) + "\n", "utf-8")
        gradio, python = importlib.metadata.version("gradio"), f"{sys.version_info[0]}.{sys.version_info[1]}"
        card = _filled("space.md.template", gradio=gradio, python=python)
        (beside / "README.md").write_text(card, "utf-8")
        beside.replace(folder)  # an empty folder gives way
    return sorted(path for path in folder.iterdir())


def _kept(word: str, copied: dict[str, Path]) -> str:
    """A word of the command as the Space can read it."""
    option, equals, value = _parts(word)
    if (shown := redact(word, loosely=False)) != word:
        raise UsageError(
            f"{shown} contains a key or password, which everybody could read in the Space.",
            "leave it out, and give the Space its keys as secrets",
        )
    if Path(value).is_file() and value:
        name = Path(value).name
        if name in _OWN or copied.get(name, Path(value)) != Path(value):
            raise UsageError(f"The Space already has a file called {name}.", f"give {value} another name")
        copied[name] = Path(value)
        return f"{option}{equals}{name}"
    for part in re.split(r"[:+#]", value):
        if part and Path(part).exists():
            raise UsageError(
                f"A Space cannot read {part}, which is on this machine.",
                "push a model to the Hub and name its id; copy other files into the Space by hand",
            )
        if is_path(part) and not part.startswith("//"):
            raise UsageError(f"There is no {part}.", "check the path, or name an id on the Hub")
    return word


def _parts(word: str) -> tuple[str, str, str]:
    """A word of the command as option, "=" and value."""
    return word.partition("=") if word.startswith("--") else ("", "", word)


def _filled(name: str, **values: object) -> str:
    """A template of `assets/` with these values."""
    text = (PACKAGE / "demo" / "assets" / name).read_text("utf-8")
    return Template(text).substitute({key: str(value) for key, value in values.items()})


def _requirements(options: Sequence[str]) -> list[str]:
    """What the package needs with the extra of the demo; with that for training where a model is loaded there."""
    parts = map(_parts, options)
    is_local = any(option == "--reward-model" or value.startswith("transformers:") for option, _, value in parts)
    extras = ("demo", "train") if is_local else ("demo",)
    declared = PACKAGE.parent / "pyproject.toml"
    if declared.is_file():
        project = tomllib.loads(declared.read_text("utf-8"))["project"]
        listed = [
            *project["dependencies"],
            *(one for extra in extras for one in project["optional-dependencies"][extra]),
        ]
        return list(dict.fromkeys(listed))
    found = []
    for one in importlib.metadata.requires("sotopia-rl-data") or []:
        requirement, _, marker = one.partition(";")
        named = re.search(r"extra == ['\"](\w+)['\"]", marker)
        if named is None or named[1] in extras:
            found.append(requirement.strip())
    return list(dict.fromkeys(found))
