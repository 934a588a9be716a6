"""Batches with a token budget: they hold what fits, and train as the same rows in any other batches do."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = [pytest.mark.train, pytest.mark.slow]

from fixtures.training import logged, make_dataset, toy_model, train_rm, train_sft
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import logging

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.trainers import api
from sotopia_rl_data.trainers.config import PolicySFTConfig, RMConfig, configure
from sotopia_rl_data.trainers.filling import FilledRows, FlatBatch, filled

torch.set_num_threads(1)
logging.disable_progress_bar()
TRAIN = {"rm": train_rm, "sft": train_sft}
CONFIG = {"rm": RMConfig, "sft": PolicySFTConfig}
SGD = (
    "disable_tqdm=true", "adapter=none", "optim=sgd", "learning_rate=0.1", "lr_scheduler_type=constant",
    "max_length=256", "eval_strategy=no", "save_strategy=no", "max_steps=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filling")
    held_out = {"env-5": "validation"}
    splits = lambda row: held_out.get(row["environment_id"], "train")  # noqa: E731
    make_dataset(root, episodes=6, environments=6, turns=4, splits=splits)
    toy_model(root / "model")
    return root


@given(st.lists(st.integers(1, 50), max_size=200), st.integers(1, 300), st.booleans(), st.integers(0, 3))
def test_each_row_is_in_one_batch_and_none_holds_more_than_fits(sizes: list[int], most: int, padded: bool, seed: int):
    lengths = np.array(sizes, dtype=np.int64)
    batches = filled(lengths, most, is_padded=padded, seed=seed)
    assert sorted(int(place) for batch in batches for place in batch) == list(range(len(sizes)))
    for batch in batches:
        taken = len(batch) * lengths[batch].max() if padded else lengths[batch].sum()
        assert taken <= most or len(batch) == 1
    assert [batch.tolist() for batch in batches] == [
        batch.tolist() for batch in filled(lengths, most, is_padded=padded, seed=seed)
    ]


def test_padded_batches_hold_rows_of_like_length_and_a_seed_draws_them():
    lengths = np.random.default_rng(0).integers(10, 1000, 2000)
    batches = filled(lengths, 4000, is_padded=True, seed=1)
    padding = sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum()
    assert padding < 1.05  # in any order it is 1.6
    assert batches[0].tolist() != filled(lengths, 4000, is_padded=True, seed=2)[0].tolist()


def test_a_filled_batch_is_the_batch_of_its_rows():
    rows = FilledRows("abcde", [np.array([4, 0]), np.array([1, 2, 3])])
    assert [rows[0], rows[1]] == [["e", "a"], ["b", "c", "d"]]
    assert FlatBatch("".join)([rows[1], rows[0]]) == "bcdea"
    assert FlatBatch("".join)("xy") == "xy"  # rows that are evaluated are not filled into batches


def step(root: Path, out: Path, kind: str, *settings: str) -> dict[str, Any]:
    """The weights after one step."""
    options: dict[str, Any] = {"preset": "tiny", "store": str(root)}
    TRAIN[kind]("toys/rewards", str(root / "model"), out, settings=[*SGD, *settings], **options)
    return dict(load_file(out / "model.safetensors"))


@pytest.mark.parametrize(("kind", "settings"), [("rm", ("packing=tree",)), ("rm", ("packing=none",)), ("sft", ())])
def test_a_step_over_filled_batches_is_that_of_one_batch_with_all_rows(
    root: Path, tmp_path: Path, kind: str, settings: tuple[str, ...]
):
    rows = 10 if "packing=tree" in settings else 20
    whole = step(root, tmp_path / "whole", kind, *settings, f"per_device_train_batch_size={rows}")
    one = step(root, tmp_path / "one", kind, *settings, "tokens_per_device_batch=100000")
    many = step(
        root, tmp_path / "many", kind, *settings, "tokens_per_device_batch=512", f"gradient_accumulation_steps={rows}"
    )
    start = load_file(root / "model" / "model.safetensors")
    assert max(float((whole[name] - start[name]).abs().max()) for name in start.keys() & whole.keys()) > 1e-4
    for found in (one, many):
        assert all(torch.allclose(found[name], whole[name], atol=1e-6) for name in whole)


def test_a_resumed_run_draws_the_same_batches(root: Path, tmp_path: Path):
    settings = (
        "disable_tqdm=true", "max_length=256", "tokens_per_device_batch=512", "max_steps=8", "save_steps=4",
        "eval_steps=4", "save_total_limit=5", "lr_scheduler_type=constant", "resamples=0",
    )  # fmt: skip
    options: dict[str, Any] = {"preset": "tiny", "store": str(root), "settings": settings}
    train_rm("toys/rewards", str(root / "model"), tmp_path / "whole", **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoint-8")
    options["settings"] = [*settings, "resume=true"]
    train_rm("toys/rewards", str(root / "model"), tmp_path / "broken", **options)
    one, other = (load_file(tmp_path / run / "checkpoint-8" / "model.safetensors") for run in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert logged(tmp_path / "whole")[-1]["epoch"] > 1


@pytest.mark.parametrize(
    ("kind", "settings", "told", "hint"),
    [
        ("rm", ("tokens_per_device_batch=100",), "cannot hold a row of max_length=4096 tokens", "batch=4096"),
        ("sft", ("tokens_per_device_batch=64",), "cannot hold a row of max_length=4096 tokens", "batch=4096"),
        ("sft", ("max_length=null",), "Rows have no max_length", "--set max_length=8192"),
        ("sft", ("packing=true",), "packing=true fills each row", "--set tokens_per_device_batch=null"),
        ("rm", ("tokens_per_device_batch=8192", "per_device_train_batch_size=2"), "8192 tokens or 2 rows", "leave one"),
    ],
)
def test_a_budget_that_holds_no_row_is_refused(kind: str, settings: tuple[str, ...], told: str, hint: str):
    with pytest.raises(UsageError, match=told) as refused:
        configure(CONFIG[kind], options={"output_dir": "unused"}, settings=settings)
    assert hint in refused.value.hint


@pytest.mark.parametrize("kind", ["rm", "sft"])
def test_a_batch_has_a_number_of_tokens_by_default_and_of_rows_where_that_is_named_later(kind: str, tmp_path: Path):
    """All presets for GPUs have a budget; the paper's has rows, as its scripts do."""

    def batch(*settings: str, **given: Any) -> tuple[int | None, int]:
        found = configure(CONFIG[kind], options={"output_dir": "unused"}, settings=settings, **given)
        return found.tokens_per_device_batch, found.per_device_train_batch_size

    for preset, steps in (("default", 32768), ("1x24gb", 32768), ("8x80gb", 65536 // 8)):
        tokens, rows = batch(preset=preset)
        whole = configure(CONFIG[kind], preset=preset, options={"output_dir": "unused"})
        assert rows == 1
        assert (tokens or 0) * whole.gradient_accumulation_steps == steps
    assert batch(preset="paper")[0] is None
    assert batch("per_device_train_batch_size=4") == (None, 4)
    assert batch("tokens_per_device_batch=null") == (None, 1)
    (tmp_path / "mine.yaml").write_text("per_device_train_batch_size: 4\n")
    assert batch(file=str(tmp_path / "mine.yaml")) == (None, 4)
    assert batch("tokens_per_device_batch=8192", file=str(tmp_path / "mine.yaml")) == (8192, 1)
    assert batch("max_length=512") == batch()


@pytest.mark.parametrize("kind", ["rm", "sft"])
def test_a_plan_counts_a_full_batch_and_the_rows_that_it_holds(root: Path, tmp_path: Path, kind: str):
    options = {"dataset": "toys/rewards", "store": str(root), "model": str(root / "model"), "output_dir": str(tmp_path)}
    settings = ("use_cpu=true", "bf16=false", "max_length=256", "packing=none" if kind == "rm" else "packing=false")

    def plan(*more: str) -> dict[str, Any]:
        config = configure(CONFIG[kind], options=options, settings=[*settings, "gradient_accumulation_steps=1", *more])
        return api.plan(config)

    full, one = plan("tokens_per_device_batch=1024"), plan("per_device_train_batch_size=1")
    assert 0.9 * 1024 <= full["batch_tokens"] <= 1024
    assert full["rows_a_step"] > one["rows_a_step"] == 1
    assert full["steps"] < one["steps"]
    assert full["tokens_a_step"] <= 1024
