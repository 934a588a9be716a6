"""Cards: records in, Markdown out; the Hub and `datasets` read them back, and what people wrote stays.

The golden card is that of the bundled samples, labelled offline. To write it anew:
`PYTHONPATH=tests python tests/cards/test_cards.py`.
"""

from __future__ import annotations

import io
import re
import tempfile

import pytest
import yaml
from fixtures.places import GOLDENS, ROOT
from fixtures.stores import commit, episodes, failures, reward_row, rewards

from sotopia_rl_data.cards.dataset import CORRELATIONS_PICTURE, REWARDS_PICTURE, dataset_card
from sotopia_rl_data.cards.markdown import cell, code, plain, table
from sotopia_rl_data.cards.model import eval_results, model_card
from sotopia_rl_data.cards.numbers import numbers
from sotopia_rl_data.importers import samples_path
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.schema import Attribution
from sotopia_rl_data.store import Store, readme
from sotopia_rl_data.tables import attribution_table

GOLDEN = GOLDENS / "card.md"


def labelled_samples(folder):
    from fixtures.flat_calls import label

    store = Store(folder)
    import_dataset(store, [samples_path()], "demo/episodes")
    label(store, "demo/episodes", judges=["lexical"])
    return store.resolve("demo/episodes-rewards")


def written(version) -> str:
    return readme.merge(dataset_card(version), (version.dir / "README.md").read_text())


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return labelled_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def text(samples):
    return written(samples)


def without_file_sizes(card: str) -> str:
    """Parquet's bytes differ from one version of its writer to the next."""
    return re.sub(r"download_size: \d+", "download_size: …", card)


@pytest.mark.slow
def test_the_card_of_the_samples_is_what_it_was(text):
    assert without_file_sizes(text) == without_file_sizes(GOLDEN.read_text("utf-8")), "see this module"


@pytest.mark.slow
def test_the_same_version_has_the_same_card_and_pictures(samples, text):
    again = dataset_card(samples)
    assert readme.merge(again, text) == text
    assert dict(again.pictures) == dict(dataset_card(samples).pictures)


def test_the_hub_reads_the_front_matter_back(text):
    from huggingface_hub import DatasetCard

    data = DatasetCard(text).data
    assert (data.license, data.language, data.pretty_name) == ("unknown", ["en"], "Episodes rewards")
    assert data.task_categories == ["text-generation", "reinforcement-learning"]
    assert data.annotations_creators == ["machine-generated"]
    assert [c["config_name"] for c in data.configs] == [
        "rewards",
        "episodes",
        "attributions",
        "failures",
        "trajectories",
    ]
    assert [c["config_name"] for c in data.configs if c.get("default")] == ["rewards"]
    assert data.size_categories == ["1K<n<10K"]


def test_datasets_loads_by_it_and_finds_the_features_rows_and_bytes_that_it_says(samples, text, tmp_path):
    import datasets

    folder = tmp_path / "released"
    folder.mkdir()
    for config in samples.manifest.configs:
        (folder / config).symlink_to(samples.dir / config)
    (folder / "README.md").write_text(text)
    told = _infos(text)
    for config, splits in samples.manifest.configs.items():
        loaded = datasets.load_dataset(str(folder), config, cache_dir=str(tmp_path / "cache"))
        assert {split: one.num_rows for split, one in loaded.items()} == {s: one.rows for s, one in splits.items()}
        for split, one in loaded.items():
            assert one.features == told[config].features
            built = one.info.splits[split]
            assert (built.num_bytes, built.num_examples) == (
                told[config].splits[split].num_bytes,
                told[config].splits[split].num_examples,
            )
    default = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert "reward" in default["train"].column_names


def test_the_hubs_viewer_meets_the_conversation_as_a_chat_before_any_number(text):
    from datasets import List, Value

    chat = List({"role": Value("string"), "content": Value("string")})
    for config, conversation in {"rewards": ["prompt", "completion"], "trajectories": ["messages"]}.items():
        features = _infos(text)[config].features
        assert [name for name, kind in features.items() if kind == chat] == conversation
        names = list(features)
        numbers = [names.index(name) for name, kind in features.items() if "float64" in str(kind)]
        assert names.index(conversation[-1]) < min(numbers) <= 6


def _infos(text):
    from datasets import DatasetInfo

    front, _ = readme.split_front(text)
    return {one["config_name"]: DatasetInfo._from_yaml_dict(one) for one in front["dataset_info"]}


@pytest.mark.slow
def test_the_pictures_are_pictures_and_the_block_shows_them(samples, text):
    import matplotlib.image as image

    card = dataset_card(samples)
    assert set(card.pictures) == readme.pictures(text) == {REWARDS_PICTURE, CORRELATIONS_PICTURE}
    for data in card.pictures.values():
        pixels = image.imread(io.BytesIO(data), format="png")
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.05  # not blank


@pytest.mark.slow
def test_what_people_wrote_stays_and_what_is_the_tools_is_new(tmp_path):
    store = Store(tmp_path)
    first = commit(store, {("rewards", "train"): rewards(reward_row(0))}, "lab/x").version
    card = written(first)
    card = card.replace("license: unknown", "license: mit\nmaintainer: Zoë").replace("# X\n", "# Ours\n\nRead me.\n", 1)
    card = card.replace("<!-- sotopia-rl-data:begin -->", "Above.\n\n<!-- sotopia-rl-data:begin -->\nscribbled into it")
    (first.dir / "README.md").write_text(card)
    second = commit(store, {("rewards", "train"): rewards(reward_row(0), reward_row(1))}, "lab/x").version
    plain_card = (second.dir / "README.md").read_text()
    assert "dataset_info" not in plain_card  # that of v1.0.0 would make load_dataset refuse the new rows
    assert "assets/" not in plain_card
    for one in (plain_card, written(second)):
        assert one.startswith("---\nlicense: mit\nmaintainer: Zoë\n")
        assert "# Ours\n\nRead me." in one
        assert "Above." in one
        assert "scribbled" not in one
        assert "lab/x v1.1.0" in one
        assert "v1.0.0" not in one


def test_two_opinions_are_compared_and_one_is_not(tmp_path):
    def said(judge, *raws):
        return [
            Attribution("e0000", "a", turn, "goal", "direct", "importance", judge, 0, raw, 0, 3, "k")
            for turn, raw in enumerate(raws)
        ]

    rows = said("gpt|4o", 0, 1, 2, 3) + said("claude", 0, 1, 3, 2)
    tables = {("episodes", "train"): episodes(0), ("attributions", "train"): attribution_table(rows)}
    version = commit(Store(tmp_path), tables, "lab/two").version
    (found,) = numbers(version).agreement
    assert (found.dimension, found.a, found.b, found.utterances) == ("goal", "claude", "gpt|4o", 4)
    assert (found.pearson, found.spearman, found.difference) == (pytest.approx(0.8), pytest.approx(0.8), 0.5)
    assert "| goal | claude | gpt\\|4o | 4 | 0.8 | 0.8 | 0.5 |" in written(version)
    alone = {("episodes", "train"): episodes(0), ("attributions", "train"): attribution_table(said("one", 1, 2))}
    assert "## Agreement" not in written(commit(Store(tmp_path), alone, "lab/one").version)


def test_what_is_missing_is_left_out_not_made_up(tmp_path):
    store = Store(tmp_path)
    only_episodes = written(commit(store, {("episodes", "train"): episodes(0)}, "lab/episodes").version)
    assert "reward-model" not in only_episodes
    assert "assets/" not in only_episodes
    assert 'episodes = load_dataset("lab/episodes", revision="v1.0.0")' in only_episodes
    nothing = rewards(reward_row(0, None), reward_row(1, None))
    unlabelled = commit(store, {("rewards", "train"): nothing, ("failures", "train"): failures()}, "lab/null").version
    card = dataset_card(unlabelled)
    assert REWARDS_PICTURE not in card.pictures
    assert "2 utterances of 2 (100.0%) have no reward: NULL, not zero." in card.block
    assert "**`failures`** (empty)" in card.block
    assert "nan" not in card.block.lower()


@pytest.mark.slow
def test_the_card_of_a_rubrics_labels_says_what_its_dimensions_mean(tmp_path):
    from fixtures.flat_calls import label
    from fixtures.labelling import BOAT, put

    store = Store(tmp_path / "store")
    put(store, [BOAT])
    spec = f"rubric:{ROOT / 'examples' / 'rubric.yaml'}"
    label(store, "lab/episodes", judges=["lexical"], schema=spec, scale=5, packing="packed")
    text = written(store.resolve("lab/episodes-rewards"))
    assert "a reward: what a judge finds of it by the rubric `good-company`." in text
    assert "- `empathy`, 0 to 3: Whether the utterance takes up what the other feels." in text
    assert "- `brevity`, 0 to 5: Whether it says what it has to say in few words." in text
    assert "- `pressure`, -5 to 0: How hard it presses the other into something; 0 is not at all." in text
    assert "importance in levels" not in text


def test_a_constant_dimension_has_no_correlation(tmp_path):
    import pyarrow as pa

    from sotopia_rl_data.tables import rewards_schema

    rows = [
        reward_row(i, i / 4) | {"raw_knowledge": float(i), "norm_knowledge": i / 4, "raw_goal": 2.0} for i in range(4)
    ]
    table_ = pa.Table.from_pylist(rows, schema=rewards_schema(["goal", "knowledge"]))
    found = numbers(commit(Store(tmp_path), {("rewards", "train"): table_}, "lab/constant").version).correlations
    assert found.columns == ("reward", "raw_goal", "raw_knowledge")
    assert found.values == ((1.0, None, pytest.approx(1.0)), (None, 1.0, None), (pytest.approx(1.0), None, 1.0))


def test_other_peoples_text_is_no_markup():
    assert plain("a|b *c* <script>\n[x]") == "a\\|b \\*c\\* \\<script\\> \\[x\\]"
    assert code("a`b|c\nd") == "`a'b¦c d`"
    assert cell(1234567) == "1,234,567"
    assert cell(None) == "–"
    assert table(["name", "n"], [["x|y", 1], [code("z"), None]]) == (
        "| name | n |\n| --- | ---: |\n| x\\|y | 1 |\n| `z` | – |"
    )


def test_a_model_card_names_the_very_rows_it_was_trained_and_measured_on():
    from huggingface_hub import ModelCard

    record = {
        "kind": "rm",
        "model": "lab/base",
        "dataset": {"name": "lab/x", "version": "v1.0.0", "digest": "d" * 64, "commit": "c" * 40},
        "rows": {"train": 400, "test": 50},
        "metrics": {"test": {"spearman": 0.5, "mse": 0.01}},
        "config": {"learning_rate": 1e-5},
        "seed": 3,
    }
    text = readme.merge(model_card(record, "My RM"))
    data = ModelCard(text).data
    assert (data.base_model, data.datasets, data.license) == ("lab/base", ["lab/x"], "unknown")
    assert [(r.metric_type, r.metric_value, r.dataset_revision, r.dataset_split) for r in data.eval_results] == [
        ("spearman", 0.5, "c" * 40, "test"),
        ("mse", 0.01, "c" * 40, "test"),
    ]
    assert "`lab/x` v1.0.0, commit `" + "c" * 40 in text
    edited = text.replace("license: unknown", "license: mit").replace("base_model: lab/base", "base_model: wrong")
    again = yaml.safe_load(readme.merge(model_card(record, "My RM"), edited).split("---")[1])
    assert (again["license"], again["base_model"]) == ("mit", "lab/base")


def test_results_are_told_as_the_hub_reads_them_for_held_out_rows_of_a_published_dataset():
    record = {
        "dataset": {"name": "lab/x", "version": "v1.0.0", "commit": "c" * 40},
        "metrics": {"train": {"mse": 0.1}, "test": {"mse": 0.25, "mse_low": 0.2, "mse_high": 0.3, "mean_mse": 0.5}},
    }
    where = {"id": "lab/x", "task_id": "test_mse", "revision": "c" * 40}
    assert yaml.safe_load(eval_results(record)) == [{"dataset": where, "value": 0.25}]
    assert eval_results({**record, "dataset": {"name": "lab/x", "version": "v1.0.0", "commit": None}}) == ""


def test_the_verdict_of_an_audit_and_a_judges_own_remark_are_on_the_card():
    from dataclasses import replace

    from sotopia_rl_data.cards.provenance import provenance
    from sotopia_rl_data.schema import Manifest

    bare = Manifest("a/b", "v1.0.0", "0" * 64, {}, {}, {})
    verdict = {"verdict": "biased", "sentence": "Labels rise by 0.5 for whoever is listed first."}
    known = {"audit": verdict, "judges": [{"judge": "lexical", "remark": "this judge is a baseline"}]}
    said = provenance(replace(bare, provenance=known))
    assert "- Bias audit: biased. Labels rise by 0.5 for whoever is listed first." in said
    assert "- This judge is a baseline." in said


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(written(labelled_samples(folder)), "utf-8")
