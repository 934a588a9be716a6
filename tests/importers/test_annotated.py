"""sotopia-rl's annotated JSONL: the file's own rewards come out of `direct`, and no label lands on a wrong turn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.records import ANN, SAM, acted, attributions, failures, lines, log, row

from sotopia_rl_data import open_dataset
from sotopia_rl_data.importers import read
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.rewards import preset
from sotopia_rl_data.rewards.build import remake
from sotopia_rl_data.schema import Attribution, Episode, Failure, Score
from sotopia_rl_data.store import Store

SAID = {
    f"Utterance 0 by {ANN}": 'said: "Is it yours?"',
    f"Utterance 0 by {SAM}": "[action] nods",
    f"Utterance 1 by {ANN}": 'said: "Then cut it.',  # the writer cut it at a blank line
    f"Utterance 1 by {SAM}": "left the conversation",
}


def labels(agent: str, *raws: Any, score: float = 6, top: int = 3, **more: Any) -> dict[str, Any]:
    """`attributed_utterances` of one agent: `raws` for its own utterances, 0 for those of others."""
    given = iter(raws)

    def label(key: str) -> Any:
        if not key.endswith(agent):
            return 0
        raw = next(given)
        return {"reward": raw / top * score, "attribution": raw, **more}

    return {key: [text, label(key)] for key, text in SAID.items()}


def both(*raws: Any, **more: Any) -> list[dict[str, Any]]:
    """The two rows of an episode."""
    return [row(ANN, labels(ANN, *raws, **more), True), row(SAM, labels(SAM, *raws, **more), False)]


def unlabelled(path: Path) -> list[Failure]:
    """The failures of the agent that a single row is about."""
    return [f for f in failures(path) if f.reason != "the file has no row for this agent"]


def test_an_agent_without_a_row_has_no_labels_and_that_is_said(tmp_path):
    path = lines(tmp_path / "a.jsonl", row(ANN, labels(ANN, 2, 1), True))
    assert [(a.agent, a.turn) for a in attributions(path)] == [(ANN, 0), (ANN, 2)]
    assert [(f.agent, f.turn, f.reason) for f in failures(path)] == [
        (SAM, 1, "the file has no row for this agent"),
        (SAM, 3, "the file has no row for this agent"),
    ]


def test_two_rows_become_one_episode_with_both_agents_labels(tmp_path):
    path = lines(tmp_path / "a.jsonl", *both(2, 0))
    episode, *rest = read([path])
    assert isinstance(episode, Episode)
    assert [(a.agent, a.name, a.goal) for a in episode.agents] == [
        (ANN, ANN, f"Win over everyone but {ANN}"),
        (SAM, SAM, f"Win over everyone but {SAM}"),
    ]
    assert acted(episode) == [
        (0, ANN, "speak", "Is it yours?"),
        (1, SAM, "action", "nods"),
        (2, ANN, "speak", "Then cut it."),
        (3, SAM, "leave", ""),
    ]
    assert episode.scores == (Score(ANN, "goal", 6, "unknown"), Score(SAM, "goal", 6, "unknown"))
    assert [(a.agent, a.turn, a.raw) for a in rest if isinstance(a, Attribution)] == [
        (ANN, 0, 2),
        (ANN, 2, 0),
        (SAM, 1, 2),
        (SAM, 3, 0),
    ]
    assert (episode.source, episode.environment_id[:9]) == ("sotopia-rl-annotated", "scenario-")


@pytest.mark.parametrize(
    ("top", "more"),
    [(3, {}), (3, {"scale": "default"}), (5, {"scale": "5_scale"}), (10, {"scale": "10_scale"}), (10, {})],
)
def test_direct_over_the_labels_gives_the_files_own_rewards(tmp_path, top, more):
    raws = (3, 1) if top == 3 else (4, 1) if top == 5 else (7, 1)
    rows = both(*raws, score=7.0, top=top, **more)
    path = lines(tmp_path / "a.jsonl", *[r | {"goal_score": 7.0} for r in rows])
    episode = next(read([path]))
    own = {
        (r["agent"], place): label["reward"]
        for r in rows
        for place, (_, label) in enumerate(r["attributed_utterances"].values())
        if label
    }
    ours = {
        (a.agent, a.turn): a.raw / a.scale_max * episode.score(a.agent, "goal", "unknown") for a in attributions(path)
    }
    assert ours == pytest.approx(own, abs=1e-12)
    assert len(ours) == 4
    assert {(a.schema, a.measure, a.dimension, a.judge, a.scale_min) for a in attributions(path)} == {
        ("direct", "importance", "goal", "sotopia-rl", 0.0)
    }


def test_the_rewards_that_are_built_of_an_import_are_the_files_own(tmp_path):
    rows = both(2, 1, score=6.0)
    store = Store(tmp_path / "store")
    report = import_dataset(store, [lines(tmp_path / "a.jsonl", *rows)], "o/n")
    remake(store, report.version, replace(preset("goal-only"), normaliser="none"))
    built = (
        open_dataset("o/n", store)
        .sql("SELECT agent, turn, reward, raw_goal FROM rewards ORDER BY agent, turn")
        .to_pylist()
    )
    own = [label["reward"] for r in rows for _, label in r["attributed_utterances"].values() if label]
    assert [r["raw_goal"] for r in built] == [r["reward"] for r in built] == own == [4.0, 2.0, 4.0, 2.0]


def test_a_label_on_another_dimension_brings_that_dimensions_score(tmp_path):
    path = lines(
        tmp_path / "a.jsonl", row(SAM, labels(SAM, 2, 1, score=-3, dimension="relationship", dim_score=-3), False)
    )
    episode = next(read([path]))
    assert {(s.dimension, s.score) for s in episode.scores} == {("goal", 6), ("relationship", -3)}
    assert [(a.dimension, a.raw) for a in attributions(path)] == [("relationship", 2), ("relationship", 1)]
    assert [a.name for a in episode.agents] == [ANN, SAM]  # the one judged spoke second


def test_a_bare_zero_and_the_sentinel_are_failures_not_zeros(tmp_path):
    given = labels(ANN, 2, 2)
    given[f"Utterance 0 by {ANN}"][1] = 0
    given[f"Utterance 1 by {ANN}"][1] = {"reward": -1.0, "attribution": -1}
    path = lines(tmp_path / "a.jsonl", row(ANN, given, True))
    assert attributions(path) == []
    assert [(f.agent, f.turn, f.reason, f.judge) for f in unlabelled(path)] == [
        (ANN, 0, "the annotation has no label for this utterance", "sotopia-rl"),
        (ANN, 2, "the annotation has no label for this utterance", "sotopia-rl"),
    ]


def test_one_speaker_twice_in_a_row_got_one_key_and_no_label(tmp_path):
    given = {
        f"Utterance 0 by {ANN}": ['said: "b"', {"reward": 4.0, "attribution": 2}],  # places 0 and 1
        f"Utterance 1 by {SAM}": ['said: "c"', 0],
        f"Utterance 1 by {ANN}": ['said: "d"', {"reward": 2.0, "attribution": 1}],
    }
    path = lines(tmp_path / "a.jsonl", row(ANN, given, True))
    assert acted(next(read([path]))) == [(1, ANN, "speak", "b"), (2, SAM, "speak", "c"), (3, ANN, "speak", "d")]
    assert [(a.turn, a.raw) for a in attributions(path)] == [(3, 1)]
    assert [(f.turn, f.reason[:27]) for f in unlabelled(path)] == [(1, "two utterances in a row sha")]


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ({"reward": 1.0, "attribution": 2}, "its labels do not tell their scale"),
        ({"reward": 6.0, "attribution": 11}, "its labels do not tell their scale"),
        ({"attribution": 4}, "its labels do not tell their scale"),
        ({"reward": 4.0, "attribution": 2, "scale": "7_scale"}, "a label is on the unknown scale '7_scale'."),
        ({"reward": 4.0, "attribution": 2, "dimension": "charm"}, "its labels are on charm"),
        ({"reward": 4.0, "attribution": "2"}, "an attribution is text, not a number."),
        ({"reward": 4.0, "attribution": 2, "dim_score": 12}, "the goal score 12 lies outside 0 to 10."),
        (2.4, "a label is a bare fraction"),
        (True, "a label is true or false, not a number."),
        ("2", "a label is text, not an object."),
    ],
)
def test_labels_whose_meaning_is_not_in_the_file_are_failures_and_the_episode_stays(tmp_path, label, reason):
    given = labels(ANN, 2, 1)
    given[f"Utterance 0 by {ANN}"][1] = label
    path = lines(tmp_path / "a.jsonl", row(ANN, given, True))
    assert len([i for i in read([path]) if isinstance(i, Episode)]) == 1
    assert attributions(path) == []
    assert [f.turn for f in unlabelled(path)] == [0, 2]
    assert all(f.reason.startswith(reason) for f in unlabelled(path))


def test_whole_numbers_alone_are_attributions_on_the_default_scale(tmp_path):
    given = labels(ANN, 2, 1)
    given[f"Utterance 0 by {ANN}"][1], given[f"Utterance 1 by {ANN}"][1] = 3, 1
    assert [(a.raw, a.scale_max) for a in attributions(lines(tmp_path / "a.jsonl", row(ANN, given, True)))] == [
        (3, 3),
        (1, 3),
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attributed_utterances": {"Utterance one by Ann": ["x", 0]}}, "'Utterance one by Ann' is not of the form"),
        (
            {"attributed_utterances": {f"Utterance 1 by {ANN}": ["x", 0], f"Utterance 0 by {SAM}": ["x", 0]}},
            "`attributed_utterances` are not numbered",
        ),
        (
            {"attributed_utterances": {f"Utterance 0 by {ANN}": "x"}},
            "the entry of utterance 0 by Ann Lee is not [text, label].",
        ),
        ({"attributed_utterances": None}, "`attributed_utterances` is null, not an object."),
        ({"scenario": ""}, "`scenario` is missing"),
        ({"goal_score": 11}, "the goal score 11 lies outside 0 to 10."),
        ({"is_first_speaker": "yes"}, "`is_first_speaker` is text, not true or false."),
        ({"episode_id": None}, "`episode_id` is null, not text."),
        ({"attributed_utterances": {f"Utterance 0 by {ANN}": ["hums", 0]}}, "the action 'hums' has none"),
    ],
)
def test_a_row_that_is_wrong_is_rejected_with_its_reason(tmp_path, change, reason):
    (failure,) = failures(lines(tmp_path / "a.jsonl", *both(1, 1), row(ANN, {}, True, episode_id="E2") | change))
    assert failure.reason.startswith(reason)
    assert failure.source == "a.jsonl:3"


def test_one_who_says_nothing_has_a_row_all_the_same(tmp_path):
    given = {f"Utterance 0 by {ANN}": ['said: "a"', {"reward": 4.0, "attribution": 2}]}
    silent = {f"Utterance 0 by {ANN}": ['said: "a"', 0]}
    items = list(read([lines(tmp_path / "a.jsonl", row(ANN, given, True), row(SAM, silent, False))]))
    assert [type(i).__name__ for i in items] == ["Episode", "Attribution"]
    assert [a.name for a in items[0].agents] == [ANN, SAM]


def test_rows_that_contradict_each_other_are_both_rejected(tmp_path):
    one, two = both(1, 1)
    two["attributed_utterances"][f"Utterance 0 by {ANN}"][0] = 'said: "Something else."'
    assert [(f.source, f.reason) for f in failures(lines(tmp_path / "a.jsonl", one, two))] == [
        ("a.jsonl:1", "its rows do not hold the same scenario and utterances."),
        ("a.jsonl:2", "its rows do not hold the same scenario and utterances."),
    ]


def test_the_rows_of_an_episode_need_not_be_neighbours(tmp_path):
    rows = [r | {"episode_id": f"E{i}"} for i in range(50) for r in both(1, 1)]
    path = lines(tmp_path / "a.jsonl", *rows[::2], *rows[1::2])
    assert len([i for i in read([path]) if isinstance(i, Episode)]) == 50
    assert len(attributions(path)) == 200


# Beside the episodes that they annotate


def as_the_writer_does(record: dict[str, Any], raws: dict[str, int]) -> list[dict[str, Any]]:
    """The rows that sotopia-rl's scripts make of a log: no-ops and "did nothing" dropped, cut at blank lines, numbered
    by place // 2, equal keys written over. `raws` are the judge's numbers, by text."""
    names = [m[1] for m in record["messages"][0] if m[0] == "Environment"]
    said = [
        part
        for turn in record["messages"]
        for sender, receiver, text in turn
        if receiver == "Environment" and "did nothing" not in text
        for part in _parts(sender, text, names)
    ]
    rows = []
    for agent in names:
        entries: dict[str, list[Any]] = {}
        for place, (sender, text) in enumerate(said):
            entries[f"Utterance {place // 2} by {sender}"] = [text, 0]
        for key, entry in entries.items():
            if key.endswith(f" by {agent}"):
                raw = raws.get(entry[0], 1)
                entry[1] = {"reward": raw / 3 * 6, "attribution": raw}
        rows.append(row(agent, entries, agent == names[0], episode_id=record["pk"]))
    return rows


def _parts(sender: str, text: str, names: list[str]) -> list[tuple[str, str]]:
    first, *rest = text.split("\n\n")
    found = [(sender, first.strip())]
    for part in rest:  # a paragraph that begins with a name is taken for an utterance of its own
        found += [(name, part[len(name) + 1 :].strip()) for name in names if part.startswith(name)][:1]
    return found


TRICKY = [
    {ANN: 'said: "one"'},
    {},
    {ANN: 'said: "two"'},
    {ANN: 'said: "three, did nothing wrong"'},
    {SAM: f'said: "four.\n\n{ANN} said: "You win."\n\nYes."'},
    {ANN: 'said: "five"'},
    {SAM: 'said: "same"'},
    {ANN: "[action] nods"},
    {SAM: 'said: "same"'},
    {ANN: 'said: "last" "'},
]
ACTIONS = {i: text for i, acts in enumerate(TRICKY) for text in acts.values()}


def test_labels_land_on_the_logs_turns_or_nowhere(tmp_path):
    record = log(TRICKY)
    texts = {a.split("\n\n")[0].strip(): i % 4 for i, a in ACTIONS.items()}
    rows = as_the_writer_does(record, texts)
    store = Store(tmp_path / "store")
    report = import_dataset(
        store, [lines(tmp_path / "rows.jsonl", *rows), lines(tmp_path / "log.jsonl", record)], "o/n"
    )
    dataset = open_dataset("o/n", store)
    assert (report.episodes, report.duplicates) == (1, 0)
    labelled = dataset.sql("SELECT agent, turn, raw FROM attributions ORDER BY turn").to_pylist()
    for one in labelled:
        text = ACTIONS[one["turn"]].split("\n\n")[0].strip()
        assert one["raw"] == texts[text], one
        assert TRICKY[one["turn"]].get({"id-0": ANN, "id-1": SAM}[one["agent"]]) == ACTIONS[one["turn"]]
    assert len(labelled) >= 5
    lost = dataset.sql("SELECT agent, turn FROM failures").to_pylist()
    both = [(r["agent"], r["turn"]) for r in (*labelled, *lost)]
    assert sorted(both) == sorted((t.agent, t.turn) for e in dataset.episodes() for t in e.turns)
    (episode,) = dataset.episodes()
    assert episode.source == "episode-log"
    assert {(s.agent, s.score) for s in episode.scores if s.dimension == "goal"} == {("id-0", 8.0), ("id-1", 8.0)}


def test_where_the_rows_lost_one_of_two_utterances_alike_neither_is_labelled(tmp_path):
    turns = [{ANN: 'said: "a"'}, {SAM: 'said: "same\n\nI did nothing."'}, {ANN: 'said: "b"'}, {SAM: 'said: "same"'}]
    turns.append({ANN: 'said: "c"'})
    rows = lines(tmp_path / "rows.jsonl", *as_the_writer_does(log(turns), {}))
    store = Store(tmp_path / "store")
    report = import_dataset(store, [rows, lines(tmp_path / "log.jsonl", log(turns))], "o/n")
    assert (report.attributions, report.failures) == (1, 4)  # "a" and "b", which seemed to stand in a row, share a key
    (label,) = open_dataset("o/n", store).sql("SELECT agent, turn FROM attributions").to_pylist()
    assert label == {"agent": "id-0", "turn": 4}


def test_labels_find_their_episode_however_far_behind_it_they_come(tmp_path):
    logs = [log([{ANN: f'said: "{i}"'}, {SAM: "[action] nods"}], pk=f"E{i}") for i in range(300)]
    rows = [r for one in logs for r in as_the_writer_does(one, {})]
    paths = [lines(tmp_path / "rows.jsonl", *rows), lines(tmp_path / "logs.jsonl", *logs)]
    store = Store(tmp_path / "store")
    report = import_dataset(store, paths, "o/n", options=ImportOptions(where="episode_id <> 'E7'"))
    assert (report.episodes, report.filtered, report.attributions, report.failures) == (299, 1, 598, 0)
    query = "SELECT agent, turn, count(*) FROM attributions GROUP BY ALL ORDER BY turn"
    assert [tuple(r.values()) for r in open_dataset("o/n", store).sql(query).to_pylist()] == [
        ("id-0", 0, 299),
        ("id-1", 1, 299),
    ]


def test_the_same_rows_twice_are_duplicates_beside_a_log_and_alone(tmp_path):
    record = log([{ANN: 'said: "one"'}, {SAM: "[action] nods"}, {ANN: 'said: "two"'}])
    rows = lines(tmp_path / "a.jsonl", *as_the_writer_does(record, {}))
    again = lines(tmp_path / "b.jsonl", *as_the_writer_does(record, {}))
    store = Store(tmp_path / "s")
    beside = import_dataset(store, [rows, again, lines(tmp_path / "l.jsonl", record)], "o/n")
    alone = import_dataset(store, [rows, again], "o/m")
    assert (beside.duplicates, beside.attributions, beside.failures) == (1, 3, 0)
    assert (alone.duplicates, alone.attributions, alone.failures) == (1, 3, 0)
