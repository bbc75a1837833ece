"""Forwards of layers with one unit a class, where what is averaged or summed weighs a class by its size.

Each stands in the place of its module's own forward; it weighs by buffers that `sizes.resize` leaves there.
Index letters: b samples, m units here, g groups or heads here, l positions of queries, s positions of keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZES = "class_sizes"  # [m] or [g, m] how many units of the full norm, or of its group, each class has
GROUP = "class_group"  # [m] the group of each class
HEADS = "class_heads"  # [heads] which head here stands for each full one
QUERIES, COUNTS = "class_queries", "class_counts"  # [g, longest] units of queries and keys, and how many each is
VALUES, MIXED = "class_values", "class_mixed"  # [g, longest] units of values; [m] where each of them is among those


def _share(self: nn.Module) -> Tensor:
    """[m] or [g, m] of each class in the norm; whole numbers are kept instead, which no precision rounds."""
    sizes = self._buffers[SIZES]
    assert sizes is not None
    return sizes / sizes.sum(-1, keepdim=True)


def layer_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
    share = _share(self)
    x = x - (x * share).sum(-1, keepdim=True)
    x = x * torch.rsqrt((x.square() * share).sum(-1, keepdim=True) + self.eps)
    x = x if self.weight is None else x * self.weight
    return x if self.bias is None else x + self.bias


def rms_norm(self: nn.RMSNorm, x: Tensor) -> Tensor:
    eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
    share = _share(self)
    x = x * torch.rsqrt((x.square() * share).sum(-1, keepdim=True) + eps)
    return x if self.weight is None else x * self.weight


def group_norm(self: nn.GroupNorm, x: Tensor) -> Tensor:
    """Mean and variance of a group of the full network, from its classes and how often it holds each."""
    share, group = _share(self), self._buffers[GROUP]
    assert group is not None
    flat = x.reshape(*x.shape[:2], -1)  # [b, m, positions]
    flat = flat - (flat.mean(2) @ share.T)[:, group, None]
    variance = flat.square().mean(2) @ share.T  # [b, g]
    x = (flat * torch.rsqrt(variance + self.eps)[:, group, None]).reshape(x.shape)
    along = (-1, *[1] * (x.dim() - 2))
    return x * self.weight.reshape(along) + self.bias.reshape(along)


def attention(
    self: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """nn.MultiheadAttention with one head a class of heads: scores sum over classes of units, each times its size.

    The scale stays that of the full heads. Weights that are returned are those of all full heads, or their mean.
    """
    if is_causal and attn_mask is None:
        raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
    heads, mixed = self._buffers[HEADS], self._buffers[MIXED]
    assert heads is not None
    assert mixed is not None
    batched = query.dim() == 3
    turned = batched and not self.batch_first
    q, k, v = (_turned(t if batched else t.unsqueeze(0), turned) for t in (query, key, value))
    q, k, v = _by_head(self, *_projected(self, q, k, v))  # [b, g, l or s, units]
    mask = _mask(self, q, k, attn_mask, key_padding_mask, heads)
    rate = self.dropout if self.training else 0.0
    options: dict[str, Any] = {"attn_mask": mask, "dropout_p": rate, "scale": self.head_dim**-0.5}
    weights = None
    if need_weights:
        every = torch.eye(k.shape[2], dtype=v.dtype, device=v.device).expand(*k.shape[:3], -1)
        weights = F.scaled_dot_product_attention(q, k, every, **options)
        found = weights @ v
        weights = weights[:, heads]
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        found = F.scaled_dot_product_attention(q, k, v, **options)
    found = self.out_proj(found.transpose(1, 2).flatten(2)[..., mixed])
    found = _turned(found, turned)
    if batched:
        return found, weights
    return found.squeeze(0), None if weights is None else weights.squeeze(0)


def _turned(t: Tensor, turned: bool) -> Tensor:
    return t.transpose(0, 1) if turned else t


def _projected(self: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of all units, with the learned key and value at the end where there is one."""
    values = self._buffers[MIXED]
    assert values is not None
    if self.in_proj_weight is not None:
        pairs = (self.in_proj_weight.shape[0] - len(values)) // 2
        some = torch.split(self.in_proj_weight, [pairs, pairs, len(values)])
    else:
        some = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
    sizes = [len(w) for w in some]
    biases = [None] * 3 if self.in_proj_bias is None else torch.split(self.in_proj_bias, sizes)
    q, k, v = (F.linear(t, w, b) for t, w, b in zip((q, k, v), some, biases, strict=True))
    if self.bias_k is not None and self.bias_v is not None:
        k, v = (torch.cat([t, b.expand(len(t), 1, -1)], 1) for t, b in ((k, self.bias_k), (v, self.bias_v)))
    if self.add_zero_attn:
        k, v = (torch.cat([t, t.new_zeros(len(t), 1, t.shape[2])], 1) for t in (k, v))
    return q, k, v


def _by_head(self: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    queries, counts, values = (self._buffers[name] for name in (QUERIES, COUNTS, VALUES))
    assert queries is not None
    assert values is not None
    q, k, v = (t[..., at].transpose(1, 2) for t, at in ((q, queries), (k, queries), (v, values)))
    return q * counts[None, :, None] if counts is not None else q, k, v


def _mask(
    self: nn.MultiheadAttention, q: Tensor, k: Tensor, given: Tensor | None, padding: Tensor | None, heads: Tensor
) -> Tensor | None:
    """What is added to the scores, [b or 1, g or 1, l or 1, s]; one mask a full head becomes one a head here."""
    found = None
    if given is not None:
        found = _added(given, q)
        if found.dim() == 3:
            per_head = found.reshape(len(q), self.num_heads, *found.shape[1:])
            first = torch.stack([(heads == g).nonzero()[0, 0] for g in range(q.shape[1])])
            found = per_head[:, first]
        else:
            found = found[None, None]
    if padding is not None:
        hidden = _added(padding, q).reshape(-1, 1, 1, padding.shape[-1])
        found = hidden if found is None else found + hidden
    extra = 0 if found is None else k.shape[2] - found.shape[3]
    return found if found is None or not extra else F.pad(found, (0, extra))


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)


FORWARDS: dict[str, Callable[..., Any]] = {
    "layer_norm": layer_norm, "rms_norm": rms_norm, "group_norm": group_norm, "attention": attention,
}  # fmt: skip
