"""A recipe for rewards, and the presets: one YAML file for each in `sotopia_rl_data/presets/`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from sotopia_rl_data import yaml_nodes
from sotopia_rl_data.dimensions import OWN_NAME, dimension, in_order
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.refs import is_path

RuleId = Literal[
    "direct",
    "scaled",
    "singular",
    "uniform",
    "uniform-share",
    "discounted",
    "quality",
    "quality-score",
    "quality-share",
    "progress",
    "progress-score",
    "counterfactual",
]
Normaliser = Literal["minmax", "zscore", "rank", "none"]
Average = Literal["mean", "median"]
Fit = Literal["train", "all"]
Units = Literal["0-1", "0-10"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How attributions and episode scores become rewards. It determines every number of the `rewards` config.

    `weights` are γ_d >= 0 by dimension (any spelling; kept as full names in SOTOPIA-EVAL's order, which is the order of
    summation), at least one above 0. Dimensions of a rubric, or of the source's own, come after them, in alphabetical
    order. `rule` is applied to each opinion alone, `average` joins the opinions, `normaliser` is fitted on the train
    split, or with `fit` on all of them; `units` "0-10" multiply the reward by ten. `evaluator` is the evaluator whose
    episode scores are G, `schema` the schema whose attributions are read: None where there is only one. Of its opinions
    those of `judge` and `sample` are read (None: of all). `gamma` in (0, 1] is used only by the rule `discounted`.
    Raises UsageError for any other value.
    """

    weights: Mapping[str, float]
    rule: RuleId = "direct"
    normaliser: Normaliser = "minmax"
    average: Average = "mean"
    evaluator: str | None = None
    schema: str | None = None
    judge: str | None = None
    sample: int | None = None
    fit: Fit = "train"
    units: Units = "0-1"
    gamma: float = 0.9

    def __post_init__(self) -> None:
        _one_of("a rule", self.rule, get_args(RuleId))
        _one_of("a normaliser", self.normaliser, get_args(Normaliser))
        _one_of("an average", self.average, get_args(Average))
        _one_of("a value of `fit`", self.fit, get_args(Fit))
        _one_of("a unit", self.units, get_args(Units))
        object.__setattr__(self, "weights", _weights(self.weights))
        if self.units != "0-1" and not self._within_one:
            raise UsageError(
                f"The rule {self.rule!r} with the normaliser {self.normaliser!r} gives no rewards from 0 to 1.",
                "leave --units out, or add --normaliser minmax",
            )
        if self.sample is not None and (type(self.sample) is not int or self.sample < 0):
            raise UsageError(f"sample is {self.sample!r}, but it must be 0 or more.", "name a sample, as in --sample 0")
        if not _number(self.gamma) or not 0 < self.gamma <= 1:
            hint = "use 0.9 as the paper's code does; 1 gives every utterance the whole score"
            raise UsageError(f"gamma is {self.gamma!r}, but it must be above 0 and at most 1.", hint)

    @property
    def weighted(self) -> tuple[str, ...]:
        """The dimensions whose weight is above 0."""
        return tuple(d for d, weight in self.weights.items() if weight > 0)

    @property
    def _within_one(self) -> bool:
        """Whether the reward is a part of one."""
        from sotopia_rl_data.rewards.rules import rule

        of_one = rule(self.rule).bounds == (0.0, 1.0) and not rule(self.rule).times_score
        return self.normaliser in ("minmax", "rank") or (self.normaliser == "none" and of_one)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as the manifest keeps it, with `gamma` only where it matters, and what came to recipes later only
        where it is chosen."""
        known = asdict(self) | {"weights": dict(self.weights)}
        left_out = {name for name, default in _LATER.items() if known[name] == default}
        if self.rule != "discounted":
            left_out.add("gamma")
        return {name: value for name, value in known.items() if name not in left_out}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Recipe:
        """The inverse of `as_dict`. Raises UsageError for a key that a recipe does not have."""
        names = [f.name for f in fields(cls)]
        if not isinstance(known, Mapping) or not set(known) <= set(names) or "weights" not in known:
            unknown = sorted(set(known) - set(names)) if isinstance(known, Mapping) else []
            wrong = f"has no key {unknown[0]!r}" if unknown else "must be a mapping with `weights`"
            raise UsageError(f"A recipe {wrong}.", f"write only keys of a recipe: {', '.join(names)}")
        return cls(**known)


_LATER: dict[str, Any] = {"judge": None, "sample": None, "fit": "train", "units": "0-1"}


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{value!r} is not {what}.", f"name one of: {', '.join(allowed)}")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _weights(by_dimension: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(by_dimension, Mapping):
        raise UsageError("`weights` must be a mapping of dimensions to numbers.", "write `weights: {goal: 1}`")
    weights: dict[str, float] = {}
    for name, weight in by_dimension.items():
        full = _full_name(str(name))
        if not _number(weight) or weight < 0:
            raise UsageError(
                f"The weight of {name} is {weight!r}, but it must be a number of 0 or more.",
                "write a weight as in goal=1",
            )
        if full in weights:
            raise UsageError(f"The dimension {full} is weighted twice.", "name each dimension once")
        weights[full] = float(weight)
    if not any(weights.values()):
        raise UsageError("No dimension has a weight above 0.", "give at least one a weight, as in goal=1")
    return {name: weights[name] for name in in_order(weights)}


def _full_name(name: str) -> str:
    """A dimension's full name, or the name of one's own. Raises UsageError where it cannot be one."""
    try:
        return dimension(name).name
    except UsageError as unknown:
        if OWN_NAME.fullmatch(name):
            return name
        hint = f"{unknown.hint}; or one of your own, of small letters, digits and underscores"
        raise UsageError(f"{name!r} cannot be the name of a dimension.", hint) from unknown


def presets() -> dict[str, Recipe]:
    """The recipes that ship with the package, by name."""
    folder = files("sotopia_rl_data").joinpath("presets")
    texts = {p.name.removesuffix(".yaml"): p.read_text("utf-8") for p in folder.iterdir() if p.name.endswith(".yaml")}
    return {name: _read(name, texts[name]) for name in sorted(texts)}


def descriptions() -> dict[str, str]:
    """What each preset is, as its file says in the first comment."""
    folder = files("sotopia_rl_data").joinpath("presets")
    return {
        name: folder.joinpath(f"{name}.yaml").read_text("utf-8").partition("\n")[0].removeprefix("# ")
        for name in presets()
    }


def preset(name: str) -> Recipe:
    """The recipe with this name, or in this YAML file (a path starts with ./, ../ or /).

    Raises UsageError where there is no such preset, InputError where the file cannot be read.
    """
    if is_path(name):
        try:
            text = yaml_nodes.text_of(Path(name))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            hint = "name a YAML file that holds a recipe, as in `weights: {goal: 1}`"
            raise InputError(f"The preset {name} cannot be read: {reason}.", hint) from error
        return _read(name, text)
    known = presets()
    if name not in known:
        raise UsageError(
            f"{name!r} is not a preset.", f"name one of: {', '.join(known)}; or a file of your own, as in ./FILE.yaml"
        )
    return known[name]


def _read(name: str, text: str) -> Recipe:
    return Recipe.from_dict(
        yaml_nodes.values(text, f"The preset {name}", "a recipe", "begin with `weights: {goal: 1}`")
    )
