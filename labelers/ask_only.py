"""Asking without a version: what `label --ask-only` and `evaluate --ask-only` share.

The answers are in the ledger, whole or of one shard. The same command without `--ask-only` reads them and makes the
version, in this ledger or in one that the ledgers of all shards were merged into.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from sotopia_rl_data.asking import ask as asking
from sotopia_rl_data.asking.ask import bill_of
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.report import AskedReport, asking_warnings
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.labelers.questions import LabelTally, Questions
from sotopia_rl_data.labelers.report import remarks
from sotopia_rl_data.labelers.wordings import OtherWording, tell_other_wordings
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.shards import Shard


def ask_questions(
    questions: Questions,
    ledger: Ledger,
    options: AskOptions,
    prices: Prices,
    shard: Shard,
    announce: Callable[[OtherWording], object] | None,
) -> AskedReport:
    """Ask what the ledger does not answer of `questions`, which are those of `shard`. Raises what `asking.ask`
    raises."""
    began = time.monotonic()
    tell_other_wordings(announce, questions, ledger)
    outcomes = asking.ask(questions, ledger, options, prices)
    tally = LabelTally()
    reasons: Counter[str] = Counter()
    for _, failures in questions.rows(ledger, tally):
        # what nothing was asked about (an episode without a score) is told by the command that makes the version
        reasons.update(failure.reason for failure in failures if failure.call_id)
    return AskedReport(
        outcomes=outcomes,
        calls=questions.total,
        failures=dict(reasons.most_common()),
        bill=bill_of(questions.judges, tally, prices),
        warnings=[*remarks(questions.plan), *asking_warnings(outcomes)],
        seconds=round(time.monotonic() - began, 3),
        shard=str(shard),
        episodes=questions.episodes,
        ledger=ledger.address,
    )
