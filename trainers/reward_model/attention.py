"""Block-sparse attention over prefix trees, and a stock reward model that is read at several tokens of one row.

It is registered with transformers as the attention implementation `prefix_tree`. A model loaded with it behaves as with
`sdpa` until it is given a tree. Then each segment of the row attends to its ancestors and, causally, to itself: the
cost is the sum of (segment length x depth), no mask over the whole row is ever formed, and it runs on any device and
dtype that `sdpa` runs on. The tree is passed in the forward's keyword arguments, so gradient checkpointing recomputes
with it.

On a GPU there is a second way: the stock `flex_attention` implementation with a BlockMask made from the tree, and one
more for the layers that see a sliding window. It is registered anew under its own name, and is the stock one without a
tree.

Left out: attention sinks, soft caps and position biases. A model that needs them gives other scores when packed; the
trainer's self-check sees that and falls back to one row for each utterance.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from sotopia_rl_data.trainers.reward_model.tree import Segment, Tree

NAME = "prefix_tree"
FLEX = "flex_attention"


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    tree: Tree | None = None,
    **arguments: Any,  # what transformers hands to any implementation: dropout, scaling, sliding_window …
) -> tuple[Tensor, Tensor | None]:
    """Attention of [1, heads, T, head_dim] over `tree`'s T tokens; stock `sdpa` where no tree is given.

    Returns ([1, T, heads, head_dim], None), as every attention implementation of transformers does.
    """
    if tree is None:
        output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
        return output, weights
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    dropout, scaling = arguments.get("dropout", 0.0), arguments.get("scaling")
    window = arguments.get("sliding_window")
    rows = [_segment_attention(s, query, key, value, dropout, scaling, window) for s in tree.segments]
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous(), None


def _segment_attention(
    segment: Segment,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """The output for one segment: its queries against the keys of its path, in path order."""
    ranges = (*segment.ancestors, (segment.start, segment.end))
    keys = _gather(key, ranges)
    values = _gather(value, ranges)
    queries = query[:, :, segment.start : segment.end]
    long, deep = queries.shape[2], keys.shape[2]
    if deep == long and (window is None or window >= long):
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scaling, dropout_p=dropout)
    visible = torch.ones(long, deep, dtype=torch.bool, device=query.device).tril(deep - long)
    if window is not None:
        visible = visible.triu(deep - long - window + 1)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible, scale=scaling, dropout_p=dropout)


def _gather(states: Tensor, ranges: tuple[tuple[int, int], ...]) -> Tensor:
    parts = [states[:, :, a:b] for a, b in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """A tree row has no padding mask and needs none; any other row is masked as for `sdpa`."""
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


def flex_tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    tree: TreeMasks | None = None,
    **arguments: Any,
) -> tuple[Tensor, Tensor | None]:
    """Stock FlexAttention; with a tree, under the mask of this layer's window."""
    if tree is not None:
        attention_mask = tree.of(arguments.get("sliding_window"))
    output: tuple[Tensor, Tensor | None] = flex_attention_forward(
        module, query, key, value, attention_mask, **arguments
    )
    return output


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, _mask)
AttentionInterface.register(FLEX, flex_tree_attention)


def read_many(model: nn.Module) -> nn.Module:
    """Teach this instance of a stock `...ForSequenceClassification` to score several tokens of one row.

    `model(input_ids=[1, T], position_ids=[1, T], tree=tree, read=[N])` gives logits [N, labels], the head applied
    to the hidden states at `read`. Without a tree it is the stock forward. The class, the parameters and what
    `save_pretrained` writes stay as they were. Wrap with PEFT, DDP or FSDP afterwards.
    """
    model.forward = types.MethodType(_forward, model)
    return model


def can_read_many(model: nn.Module) -> bool:
    """Whether the model can be given trees: its head is a `score` layer over a decoder whose attention can be
    chosen."""
    ours = getattr(model.config, "_attn_implementation", None) in (NAME, FLEX)
    return ours and hasattr(model, "score") and getattr(model, "_supports_attention_backend", False)


def attend_as(model: nn.Module, implementation: str) -> nn.Module:
    """Switch the model to `implementation` where its architecture allows, and let it be read at several tokens."""
    if implementation != NAME or getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation(implementation)
    return read_many(model)


def _forward(self: Any, input_ids: Tensor | None = None, **kwargs: Any) -> SequenceClassifierOutputWithPast:
    tree, read = kwargs.pop("tree", None), kwargs.pop("read", None)
    if tree is None:
        return type(self).forward(self, input_ids=input_ids, **kwargs)
    decoder = getattr(self, self.base_model_prefix)
    hidden = decoder(
        input_ids=input_ids, position_ids=kwargs["position_ids"], use_cache=False, **_attending(self, tree)
    )
    return SequenceClassifierOutputWithPast(logits=self.score(hidden.last_hidden_state[0, read]))


def _attending(model: Any, tree: Tree) -> dict[str, Any]:
    """The keyword arguments that make the decoder attend within `tree`, for the implementation it was loaded with."""
    if model.config._attn_implementation == FLEX:
        masks = TreeMasks(tree, model.device)
        return {"attention_mask": masks.of(None), "tree": masks}
    return {"attention_mask": None, "tree": tree}


class TreeMasks:
    """A tree as FlexAttention's BlockMasks, one for each sliding window (None: no window), made when first needed."""

    def __init__(self, tree: Tree, device: torch.device) -> None:
        self._length = len(tree)
        self._end = torch.from_numpy(tree.subtree_end).to(device)
        self._position = torch.from_numpy(tree.position_ids).to(device)
        self._masks: dict[int | None, Any] = {}

    def of(self, window: int | None) -> Any:
        """The mask: two integers for each token; blocks without visible keys are skipped."""
        from torch.nn.attention.flex_attention import create_block_mask

        end, position = self._end, self._position

        def visible(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (k <= q) & (q < end[k])

        def near(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return visible(batch, head, q, k) & (position[q] - position[k] < window)

        if window not in self._masks:
            self._masks[window] = create_block_mask(
                visible if window is None else near,
                B=None, H=None, Q_LEN=self._length, KV_LEN=self._length, device=end.device,
            )  # fmt: skip
        return self._masks[window]


def tree_inputs(tree: Tree) -> dict[str, Any]:
    """A tree as the keyword arguments of a model that went through `read_many`."""
    return {
        "input_ids": torch.from_numpy(tree.input_ids)[None],
        "position_ids": torch.from_numpy(tree.position_ids)[None],
        "read": torch.from_numpy(tree.read),
        "tree": tree,
    }


Scores = NDArray[np.floating[Any]]


def relative_gap(packed: Scores, plain: Scores) -> float:
    """Largest |packed - plain| over the range of `plain` (at least 1e-4, since there may be only one score)."""
    return float(np.abs(packed - plain).max()) / _range(plain)


def allowed_gap(model: nn.Module, plain: Scores, padded: Scores) -> float:
    """How large the relative gap may be by rounding alone, in the type of the model's weights.

    In half precision rounding is measured: `padded` has the first of the `plain` scores, computed in the company of
    padding, which only rounds otherwise. Four times that is allowed, at least 0.05 and at most 0.25; a token that sees
    what it should not, or not what it should, makes a gap of 0.4 and more where the rows are long enough.
    """
    exact = {torch.float32: 1e-2, torch.float64: 1e-4}.get(next(model.parameters()).dtype)
    if exact is not None:
        return exact
    noise = float(np.abs(padded - plain[: len(padded)]).max()) / _range(plain)
    return min(0.25, max(0.05, 4 * noise))


def _range(scores: Scores) -> float:
    return max(float(np.ptp(scores, axis=0).max()), 1e-4)
