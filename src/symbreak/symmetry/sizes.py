"""Sizes that a module keeps beside its tensors, and the forward that it needs with one unit a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .fold import Fold, GroupedFold
from .groups import Groups
from .weighted import COUNTS, GROUP, HEADS, MIXED, QUERIES, SIZES, VALUES

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TABLES = (nn.Embedding, nn.EmbeddingBag)
_BATCH_NORMS = (nn.modules.batchnorm._NormBase,)
_SPLIT = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


def resize(module: nn.Module, folds: Mapping[str, Fold]) -> str | None:
    """Set the sizes of a rebuilt module; the name of its forward in `weighted.FORWARDS`, None where its own will do.

    Args:
        folds: attribute -> how that tensor was folded; "weight" for one that is computed of others, too.
    """
    fold = folds.get("weight")
    if isinstance(module, nn.MultiheadAttention) and folds:
        return _attention(module, folds)
    if isinstance(module, nn.RNNBase) and folds:
        module.hidden_size = folds["weight_hh_l0"].small[1] if "weight_hh_l0" in folds else module.hidden_size
        module.input_size = folds["weight_ih_l0"].small[1] if "weight_ih_l0" in folds else module.input_size
    elif isinstance(module, _BATCH_NORMS):
        table = next(iter(folds.values()), None)
        module.num_features = module.num_features if table is None else table.small[0]
    elif fold is None:
        return None
    elif isinstance(module, nn.GroupNorm):
        return _group_norm(module, fold)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(fold.small)
        module.register_buffer(SIZES, fold.counts(0).to(module.weight), persistent=False)
        return "layer_norm" if isinstance(module, nn.LayerNorm) else "rms_norm"
    else:
        _plain(module, fold)
    return None


def _plain(module: nn.Module, fold: Fold) -> None:
    small = fold.small
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = small
    elif isinstance(module, CONVOLUTIONS) and isinstance(fold, GroupedFold):
        module.out_channels, module.in_channels = fold.units(0), fold.units(1)
        module.groups = len(fold.groups) if fold.even else 1
    elif isinstance(module, CONVOLUTIONS):
        module.groups = small[0] if is_depthwise(module) else module.groups
        module.out_channels, module.in_channels = small[0], small[1] * module.groups
    elif isinstance(module, TRANSPOSED):
        module.in_channels, module.out_channels = small[0], small[1] * module.groups
    elif isinstance(module, TABLES):
        module.embedding_dim = small[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = small[0]
    elif type(module).__name__ == "Conv1D" and len(small) == 2:  # of transformers: a Linear with its weight transposed
        vars(module).update(zip(("nx", "nf"), small, strict=True))


def is_depthwise(module: nn.Module) -> bool:
    """True for a convolution with one kernel a channel."""
    return isinstance(module, CONVOLUTIONS) and 1 < module.groups == module.in_channels == module.out_channels


def _group_norm(module: nn.GroupNorm, fold: Fold) -> str | None:
    groups = Groups.found([_where(fold, 0)], module.num_groups)
    if groups is None:  # the comparison with the full network will say so
        return None
    module.register_buffer(SIZES, groups.counts[0].to(module.weight), persistent=False)
    module.register_buffer(GROUP, groups.group(0).to(module.weight.device), persistent=False)
    module.num_channels, module.num_groups = fold.small[0], len(groups)
    return "group_norm"


def _attention(module: nn.MultiheadAttention, folds: Mapping[str, Fold]) -> str | None:
    """Classes of heads, and of the units inside: those of queries and keys go in pairs."""
    if "in_proj_weight" in folds:
        found = _where(folds["in_proj_weight"], 0).chunk(3)
    else:
        some = [folds.get(name) for name in _SPLIT]
        found = tuple(torch.arange(module.embed_dim) if fold is None else _where(fold, 0) for fold in some)
    q, k, v = (at - at.min() for at in found)
    groups = Groups.found([q, v], module.num_heads)
    if groups is None or not torch.equal(q, k):
        return None
    tensor: Any = next(t for t in module.parameters() if t is not None)
    values = groups.members(1)
    mixed = torch.full((int(v.max()) + 1,), values.numel())  # the first place of each unit among those by head
    mixed = mixed.scatter_reduce(0, values.flatten(), torch.arange(values.numel()), "amin")
    for name, buffer in (
        (HEADS, groups.of), (QUERIES, groups.members(0)), (VALUES, values), (MIXED, mixed),
        (COUNTS, groups.weights(0).to(tensor.dtype)),
    ):  # fmt: skip
        module.register_buffer(name, buffer.to(tensor.device), persistent=False)
    module._qkv_same_embed_dim = False  # the fast path of a Transformer layer reads the weights past this forward
    return "attention"


def _where(fold: Fold, axis: int) -> Tensor:
    at = fold.index[axis]
    return torch.arange(fold.shape[axis]) if at is None else at
