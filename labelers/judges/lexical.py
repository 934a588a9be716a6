"""lexical: a deterministic judge that counts words. Offline, free, and a BASELINE: it understands nothing.

It exists so that everything runs without a key, and as the floor that a real judge should clear. An utterance scores
by the words it shares with what the dimension is about (the agent's goal, secret, profile, or a short word list) and
by how much it says that has not been said yet; where it stands in the dialogue does not count. Scores are scaled by
the agent's best utterance to the levels that were asked for. Where progress or a score of the episode is asked for, the
utterances that are shown count together, against all of the agent's. It does look beyond what a view shows. As an
evaluator it scores by the agent's mean utterance against the heaviest that anybody made; on dimensions of harm, by what
is left of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from sotopia_rl_data.dimensions import dimension
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import answers
from sotopia_rl_data.request import Target
from sotopia_rl_data.schema import Agent, Episode

Share = tuple[int, int]
"""A part and the whole that it is of."""
Spoken = Mapping[tuple[str, int], tuple[frozenset[str], int]]
"""(agent, turn) -> the utterance's content words, and how many of them nobody had said before."""
_VERSION = 1  # rises with every change of what it answers: it is part of the ledger's key
_UNREASONED = "counted words; understands nothing"
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|\?")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_STOP = _set(
    "a about after all also am an and any are as at be because been before but by can could did do does done down for "
    "from get go got had has have he her here him his i if in into is it its just let like make may me might more most "
    "much my no not now of off on one only or our out over own she should so some than that the their them then there "
    "these they this those to too up us very was we were while will with would you your i'm i'd i'll it's that's don't "
    "can't we'll you're"
)
_LEAVES = _set("(leaves)")
_LISTS = {
    "relationship": _set(
        "thank thanks sorry please friend friends trust appreciate love care together understand glad hope respect "
        "hate stupid liar lie unfair angry never hurt alone blame disappointed"
    ),
    "knowledge": _set("? what why how when where who which know learn heard tell explain means"),
    "social_rules": _set(
        "steal stole cheat lie lied threat threaten hurt kill illegal police stupid idiot shut damn hell insult"
    ),
    "financial_and_material_benefits": _set(
        "pay paid price money dollar dollars cost buy sell offer deal share split half discount rent loan free"
    ),
}


@dataclass(frozen=True, slots=True)
class Lexical:
    """The judge. It needs no key and no network and gives the same answer to the same question everywhere."""

    id: str = "lexical"
    target: Target = field(default_factory=lambda: Target("offline", "lexical", "", {"version": _VERSION}))
    concurrency: int = 1
    remark: str = "the judge `lexical` is an offline baseline that counts words and understands nothing"

    async def answer(self, question: Question) -> str:
        """An answer that obeys the question's schema."""
        said = spoken(question.episode)
        share = _standing if question.measure == "evaluation" else _share
        found = {path: share(question, slot, said) for path, slot in question.slots.items()}
        return json.dumps(answers.compose(question.answer_schema, partial(_level, found)))


def _share(question: Question, slot: Slot, said: Spoken) -> Share:
    """What the slot's number is a share of: its utterance's weight and the agent's heaviest; or those so far, or all
    but the one that is left out, and the total."""
    mine = {
        turn: weight(question.episode, Slot(agent, turn, slot.dimension), *words)
        for (agent, turn), words in said.items()
        if agent == slot.agent
    }
    total = sum(mine.values())
    if question.measure == "progress":
        return sum(weight for turn, weight in mine.items() if turn <= slot.turn), total
    if question.measure == "episode_score":
        return total - mine.get(slot.turn, 0), total
    return mine[slot.turn], max(mine.values())


def _standing(question: Question, slot: Slot, said: Spoken) -> Share:
    """How heavy the agent's utterances are on average, as a share of the heaviest of all. Where the dimension counts
    harm, only the words that it is about weigh, and what is left is the share."""
    harm = dimension(slot.dimension).high <= 0
    weights = {
        (agent, turn): weight(question.episode, Slot(agent, turn, slot.dimension), words, 0 if harm else new)
        for (agent, turn), (words, new) in said.items()
    }
    mine = [weights[key] for key in weights if key[0] == slot.agent]
    part, whole = sum(mine), len(mine) * max(weights.values())
    return ((whole - part, whole) if whole else (1, 1)) if harm else (part, whole)


def spoken(episode: Episode) -> Spoken:
    """For each utterance, its content words, and how many of them nobody had said before."""
    found: dict[tuple[str, int], tuple[frozenset[str], int]] = {}
    known: set[str] = set()
    for turn in sorted(episode.turns, key=lambda t: t.turn):
        words = _LEAVES if turn.action_type == "leave" else _words(turn.text)
        found[turn.agent, turn.turn] = (words, len(words - known))
        known |= words
    return found


def weight(episode: Episode, slot: Slot, words: frozenset[str], new: int) -> int:
    """How much an utterance has to do with the dimension, 0 or more: shared words weigh three, new ones one, up to six.

    Whole numbers, so that every machine gets the same.
    """
    return 3 * len(words & _topic(slot.dimension, episode, episode.agent(slot.agent))) + min(new, 6)


def _topic(dimension: str, episode: Episode, agent: Agent) -> frozenset[str]:
    if dimension in _LISTS:
        return _LISTS[dimension]
    if dimension == "secret":
        return _words(agent.secret)
    if dimension == "believability":
        return _words(agent.background)
    return _words(f"{agent.goal} {episode.scenario}")


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower().replace("’", "'"))) - _STOP


def _level(shares: Mapping[answers.Path, Share], schema: answers.Json, path: answers.Path) -> int | str:
    """A slot's level, rounded half up, or the key of the heaviest slot where one is to be chosen."""
    if "enum" not in schema:
        return _UNREASONED
    allowed = schema["enum"]
    if schema["type"] == "string":
        return str(max(allowed, key=lambda key: shares[(*path, key)][0]))
    top, (part, whole) = len(allowed) - 1, shares[path]
    return int(allowed[(2 * top * part + whole) // (2 * whole)] if whole else allowed[0])
