"""What the batch itself says about the start (SB301-SB304)."""

from __future__ import annotations

from collections.abc import Iterator

from symbreak.records import Claim, Remedy, Trace
from symbreak.thresholds import LARGE_INPUT, PRIOR_EXCESS, UNEVEN_FEATURES

from .grouping import some
from .rule import rule


@rule("SB301", "unnormalised-input", "warning", "degraded")
def unnormalised_input(trace: Trace) -> Iterator[Claim]:
    """The input is far from unit scale, or the columns of a table differ in scale by a hundred times and more.

    Why: every scheme's formula assumes inputs of second moment one, and the loss is as badly conditioned as the square
    of the ratio between the columns' scales.

    Evidence: root mean square of the first batch, and the standard deviation of each column that is not constant.

    Remedy: standardise each column, or scale images to about [-1, 1].
    """
    for x in trace.inputs:
        if x.rms > LARGE_INPUT:
            yield Claim(
                where=x.name,
                because=(
                    f"{x.name} has rms {x.rms:.3g} (from {x.low:.3g} to {x.high:.3g}); every "
                    "initialization scheme assumes about 1"
                ),
                evidence={"rms": x.rms, "low": x.low, "high": x.high},
                remedy=Remedy(
                    "standardise", x.name, f"subtract the mean of {x.name} and divide by its standard deviation"
                ),
            )
        elif x.feature_std is not None and x.feature_std[1] > UNEVEN_FEATURES * x.feature_std[0]:
            yield Claim(
                where=x.name,
                because=(
                    f"the columns of {x.name} differ in scale: standard deviations from "
                    f"{x.feature_std[0]:.3g} to {x.feature_std[1]:.3g}"
                ),
                evidence={"smallest_std": x.feature_std[0], "largest_std": x.feature_std[1]},
                remedy=Remedy("standardise", x.name, f"divide each column of {x.name} by its standard deviation"),
            )


@rule("SB302", "constant-feature", "info")
def constant_feature(trace: Trace) -> Iterator[Claim]:
    """Columns of the input hold one value in the whole batch.

    Why: their weights learn nothing that the bias does not; a column of zeros gives its weights no gradient at all.

    Evidence: a standard deviation of exactly zero over the first batch.

    Remedy: none is needed; drop the columns, or check that the batch is not sorted.
    """
    for x in trace.inputs:
        n = len(x.constant_features)
        if n:
            yield Claim(
                where=x.name,
                units=x.constant_features,
                because=(
                    f"{some(n, x.shape[-1], 'columns', x.constant_features)} of {x.name} "
                    f"{'is' if n == 1 else 'are'} constant in this batch"
                ),
                evidence={"columns": n},
            )


@rule("SB303", "output-bias-off-prior", "info")
def output_bias_off_prior(trace: Trace) -> Iterator[Claim]:
    """The first loss lies far above the entropy of the labels.

    Why: a model that knows only how often each label occurs has that entropy as its loss; the first steps go into
    getting down to it.

    Evidence: the loss on the first batch and the entropy of its labels, both in nats.

    Remedy: set the output bias to the log of the class frequencies, or make the output weights smaller.
    """
    t = trace.target
    if t is not None and t.entropy is not None and trace.loss is not None and trace.loss > t.entropy + PRIOR_EXCESS:
        yield Claim(
            where="output",
            because=(
                f"the first loss is {trace.loss:.3g}; a model that knows only the label frequencies "
                f"has {t.entropy:.3g} (nats)"
            ),
            evidence={"first_loss": trace.loss, "label_entropy": t.entropy, "samples": t.samples},
            remedy=Remedy("reinit", "output bias", "set the output bias to the log of the class frequencies"),
        )


@rule("SB304", "target-out-of-range", "warning", "degraded")
def target_out_of_range(trace: Trace) -> Iterator[Claim]:
    """The output activation cannot reach the targets: a sigmoid ends at 0 and 1, a tanh at -1 and 1.

    Why: the loss has a floor that no weights get below, and the output saturates on the way to it.

    Evidence: the smallest and the largest target of the first batch.

    Remedy: a linear output, or targets rescaled into the range.
    """
    t = trace.target
    if t is None or t.output_range is None:
        return
    low, high = t.output_range
    if t.low < low or t.high > high:
        yield Claim(
            where="output",
            because=(
                f"the output ends in {t.output_activation}, which stays in [{low:g}, {high:g}], but "
                f"targets go from {t.low:.3g} to {t.high:.3g}"
            ),
            evidence={"low": t.low, "high": t.high, "range": [low, high]},
            remedy=Remedy("replace", "output", "use a linear output, or targets rescaled into the range"),
        )
