"""Which episodes an audit asks about, how many calls that is and what they cost: known before anything is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from sotopia_rl_data.costs import prices
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.labelers import judges as judging
from sotopia_rl_data.labelers.audit.probes import PROBES, REPEAT, LabelContrast, Probed, repeated
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.judges.sending import Ask, target_of
from sotopia_rl_data.labelers.plan import Plan, episodes_of
from sotopia_rl_data.labelers.preparing import dimensions_of
from sotopia_rl_data.labelers.schemas import own_dimensions
from sotopia_rl_data.labelers.schemas import schema as find_schema
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.labelers.schemas.rubric import PREFIX
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Usage
from sotopia_rl_data.rewards.resolve import choose_evaluator, evaluators
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Version

DEFAULT_DIMENSIONS = ("goal", "relationship", "knowledge")
_CHARACTERS_A_TOKEN = 4
_TOKENS_A_LABEL, _TOKENS_AN_ANSWER = 7, 24  # what `"turn_12": 3, ` takes, and the braces and names around
_SHARE = 0.1  # of the estimate that a bill may be higher by


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an audit will ask: `calls` in all, of which the ledger has `known`; tokens of the rest, and their price
    (None: not on the price list)."""

    episodes: int
    calls: int
    known: int
    input_tokens: int
    output_tokens: int
    usd: float | None

    @property
    def to_ask(self) -> int:
        """Calls that will go out."""
        return self.calls - self.known

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("episodes", "calls", "known", "to_ask", "input_tokens", "output_tokens", "usd")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that determines what is asked. `plan` asks once; the originals are asked twice."""

    plan: Plan
    probes: tuple[str, ...]
    seed: int
    episodes: tuple[Episode, ...]
    probed: tuple[Probed, ...] = field(default=())

    @property
    def judge(self) -> Judge:
        return self.plan.judges[0]

    @property
    def twice(self) -> Plan:
        """The plan of the originals."""
        return replace(self.plan, samples=2)

    def requests(self) -> Iterator[Ask]:
        """Every request, the originals first."""
        yield from self.twice.requests(self.episodes, self.judge)
        yield from self.plan.requests((one.episode for one in self.probed), self.judge)

    def contrasts(self) -> dict[str, list[tuple[str, LabelContrast]]]:
        """By probe, what must be equal: (original episode's id, contrast)."""
        found: dict[str, list[tuple[str, LabelContrast]]] = {name: [] for name in (*self.probes, REPEAT)}
        for one in self.probed:
            found[one.probe] += [(one.original, contrast) for contrast in one.contrasts]
        for episode in self.episodes:
            found[REPEAT] += [(episode.episode_id, contrast) for contrast in repeated(episode)]
        return found

    def estimate(self, ledger: Ledger) -> Estimate:
        """Count and price what the ledger does not answer."""
        target = target_of(self.judge)
        calls = known = tokens_in = tokens_out = 0
        for request in self.requests():
            calls += 1
            if any(attempt.status == "answer" for attempt in ledger.attempts(request.key)):
                known += 1
                continue
            characters = sum(len(message["content"]) for message in request.messages)
            tokens_in += (characters + len(str(request.answer_schema))) // _CHARACTERS_A_TOKEN
            tokens_out += _TOKENS_AN_ANSWER + _TOKENS_A_LABEL * len(request.asked.slots)
        price = prices.load().of(target)
        usd = None if price is None else price.cost(Usage(input=tokens_in, output=tokens_out))
        return Estimate(len(self.episodes), calls, known, tokens_in, tokens_out, usd)

    def recipe(self) -> dict[str, Any]:
        """What determines the rows."""
        labels = self.plan.recipe()
        versions = {name: PROBES[name].version for name in self.probes}
        return {"audit": {"probes": versions, "seed": self.seed}, "labels": labels, "scale": self.plan.scale}


def planned(
    version: Version,
    judge: str | Judge,
    *,
    episodes: int,
    seed: int,
    probes: Sequence[str] | None,
    schema: str | None,
    dimensions: Sequence[str] | None,
    scale: int | None,
    ask: Packing | None,
    evaluator: str | None,
    sampling: Mapping[str, Any] | None,
) -> Audit:
    """The audit of `judge` on a draw of the version's episodes. What is None is as in the labels that `version` holds,
    so that their answers are found in the ledger; else as `label` does by default.

    Raises UsageError, KeyMissing, InputError before anything is asked.
    """
    if "episodes" not in version.manifest.configs:
        raise UsageError(f"{version.ref} holds no episodes.", "name a version that was made from dialogues")
    if episodes < 2:
        raise UsageError(f"{episodes} episodes say nothing about a judge.", "ask about two or more: --episodes 100")
    odd = [name for name in probes or () if name not in PROBES]
    if odd:
        raise UsageError(f"{odd[0]!r} is no probe.", f"name one of: {', '.join(PROBES)}")
    made = version.manifest.recipe
    before: Mapping[str, Any] = made.get("labels") or {}
    chosen = find_schema(schema or _schema_before(version, before))
    if not chosen.needs_judge:
        raise UsageError(f"The schema {chosen.id!r} asks nobody.", "name one that does: --schema direct")
    own = own_dimensions(chosen)
    known = own or [one.name for one in SOTOPIA_EVAL]
    kept = [name for name in before.get("dimensions", ()) if name in known]
    asked = dimensions_of(dimensions or kept or own or DEFAULT_DIMENSIONS, own)
    levels = scale or made.get("scale") or 3
    chosen.wording_sha256(levels)  # raises where the scale is not worded
    files = [path for paths in version.files("episodes").values() for path in paths]
    needed = getattr(chosen, "needs_score", True)
    by = choose_evaluator(evaluators(files, asked), evaluator or before.get("evaluator") or None, asked, needed)
    who = judging.judge(judge, sampling) if isinstance(judge, str) else judge
    plan = Plan(chosen, asked, by, (who,), levels, ask or before.get("ask", "per-dimension"))
    drawn = tuple(_drawn(plan, episodes_of(files), episodes, seed))
    if len(drawn) < 2:
        raise InputError(
            f"{len(drawn)} of the episodes of {version.ref} can be asked about.",
            f"an episode needs two agents who act, and scores by {by} on {', '.join(asked)}",
        )
    wanted = tuple(name for name in PROBES if probes is None or name in probes)
    changed = (PROBES[name](episode, seed) for episode in drawn for name in wanted)
    return Audit(plan, wanted, seed, drawn, tuple(one for one in changed if one is not None))


def _schema_before(version: Version, before: Mapping[str, Any]) -> str:
    """The schema of the labels. Raises UsageError where it was a rubric: a version knows its content, not its file."""
    found = str(before.get("schema", "direct"))
    if found.startswith(PREFIX):
        said = f"{version.ref} was labelled by the rubric {found.removeprefix(PREFIX)!r}."
        raise UsageError(said, "name its file: --schema rubric:FILE.yaml")
    return found


def _drawn(plan: Plan, episodes: Iterable[Episode], count: int, seed: int) -> list[Episode]:
    """Some of the episodes that can be asked about, drawn by the seed; in order of their ids."""
    able = [one for one in episodes if len({turn.agent for turn in one.turns}) > 1 and plan.questions(one)]
    able.sort(key=lambda one: hashlib.sha256(f"{seed}\0{one.episode_id}".encode()).digest())
    return sorted(able[:count], key=lambda one: one.episode_id)


def check(estimate: Estimate, max_calls: int | None, budget: float | None, model: str) -> None:
    """Raises UsageError where the audit would cost more than is allowed, or where that cannot be known."""
    if max_calls is not None and estimate.to_ask > max_calls:
        raise UsageError(
            f"The audit needs {estimate.to_ask:,} calls, and {max_calls:,} are allowed.",
            "ask about fewer --episodes, pack them with --ask packed, or raise --max-calls",
        )
    if budget is None or not estimate.to_ask:
        return
    if estimate.usd is None:
        raise UsageError(
            f"What {model} costs is not on the price list, so --budget cannot be kept.",
            f"bound the calls instead (--max-calls {estimate.to_ask}), or name a price list in {prices.VARIABLE}",
        )
    if estimate.usd * (1 + _SHARE) > budget:
        raise UsageError(
            f"The audit costs about {estimate.usd:.2f} USD, and the budget is {budget:.2f}.",
            "ask about fewer --episodes, pack them with --ask packed, or raise --budget",
        )


def splits_of(version: Version) -> dict[str, str]:
    """Episode -> the split that it is in."""
    import pyarrow.parquet as pq

    return {
        episode: split
        for split, files in version.files("episodes").items()
        for episode in chain.from_iterable(
            pq.read_table(path, columns=["episode_id"]).column(0).to_pylist() for path in files
        )
    }
