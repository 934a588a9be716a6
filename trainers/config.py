"""Configurations: transformers' and TRL's own dataclasses with a few more fields, from presets, YAML and flags.

Later sources win: the library's defaults, ours (below), `--preset`, `--config FILE.yaml`, flags, `--set key=value`. A
key that the dataclass does not have is an error that names the nearest one. Every setting of the libraries (schedulers,
vLLM, FSDP, `report_to`) is available under its own name; nothing is renamed.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from transformers import TrainingArguments
from trl import GRPOConfig, SFTConfig

from sotopia_rl_data import yaml_nodes
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.trainers.modeling import first_line

ADAPTERS = ("lora", "qlora", "none")
PACKINGS = ("auto", "tree", "none")
ATTENTIONS = ("prefix_tree", "flex_attention")
SPLIT_BY = ("dataset", "grouped")
GREATER_IS_BETTER = ("r2", "pearson", "spearman", "pair_accuracy")


@dataclass
class CommonFields:
    """What every trainer here adds to its library's configuration."""

    dataset: str = field(default="", metadata={"help": "A path, a name, or org/name@v1.2.0."})
    store: str | None = field(default=None, metadata={"help": "Where datasets live; default ./store."})
    where: str | None = field(default=None, metadata={"help": "An SQL condition over the rows and their episodes."})
    split_by: str = field(default="dataset", metadata={"help": "dataset: its own splits; grouped: by environment."})
    sentinels: list[float] = field(
        default_factory=list, metadata={"help": "Reward values that mean missing, such as -1."}
    )
    model: str = field(default="", metadata={"help": "A directory or a Hub id, id@revision."})
    chat_template: str | None = field(default=None, metadata={"help": "Jinja file, instead of the tokenizer's own."})
    pad_token: str | None = field(default=None, metadata={"help": "Token to pad with; no text may use it."})
    release_as: str | None = field(default=None, metadata={"help": "ORG/NAME on the Hub; --push-to-hub sets it."})
    adapter: str = field(default="lora", metadata={"help": "lora, qlora, or none: train every weight."})
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: str = field(
        default="all-linear", metadata={"help": "all-linear, or module names with commas."}
    )
    dtype: str = field(default="auto", metadata={"help": "Type of the weights: auto, float32, bfloat16, float16."})
    preset: str | None = None
    resume: bool = field(default=False, metadata={"help": "Resume from the newest checkpoint in the output folder."})
    restore_callback_states_from_checkpoint: bool = True  # `patience` counts on in a resumed run
    log_level: str = "warning"
    bf16: bool | None = None  # None: on if the accelerator supports it

    def __post_init__(self) -> None:
        if self.per_device_train_batch_size < 1:  # type: ignore[attr-defined]
            raise UsageError("per_device_train_batch_size must be at least 1.", "--set per_device_train_batch_size=1")
        one_of("adapter", self.adapter, ADAPTERS)
        one_of("split_by", self.split_by, SPLIT_BY)
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported() and not self.fp16  # type: ignore[attr-defined]
        if self.eval_strategy == "no":  # type: ignore[attr-defined]
            self.load_best_model_at_end = False  # without evaluations, no checkpoint is known to be the best
        super().__post_init__()  # type: ignore[misc]


@dataclass
class RMConfig(CommonFields, TrainingArguments):  # type: ignore[misc]  # mypy skips transformers
    """transformers' TrainingArguments, and what a regression reward model needs."""

    kind: ClassVar[Literal["rm"]] = "rm"
    targets: list[str] = field(default_factory=list, metadata={"help": "Dimensions to predict; none: the reward."})
    weigh_by_spread: bool = field(default=False, metadata={"help": "Weigh utterances less where opinions differ."})
    packing: str = field(default="auto", metadata={"help": "auto, tree, or none: one utterance a row."})
    attention: str = field(
        default="prefix_tree", metadata={"help": "For packed rows: prefix_tree or, on a GPU, flex_attention."}
    )
    max_length: int = field(default=4096, metadata={"help": "Most tokens of a prompt and its answer together."})
    row_tokens: int = field(default=8192, metadata={"help": "Most tokens in one packed row."})
    self_check: bool = field(default=True, metadata={"help": "Compare packed and plain scores before training."})
    padding_side: str = "right"
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "mse"
    greater_is_better: bool | None = None  # None: decided by the metric's name
    logging_steps: float = 10
    remove_unused_columns: bool = False
    patience: int | None = field(default=None, metadata={"help": "Stop after this many evaluations without a gain."})
    resamples: int = field(default=200, metadata={"help": "Bootstrap resamples for each interval; 0: no intervals."})

    def __post_init__(self) -> None:
        one_of("packing", self.packing, PACKINGS)
        one_of("attention", self.attention, ATTENTIONS)
        if self.greater_is_better is None:
            self.greater_is_better = str(self.metric_for_best_model).endswith(GREATER_IS_BETTER)
        super().__post_init__()
        if self.attention == "flex_attention" and self.device.type == "cpu":
            raise UsageError("attention=flex_attention cannot train on a CPU.", "--set attention=prefix_tree")


@dataclass
class PolicySFTConfig(CommonFields, SFTConfig):  # type: ignore[misc]  # mypy skips trl
    """TRL's SFTConfig; the loss is on the completion alone."""

    kind: ClassVar[Literal["sft"]] = "sft"
    completion_only_loss: bool | None = True
    max_length: int | None = 4096
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "loss"
    patience: int | None = field(default=None, metadata={"help": "Stop after this many evaluations without a gain."})


@dataclass
class PolicyGRPOConfig(CommonFields, GRPOConfig):  # type: ignore[misc]  # mypy skips trl
    """TRL's GRPOConfig. Settings whose defaults differ between TRL's versions are explicit here."""

    kind: ClassVar[Literal["grpo"]] = "grpo"
    policy_adapter: str | None = field(
        default=None, metadata={"help": "The SFT adapter to start from; also the reference of the KL term."}
    )
    reward_model: str = field(default="", metadata={"help": "A directory or a Hub id, id@revision."})
    rewards: list[str] = field(default_factory=list, metadata={"help": "Further rewards, each a name or file.py:Name."})
    format_weight: float = field(default=0.2, metadata={"help": "Weight of the reward for valid actions; 0: none."})
    truncated_reward: float | None = field(
        default=0.0,
        metadata={"help": "Reward of an answer cut off by the length limit; none: score it like any other."},
    )
    beta: float = 0.04
    loss_type: str = "dapo"
    temperature: float = 1.0
    num_generations: int | None = 8
    max_completion_length: int | None = 256
    max_prompt_length: int = field(default=4096, metadata={"help": "Most tokens of a prompt; longer ones are cut."})
    log_completions: bool = True
    num_completions_to_print: int | None = 0
    logging_steps: float = 1


TrainerConfig = RMConfig | PolicySFTConfig | PolicyGRPOConfig
Config = TypeVar("Config", RMConfig, PolicySFTConfig, PolicyGRPOConfig)


def configure(
    config_class: type[Config],
    *,
    preset: str | None = None,
    file: str | None = None,
    options: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
) -> Config:
    """A configuration from a preset, a YAML `file`, `options` (None: not set) and "key=value" `settings`; later ones
    win.

    Raises UsageError for an unknown preset, key or value, InputError for a file that cannot be read.
    """
    annotations = {field_.name: str(field_.type) for field_ in fields(config_class) if field_.init}
    sources = (
        preset_values(config_class.kind, preset),
        _file(file) if file else {},
        {key: value for key, value in (options or {}).items() if value is not None},
        _settings(settings),
    )
    values: dict[str, Any] = {}
    for source in sources:
        for key, value in source.items():
            check_field(key, annotations, config_class.__name__)
            values[key] = _typed(key, value, annotations[key])
    if preset:
        values["preset"] = preset
    try:
        return config_class(**values)
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise UsageError(
            f"The configuration is not valid: {first_line(error)}", "change the settings that it names"
        ) from error


def presets(kind: str) -> list[str]:
    """The names of the presets for `kind`."""
    folder = files("sotopia_rl_data.trainers").joinpath("presets")
    names = [p.name.split(".") for p in folder.iterdir() if p.name.endswith(".yaml")]
    return sorted(name[1] for name in names if name[0] == kind)


def preset_values(kind: str, name: str | None) -> dict[str, Any]:
    """The fields that a preset sets. Raises UsageError, which lists the presets."""
    if name is None:
        return {}
    if name not in presets(kind):
        raise UsageError(f"`train {kind}` has no preset {name!r}.", f"name one of: {', '.join(presets(kind))}")
    text = files("sotopia_rl_data.trainers").joinpath("presets", f"{kind}.{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml_nodes.values(text, f"The preset {name}", "settings", ""))


def one_of(what: str, value: str, allowed: Sequence[str]) -> None:
    """Raises UsageError where `value` is not among `allowed`."""
    if value not in allowed:
        raise UsageError(f"{value!r} is not a valid {what}.", f"name one of: {', '.join(allowed)}")


# Settings that a run's record shows even at their default values.
ALWAYS = (
    "learning_rate", "lr_scheduler_type", "num_train_epochs", "per_device_train_batch_size",
    "gradient_accumulation_steps", "adapter", "max_length", "beta", "loss_type", "temperature", "num_generations",
    "max_prompt_length", "max_completion_length", "format_weight", "truncated_reward",
)  # fmt: skip


def changed(config: TrainerConfig) -> dict[str, Any]:
    """The fields that differ from their defaults, and those in ALWAYS: what a reader of the run wants to know."""
    values = {name: getattr(config, name) for name in ALWAYS if hasattr(config, name)}
    for known in fields(config):
        default = known.default if known.default is not MISSING else None
        if known.default_factory is not MISSING:
            default = known.default_factory()
        value = getattr(config, known.name, None)
        if known.init and value != default:
            values[known.name] = value
    return values


def check_field(key: str, names: Collection[str], where: str) -> None:
    """Raises UsageError, which names the nearest fields, where `key` is not among the `names` of the class `where`."""
    if key not in names:
        near = difflib.get_close_matches(key, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"name a field of sotopia_rl_data.trainers.{where}"
        raise UsageError(f"There is no setting {key!r}.", hint)


def _settings(settings: Sequence[str]) -> dict[str, Any]:
    """The values of "key=value" texts, read as YAML."""
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        key = name.strip()
        if not equals:
            raise UsageError(f"--set {setting} has no value.", "write --set key=value")
        try:
            values[key] = yaml_nodes.values(text, "--set", "a value", "") if text.strip() else None
        except InputError as error:
            hint = f"quote it: --set '{key}=\"…\"'"
            raise UsageError(f"{text[:80]!r} cannot be read as a value of {key}.", hint) from error
    return values


def _file(file: str) -> dict[str, Any]:
    """The values of a YAML file."""
    hint = "write one `key: value` on each line"
    values = yaml_nodes.values(yaml_nodes.read_text(Path(file), "configuration", hint), file, "settings", hint)
    if not isinstance(values, dict):
        raise InputError(f"The configuration {file} is not a mapping.", hint)
    return values


def _typed(key: str, value: Any, annotation: str) -> Any:
    """The value as its field needs it, since YAML reads 1e-5 as text and `no` as False, and a list may be one text."""
    if isinstance(value, bool) and "bool" not in annotation and "str" in annotation:
        return "yes" if value else "no"
    if isinstance(value, str) and "list[" in annotation and "str |" not in annotation:
        value = [part.strip() for part in value.split(",") if part.strip()]
    if annotation.startswith("list[float]"):
        return [_number(key, v, "-1") for v in (value if isinstance(value, list) else [value])]
    if isinstance(value, str) and "str" not in annotation and ("float" in annotation or "int" in annotation):
        return _number(key, value, "1e-5" if "float" in annotation else "10")
    return value


def _number(key: str, value: Any, example: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{key} must be a number; it is {value!r}.", f"--set {key}={example}") from error
