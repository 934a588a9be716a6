"""People as judges, lists of what to ask about, several opinions, and a local model."""

from __future__ import annotations

import asyncio
import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.flat_calls import label
from fixtures.labelling import BOAT, BY, ODD, Highest, boats, put, rows
from fixtures.places import ROOT

from sotopia_rl_data.asking.local import BatchedModel, LocalModel, fingerprint
from sotopia_rl_data.cli.annotate import annotate
from sotopia_rl_data.cli.label import label as label_command
from sotopia_rl_data.errors import InputError, NotFound, Rejected, UsageError
from sotopia_rl_data.labelers.annotation import write_template
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.judges import judge
from sotopia_rl_data.labelers.plan import Elicitation, judges_of
from sotopia_rl_data.labelers.requests import target_of
from sotopia_rl_data.labelers.schemas import schema
from sotopia_rl_data.labelers.selection import read_selection
from sotopia_rl_data.request import Request, Target
from sotopia_rl_data.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fill_in(path: Path, raw: Any) -> Path:
    """Annotate every row as `raw(row)` says."""
    filled = [row | {"raw": str(raw(row))} for row in table(path)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(filled[0]))
        writer.writeheader()
        writer.writerows(filled)
    return path


# --- annotations ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_template_has_a_row_for_every_number_in_random_order_and_no_judges_answers(store: Store, tmp_path: Path):
    put(store, [BOAT, ODD])
    label(store, "lab/episodes", judges=[Highest()])
    first, again, other = (tmp_path / f"{name}.csv" for name in ("first", "again", "other"))
    assert (
        write_template(store, "lab/episodes", first, Elicitation())
        == write_template(store, "lab/episodes", again, Elicitation())
        == len(table(first))
    )
    write_template(store, "lab/episodes", other, Elicitation(), seed=1)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()

    def keys(path: Path) -> list[tuple[str, ...]]:
        return [(r["episode_id"], r["agent"], r["turn"], r["dimension"]) for r in table(path)]

    assert sorted(keys(first)) == sorted(keys(other)) != keys(first)
    assert len(set(keys(first))) == len(keys(first)) == 15 + 9
    assert {row["raw"] for row in table(first)} == {""}
    assert "highest" not in first.read_text("utf-8")
    by = {(r["agent"], r["turn"], r["dimension"]): r for r in table(first) if r["episode_id"] == "boat"}
    assert by["a", "2", "goal"]["about"] == "agent_1 (Finnegan O'Malley), turn_2 (non-verbal communication): looks away"
    assert (by["a", "2", "goal"]["allowed"], by["a", "2", "goal"]["episode_score"]) == ("0 to 3", "2")


@pytest.mark.slow
@pytest.mark.parametrize("schema", ["direct", "singular", "goal-progress", "leave-one-out", "direct-online"])
def test_what_people_filled_in_becomes_attributions_of_a_judge_named_human(store: Store, tmp_path: Path, schema: str):
    put(store, [BOAT])
    path = tmp_path / "mine.csv"
    write_template(store, "lab/episodes", path, Elicitation(schema=schema))
    first = {agent: min(int(r["turn"]) for r in table(path) if r["agent"] == agent) for agent in "ab"}

    def raw(row: dict[str, str]) -> int:
        if schema == "singular":
            return int(int(row["turn"]) == first[row["agent"]])
        return max(0, int(row["turn"])) % 4

    fill_in(path, raw)
    done = label(store, "lab/episodes", judges=[f"human:{path}"], schema=schema)
    found = rows(done.version, "attributions", store)
    assert {r["judge"] for r in found} == {"human"}
    assert done.failures == {}
    said = {(r["agent"], r["turn"], r["dimension"]): r["raw"] for r in found}
    assert said == {(r["agent"], int(r["turn"]), r["dimension"]): float(r["raw"]) for r in table(path)}


def test_an_empty_cell_is_no_answer_and_costs_no_second_try(store: Store, tmp_path: Path):
    put(store, [BOAT])
    path = tmp_path / "mine.csv"
    write_template(store, "lab/episodes", path, Elicitation())
    fill_in(path, lambda row: "" if (row["agent"], row["dimension"], row["turn"]) == ("a", "goal", "2") else 1)
    done = label(store, "lab/episodes", judges=[f"human:{path}"])
    assert done.failures == {"at agent_1.importance: turn_2 is missing": 3}
    assert (done.asked, done.labels) == (6, 12)


@pytest.mark.slow
def test_a_changed_annotation_is_read_anew_and_several_people_are_several_judges(store: Store, tmp_path: Path):
    put(store, [BOAT])
    ann, bob = tmp_path / "ann.csv", tmp_path / "bob.csv"
    for path, level in ((ann, 3), (bob, 0)):
        write_template(store, "lab/episodes", path, Elicitation())
        fill_in(path, lambda row, level=level: level)
    done = label(store, "lab/episodes", judges=[f"human:{ann}#ann", f"human:{bob}#bob"], preset="goal-only")
    assert {(r["n_opinions"], r["raw_goal"]) for r in rows(done.version, "rewards", store)} == {(2, 1.0), (2, 1.5)}
    before = target_of(judge(f"human:{ann}"))
    fill_in(ann, lambda row: 2)
    assert target_of(judge(f"human:{ann}")) != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("episode_id,agent,turn,dimension\n", "has no column 'raw'"),
        ("episode_id,agent,turn,dimension,raw\ne,a,0,goal,\n", "holds no annotation yet"),
        ("episode_id,agent,turn,dimension,raw\ne,a,0,goal,2.5\n", "2: '2.5' is not a whole number"),
        ("episode_id,agent,turn,dimension,raw\ne,a,0,gaol,2\n", "'gaol' is not a SOTOPIA-EVAL dimension"),
        ("episode_id,agent,turn,dimension,raw\ne,a,0,goal,2\ne,a,0,goal,3\n", "contradicts an earlier row"),
    ],
)
def test_a_file_of_annotations_that_cannot_be_used_is_a_sentence(tmp_path: Path, text: str, said: str):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        judge(f"human:{path}")
    assert caught.value.hint
    with pytest.raises(InputError, match="cannot be read"):
        judge(f"human:{tmp_path / 'none.csv'}")
    with pytest.raises(UsageError, match="needs a file after the colon"):
        judge("human:")


def test_a_temperature_is_for_the_models_of_a_panel_and_refused_where_there_is_none(store: Store, tmp_path: Path):
    people = tmp_path / "people.csv"
    people.write_text("episode_id,agent,turn,dimension,raw\nboat,a,0,goal,2\n")
    panel = ["openai:m@http://127.0.0.1:9/v1", f"human:{people}", "lexical"]
    model, *others = judges_of(panel, {"temperature": 0.7})
    assert target_of(model).sampling == {"temperature": 0.7}
    assert not any("temperature" in target_of(one).sampling for one in others)
    with pytest.raises(UsageError, match="does not sample"):
        judges_of(panel[1:], {"temperature": 0.7})


def test_a_template_is_never_written_over_annotations(store: Store, tmp_path: Path):
    put(store, [BOAT])
    write_template(store, "lab/episodes", tmp_path / "mine.csv", Elicitation())
    with pytest.raises(UsageError, match="exists already"):
        write_template(store, "lab/episodes", tmp_path / "mine.csv", Elicitation())


@pytest.mark.slow
def test_the_commands_make_fill_and_read_a_template(store: Store, tmp_path: Path):
    put(store, boats(6))
    path, at = tmp_path / "mine.csv", ["--store", str(store.root)]
    made = CliRunner().invoke(
        annotate,
        ["template", "lab/episodes", "-o", str(path), "--dimensions", "goal", "--questions", "3", "--json", *at],
    )
    assert (made.exit_code, json.loads(made.output)["rows"]) == (0, 6), made.output
    fill_in(path, lambda row: 3)
    options = ["lab/episodes", "--judge", f"human:{path}", "--only", str(path), "--preset", "goal-only", "--json", *at]
    done = CliRunner().invoke(label_command, [*options, "--dimensions", "goal", "--average", "median"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["calls"], report["labels"], report["rewarded"]) == (3, 6, 6)


# --- --only -----------------------------------------------------------------------------------------------------------


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.csv"
    path.write_text(text)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("episode_id\nboat\n", 6),
        ("episode_id,agent\nboat,b\n", 3),
        ("episode_id,agent,turn\nboat,b,1\n", 3),
        ("episode_id,agent,turn,dimension\nboat,b,1,KNO\nboat,a,,goal\n", 2),
        ("dimension,note,episode_id\ngoal,mine,boat\n", 2),
    ],
)
def test_only_asks_about_what_is_named(store: Store, tmp_path: Path, text: str, asked: int):
    put(store, [BOAT, ODD])
    toy = Highest()
    done = label(store, "lab/episodes", judges=[toy], only=listed(tmp_path, text))
    assert (toy.calls, done.asked, done.failures) == (asked, asked, {})
    assert {episode for episode, *_ in toy.asked} == {"boat"}
    rewards = rows(done.version, "rewards", store)
    assert len(rewards) == 12  # every utterance has its row; what was not asked about has no reward
    assert {r["reward"] for r in rewards if r["episode_id"] != "boat"} == {None}
    assert len(store.resolve(done.version).manifest.recipe["labels"]["only_sha256"]) == 64


def test_labels_that_give_no_utterance_all_that_is_weighed_are_a_warning(store: Store, tmp_path: Path):
    put(store, [BOAT])
    path = listed(tmp_path, "episode_id,agent,turn,dimension\nboat,a,,goal\nboat,b,,knowledge\n")
    done = label(store, "lab/episodes", judges=[Highest()], only=path)
    assert (done.labels, done.rewarded) == (5, 0)
    assert "none has labels on all weighed dimensions (relationship, knowledge, goal)" in " ".join(done.warnings)
    done = label(store, "lab/episodes", judges=[Highest()], only=path, preset="goal-only")
    assert (done.labels, done.rewarded) == (3, 3)
    assert "none has labels" not in " ".join(done.warnings)


def test_a_baseline_goes_with_any_turn_of_its_agent(store: Store, tmp_path: Path):
    put(store, [BOAT])
    path = listed(tmp_path, "episode_id,agent,turn\nboat,b,1\n")
    done = label(store, "lab/episodes", judges=["lexical"], schema="goal-progress", only=path)
    assert {(r["agent"], r["turn"]) for r in rows(done.version, "attributions", store)} == {("b", -1), ("b", 1)}
    assert done.rewarded == 1


def test_a_step_of_progress_is_asked_for_with_the_turn_that_it_begins_at(store: Store, tmp_path: Path):
    put(store, [BOAT])
    path = listed(tmp_path, "episode_id,agent,turn\nboat,a,4\n")
    done = label(store, "lab/episodes", judges=["lexical"], schema="goal-progress", only=path, packing="packed")
    asked = {(r["agent"], r["turn"]) for r in rows(done.version, "attributions", store)}
    assert asked == {("a", -1), ("b", -1), ("a", 2), ("a", 4)}  # a packed baseline is everybody's
    rewarded = {(r["agent"], r["turn"]) for r in rows(done.version, "rewards", store) if r["reward"] is not None}
    assert rewarded == {("a", 4)}


@pytest.mark.parametrize("text", ["episode_id\nnone-of-that-name\n", "episode_id,agent,turn\nboat,a,1\n"])
def test_a_list_that_names_nothing_there_is_a_sentence_and_no_empty_version(store: Store, tmp_path: Path, text: str):
    put(store, [BOAT])
    with pytest.raises(UsageError, match="names nothing that the schema 'direct' asks about"):
        label(store, "lab/episodes", judges=[Highest()], only=listed(tmp_path, text))
    assert store.names() == ["lab/episodes"]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("episode\nboat\n", InputError, "has no column 'episode_id'"),
        ("episode_id\n\n", UsageError, "has no episode in it"),
        ("episode_id,turn\nboat,one\n", InputError, "2: 'one' is not a turn"),
        ("episode_id,dimension\nboat,gaol\n", InputError, "'gaol' is not a SOTOPIA-EVAL dimension"),
    ],
)
def test_a_list_that_cannot_be_used_is_a_sentence_before_anything_is_asked(
    store: Store, tmp_path: Path, text: str, error: type[Exception], said: str
):
    put(store, [BOAT])
    toy = Highest()
    with pytest.raises(error, match=said):
        label(store, "lab/episodes", judges=[toy], only=listed(tmp_path, text))
    assert toy.calls == 0
    with pytest.raises(InputError, match="cannot be read"):
        read_selection(tmp_path / "none.csv")


# --- several opinions ---------------------------------------------------------------------------------------------


class Says(Highest):
    def __init__(self, name: str, level: int) -> None:
        super().__init__(name)
        self.level = level

    def say(self, question: Question) -> str:
        answer: dict[str, Any] = {}
        for (agent, name, turn), slot in question.slots.items():
            answer.setdefault(agent, {}).setdefault(name, {})[turn] = self.level if slot.turn < 2 else 0
        return json.dumps(answer)


@pytest.mark.slow
@pytest.mark.parametrize(("average", "raw"), [("mean", 4 / 3), ("median", 2.0), (None, 4 / 3)])
def test_opinions_are_averaged_and_their_spread_is_kept(store: Store, average: str | None, raw: float):
    put(store, [BOAT])
    judges = [Says("x", 0), Says("y", 3), Says("z", 3)]
    done = label(store, "lab/episodes", judges=judges, preset="goal-only", average=average)
    first = next(r for r in rows(done.version, "rewards", store) if (r["agent"], r["turn"]) == ("a", 0))
    assert first["raw_goal"] == pytest.approx(raw)
    assert first["n_opinions"] == 3
    top = {"mean": 2.0, "median": 3.0, None: 2.0}[average]  # agent b's first turn: G = 3
    alone = [0, 2 / top, 2 / top]
    mean = sum(alone) / 3
    assert first["spread"] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in alone) / 2))
    assert store.resolve(done.version).manifest.recipe["rewards"]["average"] == (average or "mean")


# --- a local model --------------------------------------------------------------------------------------------------


@pytest.mark.train
def test_a_local_model_is_asked_in_batches_and_its_garbage_is_failures(store: Store, tmp_path: Path):
    from sotopia_rl_data.trainers.tiny import make_tiny

    path = make_tiny(tmp_path / "tiny")
    put(store, [BOAT])
    how: dict[str, Any] = {"sampling": {"max_tokens": 8}, "preset": "goal-only", "dimensions": ["goal"]}
    done = label(store, "lab/episodes", judges=[f"transformers:{path}"], **how)
    assert (done.asked, done.unusable, done.labels, done.rewarded) == (4, 2, 0, 0)
    assert done.usage["tiny"].input > 2_000
    again = label(store, "lab/episodes", judges=[f"transformers:{path}"], **how)
    assert (again.asked, again.digest) == (0, done.digest)
    other = make_tiny(tmp_path / "other" / "tiny", seed=1)
    assert target_of(judge(f"transformers:{path}")) != target_of(judge(f"transformers:{other}"))


CACHED = """
import sys
sys.path.insert(0, "tests")
from fixtures.flat_calls import label
from sotopia_rl_data.store import Store
how = {"sampling": {"max_tokens": 4}, "preset": "goal-only"}
done = label(Store(sys.argv[1]), "lab/episodes", judges=["transformers:lab/tiny"], **how)
(judge,) = Store(sys.argv[1]).resolve(done.version).manifest.provenance["judges"]
print(judge["judge"], judge["returned_models"])
"""


@pytest.mark.train
@pytest.mark.slow
def test_a_model_of_the_hub_is_recorded_with_the_commit_that_answered(store: Store, tmp_path: Path):
    from sotopia_rl_data.trainers.tiny import make_tiny

    put(store, [BOAT])
    repository, commit = tmp_path / "home" / "hub" / "models--lab--tiny", "c" * 40
    make_tiny(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", CACHED, str(store.root)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == f"lab/tiny {{'lab/tiny@{commit}': 4}}"


@pytest.mark.train
def test_a_batch_answers_each_question_as_if_it_were_alone(tmp_path: Path):
    """Six questions of different lengths: padded on the left, they go through the model together."""
    from sotopia_rl_data.labelers.judges.transformers import Transformers
    from sotopia_rl_data.trainers.tiny import make_tiny

    batches: list[int] = []

    class Watched(Transformers):
        def answers(self, requests: Any) -> Any:
            batches.append(len(requests))
            return super().answers(requests)

    made = judge(f"transformers:{make_tiny(tmp_path / 'tiny')}", {"max_tokens": 6})
    asking = Watched(made.target, made._load)  # type: ignore[attr-defined]
    questions = list(schema("direct").questions(BOAT, ("goal", "relationship", "knowledge"), BY, "per-dimension", 3))

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(asking.answer(question) for question in questions))

    async def one_by_one() -> list[Any]:
        return [await asking.answer(question) for question in questions]

    together = asyncio.run(all_at_once())
    assert batches == [6]
    assert together == asyncio.run(one_by_one())
    assert batches[1:] == [1] * 6
    assert len({reply.usage.input for reply in together}) > 1


@pytest.mark.train
def test_a_chat_template_that_refuses_the_question_is_a_sentence(tmp_path: Path):
    from sotopia_rl_data.labelers.judges.transformers import Transformers
    from sotopia_rl_data.trainers.tiny import make_tiny

    made = judge(f"transformers:{make_tiny(tmp_path / 'tiny')}", {"max_tokens": 6})

    def strict() -> Any:
        tokenizer, model = made._load()  # type: ignore[attr-defined]
        tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
        return tokenizer, model

    asking = Transformers(target_of(made), strict)
    question = next(iter(schema("direct").questions(BOAT, ("goal",), BY, "packed", 3)))
    with pytest.raises(Rejected, match="cannot answer: its chat template refuses the question: no system messages"):
        asyncio.run(asyncio.wait_for(asking.answer(question), 60))


@pytest.mark.parametrize("at", [0, 4_000_000, 7_999_000])
def test_a_models_fingerprint_sees_a_change_anywhere_in_its_weights(tmp_path: Path, at: int):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(8_000_000))
    before = fingerprint(tmp_path)
    with weights.open("r+b") as file:
        file.seek(at)
        file.write(b"\1" * min(50_000, 8_000_000 - at))
    assert fingerprint(tmp_path) != before


def test_whoever_waits_for_a_local_model_hears_of_what_broke_it():
    """More questions than a batch holds: those of the batch and those behind it."""

    class Broken(BatchedModel):
        def answers(self, requests: Any) -> Any:
            raise ZeroDivisionError

    async def many() -> list[Any]:
        asking = Broken(Target("local", "broken"))
        sent = (asking.send(Request(asking.target, [], sample=n)) for n in range(20))
        return await asyncio.wait_for(asyncio.gather(*sent, return_exceptions=True), 5)

    assert [type(one) for one in asyncio.run(many())] == [ZeroDivisionError] * 20


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_loaded_once_and_ends_the_run(store: Store):
    loads: list[int] = []

    def load() -> Any:
        loads.append(1)
        raise OSError("nobody/nothing is no model")

    put(store, boats(40))
    asking = LocalModel(Target("transformers", "nobody/nothing"), load)
    with pytest.raises(Rejected, match="The model nobody/nothing cannot answer: nobody/nothing is no model"):
        label(store, "lab/episodes", judges=[asking], preset="goal-only")  # type: ignore[list-item]
    assert len(loads) == 1
    assert store.names() == ["lab/episodes"]


@pytest.mark.train
def test_a_model_that_neither_is_a_folder_nor_comes_from_the_hub_says_so():
    from sotopia_rl_data.labelers.judges.transformers import load_causal_model

    with pytest.raises(OSError, match=r"^there is no folder \./nope, and the Hub is not asked, because HF_HUB_OFFLINE"):
        load_causal_model("nope")


@pytest.mark.slow
def test_a_local_model_that_is_not_there_is_found_before_anything_is_asked(tmp_path: Path):
    pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
    with pytest.raises(NotFound, match="no model in"):
        judge(f"transformers:{tmp_path}/none")
    with pytest.raises(UsageError, match="needs a model after the colon"):
        judge("transformers:")
