"""What is known of the same questions in another wording, told before a judge is asked: the wording is part of a
question's key, so another one has everything asked, and paid for, again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.asking.estimate import Estimate
from sotopia_rl_data.labelers.coverage import Coverage
from sotopia_rl_data.labelers.questions import Questions
from sotopia_rl_data.labelers.schemas.phrasing import WORDINGS, Wording
from sotopia_rl_data.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class OtherWording:
    """`known` of a run's `calls` are answered or under way in another `wording`, and not in the run's own."""

    wording: Wording
    known: int
    calls: int

    @property
    def sentence(self) -> str:
        """What to say before anything is asked."""
        return (
            f"{self.known:,} of {self.calls:,} calls are answered or under way in the wording {self.wording}, which "
            f"this run does not use: --wording {self.wording} takes them"
        )


def other_wordings(questions: Questions, ledger: Ledger) -> list[OtherWording]:
    """The other wordings with answers that the run would not find. Sends no request."""
    if not len(ledger):
        return []
    counts = {wording: questions.known_only_in(wording, ledger) for wording in WORDINGS}
    return [OtherWording(wording, count, questions.total) for wording, count in counts.items() if count]


def tell_other_wordings(
    announce: Callable[[OtherWording], object] | None, questions: Questions, ledger: Ledger
) -> None:
    """Tell `announce`, where there is one, of each."""
    if announce is not None:
        for other in other_wordings(questions, ledger):
            announce(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedEstimate(Estimate):
    """The estimate of a run that asks judges, with the answers in other wordings; of `label`, also with what can be
    rewarded."""

    elsewhere: tuple[OtherWording, ...]
    coverage: Coverage | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """What to say before the figures."""
        told = () if self.coverage is None else (self.coverage.sentence,)
        return (*told, *(other.sentence for other in self.elsewhere))

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON holds it."""
        elsewhere: Mapping[str, int] = {other.wording: other.known for other in self.elsewhere}
        rewards = {} if self.coverage is None else {"rewards": self.coverage.as_dict()}
        return {**Estimate.as_dict(self), "other_wordings": elsewhere, **rewards}


def judged_estimate(
    forecast: Estimate, questions: Questions, ledger: Ledger, coverage: Coverage | None = None
) -> JudgedEstimate:
    """The estimate with what is known of other wordings."""
    return JudgedEstimate(
        forecast.as_of, forecast.lines, elsewhere=tuple(other_wordings(questions, ledger)), coverage=coverage
    )
