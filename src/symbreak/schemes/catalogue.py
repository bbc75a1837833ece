"""The schemes, one short function each; the docstring is the article.

Index letters: W[o, i], o out units, i in units. n_in and n_out are the fans.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

from symbreak.errors import SchemeError
from symbreak.schemes.fans import FanMode, Fans
from symbreak.schemes.laws import Constant, Normal, Uniform
from symbreak.schemes.scheme import LawOf, Scheme, scheme


def _number(name: str, given: float, *, least: float = -math.inf) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given) or given < least:
        expected = "a finite number" if least == -math.inf else f"a finite number, {least:g} or more"
        raise SchemeError(f"{name}={given!r}: expected {expected}.")
    return float(given)


def _mode(given: str) -> str:
    if given not in get_args(FanMode):
        raise SchemeError(f"mode={given!r}: expected 'fan_in' or 'fan_out'.")
    return given


def _fan(fans: Fans | None, mode: str) -> int:
    if fans is None:
        raise SchemeError("the fans of a tensor with fewer than two axes are those of its layer: pass fans=.")
    fan = fans.fan_in if mode == "fan_in" else fans.fan_out
    if fan < 1:
        raise SchemeError(f"{mode}={fan}: expected 1 or more.")
    return fan


def _both(fans: Fans | None) -> int:
    return _fan(fans, "fan_in") + _fan(fans, "fan_out")


@scheme
def zeros() -> LawOf:
    """Every weight zero.

    W[o, i] = 0. Right for biases, for a last layer, and for one of two factors (the B of LoRA); wrong for a hidden
    layer, whose units then stay copies of one another, or never get a gradient at all.

    Example:
        >>> zeros().moments().std
        0.0

    Source: folklore.
    """
    return lambda fans: Constant(0.0)  # noqa: ARG005 (a law may ignore the fans)


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
    level = _number("value", value)
    return lambda fans: Constant(level)  # noqa: ARG005 (a law may ignore the fans)


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

    Source: torch.nn.init.normal_; Radford et al. 2019, section 2.3, for 0.02.
    """
    law = Normal(_number("std", std, least=0.0), _number("mean", mean))
    return lambda fans: law  # noqa: ARG005 (a law may ignore the fans)


@scheme
def torch_default() -> LawOf:
    """What torch does when nobody chooses: the default of nn.Linear and nn.Conv.

    W[o, i] ~ U(-1/sqrt(n_in), 1/sqrt(n_in)), so Var W = 1 / (3 n_in); the bias is drawn from the same interval. Written
    in torch as kaiming_uniform_(a=sqrt(5)). The second moment shrinks threefold a linear layer, sixfold a ReLU layer.

    Example:
        >>> round(torch_default().moments(fan_in=300).std, 4)
        0.0333

    Source: torch/nn/modules/linear.py, reset_parameters; Glorot and Bengio 2010, equation 1.
    """
    return lambda fans: Uniform(1 / math.sqrt(_fan(fans, "fan_in")))


@scheme
def kaiming_normal(*, gain: float = math.sqrt(2), mode: FanMode = "fan_in") -> LawOf:
    """Normal weights that keep the second moment of ReLU activations constant with depth.

    W[o, i] ~ N(0, gain^2 / fan), where fan is n_in for "fan_in" and n_out for "fan_out".

    Args:
        gain: dimensionless; sqrt(2) because ReLU keeps half of a symmetric second moment.
        mode: "fan_in" preserves the forward pass, "fan_out" the backward pass.
    Example:
        >>> round(kaiming_normal().moments(fan_in=200, fan_out=50).std, 3)
        0.1

    Source: He et al. 2015, arXiv:1502.01852.
    """
    gain, side = _number("gain", gain, least=0.0), _mode(mode)
    return lambda fans: Normal(gain / math.sqrt(_fan(fans, side)))


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

    Source: He et al. 2015, arXiv:1502.01852.
    """
    gain, side = _number("gain", gain, least=0.0), _mode(mode)
    return lambda fans: Uniform(gain * math.sqrt(3 / _fan(fans, side)))


@scheme
def xavier_normal(*, gain: float = 1.0) -> LawOf:
    """Normal weights, a compromise between keeping the forward and the backward scale of a linear or tanh layer.

    W[o, i] ~ N(0, 2 gain^2 / (n_in + n_out)).

    Args:
        gain: dimensionless; 1 for activations with slope 1 at zero.
    Example:
        >>> round(xavier_normal().moments(fan_in=150, fan_out=50).std, 3)
        0.1

    Source: Glorot and Bengio 2010, AISTATS, equation 12.
    """
    gain = _number("gain", gain, least=0.0)
    return lambda fans: Normal(gain * math.sqrt(2 / _both(fans)))


@scheme
def xavier_uniform(*, gain: float = 1.0) -> LawOf:
    """Uniform weights with the standard deviation of `xavier_normal`.

    W[o, i] ~ U(-a, a) with a = gain sqrt(6 / (n_in + n_out)).

    Args:
        gain: dimensionless; 1 for activations with slope 1 at zero.
    Example:
        >>> round(xavier_uniform().moments(fan_in=150, fan_out=50).std, 3)
        0.1

    Source: Glorot and Bengio 2010, AISTATS, equation 16.
    """
    gain = _number("gain", gain, least=0.0)
    return lambda fans: Uniform(gain * math.sqrt(6 / _both(fans)))


@scheme
def lecun_normal() -> LawOf:
    """Normal weights that keep the scale of a linear layer, and of SELU's self-normalising nets.

    W[o, i] ~ N(0, 1 / n_in), not truncated (Keras and JAX truncate at two standard deviations).

    Example:
        >>> lecun_normal().moments(fan_in=100).std
        0.1

    Source: LeCun, Bottou, Orr and Mueller 1998, Efficient BackProp, section 4.6.
    """
    return lambda fans: Normal(1 / math.sqrt(_fan(fans, "fan_in")))


@scheme
def lecun_uniform() -> LawOf:
    """Uniform weights with the standard deviation of `lecun_normal`; sqrt(3) times wider than torch's default.

    W[o, i] ~ U(-a, a) with a = sqrt(3 / n_in).

    Example:
        >>> round(lecun_uniform().moments(fan_in=100).std, 3)
        0.1

    Source: LeCun, Bottou, Orr and Mueller 1998, Efficient BackProp, section 4.6.
    """
    return lambda fans: Uniform(math.sqrt(3 / _fan(fans, "fan_in")))


CATALOGUE: dict[str, Callable[..., Scheme]] = {
    "zeros": zeros,
    "constant": constant,
    "normal": normal,
    "torch_default": torch_default,
    "kaiming_normal": kaiming_normal,
    "kaiming_uniform": kaiming_uniform,
    "xavier_normal": xavier_normal,
    "xavier_uniform": xavier_uniform,
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
}
