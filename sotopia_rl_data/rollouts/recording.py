"""Episodes that are over, on their way into a version: turns, what was served, what was scored, what failed.

They end in any order; the stage puts rows into theirs. Scores are held until the end, for their range.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from sotopia_rl_data import tables
from sotopia_rl_data.rollouts.episode_run import DraftScore, EpisodeRun
from sotopia_rl_data.rollouts.players import Player
from sotopia_rl_data.schema import Attribution
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
        self._scores: list[tuple[str, str, DraftScore]] = []
        self.episodes = self.utterances = self.failed_turns = self.abandoned = 0
        self.reasons: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    @property
    def first_reason(self) -> str:
        """Why an episode failed, the commonest."""
        return next((reason.rstrip(".") for reason, _ in self.reasons.most_common(1)), "none was asked for")

    def add(self, run: EpisodeRun) -> None:
        """Take an episode that is over."""
        split = split_of(run.spec.scene.environment.environment_id, 0)
        waiting = self._waiting.setdefault(split, [])
        waiting.append(run)
        self.reasons.update(failure.reason for failure in run.failures)
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
        """Write and count the episodes that wait for this split."""
        runs = self._waiting.pop(split)
        played = [run for run in runs if not run.abandoned]
        episodes = [run.episode() for run in played]
        failures = [failure for run in runs for failure in run.failures]
        if played:
            self._stage.write("episodes", split, tables.episode_table(episodes))
            self._stage.write("rewards", split, _served(played))
        if failures:
            self._stage.write("failures", split, tables.failure_table(failures))
        self._scores += [(split, run.spec.episode_id, score) for run in played for score in run.scores]
        abandoned = len(runs) - len(played)  # one failure each; every other failure is a turn's
        self.episodes += len(played)
        self.abandoned += abandoned
        self.failed_turns += len(failures) - abandoned
        self.utterances += sum(len(episode.turns) for episode in episodes)
        self.ended.update(episode.reasoning.partition("terminated: ")[2].strip(" ;\n") for episode in episodes)

    def _attributions(self, split: str) -> list[Attribution]:
        judge = self._scorer.id if self._scorer is not None else ""
        rewards = [score.reward for _, _, score in self._scores]
        low, high = min(rewards), max(rewards)
        return [
            Attribution(
                episode_id=episode_id,
                agent=score.agent,
                turn=score.turn,
                dimension="reward",
                schema=SCHEMA,
                measure="quality",
                judge=judge,
                sample=score.draft,
                raw=score.reward,
                scale_min=low,
                scale_max=high,
                call_id=score.call_id,
            )
            for scored_in, episode_id, score in self._scores
            if scored_in == split
        ]


def _served(runs: Iterable[EpisodeRun]) -> pa.Table:
    """Prompts and completions as rows of `rewards` that have no reward yet."""
    rows = [
        {
            "episode_id": run.spec.episode_id,
            "environment_id": run.spec.scene.environment.environment_id,
            "agent": exchange.prompt.agent,
            "turn": exchange.prompt.turn,
            "prompt": list(exchange.prompt.messages),
            "completion": [{"role": "assistant", "content": exchange.completion}],
            "reward": None,
            "n_opinions": 0,
            "spread": None,
        }
        for run in runs
        for exchange in run.served
    ]
    return pa.Table.from_pylist(rows, schema=SERVED)
