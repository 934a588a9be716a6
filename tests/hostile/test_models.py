"""What a stranger sends as a model: its own Python is never run, and a "y" on stdin changes nothing; what is damaged is
refused with a sentence."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

from fixtures.training import make_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from sotopia_rl_data.asking.local import check_adapter_settings
from sotopia_rl_data.cli import program
from sotopia_rl_data.errors import InputError, NotFound, Rejected
from sotopia_rl_data.labelers.judges.transformers import Transformers, load_causal_model
from sotopia_rl_data.request import Request, Target
from sotopia_rl_data.trainers.reward_model.model import RewardModel
from sotopia_rl_data.trainers.tiny import make_tiny

ROOT = Path(__file__).parents[2]
NEVER = "it brings Python code of its own, which is never run"
OWN = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification"), "mod.Own")
IN_A_CONFIG = {  # transformers makes a model of this inside of its own, and asks although it was told never to
    "model_type": "gemma3",
    "text_config": {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 2048},
    "vision_config": {"model_type": "blip_vision_model", "auto_map": {"AutoModel": "./evil--mod.Own"}},
}
KINDS = {"its own kind": {"model_type": "evil", "auto_map": OWN}, "a config within a config": IN_A_CONFIG}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of rewards, and a reward model and a policy without fault."""
    root = tmp_path_factory.mktemp("root")
    make_dataset(root / "store", episodes=10, turns=2)
    make_tiny(root / "model", hidden=16, layers=1)
    model = AutoModelForSequenceClassification.from_pretrained(
        make_tiny(root / "rm", hidden=16, layers=1), num_labels=1
    )
    model.save_pretrained(root / "rm")
    return root


def change(path: Path, *, of: Path, **settings: Any) -> Path:
    """A model like `of`, with these settings in its config.json and a mod.py that writes a file where it is run."""
    shutil.copytree(of, path)
    (path / "mod.py").write_text(f"open({str(path / 'RAN')!r}, 'w').close()\n", encoding="utf-8")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | settings), encoding="utf-8")
    return path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence of the error and the hint with which a command ends; nothing else may be asked or shown."""
    with pytest.raises(SystemExit):
        program.main(arguments)
    told = capsys.readouterr()
    assert "[y/N]" not in told.out + told.err
    (sentence,) = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert "bug" not in sentence
    assert "hint: " in told.err
    return sentence


HEAD = {"targets": ["reward"], "weights": [1.0], "mean": [0.0], "std": [1.0], "tokenizer": ""}
HEADS = {
    "a list": [], "a number": 5, "empty": {}, "no targets": {**HEAD, "targets": None},
    "a number for a name": {**HEAD, "targets": [1]},
    "two targets": {name: of * 2 for name, of in HEAD.items()}, "no weights": {**HEAD, "weights": None},
    "text": {**HEAD, "mean": ["a"]}, "one too many": {**HEAD, "mean": [0.0, 0.0]}, "an object": {**HEAD, "std": [{}]},
    "infinite": {**HEAD, "std": [float("inf")]}, "no tokenizer": {**HEAD, "tokenizer": 5},
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_that_is_none_is_a_sentence(root: Path, tmp_path: Path, head: Any):
    change(tmp_path / "evil", of=root / "rm", reward_head=head)
    with pytest.raises(InputError, match=r"The reward_head of .*evil is damaged\."):
        RewardModel.load(tmp_path / "evil", device="cpu")


CONFIGS = {
    "text for a width": {"hidden_size": "x"}, "no width": {"hidden_size": 0}, "no heads": {"num_attention_heads": 0},
    "no keys": {"num_key_value_heads": 0}, "no layers": {"num_hidden_layers": 0},
    "too many layers": {"num_hidden_layers": 10**7},
    "padding beyond": {"pad_token_id": 10**9}, "a text for padding": {"pad_token_id": "x"},
    "a text for a length": {"max_position_embeddings": "x"}, "a kernel": {"_attn_implementation": "evil/kernel"},
}  # fmt: skip


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_transformers_cannot_use_is_a_sentence(root: Path, tmp_path: Path, settings: dict[str, Any]):
    change(tmp_path / "evil", of=root / "rm", **settings)
    with pytest.raises((InputError, NotFound), match=r"The model '.*evil' cannot be loaded: "):
        RewardModel.load(tmp_path / "evil", device="cpu")
    judge = Transformers(Target("transformers", "evil", "", {}), partial(load_causal_model, str(tmp_path / "evil")))
    (reply,) = judge.answers([Request(judge.target, [{"role": "user", "content": "Hello?"}])])
    assert isinstance(reply, Rejected)
    assert reply.message.startswith("The model evil cannot answer: ")


@pytest.fixture(scope="module")
def adapter(root: Path) -> Path:
    """An adapter of a reward model without fault."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(root / "model", num_labels=1)
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])
    get_peft_model(model, lora).save_pretrained(root / "adapter")
    return root / "adapter"


def adapter_with(path: Path, adapter: Path, settings: dict[str, Any]) -> Path:
    """A copy of an adapter with these settings."""
    shutil.copytree(adapter, path)
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    return path


ENDLESS = "(.+)+(.+)+(.+)+!"
OTHERS_WITHOUT_END = (".?" * 40 + "!", ".{0,99}" * 9 + "!", "(?x)(?:.+) +!", "(?:.|.)*!")
EXPRESSIONS: dict[str, dict[str, Any]] = {
    "target_modules": {"target_modules": ENDLESS}, "exclude_modules": {"exclude_modules": ENDLESS},
    "rank_pattern": {"rank_pattern": {ENDLESS: 1}}, "alpha_pattern": {"alpha_pattern": {ENDLESS: 1}},
    "layers_pattern": {"layers_to_transform": [0], "layers_pattern": [ENDLESS]},
    "modules_to_save": {"modules_to_save": [ENDLESS]},
}  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), EXPRESSIONS.items(), ids=EXPRESSIONS)
def test_an_expression_of_an_adapter_is_refused_before_it_is_tried_without_end(
    adapter: Path, tmp_path: Path, name: str, settings: dict[str, Any]
):
    folder = adapter_with(tmp_path / "evil", adapter, settings)
    reason = f"its {name} is an expression that takes too long to try"
    with pytest.raises(NotFound, match=reason):
        RewardModel.load(folder, device="cpu")
    with pytest.raises(ValueError, match=reason):
        load_causal_model(str(adapter.parent / "model"), str(folder))


def test_an_adapter_beside_a_models_weights_is_refused_for_its_expression_too(
    root: Path, adapter: Path, tmp_path: Path
):
    folder = adapter_with(tmp_path / "evil", adapter, EXPRESSIONS["target_modules"])
    shutil.copytree(root / "model", folder, dirs_exist_ok=True)
    options = ["--dataset", "toys/rewards", "--preset", "tiny", "--store", str(root / "store")]
    for trainer in ("sft", "rm"):
        arguments = ["train", trainer, "--model", str(folder), "--output", str(tmp_path / "out"), *options]
        with pytest.raises(NotFound, match="its target_modules is an expression that takes too long to try"):
            program.cli.main(arguments, standalone_mode=False)


@pytest.mark.parametrize("pattern", OTHERS_WITHOUT_END)
def test_an_expression_without_end_is_found_by_trying_it(tmp_path: Path, pattern: str):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"target_modules": pattern}), encoding="utf-8")
    with pytest.raises(ValueError, match="its target_modules is an expression that takes too long to try"):
        check_adapter_settings(tmp_path / "adapter_config.json")


@pytest.mark.parametrize(
    "named",
    [
        *("all-linear", ".*q_proj", r"^(?:(?!visual).)*(?:q_proj|k_proj)$", r"(?:model\.)*layers\.\d+\..*proj"),
        r"(?:.*?(?:vision|language).*?(?:attn|mlp).*?proj)|\bmodel\.layers\.[\d]{1,}\.mlp",
        "|".join(rf".*language_model.*{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")),
    ],
)
def test_names_and_expressions_of_an_adapters_modules_are_taken(adapter: Path, tmp_path: Path, named: str):
    settings = {"target_modules": named, "rank_pattern": {r"^model\.layers\.0\.self_attn.q_proj": 2}}
    assert check_adapter_settings(adapter_with(tmp_path / "good", adapter, settings) / "adapter_config.json") is None
    assert RewardModel.load(adapter, device="cpu").head.targets == ("reward",)


@pytest.mark.parametrize("settings", [{"peft_type": "POLY"}, {"target_modules": ["q_proj"], "r": "x"}])
def test_an_adapter_that_cannot_be_used_is_a_sentence(adapter: Path, tmp_path: Path, settings: dict[str, Any]):
    with pytest.raises((InputError, NotFound), match=r"The model '.*evil' cannot be loaded: "):
        RewardModel.load(adapter_with(tmp_path / "evil", adapter, settings), device="cpu")


@pytest.mark.parametrize("command", ["score", "sft"])
def test_a_chat_template_of_endless_brackets_is_a_sentence(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
):
    shutil.copytree(root / "store", tmp_path / "store")
    change(tmp_path / "evil", of=root / ("rm" if command == "score" else "model"))
    template = "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"
    (tmp_path / "evil" / "chat_template.jinja").write_text(template, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert refused(COMMANDS[command].split(), capsys).startswith("error: The chat template cannot ")


PINNED = {"name": "a", "version": "v1.0.0", "digest": "d"}
RECORDS = {
    "deep": "[" * 100_000,
    "deep in an object": f'{{"kind": "rm", "a": {"[" * 500 + "]" * 500}}}',
    "numbers": json.dumps({"kind": 5, "model": 5, "dataset": 5}),
    "an unknown kind": json.dumps({"kind": "evil", "model": "m", "dataset": PINNED}),
    "a list for a kind": json.dumps({"kind": ["rm"], "model": "m", "dataset": PINNED}),
    "objects": json.dumps({"kind": "rm", "model": {}, "dataset": {}}),
    "a list": json.dumps({"kind": "sft", "model": "m", "dataset": []}),
    "no digest": json.dumps({"kind": "sft", "model": "m", "dataset": {**PINNED, "digest": None}}),
    "a number for settings": json.dumps({"kind": "rm", "model": "m", "dataset": PINNED, "config": 5}),
    "null for rows": json.dumps({"kind": "rm", "model": "m", "dataset": PINNED, "rows": None}),
    "text for a release": json.dumps({"kind": "rm", "model": "m", "dataset": PINNED, "release": "x"}),
    "a list of metrics": json.dumps({"kind": "rm", "model": "m", "dataset": PINNED, "metrics": [1]}),
    "text for a metric": json.dumps({"kind": "rm", "model": "m", "dataset": PINNED, "metrics": {"test": {"mse": "x"}}}),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
@pytest.mark.parametrize("command", ["inspect ./evil", "inspect ./evil --json", "merge ./evil --output ./merged"])
def test_a_record_of_a_run_that_is_none_is_a_sentence(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record: str,
    command: str,
):
    (change(tmp_path / "evil", of=root / "rm") / "run.json").write_text(record, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert re.match(r"error: evil/run\.json is (damaged: |not the record of a run\.)", refused(command.split(), capsys))
    assert not (tmp_path / "merged").exists()


COMMANDS = {
    "score": "score toys/rewards --reward-model ./evil --store store",
    "grpo": "train grpo --dataset toys/rewards --model ./model --reward-model ./evil --preset tiny --store store",
    **{
        trainer: f"train {trainer} --dataset toys/rewards --model ./evil --preset tiny --store store"
        for trainer in ("rm", "sft")
    },
    "plan": "train rm --dataset toys/rewards --model ./evil --preset tiny --store store --plan",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_the_code_of_a_model_is_not_run_and_nobody_is_asked(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    command: str,
):
    shutil.copytree(root / "store", tmp_path / "store")
    shutil.copytree(root / "model", tmp_path / "model")
    change(tmp_path / "evil", of=root / ("rm" if "--reward-model ./evil" in command else "model"), **settings)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    assert refused(command.split(), capsys) == f"error: The model './evil' cannot be loaded: {NEVER}."
    assert not (tmp_path / "evil" / "RAN").exists()


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_local_judge_runs_no_code_of_a_model_and_asks_nobody(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
):
    change(tmp_path / "evil", of=root / "model", **settings)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    with pytest.raises(ValueError, match=NEVER):
        load_causal_model("./evil")
    assert not (tmp_path / "evil" / "RAN").exists()


def test_a_model_of_a_known_kind_is_loaded_without_the_code_that_it_brings(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    change(tmp_path / "evil", of=root / "model", auto_map=OWN)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    load_causal_model(str(tmp_path / "evil"))
    assert not (tmp_path / "evil" / "RAN").exists()


def test_every_auto_class_is_told_to_run_no_code():
    for path in (path for room in ("trainers", "labelers", "sotopia_rl_data") for path in (ROOT / room).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(called := call.func, ast.Attribute):
                of = ast.unparse(called.value)
                if (of.startswith("Auto") and called.attr == "from_pretrained") or called.attr == "from_config":
                    told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                    assert told.get("trust_remote_code") == "False", f"{path}:{call.lineno}"
