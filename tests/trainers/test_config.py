"""Presets, YAML, flags and --set, in that order, into the libraries' own dataclasses."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from pathlib import Path

import pytest

pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

from transformers import TrainingArguments
from trl import GRPOConfig, SFTConfig

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.trainers.config import (
    PolicyGRPOConfig,
    PolicySFTConfig,
    RMConfig,
    changed,
    configure,
)
from sotopia_rl_data.trainers.settings import presets

CPU = "use_cpu=true"


def test_they_are_the_libraries_own_dataclasses():
    assert issubclass(RMConfig, TrainingArguments)
    assert issubclass(PolicySFTConfig, SFTConfig)
    assert issubclass(PolicyGRPOConfig, GRPOConfig)


def test_later_wins(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("learning_rate: 2e-5\nnum_train_epochs: 7\nmax_length: 100\n")
    found = configure(
        RMConfig,
        preset="paper",
        file=str(file),
        options={"max_length": 200, "seed": None, "output_dir": str(tmp_path)},
        settings=[CPU, "num_train_epochs=8", "targets=goal,REL"],
    )
    assert (found.learning_rate, found.max_length, found.num_train_epochs) == (2e-5, 200, 8)
    assert (found.gradient_accumulation_steps, found.seed, found.targets) == (8, 42, ["goal", "REL"])
    assert {"learning_rate", "preset", "targets"} <= changed(found).keys()


@pytest.mark.parametrize("config", [RMConfig, PolicySFTConfig, PolicyGRPOConfig])
def test_every_preset_holds_together(config: type, tmp_path: Path):
    assert {"paper", "tiny"} <= set(presets(config.kind))
    for name in presets(config.kind):
        found = configure(config, preset=name, options={"output_dir": str(tmp_path)}, settings=[CPU, "bf16=false"])
        assert found.preset == name


def test_lists_and_scientific_numbers_are_read_as_meant(tmp_path: Path):
    found = configure(
        RMConfig, options={"output_dir": str(tmp_path)}, settings=[CPU, "sentinels=-1,-2.5", "learning_rate=1e-6"]
    )
    assert (found.sentinels, found.learning_rate) == ([-1.0, -2.5], 1e-6)
    one = configure(RMConfig, options={"output_dir": str(tmp_path)}, settings=[CPU, "sentinels=-1"])
    assert one.sentinels == [-1.0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["lerning_rate=1"], "no setting 'lerning_rate'"),
        (["learning_rate"], "has no value"),
        (["learning_rate=fast"], "must be a number"),
        (["packing=dense"], "is not a valid packing"),
        (["attention=all"], "is not a valid attention"),
        (["adapter=dora"], "is not a valid adapter"),
        (["split_by=luck"], "is not a valid split_by"),
        (["per_device_train_batch_size=0"], "must be at least 1"),
        (["max_steps=0"], "must be at least 1, or -1 for whole epochs"),
        (["pad_token=[unclosed"], "cannot be read as a value of pad_token"),
        (["eval_strategy=often"], "is not a valid eval_strategy"),
        (["num_train_epochs=many"], "must be a number"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings: list[str], said: str):
    with pytest.raises(UsageError, match=said) as refused:
        configure(RMConfig, settings=[CPU, *settings])
    assert refused.value.hint
    assert "\n" not in refused.value.message


def test_one_setting_names_the_template_that_is_trained_with_and_saved():
    with pytest.raises(UsageError, match="chat_template_path is not read") as refused:
        configure(PolicySFTConfig, settings=[CPU, "chat_template_path=mine.jinja"])
    assert "--set chat_template=mine.jinja" in refused.value.hint


def test_vllm_and_reports_are_the_libraries_own_options():
    server = [
        "use_vllm=true",
        "vllm_mode=server",
        "vllm_server_base_url=http://127.0.0.1:8000",
        "report_to=tensorboard",
    ]
    found = configure(PolicyGRPOConfig, settings=[CPU, *server])
    assert (found.use_vllm, found.vllm_mode, found.vllm_server_base_url) == (True, "server", "http://127.0.0.1:8000")
    assert found.report_to == ["tensorboard"]
    colocated = configure(PolicyGRPOConfig, settings=[CPU, "use_vllm=true", "vllm_gpu_memory_utilization=0.4"])
    assert (colocated.vllm_mode, colocated.vllm_gpu_memory_utilization) == ("colocate", 0.4)


@pytest.mark.parametrize(("metric", "greater"), [("mse", False), ("loss", False), ("eval_goal_spearman", True)])
def test_the_best_checkpoint_is_the_better_one(metric: str, greater: bool):
    assert configure(RMConfig, settings=[CPU, f"metric_for_best_model={metric}"]).greater_is_better == greater


def test_the_nearest_setting_is_named():
    with pytest.raises(UsageError) as refused:
        configure(RMConfig, settings=["lerning_rate=1"])
    assert "learning_rate" in refused.value.hint


def test_without_a_preset_the_default_one_is_taken_and_later_sources_win(tmp_path: Path):
    found = configure(RMConfig, options={"output_dir": str(tmp_path)}, settings=[CPU, "bf16=false", "row_tokens=512"])
    assert (found.preset, found.gradient_checkpointing, found.learning_rate) == ("default", True, 1e-4)
    assert (found.tokens_per_device_batch, found.row_tokens) == (16384, 512)


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(UsageError, match="no preset 'papr'") as refused:
        configure(RMConfig, preset="papr")
    assert "paper" in refused.value.hint


@pytest.mark.parametrize("text", ["- a list", "key: [unclosed"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(InputError):
        configure(RMConfig, file=str(file))
    with pytest.raises(InputError, match="cannot be read"):
        configure(RMConfig, file=str(tmp_path / "absent.yaml"))
