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
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

from fixtures.training import make_dataset
from transformers import AutoModelForSequenceClassification

from sotopia_rl_data.cli import program
from sotopia_rl_data.labelers.judges.transformers import load_causal_model
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
