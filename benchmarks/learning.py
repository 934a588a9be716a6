"""Do the trainers learn? Planted signals in toy dialogues, three seeds each, on one CPU thread in about two minutes.

    python benchmarks/learning.py            # needs the train extra, and tests/ beside it for the toys

A model of one layer and width 32 with random weights. Rewards lie between 0 and 1 and are known functions: `utterance`
is how often an utterance says thanks; `history` is half that, and half whether it follows an offer; `shuffled` has its
labels dealt out anew. All is measured on environments that training never saw, but GRPO's reward, which is of what it
samples.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

SEEDS = range(3)


def main() -> None:
    import torch
    from fixtures.training import after_an_offer, clone_of, learn, practise, quarters, says_thanks

    torch.set_num_threads(1)
    many = {"episodes": 100, "environments": 40}
    planted: dict[str, tuple[int, dict[str, Any]]] = {
        "utterance": (12, {**many, "turns": 3, "reward": says_thanks}),
        "history": (15, {**many, "turns": 4, "reward": after_an_offer}),
        "shuffled": (3, {"episodes": 80, "environments": 40, "turns": 4, "reward": says_thanks, "shuffled": True,
                         "splits": quarters}),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name, (epochs, dataset) in planted.items():
            for seed in SEEDS:
                with quietly():
                    found = learn(Path(folder) / f"{name}-{seed}", epochs, seed, **dataset)["metrics"]["test"]
                numbers = (found[k] for k in ("spearman", "mse", "mean_mse", "turn_mse"))
                row("rm", name, seed, "spearman {:.3f}  mse {:.4f}  mean {:.4f}  mean by turn {:.4f}".format(*numbers))
        root = Path(folder) / "utterance-0"
        with quietly():
            losses = clone_of(root, root / "clone")["held_out"]
        row("sft", "utterance", 0, f"held-out loss {losses[0]:.2f} -> {losses[-1]:.2f}")
        for seed in SEEDS:
            with quietly():
                found = practise(root, root / "clone", root / f"grpo-{seed}", seed)
            row("grpo", "utterance", seed, "mean reward {reward_first:.3f} -> {reward_last:.3f}".format(**found))


def row(trainer: str, planted: str, seed: int, said: str) -> None:
    print(f"{trainer:<5} {planted:<10} seed {seed}  {said}", flush=True)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    main()
