"""Numbers that are none (SB404): draw the NaN and infinite entries of a tensor anew, and leave the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from symbreak.records import Finding

from .bench import Bench
from .part import Part, replacing
from .suited import fresh, moments_of, suited_std

_SANE = 100.0  # times the suited size: beyond it the finite entries are no more to be trusted than the others


def takes(f: Finding) -> bool:
    """Whether a finding is of this kind: parameters that hold NaN or infinity."""
    return f.code == "SB404"


def propose(bench: Bench, findings: Sequence[Finding]) -> Iterator[Part]:
    """One part for all of them: the model runs only when every one is whole."""
    names = [f.where for f in findings if f.where in bench.params and bench.may(f.where)]
    if names:
        yield Part(
            "draw",
            "NaN and infinite values are drawn anew, the others stay",
            tuple((name, replacing(_filled(bench, name))) for name in names),
        )


def _filled(bench: Bench, name: str) -> torch.Tensor:
    value, drawn = bench.now(name), fresh(bench, name)
    good = torch.isfinite(value)
    size = float(value[good].square().mean().sqrt()) if bool(good.any()) else 0.0
    usual = suited_std(bench, name)
    if 0 < size < math.inf and usual / _SANE <= size <= usual * _SANE:
        own = moments_of(bench, name).std
        drawn = drawn * (size / own) if own > 0 else drawn
        return torch.where(good, value, drawn)
    return torch.where(good & (value.abs() <= usual * _SANE), value, drawn)
