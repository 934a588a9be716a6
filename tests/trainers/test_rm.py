"""The reward model end to end: by reference, from the store and a path; stock checkpoints; honest counts and errors."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures.places import ROOT
from fixtures.promises import check_keys

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

import numpy as np
from fixtures.training import (
    act,
    answers_the_offer,
    chat_prompt,
    logged,
    make_dataset,
    says_thanks,
    toy_model,
    train_rm,
)
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

from sotopia_rl_data.errors import InputError, NotFound, SotopiaDataError, UsageError
from sotopia_rl_data.store import Store
from sotopia_rl_data.trainers import RewardModel
from sotopia_rl_data.trainers.tiny import make_tiny

torch.set_num_threads(1)
logging.disable_progress_bar()

PROMPT = chat_prompt("Ann", ("Ann", "Bo"), "3", ["hello there", "an offer", "well"], 2)
ANSWER = [{"role": "assistant", "content": act("thanks thanks")}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny(tmp_path_factory.mktemp("tiny"), hidden=32, layers=2))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    for seed in (0, 9):
        extra = {"goal": says_thanks, "knowledge": answers_the_offer}
        make_dataset(root, extra=extra, weights={"goal": 3.0, "knowledge": 1.0}, seed=seed)
    return root


def train(store: Path, tiny: str, out: Path, *settings: str, ref: str = "toys/rewards@v1.0.0") -> dict[str, Any]:
    return train_rm(ref, tiny, out, preset="tiny", store=str(store), settings=["disable_tqdm=true", *settings])


@pytest.fixture(scope="module")
def full(store: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("full")
    return out, train(store, tiny, out)


def stock_score(model: Any, folder: Path) -> Any:
    """Logits [K] by nothing but transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([*PROMPT, *ANSWER], tokenize=False).rstrip("\n")
    with torch.no_grad():
        return model.eval()(**tokenizer(text, return_tensors="pt")).logits[0].numpy()


def test_the_package_hands_out_the_reward_model_and_loads_torch_only_for_that():
    script = """
import sys
import sotopia_rl_data.trainers
import sotopia_rl_data.trainers.reward_model
assert "torch" not in sys.modules
from sotopia_rl_data.trainers import RewardModel
assert "torch" in sys.modules
assert not hasattr(sotopia_rl_data.trainers, "Rewardmodel")
print(RewardModel.__module__)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "sotopia_rl_data.trainers.reward_model.model\n"


def test_a_run_says_what_it_stands_on(full: tuple[Path, dict[str, Any]], store: Path):
    out, record = full
    assert json.loads((out / "run.json").read_text()) == record
    check_keys("train", record)
    assert record["dataset"]["version"] == "v1.0.0"
    manifest = json.loads((store / "toys/rewards/v1.0.0/manifest.json").read_text())
    assert record["dataset"]["digest"] == manifest["digest"]
    assert record["rows"] == {"train": 168, "validation": 36, "test": 36}
    assert record["packing"]["rows"] == "tree"
    assert record["config"]["preset"] == "tiny"
    names = ("mse", "mae", "r2", "pearson", "spearman", "pair_accuracy", "calibration_error")
    for split in ("validation", "test"):
        found = record["metrics"][split]
        assert {*names, *(f"{baseline}_{name}" for baseline in ("mean", "turn") for name in names[:3])} <= found.keys()
        for name in names[:-1]:
            assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if "loss" in row] == [1, 2]
    assert (out / "metrics.png").read_bytes().startswith(b"\x89PNG")


def test_a_pinned_version_is_trained_on_after_a_newer_one_is_out(store: Path, tiny: str, tmp_path: Path, full: Any):
    latest = train(store, tiny, tmp_path / "latest", ref="toys/rewards")
    assert latest["dataset"]["version"] == "v1.1.0"
    assert latest["dataset"]["digest"] != full[1]["dataset"]["digest"]
    by_path = train(store, tiny, tmp_path / "path", ref=str(store / "toys/rewards/v1.0.0"))
    assert by_path["dataset"]["digest"] == full[1]["dataset"]["digest"]
    assert by_path["metrics"]["test"]["mse"] == full[1]["metrics"]["test"]["mse"]  # two runs, one seed, equal


def test_the_stock_model_loads_it_and_scores_the_same(full: tuple[Path, dict[str, Any]]):
    out, _ = full
    ours = RewardModel.load(out)
    stock = AutoModelForSequenceClassification.from_pretrained(out)
    assert type(stock).__name__ == "Qwen2ForSequenceClassification"
    reward = float(stock_score(stock, out)[0] * ours.head.std[0] + ours.head.mean[0])
    assert ours.score(PROMPT, ANSWER) == pytest.approx(reward, abs=1e-6)


def test_the_adapter_loads_with_peft_and_with_transformers_head_included(store: Path, tiny: str, tmp_path: Path):
    from peft import PeftModel

    train(store, tiny, tmp_path, "adapter=lora")
    ours = RewardModel.load(tmp_path)
    base = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    by_peft = stock_score(PeftModel.from_pretrained(base, tmp_path), tmp_path)
    by_auto = stock_score(AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1), tmp_path)
    want = ours.score(PROMPT, ANSWER)
    assert [float(x[0] * ours.head.std[0] + ours.head.mean[0]) for x in (by_peft, by_auto)] == pytest.approx(
        [want] * 2, abs=1e-6
    )


def test_several_heads_are_one_reward_as_in_the_recipe(store: Path, tiny: str, tmp_path: Path):
    record = train(store, tiny, tmp_path, "targets=goal,KNO")
    assert record["head"]["targets"] == ["goal", "knowledge"]
    assert record["head"]["weights"] == [3.0, 1.0]
    measured = record["metrics"]["test"]
    assert {"goal_spearman", "knowledge_mse"} <= measured.keys()
    assert {f"{b}_{t}_mse" for b in ("mean", "turn") for t in ("goal", "knowledge")} <= measured.keys()
    ours = RewardModel.load(tmp_path)
    heads = ours.score_heads([(PROMPT, ANSWER)])
    assert heads.shape == (1, 2)
    assert ours.score(PROMPT, ANSWER) == pytest.approx(heads[0] @ [0.75, 0.25])


def test_a_reward_is_only_known_where_all_that_makes_it_is():
    from sotopia_rl_data.trainers.reward_model.head import RewardHead

    head = RewardHead(("goal", "knowledge", "belief"), (1.0, 3.0, 0.0), (0.0,) * 3, (1.0,) * 3)
    known = head.known([[2.0, 4.0, np.nan], [2.0, np.nan, 1.0]])
    assert known[0] == 3.5
    assert np.isnan(known[1])


def test_rows_without_one_of_several_targets_are_learned_from_and_not_measured(tmp_path: Path, tiny: str):
    def forget(row: dict[str, Any]) -> None:
        row["norm_goal"] = None if row["turn"] == 2 else row["norm_goal"]

    extra = {"goal": says_thanks, "knowledge": answers_the_offer}
    ref = make_dataset(tmp_path, extra=extra, change=forget)
    record = train(tmp_path, tiny, tmp_path / "out", "targets=goal,knowledge", ref=ref)
    assert (sum(record["rows"].values()), record["dropped"]["no reward"]) == (240, 0)
    assert np.isfinite(list(record["metrics"]["test"].values())).all()
    gone = make_dataset(tmp_path, "toys/gone", extra=extra, change=lambda row: row.update(norm_goal=None))
    with pytest.raises(InputError, match="has no value of 'goal'"):
        train(tmp_path, tiny, tmp_path / "gone", "targets=goal,knowledge", ref=gone)


def test_batches_are_scored_as_one_by_one_in_any_order(full: tuple[Path, dict[str, Any]]):
    ours = RewardModel.load(full[0], row_tokens=200)
    dialogues = [(PROMPT[: 2 + 2 * i], act("thanks " * j)) for i in range(2) for j in range(4)] + [("hi", "hello")]
    alone = [ours.score(*d) for d in dialogues]
    assert np.ptp(alone) > 1e-3
    assert ours.score_batch(dialogues) == pytest.approx(alone, abs=1e-6)
    assert ours.score_batch(reversed(dialogues)) == pytest.approx(alone[::-1], abs=1e-6)


def test_plain_rows_train_the_same_model_as_packed_rows(store: Path, tiny: str, tmp_path: Path):
    """Sequential order and whole-split steps, so that both see the same utterances in one step."""
    ref = make_dataset(store, "toys/few", episodes=20, turns=4)
    same = ("train_sampling_strategy=sequential", "max_steps=1", "eval_steps=1", "save_steps=1", "optim=sgd")
    packed = train(store, tiny, tmp_path / "t", *same, "packing=tree", "per_device_train_batch_size=28", ref=ref)
    plain = train(store, tiny, tmp_path / "p", *same, "packing=none", "per_device_train_batch_size=56", ref=ref)
    assert packed["rows"]["train"] == 56
    assert (packed["packing"]["rows"], plain["packing"]["rows"]) == ("tree", "none")
    assert plain["metrics"]["test"]["mse"] == pytest.approx(packed["metrics"]["test"]["mse"], abs=1e-6)


def test_resumed_is_uninterrupted(store: Path, tiny: str, tmp_path: Path):
    settings = ("max_steps=6", "save_steps=2", "eval_steps=2", "save_total_limit=5", "lr_scheduler_type=cosine")
    whole = train(store, tiny, tmp_path / "whole", *settings)
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "whole", broken)
    for name in ("checkpoint-4", "checkpoint-6"):
        shutil.rmtree(broken / name)
    (broken / "model.safetensors").unlink()
    again = train(store, tiny, broken, *settings, "resume=true")
    assert again["metrics"] == whole["metrics"]
    one, other = (load_file(p / "model.safetensors") for p in (tmp_path / "whole", broken))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert logged(broken, until=2) == logged(tmp_path / "whole", until=2)  # these were not made again
    assert [row["step"] for row in logged(broken)] == [row["step"] for row in logged(tmp_path / "whole")]


def test_a_checkpoint_says_what_it_stands_on_and_is_gone_on_from_on_purpose_and_on_the_same_rows(
    full: tuple[Path, dict[str, Any]], store: Path, tiny: str
):
    out, record = full
    known = json.loads((out / "checkpoint-2" / "run.json").read_text())
    assert known == {**{name: record[name] for name in ("kind", "model", "dataset")}, "config": known["config"]}
    assert (known["config"]["adapter"], known["config"]["targets"]) == ("none", [])
    with pytest.raises(UsageError, match="has checkpoints of an earlier run") as refused:
        train(store, tiny, out)
    assert "--resume" in refused.value.hint
    with pytest.raises(UsageError, match=r"was trained on toys/rewards@v1\.0\.0") as refused:
        train(store, tiny, out, "resume=true", ref="toys/rewards")
    assert "--dataset toys/rewards@v1.0.0" in refused.value.hint
    with pytest.raises(UsageError, match=r"was trained with targets=\[\]; this run has targets=\['goal'\]"):
        train(store, tiny, out, "resume=true", "targets=goal")
    assert json.loads((out / "run.json").read_text()) == record


def test_what_an_earlier_run_logged_is_not_the_new_ones(tmp_path: Path):
    from sotopia_rl_data.trainers.run_folder import RunFolder

    folder = RunFolder(tmp_path)
    (tmp_path / "completions").mkdir()
    for until, left in ((1, [0, 1]), (0, [])):
        (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(3)))
        for step in range(1, 3):
            (tmp_path / "completions" / f"completions_{step:05d}.parquet").touch()
        folder.keep_until(until)
        assert [row["step"] for row in folder.metrics()] == left
        assert len(list((tmp_path / "completions").iterdir())) == until


def test_patience_is_of_no_account_where_nobody_looks(tmp_path: Path):
    """As `--preset default --set eval_strategy=no` has it."""
    model, dataset = toy_model(tmp_path / "model"), make_dataset(tmp_path)
    settings = ["use_cpu=true", "bf16=false", "eval_strategy=no", "max_steps=1"]
    record = train_rm(dataset, model, tmp_path / "out", preset="default", store=str(tmp_path), settings=settings)
    assert record["config"]["patience"]


def test_the_best_checkpoint_is_kept_and_training_stops_when_nothing_gets_better(store: Path, tmp_path: Path):
    """A learning rate that first helps and then breaks everything: the best step is neither the last nor lost."""
    model = toy_model(tmp_path / "model")
    settings = ("max_steps=100", "eval_steps=4", "save_steps=4", "learning_rate=0.03", "lr_scheduler_type=constant")
    wide = ("per_device_train_batch_size=16", "per_device_eval_batch_size=64", "patience=2", "resamples=0")
    settings = (*settings, *wide, "save_total_limit=20")
    record = train(store, model, tmp_path / "out", *settings)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    held_out = {row["step"]: row["eval_mse"] for row in rows if "eval_mse" in row}
    best = min(held_out, key=lambda step: held_out[step])
    assert record["best"] == {"metric": "mse", "value": held_out[best], "step": best}
    assert max(held_out) == best + 2 * 4 < 100  # two evaluations without a gain
    assert record["metrics"]["validation"]["mse"] == held_out[best]
    shutil.copytree(tmp_path / "out", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / f"checkpoint-{best + 8}")
    again = train(store, model, tmp_path / "broken", *settings, "resume=true")  # after one of the two
    assert (again["best"], again["metrics"]) == (record["best"], record["metrics"])
    assert [row["step"] for row in logged(tmp_path / "broken")] == [row["step"] for row in logged(tmp_path / "out")]
    from sotopia_rl_data.trainers.data import load_rows

    model, rows_of = RewardModel.load(tmp_path / "out"), load_rows("toys/rewards@v1.0.0", store=store)
    known = list(rows_of.read("validation"))
    found = model.score_batch([(r.prompt, r.completion) for r in known])
    assert np.mean((found - [r.reward for r in known]) ** 2) == pytest.approx(held_out[best], rel=1e-4)


def test_missing_rewards_are_dropped_and_counted(tmp_path: Path, tiny: str):
    def spoil(row: dict[str, Any]) -> None:
        row["reward"] = None if row["turn"] == 2 else row["reward"]

    record = train(tmp_path, tiny, tmp_path / "out", ref=make_dataset(tmp_path, change=spoil))
    assert record["dropped"]["no reward"] == 40
    assert sum(record["rows"].values()) == 200


def test_over_long_prompts_are_cut_to_the_models_context_and_counted(store: Path, tiny: str, tmp_path: Path):
    record = train(store, str(make_tiny(tmp_path / "short", hidden=32, layers=2, context=300)), tmp_path / "out")
    assert record["cut"]["prompts"] > 0
    assert record["cut"]["turns"] >= record["cut"]["prompts"]
    with pytest.raises(InputError, match="No prompt fits into 20 tokens"):
        train(store, tiny, tmp_path / "none", "max_length=20")


def test_weighing_by_spread_trusts_agreement_more(tmp_path: Path, tiny: str):
    from sotopia_rl_data.trainers.config import RMConfig, configure
    from sotopia_rl_data.trainers.data import load_rows
    from sotopia_rl_data.trainers.reward_model.rows import prepare

    options = {"model": tiny, "output_dir": str(tmp_path / "out"), "weigh_by_spread": True}
    config = configure(RMConfig, preset="tiny", options=options)
    prepared = prepare(load_rows(make_dataset(tmp_path), store=tmp_path), config)
    trained_on = prepared.utterances["train"]
    by_spread = dict(zip(trained_on.stored.spread(), (one.weights[0] for one in trained_on), strict=True))
    assert by_spread[0.0] > by_spread[0.1] > by_spread[0.3]
    assert by_spread[0.1] == pytest.approx(by_spread[0.0] / 2)
    assert np.mean([one.weights[0] for one in trained_on]) == pytest.approx(1.0)


def test_weighing_without_spread_is_one_sentence(tmp_path: Path, tiny: str):
    ref = make_dataset(tmp_path, change=lambda row: row.update(spread=None))
    with pytest.raises(InputError, match="No row has a spread"):
        train(tmp_path, tiny, tmp_path / "out", "weigh_by_spread=true", ref=ref)


def test_an_architecture_that_cannot_be_packed_trains_plainly(store: Path, tmp_path: Path):
    """Gemma 2 caps its attention scores, which scaled-dot-product attention cannot."""
    from transformers import Gemma2Config, Gemma2ForSequenceClassification

    from sotopia_rl_data.trainers.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "gemma")
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, pad_token_id=0, eos_token_id=2, bos_token_id=None, num_labels=1,
    )  # fmt: skip
    Gemma2ForSequenceClassification(config).save_pretrained(tmp_path / "gemma")
    record = train(store, str(tmp_path / "gemma"), tmp_path / "out")
    assert record["packing"]["rows"] == "none"
    ours = RewardModel.load(tmp_path / "out")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    reward = stock_score(stock, tmp_path / "out")[0] * ours.head.std[0] + ours.head.mean[0]
    assert ours.score_batch([(PROMPT, ANSWER), ("hi", "hello")])[0] == pytest.approx(reward, abs=1e-6)
    passes: list[int] = []
    ours.model.register_forward_hook(lambda _model, _inputs, output: passes.append(len(output.logits)))
    several = [("hi " * length, "hello") for length in range(1, 9)]
    assert ours.score_batch(several) == pytest.approx([ours.score(*one) for one in several], abs=1e-6)
    assert passes == [8, *[1] * 8]  # in one batch, then one by one
    with pytest.raises(UsageError, match="needs a model that scores several tokens of a row"):
        train(store, str(tmp_path / "gemma"), tmp_path / "tree", "packing=tree")


def test_its_scores_join_a_dataset_as_one_more_judge(full: tuple[Path, dict[str, Any]], store: Path, tmp_path: Path):
    from sotopia_rl_data import open_dataset
    from sotopia_rl_data.trainers.api import score

    shutil.copytree(store, tmp_path / "store")
    made = score("toys/rewards", str(full[0]), store=tmp_path / "store")
    check_keys("score", made)
    assert (made["ref"], made["created"], made["rows"]) == ("toys/rewards@v1.2.0", True, 240)
    joined = "SELECT a.*, r.prompt, r.completion FROM attributions a JOIN rewards r USING (episode_id, agent, turn)"
    rows = open_dataset(made["ref"], tmp_path / "store").sql(joined).to_pylist()
    assert {(r["judge"], r["schema"], r["measure"], r["dimension"]) for r in rows} == {
        (made["judge"], "reward-model", "quality", "reward")
    }
    one = RewardModel.load(full[0])
    assert made["judge"] == f"rm:{one.identity}"
    assert rows[7]["raw"] == pytest.approx(one.score(rows[7]["prompt"], rows[7]["completion"]), abs=1e-6)
    from sotopia_rl_data.agreement import agreement
    from sotopia_rl_data.stats import stats

    version = Store(tmp_path / "store").resolve(made["ref"])
    (told,) = stats(version).judges
    assert (told.judge, told.schema, told.dimension, told.labels) == (made["judge"], "reward-model", "reward", 240)
    compared = agreement([version], of="rewards", resamples=0)
    pair = compared.pair(version.ref, f"{made['judge']} · reward-model", "reward")
    against = "SELECT corr(r.reward, a.raw) FROM rewards r JOIN attributions a USING (episode_id, agent, turn)"
    (wanted,) = open_dataset(made["ref"], tmp_path / "store").sql(against).column(0).to_pylist()
    assert (pair.units, pair.figures["pearson"].value) == (240, pytest.approx(wanted, abs=1e-9))
    again = score("toys/rewards", str(full[0]), store=tmp_path / "store")
    assert (again["ref"], again["created"]) == (made["ref"], False)


def test_a_run_can_be_looked_at(full: tuple[Path, dict[str, Any]], tmp_path: Path):
    from sotopia_rl_data.trainers.api import inspect_run

    found = inspect_run(full[0])
    check_keys("inspect", found)
    assert found["kind"] == "rm"
    assert found["logged"][0]["step"] == 2
    with pytest.raises(NotFound, match="is not a run"):
        inspect_run(tmp_path)
    with pytest.raises(NotFound, match="no folder"):
        inspect_run(tmp_path / "absent")
    for text, said in (("{", "is damaged"), ("{}", "is not the record of a run"), ("[]", "is not the record of a run")):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(InputError, match=said):
            inspect_run(tmp_path)


def test_progress_is_one_short_line():
    from sotopia_rl_data.trainers.callbacks import log_line

    logged = {"loss": 0.81234, "learning_rate": 1e-4, "grad_norm": 3.0}
    assert log_line(5, logged) == "step 5  loss 0.812  learning_rate 0.0001"
    held = {
        "eval_mse": 0.0123,
        "eval_mse_low": 0.01,
        "eval_mse_high": 0.02,
        "eval_mean_mse": 0.117,
        "eval_turn_mse": 0.1,
    }
    assert log_line(9, held) == "step 9  validation mse 0.0123 [0.01, 0.02] (mean 0.117, turn 0.1)"
    assert log_line(1, {"train_runtime": 3.0}) == ""


class TestBadInput:
    """One sentence and the hint."""

    def test_no_such_model(self, store: Path, tmp_path: Path):
        with pytest.raises(NotFound, match="cannot be loaded"):
            train(store, str(tmp_path / "nowhere"), tmp_path / "out")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("nope", "there is no folder ./nope, and the Hub is not asked, because HF_HUB_OFFLINE is set."),
            ("./nope", "there is no folder ./nope."),
            ("runs/rm/nope", "there is no folder runs/rm/nope."),
        ],
    )
    def test_a_name_of_no_model_says_where_it_was_looked_for(self, name: str, reason: str):
        with pytest.raises(NotFound) as refused:
            RewardModel.load(name)
        assert refused.value.message == f"The model {name!r} cannot be loaded: {reason}"

    def test_no_such_column(self, store: Path, tiny: str, tmp_path: Path):
        with pytest.raises(NotFound, match="norm_secret"):
            train(store, tiny, tmp_path, "targets=secret")

    def test_an_empty_split(self, tmp_path: Path, tiny: str):
        ref = make_dataset(tmp_path, splits=lambda row: "test" if row["environment_id"] == "env-1" else "train")
        with pytest.raises(UsageError, match=r"validation split of .* is empty") as refused:
            train(tmp_path, tiny, tmp_path / "out", ref=ref)
        assert "split_by=grouped" in refused.value.hint
        assert train(tmp_path, tiny, tmp_path / "o1", "eval_strategy=no", ref=ref)["rows"]["validation"] == 0
        assert train(tmp_path, tiny, tmp_path / "o2", "split_by=grouped", ref=ref)["rows"]["validation"] > 0

    def test_a_dataset_that_cannot_be_divided(self, tmp_path: Path, tiny: str, caplog: pytest.LogCaptureFixture):
        ref = make_dataset(tmp_path, episodes=1, environments=1, splits=lambda row: "train")
        with pytest.raises(UsageError, match="nothing can be held out"):
            train(tmp_path, tiny, tmp_path / "out", ref=ref)
        assert train(tmp_path, tiny, tmp_path / "out", "eval_strategy=no", ref=ref)["splits_by"] == "none"
        assert "evaluates nothing" in caplog.text

    def test_a_missing_extra(self, store: Path, tiny: str, tmp_path: Path):
        absent = "import sys; sys.modules['torch'] = None\nfrom sotopia_rl_data.cli.program import main\nmain()"
        command = ["train", "rm", "--dataset", "toys/rewards", "--model", tiny, "--store", str(store)]
        done = subprocess.run(
            [sys.executable, "-c", absent, *command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 2
        assert "Training needs torch, which is not installed." in done.stderr
        assert "pip install 'sotopia-rl-data[train]'" in done.stderr

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (["metric_for_best_model=accuracy"], "'accuracy' is not a valid metric_for_best_model"),
            (["adapter=lora", "lora_target_modules=nosuch"], "these settings: No modules were targeted"),
        ],
    )
    def test_settings_that_nothing_knows(self, store: Path, tiny: str, tmp_path: Path, settings: list[str], said: str):
        with pytest.raises(UsageError, match=said):
            train(store, tiny, tmp_path, *settings)

    def test_pad_is_eos(self, store: Path, tiny: str, tmp_path: Path):
        with pytest.raises(InputError, match="padding token"):
            train(store, tiny, tmp_path, "pad_token=<|im_end|>")

    def test_an_output_that_cannot_be_written(self, store: Path, tiny: str, tmp_path: Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot be written"):
            train(store, tiny, tmp_path / "file" / "out")

    def test_a_reward_model_with_another_tokenizer(self, full: Any, tmp_path: Path):
        shutil.copytree(full[0], tmp_path / "rm")
        from sotopia_rl_data.trainers.tiny import tiny_tokenizer

        tiny_tokenizer(text=["quite other words " * 3]).save_pretrained(tmp_path / "rm")
        with pytest.raises(InputError, match="not the one it was trained with"):
            RewardModel.load(tmp_path / "rm")
        tiny_tokenizer(vocab=3000, text=[chr(c) * 2 + " " for c in range(0x4E00, 0x5200)]).save_pretrained(
            tmp_path / "rm"
        )
        with pytest.raises(InputError, match="has token ids up to"):
            RewardModel.load(tmp_path / "rm")

    def test_a_prompt_longer_than_the_context(self, full: Any):
        with pytest.raises(InputError, match="does not fit into the 50 tokens"):
            RewardModel.load(full[0], max_length=50).score("word " * 100, "yes")

    def test_out_of_memory(self):
        from sotopia_rl_data.trainers.modeling import oom_hint

        with pytest.raises(SotopiaDataError, match="ran out of memory") as told, oom_hint("lower row_tokens"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        assert told.value.hint == "lower row_tokens"

    def test_qlora_without_bitsandbytes(self, store: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # how Python is told that there is none
        with pytest.raises(UsageError, match="QLoRA needs bitsandbytes"):
            train(store, tiny, tmp_path, "adapter=qlora")


def test_qlora_trains_where_bitsandbytes_is_installed(store: Path, tmp_path: Path):
    """On a CPU its weights cannot be trained any more once they were evaluated: nothing is, before the end."""
    pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    model = toy_model(tmp_path / "model", hidden=128)
    record = train(store, model, tmp_path / "out", "adapter=qlora", "self_check=false", "eval_strategy=no")
    assert record["config"]["adapter"] == "qlora"
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    assert np.isfinite(RewardModel.load(tmp_path / "out").score(PROMPT, ANSWER))
