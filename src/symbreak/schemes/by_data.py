"""Schemes that look at data, gradients or the graph. They draw their start; `symbreak.init_` does the rest.

Index letters: W[o, i], o out units, i in units, k layers.
"""

from __future__ import annotations

from typing import Literal

from symbreak.errors import SchemeError
from symbreak.schemes.checks import choice, number, whole
from symbreak.schemes.laws import Constant, Law, Normal
from symbreak.schemes.patterns import orthogonal
from symbreak.schemes.place import Place
from symbreak.schemes.scaled import lecun_normal
from symbreak.schemes.scheme import LawOf, Scheme, scheme


def _start(text: str) -> Scheme:
    """The scheme that another one starts from."""
    from symbreak.schemes.notation import parse

    found = parse(text) if isinstance(text, str) else None
    if found is None or found.name in ("lsuv", "krahenbuhl", "weight_norm_data", "metainit", "gradinit", "analytic"):
        raise SchemeError(f"start={text!r}: expected a plain scheme, such as 'kaiming_normal'.")
    return found


def _zero_bias(place: Place) -> Law | None:
    return Constant(0.0) if place.is_bias else None


@scheme
def lsuv(*, tol: float = 0.02, attempts: int = 10) -> LawOf:
    """Orthonormal weights, then every layer's output brought to variance 1 on a batch, in the order of execution.

    W = Q, then W <- W / sqrt(Var y) until |Var y - 1| < tol, y the layer's whole output; biases 0. One division is
    enough where the bias is zero; attempts bounds the others. Convolutions are orthonormal as [o, i k].

    The paper tests the variance; its authors' later code tests the standard deviation, also shifts biases, and leaves
    the model in evaluation mode. Here the mode comes back. Norms behind a layer are left as they are, so with them the
    step changes nothing but the size of gradients.

    Args:
        tol: on the variance; 0.1 in the paper.
        attempts: divisions at most.
    Example:
        >>> lsuv().moments(fan_in=100, fan_out=100).std
        0.1

    Source: Mishkin and Matas 2015, arXiv:1511.06422, algorithm 1; ducha-aiki/LSUV-pytorch.
    """
    number("tol", tol, above=0.0)
    whole("attempts", attempts)
    base = orthogonal()
    return lambda place: _zero_bias(place) or base.law(place)


@scheme
def krahenbuhl(*, beta: float = 0.1, between: bool = True, tol: float = 0.1, rounds: int = 30) -> LawOf:
    """Every channel to mean beta and standard deviation 1 on a batch, then all layers to one rate of change.

    Within layers, in the order of execution: W[o] <- W[o] / s[o], b[o] <- beta - m[o] / s[o], with m and s the
    channel's mean and deviation over batch and space. Without a bias only the scale is set.

    Between layers: C_k = rms of the gradient over rms of W_k; with their geometric mean C, W_k is multiplied by
    (C_k / C)^(1/4) and its bias along, until all C_k lie within tol of C. In a homogeneous net (ReLU) the product of
    the factors is 1, so the function keeps its scale; elsewhere the rounds see to what they can.

    The draw before is Gaussian; the paper also starts from PCA and k-means of patches.

    Args:
        beta: mean of every channel; a little above 0 keeps ReLU units alive.
        between: whether to go on between layers.
        tol: largest |log(C_k / C)| that is left.
        rounds: of balancing, at most.
    Example:
        >>> krahenbuhl().moments(fan_in=100).std
        0.1

    Source: Kraehenbuehl et al. 2015, arXiv:1511.06856, algorithms 1 and 2; philkr/magic_init.
    """
    number("beta", beta)
    number("tol", tol, above=0.0)
    whole("rounds", rounds)
    if not isinstance(between, bool):
        raise SchemeError(f"between={between!r}: expected True or False.")
    base = lecun_normal()
    return lambda place: _zero_bias(place) or base.law(place)


@scheme
def weight_norm_data(std: float = 0.05) -> LawOf:
    """Pre-activations of mean 0 and variance 1 a channel on the first batch, as weight normalisation starts.

    v[o, i] ~ N(0, std^2), t = v x / |v|; then g[o] = 1 / s[t], b[o] = -m[t] / s[t], so that g v x / |v| + b has mean 0
    and deviation 1 over batch and space. Layers without weight norm get the same function: W[o] = v[o] g[o] / |v[o]|.

    Args:
        std: of the directions; their length does not matter.
    Example:
        >>> weight_norm_data().moments(fan_in=100).std
        0.05

    Source: Salimans and Kingma 2016, arXiv:1602.07868, section 3; openai/weightnorm, data_based_init.
    """
    level = number("std", std, above=0.0)
    return lambda place: _zero_bias(place) or Normal(level)


@scheme
def analytic(*, variance: float = 1.0) -> LawOf:
    """Every layer's output to one variance, by propagating moments through the model's graph; no data is looked at.

    W[o, i] ~ N(0, variance / (n_in E[x^2])), x what goes into the layer. Mean, variance and the covariance between
    positions travel through activations (quadrature of the function that runs), pooling, sums, products,
    concatenation, norms and attention; the share of a convolution's taps that lie in the padding is counted. Sums take
    their terms for independent, and attention its logits for normal.

    Args:
        variance: of every layer's output.
    Example:
        >>> analytic().moments(fan_in=100).std
        0.1

    Source: own derivation; the idea of layer-wise moments is Bingham and Miikkulainen's (AutoInit), arXiv:2109.08958.
    """
    number("variance", variance, above=0.0)
    base = lecun_normal()
    return lambda place: _zero_bias(place) or base.law(place)


@scheme
def metainit(
    *, steps: int = 500, learning_rate: float = 0.1, momentum: float = 0.9, eps: float = 1e-5,
    start: str = "kaiming_normal",
) -> LawOf:  # fmt: skip
    """The size of every weight tuned so that gradients hardly change over one step: the gradient quotient falls.

    GQ = mean |(g - H g) / (g + eps sgn g) - 1|, g the gradient and H g its product with the Hessian, on random inputs.
    Each step moves the norm of every tensor of two axes or more by sign momentum:
    m <- momentum m - learning_rate sgn(dGQ / d|W|), |W| <- |W| + m. Directions stay as drawn.

    Three passes backward a step; the model must be twice differentiable. The quotient of one draw is very noisy, so the
    norms that are kept are the best of twenty looks on fixed draws; the paper keeps the last. Inputs are random normal
    as there; labels are the batch's, where the paper's listing draws them as well. From starts that are far too large
    it needs all of its steps, and what it finds has small last layers: train it with a larger learning rate.

    Args:
        steps: 500 in the paper.
        learning_rate: of the norms.
        momentum: of their signs.
        eps: keeps the quotient finite.
        start: the scheme that draws the directions.
    Example:
        >>> round(metainit().moments(fan_in=200).std, 3)
        0.1

    Source: Dauphin and Schoenholz 2019 (NeurIPS), algorithm 1 and the appendix's listing.
    """
    whole("steps", steps, least=0)
    number("learning_rate", learning_rate, above=0.0)
    number("momentum", momentum, least=0.0)
    number("eps", eps, above=0.0)
    base = _start(start)
    return lambda place: _zero_bias(place) or base.law(place)


@scheme
def gradinit(
    *, steps: int = 200, eta: float = 0.1, gamma: float = 1.0, learning_rate: float = 0.01, least: float = 0.01,
    optimizer: Literal["sgd", "adam"] = "sgd", start: str = "kaiming_normal",
) -> LawOf:  # fmt: skip
    """The size of every tensor tuned so that the first step lowers the loss most, the gradient's norm bounded.

    With one factor m a tensor: minimise L~(theta_m - eta A[g]) subject to ||g|| <= gamma, g the gradient of L at
    theta_m = m theta, L~ on a batch that overlaps L's by half. Where the norm is above gamma, the step lowers the norm.
    A is the identity and the norm l2 for SGD; A the sign and the norm l1 for Adam.

    Args:
        steps: of Adam on the factors.
        eta: learning rate of the step that is looked ahead.
        gamma: bound on the norm; for "adam" it bounds an l1 norm, and must be far larger.
        learning_rate: of the factors.
        least: a factor may shrink to.
        optimizer: that the model will be trained with.
        start: the scheme that draws what is scaled.
    Example:
        >>> round(gradinit().moments(fan_in=200).std, 3)
        0.1

    Source: Zhu et al. 2021, arXiv:2102.08098, algorithm 1; zhuchen03/gradinit.
    """
    whole("steps", steps, least=0)
    for name, given in (("eta", eta), ("gamma", gamma), ("learning_rate", learning_rate), ("least", least)):
        number(name, given, above=0.0)
    choice("optimizer", optimizer, ("sgd", "adam"))
    base = _start(start)
    return lambda place: _zero_bias(place) or base.law(place)
