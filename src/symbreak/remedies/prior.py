"""Set the output bias to the prior (SB303), so that the first loss is the entropy of the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from symbreak.records import Finding

from .bench import Bench
from .part import Part, replacing
from .suited import bias_of, tensor_of


def takes(f: Finding) -> bool:
    """Whether a finding is of this kind: an output bias off its prior."""
    return f.code == "SB303"


def propose(bench: Bench, findings: Sequence[Finding]) -> Iterator[Part]:
    """One part for each bias that could be the output's, the last layer's first."""
    del findings
    seen = bench.seen()
    labels = seen.draw.target if seen is not None else None
    if not isinstance(labels, Tensor):
        return
    binary = isinstance(bench.asked.loss, nn.BCEWithLogitsLoss) or "binary" in getattr(bench.asked.loss, "__name__", "")
    trace = bench.report.trace
    for row in reversed(trace.layers):
        name = bias_of(bench, row)
        if name is not None and "bias" in tensor_of(trace, name).roles and bench.may(name):
            wanted = _logit(labels, bench.params[name]) if binary else _log_shares(labels, bench.params[name])
            if wanted is not None:
                why = f"{name} becomes the {'logit' if binary else 'logarithm'} of how often each label occurs"
                yield Part("set", why, ((name, replacing(wanted)),))


def _log_shares(labels: Tensor, bias: Tensor) -> Tensor | None:
    """[classes] log of the class frequencies; a class that is absent counts as half a sample, not as impossible."""
    if labels.is_floating_point():
        return None
    known = labels.reshape(-1)
    counts = torch.bincount(known[known >= 0], minlength=len(bias)).double()
    if len(counts) != len(bias):
        return None
    counts = counts.clamp_min(0.5)
    return (counts / counts.sum()).log()


def _logit(labels: Tensor, bias: Tensor) -> Tensor | None:
    """[columns] log-odds of each column's ones."""
    columns = labels.double().reshape(len(labels), -1)
    if columns.shape[1] != len(bias):
        return None
    n = len(columns)
    share = columns.mean(0).clamp(0.5 / n, 1 - 0.5 / n)
    return torch.logit(share)
