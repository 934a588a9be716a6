"""The `dataset_info` of a README: for each config its features, and its splits with their rows and bytes.

What `datasets` would find out itself, written down so that the Hub shows it and `load_dataset` checks the rows it
got. The features are in the form that `datasets` reads back (`Features._from_yaml_list`); bytes of splits are those
of the Arrow table in memory, `download_size` those of the files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sotopia_rl_data.store.readme import data_files

if TYPE_CHECKING:
    import pyarrow as pa

    from sotopia_rl_data.store import Version

_NAMES = {"double": "float64", "float": "float32"}


def dataset_info(version: Version) -> list[dict[str, Any]]:
    """One entry for each config that can be loaded. Reads all of it, a row group at a time."""
    loadable = [config["config_name"] for config in data_files(version.manifest.configs)]
    return [_config(version, config) for config in loadable]


def _config(version: Version, config: str) -> dict[str, Any]:
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
            {"name": split, "num_bytes": nbytes[split], "num_examples": one.rows} for split, one in listed.items()
        ],
        "download_size": sum(file.size for one in listed.values() for file in one.files),
        "dataset_size": sum(nbytes.values()),
    }


def features(schema: pa.Schema) -> list[dict[str, Any]]:
    """Arrow columns as the front matter's `features`. The types are those that `columns.py` allows."""
    return [{"name": field.name, **_type(field.type)} for field in schema]


def _type(kind: pa.DataType) -> dict[str, Any]:
    import pyarrow.types as pt

    from sotopia_rl_data.store.columns import is_list

    if is_list(kind):
        inner = _type(kind.value_type)
        return {"list": next(iter(inner.values())) if inner.keys() in ({"dtype"}, {"struct"}) else inner}
    if pt.is_struct(kind):
        return {"struct": features(kind)}
    return {"dtype": _NAMES.get(str(kind), str(kind))}
