"""`croissant.json`: what a version is, for search engines and Croissant's own reader.

python -m pytest -m long tests/cards/test_croissant.py
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from fixtures.environments import python_of
from fixtures.stores import commit, episodes, failures, reward_row, rewards

from sotopia_rl_data.cards.dataset import dataset_card
from sotopia_rl_data.store import Store, readme

RECIPE = {
    "speakers": "named",
    "labels": {
        "schema": "attribution",
        "schema_version": 1,
        "dimensions": ["goal"],
        "judges": [{"judge": "gpt-4o"}],
        "ask": "packed",
    },
    "rewards": {"rule": "direct", "weights": {"goal": 1.0}, "normaliser": "minmax"},
}
PROVENANCE = {
    "parents": [{"name": "lab/x", "version": "v1.0.0", "digest": "ab" * 32}],
    "judges": [{"judge": "gpt-4o", "returned_models": {"gpt-4o-2026-01-01": 3}}],
    "audit": {"verdict": "prefers long answers", "sentence": "Twice the words, 0.1 more."},
}


@pytest.fixture
def version(tmp_path):
    with Store(tmp_path).stage("lab/x_y") as stage:
        stage.write("rewards", "train", rewards(reward_row(0), reward_row(1, reward=None)))
        stage.write("episodes", "train", episodes(0))
        stage.write("failures", "test", failures("timeout"))
        return stage.commit(RECIPE, PROVENANCE).version


def described(version, front: str = "---\nlicense: mit\n---\n"):
    card = dataset_card(version, "org/x_y")
    return json.loads(readme.files(card, readme.merge(card, front))[readme.CROISSANT])


def test_it_says_which_version_it_is_and_where_its_rows_are(version):
    data = described(version)
    assert data["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
    assert (data["name"], data["version"], data["identifier"]) == ("x_y", "1.0.0", version.digest)
    assert [one.get("includes", one.get("contentUrl")) for one in data["distribution"]] == [
        "https://huggingface.co/datasets/org/x_y/tree/v1.0.0",
        "rewards/*.parquet",
        "episodes/*.parquet",
        "failures/*.parquet",
    ]
    assert [one["@id"] for one in data["recordSet"] if one.get("dataType") != "cr:Split"] == list(
        version.manifest.configs
    )
    fields = {one["name"]: one for one in data["recordSet"][1]["field"]}
    assert fields["reward"]["dataType"] == "cr:Float64"
    assert [part["@id"] for part in fields["prompt"]["subField"]] == ["rewards/prompt/role", "rewards/prompt/content"]
    assert data["prov:wasDerivedFrom"] == [{"@id": f"urn:sotopia-rl-data:{'ab' * 32}", "sc:name": "lab/x@v1.0.0"}]


def test_its_responsible_ai_fields_are_what_the_records_say_and_nothing_else(version, tmp_path):
    data = described(version)
    assert data["rai:machineAnnotationTools"] == ["gpt-4o (gpt-4o-2026-01-01)"]
    assert data["rai:dataCollectionMissingData"] == (
        "1 utterance of 2 have no reward: NULL, not zero. Failures: timeout (1)."
    )
    assert data["rai:dataBiases"] == ["prefers long answers. Twice the words, 0.1 more."]
    assert data["rai:dataAnnotationProtocol"].startswith(
        "Attribution schema attribution version 1 on goal, asked packed"
    )
    assert "people's own words" in data["rai:personalSensitiveInformation"]
    bare = described(commit(Store(tmp_path / "bare"), {("episodes", "train"): episodes(0)}, "x").version)
    assert {key for key in bare if key.startswith("rai:")} == {"rai:dataLimitations", "rai:dataReleaseMaintenancePlan"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("front", "license"),
    [
        ("license: mit", ["mit"]),
        ("license: [mit, apache-2.0]", ["mit", "apache-2.0"]),
        ("license: other\nlicense_link: https://example.org/terms", ["https://example.org/terms"]),
        ("license: unknown", None),
        ("license: {a: 1}", None),
    ],
)
def test_licence_languages_and_keywords_are_those_that_people_wrote_on_the_card(version, front, license):
    data = described(version, f"---\n{front}\nlanguage: de\ntags: [ours]\n---\n")
    assert data.get("license") == license
    assert (data["inLanguage"], data["keywords"]) == (["de"], ["ours"])


def test_a_judge_of_whom_a_manifest_says_nothing_has_no_model_on_the_card(tmp_path):
    with Store(tmp_path).stage("lab/x") as stage:
        stage.write("episodes", "train", episodes(0))
        judge = {"judge": "gpt-4o", "returned_models": None, "forms": None, "usage": None}
        version = stage.commit({"labels": RECIPE["labels"]}, {"judges": [judge]}).version
    assert described(version)["rai:machineAnnotationTools"] == ["gpt-4o (no model)"]


READER = """
import json, sys, mlcroissant
dataset = mlcroissant.Dataset(f"{sys.argv[1]}/croissant.json", mapping={"repo": sys.argv[1]})
issues = dataset.metadata.ctx.issues
assert not issues.errors and not issues.warnings, issues.report()
assert dataset.metadata.machine_annotation_tools == ["gpt-4o (gpt-4o-2026-01-01)"]
names = ("split", "episode_id", "prompt")
rows = [[row[f"rewards/{name}"] for name in names] for row in dataset.records("rewards")]
print(json.dumps(rows, default=bytes.decode))
"""


@pytest.mark.long
def test_croissants_own_reader_finds_it_valid_and_reads_the_rows(version, tmp_path):
    """In an environment of its own, with MLCommons' reference library (two minutes)."""
    folder = tmp_path / "environment"
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python_of(folder)),
            "install",
            "-q",
            "mlcroissant[parquet]==1.1.1",
        ],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            pytest.skip(f"mlcroissant cannot be installed ({' '.join(command[3:])}): {done.stderr.strip()[-300:]}")
    card = dataset_card(version, "org/x_y")
    readme.write(version.dir, readme.merge(card, "---\nlicense: mit\n---\n"), card)
    done = subprocess.run(
        [python_of(folder), "-c", READER, version.dir],
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    prompts = [[{"rewards/prompt/role": "user", "rewards/prompt/content": f"prompt {i}"}] for i in (0, 1)]
    assert json.loads(done.stdout) == [["train", f"e000{i}", prompts[i]] for i in (0, 1)]
