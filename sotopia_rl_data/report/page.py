"""The HTML: the template filled with styles, scripts and data, in one pass, so that nothing filled in is read again.

The data stands in a `<script type="application/json">`: every `<`, `>` and `&` of it is written as a JSON escape, so no
text can end the element or open another, and so are the characters that change the direction of what follows them, so
that the source reads as it is. Styles and scripts are allowed by their SHA-256, and nothing else is.
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
# What HTML or a reader of the source could take for something else: markup, line ends of JavaScript, bidi controls.
_UNSAFE = re.compile("[<>&\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff]")


def page(data: Mapping[str, Any]) -> str:
    """The report's whole document."""
    return document(
        f"{data['title']} {data['version']}", data, styles=[asset("style.css")], scripts=map(asset, SCRIPTS)
    )


def document(title: str, data: Mapping[str, Any], *, styles: Iterable[str], scripts: Iterable[str]) -> str:
    """A page that is self-contained: `data` embedded, `scripts` as one in a scope of its own, nothing else allowed."""
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
    """JSON that is safe anywhere in HTML and means the same."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


@cache
def asset(name: str) -> str:
    """A file of `assets/`."""
    return (files("sotopia_rl_data") / "report" / "assets" / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    """As a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
