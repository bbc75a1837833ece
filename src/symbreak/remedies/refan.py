"""Scale by the right fan (SB407): the factor between the size that was given and the size that was meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from symbreak.records import Finding

from .bench import Bench
from .part import Part, scaling


def takes(f: Finding) -> bool:
    """Whether a finding is of this kind: weights scaled by a fan that is not theirs."""
    return f.code == "SB407"


def propose(bench: Bench, findings: Sequence[Finding]) -> Iterator[Part]:
    """All layers that are told, by one factor each: one wrong formula drew them."""
    told = {f.evidence["tensor"]: f.evidence for f in findings if bench.may(f.evidence["tensor"])}
    if told:
        yield Part(
            "rescale",
            "scaled by the right fan",
            tuple((name, scaling(float(e["factor"]))) for name, e in told.items()),
            {name: f"scaled by {e['factor']:.3g}, from {e['used']} to {e['right']}" for name, e in told.items()},
        )
