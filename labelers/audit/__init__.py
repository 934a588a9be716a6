"""Whether a judge is moved by what must not matter: it is asked about the same episodes again, with such a change.

    probes.py    how an episode is changed, and which labels must then be equal
    auditing.py  audit(): plan, ask through the ledger, read, weigh, commit a small version with the verdict
    analysis.py  from pairs of labels to shifts, effect sizes, p-values and a verdict; sends no request

The version that an audit leaves holds the changed episodes (`EPISODE~PROBE`), every label, and in its manifest's
provenance, under `audit`, the verdict that `card` shows.
"""

from sotopia_rl_data.labelers.audit.analysis import Finding, Verdict
from sotopia_rl_data.labelers.audit.auditing import AuditReport, AuditSettings, audit
from sotopia_rl_data.labelers.audit.probes import PROBES

__all__ = ["PROBES", "AuditReport", "AuditSettings", "Finding", "Verdict", "audit"]
