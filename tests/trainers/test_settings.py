"""The settings of `train`, read from the libraries' sources: nothing heavy is imported to refuse a wrong one."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.places import ROOT

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import NotFound, UsageError
from sotopia_rl_data.trainers.settings import CLASSES, settings, values_of, with_preset

pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

HEAVY = ["torch", "transformers", "trl", "peft", "accelerate", "datasets", "pyarrow"]
COMPUTED = ("optim", "debug")  # whose defaults a library computes
RUN = """
import sys
from sotopia_rl_data.cli.program import main
try:
    main(sys.argv[2:])
finally:
    print(sorted(set(sys.argv[1].split()) & set(sys.modules)))
"""


@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_read_are_the_fields_of_the_imported_class(kind: str):
    """All of them, in their order, with their types and defaults: an update of a library needs no change here."""
    from sotopia_rl_data.trainers import config

    real = {one.name: one for one in fields(getattr(config, CLASSES[kind])) if one.init}
    read = settings(kind)
    assert list(read) == list(real)
    for name, one in real.items():
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        assert read[name].default == ("" if name in COMPUTED else written(default)), name
        assert yaml_types(read[name].type) == yaml_types(config._spelled(one.type)), name
        assert read[name].meaning, name


def written(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def yaml_types(annotation: str) -> set[str]:
    return set(re.findall(r"\b(int|float|bool|list|dict|str)\b", annotation))


@pytest.mark.parametrize(
    ("setting", "told", "hint"),
    [
        ("lerning_rate=1", "There is no setting 'lerning_rate'.", "did you mean learning_rate"),
        ("xyzzy=1", "There is no setting 'xyzzy'.", "train rm --help-settings"),
        ("learning_rate=fast", "learning_rate must be a number; it is 'fast'.", "--set learning_rate=1e-5"),
        ("learning_rate=", "learning_rate must be a number; it is None.", "--set learning_rate=1e-5"),
        ("max_steps=1.5", "max_steps must be a whole number; it is 1.5.", "--set max_steps=10"),
        ("learning_rate=.nan", "learning_rate must be a number; it is nan.", "--set learning_rate=1e-5"),
        ("learning_rate=-1", "learning_rate must be at least 0.", "--set learning_rate=5e-05"),
        ("gradient_accumulation_steps=0", "gradient_accumulation_steps must be at least 1.", "steps=1"),
        ("per_device_eval_batch_size=0", "per_device_eval_batch_size must be at least 1.", "size=8"),
        ("max_length=0", "max_length must be at least 1.", "--set max_length=4096"),
        ("max_steps=-5", "max_steps must be at least -1.", "--set max_steps=-1"),
        ("seed=-1", "seed must be at least 0.", "--set seed=42"),
        ("max_steps=true", "max_steps must be a whole number; it is True.", "--set max_steps=10"),
        ("self_check=maybe", "self_check must be true or false; it is 'maybe'.", "--set self_check=true"),
        ("liger_kernel_config=rope", "liger_kernel_config must be a mapping; it is 'rope'.", "'{a: 1}'"),
        ("lora_target_modules=[q_proj, v_proj]", "lora_target_modules must be text; it is ['q_proj', 'v_proj'].", ""),
        ("padding_side=middle", "'middle' is not a valid padding_side.", "name one of: right, left"),
        ("packing=dense", "'dense' is not a valid packing.", "name one of: auto, tree, none"),
        ("eval_strategy=often", "'often' is not a valid eval_strategy.", "name one of: no, steps, epoch"),
        ("lr_scheduler_type=square", "'square' is not a valid lr_scheduler_type.", "linear, cosine"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_it_may_be(setting: str, told: str, hint: str):
    with pytest.raises(UsageError) as refused:
        values_of("rm", assignments=[setting])
    assert refused.value.message == told
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate=1e-6", 1e-6),
        ("learning_rate=1", 1),
        ("max_steps=1e2", 100),
        ("eval_strategy=no", "no"),
        ("targets=goal,knowledge", ["goal", "knowledge"]),
        ("sentinels=-1", [-1.0]),
        ("greater_is_better=", None),
        ("run_name=7", "7"),
        ("lr_scheduler_kwargs={num_cycles: 1}", {"num_cycles": 1}),
    ],
)
def test_a_right_setting_is_read_as_its_field_needs_it(setting: str, value: Any):
    (read,) = values_of("rm", assignments=[setting]).values()
    assert (type(read), read) == (type(value), value)


def test_a_library_that_is_laid_out_otherwise_leaves_the_check_to_the_imported_classes(monkeypatch, tmp_path: Path):
    from sotopia_rl_data.trainers import settings as module
    from sotopia_rl_data.trainers.config import RMConfig, configure

    monkeypatch.setitem(module._PLACES, "transformers.TrainingArguments", "elsewhere.py")
    assert settings("rm") == {}
    options = {"output_dir": str(tmp_path), "use_cpu": True}
    assert configure(RMConfig, options=options, settings=["learning_rate=1e-6"]).learning_rate == 1e-6
    with pytest.raises(UsageError, match="no setting 'lerning_rate'"):
        configure(RMConfig, options=options, settings=["lerning_rate=1"])


@pytest.mark.parametrize("source", ["--set", "--config", "--preset"])
def test_a_mistake_is_told_before_anything_heavy_is_imported(source: str, tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("lerning_rate: 1\n")
    given = {"--set": "lerning_rate=1", "--config": str(file), "--preset": "papr"}[source]
    command = ["train", "rm", "--dataset", "lab/x", "--model", "./none", source, given]
    done = subprocess.run(
        [sys.executable, "-c", RUN, " ".join(HEAVY), *command], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "[]\n"), done.stderr
    assert done.stderr.startswith("error: ")
    assert " hint: " in done.stderr


def test_a_model_is_required_but_for_the_preset_that_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from sotopia_rl_data.trainers.tiny import model_for_samples

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="No model to train is named"):
        CliRunner().invoke(cli, ["train", "rm", "--dataset", "lab/x"], standalone_mode=False, catch_exceptions=False)
    tried = CliRunner().invoke(cli, ["train", "sft", "--dataset", "./none", "--preset", "tiny"], standalone_mode=False)
    assert isinstance(tried.exception, NotFound)  # of the dataset: a model is there (rm looks at the rewards first)
    made = (tmp_path / "runs" / "tiny-model" / "config.json").stat()
    assert model_for_samples("runs/tiny-model") == Path("runs/tiny-model")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny-model"]
    assert (tmp_path / "runs" / "tiny-model" / "config.json").stat() == made


@pytest.mark.parametrize("given", [["--model", "mine"], ["--set", "model=mine"], ["--config", "fields.yaml"]])
@pytest.mark.parametrize("preset", [[], ["--preset", "tiny"]])
def test_a_model_that_is_named_anywhere_is_the_one_to_train(
    given: list[str], preset: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("fields.yaml").write_text("model: mine\n")
    tried = CliRunner().invoke(cli, ["train", "rm", "--dataset", "./none", *preset, *given], standalone_mode=False)
    assert isinstance(tried.exception, NotFound)  # of the dataset
    assert not Path("runs").exists()  # where a tiny model would be made


def test_a_default_that_the_docs_tell_is_the_default():
    told = re.findall(r"`(\w+)` \(([\d.e-]+)\)", (ROOT / "docs" / "training.md").read_text("utf-8"))
    known = {name: one.default for kind in CLASSES for name, one in with_preset(kind).items()}
    assert told
    assert {name: value for name, value in told if known.get(name) != value} == {}


@pytest.mark.parametrize("kind", CLASSES)
def test_help_settings_lists_every_field_with_its_type_meaning_and_default(kind: str):
    shown = CliRunner().invoke(cli, ["train", kind, "--help-settings"], standalone_mode=False).output
    words = shown.split()
    for setting in settings(kind).values():
        assert f"  {setting.name}: {setting.type}" in shown, setting.name
        assert " ".join(setting.meaning.split())[:20] in " ".join(words), setting.name
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.startswith(f"Settings of train {kind}:")
    assert "learning_rate: float" in shown
