"""The output bias that knows how often each class comes, or how large the target is on average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from symbreak.schemes import Scheme, constant, prior_bias


def prior(bias: Tensor, labels: Any, loss: Callable[..., Tensor] | None) -> tuple[Scheme | Tensor, str] | None:
    """What suits the bias of the outputs, and why; None where labels and loss do not tell.

    Cross-entropy: log of the class shares, a class that is absent counted as half a sample. Binary cross-entropy with
    logits: log-odds of each output. Squared, absolute and Huber errors: the mean of each output's target.
    """
    kind = _kind(loss)
    if kind is None or not isinstance(labels, Tensor) or labels.numel() == 0 or bias.dim() != 1:
        return None
    if kind == "classes":
        return _shares(bias, labels, loss)
    columns = _columns(labels, len(bias))
    if columns is None:
        return None
    if kind == "binary":
        least = 0.5 / len(columns)
        shares = columns.mean(0)
        if float(shares.min()) < 0 or float(shares.max()) > 1:
            return None
        odds = torch.logit(shares.clamp(least, 1 - least))
        if len(bias) == 1:
            return prior_bias(
                float(f"{float(odds.sigmoid()):.6g}")
            ), "the log-odds of the label, so that only the inputs have to be learned"
        return odds, "the log-odds of each label"
    means = columns.mean(0)
    if len(bias) == 1:
        return constant(float(f"{float(means):.6g}")), "the mean of the target"
    return means, "the mean of each target"


def _kind(loss: Callable[..., Tensor] | None) -> str | None:
    name = type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "")
    if name in ("CrossEntropyLoss", "cross_entropy"):
        return "classes"
    if name in ("BCEWithLogitsLoss", "binary_cross_entropy_with_logits"):
        return "binary"
    squares = ("MSELoss", "mse_loss", "L1Loss", "l1_loss", "SmoothL1Loss", "smooth_l1_loss", "HuberLoss", "huber_loss")
    return "means" if name in squares else None


def _shares(bias: Tensor, labels: Tensor, loss: Any) -> tuple[Scheme | Tensor, str] | None:
    if labels.is_floating_point():
        rows = labels.double()
        if rows.dim() != 2 or rows.shape[1] != len(bias):
            return None
        counts = rows.sum(0)
    else:
        known = labels.reshape(-1)
        known = known[(known >= 0) & (known != getattr(loss, "ignore_index", -100))]
        if known.numel() == 0 or int(known.max()) >= len(bias):
            return None
        counts = torch.bincount(known, minlength=len(bias)).double()
    counts = counts.clamp_min(0.5)
    if len(bias) < 2:
        return None
    why = "the logarithm of how often each class occurs: the first loss is near the entropy of the labels"
    if len(bias) <= 16:
        return prior_bias(tuple(float(f"{float(c):.6g}") for c in counts)), why
    return (counts / counts.sum()).log(), why


def _columns(labels: Tensor, outputs: int) -> Tensor | None:
    """[b, o] float64."""
    values = labels.double()
    if outputs == 1 and values.numel():
        return values.reshape(-1, 1)
    if values.dim() >= 2 and values.shape[-1] == outputs:
        return values.reshape(-1, outputs)
    return None
