"""A version as a Croissant 1.1 dataset, with the fields of its responsible-AI vocabulary: what search engines and
`mlcroissant` read (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html, …/croissant-rai-spec.html).

As in the card, nothing is guessed: a field that the manifest and the rows do not fill is left out. Licence, languages
and keywords stand in the README's front matter, which people edit; `store/readme.py` puts them in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sotopia_rl_data.cards import provenance
from sotopia_rl_data.cards.markdown import count
from sotopia_rl_data.cards.numbers import Numbers
from sotopia_rl_data.schema import Manifest

CROISSANT, RAI = "http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"
_TYPES = {
    "string": "sc:Text",
    "bool": "sc:Boolean",
    "int32": "cr:Int32",
    "int64": "cr:Int64",
    "float64": "cr:Float64",
}
_TERMS = """
    arrayShape citeAs column conformsTo containedIn equivalentProperty extract field fileObject fileProperty fileSet
    format includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace
    samplingRate separator source subField transform
"""
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "prov": "http://www.w3.org/ns/prov#",
    "dct": "http://purl.org/dc/terms/",
    **{term: f"cr:{term}" for term in _TERMS.split()},
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "description": {"@container": "@language"},
}
_NO_DIGEST = "https://github.com/mlcommons/croissant/issues/80"  # what the Hub writes too: a repository has no SHA-256


def croissant(
    manifest: Manifest,
    infos: Sequence[Mapping[str, Any]],
    summary: str,
    configs: Mapping[str, str],
    citation: str,
    responsible: Mapping[str, Any],
) -> dict[str, Any]:
    """The JSON-LD of the version that `manifest` describes, under its name on the Hub.

    `infos` is the front matter's `dataset_info`, with the features of each config; `configs` says in Markdown what a
    row of each is; `citation` is BibTeX; `responsible` has the fields of the responsible-AI vocabulary.
    """
    url = f"https://huggingface.co/datasets/{manifest.name}"
    parents = [
        {"@id": f"urn:sotopia-rl-data:{parent['digest']}", "sc:name": f"{parent['name']}@{parent['version']}"}
        for parent in manifest.provenance.get("parents", [])
    ]
    repository = {
        "@type": "cr:FileObject",
        "@id": "repo",
        "name": "repo",
        "description": f"The repository at {manifest.version}; manifest.json has the SHA-256 of each of its files.",
        "contentUrl": f"{url}/tree/{manifest.version}",
        "encodingFormat": "git+https",
        "sha256": _NO_DIGEST,
    }
    names = [info["config_name"] for info in infos]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [CROISSANT, RAI],
        "name": manifest.name.rpartition("/")[2],
        "alternateName": manifest.name,
        "description": _text(summary),
        "url": url,
        "citeAs": citation,
        "version": manifest.version.removeprefix("v"),
        "identifier": manifest.digest,
        # a version is published after it was made; Croissant wants a day, and the card knows only this one
        **({"datePublished": manifest.created} if manifest.created else {}),
        "distribution": [repository, *(_files(name) for name in names)],
        "recordSet": [
            one
            for info in infos
            for one in _record_sets(info, list(manifest.configs[info["config_name"]]), configs[info["config_name"]])
        ],
        **({"prov:wasDerivedFrom": parents} if parents else {}),
        **responsible,
    }


def responsible_ai(manifest: Manifest, figures: Numbers, limits: Sequence[str]) -> dict[str, Any]:
    """The fields of the responsible-AI vocabulary that this version's records fill. `limits` are the card's."""
    known, recipe = manifest.provenance, manifest.recipe
    collected = [*provenance.origin(known), *provenance.rollout(recipe.get("rollout"), known)]
    judges = known.get("judges", [])
    tools = [
        f"{judge['judge']} ({', '.join(filter(None, judge.get('returned_models') or {})) or 'no model'})"
        for judge in judges
    ]
    audit = known.get("audit")
    fields = {
        "dataCollection": " ".join(map(_text, collected)),
        "dataCollectionType": "Software Collection" if "rollout" in recipe else "",
        "dataCollectionMissingData": " ".join(_missing(figures)),
        "dataAnnotationProtocol": " ".join(map(_text, provenance.labels(recipe.get("labels"), recipe, known))),
        "dataAnnotationAnalysis": list(_agreement(figures)),
        "machineAnnotationTools": tools,
        "dataPreprocessingProtocol": [_text(fact) for fact in provenance.rewards(recipe)],
        "dataBiases": [_text(f"{audit['verdict']}. {audit['sentence']}")] if isinstance(audit, Mapping) else [],
        "dataLimitations": [_text(limit) for limit in limits],
        "personalSensitiveInformation": (
            "The speakers' names are as they were imported; the dialogues may be people's own words."
            if recipe.get("speakers") == "named"
            else ""
        ),
        "dataReleaseMaintenancePlan": (
            "A published version never changes: other content is another version, with a tag of its own. Changed rows "
            "raise the minor number, changed columns or scales the major one."
        ),
    }
    return {f"rai:{name}": value for name, value in fields.items() if value}


def _missing(figures: Numbers) -> Iterator[str]:
    reward = figures.stats.columns.get("reward", {}).get("all")
    if reward is not None and reward.nulls:
        yield f"{count(reward.nulls, 'utterance')} of {reward.count + reward.nulls:,} have no reward: NULL, not zero."
    for reason, number in figures.stats.failures.items():
        yield f"Failures: {reason} ({number:,})."


def _agreement(figures: Numbers) -> Iterator[str]:
    for pair in figures.agreement:
        if pair.pearson is not None:
            yield (
                f"{pair.dimension}: {pair.a} and {pair.b} agree on {count(pair.utterances, 'utterance')} with "
                f"Pearson's r = {pair.pearson:.3f}."
            )


def _files(config: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{config}-files",
        "name": f"{config}-files",
        "containedIn": {"@id": "repo"},
        "encodingFormat": "application/x-parquet",
        "includes": f"{config}/*.parquet",
    }


def _record_sets(info: Mapping[str, Any], splits: Sequence[str], about: str) -> Iterator[dict[str, Any]]:
    """The splits of a config, then its rows."""
    config = info["config_name"]
    named, files = f"{config}-splits", {"fileSet": {"@id": f"{config}-files"}}
    yield {
        "@type": "cr:RecordSet",
        "@id": named,
        "name": named,
        "dataType": "cr:Split",
        "key": {"@id": f"{named}/name"},
        "field": [{"@type": "cr:Field", "@id": f"{named}/name", "name": "name", "dataType": "sc:Text"}],
        "data": [{f"{named}/name": split} for split in splits],
    }
    regex = rf"(?:.*/)?({'|'.join(splits)})(?:-[^/]+\.parquet)?$"  # mlcroissant applies it to its own result too
    where = {"extract": {"fileProperty": "fullpath"}, "transform": {"regex": regex}}
    split = {
        "@type": "cr:Field",
        "@id": f"{config}/split",
        "name": "split",
        "dataType": "sc:Text",
        "source": files | where,
        "references": {"field": {"@id": f"{named}/name"}},
    }
    yield {
        "@type": "cr:RecordSet",
        "@id": config,
        "name": config,
        "description": _text(about),
        "field": [split, *(_field(config, (one["name"],), one, files) for one in info["features"])],
    }


def _field(config: str, path: tuple[str, ...], feature: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """A column, or a part of it at `path`: text, a number, a list or a struct of them."""
    field: dict[str, Any] = {"@type": "cr:Field", "@id": "/".join((config, *path)), "name": path[-1]}
    if "list" in feature:
        inner = feature["list"]
        field |= {"isArray": True, "arrayShape": "-1"}
        feature = (
            {"dtype": inner} if isinstance(inner, str) else {"struct": inner} if isinstance(inner, list) else inner
        )
    if "struct" in feature:
        parts = [_field(config, (*path, part["name"]), part, files) for part in feature["struct"]]
        return field | {"subField": parts}
    source = {**files, "extract": {"column": path[0]}}
    if len(path) > 1:
        source["transform"] = [{"jsonPath": name} for name in path[1:]]
    return field | {"dataType": _TYPES.get(feature.get("dtype", ""), "sc:Text"), "source": source}


def _text(markdown: str) -> str:
    """The card's Markdown (inline code and escaped characters) as the text that it shows."""
    return re.sub(r"`([^`]*)`|\\([\\|`*_<>\[\]$])", lambda found: found[1] or found[2] or "", markdown)
