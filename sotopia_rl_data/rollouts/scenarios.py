"""Which scenes are played: the bundled ones, the published benchmark, or people's own scenarios as YAML, JSON, JSON
lines or CSV.

docs/rollouts.md documents the format. Nothing is lost silently: a field that the format does not have is an error, and
so is markup that would be lost in play or shown to the wrong agent. All mistakes are reported together, by file and
line. The library's profile files are read in `profiles.py`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.importers.record import clean, identifier, mapping, text
from sotopia_rl_data.rollouts.markup import fault
from sotopia_rl_data.rollouts.profiles import HARD, known_relationship, read_profiles
from sotopia_rl_data.rollouts.scene import Environment, Person, Scene
from sotopia_rl_data.samples import SCENARIOS
from sotopia_rl_data.yaml_nodes import NodeReader, text_of

PUBLISHED = ("hard", "all")
FIELDS = ("environment_id", "codename", "relationship", "scenario", "agents")
PERSON = ("agent", "name", "called", "background", "personality", "secret", "goal")
_BEFORE = {"environment": "environment_id", "cast": "agents", "id": "agent"}
"""The words of scenario files before they took those of episodes; both are read."""
_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SHOWN = 5
_MOST = 400_000  # values of a YAML file: SOTOPIA's benchmark has about a million characters
_BLANKS = re.compile(r"\s*")
_HINT = f"a scenario has {', '.join(FIELDS)}; each of its agents has {', '.join(PERSON)}"
_OF_PERSON = re.compile(rf"({'|'.join((*PERSON, 'id'))})_(\d{{1,6}})")

_Entry = tuple[int, Any]
"""The line in which a scenario begins, and its value."""


def scenes_of(name: str = "samples", profiles: str | Path | None = None, pairs: int | None = None) -> list[Scene]:
    """The scenes that `name` stands for, in order; at most `pairs` scenes for each environment.

    samples: the scenes that ship with the package. hard, all: SOTOPIA's benchmark, whose profile files are in the
    folder `profiles`. Any other name is a file of scenarios. Raises UsageError, InputError, NotFound.
    """
    if pairs is not None and pairs < 1:
        raise UsageError(f"--pairs {pairs} leaves no pair of agents to play.", "give 1 or more, or leave --pairs out")
    if name in PUBLISHED:
        if profiles is None:
            raise UsageError(
                f"The scenarios {name!r} are SOTOPIA's, whose profiles do not ship with this package.",
                "download its agent, environment and pair profiles, and name their folder with --profiles",
            )
        return list(read_profiles(profiles).scenes(HARD if name == "hard" else None, pairs))
    if profiles is not None:
        raise UsageError(
            "--profiles is used only with --scenarios hard or all.", "name one of the two, or leave --profiles out"
        )
    if name != "samples" and not Path(name).exists():
        raise UsageError(f"There are no scenarios {name!r}.", "name samples, hard, all, or a file: ./scenarios.yaml")
    counts: Counter[str] = Counter()
    scenes = []
    for scene in bundled() if name == "samples" else read_scenarios(name):
        counts[scene.environment.environment_id] += 1
        if pairs is None or counts[scene.environment.environment_id] <= pairs:
            scenes.append(scene)
    return scenes


def read_scenarios(path: str | Path) -> tuple[Scene, ...]:
    """The scenes of a file, in its order. Raises InputError with the line of each mistake (of many, the first five)."""
    file, scenes, faults = Path(path), list[Scene](), list[str]()
    for line, value in _entries(file):
        try:
            scenes.append(_scene(value))
        except InputError as error:
            faults.append(f"{file}:{line}: {error.message}")
    faults += [f"{file}: {contradiction}" for contradiction in _contradictions(scenes)]
    if not scenes and not faults:
        raise InputError(f"{str(file)!r} holds no scenario.", _HINT)
    if faults:
        more = f" (and {len(faults) - _SHOWN} more)" if len(faults) > _SHOWN else ""
        raise InputError("\n".join(faults[:_SHOWN]) + more, _HINT)
    return tuple(scenes)


def bundled() -> tuple[Scene, ...]:
    """The scenes that ship with the package, in the order of file names. They were written for this project."""
    loaded = [yaml.load(file.read_text("utf-8"), _FAST) for file in sorted(SCENARIOS.glob("*.yaml"))]
    return tuple(_scene({field: value[field] for field in FIELDS}) for value in loaded)


def _entries(file: Path) -> Iterator[_Entry]:
    try:
        content = text_of(file)
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror}.", "check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{str(file)!r} is not UTF-8 text.", "save it as UTF-8") from error
    readers = {".json": _json, ".jsonl": _json_lines, ".csv": _csv}
    endings = (".yaml", ".yml", *readers)
    if file.suffix not in endings:
        raise InputError(
            f"{str(file)!r} is not a scenario file.", f"give its name one of the endings {', '.join(endings)}"
        )
    try:
        yield from _yaml(content, file) if file.suffix in (".yaml", ".yml") else readers[file.suffix](content)
    except _Unreadable as error:
        raise InputError(f"{file}:{error.line}: {error}", "repair the file there") from error


class _Unreadable(Exception):
    """The file cannot be read on from `line`."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def _yaml(content: str, file: Path) -> Iterator[_Entry]:
    """One scenario, a list of them, or either in each of several documents."""
    reader = NodeReader(str(file), "scenarios", "repair the file there", _MOST)
    for node in reader.roots(content):
        for scenario in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            yield scenario.start_mark.line + 1, reader.value(scenario)


def _json(content: str) -> Iterator[_Entry]:
    """One scenario, or a list of them."""
    decoder, position, line, counted = json.JSONDecoder(), _skip_blanks(content, 0), 1, 0
    listed = content.startswith("[", position)
    if listed:
        position = _skip_blanks(content, position + 1)
    while position < len(content) and not (listed and content[position] == "]"):
        line, counted = line + content.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(content, position)
        except (ValueError, RecursionError) as error:
            raise _Unreadable(
                error.lineno if isinstance(error, json.JSONDecodeError) else line, "this is not JSON."
            ) from error
        yield line, value
        position = _skip_blanks(content, position)
        if not listed and position < len(content):
            raise _Unreadable(content.count("\n", 0, position) + 1, "there is more text after the JSON object.")
        if content.startswith(",", position):
            position = _skip_blanks(content, position + 1)


def _skip_blanks(content: str, position: int) -> int:
    """The end of the white space that begins at `position`."""
    blanks = _BLANKS.match(content, position)
    return blanks.end() if blanks else position


def _json_lines(content: str) -> Iterator[_Entry]:
    for line, record in enumerate(content.split("\n"), start=1):
        if record.strip():
            try:
                yield line, json.loads(record)
            except (ValueError, RecursionError) as error:
                raise _Unreadable(line, "this is not JSON.") from error


def _csv(content: str) -> Iterator[_Entry]:
    """One scenario in each row. The columns of the people are numbered: name_1, goal_1, name_2 …"""
    rows = csv.DictReader(io.StringIO(content, newline=""), restkey="", strict=True)
    line = 2
    try:
        for row in rows:
            if None in row.values() or "" in row:
                raise _Unreadable(line, f"this row does not have the {len(rows.fieldnames or ())} cells of the header.")
            yield line, _nested({column: cell for column, cell in row.items() if cell.strip()})
            line = rows.line_num + 1
    except csv.Error as error:
        raise _Unreadable(line, f"this is not CSV: {error}.") from error


def _nested(row: Mapping[str, str]) -> dict[str, Any]:
    people: dict[int, dict[str, str]] = {}
    record: dict[str, Any] = {}
    for column, cell in row.items():
        of_person = _OF_PERSON.fullmatch(column)
        if of_person:
            people.setdefault(int(of_person[2]), {})[of_person[1]] = cell
        else:
            record[column] = cell
    return record | {"agents": [people[number] for number in sorted(people)]}


def _scene(value: Any) -> Scene:
    """The scene of one record. Raises InputError with what is wrong with it."""
    record = _known(mapping(value, "the scenario"), FIELDS, "the scenario")
    agents = record.get("agents")
    if isinstance(agents, Mapping):
        agents = list(agents.values())
    if not isinstance(agents, list) or len(agents) < 2:
        raise InputError("`agents` is not a list of two people or more.")
    members = [_member(value, number) for number, value in enumerate(agents, 1)]
    people = tuple(person for person, _ in members)
    for labels in ([person.agent for person in people], [person.name for person in people]):
        if len(set(labels)) < len(labels):
            raise InputError(f"two agents have the same id or name: {', '.join(labels)}.")
    relationship = record.get("relationship")
    environment = Environment(
        environment_id=identifier(record, "environment_id"),
        scenario=text(record, "scenario"),
        goals=tuple(goal for _, goal in members),
        codename=text(record, "codename", ""),
        relationship="stranger" if relationship is None else known_relationship(relationship),
        source="own",
    )
    _check_texts(environment, people)
    return Scene(environment, people)


def _known(record: Mapping[str, Any], fields: tuple[str, ...], what: str) -> Mapping[str, Any]:
    record = _renamed(record, fields, what)
    unknown = [str(key) for key in record if key not in fields]
    if unknown:
        raise InputError(f"{what} has the unknown field {unknown[0]!r}; it may have {', '.join(fields)}.")
    return record


def _renamed(record: Mapping[str, Any], fields: tuple[str, ...], what: str) -> Mapping[str, Any]:
    """The record with old field names replaced by today's."""
    both = [f"`{old}` and `{new}`" for old, new in _BEFORE.items() if new in fields and {old, new} <= record.keys()]
    if both:
        raise InputError(f"{what} has {both[0]}, which are the same field.")
    return {_BEFORE[key] if _BEFORE.get(key) in fields else key: value for key, value in record.items()}


def _member(value: Any, number: int) -> tuple[Person, str]:
    """An agent and their goal; `number` counts from 1. Raises InputError, which names the agent."""
    what = f"agent {number}"
    member = _known(mapping(value, what), PERSON, what)
    try:
        name = identifier(member, "name")
        person = Person(
            agent=identifier(member, "agent") if member.get("agent") is not None else name,
            name=name,
            called=text(member, "called", ""),
            introduction=text(member, "background", "").strip(),
            personality=text(member, "personality", "").strip() or None,
            secret=text(member, "secret", "").strip() or None,
        )
        return person, identifier(member, "goal").strip()
    except InputError as error:
        raise InputError(f"{what}: {error.message}") from error


def _check_texts(environment: Environment, people: tuple[Person, ...]) -> None:
    texts = {
        "scenario": environment.scenario,
        "codename": environment.codename,
        "environment's id": environment.environment_id,
    }
    for person, goal in zip(people, environment.goals, strict=True):
        fields = {"name": person.name, "background": person.introduction, "personality": person.personality or ""}
        fields |= {"secret": person.secret or "", "goal": goal, "id": person.agent, "called": person.called}
        texts |= {f"{field} of {person.name}": value for field, value in fields.items()}
    for what, value in texts.items():
        wrong = fault(value, len(people)) if clean(value) == value else "holds half of a surrogate pair"
        if wrong:
            raise InputError(f"the {what} {wrong}.")


def _contradictions(scenes: list[Scene]) -> Iterator[str]:
    """A sentence for each id that stands for two different environments."""
    first: dict[str, Environment] = {}
    for scene in scenes:
        environment = scene.environment
        if first.setdefault(environment.environment_id, environment) != environment:
            yield f"the environment {environment.environment_id!r} is described twice, in different ways."
