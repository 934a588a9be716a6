"""lexical: a deterministic judge that counts words. Offline, free, and a BASELINE: it understands nothing.

It exists so that everything runs without a key, and as the floor that a real judge should clear. An utterance weighs as
much as the words that it shares with the topic of the dimension (the agent's goal, secret or profile, or a short word
list), and the words in it that nobody has said before; its place in the dialogue does not count. Its level is its
weight as a share of the agent's heaviest utterance. Where progress or a score of the episode is asked for, the weight
of the utterances that are shown is a share of that of all the agent's utterances: so, unlike a real judge, it looks
beyond what a view shows. As an evaluator it compares the agent's mean weight with the heaviest utterance of all; on
dimensions that count harm, the score is what remains.
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
"""A part and its whole."""
Spoken = Mapping[tuple[str, int], tuple[frozenset[str], int]]
"""(agent, turn) -> the utterance's content words, and how many of them nobody had said before."""
# A part of the ledger's key: raise this number whenever the judge would answer any question differently.
_VERSION = 1
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
    """The judge. It needs no key and no network, and answers the same question the same way everywhere."""

    id: str = "lexical"
    target: Target = field(default_factory=lambda: Target("offline", "lexical", "", {"version": _VERSION}))
    concurrency: int = 1
    remark: str = "the judge `lexical` is an offline baseline that counts words and understands nothing"

    async def answer(self, question: Question) -> str:
        """An answer that obeys the question's schema."""
        words = spoken(question.episode)
        share = _agent_share if question.measure == "evaluation" else _utterance_share
        shares = {path: share(question, slot, words) for path, slot in question.slots.items()}
        return json.dumps(answers.compose(question.answer_schema, partial(_level, shares)))


def _utterance_share(question: Question, slot: Slot, spoken_words: Spoken) -> Share:
    """The slot's number as a share: the weight of its utterance and of the agent's heaviest; for progress, the weight
    so far and the total; where one utterance is left out, the weight of the others and the total."""
    weights = {
        turn: weight(question.episode, Slot(agent, turn, slot.dimension), *words)
        for (agent, turn), words in spoken_words.items()
        if agent == slot.agent
    }
    total = sum(weights.values())
    if question.measure == "progress":
        return sum(weight for turn, weight in weights.items() if turn <= slot.turn), total
    if question.measure == "episode_score":
        return total - weights.get(slot.turn, 0), total
    return weights[slot.turn], max(weights.values())


def _agent_share(question: Question, slot: Slot, spoken_words: Spoken) -> Share:
    """The mean weight of the agent's utterances as a share of the heaviest of all. Where the dimension counts harm, new
    words weigh nothing, and the share is what remains."""
    harm = dimension(slot.dimension).high <= 0
    weights = {
        (agent, turn): weight(question.episode, Slot(agent, turn, slot.dimension), words, 0 if harm else new)
        for (agent, turn), (words, new) in spoken_words.items()
    }
    of_agent = [weight for (agent, _), weight in weights.items() if agent == slot.agent]
    part, whole = sum(of_agent), len(of_agent) * max(weights.values())
    if not harm:
        return part, whole
    return (whole - part, whole) if whole else (1, 1)


def spoken(episode: Episode) -> Spoken:
    """For each utterance, its content words, and how many of them nobody had said before."""
    by_turn: dict[tuple[str, int], tuple[frozenset[str], int]] = {}
    known: set[str] = set()
    for turn in sorted(episode.turns, key=lambda t: t.turn):
        words = _LEAVES if turn.action_type == "leave" else _words(turn.text)
        by_turn[turn.agent, turn.turn] = (words, len(words - known))
        known |= words
    return by_turn


def weight(episode: Episode, slot: Slot, words: frozenset[str], new: int) -> int:
    """How much an utterance has to do with the dimension, 0 or more: a shared word weighs three, a new word one, and
    all new words together at most six. The weights are whole numbers, so that every machine gets the same."""
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
    """A slot's level, rounded half up; where one slot is to be chosen, the key of the heaviest."""
    if "enum" not in schema:
        return _UNREASONED
    allowed = schema["enum"]
    if schema["type"] == "string":
        return str(max(allowed, key=lambda key: shares[(*path, key)][0]))
    top, (part, whole) = len(allowed) - 1, shares[path]
    if not whole:
        return int(allowed[0])
    return int(allowed[(2 * top * part + whole) // (2 * whole)])
