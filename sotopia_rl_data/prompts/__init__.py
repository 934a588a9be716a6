"""What a policy sees at each turn, rebuilt from the observations and a template; used by SFT, RM and GRPO alike.

`render` and `prompts_of` make prompts, `completion` the action that answers a prompt. `learn` takes from a log of
requests the wrapper that a simulator really served. The judges' prompts are in `labelers/`.
"""

from sotopia_rl_data.prompts.learn import LearnReport, learn
from sotopia_rl_data.prompts.render import completion, layout_id, prompts_of, render, wording_sha256
from sotopia_rl_data.prompts.template import Layout, Template, load_template

__all__ = [
    "Layout",
    "LearnReport",
    "Template",
    "completion",
    "layout_id",
    "learn",
    "load_template",
    "prompts_of",
    "render",
    "wording_sha256",
]
