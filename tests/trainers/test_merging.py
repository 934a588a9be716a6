"""A merged run is a whole checkpoint that stock programs read: the number is that of `score`, by any architecture.
The lines on the cards are run as they stand."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = [pytest.mark.train, pytest.mark.slow]

import numpy as np
from fixtures.promises import check_keys
from fixtures.training import act, answers_the_offer, chat_prompt, make_dataset, says_thanks, train_rm, train_sft
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    logging,
    pipeline,
    set_seed,
)

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.trainers import RewardModel, api
from sotopia_rl_data.trainers.tiny import make_tiny, tiny_tokenizer

torch.set_num_threads(1)
logging.disable_progress_bar()

PROMPT = chat_prompt("Ann", ("Ann", "Bo"), "3", ["hello there", "an offer", "well"], 2)
DIALOGUES = [
    (PROMPT, [{"role": "assistant", "content": act(text)}]) for text in ("thanks thanks", "no", "yes we could")
]
FAST = ("disable_tqdm=true", "max_steps=1", "eval_strategy=no", "save_strategy=no", "resamples=0")
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "llama": {},
    "mistral": {"sliding_window": 64},
    "gemma2": {"head_dim": 16},
    "phi3": {},
}


def base_of(kind: str, out: Path) -> str:
    """A tiny random model of this architecture, with the toys' tokenizer."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(out)
    set_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), num_key_value_heads=1, **shape, **ends, **ARCHITECTURES[kind]
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(out)
    return str(out)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    extra = {"goal": says_thanks, "knowledge": answers_the_offer}
    make_dataset(root, episodes=12, environments=6, turns=4, extra=extra, weights={"goal": 3.0, "knowledge": 1.0},
                 splits=lambda row: "train" if row["environment_id"] < "env-4" else "validation")  # fmt: skip
    return root


def by_pipeline(folder: Path) -> list[float]:
    """What a stock pipeline says of DIALOGUES."""
    stock = pipeline("text-classification", str(folder))
    texts = [stock.tokenizer.apply_chat_template([*p, *c], tokenize=False) for p, c in DIALOGUES]
    return [stock(text, add_special_tokens=False)[0]["score"] for text in texts]


def by_verl(folder: Path) -> list[float]:
    """As verl loads a reward model: a token classifier of one label, read at the last token."""
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.apply_chat_template([*p, *c], return_tensors="pt")["input_ids"] for p, c in DIALOGUES]
    with torch.no_grad():
        return [float(model(one).logits[0, -1, 0]) for one in ids]


def run_the_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The reward that each Python block of the card computes, run from where the card says the folder is."""
    monkeypatch.chdir(folder.parent)
    rewards = []
    for block in re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL):
        names: dict[str, Any] = {}
        exec(block, names)
        rewards.append(float(names["reward"]))
    return rewards


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_merged_is_adapter_is_score_is_a_stock_pipeline(kind: str, store: Path, tmp_path: Path, monkeypatch: Any):
    heads = ("targets=goal,knowledge",) if kind == "llama" else ()
    settings = [*FAST, "adapter=lora", "learning_rate=0.01", *heads]
    train_rm("toys/rewards", base_of(kind, tmp_path / "base"), tmp_path / "rm", preset="tiny", store=str(store),
             settings=settings)  # fmt: skip
    record = api.merge(tmp_path / "rm", tmp_path / "whole")
    assert record["merged"] == {"from": "rm", "dtype": "float32", "offset": 0.0}
    assert json.loads((tmp_path / "whole" / "run.json").read_text()) == record
    adapter, merged = RewardModel.load(tmp_path / "rm"), RewardModel.load(tmp_path / "whole")
    want = adapter.score_batch(DIALOGUES)
    assert np.ptp(want) > 1e-4
    for found in (merged.score_batch(DIALOGUES), by_pipeline(tmp_path / "whole"), by_verl(tmp_path / "whole")):
        assert np.abs(np.array(found) - want).max() <= 1e-5
    on_cards = [*run_the_card(tmp_path / "rm", monkeypatch), *run_the_card(tmp_path / "whole", monkeypatch)]
    assert len(on_cards) == 4  # with this project and without it, of the adapter and of the merged model
    assert on_cards == pytest.approx([on_cards[0]] * 4, abs=1e-5)


@pytest.fixture(scope="module")
def whole_run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    model = str(make_tiny(out / "base", hidden=32))
    train_rm("toys/rewards", model, out / "rm", preset="tiny", store=str(store), settings=FAST)
    return out / "rm"


def test_a_run_that_trained_every_weight_is_folded_too_and_its_card_is_right(
    whole_run: Path, tmp_path: Path, monkeypatch: Any
):
    api.merge(whole_run, tmp_path / "whole")
    assert by_pipeline(tmp_path / "whole") == pytest.approx(
        RewardModel.load(whole_run).score_batch(DIALOGUES), abs=1e-5
    )
    assert by_pipeline(tmp_path / "whole") != pytest.approx(by_pipeline(whole_run), abs=1e-3)  # other units, and place
    assert run_the_card(whole_run, monkeypatch) == pytest.approx(
        run_the_card(tmp_path / "whole", monkeypatch), abs=1e-5
    )


def test_the_template_of_a_merged_model_ends_at_the_turn_and_still_asks_for_one(whole_run: Path, tmp_path: Path):
    api.merge(whole_run, tmp_path / "whole", dtype="bfloat16")
    before, after = AutoTokenizer.from_pretrained(whole_run), AutoTokenizer.from_pretrained(tmp_path / "whole")
    talk = [*PROMPT, {"role": "assistant", "content": " ends in a blank line\n\n"}]
    text = before.apply_chat_template(talk, tokenize=False)
    assert text.endswith("<|im_end|>\n")
    assert after.apply_chat_template(talk, tokenize=False) == text.removesuffix("\n")
    asked = [one.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True) for one in (before, after)]
    assert asked[0] == asked[1]


def test_the_head_of_a_merged_model_stays_in_float32(whole_run: Path, tmp_path: Path):
    from safetensors.torch import load_file

    api.merge(whole_run, tmp_path / "whole", dtype="bfloat16")
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    assert {str(w.dtype) for name, w in weights.items() if name != "score.weight"} == {"torch.bfloat16"}
    assert weights["score.weight"].dtype == torch.float32


def test_units_with_a_mean_are_said_where_the_head_has_no_bias(whole_run: Path, tmp_path: Path):
    """As runs of before had them: their heads were trained around the mean."""
    import shutil

    shutil.copytree(whole_run, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config["reward_head"]["mean"] = [0.25]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    record = api.merge(tmp_path / "old", tmp_path / "whole")
    assert record["merged"]["offset"] == 0.25
    want = RewardModel.load(tmp_path / "old").score_batch(DIALOGUES)
    assert RewardModel.load(tmp_path / "whole").score_batch(DIALOGUES) == pytest.approx(want, abs=1e-5)
    assert np.array(by_pipeline(tmp_path / "whole")) + 0.25 == pytest.approx(want, abs=1e-5)
    assert "the reward less 0.25" in (tmp_path / "whole" / "README.md").read_text()


def test_a_policy_is_merged_into_its_base(store: Path, tmp_path: Path):
    from peft import AutoPeftModelForCausalLM

    model = str(make_tiny(tmp_path / "base", hidden=32))
    settings = ["disable_tqdm=true", "max_steps=1", "eval_strategy=no", "save_strategy=no", "learning_rate=0.05"]
    train_sft("toys/rewards", model, tmp_path / "sft", preset="tiny", store=str(store), settings=settings)
    record = api.merge(tmp_path / "sft", tmp_path / "whole")
    assert record["merged"] == {"from": "sft", "dtype": "float32"}
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        adapter = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "sft")(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")(input_ids=ids).logits
        base = AutoModelForCausalLM.from_pretrained(model)(input_ids=ids).logits
    assert (adapter - merged).abs().max() <= 1e-5
    assert (adapter - base).abs().max() > 1e-4


def test_what_cannot_be_merged_is_a_sentence_and_leaves_nothing(whole_run: Path, tmp_path: Path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        api.merge(whole_run, tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        api.merge(whole_run, tmp_path / "file" / "out")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "run.json").write_text((whole_run / "run.json").read_text())
    with pytest.raises(Exception, match="cannot be loaded") as told:
        api.merge(tmp_path / "empty", tmp_path / "out")
    assert told.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "there"]


def test_the_command_says_what_it_wrote(whole_run: Path, tmp_path: Path):
    from click.testing import CliRunner

    from sotopia_rl_data.cli.program import cli

    done = CliRunner().invoke(cli, ["merge", str(whole_run), "-o", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    check_keys("merge", json.loads(done.stdout))


def test_the_run_in_the_current_folder_is_merged_beside_it(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from click.testing import CliRunner

    from sotopia_rl_data.cli.program import cli

    monkeypatch.chdir(shutil.copytree(whole_run, tmp_path / "run"))
    done = CliRunner().invoke(cli, ["merge", "."])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run-merged" / "config.json").exists()
