"""The score head in float32, trained and served, whatever the type of the other weights.

In bfloat16 a weight near 1 moves in steps of 0.004, so an optimiser's small steps are lost in rounding; and scores of
completions of one prompt, which are close together, become equal. Autocast would compute a float32 head in bfloat16 all
the same, so it is switched off for this one layer. What is saved is a stock layer's weight.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Float32Linear(nn.Linear):  # type: ignore[misc]  # mypy skips torch
    """A linear layer that computes in float32, outside autocast. A layer is made one by changing its class."""

    def forward(self, states: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            return F.linear(states.float(), self.weight.float(), None if self.bias is None else self.bias.float())


def with_float32_head(model: nn.Module, folder: Path | None = None) -> nn.Module:
    """The model, with its `score` layer in float32; with the weights of the checkpoint in `folder`, where given, since
    loading may have rounded them to the type of the others. A head of another form stays as it is."""
    head = getattr(model, "score", None)
    if head is not None and type(head) is nn.Linear:
        head.float()
        head.__class__ = Float32Linear
        if folder is not None:
            head.load_state_dict(_saved_head(folder), strict=False)
    return model


def _saved_head(folder: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith("score.")]  # noqa: SIM118  # it is not a mapping
            tensors |= {name.removeprefix("score."): file.get_tensor(name) for name in names}
    return tensors
