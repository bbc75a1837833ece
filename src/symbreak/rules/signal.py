"""Whether the signal survives the depth, forward and backward (SB201-SB208)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..records import Claim, LayerTrace, Remedy, Trace
from ..schemes.activations import BOUNDED
from .grouping import listed
from .rule import rule
from .thresholds import (
    COLLAPSED,
    FIRST_STEP_TOO_LARGE,
    FIRST_STEP_TOO_SMALL,
    LINEAR_SHARE,
    SATURATED_SHARE,
    SCALE_RATIO,
)


@rule("SB201", "exploding-forward", "warning", "degraded")
def exploding_forward(trace: Trace) -> Iterator[Claim]:
    """Activations grow by a factor of a thousand or more from the first layers to the last.

    Compared are the largest scales among the first and the last third of the layers, so that a strong or weak side branch
    does not count.
    """
    yield from _forward(trace, grows=True)


@rule("SB202", "vanishing-forward", "warning", "degraded")
def vanishing_forward(trace: Trace) -> Iterator[Claim]:
    """Activations shrink by a factor of a thousand or more from the first layers to the last.

    Layers that start at zero on purpose are left out. A normalisation further on can rescue the scale, which is why this
    is a warning.
    """
    yield from _forward(trace, grows=False)


@rule("SB203", "exploding-gradient", "warning", "degraded")
def exploding_gradient(trace: Trace) -> Iterator[Claim]:
    """The back-signal grows by a factor of a thousand or more on its way to the first layers."""
    yield from _backward(trace, grows=True)


@rule("SB204", "vanishing-gradient", "warning", "degraded")
def vanishing_gradient(trace: Trace) -> Iterator[Claim]:
    """The back-signal shrinks by a factor of a thousand or more on its way to the first layers: they learn that much slower."""
    yield from _backward(trace, grows=False)


@rule("SB205", "saturated-units", "warning", "degraded")
def saturated_units(trace: Trace) -> Iterator[Claim]:
    """More than half of the samples of a bounded activation lie on its flat part, where the slope is at most a tenth of
    its steepest: gradients shrink at least tenfold there.
    """
    for a in trace.activations:
        if a.name in BOUNDED and a.saturated > SATURATED_SHARE:
            yield Claim(
                where=a.where,
                because=f"{a.saturated:.0%} of the samples of {a.where} ({a.name}, {a.units} units) are saturated: slope at most a tenth of the steepest",
                evidence={"saturated_share": a.saturated, "samples": a.samples, "units": a.units},
                remedy=Remedy("rescale", a.layer or a.where, "shift and rescale the layer in front by data"),
            )


@rule("SB206", "purely-linear", "warning", "degraded")
def purely_linear(trace: Trace) -> Iterator[Claim]:
    """Every unit of every activation works in its linear region, so that the depth does nothing yet.

    The network is one linear map until the weights have grown.
    """
    if trace.activations and all(a.linear >= LINEAR_SHARE for a in trace.activations):
        n, least = len(trace.activations), min(a.linear for a in trace.activations)
        moving = [r for r in trace.layers if r.weight_rms > 0]
        if moving:
            yield Claim(
                where=trace.activations[0].where,
                because=f"in all {n} activations at least {least:.1%} of the samples lie in the linear region: the network is one linear map so far",
                evidence={"least_linear_share": least, "activations": n},
                remedy=Remedy("rescale", moving[0].name, "larger weights, or inputs of unit variance"),
            )


@rule("SB207", "update-ratio", "warning", "degraded")
def update_ratio(trace: Trace) -> Iterator[Claim]:
    """The first step moves weights by as much as their own size, or by so little that float32 rounds it away.

    Judged with the optimizer and learning rate given to `check`; for SGD the step is learning rate x gradient.
    """
    rows = [r for r in trace.layers if len(r.shape) >= 2 and r.update_to_weight is not None and r.gradient_rms > 0]
    large = [r for r in rows if (r.update_to_weight or 0) > FIRST_STEP_TOO_LARGE]
    if large:
        worst = max(large, key=lambda r: r.update_to_weight or 0)
        yield Claim(
            where=worst.name,
            because=f"the first {trace.optimizer} step (learning rate {trace.learning_rate:g}) moves {listed([r.name for r in large])} by "
            f"{worst.update_to_weight:.3g} times the weights' size at worst: it replaces the start",
            evidence={r.name: r.update_to_weight for r in large[:50]},
            remedy=Remedy("rescale", worst.name, "a smaller learning rate, or weights of the usual scale"),
        )
    if rows and all((r.update_to_weight or 0) < FIRST_STEP_TOO_SMALL for r in rows):
        best = max(rows, key=lambda r: r.update_to_weight or 0)
        yield Claim(
            where=best.name,
            because=f"the first {trace.optimizer} step (learning rate {trace.learning_rate:g}) moves no layer by more than {best.update_to_weight:.1e} of its size",
            evidence={"largest_ratio": best.update_to_weight},
            remedy=Remedy("rescale", best.name, "smaller weights, or a larger learning rate"),
        )


@rule("SB208", "input-collapse", "warning", "degraded")
def input_collapse(trace: Trace) -> Iterator[Claim]:
    """Different inputs become indistinguishable with depth: what still differs between samples is lost in the constant part."""
    rows = [r for r in _moving(trace) if r.spread is not None]
    if len(rows) < 3:
        return
    first, last = _ends(rows)
    before, after = max(r.spread or 0 for r in first), max(r.spread or 0 for r in last)
    if after < COLLAPSED and before > 1e3 * after:
        yield Claim(
            where=last[-1].name,
            because=f"what differs between inputs falls from {before:.2g} of the signal in the first layers to {after:.1e} in the last",
            evidence={"first": before, "last": after},
            remedy=Remedy("reinit", last[-1].name, "weights nearer the edge of chaos, residual connections or a normalisation"),
        )


def _moving(trace: Trace) -> list[LayerTrace]:
    """Layers with a measured signal and weights that are not zero on purpose."""
    return [r for r in trace.layers if r.forward_rms is not None and r.weight_rms > 0 and r.kind != "embedding"]


def _ends(rows: Sequence[LayerTrace]) -> tuple[Sequence[LayerTrace], Sequence[LayerTrace]]:
    n = max(1, len(rows) // 3)
    return rows[:n], rows[-n:]


def _forward(trace: Trace, *, grows: bool) -> Iterator[Claim]:
    rows = _moving(trace)
    if len(rows) < 2:
        return
    at_input = max((x.rms for x in trace.inputs), default=1.0)
    head = _ends(rows)[0]
    if grows:
        worst = max(rows, key=lambda r: r.forward_rms or 0)
        before, after = at_input, worst.forward_rms or 0
    else:
        # What varies between samples: a bias keeps the size up and carries nothing.
        last = rows[-max(1, len(rows) // 4) :]
        worst = max(last, key=lambda r: r.forward_variance or 0)
        before = max(at_input, *((r.forward_variance or 0) ** 0.5 for r in head))
        after = (worst.forward_variance or 0) ** 0.5
    if before > 0 and after > 0 and (after / before > SCALE_RATIO if grows else before / after > SCALE_RATIO):
        yield Claim(
            where=worst.name,
            because=f"the signal {'grows' if grows else 'shrinks'} from {before:.2g} at the input to {after:.2g} (rms) in {worst.name}",
            evidence={"input_rms": before, "layer_rms": after, "layers": len(rows)},
            remedy=Remedy("rescale", worst.name, "weights by a rule that keeps the second moment, or a normalisation"),
        )


def _backward(trace: Trace, *, grows: bool) -> Iterator[Claim]:
    rows = [r for r in _moving(trace) if (r.backward_rms or 0) > 0]
    if len(rows) < 3:
        return
    head, tail = _ends(rows)
    # A sum over positions, not a mean, is what a weight feels: compare signals at their own size.
    early, late = max(r.backward_rms or 0 for r in head), max(r.backward_rms or 0 for r in tail)
    if early / late > SCALE_RATIO if grows else late / early > SCALE_RATIO:
        yield Claim(
            where=head[0].name,
            because=f"the back-signal {'grows' if grows else 'shrinks'} from {late:.2g} in the last layers to {early:.2g} (rms) in the first",
            evidence={"last_rms": late, "first_rms": early, "layers": len(rows)},
            remedy=Remedy("rescale", head[0].name, "weights by a rule that keeps the back-signal's second moment"),
        )
