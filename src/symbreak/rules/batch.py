"""What the batch itself says about the start (SB301-SB304)."""

from __future__ import annotations

from collections.abc import Iterator

from ..records import Claim, Remedy, Trace
from .grouping import numbers
from .rule import rule
from .thresholds import LARGE_INPUT, PRIOR_EXCESS, UNEVEN_FEATURES


@rule("SB301", "unnormalised-input", "warning", "degraded")
def unnormalised_input(trace: Trace) -> Iterator[Claim]:
    """The input is far from unit scale, or the columns of a table differ in scale by a hundred times and more.

    Every scheme's formula assumes inputs of second moment one. Standardise each column, or scale images to about [-1, 1].
    """
    for x in trace.inputs:
        if x.rms > LARGE_INPUT:
            yield Claim(
                where=x.name,
                because=f"{x.name} has rms {x.rms:.3g} (from {x.low:.3g} to {x.high:.3g}); every initialization scheme assumes about 1",
                evidence={"rms": x.rms, "low": x.low, "high": x.high},
                remedy=Remedy("standardise", x.name, "subtract the mean and divide by the standard deviation"),
            )
        elif x.feature_std is not None and x.feature_std[1] > UNEVEN_FEATURES * x.feature_std[0]:
            yield Claim(
                where=x.name,
                because=f"the columns of {x.name} differ in scale: standard deviations from {x.feature_std[0]:.3g} to {x.feature_std[1]:.3g}",
                evidence={"smallest_std": x.feature_std[0], "largest_std": x.feature_std[1]},
                remedy=Remedy("standardise", x.name, "divide each column by its standard deviation"),
            )


@rule("SB302", "constant-feature", "info")
def constant_feature(trace: Trace) -> Iterator[Claim]:
    """Columns of the input with one value in the whole batch: their weights learn nothing that the bias does not."""
    for x in trace.inputs:
        if x.constant_features:
            yield Claim(
                where=x.name,
                units=x.constant_features,
                because=f"{len(x.constant_features)} of {x.shape[-1]} columns of {x.name} are constant in this batch ({numbers(x.constant_features)})",
                evidence={"columns": len(x.constant_features)},
            )


@rule("SB303", "output-bias-off-prior", "info")
def output_bias_off_prior(trace: Trace) -> Iterator[Claim]:
    """The first loss lies far above the entropy of the labels: the first steps only teach the output bias the prior.

    Setting the output bias to log class frequencies, or smaller output weights, saves those steps.
    """
    t = trace.target
    if t is not None and t.entropy is not None and trace.loss is not None and trace.loss > t.entropy + PRIOR_EXCESS:
        yield Claim(
            where="output",
            because=f"the first loss is {trace.loss:.3g}; a model that knows only the label frequencies has {t.entropy:.3g}",
            evidence={"first_loss": trace.loss, "label_entropy": t.entropy, "samples": t.samples},
            remedy=Remedy("reinit", "output bias", "log of the class frequencies"),
        )


@rule("SB304", "target-out-of-range", "warning", "degraded")
def target_out_of_range(trace: Trace) -> Iterator[Claim]:
    """The output activation cannot reach the targets: a sigmoid ends at 0 and 1, a tanh at -1 and 1."""
    t = trace.target
    if t is None or t.output_range is None:
        return
    low, high = t.output_range
    if t.low < low or t.high > high:
        yield Claim(
            where="output",
            because=f"the output ends in {t.output_activation}, which stays in [{low:g}, {high:g}], but targets go from {t.low:.3g} to {t.high:.3g}",
            evidence={"low": t.low, "high": t.high, "range": [low, high]},
            remedy=Remedy("replace", "output", "a linear output, or targets rescaled into the range"),
        )
