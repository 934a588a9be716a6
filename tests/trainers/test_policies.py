"""Behaviour cloning and GRPO end to end: what is trained on, what is rewarded, what loads with stock code."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

import pyarrow.parquet as pq
from fixtures.training import act, logged, make_dataset, train_grpo, train_rm, train_sft
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from sotopia_rl_data.errors import InputError, NotFound, UsageError
from sotopia_rl_data.trainers.policies import ModelReward
from sotopia_rl_data.trainers.policy_trainer import below_group
from sotopia_rl_data.trainers.rewards import checked, is_action, named_rewards, valid_action
from sotopia_rl_data.trainers.tiny import make_tiny

torch.set_num_threads(1)
logging.disable_progress_bar()
QUIET = ("disable_tqdm=true",)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny(tmp_path_factory.mktemp("tiny"), hidden=32, layers=2))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    for seed in (0, 9):  # v1.0.0, and v1.1.0, which nobody asks for
        make_dataset(root, episodes=20, turns=4, seed=seed)
    return root


@pytest.fixture(scope="module")
def sft(store: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("sft")
    options: dict[str, Any] = {"preset": "tiny", "store": str(store), "where": "reward >= 0.5"}
    return out, train_sft("toys/rewards@v1.0.0", tiny, out, settings=[*QUIET, "eval_on_start=true"], **options)


@pytest.fixture(scope="module")
def rm(store: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rm")
    train_rm("toys/rewards@v1.0.0", tiny, out, preset="tiny", store=str(store), settings=QUIET)
    return out


def grpo(store: Path, tiny: str, out: Path, rm: Path, *settings: str, **options: Any) -> dict[str, Any]:
    ref = options.pop("ref", "toys/rewards@v1.0.0")
    options |= {"reward_model": str(rm), "preset": "tiny", "store": str(store)}
    return train_grpo(ref, tiny, out, settings=[*QUIET, *settings], **options)


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_cloning_imitates_those_that_were_asked_for(sft: tuple[Path, dict[str, Any]], store: Path):
    out, record = sft
    assert record["kind"] == "sft"
    assert record["dataset"]["version"] == "v1.0.0"
    assert record["config"]["where"] == "reward >= 0.5"
    assert 0 < sum(record["rows"].values()) < 80
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    held_out = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert held_out[-1] < held_out[0]  # lower on held-out environments than before the first step


def test_only_the_completion_is_learned_from(store: Path, tiny: str, tmp_path: Path):
    from sotopia_rl_data.trainers.config import PolicySFTConfig, configure
    from sotopia_rl_data.trainers.data import load_rows
    from sotopia_rl_data.trainers.encoding import Encoder, dialogues, tokenizer_of
    from sotopia_rl_data.trainers.policies import build_sft_trainer

    options = {"dataset": "toys/rewards", "model": tiny, "output_dir": str(tmp_path)}
    config = configure(PolicySFTConfig, preset="tiny", options=options)
    found = load_rows("toys/rewards", store=store, need_reward=False)
    tokenizer = tokenizer_of(config)
    trainer = build_sft_trainer(config, dialogues(found, Encoder(tokenizer, 4096), with_completion=True), tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    learned = tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100])
    assert learned.startswith('{"action_type": "speak"')
    assert learned.rstrip().endswith("<|im_end|>")


def test_the_cloned_adapter_loads_with_stock_code(sft: tuple[Path, dict[str, Any]], tiny: str):
    from peft import PeftModel

    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), sft[0])
    assert list(policy.peft_config) == ["default"]
    assert AutoTokenizer.from_pretrained(sft[0]).chat_template


def test_grpo_starts_from_the_clone_and_leaves_one_adapter(
    store: Path, tiny: str, tmp_path: Path, rm: Path, sft: tuple[Path, dict[str, Any]]
):
    from datasets import load_dataset
    from peft import PeftModel

    record = grpo(store, tiny, tmp_path, rm, policy_adapter=str(sft[0]))
    assert record["policy_adapter"] == str(sft[0])
    assert record["reward_model"]["head"]["targets"] == ["reward"]
    assert {"reward_first", "reward_last"} == record["metrics"]["train"].keys()
    assert not (tmp_path / "ref").exists()
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path)
    assert list(policy.peft_config) == ["default"]
    ids = torch.tensor([[5, 6, 7]])
    assert policy.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4).shape[1] <= 7
    logged = load_dataset("parquet", data_files=str(tmp_path / "completions/*.parquet"), split="train")
    assert len(logged) == 8
    assert {"prompt", "completion", "reward_model", "format", "advantage", "step"} <= set(logged.column_names)


def test_the_reference_is_the_clone_and_not_the_base(
    store: Path, tiny: str, tmp_path: Path, rm: Path, sft: tuple[Path, dict[str, Any]]
):
    """With one step of no size the policy is still the clone, so its divergence from the reference is nil."""
    record = grpo(store, tiny, tmp_path, rm, "beta=0.1", "learning_rate=0", "max_steps=1", policy_adapter=str(sft[0]))
    assert record["config"]["beta"] == 0.1
    (row,) = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines() if '"kl"' in x]
    assert row["kl"] == pytest.approx(0.0, abs=1e-8)  # against the base: 7e-6


def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(
    store: Path, tiny: str, tmp_path: Path, rm: Path, sft: tuple[Path, dict[str, Any]]
):
    """And from the store as from the version's own folder: the second run of each names that."""
    path = str(store / "toys/rewards/v1.0.0")
    again = train_sft(path, tiny, tmp_path / "sft", preset="tiny", where="reward >= 0.5", settings=QUIET)
    assert again["dataset"]["digest"] == sft[1]["dataset"]["digest"]
    assert weights(tmp_path / "sft") == weights(sft[0])
    sampled, refs = {}, {"same": {"ref": path}}
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        settings = ("max_steps=1", "truncated_reward=0", f"seed={seed}")
        record = grpo(store, tiny, tmp_path / name, rm, *settings, **refs.get(name, {}))
        assert record["dataset"]["digest"] == again["dataset"]["digest"]
        table = pq.read_table(tmp_path / name / "completions")
        sampled[name] = (weights(tmp_path / name), table["completion"].to_pylist())
    assert sampled["one"] == sampled["same"]
    assert sampled["one"][1] != sampled["other"][1]


def test_cloning_resumed_is_uninterrupted(store: Path, tiny: str, tmp_path: Path):
    settings = [*QUIET, "max_steps=4", "eval_steps=2", "save_steps=2", "save_total_limit=5", "lr_scheduler_type=cosine"]

    def clone(out: Path, *more: str) -> dict[str, Any]:
        return train_sft("toys/rewards", tiny, out, preset="tiny", store=str(store), settings=[*settings, *more])

    assert_resumes(tmp_path, clone)


def test_grpo_resumed_is_uninterrupted(
    store: Path, tiny: str, tmp_path: Path, rm: Path, sft: tuple[Path, dict[str, Any]]
):
    """From an adapter and kept near it: the reference, too, is what it was."""
    settings = ("max_steps=4", "save_strategy=steps", "save_steps=2", "beta=0.1", "truncated_reward=0")

    def practise(out: Path, *more: str) -> dict[str, Any]:
        return grpo(store, tiny, out, rm, *settings, *more, policy_adapter=str(sft[0]))

    assert_resumes(tmp_path, practise)


def assert_resumes(root: Path, train: Any) -> None:
    """Four steps at once are two steps, an end, and the two others."""
    whole = train(root / "whole")
    shutil.copytree(root / "whole", root / "broken")
    shutil.rmtree(root / "broken" / "checkpoint-4")
    (root / "broken" / "adapter_model.safetensors").unlink()
    again = train(root / "broken", "resume=true")
    assert again["metrics"] == whole["metrics"]
    assert weights(root / "broken") == weights(root / "whole")
    assert logged(root / "broken", until=2) == logged(root / "whole", until=2)  # these were not made again
    one, other = (
        [[row.get(name) for name in ("step", "loss", "eval_loss", "reward", "kl")] for row in logged(root / run)]
        for run in ("broken", "whole")
    )
    assert one == other


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_command_prints_the_record_alone_and_once(
    store: Path, tiny: str, tmp_path: Path, rm: Path, monkeypatch: pytest.MonkeyPatch, rank: str
):
    """Nothing of the libraries' own on stdout; of several processes, the first one speaks. Seed 0 is a seed."""
    from click.testing import CliRunner

    from sotopia_rl_data.cli.train import train

    monkeypatch.setenv("RANK", rank)
    options = (
        "--preset",
        "tiny",
        "--store",
        str(store),
        "--output",
        str(tmp_path),
        "--json",
        "--set",
        "max_steps=1",
        "--seed",
        "0",
    )
    arguments = ("grpo", "--dataset", "toys/rewards", "--model", tiny, "--reward-model", str(rm), *options)
    done = CliRunner().invoke(train, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    if rank == "1":
        assert done.stdout == ""
    else:
        assert json.loads(done.stdout) == json.loads((tmp_path / "run.json").read_text())
        assert json.loads(done.stdout)["seed"] == 0
        assert "step 1" in done.stderr


class Loud:
    """A plug-in reward."""

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float]:
        assert {"episode_id", "agent", "turn"} <= columns.keys()
        return [1.0] * len(completions)


def test_further_rewards_come_by_file_with_a_weight(store: Path, tiny: str, tmp_path: Path, rm: Path):
    record = grpo(store, tiny, tmp_path, rm, f"rewards={__file__}:Loud=0.5", "max_steps=1")
    row = next(json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines() if "rewards/" in x)
    assert row["rewards/Loud/mean"] == 1.0
    parts = row["rewards/reward_model/mean"] + 0.2 * row["rewards/format/mean"] + 0.5
    assert row["reward"] == pytest.approx(parts, abs=1e-5)
    assert record["config"]["reward_weights"] == [1.0, 0.2, 0.5]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (act("hi"), True),
        (f"<think>maybe {act('bye')}</think>\n\n{act('hi')}", True),
        (f"<think>\n\n</think>\n\n{act('hi')}", True),
        (f"<think>maybe {act('bye')}</think>", False),
        (f"<think>maybe {act('bye')}", False),
        ('{"action_type": "leave", "argument": ""}', True),
        ('{"action_type": "speak", "argument": "psst", "to": ["Bo"]}', True),
        ('{"action_type": "sing", "argument": "la"}', False),
        ('{"action_type": "speak"}', False),
        ('{"action_type": "speak", "argument": 3}', False),
        ('{"action_type": "speak", "argument": "hi", "mood": "gay"}', False),
        ('{"action_type": ["speak"], "argument": "hi"}', False),
        ('Sure! {"action_type": "speak", "argument": "hi"}', False),
        ("[" * 100_000, False),
        ("", False),
    ],
)
def test_the_form_of_an_action(text: str, valid: bool):
    assert is_action(text) == valid
    assert valid_action([None], [[{"role": "assistant", "content": text}]]) == [float(valid)]


def test_a_truncated_completion_is_worth_less_than_each_of_its_group():
    """Its group's minimum minus the sample deviation of those that ended: 0.2 - 0.4 for 0.2, 0.6 and 1.0."""
    rewards = torch.tensor([[0.2, 0.0], [0.5, 0.5], [1.0, 0.0], [9.0, 1.0]])
    ended = torch.tensor([True, True, True, False])
    shaped = below_group(rewards, ended, torch.tensor([1.0, 0.2]), 4)
    assert shaped[3].tolist() == pytest.approx([-0.2, torch.nan], nan_ok=True)
    assert shaped[:3].tolist() == rewards[:3].tolist()


def test_a_group_of_truncated_completions_has_no_reward_and_others_keep_theirs():
    rewards, weights = torch.tensor([[3.0], [3.0], [0.0], [2.0], [1.0], [7.0]]), torch.tensor([1.0])
    ended = torch.tensor([False, False, True, True, True, False])
    shaped = below_group(rewards, ended, weights, 2).flatten().tolist()
    assert shaped[:4] == pytest.approx([torch.nan, torch.nan, 0.0, 2.0], nan_ok=True)
    assert shaped[5] == pytest.approx(1.0 - 1.0)  # only one ended: the deviation of 0, 2 and 1 in the batch
    assert below_group(torch.tensor([[5.0], [5.0]]), torch.tensor([True, False]), weights, 2)[1].item() == 4.0


def test_running_into_the_limit_is_counted_and_gives_no_advantage(store: Path, tiny: str, tmp_path: Path, rm: Path):
    """A random policy does not end in two tokens, so whole groups are truncated and nothing is learned from them."""
    settings = ("truncated_reward=below", "max_completion_length=2", "beta=0", "max_steps=2")
    record = grpo(store, tiny, tmp_path, rm, *settings)
    assert record["truncated"] == {"completions": 8, "groups": 2}
    table = pq.read_table(tmp_path / "completions")
    assert table["advantage"].to_pylist() == [0.0] * 8
    rows = [row for row in logged(tmp_path) if "truncated" in row]
    assert [(row["truncated"], row["truncated_groups"]) for row in rows] == [(1.0, 1.0), (1.0, 1.0)]
    assert [row["grad_norm"] for row in rows] == [0.0, 0.0]


def test_the_reward_of_a_completion_is_that_of_its_answer_whatever_was_thought(rm: Path):
    from sotopia_rl_data.trainers import RewardModel

    prompt = [{"role": "user", "content": "hi"}]
    texts = [act("yes"), f"<plan>maybe {act('no')}</plan>\n{act('yes')}", f"maybe {act('no')}</think>{act('yes')}"]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    plain, block, closed = ModelReward(RewardModel.load(rm))([prompt] * 3, completions)
    assert (block, closed) == pytest.approx((plain, plain))


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([1.0], "returned 1 value for 2 completions"),
        (None, "returned None, which is not a list"),
        (0.5, "returned 0.5, which is not a list"),
        ("good", "returned 'good', which is not a list"),
        (["good", 1.0], "returned 'good': not a finite number"),
        ([float("inf"), 1.0], "returned inf: not a finite number"),
        ([10**5000, 1.0], "returned inf: not a finite number"),
        ([None, float("-inf")], "returned -inf: not a finite number"),
        (torch.tensor([1.0, torch.nan]), "returned nan: not a finite number"),
        ([[1.0], [2.0]], "returned [1.0]: not a finite number"),
        (KeyError("tone"), "failed: KeyError: 'tone'."),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
def test_a_reward_that_returns_what_is_no_reward_is_named(returned: Any, said: str, waits: bool):
    def kind(**columns: Any) -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    async def kind_later(**columns: Any) -> Any:
        return kind()

    def ask() -> Any:
        reward = checked(kind_later if waits else kind)
        return asyncio.run(reward([None] * 2, [None] * 2)) if waits else reward([None] * 2, [None] * 2)

    with pytest.raises(InputError, match=re.escape(said)) as refused:
        ask()
    assert str(refused.value).startswith("The reward kind")


def test_a_reward_may_be_none_and_that_is_counted_and_said_once(caplog: pytest.LogCaptureFixture):
    seen: dict[str, float] = {}
    reward = checked(lambda **columns: [None, 1, torch.tensor(2.0), True])
    for _ in range(2):
        assert reward([None] * 4, [None] * 4, log_metric=seen.__setitem__) == [None, 1.0, 2.0, 1.0]
    assert seen == {"rewards/<lambda>/none": 0.25}
    assert [record.getMessage() for record in caplog.records] == [
        "The reward <lambda> is None for 1 of 4 completions, which are judged without it (this is said once)."
    ]


class TestBadInput:
    """One sentence and the hint."""

    def test_an_unknown_reward(self):
        with pytest.raises(UsageError, match="There is no reward 'politeness'"):
            named_rewards(["politeness=0.5"])
        with pytest.raises(UsageError, match="is not a number"):
            named_rewards(["format=much"])
        with pytest.raises(UsageError, match="is not a finite number"):
            named_rewards(["format=inf"])

    def test_no_reward_model(self, store: Path, tiny: str, tmp_path: Path):
        with pytest.raises(NotFound, match="cannot be loaded"):
            grpo(store, tiny, tmp_path, tmp_path / "nowhere")

    def test_batches_that_do_not_divide(self, store: Path, tiny: str, tmp_path: Path, rm: Path):
        with pytest.raises(UsageError, match="is not valid"):
            grpo(store, tiny, tmp_path, rm, "num_generations=3")

    def test_every_weight_from_an_adapter(self, store: Path, tiny: str, tmp_path: Path, rm: Path, sft: Any):
        with pytest.raises(UsageError, match="starts from an adapter"):
            grpo(store, tiny, tmp_path, rm, "adapter=none", policy_adapter=str(sft[0]))

    def test_a_reward_model_or_judge_too_short_for_the_prompts(self, store: Path, tmp_path: Path, tiny: str, rm: Path):
        short = str(make_tiny(tmp_path / "short", hidden=16, layers=1, context=200))
        record = train_rm("toys/rewards", short, tmp_path / "rm", preset="tiny", store=str(store), settings=QUIET)
        assert record["config"]["max_length"] == 200  # by itself: what the model's context holds
        with pytest.raises(InputError, match="context of 200 tokens cannot hold"):
            grpo(store, tiny, tmp_path / "out", tmp_path / "rm", "max_completion_length=200")
        with pytest.raises(InputError, match="held-out judge's context of 200 tokens cannot hold"):
            grpo(
                *(store, tiny, tmp_path / "out", rm, "max_completion_length=200", "eval_strategy=steps"),
                held_out_judge=str(tmp_path / "rm"),
            )

    def test_a_context_that_an_answer_fills(self, store: Path, tmp_path: Path, rm: Path):
        short = str(make_tiny(tmp_path / "short", hidden=16, layers=1, context=200))
        with pytest.raises(InputError, match="No prompt fits into 0 tokens"):
            grpo(store, short, tmp_path / "out", rm, "max_completion_length=256")

    def test_a_policy_for_a_reward_model_and_the_other_way_round(
        self, store: Path, tiny: str, tmp_path: Path, rm: Path, sft: Any
    ):
        with pytest.raises(InputError, match="is not a reward model: it has no score"):
            grpo(store, tiny, tmp_path, Path(tiny))
        with pytest.raises(InputError, match="for CAUSAL_LM; one for SEQ_CLS is needed"):
            grpo(store, tiny, tmp_path, sft[0])
        train_rm("toys/rewards", tiny, tmp_path / "rm", preset="tiny", store=str(store), settings=["adapter=lora"])
        with pytest.raises(InputError, match="for SEQ_CLS; one for CAUSAL_LM is needed"):
            grpo(store, tiny, tmp_path / "out", rm, policy_adapter=str(tmp_path / "rm"))

    def test_an_adapter_of_another_model(self, store: Path, tmp_path: Path, rm: Path, sft: Any):
        other = str(make_tiny(tmp_path / "other", hidden=16, layers=2))
        with pytest.raises(InputError, match="do not have the shapes of the model"):
            grpo(store, other, tmp_path / "out", rm, policy_adapter=str(sft[0]))

    def test_a_filter_that_leaves_nothing(self, store: Path, tiny: str, tmp_path: Path):
        with pytest.raises(UsageError, match="No row"):
            train_sft("toys/rewards", tiny, tmp_path, preset="tiny", store=str(store), where="reward > 9")
