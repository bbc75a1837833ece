"""What the values alone say, and what could not be looked at (SB404-SB406, SB901)."""

from __future__ import annotations

from collections.abc import Iterator

from ..records import Claim, Remedy, Trace
from .grouping import listed
from .rule import rule


@rule("SB404", "non-finite", "error", "unknown")
def non_finite(trace: Trace) -> Iterator[Claim]:
    """Weights, activations, the loss or gradients that are NaN or infinite: nothing can be concluded from this start."""
    bad = [t for t in trace.tensors if t.nonfinite]
    for t in bad:
        yield Claim(
            where=t.name,
            because=f"{t.nonfinite} of {t.numel} values of {t.name} are NaN or infinite",
            evidence={"values": t.nonfinite, "of": t.numel},
            remedy=Remedy("reinit", t.name, "memory that was never written, or a bad checkpoint: initialise or load it again"),
        )
    if trace.nonfinite and not bad:
        yield Claim(
            where=trace.nonfinite,
            because=f"{trace.nonfinite} is NaN or infinite at the start, though all weights are finite",
            evidence={"precision": trace.precision},
            remedy=Remedy("rescale", trace.nonfinite, "look for an overflow, a log of zero or a division by zero there"),
        )


@rule("SB405", "identical-draws", "warning")
def identical_draws(trace: Trace) -> Iterator[Claim]:
    """Different weight matrices with bit-for-bit equal random values: one seed or one initializer object used twice.

    They separate where their places in the network differ, but the start is not the independent draw it looks like.
    """
    copied = [set(t.modules) for t in trace.twins]
    for names in trace.equal_tensors:
        inside = any(all(any(n.startswith(m + ".") for m in modules) for n in names) for modules in copied)
        if not inside:
            yield Claim(
                where=names[0],
                because=f"{listed(names)} hold the same random values",
                evidence={"tensors": list(names)},
                remedy=Remedy("reinit", names[-1], "draw each tensor from the generator in turn, not from a fresh seed"),
            )


@rule("SB406", "depth-copies", "info")
def depth_copies(trace: Trace) -> Iterator[Claim]:
    """Layers that were deep-copied and so start equal, such as those of nn.TransformerEncoder.

    Layers along the depth are not exchangeable: their inputs differ, so they separate at the first step.
    """
    for twin in trace.twins:
        if not twin.tied:
            yield Claim(
                where=twin.modules[0],
                because=f"{listed(twin.modules)} ({twin.kind}) start as copies; they get different gradients and separate",
                evidence={"modules": list(twin.modules)},
            )


@rule("SB901", "not-checked", "info")
def not_checked(trace: Trace) -> Iterator[Claim]:
    """What the check could not look at, and why."""
    if trace.precision == "float32":
        yield Claim(
            where=trace.model,
            because="the model does not run in float64, so the check ran in float32: tiny gradients and rounding cannot be told apart with certainty",
            standing="heuristic",
        )
    for where, why in trace.notes:
        yield Claim(where=where, because=why)
