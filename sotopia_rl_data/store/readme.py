"""A version's README.md: the parts that the tool writes, merged with the parts that people write.

The tool owns the front matter's MACHINE_KEYS (which Parquet file belongs to which config: without them `load_dataset`
finds nothing) and one marked block. It writes them again for every version. License, tags, every other key and all
prose outside the block belong to people and are kept. `cards/` makes a Card with everything worth reading; the store's
own card (`plain`) has a few facts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data import yaml_nodes
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.schema import Manifest, Split
from sotopia_rl_data.store.disk import replace_file

if TYPE_CHECKING:
    import pyarrow as pa

    from sotopia_rl_data.store.versions import Version

BEGIN, END = "<!-- sotopia-rl-data:begin -->", "<!-- sotopia-rl-data:end -->"
FILE_NAME, CROISSANT, ASSETS = "README.md", "croissant.json", "assets"
MACHINE_KEYS = ("configs", "size_categories", "dataset_info")
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n?", re.DOTALL)
_MOST = 25_000  # values of the front matter, which several steps of a command read
_BLOCK = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
_PICTURE = re.compile(rf"\]\(({ASSETS}/[A-Za-z0-9][A-Za-z0-9_-]{{0,99}}\.png)\)")
_DTYPES = {"double": "float64", "float": "float32"}  # as `datasets` calls them
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)


@dataclass(frozen=True, slots=True)
class Card:
    """The content of a README, of a dataset or a model.

    `machine` (of a dataset: values of MACHINE_KEYS) and `block` (Markdown) are the tool's. A README without text by
    people begins with `front` and `prose`; the line BLOCK_HERE in `prose` is where the block goes. `pictures` are files
    that the block shows, by path (assets/…). `croissant` (of a dataset) is the version as JSON-LD, without what the
    front matter says of it.
    """

    machine: Mapping[str, Any]
    block: str
    front: Mapping[str, Any] = field(default_factory=dict)
    prose: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    croissant: Mapping[str, Any] = field(default_factory=dict)


BLOCK_HERE = f"{BEGIN}{END}"


def render(manifest: Manifest, previous: str | None = None) -> str:
    """The store's README.md for `manifest`; it keeps what people wrote in `previous`, the README of the last
    version."""
    return merge(plain(manifest), previous)


def plain(manifest: Manifest) -> Card:
    """The store's own card: what makes the version loadable, and how many rows it has."""
    return Card(machine(manifest.configs), _facts(manifest), prose=f"# {manifest.name}\n\n{BLOCK_HERE}")


def machine(
    configs: Mapping[str, Mapping[str, Split]], dataset_info: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The front matter's MACHINE_KEYS; with `dataset_info` (see the function below) where it is given."""
    rows = sum(split.rows for splits in configs.values() for split in splits.values())
    size = next((name for limit, name in _SIZES if rows < limit), "n>1B")
    values: dict[str, Any] = {"configs": data_files(configs), "size_categories": [size]}
    if dataset_info:
        values["dataset_info"] = list(dataset_info)
    return values


def merge(card: Card, previous: str | None = None) -> str:
    """The text of README.md: `card`, with what people wrote in `previous`."""
    import yaml

    front, body = split_front(previous or "")
    people = {key: value for key, value in front.items() if key not in {*MACHINE_KEYS, *card.machine}}
    if not people.keys() & card.front.keys():
        people = {**card.front, **people}
    if _untouched(body):
        body = card.prose
    block = f"{BEGIN}\n{card.block.strip()}\n{END}"
    body = _BLOCK.sub(lambda _: block, body, count=1) if _BLOCK.search(body) else f"{body.strip()}\n\n{block}"
    text = yaml.safe_dump({**people, **card.machine}, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n\n{body.strip()}\n"


def read(directory: Path) -> str:
    """The README of a version's directory; "" where it has none. Raises InputError where it is too large for one."""
    from sotopia_rl_data.store.fields import MOST_BYTES

    path = directory / FILE_NAME
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise InputError(
            f"The card {path} has more than {MOST_BYTES:,} bytes.", "put what is long into a file beside it"
        )
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def write(directory: Path, text: str, card: Card) -> None:
    """Write README.md, which is `text`, and the card's files beside it into a directory; older files are replaced."""
    for path, data in files(card, text).items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(directory / path, data)
    replace_file(directory / FILE_NAME, text.encode())


def files(card: Card, text: str) -> dict[str, bytes]:
    """The files beside the README `text`, by path: the pictures that it shows and, of a dataset, croissant.json, with
    the licence, languages and keywords of the front matter."""
    import json

    if not card.croissant:
        return dict(card.pictures)
    front, _ = split_front(text)
    links = _texts(front.get("license_link"))
    known = {
        "license": links or [name for name in _texts(front.get("license")) if name != "unknown"],
        "inLanguage": _texts(front.get("language")),
        "keywords": _texts(front.get("tags")),
    }
    data = {**card.croissant, **{key: value for key, value in known.items() if value}}
    return {**card.pictures, CROISSANT: (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()}


def _texts(value: Any) -> list[str]:
    """The texts of a key of the front matter, which may hold one or a list of them."""
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str) and text]


def prose(text: str) -> tuple[str, ...]:
    """What people wrote above and below the marked block; () where there is only a heading."""
    _, body = split_front(text)
    return () if _untouched(body) else tuple(part.strip() for part in _BLOCK.split(body))


def pictures(text: str) -> set[str]:
    """The paths of the pictures that the marked block of a README shows: the tool's own files."""
    block = _BLOCK.search(text)
    return set(_PICTURE.findall(block.group())) if block else set()


def split_front(text: str) -> tuple[dict[str, Any], str]:
    """A README's YAML front matter and what follows it; ({}, text) where it has none."""
    match = _FRONT.match(text)
    if not match:
        return {}, text
    rest = text[match.end() :]
    try:
        front = yaml_nodes.values(match.group(1), "The front matter", "keys", "", _MOST)
    except InputError:
        return {}, rest  # front matter that is not YAML is dropped; the text below it is kept
    return (front if isinstance(front, dict) else {}), rest


def data_files(configs: Mapping[str, Mapping[str, Split]]) -> list[dict[str, Any]]:
    """The `configs` of the front matter. They are always explicit, else manifest.json would be read as data.

    A config without rows is left out: `datasets` (5.2) refuses to load a split of zero rows.
    """
    loadable = {name: splits for name, splits in configs.items() if any(split.rows for split in splits.values())}
    loadable = loadable or dict(configs)
    default = next((name for name in ("rewards", "episodes") if name in loadable), next(iter(loadable), ""))
    return [
        {
            "config_name": config,
            **({"default": True} if config == default else {}),
            "data_files": [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in splits],
        }
        for config, splits in loadable.items()
    ]


def rows_table(manifest: Manifest) -> str:
    """Rows by config and split, as Markdown."""
    splits = list(dict.fromkeys(split for config in manifest.configs.values() for split in config))
    rows = [
        f"| `{config}` | " + " | ".join(f"{own[split].rows:,}" if split in own else "" for split in splits) + " |"
        for config, own in manifest.configs.items()
    ]
    return "\n".join([f"| config | {' | '.join(splits)} |", f"|---|{'---:|' * len(splits)}", *rows])


def dataset_info(version: Version) -> list[dict[str, Any]]:
    """The `dataset_info` of the front matter: for each config its features, and its splits with their rows and bytes.

    `datasets` could find all of it out; with it the Hub shows these numbers and `load_dataset` checks the rows that it
    loads. The features are in the form that `datasets` reads back (`Features._from_yaml_list`). The bytes of a split
    are those of its Arrow table in memory, `download_size` is the size of the files. Reads all rows, a row group at a
    time.
    """
    loadable = [config["config_name"] for config in data_files(version.manifest.configs)]
    return [_config_info(version, config) for config in loadable]


def _config_info(version: Version, config: str) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from sotopia_rl_data.store.parts import read_parquet

    files, listed = version.files(config), version.manifest.configs[config]
    schema = pq.read_schema(next(iter(files.values()))[0])
    nbytes = {
        split: sum(rows.nbytes for path in paths for rows in read_parquet(path)) for split, paths in files.items()
    }
    return {
        "config_name": config,
        "features": features(schema),
        "splits": [
            {"name": name, "num_bytes": nbytes[name], "num_examples": split.rows} for name, split in listed.items()
        ],
        "download_size": sum(file.size for split in listed.values() for file in split.files),
        "dataset_size": sum(nbytes.values()),
    }


def features(schema: pa.Schema) -> list[dict[str, Any]]:
    """Arrow columns as the front matter's `features`. The types are those that `columns.py` allows."""
    return [{"name": field.name, **_feature(field.type)} for field in schema]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    import pyarrow.types as pt

    from sotopia_rl_data.store.columns import is_list

    if is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": next(iter(inner.values())) if inner.keys() in ({"dtype"}, {"struct"}) else inner}
    if pt.is_struct(kind):
        return {"struct": features(kind)}
    return {"dtype": _DTYPES.get(str(kind), str(kind))}


def _facts(manifest: Manifest) -> str:
    head = f"**{manifest.name} {manifest.version}** · digest `{manifest.digest[:16]}`"
    return f"{head}\n\n{rows_table(manifest)}"


def _untouched(body: str) -> bool:
    """Whether people wrote nothing: there is only a heading and the marked block."""
    lines = [line for line in _BLOCK.sub("", body).splitlines() if line.strip()]
    return not lines or (len(lines) == 1 and lines[0].startswith("# "))
