"""Schemes that scale with the fans: LeCun, Glorot, He and their kin.

Index letters: W[o, i], o out units, i in units. n_in and n_out are the fans, fan_in and fan_out.
"""

from __future__ import annotations

import math
from typing import Literal

from symbreak.errors import SchemeError
from symbreak.schemes.activations import activation
from symbreak.schemes.checks import choice, number
from symbreak.schemes.fans import FanMode
from symbreak.schemes.gain import critical
from symbreak.schemes.laws import Law, Normal, TruncatedNormal, truncated_std, within
from symbreak.schemes.place import Place
from symbreak.schemes.scheme import LawOf, scheme

MODES = ("fan_in", "fan_out")
ALL_MODES = (*MODES, "fan_avg", "fan_geo_avg")


def _fan(place: Place, mode: str) -> float:
    if mode == "fan_in":
        return place.fan_in
    if mode == "fan_out":
        return place.fan_out
    both = place.fan_in, place.fan_out
    return sum(both) / 2 if mode == "fan_avg" else math.sqrt(math.prod(both))


@scheme
def torch_default() -> LawOf:
    """What torch does when nobody chooses: the default of nn.Linear and nn.Conv.

    W[o, i] ~ U(-1/sqrt(n_in), 1/sqrt(n_in)), so Var W = 1 / (3 n_in); the bias is drawn from the same interval. Written
    in torch as kaiming_uniform_(a=sqrt(5)). The second moment shrinks threefold a linear layer, sixfold a ReLU layer.
    `ConvTranspose` differs: torch reads its weight as if it were not transposed.

    Example:
        >>> round(torch_default().moments(fan_in=300).std, 4)
        0.0333

    Source: torch/nn/modules/linear.py, reset_parameters; Glorot and Bengio 2010, equation 1.
    """
    return lambda place: within(1 / math.sqrt(place.fan_in))


@scheme
def kaiming_normal(*, gain: float = math.sqrt(2), mode: FanMode = "fan_in") -> LawOf:
    """Normal weights that keep the second moment of ReLU activations constant with depth.

    W[o, i] ~ N(0, gain^2 / fan), where fan is n_in for "fan_in" and n_out for "fan_out". For another activation take
    its forward gain: `symbreak.schemes.gains("gelu").forward` is 1.534.

    torch counts all outputs of a grouped convolution in fan_out; here they are divided by the groups, as timm does.

    Args:
        gain: dimensionless; sqrt(2) because ReLU keeps half of a symmetric second moment.
        mode: "fan_in" preserves the forward pass, "fan_out" the backward pass.
    Example:
        >>> round(kaiming_normal().moments(fan_in=200, fan_out=50).std, 3)
        0.1

    Source: He et al. 2015, arXiv:1502.01852, equations 10 and 14; torch.nn.init.kaiming_normal_, bit for bit.
    """
    gain, side = number("gain", gain, least=0.0), choice("mode", mode, MODES)
    return lambda place: Normal(gain / math.sqrt(_fan(place, side)))


@scheme
def kaiming_uniform(*, gain: float = math.sqrt(2), mode: FanMode = "fan_in") -> LawOf:
    """Uniform weights with the standard deviation of `kaiming_normal`.

    W[o, i] ~ U(-a, a) with a = gain sqrt(3 / fan).

    Args:
        gain: dimensionless; sqrt(2) because ReLU keeps half of a symmetric second moment.
        mode: "fan_in" preserves the forward pass, "fan_out" the backward pass.
    Example:
        >>> round(kaiming_uniform().moments(fan_in=200).std, 3)
        0.1

    Source: He et al. 2015, arXiv:1502.01852; torch.nn.init.kaiming_uniform_.
    """
    gain, side = number("gain", gain, least=0.0), choice("mode", mode, MODES)
    return lambda place: within(gain * math.sqrt(3 / _fan(place, side)))


@scheme
def xavier_normal(*, gain: float = 1.0) -> LawOf:
    """Normal weights, a compromise between keeping the forward and the backward scale of a linear or tanh layer.

    W[o, i] ~ N(0, 2 gain^2 / (n_in + n_out)). Derived where phi'(0) = 1: tanh, softsign; for the sigmoid take gain=4.
    Not truncated (JAX and Keras truncate at two standard deviations).

    Args:
        gain: dimensionless; 1 for activations with slope 1 at zero.
    Example:
        >>> round(xavier_normal().moments(fan_in=150, fan_out=50).std, 3)
        0.1

    Source: Glorot and Bengio 2010, AISTATS, equation 12; torch.nn.init.xavier_normal_.
    """
    gain = number("gain", gain, least=0.0)
    return lambda place: Normal(gain * math.sqrt(2 / (place.fan_in + place.fan_out)))


@scheme
def xavier_uniform(*, gain: float = 1.0) -> LawOf:
    """Uniform weights with the standard deviation of `xavier_normal`.

    W[o, i] ~ U(-a, a) with a = gain sqrt(6 / (n_in + n_out)). On a fused query-key-value weight [3d, d] torch and this
    scheme differ: torch sees n_out = 3d and draws each of the three with half the variance it would have alone.

    Args:
        gain: dimensionless; 1 for activations with slope 1 at zero.
    Example:
        >>> round(xavier_uniform().moments(fan_in=150, fan_out=50).std, 3)
        0.1

    Source: Glorot and Bengio 2010, AISTATS, equation 16; torch.nn.init.xavier_uniform_.
    """
    gain = number("gain", gain, least=0.0)
    return lambda place: within(gain * math.sqrt(6 / (place.fan_in + place.fan_out)))


@scheme
def lecun_normal() -> LawOf:
    """Normal weights that keep the scale of a linear layer, and of SELU's self-normalising nets.

    W[o, i] ~ N(0, 1 / n_in), not truncated (Keras and JAX truncate at two standard deviations). With LeCun's own
    1.7159 tanh(2z/3) one layer keeps 0.75 of a unit second moment, and deep nets settle at 0.38.

    Example:
        >>> lecun_normal().moments(fan_in=100).std
        0.1

    Source: LeCun, Bottou, Orr and Mueller 1998, Efficient BackProp, section 4.6; Klambauer et al. 2017 for SELU.
    """
    return lambda place: Normal(1 / math.sqrt(place.fan_in))


@scheme
def lecun_uniform() -> LawOf:
    """Uniform weights with the standard deviation of `lecun_normal`; sqrt(3) times wider than torch's default.

    W[o, i] ~ U(-a, a) with a = sqrt(3 / n_in).

    Example:
        >>> round(lecun_uniform().moments(fan_in=100).std, 3)
        0.1

    Source: LeCun, Bottou, Orr and Mueller 1998, Efficient BackProp, section 4.6.
    """
    return lambda place: within(math.sqrt(3 / place.fan_in))


@scheme
def variance_scaling(
    scale: float = 1.0,
    *,
    mode: Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"] = "fan_in",
    distribution: Literal["normal", "truncated_normal", "uniform"] = "truncated_normal",
) -> LawOf:
    """The general form that LeCun, Glorot and He are cases of.

    Var W = scale / fan. fan_avg is the mean of both fans, fan_geo_avg the root of their product.

    Keras' distribution "normal" means truncated; here words mean what they say. JAX's complex truncated draw is 1.9%
    too wide in variance; this one is real.

    Args:
        scale: of the variance: 1 LeCun, 2 He, 1 with fan_avg Glorot.
        mode: which fan.
        distribution: of the weights; all have the same variance.
    Example:
        >>> round(variance_scaling(2.0, mode="fan_out").moments(fan_in=9, fan_out=200).std, 3)
        0.1

    Source: tf.keras.initializers.VarianceScaling; jax.nn.initializers.variance_scaling.
    """
    scale, mode_ = number("scale", scale, least=0.0), choice("mode", mode, ALL_MODES)
    kind = choice("distribution", distribution, ("normal", "truncated_normal", "uniform"))

    def law(place: Place) -> Law:
        std = math.sqrt(scale / _fan(place, mode_))
        if kind == "normal":
            return Normal(std)
        return within(std * math.sqrt(3)) if kind == "uniform" else TruncatedNormal(std / truncated_std(2.0))

    return law


@scheme
def edge_of_chaos(phi: str = "tanh", *, q: float = 1.0) -> LawOf:
    """Weights and biases at which deep signals neither die nor explode, and inputs neither merge nor fly apart.

    W[o, i] ~ N(0, s_w^2 / n_in) and b[o] ~ N(0, s_b^2), with s_w^2 E[phi'(z)^2] = 1 and s_b^2 = q - s_w^2 E[phi(z)^2],
    z ~ N(0, q). One pair for every q. For ReLU it is `kaiming_normal` with zero biases; sigmoid, softplus and the
    Gaussian have none at q = 1, because s_b^2 would be negative.

    Args:
        phi: the activation that follows, as `symbreak.schemes.activation` writes it.
        q: variance at which the pre-activations stay.
    Example:
        >>> round(edge_of_chaos("tanh").moments(fan_in=100).std, 4)
        0.1467

    Source: Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, arXiv:1611.01232.
    """
    found, q = activation(phi), number("q", q, above=0.0)

    def law(place: Place) -> Law:
        edge = critical(found, q)
        if not edge.feasible:
            raise SchemeError(
                f"{found!r} has no critical point at q={q:g}: the bias variance would be {edge.bias_variance:.3g}. "
                "Take another q, or keep the forward pass alone: kaiming_normal(gain=gains(phi).forward)."
            )
        if place.is_bias:
            return Normal(math.sqrt(max(edge.bias_variance, 0.0)))
        return Normal(math.sqrt(edge.weight_variance / place.fan_in))

    return law


@scheme
def siren(*, frequency: float = 30.0) -> LawOf:
    """Weights for sin(frequency z), so that every layer's pre-activation is close to standard normal.

    First layer W ~ U(-1/n_in, 1/n_in); others W ~ U(-c, c) with c = sqrt(6 / n_in) / frequency. Biases as torch's
    default, U(-1/sqrt(n_in), 1/sqrt(n_in)), as in the authors' code; the paper is silent.

    Args:
        frequency: w0 of the sine, 30 in the paper.
    Example:
        >>> round(siren().moments(fan_in=256).std, 5)
        0.00295

    Source: Sitzmann et al. 2020, arXiv:2006.09661, section 3.2; vsitzmann/siren, first_layer_sine_init and sine_init.
    """
    frequency = number("frequency", frequency, above=0.0)

    def law(place: Place) -> Law:
        if place.is_bias:
            return within(1 / math.sqrt(place.fan_in))
        first = place.position == "first"
        return within(1 / place.fan_in if first else math.sqrt(6 / place.fan_in) / frequency)

    return law
