"""DPO end to end: which pairs are found, what TRL is given, what is measured on held-out pairs, what is refused."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = [pytest.mark.train, pytest.mark.slow]

from click.testing import CliRunner
from fixtures.training import (
    FAST,
    NAMES,
    chat_prompt,
    logged,
    make_dataset,
    quarters,
    toy_model,
    train_dpo,
    train_sft,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, EvalPrediction, logging

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.exporters.training import export_training
from sotopia_rl_data.store import Store
from sotopia_rl_data.trainers.config import PolicyDPOConfig, configure
from sotopia_rl_data.trainers.data import DatasetRow, load_rows
from sotopia_rl_data.trainers.encoding import Encoder
from sotopia_rl_data.trainers.pairs import ELSEWHERE, encoded_pairs, paired, tokenised_pairs
from sotopia_rl_data.trainers.preferences import build_dpo_trainer

torch.set_num_threads(1)
logging.disable_progress_bar()
QUIET = ("disable_tqdm=true",)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty prompts with four completions each, of which the best thanks most; twenty are held out."""
    root = tmp_path_factory.mktemp("pairs")
    make_dataset(root, episodes=320, environments=80, turns=1, splits=quarters)
    toy_model(root / "model")
    return root


@pytest.fixture(scope="module")
def sft(root: Path) -> Path:
    train_sft("toys/rewards", str(root / "model"), root / "sft", preset="tiny", store=str(root), settings=QUIET)
    return root / "sft"


def prefer(root: Path, out: Path, *settings: str, **options: Any) -> dict[str, Any]:
    ref, model = options.pop("ref", "toys/rewards"), options.pop("model", str(root / "model"))
    return train_dpo(
        ref, model, out, **{"preset": "tiny", "store": str(root), "settings": [*QUIET, *settings]} | options
    )


def test_a_pair_is_the_best_and_the_worst_completion_of_a_prompt_as_they_are_exported(root: Path, tmp_path: Path):
    data = load_rows("toys/rewards", store=root)
    pairs = paired(data, evaluating=True)
    assert pairs.counts() == {"train": 80, "validation": 40, "test": 40}
    assert pairs.dropped[next(reversed(pairs.dropped))] == 320 - 160
    export_training(Store(root).resolve("toys/rewards"), "trl-preference", tmp_path / "out")
    for split in pairs.sizes:
        rows = pairs.of(split)
        found = [
            {
                "prompt": list(best.prompt),
                "chosen": list(best.completion),
                "rejected": list(worst.completion),
                "margin": best.reward - worst.reward,
            }
            for best, worst in zip(rows[::2], rows[1::2], strict=True)
        ]
        exported = [json.loads(line) for line in (tmp_path / "out" / f"{split}.jsonl").read_text().splitlines()]
        assert sorted(found, key=str) == sorted(exported, key=str)
        assert all(best.prompt == worst.prompt for best, worst in zip(rows[::2], rows[1::2], strict=True))


def test_a_prompt_of_two_splits_is_trained_on_and_not_held_out(root: Path):
    """Episodes of five scenes are in both; those of the others are held out."""

    def by_episode(row: dict[str, Any]) -> str:
        number = int(row["episode_id"].removeprefix("ep-"))
        return "train" if number % 10 < 5 and number < 100 else "validation"

    make_dataset(root, "toys/by-episode", episodes=200, environments=10, turns=1, splits=by_episode)
    rows = load_rows("toys/by-episode", store=root, split_by="stored")
    pairs = paired(rows, evaluating=True)
    prompts = {split: set(pairs.index(split)["episode_id"].to_pylist()) for split in pairs.sizes}
    assert not prompts["train"] & prompts["validation"]
    assert pairs.counts() == {"train": 10, "validation": 10, "test": 0}
    assert pairs.dropped[ELSEWHERE] == 10
    make_dataset(root, "toys/scene", episodes=80, environments=1, turns=1, splits=lambda row: "train")
    with pytest.raises(UsageError, match=r"validation split of toys/scene has no prompt .* not trained on") as refused:
        paired(load_rows("toys/scene", store=root), evaluating=True)
    assert refused.value.hint == "--set eval_strategy=no trains without evaluating"


def test_trl_is_given_the_tokens_that_it_would_make_of_the_messages(root: Path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = paired(load_rows("toys/rewards", store=root), evaluating=True)
    tokenizer = AutoTokenizer.from_pretrained(root / "model")
    ours = tokenised_pairs(pairs, Encoder(tokenizer, 4096, "dpo")).splits["validation"]
    rows = pairs.of("validation")
    texts = [
        {"prompt": list(best.prompt), "chosen": list(best.completion), "rejected": list(worst.completion)}
        for best, worst in zip(rows[::2], rows[1::2], strict=True)
    ]
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer._tokenizer = tokenizer
    arguments = DPOConfig(output_dir=str(root / "unused"), use_cpu=True, bf16=False, max_length=4096)
    theirs = trainer._prepare_dataset(Dataset.from_list(texts), tokenizer, arguments, "eval")
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert ours[name] == theirs[name]


def test_a_prompt_is_cut_for_the_longer_of_its_two_completions(root: Path):
    tokenizer = AutoTokenizer.from_pretrained(root / "model")
    prompt = tuple(chat_prompt("Ann", NAMES, "1", ["offer"] * 6, 6))
    said = ("thanks " * 40, "thanks")
    rows = [
        DatasetRow("train", "a pair", "", "", None, prompt, ({"role": "assistant", "content": text},)) for text in said
    ]
    whole, short = Encoder(tokenizer).encode([(row.prompt, row.completion) for row in rows])
    assert whole is not None
    assert short is not None
    most = len(whole.ids) - 1
    assert len(short.ids) < most
    table, counts = encoded_pairs(rows, Encoder(tokenizer, most, "dpo"))
    assert counts == {"turns": 2, "prompts": 1, "too_long": 0}
    for name, text in zip(("chosen_ids", "rejected_ids"), said, strict=True):
        read = tokenizer.decode(table.column("prompt_ids")[0].as_py() + table.column(name)[0].as_py())
        assert "[2 turns are left out here]" in read
        assert read.endswith(f"<|im_start|>assistant\n{text}<|im_end|>\n")
    assert encoded_pairs(rows, Encoder(tokenizer, 45, "dpo"))[1] == {"turns": 0, "prompts": 0, "too_long": 1}


def test_the_first_loss_is_ln_2_and_the_preference_rises_on_held_out_pairs(root: Path, tmp_path: Path):
    steps = ("max_steps=40", "eval_steps=40", "save_steps=40", "eval_on_start=true", "adapter=none")
    record = prefer(root, tmp_path, *FAST, *steps, "learning_rate=0.003", "per_device_train_batch_size=8")
    rows = logged(tmp_path)
    first = next(row for row in rows if "eval_loss" in row)
    assert first["step"] == 0
    assert first["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)  # the policy is the reference
    assert first["eval_margin"] == first["eval_accuracy"] == 0
    assert next(row["loss"] for row in rows if "loss" in row) == pytest.approx(math.log(2), abs=1e-6)
    found = record["metrics"]["validation"]
    assert found["reference_loss"] == math.log(2)
    assert found["accuracy"] >= 0.9 > found["reference_accuracy"]
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
    assert found["margin"] == pytest.approx(found["chosen_reward"] - found["rejected_reward"])
    assert found["loss"] < math.log(2)
    assert record["pairs"] == {"train": 40, "validation": 20, "test": 20}
    assert record["rows"] == {"train": 80, "validation": 40, "test": 40}


def test_the_held_out_figures_are_the_formula_over_all_pairs(root: Path, tmp_path: Path):
    """Whatever the batches: seven do not divide twenty. The models are read anew, one completion at a time."""
    record = prefer(root, tmp_path, "adapter=none", "beta=0.3", "per_device_eval_batch_size=7", "learning_rate=0.01")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    after, before = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path, root / "model"))
    pairs = paired(load_rows("toys/rewards", store=root), evaluating=True)
    rows = tokenised_pairs(pairs, Encoder(tokenizer, 4096, "dpo")).splits["validation"]

    def likelihood(model: Any, prompt: list[int], answer: list[int]) -> float:
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(dim=-1)
        return float(logits.gather(1, torch.tensor(answer)[:, None]).sum())

    gains = {
        name: [likelihood(after, r["prompt_ids"], r[name]) - likelihood(before, r["prompt_ids"], r[name]) for r in rows]
        for name in ("chosen_ids", "rejected_ids")
    }
    margins = [0.3 * (a - b) for a, b in zip(gains["chosen_ids"], gains["rejected_ids"], strict=True)]
    known = [
        likelihood(before, r["prompt_ids"], r["chosen_ids"]) > likelihood(before, r["prompt_ids"], r["rejected_ids"])
        for r in rows
    ]
    longer = [len(r["chosen_ids"]) > len(r["rejected_ids"]) for r in rows]
    found = record["metrics"]["validation"]
    assert found["loss"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 20, abs=1e-5)
    assert found["accuracy"] == pytest.approx(sum(m > 0 for m in margins) / 20)
    assert found["margin"] == pytest.approx(sum(margins) / 20, abs=1e-5)
    assert found["reference_accuracy"] == sum(known) / 20
    assert found["length_accuracy"] == sum(longer) / 20
    assert not {name for row in logged(tmp_path) for name in row if name.startswith("eval_rewards/")}


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_loss_of_the_held_out_pairs_is_the_one_that_trl_trains_with(root: Path, tmp_path: Path, adapter: str):
    options = {"dataset": "toys/rewards", "model": str(root / "model"), "output_dir": str(tmp_path)}
    quiet = [*QUIET, f"adapter={adapter}", "resamples=0"]
    config = configure(PolicyDPOConfig, preset="tiny", options=options, settings=quiet)
    pairs = paired(load_rows("toys/rewards", store=root), evaluating=True)
    tokenizer = AutoTokenizer.from_pretrained(root / "model")
    trainer = build_dpo_trainer(config, tokenised_pairs(pairs, Encoder(tokenizer, 4096, "dpo")), tokenizer)
    with torch.no_grad():  # as if it had learned something
        for one in trainer.model.parameters():
            if one.requires_grad:
                one.add_(0.05 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0)))
    trainer.model.eval()
    batch = next(iter(trainer.get_eval_dataloader()))
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, batch))
    assert abs(theirs - math.log(2)) > 1e-3
    _, predictions, labels = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
    ours = trainer.compute_metrics(EvalPrediction(predictions.numpy(), labels.numpy()))
    assert ours["loss"] == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("starts_from_adapter", [False, True])
def test_a_resumed_run_is_uninterrupted_and_leaves_one_adapter(
    root: Path, sft: Path, tmp_path: Path, starts_from_adapter: bool
):
    from peft import PeftModel

    options = {"policy_adapter": str(sft)} if starts_from_adapter else {}
    steps = ("max_steps=4", "save_total_limit=5", "lr_scheduler_type=cosine")
    whole = prefer(root, tmp_path / "whole", *steps, **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoint-4")
    again = prefer(root, tmp_path / "broken", *steps, "resume=true", **options)
    assert again["metrics"] == whole["metrics"]
    weights = [(tmp_path / run / "adapter_model.safetensors").read_bytes() for run in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert whole["policy_adapter"] == options.get("policy_adapter")
    assert not (tmp_path / "whole" / "ref").exists()
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(root / "model"), tmp_path / "whole")
    assert list(policy.peft_config) == ["default"]


@pytest.mark.parametrize("evaluating", [("eval_steps=1", "save_steps=1"), ("eval_strategy=no", "save_strategy=no")])
def test_the_reference_is_the_adapter_that_the_policy_starts_from(
    root: Path, sft: Path, tmp_path: Path, evaluating: tuple[str, ...]
):
    """Also where nothing is evaluated before the end."""
    settings = ("max_steps=1", "learning_rate=0", *evaluating)
    record = prefer(root, tmp_path, *settings, policy_adapter=str(sft))
    assert record["metrics"]["validation"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert record["metrics"]["validation"]["accuracy"] == 0


def test_a_dataset_without_pairs_is_told_how_to_get_some(root: Path, tmp_path: Path):
    make_dataset(root, "toys/single", episodes=20, environments=20, turns=1)
    with pytest.raises(UsageError, match="toys/single has no prompt with several completions") as refused:
        prefer(root, tmp_path, ref="toys/single")
    assert "rollout --repeat 8" in refused.value.hint
    make_dataset(root, "toys/equal", episodes=40, environments=20, turns=1, reward=lambda text, before: 0.5)
    with pytest.raises(UsageError, match="several completions of different rewards"):
        prefer(root, tmp_path, ref="toys/equal")


def test_held_out_prompts_of_one_completion_are_said_before_the_training(root: Path, tmp_path: Path):
    several = lambda row: "train" if row["environment_id"] in ("env-0", "env-1") else "validation"  # noqa: E731
    make_dataset(root, "toys/few", episodes=22, environments=20, turns=1, splits=several)
    with pytest.raises(UsageError, match="The validation split of toys/few has no prompt with several") as refused:
        prefer(root, tmp_path, ref="toys/few")
    assert "eval_strategy=no" in refused.value.hint


def test_imported_preferences_are_trained_on_by_the_command(root: Path, tmp_path: Path):
    """From rows of prompt, chosen and rejected, as the refusal says; and the plan counts two rows a pair."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Number {i}?"}],
            "chosen": [{"role": "assistant", "content": f"thanks {i}"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for i in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = ["--store", str(tmp_path / "store")]
    imported = CliRunner().invoke(cli, ["import", str(tmp_path / "pairs.jsonl"), "--name", "lab/pairs", *store])
    assert imported.exit_code == 0, imported.output
    assert "train dpo --dataset lab/pairs" in imported.output
    train = ["train", "dpo", "--dataset", "lab/pairs", "--model", str(root / "model"), "--preset", "tiny", *store]
    train += ["-o", str(tmp_path / "run")]
    planned = CliRunner().invoke(cli, [*train, "--plan", "--json"])
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["rows_a_step"] == 2
    done = CliRunner().invoke(cli, train)
    assert done.exit_code == 0, done.output
    assert "pairs train" in done.output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["splits_by"] == "dataset"  # an import divides its rows
    assert sum(record["pairs"].values()) == 40
    assert min(record["pairs"].values()) > 0
    assert record["metrics"]["validation"]["reference_loss"] == math.log(2)
    assert "rollout --a transformers:" in done.output
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "run")])
    assert "pairs train" in shown.output
    assert "trained on preferences by DPO" in (tmp_path / "run" / "README.md").read_text()
    merged = CliRunner().invoke(cli, ["merge", str(tmp_path / "run"), "-o", str(tmp_path / "merged")])
    assert merged.exit_code == 0, merged.output
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
