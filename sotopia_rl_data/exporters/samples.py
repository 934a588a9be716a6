"""Makes the two sample files from the scenarios in `samples/`:

    python -m sotopia_rl_data.exporters.samples

A scenario file has an environment, two agents and some dialogues. The first agent opens, and the two
alternate. A plain string is speech (a line break in it becomes a blank line); every other action is written
`{type: text}`. A score is `number | reason`; a bare 0 means that there is nothing to remark. The samples have no more
than two agents and no private messages, which the library's export cannot express.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sotopia_rl_data import samples
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.exporters.sotopia import background_and_secret, episode_log
from sotopia_rl_data.exporters.sotopia import export_row as exported
from sotopia_rl_data.importers.messages import LoggedAction, render_action
from sotopia_rl_data.samples import SCENARIOS
from sotopia_rl_data.schema import ACTION_TYPES, Agent, Episode, Observation, Score, Turn
from sotopia_rl_data.spans import FIELD_TAGS, visible

EVALUATOR, *POLICIES = MODELS = ("sample-evaluator", "sample-policy-a", "sample-policy-b")
TURN_LIMIT = 20
_NO_REMARK = {
    "secret": "Nothing of it gets out.",
    "social_rules": "Nothing out of line.",
    "financial_and_material_benefits": "No money or goods change hands.",
}


@dataclass(frozen=True, slots=True)
class SampleEpisode:
    """A sample episode, with its outcome and the short name of each agent, which only the scenario file has."""

    episode: Episode
    outcome: str
    called: Mapping[str, str]


def read_samples(folder: Path = SCENARIOS) -> Iterator[SampleEpisode]:
    """Every sample, in the order of the files and of the dialogues in them. Raises InputError where a scenario breaks
    the rules above."""
    for file in sorted(folder.glob("*.yaml")):
        scenario = yaml.safe_load(file.read_text(encoding="utf-8"))
        for record in scenario["episodes"]:
            yield _sample(scenario, record)


def _sample(scenario: Mapping[str, Any], record: Mapping[str, Any]) -> SampleEpisode:
    cast: Mapping[str, Mapping[str, str]] = scenario["agents"]
    ids = {key: person["agent"] for key, person in cast.items()}
    agents = tuple(
        Agent(p["agent"], p["name"], model, p["goal"], p["background"], p["secret"])
        for p, model in zip(cast.values(), POLICIES, strict=True)
    )
    turns = tuple(_turn(i, line, ids, record["id"]) for i, line in enumerate(record["dialogue"]))
    scores, reasons = _scores(record, ids)
    episode = Episode(
        episode_id=record["id"],
        environment_id=scenario["environment_id"],
        agents=agents,
        turns=turns,
        scores=scores,
        source="sotopia-export",
        dialect="legacy",
        codename=scenario["codename"],
        scenario=scenario["scenario"],
        models=MODELS,
        tag="samples",
    )
    ending = f"Environment comments: {record['outcome']}; {_ending(episode)}\n"
    episode = replace(
        episode,
        reasoning=ending + reasons,
        observations=tuple(_observations(episode, strangers=scenario["relationship"] == "stranger")),
    )
    return SampleEpisode(episode, record["outcome"], {p["agent"]: p["called"] for p in cast.values()})


def _turn(number: int, line: Mapping[str, Any], ids: Mapping[str, str], episode_id: str) -> Turn:
    ((key, action),) = line.items()
    if key != list(ids)[number % len(ids)]:
        raise InputError(
            f"In {episode_id}, {key!r} acts in turn {number}, which is the other agent's.",
            "let the two agents act alternately",
        )
    if isinstance(action, str):
        return Turn(number, ids[key], "speak", action.replace("\n", "\n\n"))
    ((action_type, text),) = action.items()
    if action_type not in ACTION_TYPES:
        raise InputError(
            f"Turn {number} of {episode_id} has the unknown action type {action_type!r}.",
            f"use one of {', '.join(ACTION_TYPES)}",
        )
    return Turn(number, ids[key], action_type, text or "")


def _scores(record: Mapping[str, Any], ids: Mapping[str, str]) -> tuple[tuple[Score, ...], str]:
    """The scores of an episode and the evaluator's comments; no scores where the evaluation failed."""
    if record.get("evaluation") == "failed":
        return (), "The evaluator gave no answer that could be read.\n"
    scores, comments = [], ""
    for place, (key, agent) in enumerate(ids.items(), 1):
        comments += f"Agent {place} comments:\n"
        for dimension in SOTOPIA_EVAL:
            number, _, reason = str(record["scores"][key][dimension.name]).partition(" | ")
            if not reason and (number != "0" or dimension.name not in _NO_REMARK):
                raise InputError(
                    f"In {record['id']}, the score of {key!r} on {dimension.name} has no reason after it.",
                    "write the score as `number | reason`",
                )
            scores.append(Score(agent, dimension.name, float(number), EVALUATOR))
            comments += f"{dimension.name}: {reason or _NO_REMARK[dimension.name]}\n"
    return tuple(scores), comments


def _ending(episode: Episode) -> str:
    last = episode.turns[-1]
    if last.action_type == "leave":
        return f"{episode.agent(last.agent).name} left."
    if len(episode.turns) == TURN_LIMIT:
        return f"the limit of {TURN_LIMIT} turns was reached."
    if last.action_type == "none":
        return "neither had anything to add."
    return "both had said what they came to say."


def _observations(episode: Episode, *, strangers: bool) -> Iterator[Observation]:
    """What each agent was shown before each turn and after the last: first the scene, then always the turn before."""
    for agent in episode.agents:
        yield Observation(0, agent.agent, _opening(episode, agent, strangers=strangers))
    for turn in episode.turns:
        happened = "" if turn.action_type == "none" else f"{episode.agent(turn.agent).name} {_rendered(turn)}"
        for agent in episode.agents:
            yield Observation(turn.turn + 1, agent.agent, f"Turn #{turn.turn}: {happened}\n")


def _opening(episode: Episode, me: Agent, *, strangers: bool) -> str:
    """What SOTOPIA tells an agent at the start, in our words: its own secret and goal, never the other agent's."""
    (other,) = (a for a in episode.agents if a != me)
    lines = (
        visible(episode.scenario, episode, me.agent, tags=FIELD_TAGS).strip(),
        f"Present are {' and '.join(a.name for a in episode.agents)}.",
        f"This is you: {me.background}",
        f"What {other.name} does not know: {me.secret}",
        f"{other.name} is a stranger to you." if strangers else f"This is {other.name}: {other.background}",
        f"Your goal: {visible(me.goal, episode, me.agent, tags=FIELD_TAGS)}",
        f"The goal of {other.name} is hidden from you.",
    )
    return "\n".join(lines) + "\n"


def _rendered(turn: Turn) -> str:
    return render_action(LoggedAction(turn.action_type, turn.text))


def export_row(sample: SampleEpisode) -> dict[str, Any]:
    """The sample as a row of the sotopia library's JSONL export; a failed evaluation is a bare 0.0 for each agent.

    A secret has the agent's short name in front. The column for people to read is as lossy as the library's: it leaves
    out every action that contains "did nothing".
    """
    episode = sample.episode
    row = exported(episode, episode_log(episode, EVALUATOR))
    paragraphs = [
        f"{episode.agent(turn.agent).name}{' ' if turn.action_type == 'speak' else ': '}{_rendered(turn)}"
        for turn in episode.turns
        if "did nothing" not in _rendered(turn)
    ]
    backgrounds = {one.name: background_and_secret(one, sample.called[one.agent]) for one in episode.agents}
    return row | {"agents_background": backgrounds, "social_interactions": "\n\n".join(paragraphs)}


def plain_row(sample: SampleEpisode) -> dict[str, Any]:
    """The sample in the plain format (docs/formats.md); the scores of a failed evaluation are null."""
    episode = asdict(sample.episode)
    del episode["source"], episode["relationship"], episode["meta"]
    for agent in episode["agents"]:
        del agent["meta"]
    for turn in episode["turns"]:
        del turn["to"], turn["failed"], turn["meta"]
    for score in episode["scores"]:
        del score["low"], score["high"]
    if not episode["scores"]:
        episode["scores"] = [
            {"agent": a.agent, "dimension": d.name, "score": None, "evaluator": EVALUATOR}
            for a in sample.episode.agents
            for d in SOTOPIA_EVAL
        ]
    return episode


def jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """`rows` as the text of a JSON lines file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    """Write both files into `samples/`."""
    episodes = list(read_samples())
    samples.path("export").write_text(jsonl(map(export_row, episodes)), encoding="utf-8", newline="\n")
    samples.path("plain").write_text(jsonl(map(plain_row, episodes)), encoding="utf-8", newline="\n")
    print(f"{len(episodes)} episodes of {len({s.episode.environment_id for s in episodes})} scenarios")


if __name__ == "__main__":
    main()
