"""How certain zeros pass through one operation: one rule a kind of operation, forward and backward alike.

A rule is told which elements of the operands may be anything, and says which elements of the results may be. It may
say "anything" too often, never too seldom. What is not listed is "anything". Every rule holds for all finite operands:
0 x infinity is outside of it, as is 0 / 0. Index letters: b batch, o out units, i in units, l queries, s keys.

Each is tested against the operation itself on random numbers behind random zeros (tests/test_zeros.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .masks import Masks

May = Tensor | None  # [like the result] True where it may be anything; None is anything everywhere
Rule = Callable[["Call"], "May | tuple[May, ...]"]


class Call:
    """One call of an operation: its arguments by name, and what is known of them.

    Attributes:
        trusted: False once a number of the data was read into Python: a literal zero may then be a zero of the data.
    """

    def __init__(self, func: Any, arguments: dict[str, Any], result: Any, masks: Masks, *, trusted: bool) -> None:
        self.func, self.arguments, self.result = func, arguments, result
        self.trusted = trusted
        self._masks = masks

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def may(self, name: str) -> Tensor:
        """[like the argument] True where it may be anything. A number may, unless it is a literal zero."""
        return self.may_of(self.arguments.get(name))

    def may_of(self, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return self._masks.may(value)
        return torch.tensor(self.number_of(value) != 0)

    def fixed(self, name: str) -> bool:
        """True where the argument's numbers are the same on every batch."""
        value = self.arguments.get(name)
        values = value if isinstance(value, list | tuple) else [value]
        return all(self._masks.fixed(v) if isinstance(v, Tensor) else self.trusted for v in values if v is not None)

    def number(self, name: str) -> float | None:
        """The argument where it is a number that the code states, else None."""
        return self.number_of(self.arguments.get(name))

    def number_of(self, value: Any) -> float | None:
        plain = isinstance(value, int | float) and self.trusted
        return float(value) if plain else None

    def itself(self, /, **masks: Tensor) -> Tensor:
        """The operation applied to masks: right where it only moves, adds, or multiplies with weights above zero."""
        result: Tensor = self._on({n: _float(m) for n, m in masks.items()})
        return result != 0 if result.is_complex() else result > 0

    def products(self, /, **masks: Tensor | None) -> tuple[May, ...]:
        """The same for sums of products, zero or at least one: convolutions by transforms leave rounding."""
        result = self._on({n: m if m is None else _float(m) for n, m in masks.items()})
        several = result if isinstance(result, tuple | list) else (result,)
        return tuple(r if r is None else r > 0.5 for r in several)

    def _on(self, operands: dict[str, Any]) -> Any:
        return invoke(self.func, {**self.arguments, **operands})


def invoke(func: Any, arguments: dict[str, Any]) -> Any:
    """Call an operation with arguments by name, whatever its schema takes by position alone."""
    schema = func._schema.arguments
    position = [arguments[a.name] for a in schema if not a.kwarg_only and a.name in arguments]
    return func(*position, **{a.name: arguments[a.name] for a in schema if a.kwarg_only and a.name in arguments})


def _float(mask: Tensor) -> Tensor:
    return mask.to(torch.float32).contiguous()


# ---- elementwise ----------------------------------------------------------------------------------------------


def keeps(call: Call) -> May:
    """f(0) = 0."""
    return call.may("self")


def either(call: Call) -> May:
    """A sum, a maximum, a blend: zero where both are."""
    return call.may("self") | call.may("other" if "other" in call.arguments else "end")


def product(call: Call) -> May:
    return call.may("self") & call.may("other")


def quotient(call: Call) -> May:
    """0 / x is zero; what is divided by a certain zero is no number."""
    return call.may("self") | ~call.may("other")


def _scaled_sum(call: Call) -> May:
    return call.may("self") | (call.may("tensor1") & call.may("tensor2"))


def _scaled_quotient(call: Call) -> May:
    return call.may("self") | call.may("tensor1") | ~call.may("tensor2")


def power(call: Call) -> May:
    exponent = call.number("exponent")
    return call.may("self") if exponent is not None and exponent > 0 else None


def clamp(call: Call) -> May:
    low, high = (call.arguments.get(n) for n in ("min", "max"))
    low, high = _bound(call, low, "min_val"), _bound(call, high, "max_val")
    if low is None or high is None:
        return None
    return call.may("self") if low <= 0 <= high else None


def _bound(call: Call, value: Any, other: str) -> float | None:
    """A bound as a number; an absent one does not bind, an untrusted one is None."""
    value = call.arguments.get(other) if value is None else value
    low = other == "min_val"
    return (float("-inf") if low else float("inf")) if value is None else call.number_of(value)


def threshold(call: Call) -> May:
    at, value = call.number("threshold"), call.number("value")
    return call.may("self") if at is not None and value == 0 else None


def where(call: Call) -> May:
    yes, no = call.may("self"), call.may("other")
    return torch.where(call["condition"], yes, no) if call.fixed("condition") else yes | no


def masked_fill(call: Call) -> May:
    value, kept = call.may("value"), call.may("self")
    if call.fixed("mask"):
        return torch.where(call["mask"], value, kept)
    return kept | value


def glu(call: Call) -> May:
    """glu: the first half times a gate."""
    return call.may("self").chunk(2, int(call["dim"]))[0]


def glu_backward(call: Call) -> May:
    g, (a, _) = call.may("grad_output"), call.may("self").chunk(2, int(call["dim"]))
    return torch.cat([g, g & a], int(call["dim"]))


def slope(call: Call) -> May:
    """The gradient through an elementwise function: zero where what comes in is."""
    return call.may(next(n for n in ("grad_output", "grad_out") if n in call.arguments))


def threshold_backward(call: Call) -> May:
    """And zero where a ReLU stands at exactly zero for ever: torch's slope there is 0."""
    at = call.number("threshold")
    off = ~call.may("self") if at is not None and at >= 0 else torch.tensor(False)
    return call.may("grad_output") & ~off


def prelu_backward(call: Call) -> tuple[May, ...]:
    g = call.may("grad_output")
    return g, g & call.may("self")


# ---- made of nothing, copied, moved -----------------------------------------------------------------------------


def zero(_call: Call) -> May:
    return torch.tensor(False)


def number(call: Call) -> May:
    return call.may("fill_value" if "fill_value" in call.arguments else "s" if "s" in call.arguments else "value")


def copied(call: Call) -> May:
    return call.may("src")


def moved(name: str = "self") -> Rule:
    """The operation only moves elements, or adds them up with weights above zero."""

    def rule(call: Call) -> May:
        return call.itself(**{name: call.may(name)})

    return rule


def joined(call: Call) -> May:
    parts = [_float(call.may_of(t)) for t in call["tensors"]]
    joint: Tensor = invoke(call.func, {**call.arguments, "tensors": parts})
    return joint > 0


def padded(call: Call) -> May:
    value = call.may("value") if call.arguments.get("value") is not None else torch.tensor(False)
    return call.itself(self=call.may("self")) if not bool(value) else None


def any_over(call: Call) -> May | tuple[May, ...]:
    """Zero where every element along the dimensions is: sums, means, norms, largest elements."""
    if "other" in call.arguments:  # the largest of two tensors
        return either(call)
    may, dim = call.may("self"), call.arguments.get("dim")
    dims = range(may.dim()) if dim is None or dim == [] else (dim,) if isinstance(dim, int) else tuple(dim)
    out = _any(may, dims, keep=bool(call.arguments.get("keepdim", False)))
    return (out, None) if isinstance(call.result, tuple) else out


def norm(call: Call) -> May | tuple[May, ...]:
    order = call.number("ord")
    return any_over(call) if order is not None and order > 0 else None


def _any(may: Tensor, dims: Iterable[int], *, keep: bool = True) -> Tensor:
    axes = sorted({d % max(1, may.dim()) for d in dims}, reverse=True) if may.dim() else []
    for d in axes:
        may = may.any(d, keepdim=keep)
    return may


def smeared(may: Tensor, dims: Iterable[int]) -> Tensor:
    """The same at every place along the dimensions, so that it does not matter which place is asked for."""
    return _any(may, dims).expand(may.shape)


def ranked(call: Call) -> tuple[May, ...]:
    """topk, sort: the values of a row of zeros are zero; which places they come from may be anything."""
    dim = int(call.arguments.get("dim", -1))
    top = _any(call.may("self"), (dim,))
    return top.expand(call.result[0].shape), None


# ---- indices ----------------------------------------------------------------------------------------------------


def picked(call: Call) -> May:
    """index_select, gather: another batch asks for other places, unless the indices are fixed."""
    may = call.may("self")
    may = may if call.fixed("index") else smeared(may, (int(call["dim"]),))
    return call.itself(self=may)


def indexed(call: Call) -> May:
    may, indices = call.may("self"), call["indices"]
    may = may if call.fixed("indices") else smeared(may, _indexed_dims(indices))
    return call.itself(self=may)


def _indexed_dims(indices: Sequence[Tensor | None]) -> list[int]:
    dims, at = [], 0
    for index in indices:
        n = index.dim() if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        dims += list(range(at, at + n)) if index is not None else []
        at += n
    return dims


def index_put(call: Call) -> May:
    kept, values, indices = call.may("self"), call.may("values"), call["indices"]
    if call.fixed("indices"):
        return call.itself(self=kept, values=values)
    wide = torch.zeros(kept.shape, device=kept.device)
    put = torch.ops.aten.index_put(wide, indices, values.to(wide).contiguous(), True) > 0
    return kept | smeared(put, _indexed_dims(indices))


def added(source: str) -> Rule:
    """scatter_add, index_add."""

    def rule(call: Call) -> May:
        if call.fixed("index"):
            return call.itself(self=call.may("self"), **{source: call.may(source)})
        nothing = torch.zeros(call["self"].shape, dtype=torch.bool, device=call["self"].device)
        put: Tensor = call.itself(self=nothing, **{source: call.may(source)})
        return call.may("self") | smeared(put, (int(call["dim"]),))

    return rule


def looked_up(call: Call) -> May:
    table = call.may("weight")
    table = table if call.fixed("indices") else smeared(table, (0,))
    return call.itself(weight=table)


def looked_up_backward(call: Call) -> May:
    """The rows that were asked for get a gradient; the padding row never does."""
    may: Tensor = call.itself(grad_output=call.may("grad_output"))
    if not call.fixed("indices"):
        may = smeared(may, (0,)).clone()
        padding = int(call["padding_idx"])
        if padding >= 0:
            may[padding] = False
    return may


# ---- products of matrices, convolutions ---------------------------------------------------------------------------


def times(left: str, right: str, bias: str | None = None) -> Rule:
    """A product of matrices, zero where every term is; and a bias."""

    def rule(call: Call) -> May:
        a, b = _float(call.may(left)), _float(call.may(right))
        may = torch.matmul(a, b) > 0
        if bias is None:
            return may
        if call.func._overloadpacket.__name__.removesuffix("_") == "addbmm":
            may = may.any(0)
        return may | call.may(bias)

    return rule


def outer(call: Call) -> May:
    return call.may("self") | (call.may("vec1")[:, None] & call.may("vec2")[None, :])


def convolution(call: Call) -> May:
    bias = call.may("bias") if call.arguments.get("bias") is not None else None
    return call.products(input=call.may("input"), weight=call.may("weight"), bias=bias)[0]


def convolution_backward(call: Call) -> tuple[May, ...]:
    return call.products(**{n: call.may(n) for n in ("grad_output", "input", "weight")})


# ---- pooling and sampling -------------------------------------------------------------------------------------------


def pooled(call: Call) -> tuple[May, ...]:
    """The largest of a window of zeros is zero; of others it may be anything."""
    return call.products(self=call.may("self"))[0], None


def pooled_backward(call: Call) -> May:
    """Which element was the largest depends on the data: any of its map may get the gradient."""
    g, x = call.may("grad_output"), call["self"]
    spatial = 3 if "3d" in call.func._overloadpacket.__name__ else 2
    return _any(g, range(g.dim() - spatial, g.dim())).expand(x.shape)


def spread_backward(call: Call) -> May:
    masks = {"grad_output": call.may("grad_output")}
    if "self" in call.arguments:  # asked for its shape alone
        masks["self"] = torch.ones(call["self"].shape, dtype=torch.bool, device=call["self"].device)
    return call.itself(**masks)


def sampled(call: Call) -> May:
    """grid_sampler: anything where the map [b, c, ...] holds anything."""
    maps = call.may("input").flatten(2).any(2)
    return maps.reshape(*maps.shape, *(1,) * (call.result.dim() - 2)).expand(call.result.shape)


def sampled_backward(call: Call) -> tuple[May, ...]:
    g, x = call.may("grad_output"), call.may("input")
    back = g.flatten(2).any(2).reshape(*g.shape[:2], *(1,) * (x.dim() - 2)).expand(x.shape)
    maps = x.flatten(2).any(2).reshape(*x.shape[:2], *(1,) * (g.dim() - 2))
    grid = (g & maps).any(1).unsqueeze(-1).expand(call["grid"].shape)
    return back, grid


# ---- softmax and normalisations --------------------------------------------------------------------------------


def softmax_backward(call: Call) -> May:
    """y (g - sum g y) and g - y sum g: zero along a row where every g is, and in a row of one, where y is 1."""
    g, dim = call.may("grad_output"), int(call["dim"])
    return torch.tensor(False) if g.dim() == 0 or g.shape[dim] == 1 else smeared(g, (dim,))


def _affine(call: Call, normed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    w = weight if call.arguments.get("weight") is not None else torch.tensor(True)
    b = bias if call.arguments.get("bias") is not None else torch.tensor(False)
    return (normed & w) | b


def _per_channel(may: Tensor, dims: int) -> Tensor:
    return may.reshape(1, -1, *(1,) * (dims - 2)) if may.dim() else may


def layer_norm(call: Call) -> tuple[May, ...]:
    x = call.may("input")
    dims = range(x.dim() - len(call["normalized_shape"]), x.dim())
    return _affine(call, smeared(x, dims), call.may("weight"), call.may("bias")), None, None


def layer_norm_backward(call: Call) -> tuple[May, ...]:
    g, x, n = call.may("grad_out"), call.may("input"), len(call["normalized_shape"])
    dims = range(x.dim() - n, x.dim())
    gw = g & call.may("weight") if call.arguments.get("weight") is not None else g
    batch = range(x.dim() - n)
    return smeared(gw, dims), _any(g & smeared(x, dims), batch, keep=False), _any(g, batch, keep=False)


def batch_norm(call: Call) -> tuple[May, ...]:
    x = call.may("input")
    normed = _normed(call, x, training="training")
    out = _affine(call, normed, _per_channel(call.may("weight"), x.dim()), _per_channel(call.may("bias"), x.dim()))
    return (out, *(None,) * (len(call.result) - 1))


def _normed(call: Call, x: Tensor, *, training: str) -> Tensor:
    """(x - mean) / std: zero where the whole channel is; in evaluation where the element and the kept mean are."""
    if call.arguments.get(training, True):
        return smeared(x, (d for d in range(x.dim()) if d != 1))
    return x | _per_channel(call.may("running_mean"), x.dim())


def batch_norm_backward(call: Call) -> tuple[May, ...]:
    g, x = call.may("grad_out"), call.may("input")
    others = [d for d in range(x.dim()) if d != 1]
    gw = g & _per_channel(call.may("weight"), x.dim()) if call.arguments.get("weight") is not None else g
    back = smeared(gw, others) if call.arguments.get("train", True) else gw
    return back, _any(g & _normed(call, x, training="train"), others, keep=False), _any(g, others, keep=False)


def group_norm(call: Call) -> tuple[May, ...]:
    x, c = call.may("input"), int(call["C"])
    normed = _in_groups(call, x)
    w, b = (_per_channel(call.may(n), x.dim()) for n in ("weight", "bias"))
    assert x.shape[1] == c
    return _affine(call, normed, w, b), None, None


def _in_groups(call: Call, may: Tensor) -> Tensor:
    parts = may.reshape(may.shape[0], int(call["group"]), -1)
    return smeared(parts, (2,)).reshape(may.shape)


def group_norm_backward(call: Call) -> tuple[May, ...]:
    g, x = call.may("grad_out"), call.may("input")
    others = [d for d in range(x.dim()) if d != 1]
    gw = g & _per_channel(call.may("weight"), x.dim()) if call.arguments.get("weight") is not None else g
    return _in_groups(call, gw), _any(g & _in_groups(call, x), others, keep=False), _any(g, others, keep=False)


# ---- the table ------------------------------------------------------------------------------------------------------


def _all(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_all(
        "relu tanh sin sinh asin asinh atan atanh tan erf expm1 log1p neg abs sign sgn sqrt gelu silu mish "
        "leaky_relu elu hardswish hardshrink softshrink round floor ceil trunc frac nan_to_num alias_copy "
        "_prelu_kernel fmod remainder",
        keeps,
    ),
    **_all("add sub rsub maximum minimum fmax fmin lerp", either),
    **_all("mul", product),
    **_all("div", quotient),
    **_all("addcmul", _scaled_sum),
    **_all("addcdiv", _scaled_quotient),
    **_all("pow", power),
    **_all("clamp clamp_min clamp_max hardtanh", clamp),
    **_all("threshold", threshold),
    **_all("where", where),
    **_all("masked_fill", masked_fill),
    **_all("glu", glu),
    **_all("glu_backward", glu_backward),
    **_all(
        "tanh_backward sigmoid_backward gelu_backward silu_backward mish_backward leaky_relu_backward elu_backward "
        "hardtanh_backward hardswish_backward hardsigmoid_backward softplus_backward hardshrink_backward "
        "softshrink_backward log_sigmoid_backward",
        slope,
    ),
    **_all("threshold_backward", threshold_backward),
    **_all("_prelu_kernel_backward", prelu_backward),
    **_all("zeros zeros_like new_zeros zero", zero),
    **_all("full full_like new_full fill scalar_tensor", number),
    **_all("copy", copied),
    **_all(
        "clone _to_copy cumsum flip roll repeat tril triu pixel_shuffle pixel_unshuffle channel_shuffle "
        "avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d "
        "upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d im2col col2im diag_embed "
        "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d "
        "view_copy expand_copy permute_copy transpose_copy _reshape_copy",
        moved(),
    ),
    **_all("cat stack", joined),
    **_all("constant_pad_nd", padded),
    **_all(
        "select_backward slice_backward diagonal_backward avg_pool2d_backward avg_pool3d_backward "
        "_adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward upsample_nearest1d_backward "
        "upsample_nearest2d_backward upsample_nearest3d_backward upsample_linear1d_backward "
        "upsample_bilinear2d_backward upsample_trilinear3d_backward reflection_pad1d_backward "
        "reflection_pad2d_backward reflection_pad3d_backward replication_pad1d_backward replication_pad2d_backward "
        "replication_pad3d_backward",
        spread_backward,
    ),
    **_all("unfold_backward", moved("grad_in")),
    **_all("sum mean nansum amax amin max min", any_over),
    **_all("linalg_vector_norm", norm),
    **_all("topk sort", ranked),
    **_all("index_select gather", picked),
    **_all("index", indexed),
    **_all("index_put _index_put_impl _unsafe_index_put", index_put),
    **_all("index_add", added("source")),
    **_all("scatter_add", added("src")),
    **_all("embedding", looked_up),
    **_all("embedding_dense_backward", looked_up_backward),
    **_all("mm", times("self", "mat2")),
    **_all("bmm", times("self", "mat2")),
    **_all("mv", times("self", "vec")),
    **_all("dot", times("self", "tensor")),
    **_all("vdot", times("self", "other")),
    **_all("addmm", times("mat1", "mat2", "self")),
    **_all("addmv", times("mat", "vec", "self")),
    **_all("baddbmm addbmm", times("batch1", "batch2", "self")),
    **_all("addr", outer),
    **_all("convolution", convolution),
    **_all("convolution_backward", convolution_backward),
    **_all("max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d", pooled),
    **_all(
        "max_pool2d_with_indices_backward max_pool3d_with_indices_backward adaptive_max_pool2d_backward "
        "adaptive_max_pool3d_backward",
        pooled_backward,
    ),
    **_all("grid_sampler_2d grid_sampler_3d", sampled),
    **_all("grid_sampler_2d_backward grid_sampler_3d_backward", sampled_backward),
    **_all("_softmax_backward_data _log_softmax_backward_data", softmax_backward),
    **_all("native_layer_norm", layer_norm),
    **_all("native_layer_norm_backward", layer_norm_backward),
    **_all("native_batch_norm _native_batch_norm_legit", batch_norm),
    **_all("native_batch_norm_backward", batch_norm_backward),
    **_all("native_group_norm", group_norm),
    **_all("native_group_norm_backward", group_norm_backward),
}
"""Operation of ATen, without its trailing underscore, -> rule."""

MADE_OF_NOTHING = frozenset(
    _all(
        "zeros zeros_like new_zeros zero full full_like new_full fill scalar_tensor select_backward slice_backward "
        "embedding_dense_backward _softmax_backward_data _log_softmax_backward_data constant_pad_nd tril triu",
        zero,
    )
)
"""Operations that give certain zeros where no operand has any."""
