"""sotopia-rl's annotated JSONL: two rows an episode, one for each agent whose utterances were judged.

    {"episode_id": …, "scenario": …, "agent": NAME, "goal": …, "is_first_speaker": true, "goal_score": 8,
     "attributed_utterances": {"Utterance 0 by NAME": ["said: …", {"reward": 5.3, "attribution": 2}], …}}

The rows of an episode become one Episode and the attributions of a judge that the format does not name (what the
labels mean is in `labels.py`). What the format lost stays lost, and is never made up:

- An utterance's turn is its place in the file's list. No-ops were dropped before the list was numbered.
- Two utterances that the writer gave the same key (one speaker twice in a row) share one entry: the later text
  survives, and the label, which stood for both, is a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.actions import parse_action
from sotopia_rl_data.importers.grouping import environment_of
from sotopia_rl_data.importers.labels import JUDGE, Row, Utterance, parse_key, read_labels
from sotopia_rl_data.importers.record import identifier, kind, mapping, text
from sotopia_rl_data.importers.scores import check_score
from sotopia_rl_data.schema import Agent, Attribution, Episode, Failure, Score, Turn

SOURCE = "sotopia-rl-annotated"


def read_row(value: Any) -> Row:
    """A row of the file. Raises InputError."""
    record = mapping(value, "the record")
    if not (record.get("is_first_speaker") is None or isinstance(record["is_first_speaker"], bool)):
        raise InputError(f"`is_first_speaker` is {kind(record['is_first_speaker'])}, not true or false.")
    score = record.get("goal_score")
    return Row(
        episode_id=identifier(record, "episode_id"),
        scenario=text(record, "scenario", ""),
        agent=identifier(record, "agent"),
        goal=text(record, "goal", ""),
        first=bool(record.get("is_first_speaker")),
        score=None if score is None else check_score("goal", score),
        utterances=tuple(_utterances(mapping(record.get("attributed_utterances"), "`attributed_utterances`"))),
    )


def join(rows: Sequence[Row]) -> list[Episode | Attribution | Failure]:
    """The episode of `rows` (of one episode_id, one a judged agent), its attributions, and what has no label.

    Raises InputError where the rows contradict each other.
    """
    ordered = sorted(rows, key=lambda row: not row.first)
    first = ordered[0]
    for other in ordered[1:]:
        if _texts(other) != _texts(first) or other.scenario != first.scenario:
            raise InputError("its rows do not hold the same scenario and utterances.")
    if len({row.agent for row in rows}) < len(rows):
        raise InputError(f"two of its rows are for the same agent, {first.agent}.")
    read = [read_labels(row) for row in ordered]
    judged = {row.agent for row in rows}
    others = [
        Failure("the file has no row for this agent", first.episode_id, u.name, u.place, judge=JUDGE)
        for u in first.utterances
        if u.name not in judged
    ]
    episode = _episode(ordered, [score for scores, _ in read for score in scores])
    return [episode, *(label for _, labels in read for label in labels), *others]


def complete(rows: Sequence[Row]) -> bool:
    """True where every agent that the rows name has its own row (and there are two: one may have said nothing)."""
    return len(rows) > 1 and {name for row in rows for name in row.names} == {row.agent for row in rows}


def _texts(row: Row) -> list[tuple[int, str, str]]:
    return [(u.place, u.name, u.said) for u in row.utterances]


def _utterances(entries: Mapping[str, Any]) -> Iterator[Utterance]:
    """The utterances in order, each at its place. The writer numbered them by place // 2 and wrote equal keys over each
    other, so a number with a single key stands for two places (but for the last one, where this cannot be told)."""
    parsed = [(*parse_key(key), value) for key, value in entries.items()]
    numbers = [number for number, _, _ in parsed]
    times, seen = Counter(numbers), Counter[int]()
    if numbers != sorted(numbers) or max(times.values(), default=0) > 2:
        raise InputError("`attributed_utterances` are not numbered two by two, in order.")
    for number, name, value in parsed:
        shared = times[number] == 1 and number != numbers[-1]
        place = 2 * number + (1 if shared else seen[number])
        seen[number] += 1
        if not isinstance(value, (list, tuple)) or len(value) != 2 or not isinstance(value[0], str):
            raise InputError(f"the entry of utterance {number} by {name} is not [text, label].")
        yield Utterance(place, name, value[0], value[1], shared)


def _episode(ordered: Sequence[Row], scores: Sequence[Score]) -> Episode:
    first = ordered[0]
    if not first.scenario.strip():
        raise InputError("`scenario` is missing: it is what the episode is grouped by.")
    names = list(dict.fromkeys([row.agent for row in ordered] + [u.name for u in first.utterances]))
    if len(ordered) == 1 and not first.first:  # the one row there is belongs to the second speaker
        names.append(names.pop(0))
    goals = {row.agent: row.goal for row in ordered}
    return Episode(
        episode_id=first.episode_id,
        environment_id=environment_of(first.scenario),
        agents=tuple(Agent(name, name, goal=goals.get(name, "")) for name in names),
        turns=tuple(_turn(u, names) for u in first.utterances),
        scores=tuple(scores),
        source=SOURCE,
        dialect="legacy",
        scenario=first.scenario,
    )


def _turn(utterance: Utterance, names: Sequence[str]) -> Turn:
    action = parse_action(utterance.said, cut=True)
    unknown = [name for name in action.to if name not in names]
    if unknown:
        raise InputError(f"an utterance is private to {', '.join(unknown)}, who is not among the agents.")
    return Turn(utterance.place, utterance.name, action.action_type, action.text, action.to)
