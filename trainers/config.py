"""Configurations: transformers' and TRL's own dataclasses with a few more fields, from presets, YAML and flags.

Later sources win: the library's defaults, ours (below), `--preset` (else the preset `default`), `--config FILE.yaml`,
flags, `--set key=value` (`settings.py`, which knows the fields before these libraries are imported). Every setting of
the libraries (schedulers, vLLM, FSDP, `report_to`) is available under its own name; nothing is renamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeVar

import torch
from transformers import TrainingArguments
from trl import DPOConfig, GRPOConfig, SFTConfig

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.trainers.modeling import first_line
from sotopia_rl_data.trainers.settings import DEFAULT, TrainingSetting, values_of
from sotopia_rl_data.trainers.settings import settings as settings_of

ADAPTERS = ("lora", "qlora", "none")
PACKINGS = ("auto", "tree", "none")
ATTENTIONS = ("prefix_tree", "flex_attention")
SIDES = ("right", "left")
LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")  # TRL finds out at its first step
SPLIT_BY = ("dataset", "grouped")
BELOW_GROUP = "below"  # truncated_reward: the minimum of the group minus its spread
GREATER_IS_BETTER = ("r2", "pearson", "spearman", "pair_accuracy")


@dataclass
class CommonFields:
    """What every trainer here adds to its library's configuration."""

    dataset: str = field(default="", metadata={"help": "A path, a name, or org/name@v1.2.0."})
    store: str | None = field(default=None, metadata={"help": "Where datasets live; default ./store."})
    where: str | None = field(default=None, metadata={"help": "An SQL condition over the rows and their episodes."})
    split_by: str = field(
        default="dataset", metadata={"help": "dataset: its own splits; grouped: by environment.", "choices": SPLIT_BY}
    )
    sentinels: list[float] = field(
        default_factory=list, metadata={"help": "Reward values that mean missing, such as -1."}
    )
    model: str = field(default="", metadata={"help": "A directory or a Hub id, id@revision."})
    chat_template: str | None = field(default=None, metadata={"help": "Jinja file, instead of the tokenizer's own."})
    template_kwargs: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "What the chat template reads, as in {enable_thinking: false}."}
    )
    pad_token: str | None = field(default=None, metadata={"help": "Token to pad with; no text may use it."})
    release_as: str | None = field(default=None, metadata={"help": "ORG/NAME on the Hub; --push-to-hub sets it."})
    adapter: str = field(
        default="lora", metadata={"help": "lora, qlora, or none: train every weight.", "choices": ADAPTERS}
    )
    lora_r: int = field(default=16, metadata={"help": "The rank of a LoRA adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "What a LoRA adapter is scaled by, over its rank."})
    lora_dropout: float = field(
        default=0.0, metadata={"help": "The share of a LoRA adapter's inputs that are dropped while training."}
    )
    lora_target_modules: str = field(
        default="all-linear", metadata={"help": "all-linear, or module names with commas."}
    )
    dtype: str = field(default="auto", metadata={"help": "Type of the weights: auto, float32, bfloat16, float16."})
    preset: str | None = field(default=None, metadata={"help": "The preset that was named, for the record."})
    resume: bool = field(default=False, metadata={"help": "Resume from the newest checkpoint in the output folder."})
    restore_callback_states_from_checkpoint: bool = True  # `patience` counts on in a resumed run
    log_level: str = field(default="warning", metadata={"help": "What the libraries log: debug, info, warning, error."})
    bf16: bool | None = None  # None: on if the accelerator supports it

    def __post_init__(self) -> None:
        if self.max_steps == 0:  # type: ignore[attr-defined]  # transformers would take it for -1
            raise UsageError("max_steps must be at least 1, or -1 for whole epochs.", "--set max_steps=-1")
        one_of("adapter", self.adapter, ADAPTERS)
        one_of("split_by", self.split_by, SPLIT_BY)
        self.asked_bf16 = self.bf16  # a plan is for another machine than this one
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
    packing: str = field(
        default="auto", metadata={"help": "auto, tree, or none: one utterance a row.", "choices": PACKINGS}
    )
    attention: str = field(
        default="prefix_tree",
        metadata={"help": "For packed rows: prefix_tree or, on a GPU, flex_attention.", "choices": ATTENTIONS},
    )
    max_length: int = field(default=4096, metadata={"help": "Most tokens of a prompt and its answer together."})
    row_tokens: int = field(default=8192, metadata={"help": "Most tokens in one packed row."})
    per_device_train_batch_size: int = field(
        default=1, metadata={"help": "Rows of a batch on each device, in place of tokens_per_device_batch."}
    )
    tokens_per_device_batch: int | None = field(
        default=None, metadata={"help": "Fill each batch on a device with rows up to so many tokens."}
    )
    self_check: bool = field(default=True, metadata={"help": "Compare packed and plain scores before training."})
    padding_side: str = field(
        default="right", metadata={"help": "Where rows are padded: right or left.", "choices": SIDES}
    )
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
        one_of("padding_side", self.padding_side, SIDES)
        if self.tokens_per_device_batch is not None:
            fill_batches(self)
            self.row_tokens = min(self.row_tokens, self.tokens_per_device_batch)
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
    per_device_train_batch_size: int = field(
        default=1, metadata={"help": "Rows of a batch on each device, in place of tokens_per_device_batch."}
    )
    tokens_per_device_batch: int | None = field(
        default=None, metadata={"help": "Fill each batch on a device with rows up to so many tokens."}
    )
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "loss"
    patience: int | None = field(default=None, metadata={"help": "Stop after this many evaluations without a gain."})

    def __post_init__(self) -> None:
        if self.chat_template_path:  # TRL would save it, but prompts are cut and tokenised before TRL has them
            raise UsageError(
                "chat_template_path is not read: the template of a run is chat_template.",
                f"name its Jinja file: --set chat_template={self.chat_template_path}",
            )
        if self.tokens_per_device_batch is not None:
            if self.packing:
                raise UsageError(
                    "packing=true fills each row up to max_length, tokens_per_device_batch each batch with rows.",
                    "set one of the two: --set packing=false, or --set tokens_per_device_batch=null",
                )
            fill_batches(self)
        super().__post_init__()


@dataclass
class PolicyDPOConfig(CommonFields, DPOConfig):  # type: ignore[misc]  # mypy skips trl
    """TRL's DPOConfig. A row is a pair: the best and the worst completion of one prompt."""

    kind: ClassVar[Literal["dpo"]] = "dpo"
    policy_adapter: str | None = field(
        default=None, metadata={"help": "The SFT adapter to start from; also the reference that it is compared with."}
    )
    beta: float = 0.1
    max_length: int | None = 4096
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "loss"
    patience: int | None = field(default=None, metadata={"help": "Stop after this many evaluations without a gain."})
    resamples: int = field(default=200, metadata={"help": "Bootstrap resamples for each interval; 0: no intervals."})


@dataclass
class PolicyGRPOConfig(CommonFields, GRPOConfig):  # type: ignore[misc]  # mypy skips trl
    """TRL's GRPOConfig. Settings whose defaults differ between TRL's versions are explicit here."""

    kind: ClassVar[Literal["grpo"]] = "grpo"
    policy_adapter: str | None = field(
        default=None, metadata={"help": "The SFT adapter to start from; also the reference of the KL term."}
    )
    reward_model: str = field(default="", metadata={"help": "A directory, a Hub id, id@revision, or a server's URL."})
    rewards: list[str] = field(default_factory=list, metadata={"help": "Further rewards, each a name or file.py:Name."})
    format_weight: float = field(default=0.2, metadata={"help": "Weight of the reward for valid actions; 0: none."})
    truncated_reward: float | str | None = field(
        default="below",
        metadata={
            "help": "Of an answer cut off at the limit: below its group, a number, or null: scored as any other."
        },
    )
    held_out_judge: str | None = field(
        default=None,
        metadata={
            "help": "Not trained on: a reward model, a server's URL or file.py:Name that judges held-out answers."
        },
    )
    held_out_prompts: int = field(default=64, metadata={"help": "Most prompts of the validation split to evaluate on."})
    stop_on_hacking: bool = field(
        default=False, metadata={"help": "Stop where the reward rises and the held-out judge does not follow."}
    )
    eval_strategy: str = "steps"
    eval_steps: float | None = 0.1
    eval_on_start: bool = True
    num_generations_eval: int | None = 1
    beta: float = 0.04
    loss_type: str = field(default="dapo", metadata={"choices": LOSSES})
    temperature: float = 1.0
    num_generations: int | None = 8
    max_completion_length: int | None = 256
    max_prompt_length: int = field(default=4096, metadata={"help": "Most tokens of a prompt; longer ones are cut."})
    log_completions: bool = True
    num_completions_to_print: int | None = 0
    logging_steps: float = 1

    def __post_init__(self) -> None:
        if isinstance(self.truncated_reward, str) and self.truncated_reward != BELOW_GROUP:
            raise UsageError(
                f"truncated_reward cannot be {self.truncated_reward!r}.",
                "name below, a number, or null: --set truncated_reward=below",
            )
        if self.stop_on_hacking and not self.held_out_judge:
            raise UsageError(
                "Hacking is seen only beside a judge that the policy is not trained on.",
                "name one, such as another reward model, with --held-out-judge",
            )
        one_of("loss_type", self.loss_type, LOSSES)
        if self.held_out_prompts < 8:
            raise UsageError("held_out_prompts must be at least 8.", "--set held_out_prompts=64")
        if self.eval_strategy == "no":
            self.eval_on_start = False
        super().__post_init__()


def fill_batches(config: RMConfig | PolicySFTConfig) -> None:
    """A batch is one item, which is filled up to a number of tokens. Raises UsageError where that cannot hold a row, or
    where a number of rows is set too."""
    rows = config.per_device_train_batch_size
    if rows != 1:
        raise UsageError(
            f"A batch has {config.tokens_per_device_batch} tokens or {rows} rows, and both are set.",
            "leave one out: tokens_per_device_batch or per_device_train_batch_size",
        )
    most, longest = config.tokens_per_device_batch or 0, config.max_length
    if longest is None:
        raise UsageError(
            f"Rows have no max_length, so tokens_per_device_batch={most} might not hold one.",
            f"--set max_length={most}",
        )
    if most < longest:
        raise UsageError(
            f"tokens_per_device_batch={most} cannot hold a row of max_length={longest} tokens.",
            f"--set tokens_per_device_batch={longest}, or lower max_length",
        )


TrainerConfig = RMConfig | PolicySFTConfig | PolicyDPOConfig | PolicyGRPOConfig
Config = TypeVar("Config", RMConfig, PolicySFTConfig, PolicyDPOConfig, PolicyGRPOConfig)


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
    known = settings_of(config_class.kind) or {
        one.name: TrainingSetting(one.name, _spelled(one.type), "", "", (), config_class.__name__)
        for one in fields(config_class)
        if one.init
    }
    preset = preset or DEFAULT
    values = values_of(config_class.kind, preset=preset, file=file, options=options, assignments=settings, known=known)
    values["preset"] = preset
    try:
        return config_class(**values)
    except (ValueError, TypeError, ArithmeticError, NotImplementedError, ImportError) as error:
        raise UsageError(
            f"The configuration is not valid: {first_line(error)}", "change the settings that it names"
        ) from error


def _spelled(annotation: Any) -> str:
    """A type as its source has it."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


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
