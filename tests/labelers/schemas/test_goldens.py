"""Goldens: every judge prompt is frozen, as text or by its hash, so that no wording changes unnoticed.

Schema by schema: the text for the boat on the scale of 3, and hashes on every scale. What the boat lacks (private
turns, lost ones, an agent that never acts …) stands in one prompt about an odd episode; second tries, and the answer
schema in words for servers that take none, have a file of their own.

A version of a schema has one wording for good, and so has each way to show an episode (`phrasing.Wording`). To change
one: write new files (`labelers/prompts/NAME.v2.txt`), raise the schema's `version` or add a `Wording`, then run
`PYTHONPATH=tests python tests/labelers/schemas/test_goldens.py`: it adds what is new and changes nothing that is there.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from fixtures.labelling import BOAT, BY, ODD
from fixtures.places import GOLDENS, ROOT

from sotopia_rl_data.asking.transport import with_schema_in_words
from sotopia_rl_data.labelers.evaluation.sotopia_eval import SOTOPIA_EVAL
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.requests import follow_up, request_of
from sotopia_rl_data.labelers.schemas import BUILTINS, Schema, in_wording, phrasing, rubric, schema
from sotopia_rl_data.labelers.schemas.phrasing import FIRST, WORDINGS, Wording
from sotopia_rl_data.request import Reply, Target
from sotopia_rl_data.schema import Message

HASHES, FILES = GOLDENS / "wordings.txt", GOLDENS / "files.txt"
EXAMPLE = ROOT / "examples" / "rubric.yaml"
SCALES, WAYS = (3, 5, 10), ("per-dimension", "packed")
TURNWISE = ("online", "progress", "quality", "response", "score")
JUDGED = [name for name in BUILTINS if schema(name).needs_judge]


def version_of(one: Schema, wording: Wording) -> str:
    """The schema's version, and the wording unless it is the first."""
    return f"v{one.version}" if wording == FIRST else f"v{one.version}.wording-{wording}"


def rendered(one: Any, how: Any, scale: int) -> str:
    """All that a judge is sent for the first question about the boat, as one text; of schemas that have a question for
    each view, also for the one about agent a's second utterance."""
    dimensions = getattr(one, "dimensions", ())[:2] or ("relationship", "goal")
    questions = list(one.questions(BOAT, dimensions, BY, how, scale))
    second = [q for q in questions[1:] if {(s.agent, s.turn) for s in q.slots.values()} == {("a", 2)}]
    return "".join(map(sent, [questions[0], *second[:1]]))


def sent(question: Question) -> str:
    """One question as text."""
    parts = [message_text(message) for message in question.messages]
    return "\n".join([*parts, "===== answer schema", json.dumps(question.answer_schema, indent=1), ""])


def message_text(message: Message) -> str:
    return f"===== {message['role']}\n{message['content']}"


def wordings() -> Iterator[str]:
    """For each schema and scale its version and the hash of its wording, and those of the prompts made from it."""
    for name in JUDGED:
        for scale in SCALES:
            for wording in WORDINGS:
                one = in_wording(schema(name), wording)
                version = version_of(one, wording)
                yield f"{name} {version} scale {scale} {one.wording_sha256(scale)}"
                for how in WAYS:
                    text = rendered(one, how, scale)
                    yield f"{name} {version} {how} scale {scale} {hashlib.sha256(text.encode()).hexdigest()}"
    for wording in WORDINGS:
        for asks in (schema(f"rubric:{EXAMPLE}"), SOTOPIA_EVAL):
            one = in_wording(asks, wording)
            yield f"{one.id} {version_of(one, wording)} {one.wording_sha256()}"


def files() -> Iterator[tuple[Path, str]]:
    first = {name: in_wording(schema(name), FIRST) for name in JUDGED}
    for name, one in first.items():
        for how in WAYS:
            for scale in SCALES if name == "direct" else (3,):
                yield GOLDENS / f"{name}.v{one.version}.{how}.scale-{scale}.txt", rendered(one, how, scale)
    for shows in ("history", "reply", "episode"):
        of_rubric = rubric.schema_of(replace(rubric.read(EXAMPLE), shows=shows))  # type: ignore[arg-type]
        asks = in_wording(of_rubric, FIRST)
        yield GOLDENS / f"rubric.v{asks.version}.{shows}.txt", rendered(asks, "packed", 3)
    for wording in WORDINGS:
        evaluation, direct = in_wording(SOTOPIA_EVAL, wording), in_wording(schema("direct"), wording)
        for how in WAYS:
            path = GOLDENS / f"{evaluation.id}.{version_of(evaluation, wording)}.{how}.txt"
            yield path, rendered(evaluation, how, 3)
        (odd,) = direct.questions(ODD, ("goal", "secret"), BY, "packed", 3)
        yield GOLDENS / f"direct.{version_of(direct, wording)}.odd.txt", sent(odd)
    direct, progress = schema("direct"), schema("goal-progress")  # the other schemas' newest texts are known by hash
    yield GOLDENS / "direct.v2.wording-v2.packed.scale-3.txt", rendered(direct, "packed", 3)
    yield GOLDENS / "goal-progress.v2.wording-v2.packed.scale-3.txt", rendered(progress, "packed", 3)
    yield GOLDENS / "second-try.v1.txt", second_try()
    (asked, *_) = direct.questions(BOAT, ("goal",), BY, "per-dimension", 3)
    in_words = with_schema_in_words([{"role": "user", "content": "(The question.)"}], asked.answer_schema)
    yield GOLDENS / "in-words.v1.txt", "\n".join([*map(message_text, in_words), ""])


def second_try() -> str:
    """What is said after an answer that cannot be used."""
    (question, *_) = schema("direct").questions(BOAT, ("goal",), BY, "per-dimension", 3)
    asked = request_of(question, Target("openai", "m"))
    told = [follow_up(asked, Reply(text), "the answer is empty") for text in ("", "All of them mattered.")]
    return "\n".join([*(message_text(one) for again in told if again for one in again.messages[4:]), ""])


@pytest.mark.parametrize(
    ("path", "text"), list(files()), ids=lambda value: value.name if isinstance(value, Path) else ""
)
def test_a_prompt_is_what_it_was(path: Path, text: str):
    assert text == path.read_text("utf-8"), "a new wording is a new file and a new schema version: see this module"


def test_every_schema_version_has_the_wording_that_it_always_had():
    frozen = HASHES.read_text("utf-8").splitlines()
    assert set(wordings()) <= set(frozen)
    versions = [line.rpartition(" ")[0] for line in frozen]
    assert len(set(versions)) == len(versions)


def test_every_wording_file_is_as_it_was():
    assert frozen_files() == file_hashes()


def test_no_wording_file_is_left_unused():
    from sotopia_rl_data.labelers.schemas import phrasing

    used = {
        "importance.v1",
        "importance.question.v1",
        "key.v1",
        "key.question.v1",
        *chain.from_iterable(map(phrasing.shared, WORDINGS)),
    }
    used |= {"repair.v1", phrasing.HANDOVER, phrasing.VIEW_HANDOVER} | {
        f"{part}.v1" for one in TURNWISE for part in (one, f"{one}.question")
    }
    used |= {phrasing.levels_wording(scale) for scale in SCALES}
    used |= {"rubric.v1", "rubric.question.v1", "rubric.history.v1", "rubric.reply.v1", "rubric.episode.v1"}
    used |= {"conversation-behaviour.v1.yaml", "evaluation.v1", "evaluation.question.v1", "handover.evaluation.v1"}
    assert used == {name.removesuffix(".txt") for name in file_hashes()}


def frozen_files() -> dict[str, str]:
    lines = FILES.read_text("utf-8").splitlines() if FILES.exists() else []
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}


def file_hashes() -> dict[str, str]:
    folder = Path(phrasing.__file__).parents[1] / "prompts"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def add_what_is_new() -> None:
    """Freeze new wordings. Exits where something that is frozen would change."""
    GOLDENS.mkdir(exist_ok=True)
    frozen = HASHES.read_text("utf-8").splitlines() if HASHES.exists() else []
    known = {line.rpartition(" ")[0]: line for line in frozen}
    for line in wordings():
        if known.setdefault(line.rpartition(" ")[0], line) != line:
            sys.exit(f"{line.rpartition(' ')[0]} has another wording: raise the schema's version")
    for path, text in files():
        if path.exists() and path.read_text("utf-8") != text:
            sys.exit(f"{path.name} would change: raise the schema's version")
        path.write_text(text, "utf-8")
    now = file_hashes()
    for name, sha256 in frozen_files().items():
        if now.get(name) != sha256:
            sys.exit(f"{name} was used and must stay: write the new wording into a new file")
    HASHES.write_text("\n".join(known.values()) + "\n", "utf-8")
    FILES.write_text("".join(f"{sha256}  {name}\n" for name, sha256 in now.items()), "utf-8")


if __name__ == "__main__":
    add_what_is_new()
