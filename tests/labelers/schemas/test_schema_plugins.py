"""Schemas of somebody's own: by a path, by an entry point, and what is said where they are wrong."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from fixtures.flat_calls import label
from fixtures.labelling import BOAT, Highest, put, rows

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.schemas import schema
from sotopia_rl_data.store import Store

MINE = """
from sotopia_rl_data.labelers.schemas import answers
from sotopia_rl_data.labelers.judge import Question, Slot

class Charm:
    \"\"\"Asks how charming each utterance was, in one call an episode.\"\"\"

    id, version, measure, rule, needs_judge, needs_score = "charm", 1, "quality", "quality", True, False
    dimensions = ("charm",)

    def bounds(self, scale, dimension):
        return 0.0, float(scale)

    def wording_sha256(self, scale=3):
        return "0" * 64

    def questions(self, episode, dimensions, evaluator, ask, scale):
        slots = {(f"turn_{t.turn}",): Slot(t.agent, t.turn, "charm") for t in episode.turns}
        form = answers.of_keys({key: answers.one_of(range(scale + 1)) for (key,) in slots})
        yield Question(self.id, episode, [{"role": "user", "content": "Charming?"}], form, slots, scale)

    def read(self, question, text):
        said = answers.check(question.answer_schema, answers.parse(text))
        return {slot: float(said[path]) for path, slot in question.slots.items()}
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put(store, [BOAT])
    return store


def written(tmp_path: Path, code: str, name: str = "mine.py") -> str:
    (tmp_path / name).write_text(textwrap.dedent(code))
    return f"{tmp_path / name}:Charm"


def test_a_schema_by_its_path_brings_dimensions_of_its_own_into_the_rewards(store: Store, tmp_path: Path):
    done = label(store, "lab/episodes", judges=[Highest()], schema=written(tmp_path, MINE))
    assert (done.calls, done.labels, done.failures) == (1, 5, {})
    assert {(r["raw_charm"], r["reward"]) for r in rows(done.version, "rewards", store)} == {(1.0, 1.0)}
    assert {r["schema"] for r in rows(done.version, "attributions", store)} == {"charm"}


def test_an_installed_schema_is_found_by_its_entry_point(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "charm_schema.py").write_text(MINE)
    info = tmp_path / "charm_schema-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: charm-schema\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[sotopia_rl_data.schemas]\ncharm = charm_schema:Charm\nbroken = charm_schema:Harm\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = label(store, "lab/episodes", judges=[Highest()], schema="charm")
    assert done.labels == 5
    with pytest.raises(UsageError, match="'broken' cannot be imported: AttributeError") as caught:
        schema("broken")
    assert caught.value.hint == "repair or reinstall charm-schema"
    with pytest.raises(UsageError, match="no schema 'chram'") as caught:
        schema("chram")
    assert "conversation-behaviour" in caught.value.hint
    assert "charm" in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("class Charm:", "class Charm(:", "cannot be imported: SyntaxError"),
        ("class Charm:", "1 / 0\nclass Charm:", "cannot be imported: ZeroDivisionError"),
        ("class Charm:", "class Harm:", "has no 'Charm'"),
        ("def read(", "def raed(", "is not a schema: it lacks read"),
        ("def bounds(", "def __init__(self, x): pass\n    def bounds(", "cannot be made"),
        ('"charm", 1, "quality", "quality"', '"", 1, "quality", "quality"', "has the id ''"),
        ('"charm", 1, "quality", "quality"', '"charm", 1, "charmingness", "quality"', "measures 'charmingness'"),
        ('"charm", 1, "quality", "quality"', '"charm", 1, "quality", "qualtiy"', "'qualtiy' is not a rule"),
        ('("charm",)', '("Charm!",)', "has a dimension 'Charm!'"),
        ('("charm",)', '("charm")', "has the dimensions 'charm'"),
        ('"charm", 1, "quality", "quality"', '"charm", "v1", "quality", "quality"', "has the version 'v1'"),
        ("return 0.0, float(scale)", "return 'low', 'high'", "failed at its bounds: ValueError"),
        ("yield Question(self.id, ", "yield episode; yield Question(self.id, ", "expected a Question and got: Episode"),
        ("float(said[path])", "'high'", "failed at reading an answer about the episode boat: ValueError"),
        ("return {slot: ", "return None; {slot: ", "failed at reading an answer about the episode boat: TypeError"),
        ("return 0.0, float(scale)", "return scale[0]", "failed at its bounds: TypeError"),
        ("return 0.0, float(scale)", "return 3", "failed at its bounds: TypeError"),
        ('return "0" * 64', "return self.hash", "failed at the hash of its wording: AttributeError"),
        ("slots = {(", "slots = {(episode.mood, ", "failed at its questions about the episode boat: AttributeError"),
        ("yield Question", "assert 0, 'odd'; yield Question", "about the episode boat: AssertionError: odd"),
        ("float(said[path])", "float(said['x'])", "failed at reading an answer about the episode boat: KeyError"),
    ],
)  # fmt: skip
def test_a_schema_that_is_wrong_is_a_sentence_and_leaves_no_version(
    store: Store, tmp_path: Path, old: str, new: str, said: str
):
    assert old in MINE
    with pytest.raises(UsageError) as caught:
        label(store, "lab/episodes", judges=[Highest()], schema=written(tmp_path, MINE.replace(old, new)))
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert store.names() == ["lab/episodes"]


@pytest.mark.slow
def test_what_a_schema_says_of_slots_that_nobody_asked_about_is_left_out(store: Store, tmp_path: Path):
    code = MINE.replace("question.slots.items()}", 'question.slots.items()} | {Slot("a", 99, "charm"): 1.0}')
    done = label(store, "lab/episodes", judges=[Highest()], schema=written(tmp_path, code))
    assert {r["turn"] for r in rows(done.version, "attributions", store)} == {0, 1, 2, 3, 4}


@pytest.mark.slow
def test_an_answer_that_is_short_of_a_slot_or_out_of_bounds_is_a_failure_not_a_number(store: Store, tmp_path: Path):
    code = MINE.replace("question.slots.items()}", "question.slots.items() if slot.turn}")
    done = label(store, "lab/episodes", judges=[Highest()], schema=written(tmp_path, code))
    assert done.failures == {"charm of turn 0 is None, outside 0 to 3": 5}
    code = MINE.replace("float(said[path])", "7.0")
    done = label(store, "lab/episodes", judges=[Highest()], schema=written(tmp_path, code, "other.py"))
    assert done.failures == {"charm of turn 0 is 7.0, outside 0 to 3": 5}
    assert done.labels == 0
