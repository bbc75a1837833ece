"""What the values alone say, and what could not be looked at (SB404-SB407, SB901)."""

from __future__ import annotations

from collections.abc import Iterator

from symbreak.records import Claim, Remedy, Trace
from symbreak.thresholds import WRONG_FAN

from .grouping import called, layers, listed, some
from .rule import rule


@rule("SB404", "non-finite", "error", "unknown")
def non_finite(trace: Trace) -> Iterator[Claim]:
    """Weights, activations, the loss or gradients that are NaN or infinite.

    Why: one such number spreads to every other in a step or two, and nothing can be concluded from this start.

    Evidence: how many values are affected; where all weights are finite, the first place that is not.

    Remedy: initialise or load the tensor again; for activations, look for an overflow, a log of zero or a division by
    zero.
    """
    bad = [t for t in trace.tensors if t.nonfinite]
    for t in bad:
        yield Claim(
            where=t.name,
            because=(
                f"{some(t.nonfinite, t.numel, 'values')} of {t.name} "
                f"{'is' if t.nonfinite == 1 else 'are'} NaN or infinite, so nothing was run"
            ),
            evidence={"values": t.nonfinite, "of": t.numel},
            remedy=Remedy(
                "reinit", t.name, f"initialise or load {t.name} again (memory never written, or a bad checkpoint)"
            ),
        )
    if trace.nonfinite and not bad:
        yield Claim(
            where=trace.nonfinite,
            because=f"{trace.nonfinite} is NaN or infinite at the start, though all weights are finite",
            evidence={"precision": trace.precision},
            remedy=Remedy(
                "rescale", trace.nonfinite, "look there for an overflow, a log of zero or a division by zero"
            ),
        )


@rule("SB405", "identical-draws", "warning")
def identical_draws(trace: Trace) -> Iterator[Claim]:
    """Different weight matrices hold bit-for-bit equal random values: one seed or one initializer object used twice.

    Why: they separate where their places in the network differ, but the start is not the independent draw it looks
    like, and the laws behind the schemes assume independence.

    Evidence: equality of every value. Sub-networks that are copied as a whole are told by SB003, SB005 and SB406.

    Remedy: draw the tensors from one generator in turn, not each from a fresh seed.
    """
    copied = [set(t.modules) for t in trace.twins]
    for names in trace.equal_tensors:
        inside = any(all(any(n.startswith(m + ".") for m in modules) for n in names) for modules in copied)
        if not inside:
            yield Claim(
                where=names[0],
                because=f"{listed(names)} hold the same random values",
                evidence={"tensors": list(names)},
                remedy=Remedy(
                    "reinit", names[-1], "draw the tensors from one generator in turn, not each from a fresh seed"
                ),
            )


@rule("SB406", "depth-copies", "info")
def depth_copies(trace: Trace) -> Iterator[Claim]:
    """Layers that were deep-copied and so start equal, such as those of nn.TransformerEncoder.

    Why: it explains equal weights that need no repair. Layers along the depth are not exchangeable: their inputs
    differ, so they get different gradients and separate.

    Evidence: all their tensors start equal, and their gradients differ at a probed step.

    Remedy: none is needed; draw each layer anew where independent draws are wanted.
    """
    for twin in trace.twins:
        if not twin.tied:
            yield Claim(
                where=twin.modules[0],
                because=(
                    f"{layers(trace, twin.modules)} ({twin.kind}) start as copies; they get different "
                    "gradients and separate"
                ),
                evidence={"modules": list(twin.modules)},
            )


@rule("SB407", "wrong-fan", "warning", "degraded")
def wrong_fan(trace: Trace) -> Iterator[Claim]:
    """Weights scaled by a fan that is not theirs: grouped, transposed, stacked or fused.

    Why: torch.nn.init reads the fans off the shape. A grouped convolution's output channels do not all see one input, a
    transposed convolution's first axis is its input, a stack of experts holds many matrices, a fused projection three:
    the weights start too small or too large by the square root of that number, layer after layer.

    Evidence: the size of the weights is what a usual formula gives with the shape's fans, within four standard errors
    over all layers of the kind, and not what any gives with the right ones. Where doubling the weights moves no output,
    a normalisation hides the mistake, and it is told as information. The verdict changes where the right fans of all
    layers together make what varies at the outputs larger, or smaller, by more than torch's default lies from kaiming:
    along a chain the factors multiply, in residual branches they hardly do.

    Remedy: scale by the fans of one group or one matrix (`symbreak.schemes.fans_of`).
    """
    for w in trace.wrong_fans:
        place = called(trace, w.layer)
        by = f"fan_in={w.right[0]}, fan_out={w.right[1]}"
        hidden = "; a normalisation behind it hides that" if w.hidden else ""
        yield Claim(
            where=w.layer,
            severity="info" if w.hidden else None,
            decisive=max(w.together, 1 / w.together) >= WRONG_FAN,
            because=(
                f"the weights of {place}, a {w.kind}, have size {w.size:.3g}: {w.formula} with the fans of the shape "
                f"({w.used[0]}, {w.used[1]}), not its own ({by}); {_off(w.factor)}{hidden}"
            ),
            evidence={
                "tensor": w.tensor, "kind": w.kind, "used": f"{w.formula} with the fans {w.used} of the shape",
                "right": f"the same with its own fans {w.right}", "factor": w.factor, "hidden": w.hidden,
                "together": w.together,
            },
            remedy=None if w.hidden else Remedy("rescale", w.tensor, f"multiply {w.tensor} by {w.factor:.3g}"),
        )  # fmt: skip


def _off(factor: float) -> str:
    return f"too small by {factor:.3g}" if factor > 1 else f"too large by {1 / factor:.3g}"


@rule("SB901", "not-checked", "info")
def not_checked(trace: Trace) -> Iterator[Claim]:
    """What the check could not look at, and why.

    Why: a verdict says nothing of what was not seen.

    Evidence: the precision that the probe had to work in.

    Remedy: let forward keep the precision it is given (no fixed float32 casts, no NumPy round trips).
    """
    if trace.precision == "float32":
        yield Claim(
            where=trace.model,
            because=(
                "the model does not run in float64, so the check ran in float32, where a tiny "
                "gradient cannot be told from rounding with certainty"
            ),
            standing="heuristic",
        )
