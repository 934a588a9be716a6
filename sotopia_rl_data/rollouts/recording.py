"""Games that are over, on their way into a version: episodes, what was served, what was scored, what failed.

Games end in any order; the stage puts rows into theirs. Scores are held until the end, for their range.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from sotopia_rl_data import tables
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, Scored
from sotopia_rl_data.rollouts.players import Player
from sotopia_rl_data.schema import Attribution, Episode, Failure
from sotopia_rl_data.splits import split_of
from sotopia_rl_data.store.stage import Stage

BATCH = 64
SCHEMA = "best-of-n"
SERVED = tables.rewards_schema([])


class Recording:
    """What a run has played so far. Bounded memory, but for the scores and one reason for each failure."""

    def __init__(self, stage: Stage, scorer: Player | None) -> None:
        self._stage, self._scorer = stage, scorer
        self._waiting: dict[str, list[EpisodeRun]] = {}
        self._scores: list[tuple[str, str, Scored]] = []
        self.episodes = self.utterances = self.failed_turns = self.abandoned = 0
        self.reasons: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    @property
    def first_reason(self) -> str:
        """Why an episode failed, the commonest."""
        return next((reason.rstrip(".") for reason, _ in self.reasons.most_common(1)), "none was asked for")

    def add(self, game: EpisodeRun) -> None:
        """Take a game that is over."""
        split = split_of(game.match.scene.environment.environment_id, 0)
        waiting = self._waiting.setdefault(split, [])
        waiting.append(game)
        self.reasons.update(lost.reason for lost in game.lost)
        if len(waiting) >= BATCH:
            self._flush(split)

    def finish(self) -> None:
        """Write what is left. Every config of the version is there then, if empty."""
        for split in list(self._waiting):
            self._flush(split)
        for split in {split for split, _, _ in self._scores}:
            self._stage.write("attributions", split, tables.attribution_table(self._attributions(split)))
        self._stage.write("failures", "train", tables.FAILURES.empty_table())

    def provenance(self) -> dict[str, Any]:
        """What is worth knowing besides the recipe: counts, why episodes ended, what failed."""
        counts = {"episodes": self.episodes, "utterances": self.utterances, "failed_turns": self.failed_turns}
        return {
            "counts": counts | {"abandoned": self.abandoned},
            "ended": dict(sorted(self.ended.items())),
            "failures": dict(self.reasons.most_common(100)),
        }

    def _flush(self, split: str) -> None:
        games = self._waiting.pop(split)
        whole = [game for game in games if not game.abandoned]
        episodes = [game.episode() for game in whole]
        if whole:
            self._stage.write("episodes", split, tables.episode_table(episodes))
            self._stage.write("rewards", split, _served(whole))
        lost = [one for game in games for one in game.lost]
        if lost:
            self._stage.write("failures", split, tables.failure_table(lost))
        self._scores += [(split, game.match.episode_id, one) for game in whole for one in game.scored]
        self._count(games, episodes, lost)

    def _count(self, games: Sequence[EpisodeRun], episodes: Sequence[Episode], lost: Sequence[Failure]) -> None:
        self.episodes += len(episodes)
        self.abandoned += len(games) - len(episodes)
        self.failed_turns += len(lost) - (len(games) - len(episodes))
        self.utterances += sum(len(one.turns) for one in episodes)
        self.ended.update(one.reasoning.partition("terminated: ")[2].strip(" ;\n") for one in episodes)

    def _attributions(self, split: str) -> list[Attribution]:
        judge = self._scorer.id if self._scorer is not None else ""
        rewards = [one.reward for _, _, one in self._scores]
        low, high = min(rewards), max(rewards)
        return [
            Attribution(
                episode, one.agent, one.turn, "reward", SCHEMA, "quality", judge, one.draft, one.reward, low, high,
                one.call_id,
            )
            for of, episode, one in self._scores
            if of == split
        ]  # fmt: skip


def _served(games: Sequence[EpisodeRun]) -> pa.Table:
    """Prompts and completions as rows of `rewards` that have no reward yet."""
    rows = [
        {
            "episode_id": game.match.episode_id,
            "environment_id": game.match.scene.environment.environment_id,
            "agent": one.agent,
            "turn": one.turn,
            "prompt": list(one.prompt),
            "completion": [{"role": "assistant", "content": one.completion}],
            "reward": None,
            "n_opinions": 0,
            "spread": None,
        }
        for game in games
        for one in game.served
    ]
    return pa.Table.from_pylist(rows, schema=SERVED)
