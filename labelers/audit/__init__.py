"""Does a judge follow what it should not? The same episodes, asked again with a change that must not matter.

    probes.py    how an episode is changed, and which labels must then be equal
    plan.py      which episodes, asked about how: everything that can be wrong, before anything is asked
    run.py       audit(): ask through the ledger, read, analyse, commit a small version with the verdict
    analysis.py  from pairs of labels to shifts, effect sizes, p-values and a verdict: asks nobody

The version that an audit leaves holds the changed episodes (`EPISODE~PROBE`), every label, and in its manifest's
provenance, under `audit`, the verdict that `card` shows.
"""

from sotopia_rl_data.labelers.audit.analysis import Finding, Verdict
from sotopia_rl_data.labelers.audit.plan import AuditSettings
from sotopia_rl_data.labelers.audit.probes import PROBES
from sotopia_rl_data.labelers.audit.run import AuditReport, audit

__all__ = ["PROBES", "AuditReport", "AuditSettings", "Finding", "Verdict", "audit"]
