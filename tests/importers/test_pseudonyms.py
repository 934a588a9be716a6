"""Pseudonyms: nobody's name or id is left where it is a field or stands as a word, and each has one everywhere."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner
from fixtures.formats import CHAT, COMPLETION, SAID, corpus
from fixtures.records import PLAIN, lines

from sotopia_rl_data import open_dataset
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.store import Store

HIDDEN = ImportOptions(pseudonymise=True)
PERSON = re.compile(r"person-[0-9a-f]{12}")


def everything(tmp_path, ref: str) -> str:
    """All rows of a version as one text."""
    data = open_dataset(ref, tmp_path / "store")
    return json.dumps([data.sql(f"SELECT * FROM {config}").to_pylist() for config in data.manifest.configs])


def test_names_and_ids_go_from_fields_texts_and_meta_and_only_where_they_are_words(tmp_path):
    record = {
        "episode_id": "E",
        "scenario": "Ann Lee calls Bo.",
        "agents": [{"agent": "id-7", "name": "Ann Lee", "goal": "Ann Lee wins"}, {"name": "Bo"}],
        "turns": [
            {"agent": "id-7", "text": "Hi Bo, bo! Boat, Annual. This is ANN LEE (id-7).", "to": ["Bo"]},
            {"agent": "Bo", "text": "Hello Ann, not ann."},
        ],
        "scores": [
            {"agent": "Bo", "dimension": "goal", "score": 99},
            {"agent": "id-7", "dimension": "goal", "score": 1},
        ],
        "meta": {"rated_by": {"Bo": 3}},
    }
    bad = {**record, "episode_id": "F", "turns": [{"agent": "Ann"}]}
    import_dataset(Store(tmp_path / "store"), [lines(tmp_path / "a.jsonl", record, bad)], "o/n", options=HIDDEN)
    (episode,) = open_dataset("o/n", tmp_path / "store").episodes()
    ann, bo = (agent.agent for agent in episode.agents)
    assert ann != bo
    assert all(PERSON.fullmatch(one) for one in (ann, bo))
    assert [(a.name, a.goal) for a in episode.agents] == [(ann, f"{ann} wins"), (bo, "")]
    assert episode.scenario == f"{ann} calls {bo}."
    assert episode.turns[0].text == f"Hi {bo}, {bo}! Boat, Annual. This is {ann} ({ann})."
    assert (episode.turns[0].to, episode.turns[1].text) == ((bo,), f"Hello {ann}, not ann.")
    assert (episode.meta, episode.scores[0].agent) == (json.dumps({"rated_by": {bo: 3}}), ann)
    left = everything(tmp_path, "o/n")
    assert [name for name in ("Ann", "Bo", "Lee", "id-7") if re.search(rf"\b{name}\b", left)] == []


def test_a_word_that_is_also_a_name_is_replaced_only_where_it_stands_as_a_name(tmp_path):
    said = [
        ("Will", "May I come in? I hope you will have me.", "May I come in? I hope you will have me."),
        ("May", "Will you wait, Will? I will ask Hope.", "Will you wait, WILL? I will ask HOPE."),
        (
            "Hope",
            "Thanks, may! May's key is here. WILL YOU COME, WILL?",
            "Thanks, MAY! MAY's key is here. WILL YOU COME, WILL?",
        ),
        ("Will", "Hope. So it may be May.", "HOPE. So it may be MAY."),
        ("mod_1", "Ask MOD_1, or mod_1's owner.", "Ask MOD, or MOD's owner."),
        ("May", "Will will. Marked by @will, in Maytime.", "Will will. Marked by @WILL, in Maytime."),
    ]
    chat = {"id": "c", "messages": [{"role": "user", "name": name, "content": text} for name, text, _ in said]}
    store = Store(tmp_path / "store")
    report = import_dataset(store, [lines(tmp_path / "a.jsonl", chat)], "o/n", options=HIDDEN)
    (episode,) = open_dataset("o/n", store.root).episodes()
    person = {name: turn.agent for (name, _, _), turn in zip(said, episode.turns, strict=True)}
    for (_, _, expected), turn in zip(said, episode.turns, strict=True):
        marked = re.sub(r"(?<!\w)WILL(?!\w)(?! YOU)", person["Will"], expected).replace("HOPE", person["Hope"])
        assert turn.text == marked.replace("MAY", person["May"]).replace("MOD", person["mod_1"])
    assert report.pseudonyms == {"speakers": 4, "replaced": 10, "left": 9}


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("İbrahim", ["İbrahim", "ibrahim", "i\u0307brahim", "IBRAHIM"]),
        ("İpek Öz", ["İpek Öz", "i\u0307pek öz", "İPEK"]),
        ("Jess", ["Jess", "Je\u017fs"]),
        ("Weiß", ["Weiß", "WEISS"]),
        ("ΣΟΦΟΣ", ["ΣΟΦΟΣ", "Σοφος", "Σοφοσ"]),
    ],
)
def test_a_name_is_found_where_its_letters_change_their_number_or_their_form(tmp_path, name, spellings):
    turns = [{"agent": name, "text": f"Hi, {spelling}!"} for spelling in spellings]
    record = {"episode_id": "E", "scenario": "x", "agents": [{"name": name}, {"name": "Bo"}], "turns": turns}
    import_dataset(Store(tmp_path / "store"), [lines(tmp_path / "a.jsonl", record)], "o/n", options=HIDDEN)
    (episode,) = open_dataset("o/n", tmp_path / "store").episodes()
    assert {turn.text for turn in episode.turns} == {f"Hi, {episode.agents[0].agent}!"}


def test_a_speaker_has_one_pseudonym_in_all_that_a_store_imports_and_another_in_another_store(tmp_path):
    def names(store: str) -> list[str]:
        made = Store(tmp_path / store)
        import_dataset(made, [lines(tmp_path / "a.jsonl", CHAT)], "o/chat", options=HIDDEN)
        if not (tmp_path / "boats").exists():
            corpus(tmp_path / "boats")
        import_dataset(made, [tmp_path / "boats"], "o/boats", options=HIDDEN)
        return [next(open_dataset(ref, made.root).episodes()).agents[0].agent for ref in ("o/chat", "o/boats")]

    first, second = names("one"), names("two")
    assert first[0] == first[1] != second[0]
    (episode,) = open_dataset("o/chat", tmp_path / "one").episodes()
    assert episode.agents[1].agent == "assistant"  # a role is nobody's name
    assert episode.turns[0].text == SAID[0][1]
    again = import_dataset(Store(tmp_path / "one"), [tmp_path / "a.jsonl"], "o/chat", options=HIDDEN)
    assert again.created is False


def test_a_dry_run_shows_pseudonyms_and_keeps_no_key(tmp_path):
    at = ["--pseudonymise", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(cli, ["import", str(lines(tmp_path / "a.jsonl", CHAT)), "--dry-run", *at])
    assert done.exit_code == 0, done.output
    assert PERSON.search(done.stdout)
    assert SAID[0][0] not in done.stdout
    assert not (tmp_path / "store").exists()


def test_training_rows_cannot_be_pseudonymised(tmp_path):
    with pytest.raises(UsageError, match="do not say whose names are in them"):
        import_dataset(Store(tmp_path / "store"), [lines(tmp_path / "a.jsonl", COMPLETION)], "o/n", options=HIDDEN)


def test_a_version_says_whether_its_speakers_are_named(tmp_path):
    store = Store(tmp_path / "store")
    named = import_dataset(store, [lines(tmp_path / "a.jsonl", CHAT)], "o/n")
    hidden = import_dataset(store, [tmp_path / "a.jsonl"], "o/m", options=HIDDEN)
    plain = import_dataset(store, [lines(tmp_path / "b.jsonl", PLAIN)], "o/p")
    told = [one.version.manifest.recipe.get("speakers") for one in (named, hidden, plain)]
    assert told == ["named", "pseudonyms", None]
    command = ["label", "o/n", "--schema", "utterance-quality", "--judge", "lexical", "--store", str(store.root)]
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert open_dataset("o/n-rewards", store.root).manifest.recipe["speakers"] == "named"
