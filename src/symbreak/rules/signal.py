"""Whether the signal survives the depth, forward and backward (SB201-SB208)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from symbreak.records import Claim, LayerTrace, Remedy, Trace
from symbreak.schemes.activations import BOUNDED
from symbreak.thresholds import (
    COLLAPSED,
    COLLAPSED_FACTOR,
    DEPARTURE,
    FIRST_STEP_TOO_LARGE,
    FIRST_STEP_TOO_SMALL,
    GUESSED_RATE,
    LINEAR_SHARE,
    SATURATED_SHARE,
    SCALE_RATIO,
    SMALL_GATE,
)

from .grouping import activation, called, layers
from .rule import rule


@rule("SB201", "exploding-forward", "warning", "degraded")
def exploding_forward(trace: Trace) -> Iterator[Claim]:
    """Activations grow by a factor of a thousand or more from the input to some layer.

    Why: the loss starts huge, its gradients too, and half precision overflows at 65504.

    Evidence: the root mean square of the input and of the output of each layer whose weights are not zero, at step 1.

    Remedy: weights by a rule that keeps the second moment (kaiming, lecun), or a normalisation.
    """
    yield from _forward(trace, grows=True)


@rule("SB202", "vanishing-forward", "warning", "degraded")
def vanishing_forward(trace: Trace) -> Iterator[Claim]:
    """What varies between samples shrinks by a factor of a thousand or more from the first layers to the last.

    Why: what a layer cannot tell apart it cannot learn from; a bias keeps the size up and carries nothing. A
    normalisation further on can rescue the scale, which is why this is a warning.

    Evidence: the standard deviation over samples of the first and of the last layers' outputs, at step 1. Layers that
    start at zero on purpose are left out.

    Remedy: weights by a rule that keeps the second moment (kaiming, lecun), or a normalisation.
    """
    yield from _forward(trace, grows=False)


@rule("SB203", "exploding-gradient", "warning", "degraded")
def exploding_gradient(trace: Trace) -> Iterator[Claim]:
    """The back-signal grows by a factor of a thousand or more on its way to the first layers.

    Why: one learning rate cannot suit the first and the last layer: what moves the last one throws the first one away.

    Evidence: the norm of the whole back-signal at step 1: the median of the first third of the layers against the
    largest of the last third. One layer alone, such as a small head, is no matter of depth.

    Remedy: weights by a rule that keeps the back-signal's second moment, or a normalisation.
    """
    yield from _backward(trace, grows=True)


@rule("SB204", "vanishing-gradient", "warning", "degraded")
def vanishing_gradient(trace: Trace) -> Iterator[Claim]:
    """The back-signal shrinks by a factor of a thousand or more on its way to the first layers.

    Why: under SGD the first layers learn that much slower; under Adam they learn from noise.

    Evidence: the norm of the whole back-signal at step 1: the median of the last third of the layers against the
    largest of the first third. One layer alone, such as a small head, is no matter of depth.

    Remedy: weights by a rule that keeps the back-signal's second moment, an activation with a larger slope, residual
    connections, or a normalisation.
    """
    yield from _backward(trace, grows=False)


@rule("SB205", "saturated-units", "warning", "degraded")
def saturated_units(trace: Trace) -> Iterator[Claim]:
    """More than half of the samples of a bounded activation lie on its flat part.

    Why: the slope there is at most a tenth of the steepest, so gradients shrink at least tenfold. A gate, which
    multiplies another signal, may start open or shut; it is told of where its slope is a millionth: it stays as it is,
    and what it shuts off does not learn either.

    Evidence: the share of samples and units with such a slope, at step 1.

    Remedy: shift and rescale the layer in front by data.
    """
    for a in trace.activations:
        if a.gate and a.layer is not None and a.name in BOUNDED and a.jammed > SATURATED_SHARE:
            yield Claim(
                where=a.where,
                because=(
                    f"{activation(trace, a.where, a.name)}, a gate, is jammed: its slope is at most a millionth of the "
                    f"steepest in {a.jammed:.0%} of its {a.units} units x {a.samples} samples"
                ),
                evidence={"jammed_share": a.jammed, "samples": a.samples, "units": a.units},
                remedy=Remedy("shift", a.layer, f"bring the bias of {called(trace, a.layer)} within 5 of zero"),
            )
        if a.hidden and not a.gate and a.name in BOUNDED and a.saturated > SATURATED_SHARE:
            yield Claim(
                where=a.where,
                because=(
                    f"{activation(trace, a.where, a.name)} is saturated, its slope at most a tenth of "
                    f"the steepest, in {a.saturated:.0%} of its {a.units} units x {a.samples} samples"
                ),
                evidence={"saturated_share": a.saturated, "samples": a.samples, "units": a.units},
                remedy=Remedy(
                    "rescale",
                    a.layer or a.where,
                    (
                        f"shift and rescale {called(trace, a.layer or a.where)} by data, so that it "
                        "feeds values of about unit size"
                    ),
                ),
            )


@rule("SB206", "purely-linear", "warning", "degraded")
def purely_linear(trace: Trace) -> Iterator[Claim]:
    """Every unit of every hidden activation works in its linear region, so that the depth does nothing yet.

    Why: the network is one linear map until the weights have grown.

    Evidence: the share of samples whose slope is at least two thirds of the steepest, in each activation that neither
    ends the network nor is a gate nor rests behind zeros, at step 1; and the network's answer midway between two
    batches, which for a linear map is the mean of its answers to both. A normalisation or attention in between departs
    from that.

    Remedy: larger weights, or inputs of unit variance.
    """
    hidden = [a for a in trace.activations if a.hidden and not a.gate and not a.rests]
    is_linear = trace.departure is not None and trace.departure < DEPARTURE
    if is_linear and hidden and all(a.linear >= LINEAR_SHARE for a in hidden):
        n, least = len(hidden), min(a.linear for a in hidden)
        who = (
            f"each of the {n} hidden activations works"
            if n > 1
            else f"{activation(trace, hidden[0].where, hidden[0].name)} works"
        )
        share = "all samples" if least == 1 else f"at least {least:.2%} of the samples"
        moving = [r for r in trace.layers if r.weight_rms > 0]
        if moving:
            yield Claim(
                where=hidden[0].where,
                because=f"{who} in its linear region on {share}: the network is one linear map so far",
                evidence={"least_linear_share": least, "activations": n, "departure": trace.departure},
                remedy=Remedy("rescale", moving[0].name, "use larger weights, or inputs of unit variance"),
            )


@rule("SB207", "update-ratio", "warning", "degraded")
def update_ratio(trace: Trace) -> Iterator[Claim]:
    """The first step moves weights by as much as their own size, or by so little that float32 rounds it away.

    Why: a step as large as the weights replaces the start, whatever it was; one far below float32's epsilon leaves it.

    Evidence: the root mean square of the first step over that of the weights, with the optimizer and learning rate
    given to `check`; for SGD the step is learning rate x gradient, for Adam and its kin the learning rate. Without a
    loss of yours the gradient has no size of its own, and SGD's step is not judged; with an optimizer's name alone the
    rate is a guess, and a step less than ten times too large changes no verdict.

    Remedy: another learning rate, or weights of the usual scale.
    """
    if trace.loss is None and not trace.adaptive:
        return
    rows = [r for r in trace.layers if len(r.shape) >= 2 and r.update_to_weight is not None and r.gradient_rms > 0]
    large = [r for r in rows if (r.update_to_weight or 0) > FIRST_STEP_TOO_LARGE]
    step = f"the first {trace.optimizer} step (learning rate {trace.learning_rate:g})"
    if large:
        worst = max(large, key=lambda r: r.update_to_weight or 0)
        names = layers(trace, [r.name for r in large])
        size = "its weights' size" if len(large) == 1 else "their weights' size at worst"
        sure = trace.rate_given or (worst.update_to_weight or 0) > GUESSED_RATE * FIRST_STEP_TOO_LARGE
        yield Claim(
            where=worst.name,
            decisive=sure,
            because=f"{step} moves {names} by {worst.update_to_weight:.3g} times {size}: it replaces the start",
            evidence={r.name: r.update_to_weight for r in large[:50]},
            remedy=Remedy("rescale", worst.name, "use a smaller learning rate, or weights of the usual scale"),
        )
    waits = any((t.wake or 1) > 1 for t in trace.tensors)  # behind a zero that moves first
    if rows and not waits and all((r.update_to_weight or 0) < FIRST_STEP_TOO_SMALL for r in rows):
        best = max(rows, key=lambda r: r.update_to_weight or 0)
        yield Claim(
            where=best.name,
            because=f"{step} moves no layer by more than {best.update_to_weight:.1e} of its weights' size",
            evidence={"largest_ratio": best.update_to_weight},
            remedy=Remedy("rescale", best.name, "use smaller weights, or a larger learning rate"),
        )


@rule("SB208", "input-collapse", "warning", "degraded")
def input_collapse(trace: Trace) -> Iterator[Claim]:
    """Different inputs become indistinguishable with depth: what differs between them is lost in the constant part.

    Why: the network answers the same to everything, and its gradients are those of a constant.

    Evidence: the share of the second moment that differs between samples, in the first and in the last third of the
    layers, at step 1. Where a zero between them cuts the first layers off, nothing is measured: SB103 or SB101 tells.

    Remedy: weights nearer the edge of chaos, smaller biases, residual connections or a normalisation.
    """
    rows = [r for r in _moving(trace) if r.spread is not None]
    if len(rows) < 3:
        return
    first, last = _ends(rows)
    wake = {t.name: t.wake for t in trace.tensors}
    if not any(wake.get(r.weight) == 1 for r in first):
        return
    before, after = max(r.spread or 0 for r in first), max(r.spread or 0 for r in last)
    if after < COLLAPSED and before > COLLAPSED_FACTOR * after:
        yield Claim(
            where=last[-1].name,
            because=(
                f"what differs between inputs falls from {before:.2g} of the signal in the first "
                f"layers to {after:.1e} in the last"
            ),
            evidence={"first": before, "last": after},
            remedy=Remedy(
                "reinit",
                last[-1].name,
                "use weights nearer the edge of chaos, smaller biases, residual connections or a normalisation",
            ),
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
        place = called(trace, worst.name)
        yield Claim(
            where=worst.name,
            because=f"the signal grows from {before:.2g} at the input to {after:.2g} (rms) in {place}"
            if grows
            else (
                f"the signal shrinks from {before:.2g} near the input to {after:.2g} in {place} (what "
                "varies between samples)"
            ),
            evidence={"input_rms": before, "layer_rms": after, "layers": len(rows)},
            remedy=Remedy(
                "rescale",
                worst.name,
                "use weights by a rule that keeps the second moment (kaiming, lecun), or a normalisation",
            ),
        )


def _backward(trace: Trace, *, grows: bool) -> Iterator[Claim]:
    rows = [r for r in _moving(trace) if (r.backward_norm or 0) > 0]
    gated = any(t.start == "constant" and "scale" in t.roles and t.weight_rms < SMALL_GATE for t in trace.tensors)
    if len(rows) < 3 or gated:
        return
    head, tail = ([r.backward_norm or 0 for r in end] for end in _ends(rows))
    early, late = (median(head), max(tail)) if grows else (max(head), median(tail))
    if early / late > SCALE_RATIO if grows else late / early > SCALE_RATIO:
        yield Claim(
            where=rows[0].name,
            because=(
                f"the back-signal {'grows' if grows else 'shrinks'} from {late:.2g} in the last "
                f"layers to {early:.2g} (l2 norm) in the first"
            ),
            evidence={"last_norm": late, "first_norm": early, "layers": len(rows)},
            remedy=Remedy(
                "rescale",
                rows[0].name,
                "use weights by a rule that keeps the back-signal's second moment, or a normalisation",
            ),
        )
