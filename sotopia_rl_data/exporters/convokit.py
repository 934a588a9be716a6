"""A ConvoKit corpus of a version's episodes: `utterances.jsonl` and its four companions.

An episode is a conversation, an agent a speaker, a turn an utterance. What ConvoKit has no field for is `meta`: of a
conversation the scenario, the agents' goals and the scores; of an utterance its turn, its kind, and its reward where
the version has rewards. Whatever the episodes' source said is `meta` again, under the keys that it had. Its
times are kept where all utterances of a conversation have one and they ascend; else an utterance's place is its time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from sotopia_rl_data.errors import NotFound
from sotopia_rl_data.exporters.exporting import written_beside
from sotopia_rl_data.importers.formats.utterances import order_of
from sotopia_rl_data.query import Dataset
from sotopia_rl_data.schema import Agent, Episode
from sotopia_rl_data.store import Version
from sotopia_rl_data.streams import Episodes, read

_REPLY, _TIME = "reply-to", "timestamp"

Rewards = Mapping[tuple[str, int], float | None]
"""The rewards of one episode by (agent, turn)."""


@dataclass(frozen=True, slots=True)
class CorpusReport:
    """What was written: conversations, utterances and speakers."""

    version: str
    directory: str
    conversations: int
    utterances: int
    speakers: int


def export_convokit(
    version: Version, directory: Path, *, progress: Callable[[int], None] | None = None
) -> CorpusReport:
    """Write every episode of `version` into `directory`, which must not exist or be empty. `progress(1)` is called for
    each episode.

    Raises NotFound where there are no episodes, UsageError, StoreError; after an error `directory` is unchanged.
    """
    if "episodes" not in version.manifest.configs:
        raise NotFound(f"{version.ref} has no episodes to export.", "name a dataset of episodes: sotopia-rl-data list")
    with written_beside(directory) as beside:
        corpus = _CorpusFolder(beside)
        with (
            (beside / "utterances.jsonl").open("w", encoding="utf-8") as utterances,
            (beside / "conversations.json").open("w", encoding="utf-8") as conversations,
        ):
            conversations.write("{")
            for episode, rewards in _with_rewards(version):
                corpus.add(episode, rewards, utterances, conversations)
                if progress is not None:
                    progress(1)
            conversations.write("}\n")
        corpus.finish(version.ref)
    return CorpusReport(version.ref, str(directory), corpus.conversations, corpus.utterances, len(corpus.speakers))


def _with_rewards(version: Version) -> Iterator[tuple[Episode, Rewards]]:
    """Each episode with its rewards, which lie in the same order."""
    files = version.files("rewards") if "rewards" in version.manifest.configs else {}
    for split in version.files("episodes"):
        rows = Episodes(
            "rewards", read(files.get(split, ()), ["episode_id", "agent", "turn", "reward"], 1 << 14, encoded=False)
        )
        for episode in Dataset(version).episodes(split):
            found = rows.until(episode.episode_id).to_pylist()
            yield episode, {(row["agent"], row["turn"]): row["reward"] for row in found}


@dataclass(slots=True)
class _CorpusFolder:
    """The corpus that is being written: its speakers, and the types of each `meta`, which its index lists."""

    directory: Path
    conversations: int = 0
    utterances: int = 0
    speakers: dict[str, dict[str, Any]] = field(default_factory=dict)
    types: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))

    def add(self, episode: Episode, rewards: Rewards, utterances: IO[str], conversations: IO[str]) -> None:
        """Write one episode."""
        for agent in episode.agents:
            self.speakers.setdefault(agent.agent, self._typed("speakers", _speaker(agent)))
        entry = (
            json.dumps(episode.episode_id)
            + ": "
            + _json({"meta": self._typed("conversations", _conversation(episode)), "vectors": []})
        )
        conversations.write(("\n" if not self.conversations else ",\n") + entry)
        self.conversations += 1
        before = None
        metas = [json.loads(turn.meta) if turn.meta else {} for turn in episode.turns]
        ascending = order_of([own.get(_TIME) for own in metas]) == list(range(len(metas)))
        for place, (turn, own) in enumerate(zip(episode.turns, metas, strict=True)):
            name, reply = own.pop("id", f"{episode.episode_id}-{place}"), own.pop(_REPLY, before)
            time = own.pop(_TIME) if ascending else place
            meta = own | {"turn": turn.turn, "action_type": turn.action_type}
            if (turn.agent, turn.turn) in rewards:
                meta["reward"] = rewards[turn.agent, turn.turn]
            record = {
                "id": str(name),
                "conversation_id": episode.episode_id,
                "text": turn.text,
                "speaker": turn.agent,
                "meta": self._typed("utterances", meta),
                _REPLY: reply,
                _TIME: time,
                "vectors": [],
            }
            utterances.write(_json(record) + "\n")
            self.utterances += 1
            before = str(name)

    def finish(self, name: str) -> None:
        """Write the companions that are known only at the end."""
        speakers = {speaker: {"meta": meta, "vectors": []} for speaker, meta in self.speakers.items()}
        index: dict[str, Any] = {
            f"{kind}-index": {key: sorted(types) for key, types in self.types[kind].items()}
            for kind in ("utterances", "speakers", "conversations")
        }
        index |= {"overall-index": {"name": ["<class 'str'>"]}, "vectors": [], "version": 1}
        for file, value in (("speakers", speakers), ("corpus", {"name": name}), ("index", index)):
            (self.directory / f"{file}.json").write_text(_json(value), encoding="utf-8")

    def _typed(self, kind: str, meta: dict[str, Any]) -> dict[str, Any]:
        for key, value in meta.items():
            if value is not None:
                self.types[kind][key].add(str(type(value)))
        return meta


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _speaker(agent: Agent) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(agent.meta) if agent.meta else {}
    return {"name": agent.name} | meta if agent.name != agent.agent else meta


def _conversation(episode: Episode) -> dict[str, Any]:
    """The meta of a conversation: the source's own, and the fields of the episode that are not blank."""
    meta: dict[str, Any] = json.loads(episode.meta) if episode.meta else {}
    told = {name: getattr(episode, name) for name in ("environment_id", "scenario", "relationship", "tag")}
    agents = [{k: v for k, v in asdict(agent).items() if v and k != "meta"} for agent in episode.agents]
    scores = [{k: v for k, v in asdict(score).items() if v is not None} for score in episode.scores]
    return {name: value for name, value in (told | {"agents": agents, "scores": scores}).items() if value} | meta
