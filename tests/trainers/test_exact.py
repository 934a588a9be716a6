"""Packed rows give the scores and gradients of plain ones; a step is a step whatever its rows, batches and padding."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

import numpy as np
from fixtures.training import act, chat_prompt, single_prompt, speak
from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

from sotopia_rl_data.trainers.encoding import Encoder
from sotopia_rl_data.trainers.reward_model.attention import NAME, can_read_many, read_many, tree_inputs
from sotopia_rl_data.trainers.reward_model.rows import (
    LabelledUtterance,
    PlainBatch,
    PlainRows,
    one_each_group,
    tree_batch,
)
from sotopia_rl_data.trainers.reward_model.tree import pack
from sotopia_rl_data.trainers.tiny import make_tiny

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

NAMES = ("Ann O'Hara", "Bo-Li")
SCHEMA = "\n.\nYou are at Turn #TURN. Answer by the schema: " + str({"action_type": "string", "argument": "string"})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"), hidden=32, layers=2)


def classifier(path: Path, heads: int = 1, lora: bool = False, implementation: str = NAME) -> Any:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=heads, attn_implementation=implementation
    )
    read_many(model)
    if not lora:
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model, LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear", init_lora_weights=False)
    )


def random_tree(seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    grown: list[list[int]] = [[rng.randrange(3, 400)]]
    for _ in range(rng.randrange(2, 12)):
        stem = rng.choice(grown)
        grown.append(
            stem[: rng.randrange(0, len(stem) + 1)] + [rng.randrange(3, 400) for _ in range(rng.randrange(1, 25))]
        )
    return grown


def dialogue(tiny: Path, layout: str, turns: int = 8) -> list[tuple[int, ...]]:
    """The utterances of one episode-agent, as ids, in each layout."""
    rng = random.Random(5)
    said = [speak(rng) for _ in range(turns)]
    pairs = []
    for turn in range(0, turns, 2):
        prompt = (chat_prompt if layout == "chat" else single_prompt)(NAMES[0], NAMES, "7", said[:turn], turn)
        if layout == "learned":
            prompt = [{"role": "user", "content": prompt[0]["content"] + SCHEMA.replace("TURN", str(turn))}]
        pairs.append((prompt, [{"role": "assistant", "content": act(said[turn])}]))
    encoder = Encoder(AutoTokenizer.from_pretrained(tiny))
    return [e.ids for e in encoder.encode(pairs) if e is not None]


def loss_and_gradients(
    model: Any, batches: list[dict[str, Any]], targets: list[list[float]]
) -> tuple[Any, dict[str, Any]]:
    model.zero_grad()
    scores = torch.cat([model(**batch).logits[:, 0] for batch in batches])
    ((scores - torch.tensor([t for part in targets for t in part])) ** 2).mean().backward()
    return scores.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def alone(ids: Any) -> dict[str, Any]:
    return {"input_ids": torch.tensor([list(ids)]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}


def assert_tree_equals_plain(model: Any, sequences: list[Any]) -> None:
    targets = np.linspace(-1, 1, len(sequences)).tolist()
    plain, want = loss_and_gradients(model, [alone(s) for s in sequences], [[t] for t in targets])
    packed, got = loss_and_gradients(model, [tree_inputs(pack(sequences))], [targets])
    assert (plain - packed).abs().max() <= 1e-6
    assert want.keys() == got.keys()
    for name, gradient in want.items():
        assert (gradient - got[name]).norm() <= 1e-5 * (gradient.norm() + 1e-3), name


@pytest.mark.parametrize("seed", range(6))
def test_random_trees_give_plain_scores_and_gradients(tiny: Path, seed: int):
    assert_tree_equals_plain(classifier(tiny), random_tree(seed))


@pytest.mark.parametrize("layout", ["chat", "single", "learned"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_dialogues_give_plain_scores_and_gradients(tiny: Path, layout: str, lora: bool, checkpointing: bool):
    model = classifier(tiny, lora=lora).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_tree_equals_plain(model, dialogue(tiny, layout))


def test_the_chat_layout_packs_into_one_run(tiny: Path):
    tree = pack(dialogue(tiny, "chat"))
    assert len(tree.segments) == 1
    assert tree.ratio > 2


def test_completions_of_one_prompt_share_it(tiny: Path):
    rng = random.Random(1)
    prompt = single_prompt(NAMES[0], NAMES, "1", ["hello there"], 1)
    pairs = [(prompt, [{"role": "assistant", "content": act(speak(rng))}]) for _ in range(8)]
    ids = [e.ids for e in Encoder(AutoTokenizer.from_pretrained(tiny)).encode(pairs) if e]
    assert_tree_equals_plain(classifier(tiny), ids)


def test_a_sliding_window_is_kept_to(tiny: Path):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tiny)
    config.use_sliding_window, config.sliding_window, config.max_window_layers = True, 7, 1
    config.layer_types = ["full_attention", "sliding_attention"]
    config.num_labels = 1
    torch.manual_seed(0)
    model = read_many(AutoModelForSequenceClassification.from_config(config, attn_implementation=NAME))
    assert_tree_equals_plain(model, random_tree(3))


def test_prompts_that_a_simulator_served_pack_exactly(recordings, tiny: Path):
    served = recordings.episodes / "v014" / "served_prompts.jsonl"
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in map(json.loads, served.read_text(encoding="utf-8").splitlines()):
        if row.get("agent") and row.get("completion"):
            pair = ([{"role": "user", "content": row["prompt"]}], [{"role": "assistant", "content": row["completion"]}])
            groups.setdefault((row["episode_id"], row["agent"]), []).append(pair)
    longest = max(groups.values(), key=len)[:5]
    encoder = Encoder(AutoTokenizer.from_pretrained(tiny))
    ids = [e.ids for e in encoder.encode(longest) if e]
    assert pack(ids).ratio > 1.5
    assert_tree_equals_plain(classifier(tiny), ids)


@pytest.mark.slow
def test_flex_attention_gives_the_same_scores(tiny: Path):
    """By its reference implementation, which the compiled kernels are held to; compiling takes half a minute."""
    torch.compiler.set_stance("force_eager")
    sequences = random_tree(2)
    with torch.no_grad():
        want = classifier(tiny)(**tree_inputs(pack(sequences))).logits
        got = classifier(tiny, implementation="flex_attention")(**tree_inputs(pack(sequences))).logits
    torch.compiler.set_stance("default")
    assert (want - got).abs().max() <= 1e-6


@pytest.mark.parametrize("implementation", [NAME, "flex_attention"])
@pytest.mark.parametrize("kind", ["Mistral", "Gemma3Text", "Olmo3", "Phi3"])
def test_layers_with_a_sliding_window_see_that_far_in_a_tree(kind: str, implementation: str):
    """Of Mistral and Phi 3 every layer has one, of Gemma 3 and Olmo 3 every other. FlexAttention as in that test."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=500, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=16,
        num_key_value_heads=2, num_labels=1, pad_token_id=0, eos_token_id=2, bos_token_id=None, sliding_window=7,
        max_position_embeddings=512, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = read_many(AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")).eval()
    sequences = random_tree(2)
    with torch.no_grad():
        plain = torch.cat([model(**alone(sequence)).logits for sequence in sequences])
        torch.compiler.set_stance("force_eager")
        model.set_attn_implementation(implementation)
        packed = model(**tree_inputs(pack(sequences))).logits
        model.set_attn_implementation("sdpa")
        torch.compiler.set_stance("default")
    assert (plain - packed).abs().max() <= 1e-6
    config.sliding_window = 500  # the window matters here: without it the scores are others
    with torch.no_grad():
        torch.manual_seed(0)
        wide = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa").eval()
        seen = torch.cat([wide(**alone(sequence)).logits for sequence in sequences])
    assert (plain - seen).abs().max() > 0.1 * (plain.max() - plain.min())


def test_without_a_tree_the_model_is_the_stock_model(tiny: Path):
    torch.manual_seed(0)
    stock = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    ids = torch.tensor([random_tree(0)[-1]])
    mask = torch.ones_like(ids)
    assert torch.equal(stock(ids, attention_mask=mask).logits, classifier(tiny)(ids, attention_mask=mask).logits)
    assert can_read_many(classifier(tiny))
    assert not can_read_many(stock)  # its attention is not ours


def samples(seed: int = 0, count: int = 12, heads: int = 2) -> list[LabelledUtterance]:
    """Three episode-agents, growing prefixes, two heads, one target missing in the first utterance."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        stem = np.random.default_rng(100 + i % 3).integers(3, 400, 60)
        ids = np.concatenate([stem[: 10 + 3 * i], rng.integers(3, 400, 4), [2]]).astype(np.int32)
        labels, weights = rng.normal(size=heads), np.full(heads, 1 / heads)
        if i == 0:
            labels[1], weights = 0.0, np.array([1.0, 0.0])
        found.append(
            LabelledUtterance(i, ("episode", str(i % 3)), ids, labels.astype(np.float32), weights.astype(np.float32))
        )
    return found


def step(tiny: Path, out: Path, rows: Any, collate: Any, batch: int, accumulate: int) -> tuple[dict[str, Any], float]:
    """The weights after one optimiser step over all rows, and the loss that was logged."""
    from sotopia_rl_data.trainers.config import RMConfig
    from sotopia_rl_data.trainers.reward_model.trainer import RewardTrainer

    config = RMConfig(
        output_dir=str(out),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        max_steps=1,
        logging_steps=1,
        learning_rate=1e-2,
        optim="sgd",
        max_grad_norm=1e9,
        eval_strategy="no",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = RewardTrainer(
        model=classifier(tiny, heads=2),
        args=config,
        data_collator=collate,
        train_dataset=rows,
        compute_metrics=lambda prediction: {},
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}, losses[0]


def assert_same_step(one: tuple[dict[str, Any], float], other: tuple[dict[str, Any], float]) -> None:
    assert one[1] == pytest.approx(other[1], abs=1e-5)
    for name, weight in one[0].items():
        assert (weight - other[0][name]).abs().max() <= 1e-6, name


def test_a_step_is_the_same_however_it_is_cut_and_packed(tiny: Path, tmp_path: Path):
    plain, packed = PlainRows(samples()), one_each_group(samples(), row_tokens=10_000)
    pad = PlainBatch(0)
    whole = step(tiny, tmp_path, plain, pad, batch=12, accumulate=1)
    assert_same_step(whole, step(tiny, tmp_path, plain, pad, batch=1, accumulate=12))
    assert_same_step(whole, step(tiny, tmp_path, plain, pad, batch=5, accumulate=3))  # 5 + 5 + 2
    assert_same_step(whole, step(tiny, tmp_path, packed, tree_batch, batch=3, accumulate=1))
    assert_same_step(whole, step(tiny, tmp_path, packed, tree_batch, batch=1, accumulate=3))
    narrow = one_each_group(samples(), row_tokens=50)
    assert len(narrow) > len(packed)
    assert_same_step(whole, step(tiny, tmp_path, narrow, tree_batch, batch=2, accumulate=len(narrow)))


def test_the_logged_loss_is_the_mean_over_utterances(tiny: Path, tmp_path: Path):
    found = samples()
    model = classifier(tiny, heads=2).eval()
    with torch.no_grad():
        errors = [
            (torch.from_numpy(s.weights) * (model(**alone(s.ids)).logits[0] - torch.from_numpy(s.labels)) ** 2)
            .sum()
            .item()
            for s in found
        ]
    _, logged = step(tiny, tmp_path, PlainRows(found), PlainBatch(0), batch=4, accumulate=3)
    assert logged == pytest.approx(np.mean(errors), rel=1e-4)


def test_padding_left_is_padding_right(tiny: Path):
    model = classifier(tiny, heads=2).eval()
    rows = PlainRows(samples())
    with torch.no_grad():
        left, right = (
            model(
                **{
                    k: v
                    for k, v in PlainBatch(0, side)(rows).items()
                    if k in ("input_ids", "attention_mask", "position_ids")
                }
            )
            for side in ("left", "right")
        )
    assert (left.logits - right.logits).abs().max() <= 1e-6
