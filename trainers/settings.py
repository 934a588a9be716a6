"""What can be set in a trainer's configuration, known without torch: names, types, defaults, meanings and values.

Importing torch, transformers and TRL can take half a minute, and a mistyped `--set` must not. So the fields are read
from the source of the classes, of this project's `config.py` and of the libraries that are installed: none of them is
imported, and no list is kept. Where a library's source is not laid out as expected, nothing is known here (`settings`
is empty), and `config.py` finds the mistake after the import. Rules over several fields are checked there too.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from sotopia_rl_data import yaml_nodes
from sotopia_rl_data.errors import InputError, UsageError

CLASSES = {"rm": "RMConfig", "sft": "PolicySFTConfig", "dpo": "PolicyDPOConfig", "grpo": "PolicyGRPOConfig"}
TITLES = {"CommonFields": "Settings of all trainers"} | {
    name: f"Settings of train {kind}" for kind, name in CLASSES.items()
}
"""The headings of this project's own settings, by the class that has them."""
DEFAULT = "default"  # the preset that is taken where none is named
BATCH_SIZES = ("tokens_per_device_batch", "per_device_train_batch_size")
_OURS = Path(__file__).with_name("config.py")
_PLACES = {  # where a library defines a class that it exports at its top
    "transformers.TrainingArguments": "training_args.py",
    "trl.SFTConfig": "trainer/sft_config.py",
    "trl.DPOConfig": "trainer/dpo_config.py",
    "trl.GRPOConfig": "trainer/grpo_config.py",
}
_WRITTEN = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    dict: "a mapping",
    list: "a list",
    str: "text",
}
LEAST = {  # what the libraries do not refuse until they fail: the least value of each setting
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(("max_length", "max_prompt_length", "max_completion_length", "row_tokens"), 1),
    **dict.fromkeys(("tokens_per_device_batch", "steps_per_generation", "lora_r", "lora_alpha", "patience"), 1),
    **dict.fromkeys(("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "beta", "resamples"), 0),
    **dict.fromkeys(("num_train_epochs", "seed", "data_seed", "temperature"), 0),
    "num_generations": 2,
    "max_steps": -1,
}
_EXAMPLES = {bool: "true", float: "1e-5", int: "10", dict: "'{a: 1}'", list: "a,b", str: "text"}


@dataclass(frozen=True, slots=True)
class TrainingSetting:
    """A field of a configuration: its type and default as they are written in the source ("" where the default is
    computed), its meaning, the values that it may have (empty: any of its type), and the class that explains it."""

    name: str
    type: str
    default: str
    meaning: str
    choices: tuple[str, ...]
    owner: str


def settings(kind: str) -> dict[str, TrainingSetting]:
    """The settings of `train KIND` by name, this project's own last; empty where the sources cannot be read."""
    try:
        return dict(_fields(_OURS, CLASSES[kind]))
    except (OSError, SyntaxError, LookupError):
        return {}


def with_preset(kind: str, preset: str = DEFAULT) -> dict[str, TrainingSetting]:
    """The settings of `train KIND`, with the defaults that a preset gives them."""
    values, known = preset_values(kind, preset), settings(kind)
    return {name: replace(one, default=str(values[name])) if name in values else one for name, one in known.items()}


def values_of(
    kind: str,
    *,
    preset: str | None = None,
    file: str | None = None,
    options: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    known: Mapping[str, TrainingSetting] | None = None,
) -> dict[str, Any]:
    """What a preset, a YAML `file`, `options` (None: not set) and "key=value" `assignments` set; later ones win.

    `known` are the settings there are (default: `settings(kind)`); where none are known, nothing is checked. Batches
    have a number of tokens or of rows: whichever is named later takes the place of the other. Raises UsageError for an
    unknown preset, key or value, InputError for a file that cannot be read.
    """
    known = settings(kind) if known is None else known
    sources = (
        preset_values(kind, preset),
        _file(file) if file else {},
        {key: value for key, value in (options or {}).items() if value is not None},
        _assigned(assignments),
    )
    values: dict[str, Any] = {}
    for source in sources:
        named = [key for key in BATCH_SIZES if key in source]
        if len(named) == 1:  # only the other one's value of an earlier source is left out
            values = {key: value for key, value in values.items() if key not in BATCH_SIZES}
        for key, value in source.items():
            if known and key not in known:
                _unknown(key, kind, known)
            values[key] = _typed(known[key], value) if known else value
    return values


def presets(kind: str) -> dict[str, str]:
    """The presets for `kind` by name, each with the comment that opens its file."""
    found = {}
    for path in sorted(files("sotopia_rl_data.trainers").joinpath("presets").iterdir(), key=lambda path: path.name):
        of, _, rest = path.name.partition(".")
        if of == kind and rest.endswith(".yaml"):
            lines = path.read_text(encoding="utf-8").splitlines()
            comment = [line[1:].strip() for line in takewhile(lambda line: line.startswith("#"), lines)]
            found[rest.removesuffix(".yaml")] = " ".join(comment)
    return found


def preset_values(kind: str, name: str | None) -> dict[str, Any]:
    """The fields that a preset sets. Raises UsageError, which lists the presets."""
    if name is None:
        return {}
    if name not in presets(kind):
        raise UsageError(f"`train {kind}` has no preset {name!r}.", f"name one of: {', '.join(presets(kind))}")
    text = files("sotopia_rl_data.trainers").joinpath("presets", f"{kind}.{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml_nodes.values(text, f"The preset {name}", "settings", ""))


# --- reading the sources ----------------------------------------------------------------------------------------------


@cache
def _module(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _fields(path: Path, name: str) -> dict[str, TrainingSetting]:
    """The fields of the dataclass `name` in this file and of its bases, in the order that dataclasses gives them. A
    field without a meaning of its own has that of the base, which stays its owner."""
    module = _module(path)
    definition = next((one for one in module.body if isinstance(one, ast.ClassDef) and one.name == name), None)
    if definition is None:
        where = _imported(path, name)
        if where is None:
            raise LookupError(name)
        return _fields(where, name)
    found: dict[str, TrainingSetting] = {}
    inherited = [field for base in reversed(definition.bases) for field in _fields(path, ast.unparse(base)).values()]
    lines = [line for line in definition.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
    for field in (*inherited, *(_field(path, line, name) for line in lines)):
        if field is None:
            continue
        before = found.get(field.name)
        if before is not None and not field.meaning:
            choices = field.choices or before.choices
            field = replace(field, meaning=before.meaning, choices=choices, owner=before.owner)
        found[field.name] = field
    return found


def _field(path: Path, line: ast.AnnAssign, owner: str) -> TrainingSetting | None:
    """A field as it is written; None for a class variable, and for what the constructor does not take."""
    assert isinstance(line.target, ast.Name)
    annotation, default = ast.unparse(line.annotation), line.value
    if annotation.startswith("ClassVar"):
        return None
    metadata: dict[str, ast.expr] = {}
    if isinstance(default, ast.Call) and ast.unparse(default.func) == "field":
        given = {keyword.arg: keyword.value for keyword in default.keywords}
        if isinstance(given.get("init"), ast.Constant) and ast.unparse(given["init"]) == "False":
            return None
        described = given.get("metadata")
        if isinstance(described, ast.Dict):
            metadata = {
                ast.unparse(key): value for key, value in zip(described.keys, described.values, strict=True) if key
            }
        default = given.get("default", given.get("default_factory"))
    meaning = _literal(path, metadata.get("'help'")) or ""
    choices = _literal(path, metadata.get("'choices'")) or _members(path, line.annotation)
    names = tuple(map(str, choices)) if isinstance(choices, (list, tuple)) else ()
    return TrainingSetting(
        line.target.id, annotation, _written(path, default), str(meaning).replace("%%", "%"), names, owner
    )


def _literal(path: Path, node: ast.expr | None) -> Any:
    """The value of a literal, or of a constant of the same file; None where it takes running the code."""
    if isinstance(node, ast.Name):
        assigned = [line for line in _module(path).body if isinstance(line, ast.Assign)]
        node = next((line.value for line in assigned if ast.unparse(line.targets[0]) == node.id), node)
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError):
        return None


def _written(path: Path, default: ast.expr | None) -> str:
    """A default as one writes it in YAML; "" where it is computed."""
    if isinstance(default, ast.Name) and default.id in ("list", "dict"):
        return "[]" if default.id == "list" else "{}"
    if isinstance(default, ast.Lambda):
        default = default.body
    value = _literal(path, default)
    if value is None:
        return "null" if isinstance(default, ast.Constant) else ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _members(path: Path, annotation: ast.expr) -> tuple[str, ...]:
    """The values of the enumeration that a union such as `IntervalStrategy | str` names, if it names one."""
    for part in _parts(annotation):
        where = path if _enumeration(path, part) else _imported(path, part)
        body = _enumeration(where, part) if where else []
        members = [line.value for line in body if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)]
        if members:
            return tuple(str(member.value) for member in members)
    return ()


def _enumeration(path: Path, name: str) -> list[ast.stmt]:
    for line in _module(path).body:
        if isinstance(line, ast.ClassDef) and line.name == name and any("Enum" in ast.unparse(b) for b in line.bases):
            return line.body
    return []


def _imported(path: Path, name: str) -> Path | None:
    """The file from which `path` imports the class `name`: one beside it, or one of a library in `_PLACES`."""
    for line in _module(path).body:
        if isinstance(line, ast.ImportFrom) and line.module and name in [alias.name for alias in line.names]:
            if line.level:
                beside = path.parents[line.level - 1] / f"{line.module.replace('.', '/')}.py"
                return beside if beside.is_file() else None
            place = _PLACES.get(f"{line.module}.{name}")
            spec = importlib.util.find_spec(line.module) if place else None
            return Path(spec.origin).parent / place if spec and spec.origin and place else None
    return None


# --- values -----------------------------------------------------------------------------------------------------------


def _unknown(key: str, kind: str, known: Mapping[str, TrainingSetting]) -> NoReturn:
    near = difflib.get_close_matches(key, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"see all: sotopia-rl-data train {kind} --help-settings"
    raise UsageError(f"There is no setting {key!r}.", hint)


def _assigned(assignments: Sequence[str]) -> dict[str, Any]:
    """The values of "key=value" texts, read as YAML."""
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        key = name.strip()
        if not equals:
            raise UsageError(f"--set {assignment} has no value.", "write --set key=value")
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


def _parts(annotation: ast.expr) -> list[str]:
    """The alternatives of a union: ["str", "list", "None"] for `str | list[str] | None`."""
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return [*_parts(annotation.left), *_parts(annotation.right)]
    if isinstance(annotation, ast.Subscript):
        head = ast.unparse(annotation.value)
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if head in ("Optional", "Union"):
            return [part for one in inner for part in _parts(one)] + ["None"] * (head == "Optional")
        return [head]
    return [ast.unparse(annotation)]


def _typed(setting: TrainingSetting, value: Any) -> Any:
    """The value as its field needs it, since YAML reads 1e-5 as text and `no` as False, and a list may be one text.

    Raises UsageError where the field cannot have it."""
    annotation = ast.parse(setting.type, mode="eval").body
    parts = _parts(annotation)
    types = [kind for kind in _WRITTEN if kind.__name__ in parts]
    if "Literal" in parts or not types:
        return value  # nothing more is known of what it may be
    if value is None and "None" in parts:
        return None
    if isinstance(value, bool) and bool not in types and str in types:
        value = "yes" if value else "no"
    if isinstance(value, str) and list in types and str not in types:
        value = [part.strip() for part in value.split(",") if part.strip()]
    if "list[float]" in setting.type:
        return [_number(setting, one, [float]) for one in (value if isinstance(value, list) else [value])]
    if isinstance(value, str) and str not in types and (float in types or int in types):
        value = _number(setting, value, types)
    if isinstance(value, float) and float not in types and int in types:
        value = int(value) if value.is_integer() else value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and types == [str]:
        value = str(value)
    if type(value) not in types and not (type(value) is int and float in types):
        _refuse(setting, value, types)
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(setting, value, types)
    least = LEAST.get(setting.name)
    if least is not None and not isinstance(value, str) and value < least:
        usual = setting.default if setting.default not in ("", "null") else least
        raise UsageError(f"{setting.name} must be at least {least}.", f"--set {setting.name}={usual}")
    if setting.choices and isinstance(value, str) and value not in setting.choices:
        raise UsageError(f"{value!r} is not a valid {setting.name}.", f"name one of: {', '.join(setting.choices)}")
    return value


def _number(setting: TrainingSetting, value: Any, types: Sequence[type]) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        _refuse(setting, value, types)


def _refuse(setting: TrainingSetting, value: Any, types: Sequence[type]) -> NoReturn:
    wanted = " or ".join(_WRITTEN[kind] for kind in types if kind is not int or float not in types)
    example = next(iter(setting.choices), _EXAMPLES[types[0]])
    if isinstance(value, list) and str in types:
        example = ",".join(map(str, value))
    raise UsageError(f"{setting.name} must be {wanted}; it is {value!r}.", f"--set {setting.name}={example}")
