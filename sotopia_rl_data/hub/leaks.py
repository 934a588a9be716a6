"""What must not be published: keys, tokens and passwords by their shape, and paths of this machine.

Every text column of every row is searched, streamed and vectorised, and so is every other file of a release: of weights
the header, of pictures what stands beside the pixels. The shapes (`secrets.found`) are strict, because dialogues often
talk about keys and passwords; a secret without such a shape is not found. Secrets that characters keep from each other
are data, not leaks.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.errors import SecretsFound
from sotopia_rl_data.secret_values import looks_random
from sotopia_rl_data.secrets import SUSPICIOUS, env_secrets, found, spellings, without_urls
from sotopia_rl_data.tables import KEYS

if TYPE_CHECKING:
    import pyarrow as pa

    from sotopia_rl_data.store import Version

_NAMED = 5  # most leaks that the error lists
_KEPT = 1000
_PIECE = 4000  # characters of a long text that are searched at once
_LONGEST_HEADER = 100_000_000  # bytes; safetensors reads no longer one
_LONGEST_PACKED = 1 << 24  # bytes of a packed text in a picture
_PACKED = re.compile(rb"\0(?=[\x08\x18(8HXhx])")  # before what zlib packed
_PNG = b"\x89PNG\r\n\x1a\n"
_ROOTS = "home|Users|root|tmp|var|mnt|data|scratch|workspace|work|private|opt|srv|media|Volumes"
_PATH = re.compile(rf"(?<![\w:/.-])(?:file://)?(?:/(?:{_ROOTS})|~)(?:/[^\s\"'<>|,;:()]+)+|\b[A-Za-z]:\\[^\s\"'<>|]+")


@dataclass(frozen=True, slots=True)
class Leak:
    """Text that looks secret: `where` it is ("rewards/train, episode_id=e1 …, prompt[].content"), and its `shape`."""

    where: str
    shape: str


def check(leaks: list[Leak], ref: str, hint: str) -> None:
    """Raises SecretsFound, naming the rows, where there are any leaks. `hint` says what takes them out."""
    if not leaks:
        return
    named = "; ".join(f"{leak.where}: {leak.shape}" for leak in leaks[:_NAMED])
    more = f"; and {len(leaks) - _NAMED:,} more" if len(leaks) > _NAMED else ""
    secrets = "a secret" if len(leaks) == 1 else f"{len(leaks):,} secrets"
    raise SecretsFound(f"{ref} contains what looks like {secrets}: {named}{more}.", hint)


def in_version(version: Version, on_bytes: Callable[[int], None]) -> list[Leak]:
    """The leaks in the text columns of every config, at most 1,000. `on_bytes` is called with the size of each file."""
    import pyarrow.parquet as pq

    from sotopia_rl_data.store.parts import read_parquet

    leaks: list[Leak] = []
    for config, splits in version.manifest.configs.items():
        for name, split in splits.items():
            before = 0
            for file in split.files:
                schema = pq.read_schema(version.dir / file.path)
                described = schema.to_string(truncate_metadata=False, element_size_limit=_LONGEST_HEADER)
                leaks += in_text(described, f"{file.path}, metadata")
                for rows in read_parquet(version.dir / file.path):
                    leaks += in_rows(rows, f"{config}/{name}", KEYS[config], before)
                    before += rows.num_rows
                on_bytes(file.size)
                if len(leaks) >= _KEPT:
                    return leaks[:_KEPT]
    return leaks


def in_text(text: str, where: str) -> list[Leak]:
    """The leaks in a text outside the columns: the manifest, the card."""
    import pyarrow as pa

    if len(text) < 8 * _PIECE:
        shapes = _shapes_in(text)
    else:  # a tokenizer takes a tenth of the time where RE2 says which pieces are worth a closer look
        ends = [0, *(match.end() for match in re.finditer(rf'.{{{_PIECE}}}[^\s"]*', text, re.DOTALL)), len(text)]
        pieces = pa.table({"text": [text[start:end] for start, end in zip(ends, ends[2:], strict=False)]})
        shapes = [leak.shape for leak in in_rows(pieces, where, ())]
    return [Leak(where, shape) for shape in sorted(set(shapes))]


def in_file(source: Path | bytes, name: str) -> list[Leak]:
    """The leaks in a file of a release other than Parquet: in its text, or in the texts that a binary file has."""
    if name.endswith(".safetensors") and isinstance(source, Path):
        with source.open("rb") as file:
            return _in_bytes(file.read(min(int.from_bytes(file.read(8), "little"), _LONGEST_HEADER)), name)
    data = source if isinstance(source, bytes) else source.read_bytes()
    return _in_bytes(b"\0".join(_beside_pixels(data)) if data.startswith(_PNG) else data, name)


def _in_bytes(data: bytes, where: str) -> list[Leak]:
    """The leaks in bytes: in what is UTF-8 in them, and in what is UTF-16, of either order and wherever it begins."""
    leaked = in_text(data.decode("utf-8", "replace"), where)
    if b"\0" in data:
        narrow = re.sub(rb"(?<=[^\0]{2})\0", b"\n", data.replace(b"\xff\xfe", b"\0")).replace(b"\0", b"")
        leaked += in_text(narrow.decode("utf-8", "replace"), where)
    return list(dict.fromkeys(leaked))


def _beside_pixels(picture: bytes) -> Iterator[bytes]:
    """What a PNG holds beside its pixels: each other chunk, with the text that is packed in it, and what follows the
    last."""
    at = len(_PNG)
    while at < len(picture):
        size, name = int.from_bytes(picture[at : at + 4], "big"), picture[at + 4 : at + 8]
        chunk = picture[at + 8 : at + 8 + size]
        at += 12 + size
        if name != b"IDAT":
            yield chunk
        for packed in _PACKED.finditer(chunk) if name in (b"zTXt", b"iTXt", b"iCCP") else ():
            with suppress(zlib.error):  # chance bytes, which were searched as they are
                yield zlib.decompressobj().decompress(chunk[packed.end() :], _LONGEST_PACKED)
        if name == b"IEND":
            yield picture[at:]
            return


def without_paths(value: Any, *, urls: bool = True) -> Any:
    """`value` (as JSON holds it) with paths of this machine cut down to their last part, and without URLs unless they
    may stay (`urls`)."""
    if isinstance(value, str):
        text = _PATH.sub(lambda match: PurePath(match.group().replace("\\", "/")).name, value)
        return text if urls else without_urls(text)
    if isinstance(value, list):
        return [without_paths(item, urls=urls) for item in value]
    if isinstance(value, dict):
        return {key if urls else without_urls(key): without_paths(item, urls=urls) for key, item in value.items()}
    return value


def in_rows(rows: pa.Table, where: str, keys: Sequence[str], before: int = 0) -> Iterator[Leak]:
    """The leaks in a table whose rows have the identity `keys`, and of whose split `before` rows came earlier."""
    import pyarrow.compute as pc

    patterns = _patterns()
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        for path, texts, parents in _texts(column.combine_chunks(), name, ()):
            matches = [pc.match_substring_regex(texts, one) for one in patterns]
            for hit in pc.indices_nonzero(reduce(pc.or_, matches)).to_pylist():
                row = hit
                for parent in reversed(parents):
                    row = parent[row].as_py()
                names, shapes = (match[hit].as_py() for match in matches[: len(SUSPICIOUS)])
                for shape in _shapes_in(texts[hit].as_py(), names, shapes):
                    yield Leak(f"{where}, {_named(rows, row, keys, before)}, {path}", shape)


def _texts(
    array: pa.Array, path: str, parents: tuple[pa.Array, ...]
) -> Iterator[tuple[str, pa.Array, tuple[Any, ...]]]:
    """The string arrays in a column at any depth, each with the arrays that lead from its items back to the rows."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as pt

    from sotopia_rl_data.store.columns import is_list, is_text

    if pt.is_dictionary(array.type):
        yield from _texts(array.dictionary_decode(), path, parents)
    elif is_text(array.type):
        yield path, array.cast(pa.large_string()), parents  # views have no regular expressions
    elif is_list(array.type):
        yield from _texts(array.flatten(), f"{path}[]", (*parents, pc.list_parent_indices(array)))
    elif pt.is_struct(array.type):
        for i, field in enumerate(array.type):
            yield from _texts(array.field(i), f"{path}.{field.name}", parents)


def _named(rows: pa.Table, row: int, keys: Sequence[str], before: int) -> str:
    """A row by its identity, or by its number in the split (from 0)."""
    values = {key: rows.column(key)[row].as_py() for key in keys if key in rows.column_names}
    return " ".join(f"{key}={value}" for key, value in values.items() if value is not None) or f"row {before + row}"


def _patterns() -> list[str]:
    """What RE2 looks for in whole columns; `_shapes_in` then looks closer at the rows that match. Our own secrets
    have a pattern each: over three in one RE2 takes fifty times as long."""
    return [*SUSPICIOUS, *(pattern.pattern for _, pattern in _ours())]


def _ours() -> list[tuple[str, re.Pattern[str]]]:
    """The secrets of this environment by variable: in every spelling if they were drawn, else as they are, for words
    that are a password here may be said in any dialogue."""
    known = [(name, secret) for secret, name in env_secrets().items() if secret.isprintable()]
    return [(name, spellings(one) if looks_random(one) else re.compile(re.escape(one))) for name, one in known]


def _shapes_in(text: str, names: bool = True, shapes: bool = True) -> list[str]:
    """Each shape of a secret that `text` holds, once; `names` and `shapes` as `found` has them."""
    here = [f"the value of {name} in this environment" for name, secret in _ours() if secret.search(text)]
    return list(dict.fromkeys([*here, *(one.shape for one in found(text, names, shapes))]))
