"""Operations that compute of many entries at once: sums, norms, softmax."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .operations import (
    Call,
    Unread,
    channels,
    elementwise,
    given_tensors,
    operation,
    words,
)
from .tracked import Tracked, aligned, reshaped

REDUCTIONS = words("sum mean var std amax amin norm logsumexp any all prod max min var_mean std_mean "
                   "linalg_vector_norm count_nonzero nansum nanmean")  # fmt: skip


@operation(*REDUCTIONS)
def reduction(call: Call) -> Any:
    x, dims = call.first, call.get("dim", ())
    if len(call.tracked) > 1:  # max(a, b)
        return elementwise(call)
    dims = [dims] if isinstance(dims, int) else list(dims)
    dims = dims or list(range(x.ndim))
    keep = len(call.shape) == x.ndim
    found = tuple(call.algebra.reduced(x, dims, keepdim=keep) for _ in call.shapes)
    return found if len(found) > 1 else found[0]


@operation(*words("softmax log_softmax _softmax _log_softmax softmin _safe_softmax"))
def softmax(call: Call) -> Tracked:
    return call.algebra.normalised(call.first, [call["dim"]])


@operation(*words("layer_norm native_layer_norm rms_norm _fused_rms_norm"))
def layer_norm(call: Call) -> Any:
    x = call.algebra.normalised(call.first, range(-len(call["normalized_shape"]), 0))
    found = call.algebra.elementwise([x, *given_tensors(call, "weight", "bias")], call.shape)
    return found if len(call.shapes) == 1 else (found, *(Unread(found) for _ in call.shapes[1:]))


@operation("group_norm", "native_group_norm")
def group_norm(call: Call) -> Any:
    x = call.algebra.exposed(call.first)
    groups = call.get("num_groups", call.get("group"))
    split_up = reshaped(x, [x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]])
    call.algebra.normalised(split_up, range(2, split_up.ndim))
    found = call.algebra.elementwise(
        [x, *(channels(t, x.ndim) for t in given_tensors(call, "weight", "bias"))], call.shape
    )
    return found if len(call.shapes) == 1 else (found, *(Unread(found) for _ in call.shapes[1:]))


@operation("instance_norm")
def instance_norm(call: Call) -> Tracked:
    x = call.algebra.normalised(call.first, range(2, call.first.ndim))
    vectors = given_tensors(call, "weight", "bias", "running_mean", "running_var")
    return call.algebra.elementwise([x, *(channels(replace(t, fixed=False), x.ndim) for t in vectors)], call.shape)


@operation(*words("batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional "
                  "_native_batch_norm_legit_no_training _batch_norm_with_update "
                  "_batch_norm_with_update_functional"))  # fmt: skip
def batch_norm(call: Call) -> Any:
    algebra, x = call.algebra, call.algebra.exposed(call.first)
    over = [d for d in range(x.ndim) if d != 1]
    training = call.get("training", call.get("train", call.name.startswith("_batch_norm_with")))
    if training:
        x = algebra.normalised(algebra.only(x, {1}), over)
    vectors = [replace(t, fixed=False) for t in given_tensors(call, "weight", "bias", "running_mean", "running_var")]
    found = algebra.elementwise([x, *(channels(t, x.ndim) for t in vectors)], call.shape)
    if len(call.shapes) == 1:
        return found
    moved = algebra.reduced(found, over, keepdim=False)
    return found, *(moved if s == moved.shape else Unread(found) for s in call.shapes[1:])


@operation("_weight_norm", "_weight_norm_interface")
def weight_norm(call: Call) -> Any:
    """g v / |v|, the norm over all dimensions but one."""
    v, g, dim = call.given["v"], call.given["g"], call.get("dim", 0)
    v = call.algebra.normalised(v, [d for d in range(v.ndim) if d != dim])
    found = call.algebra.elementwise([v, g], call.shape)
    return found if len(call.shapes) == 1 else (found, *(Unread(found) for _ in call.shapes[1:]))


@operation("cosine_similarity")
def cosine_similarity(call: Call) -> Tracked:
    algebra, (a, b), dim = call.algebra, call.tracked, call.get("dim", 1)
    shape = tuple(max(m, n) for m, n in zip(a.shape, aligned(b, a.ndim).shape, strict=True))
    return algebra.reduced(algebra.elementwise([a, b], shape), [dim], keepdim=False)


@operation(
    *words(
        "cross_entropy_loss nll_loss nll_loss_nd nll_loss2d nll_loss_forward nll_loss2d_forward ctc_loss kl_div "
        "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits "
        "cosine_embedding_loss margin_ranking_loss triplet_margin_loss soft_margin_loss multi_margin_loss"
    )
)
def loss(call: Call) -> Any:
    """Targets may differ from unit to unit, so what meets them is told apart."""
    for t in call.tracked:
        call.algebra.forget(t)
    found = tuple(Tracked(s) for s in call.shapes)
    return found if len(found) > 1 else found[0]
