"""What a rollout did: a frozen noun for whoever called it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sotopia_rl_data.asking.progress import Outcome
from sotopia_rl_data.costs.bill import Bill
from sotopia_rl_data.rollouts.recording import Recording
from sotopia_rl_data.store.stage import Committed


@dataclass(frozen=True, slots=True)
class RolloutReport:
    """`version` ("org/name@v1.0.0") lies in `directory`; `created` is False where the store already had this content.

    Of the `planned` episodes, `abandoned` have no end, because somebody could not be asked; `failed_turns` are no-ops
    that stand for answers that could not be read. `ended` counts the episodes by why they ended. Of the calls, `asked`
    went out in this run and the ledger knew `hits`. `bill` is what these episodes cost, earlier runs included;
    `seconds` how long it all took.
    """

    version: str
    directory: str
    digest: str
    created: bool
    planned: int
    episodes: int
    utterances: int
    abandoned: int
    failed_turns: int
    failures: Mapping[str, int]
    ended: Mapping[str, int]
    asked: int
    hits: int
    repeated: int
    unreachable: int
    bill: Bill
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return asdict(self) | {"bill": self.bill.as_dict()}


def report(
    committed: Committed, planned: int, recording: Recording, outcome: Outcome, bill: Bill, seconds: float
) -> RolloutReport:
    """The report of a finished run."""
    version = committed.version
    return RolloutReport(
        version=version.ref,
        directory=str(version.dir),
        digest=version.digest,
        created=committed.created,
        planned=planned,
        episodes=recording.episodes,
        utterances=recording.utterances,
        abandoned=recording.abandoned,
        failed_turns=recording.failed_turns,
        failures=dict(recording.reasons.most_common()),
        ended=dict(recording.ended.most_common()),
        asked=outcome.asked,
        hits=outcome.hits,
        repeated=outcome.repeated,
        unreachable=outcome.unreachable,
        bill=bill,
        seconds=round(seconds, 3),
    )
