"""How `train … --plan` is shown: what the run takes on each GPU, and what to lower where it does not fit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import click

from sotopia_rl_data.cli import console

_WORDS = {
    "weights": "weights",
    "gradients": "gradients",
    "gradient_buckets": "gradients on their way between GPUs",
    "optimizer": "optimiser",
    "activations": "activations of the largest batch",
    "recomputed": "a layer that is computed anew",
    "kv_cache": "keys and values while generating",
    "reward_model": "reward model",
    "reference": "the reference, which is the policy as it was",
    "total": "together",
}
GIB = 2**30
_ROWS = {"rm": "one an utterance", "sft": "one an utterance", "dpo": "one a pair", "grpo": "one a completion"}


def show(report: Mapping[str, Any], as_json: bool) -> None:
    """Print a report of `trainers.plan`."""
    if as_json:
        console.emit_json(report)
        return
    gpus = report["gpus"]
    run = [
        ["parameters", f"{report['parameters']:,}"],
        ["trained", f"{report['trainable']:,} ({report['trainable'] / report['parameters']:.2%})"],
        ["rows", _ROWS[report["kind"]] if not report["packed"] else "packed by shared prefixes"],
        ["rows a step", f"{report['rows_a_step']:,}"],
        ["tokens of the largest batch", f"{report['batch_tokens']:,}"],
        ["tokens a step", f"{report['tokens_a_step']:,}"],
        ["steps", f"{report['steps']:,}"],
    ]
    console.table(["", ""], run, title=f"train {report['kind']}: {report['model']} on {report['dataset']}")
    memory = [[_WORDS[name], round(size / GIB, 3)] for name, size in report["bytes"].items() if size]
    console.table(["on each GPU", "GiB"], [*memory, ["of", round(report["usable"] / GIB, 3)]])
    size = f"{gpus['count']} x {gpus['bytes_each'] // GIB} GB"
    if report["fits"]:
        console.note(
            f"It fits on {size}. Not counted: {', '.join(report['not_counted'])}; a tenth is left free for that."
        )
        return
    console.warn(f"It does not fit on {size}.")
    if report["lower"]:
        console.note("It would, with less:")
        words = [word for word in click.get_current_context().meta[console.WORDS] if word]
        console.next_commands(
            f"sotopia-rl-data {shlex.join([*words, '--set', *' --set '.join(report['lower']).split()])}"
        )
    else:
        console.note(
            "No setting makes it fit: shard it over several GPUs (trainers/accelerate), or take a smaller model."
        )
