"""What a manifest may say of where its rows come from: whatever `store/fields.py` lets through, its readers can read,
and on the card it is text."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import pytest
from fixtures.hostile_releases import places
from fixtures.stores import episodes, reward_row, rewards

from sotopia_rl_data import evaluations
from sotopia_rl_data.cards.dataset import dataset_card
from sotopia_rl_data.cli.origin import origin_of
from sotopia_rl_data.comparing import methods
from sotopia_rl_data.credit.bench_card import _games_of, credit_section
from sotopia_rl_data.credit.checklist import _asked
from sotopia_rl_data.errors import StoreError, UsageError
from sotopia_rl_data.report.contents import _bill, _facts
from sotopia_rl_data.rewards.build import remade_recipe
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.trash import made_from

IMAGE = "<img src=x>"
VALUES = (None, 10**12, 0.5, IMAGE, [], {}, [None], {IMAGE: None})
LAYOUT = {"layout": "single", "template": "single.v1", "sha256": "0" * 64}
PLAYER = {"model": "m", "sampling": {"temperature": 0.7}}
PARTS: dict[Literal["recipe", "provenance"], dict[str, Any]] = {
    "recipe": {
        "labels": {
            "schema": "direct",
            "schema_version": 2,
            "dimensions": ["goal"],
            "evaluator": "gpt-4o",
            "ask": "per-dimension",
            "samples": 2,
            "wording": "v2",
            "judges": [{"judge": "lexical", "sampling": {"temperature": 0.0}}],
        },
        "rewards": {
            "weights": {"goal": 1.0},
            "rule": "discounted",
            "normaliser": "minmax",
            "average": "mean",
            "evaluator": "gpt-4o",
            "schema": "direct",
            "judge": "lexical",
            "sample": 0,
            "fit": "all",
            "units": "0-10",
            "gamma": 0.9,
        },
        "rollout": {
            "a": PLAYER,
            "b": PLAYER,
            "dialect": "v1",
            "turns": 20,
            "seed": 0,
            "prompts": LAYOUT,
            "swap": True,
            "repeat": 2,
            "best_of": 4,
            "reward_model": "rm",
        },
        "replay": {"policy": PLAYER, "turns": 20, "samples": None},
        "games": {"count": 2, "seed": 0, "rules": 1},
        "layout": LAYOUT,
        "scale": 3,
        "seed": 0,
        "license": "mit",
        "split_by": "episode",
        "speakers": "named",
        "weights": {"goal": 1.0},
        "evaluations": [{"evaluator": "gpt-4o", "dimensions": ["goal"], "files": ["0"]}],
        "scored_by": ["rm"],
    },
    "provenance": {
        "command": "label",
        "parents": [{"name": "o/p", "version": "v1.0.0", "digest": "0" * 64}],
        "sources": [{"format": "plain", "files": 4, "bytes": 5, "names": ["a.jsonl"]}],
        "where": "true",
        "where_unsure": {"judged": 1, "rows": 2},
        "counts": {"utterances": 4},
        "dialects": {"plain": 1},
        "ended": {"a left": 1},
        "judges": [
            {
                "judge": "lexical",
                "remark": "it counts words",
                "evaluates": True,
                "calls": 3,
                "returned_models": {"m": 2, "n": 1},
                "forms": {"m without a schema": 1},
                "usage": {"input": 1, "cached": 0, "output": 2},
                "cost_usd": 0.5,
            }
        ],
        "wording_sha256": "0" * 64,
        "rubric": {"name": "r", "dimensions": [{"name": "warm", "description": "is warm", "ends": [0, 4]}]},
        "rewards": {"statistics": {"goal": {"normaliser": "minmax", "low": 0.0, "count": 2}}, "warnings": ["few"]},
        "failures": {"no score": 1},
        "audit": {"verdict": "sways", "sentence": "It sways."},
        "ledger": [{"path": "ledger/calls-00000-of-00001.parquet"}],
        "trajectories": LAYOUT,
        "shard": "1/2",
    },
}


def odd(part: Literal["recipe", "provenance"]) -> Iterator[dict[str, Any]]:
    """The part, at each place without what is there, and with each of VALUES instead."""
    for *before, last in places(PARTS[part]):
        for value in (..., *VALUES):
            changed: Any = copy.deepcopy(PARTS[part])
            found = changed
            for key in before:
                found = found[key]
            if value is ...:
                del found[last]
            else:
                found[last] = value
            yield changed


def read(store: Store, version: Version) -> str:
    """All that reads where a version comes from reads it; the text of its card."""
    card = dataset_card(version, credit=credit_section(store, version))
    manifest = version.manifest
    assert origin_of(version).splits == "1 / 0 / 0"
    assert len(list(_facts(version))) <= 20
    assert len(_bill(manifest.provenance)) <= 1
    methods.tested_in(version)
    _asked(version)
    made_from(store, {})
    evaluations.provenance(version, [])
    evaluations._recipe(manifest.recipe, [evaluations.Evaluated("gpt-4o", ("goal",), {}, frozenset())])
    with suppress(UsageError):  # such as a rule that is none
        remade_recipe(manifest.recipe.get("rewards"), None, {})
    return card.block + card.prose


@pytest.fixture
def version(tmp_path) -> Version:
    store = Store(tmp_path / "store")
    with store.stage("o/n") as stage:
        stage.write("episodes", "train", episodes(0))
        stage.write("rewards", "train", rewards(reward_row(0, reward=None)))
        return stage.commit(PARTS["recipe"], PARTS["provenance"]).version


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_what_a_manifest_may_say_every_reader_can_read(
    version: Version, tmp_path, part: Literal["recipe", "provenance"]
) -> None:
    store, taken, refused = Store(tmp_path / "store"), 0, 0
    for changed in odd(part):
        try:
            told = manifests.plain(changed, part)
        except StoreError:
            refused += 1
            continue
        taken += 1
        text = read(store, replace(version, manifest=replace(version.manifest, **{part: told})))
        assert not re.search(r"(?<!\\)<img", re.sub(r"`[^`\n]*`", "", text)), changed
    assert min(taken, refused) > 100


def test_a_version_that_names_itself_as_its_parent_is_followed_once(version: Version, tmp_path) -> None:
    parents = [{"name": version.name, "version": version.version, "digest": version.digest}]
    odd = replace(version, manifest=replace(version.manifest, provenance={"parents": parents}))
    (version.dir / manifests.FILE_NAME).write_text(manifests.dump(odd.manifest))
    assert _games_of(Store(tmp_path / "store"), odd) is None
