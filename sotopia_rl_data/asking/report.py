"""The report of a run that asked, and of one that also committed a version: the parts that all such runs share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sotopia_rl_data.costs.bill import Bill, added
from sotopia_rl_data.ledger.lookup import Outcome
from sotopia_rl_data.request import Usage
from sotopia_rl_data.store.stage import Committed

# There is a warning where at least `_FEWEST_EXPECTED` calls should have found their prefix in the provider's cache, and
# more than the share `_MISSED` of them did not.
_FEWEST_EXPECTED = 10
_MISSED = 0.1
_SHARED = ("committed", "outcomes", "calls", "failures", "bill", "warnings", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingReport:
    """What asking took. `calls` is the number of requests that the plan has; `failures` counts by reason those without
    a usable answer; `bill` is what all of them cost, earlier runs included; `warnings` say what to look at; `seconds`
    is how long the run took."""

    outcomes: Sequence[Outcome] = field(repr=False)
    calls: int
    failures: Mapping[str, int]
    bill: Bill
    warnings: Sequence[str] = ()
    seconds: float

    @property
    def asked(self) -> int:
        """Calls that went out in this run."""
        return sum(outcome.asked for outcome in self.outcomes)

    @property
    def hits(self) -> int:
        """Calls that the ledger answered."""
        return sum(outcome.hits for outcome in self.outcomes)

    @property
    def repeated(self) -> int:
        """Calls that are equal to others of this run."""
        return sum(outcome.repeated for outcome in self.outcomes)

    @property
    def unreachable(self) -> int:
        """Calls that got no answer."""
        return sum(outcome.unreachable for outcome in self.outcomes)

    @property
    def usage(self) -> dict[str, Usage]:
        """Tokens of this run's calls, by model; a model that reported none is absent."""
        usage: dict[str, Usage] = {}
        for outcome in self.outcomes:
            for model, more in outcome.usage.items():
                if more != Usage():
                    usage[model] = added(usage.get(model, Usage()), more)
        return usage

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it; the fields of a subclass come first."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _SHARED}
        return {
            **own,
            "calls": self.calls,
            "asked": self.asked,
            "hits": self.hits,
            "repeated": self.repeated,
            "unreachable": self.unreachable,
            "failures": dict(self.failures),
            "usage": {model: asdict(usage) for model, usage in self.usage.items()},
            "bill": self.bill.as_dict(),
            "warnings": list(self.warnings),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedReport(AskingReport):
    """The report of a run that only asked, about the `episodes` of one `shard` ("3/8"; "1/1": all). The answers are in
    the folder `ledger`."""

    shard: str
    episodes: int
    ledger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport(AskingReport):
    """The report of a run that asked, and the version that was `committed`."""

    committed: Committed

    @property
    def version(self) -> str:
        """`org/name@v1.0.0`."""
        return self.committed.version.ref

    @property
    def directory(self) -> str:
        """The version's folder."""
        return str(self.committed.version.dir)

    @property
    def digest(self) -> str:
        """The digest of the version's content."""
        return self.committed.version.digest

    @property
    def created(self) -> bool:
        """False where the store already had this content."""
        return self.committed.created

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it; the fields of a subclass follow the version's."""
        return {
            "version": self.version,
            "directory": self.directory,
            "digest": self.digest,
            "created": self.created,
            **AskingReport.as_dict(self),
        }


def asking_warnings(outcomes: Sequence[Outcome]) -> list[str]:
    """Warnings about requests in a weaker form, models that changed during the run, prompts that were cut, prompts that
    began like an earlier one and were billed in full, questions that several workers asked, and claims that cannot be
    held."""
    warnings = []
    forms: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        forms.update(outcome.forms)
    seen = set()
    for (model, form), _ in forms.most_common():  # the others were tried while this one was looked for
        if model not in seen:
            seen.add(model)
            warnings.append(f"{model} refuses requests as they are meant; it was asked with {form}")
    for model, served in _added(outcome.served for outcome in outcomes).items():
        if len(served) > 1:
            named = ", ".join(f"{name} ({number:,})" for name, number in served.items())
            warnings.append(f"{model} changed in the midst of the run: its answers came from {named}")
    cut: Counter[str] = Counter()
    for outcome in outcomes:
        cut.update(outcome.cut)
    for model, number in cut.items():
        warnings.append(
            f"{number:,} prompts to {model} were read as far fewer tokens than were sent: its server cuts prompts, and "
            "needs a longer context"
        )
    expected, missed = sum(o.cache_expected for o in outcomes), sum(o.cache_missed for o in outcomes)
    if expected >= _FEWEST_EXPECTED and missed > _MISSED * expected:
        warnings.append(
            f"{missed:,} of {expected:,} calls that began like one before them were billed in full: the provider's "
            "prompt cache does not hit, or it does not say so"
        )
    twice = sum(one.asked_twice for one in outcomes)
    if twice:
        warnings.append(f"{twice:,} equal questions were asked by more than one worker")
    if any(not one.claimed for one in outcomes):
        warnings.append(
            "the ledger's file system has no locks: another run at the same time would ask, and pay for, the same "
            "questions again"
        )
    return warnings


def _added(counts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, Counter[str]]:
    """The sums of counts by model and name."""
    sums: dict[str, Counter[str]] = {}
    for one in counts:
        for model, numbers in one.items():
            sums.setdefault(model, Counter()).update(numbers)
    return sums
