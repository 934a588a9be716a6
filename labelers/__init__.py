"""What judges are asked, and what their answers mean. See `judge.py` for the nouns and `labelling.py` for `label`.

    from sotopia_rl_data.labelers import AskOptions, Elicitation, RewardSettings, evaluate
    from sotopia_rl_data.labelers import labelling
    from sotopia_rl_data.labelers.audit import auditing

Names are looked up when they are first used: importing the package imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Imported as `labelers`, this folder would be a second package with a second copy of every class.
if __name__ != "sotopia_rl_data.labelers":
    raise ImportError("Import sotopia_rl_data.labelers: the folder labelers/ is a part of that package.")

if TYPE_CHECKING:
    from sotopia_rl_data.asking.plan import AskOptions as AskOptions
    from sotopia_rl_data.labelers.evaluation.evaluating import evaluate as evaluate
    from sotopia_rl_data.labelers.labelling import label as label
    from sotopia_rl_data.labelers.plan import Elicitation as Elicitation
    from sotopia_rl_data.labelers.plan import RewardSettings as RewardSettings

_HOMES = {
    "AskOptions": "sotopia_rl_data.asking.plan",
    "Elicitation": "sotopia_rl_data.labelers.plan",
    "RewardSettings": "sotopia_rl_data.labelers.plan",
    "evaluate": "sotopia_rl_data.labelers.evaluation.evaluating",
    "label": "sotopia_rl_data.labelers.labelling",
}
__all__ = ["AskOptions", "Elicitation", "RewardSettings", "evaluate", "label"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
