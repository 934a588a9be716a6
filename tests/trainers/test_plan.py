"""A plan is what the run takes: weights, gradients and optimiser to the byte, activations as autograd saves them."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = [pytest.mark.train, pytest.mark.slow]

from click.testing import CliRunner
from fixtures.screens import show, wider
from fixtures.training import make_dataset, toy_model
from transformers import AutoConfig, TrainerCallback, logging

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.trainers import api
from sotopia_rl_data.trainers.config import PolicyDPOConfig, PolicyGRPOConfig, PolicySFTConfig, RMConfig, configure
from sotopia_rl_data.trainers.memory import (
    GIB,
    ActivationCounts,
    Gpus,
    counted,
    in_bfloat16,
    loss_of,
    meta_model,
    static_of,
)
from sotopia_rl_data.trainers.settings import preset_values, presets
from sotopia_rl_data.trainers.tiny import tiny_tokenizer

torch.set_num_threads(1)
logging.disable_progress_bar()

TINY = ("disable_tqdm=true", "max_steps=1", "eval_strategy=no", "save_strategy=no")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plan")
    make_dataset(root, episodes=20, environments=20, turns=6)
    toy_model(root / "model", layers=3)
    return root


def configured(root: Path, kind: Any = RMConfig, *settings: str, model: str = "model", **options: Any) -> Any:
    options = {
        "dataset": "toys/rewards", "store": str(root), "model": str(root / model), "output_dir": str(root / "out"),
    } | options  # fmt: skip
    return configure(kind, options=options, settings=[*TINY, "use_cpu=true", "bf16=false", *settings])


def size(tensors: Any) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


class Counts(TrainerCallback):  # type: ignore[misc]
    """What a run really has, at its first step."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.weights = size([*model.parameters(), *model.buffers()])
        self.gradients = size(one.grad for one in model.parameters() if one.grad is not None)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        states = [value for of_one in optimizer.state.values() for value in of_one.values()]
        self.optimizer = size(value for value in states if isinstance(value, torch.Tensor))


def trained(config: Any) -> Counts:
    """A run of one step, counted."""
    found = Counts()
    if config.kind == "rm":
        from sotopia_rl_data.trainers.data import load_rows
        from sotopia_rl_data.trainers.reward_model.rows import prepare
        from sotopia_rl_data.trainers.reward_model.trainer import build_trainer, load_model

        prepared = prepare(load_rows(config.dataset, store=config.store), config)
        build_trainer(config, prepared, load_model(config, prepared), [found]).train()
    else:
        from sotopia_rl_data.trainers.api import TrainingRun
        from sotopia_rl_data.trainers.encoding import tokenizer_of
        from sotopia_rl_data.trainers.policies import build_sft_trainer

        tokenizer = tokenizer_of(config)
        dialogues = TrainingRun(config, need_reward=False).dialogues(tokenizer, config.max_length)
        build_sft_trainer(config, dialogues, tokenizer, [found]).train()
    return found


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
@pytest.mark.parametrize("kind", [RMConfig, PolicySFTConfig])
def test_weights_gradients_and_optimiser_are_counted_to_the_byte(root: Path, kind: Any, adapter: str, optim: str):
    config = configured(root, kind, f"adapter={adapter}", f"optim={optim}")
    real, planned = trained(config), static_of(meta_model(config), config)
    assert (planned.weights, planned.gradients, planned.optimizer) == (real.weights, real.gradients, real.optimizer)


@pytest.mark.parametrize("checkpointing", ["true", "false"])
@pytest.mark.parametrize(
    "settings", [("adapter=none",), ("adapter=lora", "dtype=bfloat16", "bf16=true"), ("packing=none",)]
)
def test_activations_are_what_autograd_saves_on_a_cpu(root: Path, settings: tuple[str, ...], checkpointing: str):
    from sotopia_rl_data.trainers.data import load_rows
    from sotopia_rl_data.trainers.encoding import Encoder, tokenizer_of
    from sotopia_rl_data.trainers.plan import batched_as_trained, sample_of
    from sotopia_rl_data.trainers.reward_model.rows import prepare
    from sotopia_rl_data.trainers.reward_model.trainer import load_model

    config = configured(root, RMConfig, *settings, f"gradient_checkpointing={checkpointing}")
    data = load_rows(config.dataset, store=config.store)
    model = load_model(config, prepare(data, config)).train()
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    encoder = Encoder(tokenizer_of(config), config.max_length)
    meta = meta_model(config)
    batch = batched_as_trained(config, sample_of(data), data.counts()["train"], encoder, meta).largest
    assert ("tree" in batch) == ("packing=none" not in settings)
    with counted(model) as saved, torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(config.bf16)):
        loss_of(model, config, batch)
    planned = ActivationCounts().of(meta, config, batch)
    assert planned.saved == pytest.approx(saved.bytes, rel=0.1)
    assert (planned.recomputed > 0) == config.gradient_checkpointing


@pytest.fixture(scope="module")
def seven(root: Path) -> Path:
    """The shape of a 7B model, without weights: a plan reads none."""
    tokenizer_model = root / "seven"
    tiny_tokenizer().save_pretrained(tokenizer_model)
    AutoConfig.for_model(
        "qwen2", vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, max_position_embeddings=32768,
    ).save_pretrained(tokenizer_model)  # fmt: skip
    return root


def test_a_model_of_seven_billion_is_planned_without_its_weights_and_told_what_to_lower(seven: Path):
    settings = ("use_cpu=false", "max_steps=-1", "num_train_epochs=3")
    whole = api.plan(configured(seven, RMConfig, *settings, "adapter=none", model="seven"), "1x80GB")
    assert whole["parameters"] == whole["trainable"] > 7e9
    assert not whole["fits"]
    assert whole["bytes"]["gradients"] == 4 * whole["parameters"]
    assert any(setting.startswith("adapter=") for setting in whole["lower"])
    tight = api.plan(configured(seven, RMConfig, *settings, "adapter=lora", model="seven"), "8x12GB")
    assert tight["lower"][-1] == "adapter=qlora"
    assert tight["rows_a_step"] == 8 * whole["rows_a_step"]
    assert tight["bytes"]["gradient_buckets"] == tight["bytes"]["gradients"]


def test_grpo_counts_the_reward_model_the_cache_and_the_reference(root: Path):
    settings = ("num_generations=4", "per_device_train_batch_size=8", "gradient_accumulation_steps=2")
    found = api.plan(
        configured(root, PolicyGRPOConfig, *settings, "adapter=none", "beta=0.1", reward_model=str(root / "model")),
        "1x24GB",
    )
    assert found["bytes"]["reference"] == found["bytes"]["gradients"]
    shape = AutoConfig.from_pretrained(root / "model")
    a_token = 2 * 3 * shape.num_key_value_heads * (shape.hidden_size // shape.num_attention_heads) * 2
    assert found["bytes"]["kv_cache"] % (16 * a_token) == 0  # 16 completions at once
    assert found["bytes"]["reward_model"] > 0
    assert found["fits"]


def test_dpo_counts_two_rows_a_pair_and_the_reference(root: Path):
    make_dataset(root, "toys/pairs", episodes=40, environments=20, turns=1)
    whole, adapter = (
        api.plan(configured(root, PolicyDPOConfig, f"adapter={adapter}", dataset="toys/pairs"), "1x24GB")
        for adapter in ("none", "lora")
    )
    assert whole["bytes"]["reference"] == whole["bytes"]["gradients"] > 0  # a second model
    assert adapter["bytes"]["reference"] == 0  # the adapter is switched off
    assert whole["rows_a_step"] == 16  # pairs
    cloned = api.plan(configured(root, PolicySFTConfig, "adapter=none", dataset="toys/pairs"), "1x24GB")
    one, other = (report["tokens_a_step"] / report["rows_a_step"] for report in (whole, cloned))
    assert one == pytest.approx(2 * other, rel=0.05)


def test_fewer_rows_of_grpo_are_the_same_step_with_one_generation(root: Path):
    from sotopia_rl_data.trainers.plan import _fewer_rows

    settings = ("num_generations=4", "per_device_train_batch_size=8", "gradient_accumulation_steps=2")
    changed = _fewer_rows(configured(root, PolicyGRPOConfig, *settings, reward_model=str(root / "model")))
    assert changed == {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "steps_per_generation": 16,
    }  # fmt: skip
    assert _fewer_rows(configured(root, RMConfig, *settings[1:])).keys() == changed.keys() - {"steps_per_generation"}


@pytest.mark.parametrize("kind", [RMConfig, PolicySFTConfig, PolicyGRPOConfig])
def test_a_plan_without_rows_is_refused_as_the_training_is(root: Path, kind: Any):
    grpo = {"reward_model": str(root / "model")} if kind is PolicyGRPOConfig else {}
    short = "max_prompt_length=8" if grpo else "max_length=8"
    with pytest.raises(InputError, match="No prompt fits into 8 tokens"):
        api.plan(configured(root, kind, short, **grpo))
    with pytest.raises(UsageError, match="train split of toys/rewards is empty"):
        api.plan(configured(root, kind, **grpo, where="split = 'validation'"))


@pytest.mark.parametrize(("settings", "is_half"), [((), True), (("bf16=false",), False), (("fp16=true",), False)])
def test_a_plan_counts_bfloat16_unless_it_is_told_otherwise(root: Path, settings: tuple[str, ...], is_half: bool):
    options = {"dataset": "toys/rewards", "model": str(root / "model"), "output_dir": str(root / "out")}
    assert in_bfloat16(configure(RMConfig, options=options, settings=[*TINY, *settings])) == is_half


def test_the_command_shows_it_trains_nothing_and_gives_json(root: Path, tmp_path: Path):
    arguments = [
        "train", "sft", "--dataset", "toys/rewards", "--store", str(root), "--model", str(root / "model"), "--plan",
        "--gpus", "8x80GB", "-o", str(tmp_path / "run"),
    ]  # fmt: skip
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0, shown.output
    assert "It fits on 8 x 80 GB" in shown.output
    for columns in (40, 80, 120):
        assert wider(show(*arguments, columns=columns), columns) == []
    found = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert found["gpus"] == {"count": 8, "bytes_each": 80 * GIB}
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["80GB", "0x80GB", "8x", "eight"])
def test_gpus_that_are_not_named_as_they_should_are_told(text: str):
    with pytest.raises(UsageError, match="does not name GPUs"):
        Gpus.parse(text)


GPUS = {"default": "1x80GB", "1x24gb": "1x24GB", "1x80gb": "1x80GB", "8x80gb": "8x80GB"}


PLANNED = [
    (kind, preset)
    for kind in (RMConfig, PolicySFTConfig, PolicyDPOConfig, PolicyGRPOConfig)
    for preset in presets(kind.kind)
]


@pytest.mark.long
@pytest.mark.parametrize(("kind", "preset"), [(kind, preset) for kind, preset in PLANNED if preset in GPUS])
def test_a_preset_fits_the_gpus_that_it_is_named_after_with_its_longest_rows(seven: Path, kind: Any, preset: str):
    from sotopia_rl_data.trainers.plan import Sample, report_of
    from sotopia_rl_data.trainers.reward_model.attention import tree_inputs
    from sotopia_rl_data.trainers.reward_model.tree import pack

    there = "http://127.0.0.1:1" if preset == "1x24gb" else str(seven / "seven")
    options = {"model": str(seven / "seven"), "dataset": "toys/rewards", "output_dir": str(seven / "out")}
    options |= {"reward_model": there} if kind is PolicyGRPOConfig else {}
    config = configure(
        kind, preset=preset, options=options, settings=["use_vllm=false"] if kind is PolicyGRPOConfig else []
    )
    rows = config.per_device_train_batch_size
    if kind is RMConfig:
        batch = tree_inputs(pack([list(range(config.tokens_per_device_batch))]))
    elif kind is PolicySFTConfig:
        longest = config.tokens_per_device_batch // config.max_length
        batch = {"input_ids": torch.zeros(longest, config.max_length, dtype=torch.long)}
    elif kind is PolicyDPOConfig:
        batch = {"input_ids": torch.zeros(2 * rows, config.max_length, dtype=torch.long)}
    else:
        longest = config.max_prompt_length + config.max_completion_length
        batch = {"input_ids": torch.zeros(rows, longest, dtype=torch.long)}
        config.use_vllm = "vllm_mode" in preset_values("grpo", preset)
    sample = Sample(batch, 1.0, 1000, kind is RMConfig)
    report = report_of(config, (meta_model(config), sample), ActivationCounts(), Gpus.parse(GPUS[preset]))
    print(preset, kind.kind, {name: round(size / GIB, 2) for name, size in report["bytes"].items()})
    assert report["fits"]
