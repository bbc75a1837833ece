"""Schemes that look at nothing: constants, and draws of one size whatever the shape."""

from __future__ import annotations

from symbreak.errors import SchemeError
from symbreak.schemes.checks import number
from symbreak.schemes.laws import Constant, Normal, TruncatedNormal, Uniform, truncated_std
from symbreak.schemes.scheme import LawOf, scheme


@scheme
def zeros() -> LawOf:
    """Every weight zero.

    W[o, i] = 0. Right for biases, for a last layer, and for one of two factors (the B of LoRA); wrong for a hidden
    layer, whose units then stay copies of one another, or never get a gradient at all.

    Example:
        >>> zeros().moments().std
        0.0

    Source: folklore; torch.nn.init.zeros_.
    """
    return lambda place: Constant(0.0)  # noqa: ARG005 (a law may ignore the place)


@scheme
def ones() -> LawOf:
    """Every weight one: the gain of a norm.

    w[o] = 1.

    Example:
        >>> ones().moments().mean
        1.0

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167; torch.nn.init.ones_.
    """
    return lambda place: Constant(1.0)  # noqa: ARG005 (a law may ignore the place)


@scheme
def constant(value: float) -> LawOf:
    """Every weight the same number.

    W[o, i] = value. All units of a hidden layer are one and the same for ever; meant for biases and for gains of norms.

    Args:
        value: the number.
    Example:
        >>> constant(0.1)
        constant(0.1)

    Source: folklore; torch.nn.init.constant_.
    """
    level = number("value", value)
    return lambda place: Constant(level)  # noqa: ARG005 (a law may ignore the place)


@scheme
def uniform(low: float, high: float) -> LawOf:
    """Uniform weights between two numbers whatever the shape.

    W[o, i] ~ U(low, high), std = (high - low) / sqrt(12). Both numbers must be written: torch's own default is U(0, 1),
    whose mean of 1/2 pushes every unit the same way; Keras' is U(-0.05, 0.05).

    Args:
        low: smallest weight.
        high: largest weight.
    Example:
        >>> uniform(-0.05, 0.05)
        uniform(-0.05, 0.05)

    Source: torch.nn.init.uniform_, bit for bit for the same generator.
    """
    law = Uniform(number("low", low), number("high", high))
    if law.low > law.high:
        raise SchemeError(f"low={low!r} lies above high={high!r}: swap them.")
    return lambda place: law  # noqa: ARG005 (a law may ignore the place)


@scheme
def normal(std: float = 1.0, *, mean: float = 0.0) -> LawOf:
    """Normal weights of one size whatever the shape.

    W[o, i] ~ N(mean, std^2). With std=0.02, BERT's and GPT-2's start; right at one width only, because no fan enters.

    Args:
        std: standard deviation of a weight.
        mean: of a weight.
    Example:
        >>> normal(0.02)
        normal(std=0.02)

    Source: torch.nn.init.normal_, bit for bit for the same generator; Radford et al. 2019, section 2.3, for 0.02.
    """
    law = Normal(number("std", std, least=0.0), number("mean", mean))
    return lambda place: law  # noqa: ARG005 (a law may ignore the place)


@scheme
def truncated_normal(std: float = 1.0, *, mean: float = 0.0, cut: float = 2.0, corrected: bool = True) -> LawOf:
    """Normal weights without the tails.

    W[o, i] ~ N(mean, s^2) given |W - mean| <= cut s. Cutting narrows: at 2 the standard deviation that is left is
    0.8796 s. Corrected, s = std / 0.8796 so that std is what comes out, as JAX and Keras do; uncorrected, s = std, as
    torch and timm do with a, b = -2 std, 2 std.

    torch's a and b are absolute numbers: trunc_normal_(std=0.02) with its default a, b = -2, 2 cuts at 100 standard
    deviations, which is no cut at all; that is `normal(0.02)`.

    Args:
        std: standard deviation of a weight, after the cut where corrected, before it where not.
        mean: of a weight.
        cut: where the tails end, in standard deviations of the uncut normal.
        corrected: whether std is meant after the cut.
    Example:
        >>> truncated_normal(0.02).moments().std
        0.02
        >>> round(truncated_normal(0.02, corrected=False).moments().std, 5)
        0.01759

    Source: Burkardt 2014, The truncated normal distribution; jax.nn.initializers.truncated_normal (uncorrected) and
        variance_scaling (corrected); torch.nn.init.trunc_normal_.
    """
    std, cut = number("std", std, least=0.0), number("cut", cut, above=0.0)
    law = TruncatedNormal(std / truncated_std(cut) if corrected else std, number("mean", mean), cut)
    return lambda place: law  # noqa: ARG005 (a law may ignore the place)
