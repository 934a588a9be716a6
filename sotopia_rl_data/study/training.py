"""The steps that train a reward model or a policy, and the one that measures reward models side by side.

A run's folder also holds when and how long it was trained. So its model is linked into a folder of its own inside,
whose content is the model alone: by that the next steps know it, and two runs that end in the same weights are the
same.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking.local import fingerprint
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.store.disk import link_or_copy
from sotopia_rl_data.study.declared import Training
from sotopia_rl_data.study.steps import Inputs, StepResult, UnaskingStep, Workshop
from sotopia_rl_data.trainers import api
from sotopia_rl_data.trainers.run_folder import HELD_OUT, METRICS, PLOT, RUN
from sotopia_rl_data.trainers.settings import CLASSES, values_of

TINY = "tiny"
_ADAPTER = "adapter_config.json"
_OF_THE_RUN = (RUN, METRICS, PLOT, HELD_OUT, "README.md", "training_args.bin")
_TRAIN: dict[str, Callable[[Any], dict[str, Any]]] = {
    "rm": api.train_rm,
    "sft": api.train_sft,
    "dpo": api.train_dpo,
    "grpo": api.train_grpo,
}


@dataclass(frozen=True, slots=True)
class Trained:
    """What is trained: `kind` on the step `data`, from the policy that the step `origin` made, with the reward model of
    another step."""

    kind: str
    data: str
    training: Training
    seed: int
    origin: str = ""
    reward_model: str = ""
    where: str | None = None


class TrainStep(UnaskingStep):
    """One run of a trainer. Raises UsageError for settings that the trainer does not have."""

    def __init__(self, name: str, short: str, trained: Trained) -> None:
        self.name, self._short, self._trained = name, short, trained
        self.needs: tuple[str, ...] = tuple(filter(None, (trained.data, trained.origin, trained.reward_model)))
        training = trained.training
        values_of(trained.kind, preset=training.preset, options=training.settings)
        if not training.model and training.preset != TINY:
            raise UsageError(
                "It is not said what to train.", "name a model: training: {model: DIR or ID}, or preset: tiny"
            )
        if training.model and Path(training.model).is_dir():
            self._model = fingerprint(Path(training.model))
        else:
            self._model = training.model

    def settings(self) -> dict[str, Any]:
        """The trainer, the base model and the fields of its configuration."""
        training = self._trained.training
        return {
            "kind": self._trained.kind,
            "model": self._model,
            "preset": training.preset,
            "set": dict(training.settings),
            "where": self._trained.where,
            "seed": self._trained.seed,
        }

    def run(self, work: Workshop, inputs: Inputs, key: str) -> StepResult:
        """Train, from the last checkpoint of a run that was killed."""
        from sotopia_rl_data.trainers import config
        from sotopia_rl_data.trainers.run_folder import RunFolder

        api.check_libraries()
        trained, training = self._trained, self._trained.training
        folder = work.folder / f"{self._short}-{key[:8]}"
        if not (folder / RUN).is_file():
            options: dict[str, Any] = {
                **training.settings,
                "dataset": inputs[trained.data].ref,
                "store": work.store.address,
                "model": base_model(work, training.model),
                "output_dir": str(folder),
                "seed": trained.seed,
                "where": trained.where,
                "resume": True if RunFolder(folder).last_checkpoint() else None,
            }
            if trained.origin:
                options["policy_adapter"] = inputs[trained.origin].ref
            if trained.reward_model:
                options["reward_model"] = inputs[trained.reward_model].ref
            chosen = getattr(config, CLASSES[trained.kind])
            _TRAIN[trained.kind](config.configure(chosen, preset=training.preset, options=options))
            _free_memory()
        model = linked(folder, folder / self._short)
        return StepResult(str(model), fingerprint(model), run=str(folder))


def base_model(work: Workshop, name: str) -> str:
    """The model to train; where none is named, the tiny one of the study, which is made."""
    from sotopia_rl_data.trainers.tiny import model_for_samples

    return name or str(model_for_samples(work.folder / "tiny-model"))


def linked(run: Path, folder: Path) -> Path:
    """A folder with the files of a run's model, as hard links where the disk has them. PEFT writes which modules it
    adapts in an order that changes from process to process: here they are sorted."""
    beside = folder.with_name(f".{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    for path in sorted(run.iterdir()):
        if path.name == _ADAPTER:
            config = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(config.get("target_modules"), list):
                config["target_modules"].sort()
            (beside / _ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        elif path.is_file() and path.name not in _OF_THE_RUN and not path.name.startswith("."):
            link_or_copy(path, beside / path.name)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    return folder


def _free_memory() -> None:
    """Give the memory of a model back, before the next one is loaded."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def side_by_side_step(table: str) -> str:
    """The step that measures the reward models of a table."""
    return f"side by side {table}"


class SideBySideStep(UnaskingStep):
    """Reward models on the same held-out rows, those of the labels `data`."""

    def __init__(self, name: str, models: Mapping[str, str], data: str, split: str) -> None:
        self.name = side_by_side_step(name)
        self.needs: tuple[str, ...] = (data, *models.values())
        self._models, self._data, self._split = models, data, split

    def settings(self) -> dict[str, Any]:
        """The split, and what the models are called."""
        return {"split": self._split, "models": dict(self._models)}

    def run(self, work: Workshop, inputs: Inputs, key: str) -> StepResult:
        """Have each score the rows."""
        runs = [inputs[step].run for step in self._models.values()]
        compared = api.compare(
            runs,
            dataset=inputs[self._data].ref,
            split=self._split,
            store=work.store.address,
            display=work.store.display,
        )
        named = [of_run | {"run": name} for name, of_run in zip(self._models, compared["runs"], strict=True)]
        facts: dict[str, Any] = compared | {"runs": named}
        return StepResult(inputs[self._data].ref, sha256_of(facts), facts=facts)
