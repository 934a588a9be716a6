"""How far opinions can be trusted, from the stored rows alone; no model is called.

    opinions.py   attributions (or rewards) of one or several versions as one matrix: units by opinions
    paired.py     two opinions side by side, reduced to what each episode contributes
    measure.py    agreement(): every figure between any two, by dimension and overall, with intervals
    plot.py       the matrix as a picture

An opinion is a (judge, sample, schema) of a version, whether the judge is an LLM, a person or a reward model; or a
version's rewards. The formulas are in `sotopia_rl_data.statistics`; docs/trust.md explains what each figure says.

    from sotopia_rl_data.agreement import agreement
    from sotopia_rl_data.hub.resolve import resolve

    agreement([resolve(store, "lab/episodes-rewards")]).matrix("pearson")
"""

from sotopia_rl_data.agreement.measure import MEASURES, OVERALL, Agreement, agreement
from sotopia_rl_data.agreement.opinions import Opinions, opinions_of

__all__ = ["MEASURES", "OVERALL", "Agreement", "Opinions", "agreement", "opinions_of"]
