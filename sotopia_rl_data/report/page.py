"""The HTML: the template filled with styles, scripts and data, in one pass, so that no inserted text is taken for a
placeholder.

The data stands in a `<script type="application/json">`. Each `<`, `>` and `&` in it is written as a JSON escape, so
that no text can end the element or open another. The characters that change the direction of text are escaped too, so
that the source looks like what it is. The page may use only the styles and scripts whose SHA-256 its policy names.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from sotopia_rl_data.outputs import aside

SCRIPTS = ("tools.js", "data.js", "charts.js", "filters.js", "panels.js", "list.js", "dialogue.js", "main.js")
# Characters that are escaped: markup, what JavaScript takes for a line end, and what changes the direction of text.
_UNSAFE = re.compile("[<>&\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff]")


def page(data: Mapping[str, Any]) -> str:
    """The report's whole document."""
    return document(
        f"{data['title']} {data['version']}", data, styles=[asset("style.css")], scripts=map(asset, SCRIPTS)
    )


def document(title: str, data: Mapping[str, Any], *, styles: Iterable[str], scripts: Iterable[str]) -> str:
    """A self-contained page: it holds `data`, and its policy allows only `styles` and `scripts`, which are joined into
    one script with a scope of its own."""
    style = "\n".join(styles)
    script = "(() => {\n'use strict';\n" + "\n".join(scripts) + "\n})();"
    policy = (
        f"default-src 'none'; script-src '{_sha256(script)}'; style-src '{_sha256(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return Template(asset("page.html")).substitute(
        title=html.escape(title),
        policy=html.escape(policy, quote=True),
        style=style,
        script=script,
        data=embedded(data),
    )


def write_page(text: str, path: Path) -> int:
    """Write a document to `path`, whole or not at all; returns its size in bytes. Raises StoreError."""
    body = text.encode()
    with aside(path) as beside:
        return beside.write_bytes(body)


def embedded(value: Any) -> str:
    """The value as JSON that can stand anywhere in HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


@cache
def asset(name: str) -> str:
    """The text of a file in `assets/`."""
    return (files("sotopia_rl_data") / "report" / "assets" / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    """The hash of a script or style, as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
