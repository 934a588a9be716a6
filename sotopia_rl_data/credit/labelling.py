"""Judges asked about known games, schema after schema, through the ledger as `label` asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.credit.playing import DIMENSION
from sotopia_rl_data.labelers.labelling import estimate_label, label
from sotopia_rl_data.labelers.plan import Elicitation, RewardSettings, prepare
from sotopia_rl_data.labelers.selection import NOT_IN_NAMES
from sotopia_rl_data.store import Store, Version

if TYPE_CHECKING:
    from sotopia_rl_data.asking.providers import ModelName
    from sotopia_rl_data.labelers.wordings import JudgedEstimate

Judges = Sequence["str | ModelName"]
_REWARDS = RewardSettings(weights={DIMENSION: 1.0})


def label_games(
    store: Store,
    games: Version,
    judges: Judges,
    schemas: Sequence[str],
    options: AskOptions,
    sampling: Mapping[str, Any] | None = None,
) -> list[Version]:
    """A labelled version of the games for each schema, called as the games with the schema's id behind. A budget is
    one cap over all of them. Raises what `label` raises; what was answered is kept."""
    labelled, spent = [], 0.0
    for id_, asked in check_asked(judges, schemas, sampling).items():
        out, left = f"{games.name}-{NOT_IN_NAMES.sub('-', id_)}", replace(options, spent=spent)
        report = label(store, str(games.dir.resolve()), asked, _REWARDS, out=out, options=left)
        labelled.append(report.committed.version)
        spent += report.bill.known + report.bill.maybe
    return labelled


def check_asked(
    judges: Judges, schemas: Sequence[str], sampling: Mapping[str, Any] | None = None
) -> dict[str, Elicitation]:
    """What is asked under each schema, by the schema's id. Raises UsageError and KeyMissing, before any is asked, so
    that none is asked for nothing."""
    each = [_asked(judges, name, sampling) for name in dict.fromkeys(schemas)]
    return {prepare(asked, _REWARDS)[0].schema.id: asked for asked in each}


def estimate_games(
    store: Store,
    games: Version,
    judges: Judges,
    schemas: Sequence[str],
    options: AskOptions,
    sampling: Mapping[str, Any] | None = None,
) -> dict[str, JudgedEstimate]:
    """What `label_games` would ask and cost, by schema. Sends nothing."""
    source = str(games.dir.resolve())
    return {name: estimate_label(store, source, _asked(judges, name, sampling), _REWARDS, options) for name in schemas}


@contextmanager
def loopback_labels(games: Version, schemas: Sequence[str]) -> Iterator[list[Version]]:
    """The games labelled by a made-up model on this machine, asked as any model is; nothing of it is kept."""
    from sotopia_rl_data.fake_provider.running import running

    with running() as provider, TemporaryDirectory(prefix="sotopia-rl-data-") as folder:
        judge = f"openai:loopback@{provider.openai_url}"
        yield label_games(Store(Path(folder)), games, [judge], schemas, AskOptions())


def _asked(judges: Judges, name: str, sampling: Mapping[str, Any] | None) -> Elicitation:
    return Elicitation(judges=judges, schema=name, dimensions=[DIMENSION], packing="packed", sampling=sampling)
