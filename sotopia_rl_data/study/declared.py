"""What a study declares: names and settings in a YAML file, read into frozen nouns.

    name: tiny                                  # what it makes is called tiny/…
    datasets: {episodes: samples}               # or a reference, or {files: [episodes.jsonl]}
    labels:                                     # rewards: by judges, or made of another entry's attributions
      direct: {judges: [gpt-4o], schema: direct}
      scaled: {from: direct, rule: scaled}
    training: {model: Qwen/Qwen2.5-7B-Instruct, preset: paper}
    reward_models: {of: [direct, scaled]}
    tables:
      attribution: {show: reward-models, of: [direct, scaled]}

Everything has a name and refers to other things by theirs; a name that is not there, or that leads back to itself, is a
mistake with its line. What only a command's own function can check (a schema, a preset) is checked when the steps are
made (`steps.py`), also before anything is done. docs/reproduce.md explains every key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sotopia_rl_data.asking.judges_file import NamedModels, models_of
from sotopia_rl_data.asking.providers import ModelName
from sotopia_rl_data.dimensions import SOTOPIA_EVAL, dimension, is_known
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.schema import SPLITS
from sotopia_rl_data.yaml_nodes import NodeReader, read_text, shown

SHOWN = {
    "reward-models": "reward_models",
    "agreement": "labels",
    "distributions": "labels",
    "scores": "policies",
    "best-of-n": "policies",
    "diversity": "policies",
    "cost": "",
}
"""What a table can show, and the section whose names its `of` lists."""
TRAINERS = ("sft", "dpo", "grpo")
SAMPLES = "samples"
MOST = 64
"""The most entries of a section or list."""
MOST_SEEDS = 16
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LONGEST = 40
_HINT = "run `sotopia-rl-data study --help` for what a study declares"
Value = TypeVar("Value")
Model = str | ModelName


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """Where episodes come from: `ref` names a dataset that is there; else `files` are imported (none: the samples)."""

    ref: str = ""
    files: tuple[str, ...] = ()
    where: str | None = None


@dataclass(frozen=True, slots=True)
class LabelSpec:
    """A version of rewards. Judges are asked about the episodes of `dataset` as `asked` says (the fields of an
    Elicitation); or, where `origin` names other labels, the rewards are made of their attributions. `recipe` has the
    settings of the reward's recipe."""

    dataset: str = ""
    origin: str = ""
    judges: tuple[Model, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Training:
    """How something is trained: the base `model` ("": the preset `tiny` has one made), a preset, further settings."""

    model: str = ""
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy: one that is there (`plays`); one that is trained on `labels` by `trainer`, perhaps from the policy
    `origin`; or `origin` with the best of `best_of` drafts."""

    plays: Model = ""
    trainer: str = ""
    labels: str = ""
    origin: str = ""
    reward_model: str = ""
    best_of: int = 1
    where: str | None = None
    training: Training = Training()


@dataclass(frozen=True, slots=True)
class Plays:
    """Who plays whom, in which scenes, by which rules, and who scores it. `sampling` overrides the defaults of policies
    that are models; `subsets` are environments that are shown by themselves too."""

    policies: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    evaluators: tuple[Model, ...] = ()
    scenarios: str = SAMPLES
    profiles: str | None = None
    pairs: int | None = None
    turns: int = 20
    repeat: int = 1
    swap: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table under `title`: what it shows, `of` which names. Reward models are measured on the `split` of the labels
    `on`; scores are shown on `dimensions`."""

    name: str
    show: str
    title: str
    of: tuple[str, ...]
    on: str = ""
    split: str = "test"
    dimensions: tuple[str, ...] = ("goal", "average")


@dataclass(frozen=True, slots=True)
class Study:
    """All of it. `lines` gives the line of a name in its section, for mistakes that are found later."""

    name: str
    where: str
    seeds: tuple[int, ...]
    models: NamedModels
    datasets: Mapping[str, DatasetSource]
    labels: Mapping[str, LabelSpec]
    reward_models: Mapping[str, Training]
    policies: Mapping[str, PolicySpec]
    plays: Plays
    tables: tuple[TableSpec, ...]
    lines: Mapping[tuple[str, str], int]

    def place(self, section: str, name: str) -> str:
        """`study.yaml:12` where this name of a section is declared."""
        line = self.lines.get((section, name))
        return f"{self.where}:{line}" if line else self.where


def read_study(path: Path) -> Study:
    """The study that a file declares. Raises InputError with the line of what is wrong."""
    text = read_text(path, "study", "name a YAML file in UTF-8")
    return _StudyReader(str(path), "a study", _HINT).study(text)


_ASKED: dict[str, type] = {
    "schema": str, "dimensions": list, "scale": int, "ask": str, "evaluator": str, "samples": int, "wording": str,
    "sampling": dict,
}  # fmt: skip
_RECIPE: dict[str, type] = {"preset": str, "weights": dict, "average": str, "layout": str}
_REMADE: dict[str, type] = _RECIPE | {"rule": str, "normaliser": str, "gamma": float, "judge": str}
_KINDS = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}
_TRAINING = ("model", "preset", "set")
_SECTIONS = ("models", "seeds", "labels", "training", "reward_models", "policies", "plays")


class _StudyReader(NodeReader):
    """Reads the nodes of one file, from the root down. Names that refer to others are checked at the end."""

    def study(self, text: str) -> Study:
        keys = self.mapping(self.root(text), "a study", ("name", "datasets", "tables"), _SECTIONS)
        self._lines: dict[tuple[str, str], int] = {}
        self._references: list[tuple[Any, str]] = []
        self._origins: dict[tuple[str, str], Any] = {}
        self._models = models_of(keys["models"], self._where) if "models" in keys else NamedModels({}, {})
        self._training = self._trained(keys.get("training"), Training())
        datasets = self._section(keys, "datasets", self._dataset)
        labels = self._section(keys, "labels", lambda name, node: self._label(name, node, next(iter(datasets))))
        models = self._reward_models(keys["reward_models"]) if "reward_models" in keys else {}
        policies = self._section(keys, "policies", self._policy)
        plays = self._plays(keys["plays"], policies) if "plays" in keys else Plays()
        tables = self._section(keys, "tables", lambda name, node: self._table(name, node, plays))
        for name in labels:
            if name in datasets:
                self._fail("labels", name, f"there is a dataset {name!r} too, and each becomes a dataset of this name")
        known: dict[str, Mapping[str, Any]] = {
            "datasets": datasets,
            "labels": labels,
            "reward_models": models,
            "policies": policies,
        }
        for node, section in self._references:
            self._check_known(node, section, known[section])
        self._check_circles("labels", {name: spec.origin for name, spec in labels.items()})
        self._check_circles("policies", {name: spec.origin for name, spec in policies.items()})
        name, seeds = self._name(keys["name"]), self._seeds(keys["seeds"]) if "seeds" in keys else (0,)
        shown = tuple(tables.values())
        lines = self._lines
        return Study(name, self._where, seeds, self._models, datasets, labels, models, policies, plays, shown, lines)

    # --- sections -----------------------------------------------------------------------------------------------------

    def _dataset(self, _name: str, node: Any) -> DatasetSource:
        if isinstance(node.value, str):
            text = self.text(node, "datasets")
            return DatasetSource() if text == SAMPLES else DatasetSource(ref=text)
        keys = self.mapping(node, "a dataset", ("files",), ("where",))
        where = self._given(keys, self.text, "where")
        if keys["files"].value == SAMPLES:
            return DatasetSource(**where)
        files = self._texts(keys["files"], "files")
        for file, each in zip(files, keys["files"].value, strict=True):
            if not Path(file).exists():
                place = f"{self._where}:{each.start_mark.line + 1}"
                raise InputError(f"{place}: There is no file {file!r}.", "put it into this folder, or name its path")
        return DatasetSource(files=files, **where)

    def _label(self, name: str, node: Any, usual: str) -> LabelSpec:
        if any(str(key.value) == "from" for key, _ in self.pairs(node, "an entry of `labels`")):
            keys = self.mapping(node, "an entry of `labels` made from another", ("from",), tuple(_REMADE))
            origin = self._origin("labels", name, keys["from"])
            return LabelSpec(origin=origin, recipe=self._values(keys, _REMADE))
        keys = self.mapping(node, "an entry of `labels`", (), ("of", "judges", *_ASKED, *_RECIPE))
        return LabelSpec(
            dataset=self._reference(keys["of"], "datasets") if "of" in keys else usual,
            judges=self._specs(keys["judges"], "judges") if "judges" in keys else (),
            asked=self._values(keys, _ASKED),
            recipe=self._values(keys, _RECIPE),
        )

    def _trained(self, node: Any, usual: Training) -> Training:
        return usual if node is None else self._training_of(self.mapping(node, "`training`", (), _TRAINING), usual)

    def _training_of(self, keys: Mapping[str, Any], usual: Training) -> Training:
        further = {}
        if "set" in keys:
            self.pairs(keys["set"], "`set`")
            further = self.value(keys["set"])
        given = self._given(keys, self.text, "model", "preset")
        return replace(usual, settings={**usual.settings, **further}, **given)

    def _reward_models(self, node: Any) -> dict[str, Training]:
        """How each is trained, by the labels that it is trained on."""
        keys = self.mapping(node, "`reward_models`", ("of",), _TRAINING)
        training = self._training_of(keys, self._training)
        names = self._texts(keys["of"], "of")
        self._references += [(each, "labels") for each in keys["of"].value]
        self._lines |= {
            ("reward_models", name): each.start_mark.line + 1
            for name, each in zip(names, keys["of"].value, strict=True)
        }
        return dict.fromkeys(names, training)

    def _policy(self, name: str, node: Any) -> PolicySpec:
        present = {str(key.value) for key, _ in self.pairs(node, "an entry of `policies`")}
        if "plays" in present:
            keys = self.mapping(node, "a policy that is there", ("plays",), ())
            return PolicySpec(plays=self._spec(keys["plays"], "plays"))
        if "best_of" in present:
            keys = self.mapping(node, "the best of some drafts", ("from", "best_of", "reward_model"), ())
            return PolicySpec(
                origin=self._origin("policies", name, keys["from"]),
                best_of=self._number(keys["best_of"], "best_of", 2, 1024),
                reward_model=self._reference(keys["reward_model"], "reward_models"),
            )
        trainer = "train" in present and self.mapping(node, "a policy", (), tuple(present))["train"]
        if not trainer:
            self.wrong(node, "a policy has `plays` (one that is there), `train` (sft, dpo or grpo), or `best_of`")
        kind = self._one_of(trainer, "train", TRAINERS)
        needed = ("train", "labels", *(("reward_model",) if kind == "grpo" else ()))
        keys = self.mapping(node, f"a policy trained by {kind}", needed, ("from", "where", *_TRAINING))
        return PolicySpec(
            trainer=kind,
            labels=self._reference(keys["labels"], "labels"),
            origin=self._origin("policies", name, keys["from"]) if "from" in keys else "",
            reward_model=self._reference(keys["reward_model"], "reward_models") if "reward_model" in keys else "",
            training=self._training_of(keys, self._training),
            **self._given(keys, self.text, "where"),
        )

    def _plays(self, node: Any, policies: Mapping[str, PolicySpec]) -> Plays:
        also = ("policies", "scenarios", "profiles", "pairs", "turns", "repeat", "swap", "sampling", "subsets")
        keys = self.mapping(node, "`plays`", ("partners", "evaluators"), also)
        for name in ("policies", "partners"):
            self._references += [(each, "policies") for each in (keys[name].value if name in keys else ())]
        return Plays(
            policies=self._texts(keys["policies"], "policies") if "policies" in keys else tuple(policies),
            partners=self._texts(keys["partners"], "partners"),
            evaluators=self._specs(keys["evaluators"], "evaluators"),
            subsets=self._section(keys, "subsets", self._subset),
            **self._given(keys, self.text, "scenarios", "profiles"),
            **self._given(keys, partial(self._number, low=1, high=1_000_000), "pairs"),
            **self._given(keys, partial(self._number, low=1, high=1_000), "turns", "repeat"),
            **self._given(keys, self._flag, "swap"),
            **self._values(keys, {"sampling": dict}),
        )

    def _subset(self, name: str, node: Any) -> tuple[str, ...]:
        from sotopia_rl_data.rollouts import HARD

        if name == "all":
            self.wrong(node, "`all` are all environments that are played: give the subset another name")
        if isinstance(node.value, str) and node.value == "hard":
            return tuple(HARD)
        return self._texts(node, f"subsets {name}")

    def _table(self, name: str, node: Any, plays: Plays) -> TableSpec:
        also = ("title", "of", "on", "split", "dimensions")
        keys = self.mapping(node, "a table", ("show",), also)
        show = self._one_of(keys["show"], "show", tuple(SHOWN))
        section = SHOWN[show]
        if section and "of" not in keys:
            self.wrong(node, f"a table that shows {show} needs `of`: names of `{section}`")
        of = self._texts(keys["of"], "of") if "of" in keys else ()
        self._references += [(each, section) for each in (keys["of"].value if section else ())]
        for each, named in zip(keys["of"].value if section == "policies" else (), of, strict=False):
            if named not in plays.policies:
                self.wrong(each, f"`plays` does not have {named!r} play, so it has no scores")
        return TableSpec(
            name=name,
            show=show,
            title=self.text(keys["title"], "title") if "title" in keys else name.replace("-", " ").capitalize(),
            of=of,
            on=self._reference(keys["on"], "labels") if "on" in keys else "",
            **self._given(keys, partial(self._one_of, allowed=SPLITS), "split"),
            **self._given(keys, self._dimensions, "dimensions"),
        )

    def _dimensions(self, node: Any, what: str) -> tuple[str, ...]:
        """SOTOPIA-EVAL's by their full names, and the average."""
        names = self._texts(node, what)
        for name, each in zip(names, node.value, strict=True):
            if name != "average" and not is_known(name):
                known = ", ".join(one.name for one in SOTOPIA_EVAL)
                self.wrong(each, f"{name!r} is not a dimension of SOTOPIA-EVAL: write average, {known}")
        return tuple(name if name == "average" else dimension(name).name for name in names)

    # --- names --------------------------------------------------------------------------------------------------------

    def _section(self, keys: Mapping[str, Any], section: str, read: Callable[[str, Any], Value]) -> dict[str, Value]:
        """The entries of a section by name; none where it is not there."""
        if section not in keys:
            return {}
        pairs = self.pairs(keys[section], f"`{section}`")
        if not 1 <= len(pairs) <= MOST:
            self.wrong(keys[section], f"`{section}` must have 1 to {MOST} names, not {len(pairs):,}")
        found: dict[str, Value] = {}
        for key, node in pairs:
            name = self._name(key)
            self._lines[section, name] = key.start_mark.line + 1
            found[name] = read(name, node)
        return found

    def _name(self, node: Any) -> str:
        name = str(node.value)
        if not isinstance(node.value, str) or len(name) > _LONGEST or not _NAME.fullmatch(name):
            form = f"small letters and digits, with hyphens between them, {_LONGEST} characters at most"
            self.wrong(node, f"{name[:_LONGEST]!r} cannot be a name: a name has {form}")
        return name

    def _fail(self, section: str, name: str, fault: str) -> NoReturn:
        raise InputError(f"{self._where}:{self._lines[section, name]}: {fault}.", _HINT)

    def _reference(self, node: Any, section: str) -> str:
        self._references.append((node, section))
        return self.text(node, section)

    def _origin(self, section: str, name: str, node: Any) -> str:
        self._origins[section, name] = node
        return self._reference(node, section)

    def _check_known(self, node: Any, section: str, known: Mapping[str, Any]) -> None:
        name = self.text(node, section)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else f": it has {', '.join(known) or 'no names'}"
            self.wrong(node, f"`{section}` has no {name!r}{meant}")

    def _check_circles(self, section: str, origins: Mapping[str, str]) -> None:
        for name in origins:
            way = [name]
            while origins[way[-1]]:
                way.append(origins[way[-1]])
                if way[-1] == name:
                    self.wrong(self._origins[section, name], f"{' from '.join(way)}: this leads back to itself")
                if len(way) > len(origins):
                    break  # into a circle that another name is in

    # --- values -------------------------------------------------------------------------------------------------------

    def _given(self, keys: Mapping[str, Any], read: Callable[[Any, str], Any], *names: str) -> dict[str, Any]:
        """Those of the named values that are there, read by their nodes and names; others keep their defaults."""
        return {name: read(keys[name], name) for name in names if name in keys}

    def _values(self, keys: Mapping[str, Any], wanted: Mapping[str, type]) -> dict[str, Any]:
        """The values of those keys that are there, each of its type."""
        values = {}
        for name, kind in wanted.items():
            if name not in keys:
                continue
            value = self.value(keys[name])
            value = float(value) if kind is float and type(value) is int else value
            if type(value) is not kind or (isinstance(value, list) and not all(type(each) is str for each in value)):
                self.wrong(keys[name], f"`{name}` must be {_KINDS[kind]}, not {shown(keys[name])}")
            if name == "layout":
                self._one_of(keys[name], name, ("single", "chat"))
            values[name] = value
        return values

    def _items(self, node: Any, what: str) -> list[Any]:
        import yaml

        if not isinstance(node, yaml.SequenceNode) or not 1 <= len(node.value) <= MOST:
            self.wrong(node, f"`{what}` must be a list of 1 to {MOST} entries, as in [a, b]")
        return list(node.value)

    def _texts(self, node: Any, what: str) -> tuple[str, ...]:
        found: list[str] = []
        for each in self._items(node, what):
            if self.text(each, what) in found:
                self.wrong(each, f"`{what}` has {self.text(each, what)!r} twice")
            found.append(self.text(each, what))
        return tuple(found)

    def _spec(self, node: Any, what: str) -> Model:
        """A model of the section `models`, or one as a command takes it."""
        spec = self.text(node, what)
        return self._models.models.get(spec) or spec

    def _specs(self, node: Any, what: str) -> tuple[Model, ...]:
        self._texts(node, what)
        return tuple(self._spec(each, what) for each in node.value)

    def _seeds(self, node: Any) -> tuple[int, ...]:
        seeds = tuple(self._number(each, "seeds", 0, 2**31 - 1) for each in self._items(node, "seeds"))
        if len(set(seeds)) < len(seeds) or len(seeds) > MOST_SEEDS:
            self.wrong(node, f"`seeds` must be different numbers, {MOST_SEEDS} at most")
        return seeds

    def _number(self, node: Any, what: str, low: int, high: int) -> int:
        value = self.value(node)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.wrong(node, f"`{what}` must be a whole number from {low:,} to {high:,}")
        return value

    def _flag(self, node: Any, what: str) -> bool:
        value = self.value(node)
        if not isinstance(value, bool):
            self.wrong(node, f"`{what}` must be true or false")
        return value

    def _one_of(self, node: Any, what: str, allowed: Sequence[str]) -> str:
        value = self.text(node, what)
        if value not in allowed:
            self.wrong(node, f"`{what}` must be one of {', '.join(allowed)}, not {value!r}")
        return value
