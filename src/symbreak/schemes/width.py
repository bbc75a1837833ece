"""Parametrisations: the start, a multiplier in the forward pass, and a learning rate, chosen together for wide nets.

The multiplier and the learning rate are what `Scheme.companions(place)` returns; weights alone are half of the scheme.
Index letters: n_in, n_out fans; b_in, b_out fans in the base model, the one whose learning rate was tuned.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from symbreak.errors import SchemeError
from symbreak.schemes.checks import choice, number
from symbreak.schemes.laws import Companions, Constant, Each, Law, Normal
from symbreak.schemes.patterns import haar
from symbreak.schemes.place import Place
from symbreak.schemes.scheme import LawOf, scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Optimizer = Literal["sgd", "adam"]
OPTIMIZERS = ("sgd", "adam")


@scheme
def mup(*, gain: float = 1.0, optimizer: Optimizer = "adam") -> LawOf:
    """Maximal update: the learning rate tuned on a narrow net is right for the wide one.

    With width ratio m = n / base, the base model being the standard parametrisation at its own width:

    | place | std of W | multiplier | learning rate, Adam | SGD |
    |---|---|---|---|---|
    | first layer, embedding | gain / sqrt(n_in) | 1 | 1 | m_out |
    | bias, gain | 0, 1 | 1 | 1 | m_out |
    | hidden | gain / sqrt(n_in) | 1 | 1 / m_in | m_out / m_in |
    | last layer | gain / sqrt(b_in) | 1 / m_in | 1 | m_in |

    Attention logits are divided by the head's width, not by its root. Start the last layer, and queries, at zero where
    you can: that removes what differs between widths at the first step. An embedding table is N(0, gain^2) whatever the
    width.

    Args:
        gain: of the base model's weights.
        optimizer: which column; AdamW's, Lion's and RMSprop's is Adam's.
    Example:
        >>> from symbreak.schemes import Fans
        >>> wide = Place(shape=(1024, 1024), base=Fans(256, 256))
        >>> mup().companions(wide).learning_rate
        0.25

    Source: Yang et al. 2022 (Tensor Programs V), arXiv:2203.03466, table 8; microsoft/mup, MuReadout (weights times
        sqrt(m), output over m), MuAdam and MuSGD for the learning rates.
    """
    gain, kind = number("gain", gain, least=0.0), choice("optimizer", optimizer, OPTIMIZERS)

    def law(place: Place) -> Law:
        sgd = kind == "sgd"
        if place.is_bias or place.role == "gain":
            level = 0.0 if place.is_bias else 1.0
            return Constant(level, companions=Companions(learning_rate=_grown(place)[1] if sgd else 1.0))
        if place.role == "embedding":
            m = _grown(place)[0]  # a table [row, d] grows along d, which its shape reads as fan_in
            return Normal(gain, companions=Companions(learning_rate=m if sgd else 1.0))
        m_in, m_out = _grown(place)
        if place.position == "last":
            beside = Companions(multiplier=1 / m_in, learning_rate=m_in if sgd else 1.0)
            return Normal(gain * math.sqrt(m_in / place.fan_in), companions=beside)
        fan = 1.0 if place.position == "first" else m_in
        rate = m_out / fan if sgd else 1 / fan
        return Normal(gain / math.sqrt(place.fan_in), companions=Companions(learning_rate=rate))

    return law


def _grown(place: Place) -> tuple[float, float]:
    """How many times wider than the base model, on the input and on the output side; 1 without a base model."""
    if place.base is None:
        return 1.0, 1.0
    if place.fans is None and len(place.shape) < 2 + place.layout.stack:
        return 1.0, place.shape[0] / place.base.fan_out
    return place.fan_in / place.base.fan_in, place.fan_out / place.base.fan_out


@scheme
def ntk(*, weight_std: float = 1.0, bias_std: float = 0.0) -> LawOf:
    """NTK parametrisation: unit weights, and the scale in the forward pass.

    y = weight_std / sqrt(n_in) W x + bias_std b, all entries N(0, 1). Step for step the same as the standard
    parametrisation N(0, weight_std^2 / n_in) whose learning rate for the layer is weight_std^2 / n_in times this one's
    (bias_std^2 times for the bias). With one common rate it has a limit of infinite width, which does not learn
    features.

    Args:
        weight_std: s_w.
        bias_std: s_b, the multiplier of the bias.
    Example:
        >>> from symbreak.schemes import Fans
        >>> ntk().companions(Place(fans=Fans(100, 10))).multiplier
        0.1

    Source: Jacot, Gabriel and Hongler 2018, arXiv:1806.07572; google/neural-tangents, stax.Dense.
    """
    weight_std, bias_std = number("weight_std", weight_std, least=0.0), number("bias_std", bias_std, least=0.0)

    def law(place: Place) -> Law:
        if place.role == "gain":
            return Constant(1.0)
        scale = bias_std if place.is_bias else weight_std / math.sqrt(place.fan_in)
        return Normal(1.0, companions=Companions(multiplier=scale))

    return law


@scheme
def mean_field(*, gain: float = 1.0) -> LawOf:
    """A two-layer network as an average over its hidden units: f(x) = 1/n sum_j a_j phi(w_j x).

    Hidden weights N(0, gain^2 / n_in), output weights N(0, 1) with multiplier 1/n, and learning rates times n, because
    every unit's gradient is 1/n of what it would be. Units copied k times in a net k times as wide then move exactly as
    the originals: the training does not depend on the width but through what is drawn, and the limit learns features.
    Same as muP for two layers, up to the base width.

    Args:
        gain: of the hidden layer.
    Example:
        >>> from symbreak.schemes import Fans
        >>> mean_field().companions(Place(fans=Fans(500, 1), position="last"))
        Companions(multiplier=0.002, learning_rate=500.0, residual=1.0, backward=None)

    Source: Mei, Montanari and Nguyen 2018, arXiv:1804.06561; Chizat and Bach 2018, arXiv:1805.09545.
    """
    gain = number("gain", gain, least=0.0)

    def law(place: Place) -> Law:
        if place.position == "last":
            if place.is_bias:
                return Constant(0.0)
            n = place.fan_in
            return Normal(1.0, companions=Companions(multiplier=1 / n, learning_rate=float(n)))
        beside = Companions(learning_rate=float(place.fan_out))
        return (
            Constant(0.0, companions=beside)
            if place.is_bias
            else Normal(gain / math.sqrt(place.fan_in), companions=beside)
        )

    return law


@scheme
def spectral(*, distribution: Literal["orthogonal", "normal"] = "orthogonal", optimizer: Optimizer = "adam") -> LawOf:
    """Weights whose largest singular value is sqrt(n_out / n_in): features keep size 1 an entry at any width.

    "orthogonal": all singular values are sqrt(n_out / n_in). "normal": N(0, s^2) with s = sqrt(n_out / n_in) /
    (sqrt(n_in) + sqrt(n_out)), whose largest singular value is that in the limit. Learning rates that keep the update's
    norm in the same proportion: SGD n_out / n_in, Adam 1 / n_in. Equivalent to muP.

    The condition on weights and on updates is the paper's, and is measured in the tests; the paper leaves the law that
    weights are drawn from open, so "orthogonal" is ours as much as "normal".

    Args:
        distribution: of the weights.
        optimizer: which learning rate.
    Example:
        >>> import torch
        >>> W = spectral().draw((100, 25), generator=torch.Generator())
        >>> round(float(torch.linalg.matrix_norm(W, 2)), 4)
        2.0

    Source: Yang, Simon and Bernstein 2023, arXiv:2310.17813, condition 1 and parametrisation 1.
    """
    kind = choice("distribution", distribution, ("orthogonal", "normal"))
    rates = choice("optimizer", optimizer, OPTIMIZERS)

    def law(place: Place) -> Law:
        if place.is_bias:
            return Constant(0.0)
        n_in, n_out = place.fan_in, place.fan_out
        norm = math.sqrt(n_out / n_in)
        beside = Companions(learning_rate=n_out / n_in if rates == "sgd" else 1 / n_in)
        if kind == "normal":
            return Normal(norm / (math.sqrt(n_in) + math.sqrt(n_out)), companions=beside)

        def paint(matrix: Tensor, generator: torch.Generator) -> None:
            flat = matrix.flatten(1)
            matrix.copy_((norm * haar(flat.shape[0], flat.shape[1], generator)).reshape(matrix.shape))

        return Each(place, paint, lambda o, i, taps: (0.0, norm**2 / max(o, i * taps)), companions=beside)

    return law


@scheme
def unit_scaling(*, constrained: bool = False) -> LawOf:
    """Unit weights, and every operation scaled so that values and gradients have size 1: for float8 and float16.

    W ~ N(0, 1); the product is multiplied by 1/sqrt(n_in) in the forward pass, the gradient of the input by
    1/sqrt(n_out) (see `companions`), the gradient of the weight by 1/sqrt(batch), which belongs to the operation.
    Biases 0, gains 1. It changes operations, not only the start: these weights alone in a plain network explode.

    Two scales for one operation are no gradient of anything where its input is read elsewhere as well (a skip path).
    There one number has to do for both: their geometric mean, (n_in n_out)^(-1/4), which the authors' library takes for
    every linear layer by default. Later versions of it scale the gradient of the weight by batch^(-3/4).

    Args:
        constrained: whether both passes share the geometric mean of their scales.
    Example:
        >>> from symbreak.schemes import Fans
        >>> unit_scaling().companions(Place(fans=Fans(100, 25)))
        Companions(multiplier=0.1, learning_rate=1.0, residual=1.0, backward=0.2)

    Source: Blake, Orr and Luschi 2023, arXiv:2303.11257, section 3; graphcore-research/unit-scaling, functional.py.
    """
    if not isinstance(constrained, bool):
        raise SchemeError(f"constrained={constrained!r}: expected True or False.")

    def law(place: Place) -> Law:
        if place.is_bias or place.role == "gain":
            return Constant(0.0 if place.is_bias else 1.0)
        if place.role == "embedding":
            return Normal(1.0)
        forward, backward = 1 / math.sqrt(place.fan_in), 1 / math.sqrt(place.fan_out)
        if constrained:
            forward = backward = math.sqrt(forward * backward)
        return Normal(1.0, companions=Companions(multiplier=forward, backward=backward))

    return law
