"""The laws of networks: one theorem (`_regauged`), a law for each symmetry of a loss, and what descent conserves.

In a conserved quantity's law c is a number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from symbreak.exact import arrays
from symbreak.exact.arrays import ArrayError, Floats
from symbreak.exact.factors import of_product_one, positive, some_positive, steps
from symbreak.exact.law import Answer, Law, always
from symbreak.exact.modes import decay
from symbreak.exact.training import HOMOGENEOUS, NetSetup, Training


def _regauged(setup: NetSetup, d: Floats, s: float) -> NetSetup:
    """The setup of d theta, where the loss at d theta is s times the loss at theta, for every theta.

    The chain rule gives the gradient s g / d. So that every step is d times the given one,

        SGD (momentum, Nesterov)        eta d^2 / s   weight decay s / d^2
        Adam, RMSprop, Adagrad          eta d         weight decay s / d^2   eps s / d
        AdamW                           eta d         weight decay 1 / d     eps s / d

    because the first divides no gradient, and the others divide each gradient by its own size.

    Args:
        d: a factor for each parameter [P].
        s: the factor of the loss.
    """
    weights = setup.split(np.concatenate([t.ravel() for t in setup.tensors]) * d)
    eta, penalty, eps = setup.flat("eta"), setup.flat("weight_decay"), setup.flat("eps")
    return replace(
        setup,
        weights=weights[: setup.depth],
        biases=None if setup.biases is None else weights[setup.depth :],
        eta=setup.split(eta * (d**2 / s if setup.optimizer == "sgd" else d)),
        weight_decay=setup.split(penalty * (1 / d if setup.optimizer == "adamw" else s / d**2)),
        eps=setup.split(eps * s / d),
    )


def _of_units(setup: NetSetup, units: Sequence[ArrayLike]) -> Floats:
    """The d that multiplies the output of every unit of layer k by units[k]; units[0] is the input's, 1. [P]"""
    whole = [
        np.broadcast_to(np.asarray(u, float), np.shape(W)[:1]) for u, W in zip(units[1:], setup.weights, strict=True)
    ]
    columns = [np.ones(np.shape(setup.weights[0])[1]), *whole]
    d = [np.outer(rows, 1 / before) for rows, before in zip(whole, columns, strict=False)]
    return np.concatenate([one.ravel() for one in (*d, *(whole if setup.biases is not None else ()))])


def _net_law(
    name: str,
    *,
    statement: str,
    source: str,
    breaks: str,
    admits: Callable[[NetSetup], Answer],
    factors: Callable[[NetSetup, Any], tuple[Floats, float]],  # d and s
    data: Callable[[NetSetup, Any], NetSetup] = lambda setup, _c: setup,  # what changes besides the parameters
    takes: Callable[[Any], Any] = positive,
) -> Law[NetSetup, Training]:
    def rescale(setup: NetSetup, c: Any) -> NetSetup:
        return data(_regauged(setup, *factors(setup, c)), c)

    def carry(run: Training, c: Any) -> Training:
        d, s = factors(run.setup, c)
        with np.errstate(over="ignore", invalid="ignore"):  # a diverging run, infinite already
            return Training(run.weights * d, run.gradients * s / d, run.losses * s, rescale(run.setup, c))

    return Law(name, statement, source, breaks, NetSetup, admits, rescale, carry, takes)


def _homogeneous(setup: NetSetup) -> Answer:
    if setup.norm_eps is not None:
        return Answer(False, "the hidden layers are normalised, so the scale of their weights is gone: scale-invariant")
    if setup.depth > 1 and setup.activation not in HOMOGENEOUS:
        return Answer(False, f"{setup.activation}(c z) is not c {setup.activation}(z)")
    return Answer(True, f"c times every weight is c^{setup.depth} times the output, as phi(c z) = c phi(z)")


def _homogeneous_with(loss: str) -> Callable[[NetSetup], Answer]:
    def admits(setup: NetSetup) -> Answer:
        if setup.loss != loss:
            return Answer(False, f"it is a law of the loss {loss!r}, not of {setup.loss!r}")
        return _homogeneous(setup)

    return admits


def _powers(setup: NetSetup, c: float) -> Floats:
    return _of_units(setup, [c**k for k in range(setup.depth + 1)])


HOMOGENEOUS_MARGIN = _net_law(
    "homogeneous-margin",
    statement="L layers, loss max(0, margin - y f): weights x c, biases of layer k x c^k, margin x c^L; with SGD a "
    "learning rate x c^(2 - L), of biases x c^(2 k - L). L = 1 is the perceptron; for L = 2 eta stays",
    source="f grows by c^L, and the loss with it; then the gradient of a weight by c^(L - 1)",
    breaks="with the margin fixed above 0, one learning rate for weights and biases, or tanh and sigmoid units",
    admits=_homogeneous_with("margin"),
    factors=lambda setup, c: (_powers(setup, c), c**setup.depth),
    data=lambda setup, c: replace(setup, margin=setup.margin * c**setup.depth),
)

HOMOGENEOUS_MSE = _net_law(
    "homogeneous-mse",
    statement="L layers, mean squared error: weights x c, biases of layer k x c^k, targets x c^L; with SGD a learning "
    "rate x c^(2 - 2 L), of biases x c^(2 k - 2 L)",
    source="f - y grows by c^L, the loss by c^(2 L), and the gradient of a weight by c^(2 L - 1)",
    breaks="with the targets left as they were, one learning rate for weights and biases, or tanh and sigmoid units",
    admits=_homogeneous_with("mse"),
    factors=lambda setup, c: (_powers(setup, c), c ** (2 * setup.depth)),
    data=lambda setup, c: replace(setup, y=arrays.numbers("y", setup.y) * c**setup.depth),
)


def _normalised(setup: NetSetup) -> Answer:
    if setup.norm_eps is None or setup.depth == 1:
        return Answer(False, "no hidden layer is normalised, so the scale of the weights is seen")
    if setup.norm_eps > 0:
        return Answer(False, f"eps = {setup.norm_eps:g} is added to the variance, and its weight depends on the scale")
    return Answer(True, "the normalisation divides the scale of the hidden weights out")


def _hidden_weights(setup: NetSetup, c: float) -> tuple[Floats, float]:
    hidden = [np.full(t.shape, c if k < setup.depth - 1 else 1.0) for k, t in enumerate(setup.tensors)]
    return np.concatenate([one.ravel() for one in hidden]), 1.0


SCALE_INVARIANT = _net_law(
    "scale-invariant",
    statement="weights in front of a normalisation x c: with SGD eta x c^2 and weight decay / c^2; with Adam eta x c, "
    "eps / c and weight decay / c^2, AdamW / c. The effective learning rate of SGD is eta / |w|^2",
    source="the loss does not see the scale of w, so its gradient is 1 / c times as large",
    breaks="for an eps above 0 inside the normalisation",
    admits=_normalised,
    factors=_hidden_weights,
)


def _layer_gauge(setup: NetSetup, c: Floats) -> tuple[Floats, float]:
    if len(c) != setup.depth:
        raise ArrayError(f"c has {len(c)} factors for {setup.depth} layers; as many are needed.")
    return _of_units(setup, [1.0, *np.cumprod(c)[:-1], 1.0]), 1.0


def _unit_gauge(setup: NetSetup, c: Floats) -> tuple[Floats, float]:
    widths = [len(arrays.numbers("weights", W)) for W in setup.weights[:-1]]
    if len(c) != sum(widths):
        raise ArrayError(f"c has {len(c)} factors for {sum(widths)} hidden units; as many are needed.")
    return _of_units(setup, [1.0, *np.split(c, np.cumsum(widths)[:-1]), 1.0]), 1.0


def _has_hidden_units(setup: NetSetup) -> Answer:
    if setup.depth == 1:
        return Answer(False, "there is no hidden layer to move scale through")
    return _homogeneous(setup)


RELU_GAUGE = _net_law(
    "relu-gauge",
    statement="layers x c_k with c_1 c_2 .. c_L = 1 (biases of layer k x c_1 .. c_k) compute the same; SGD needs "
    "eta_k x c_k^2, Adam eta_k x c_k and eps_k / c_k, to train alike",
    source="relu(c z) = c relu(z) for c > 0, so scale moves from layer to layer unseen",
    breaks="with one learning rate for all layers",
    admits=_has_hidden_units,
    factors=_layer_gauge,
    takes=of_product_one,
)

DIAGONAL_GAUGE = _net_law(
    "diagonal-gauge",
    statement="into every hidden unit x c_u and out of it / c_u compute the same; an entry scaled by d needs eta x d^2 "
    "(SGD) or eta x d and eps / d (Adam)",
    source="L(D theta) = L(theta) for a diagonal D makes the gradient at D theta g / D",
    breaks="with one learning rate for all entries",
    admits=_has_hidden_units,
    factors=_unit_gauge,
    takes=some_positive,
)

LOSS_SCALE = _net_law(
    "loss-scale",
    statement="the loss x c is undone by eta / c (SGD), or eps x c (Adam, AdamW, RMSprop, Adagrad); L2 in the gradient "
    "x c",
    source="the gradient is c times as large; adaptive optimizers divide it by its own size, but for eps",
    breaks="with L2 left as it was; adaptive optimizers with eps left as it was follow only approximately",
    admits=always("every gradient is c times as large"),
    factors=lambda setup, c: (np.ones(setup.flat("eta").size), c),
    data=lambda setup, c: replace(setup, loss_scale=setup.loss_scale * c),
)


def _first_step_from_zero(setup: NetSetup) -> Answer:
    if setup.depth > 1 or setup.loss != "logistic" or setup.optimizer != "sgd":
        return Answer(False, "it is a law of logistic regression (one layer, loss 'logistic') with SGD")
    if any(t.any() for t in setup.tensors):
        return Answer(False, "the start is not zero, so the first step is added to it")
    if setup.steps > 1:
        return Answer(False, "from the second step on the probabilities depend on eta")
    return Answer(True, "from zero every probability is 1/2, so w_1 = eta mean((y - 1/2) x), y in {0, 1}")


LOGISTIC_FIRST_STEP = Law(
    name="logistic-first-step",
    statement="from zero the first step is w_1 = eta mean((y - 1/2) x): the learning rate only scales it",
    source="the logistic function of 0 is 1/2",
    breaks="from the second step on, or from another start",
    of=NetSetup,
    admits=_first_step_from_zero,
    rescale=lambda s, c: replace(s, eta=s.split(s.flat("eta") * c)),
    carry=lambda run, c: replace(run, weights=run.weights * c),
    takes=positive,
)

# ---- conserved: c is a number of steps ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Quantity:
    """What a law says of a quantity, at every step."""

    weights: Floats  # [T + 1, quantities]


def _class_sums(run: Training | Quantity) -> Floats:
    """Every weight, and the bias, summed over the classes. [T + 1, i (+ 1)]"""
    if isinstance(run, Quantity):
        return run.weights
    W, *b = run.setup.split(run.weights)  # [T + 1, o, i], [T + 1, o]
    return np.concatenate([W.sum(axis=1), *(one.sum(axis=1, keepdims=True) for one in b)], axis=1)


def _softmax_regression(setup: NetSetup) -> Answer:
    if setup.depth > 1 or setup.loss != "cross_entropy":
        return Answer(False, "it is a law of softmax regression (one layer, loss 'cross_entropy')")
    if setup.optimizer != "sgd":
        return Answer(
            False, f"{setup.optimizer} divides each class's gradient by its own size, so they no longer sum to 0"
        )
    if not (_alike_for_all_classes(setup, "eta") and _alike_for_all_classes(setup, "weight_decay")):
        return Answer(False, "the classes have learning rates or weight decays of their own")
    return Answer(True, "shares of 1 minus one right class sum to 0, and so do the gradients of the classes")


def _alike_for_all_classes(setup: NetSetup, knob: Literal["eta", "weight_decay"]) -> bool:
    return all(bool((one == one[:1]).all()) for one in setup.split(setup.flat(knob)))


def _decayed_sums(run: Training, t: int) -> Quantity:
    a = run.setup.flat("eta") * run.setup.flat("weight_decay")
    W, *b = run.setup.split(a)  # alike for all classes: the first stands for all
    of_columns = np.concatenate([W[0], *(one[:1] for one in b)])
    counts = np.arange(t + 1)
    left, _ = decay(of_columns, counts, run.setup.momentum, nesterov=run.setup.nesterov)
    return Quantity(_class_sums(run)[0] * left.T)


SOFTMAX_SUM = Law(
    name="softmax-sum",
    statement="the sum of the weights over the classes stays what it was; with L2 it shrinks by 1 - eta lambda a step",
    source="adding a vector to every class changes no share, so the gradient has no part along it",
    breaks="with Adam and other adaptive optimizers",
    of=NetSetup,
    admits=_softmax_regression,
    rescale=lambda s, t: replace(s, steps=t),
    carry=_decayed_sums,
    takes=steps,
    sees=_class_sums,
)


def _balance(run: Training | Quantity) -> Floats:
    """|in|^2 + b^2 - |out|^2 of each hidden unit, less what the steps so far have added by their length. [T + 1, units]

    A step eta g changes |w|^2 by eta^2 |g|^2 - 2 eta w . g, and w . g is the same into and out of a unit.
    """
    if isinstance(run, Quantity):
        return run.weights
    moved = run.setup.flat("eta") * run.gradients
    added = np.cumsum(_into_minus_out(run.setup, moved), axis=0)
    drift = np.concatenate([np.zeros_like(added[:1]), added[:-1]])
    balance: Floats = _into_minus_out(run.setup, run.weights) - drift
    return balance


def _into_minus_out(setup: NetSetup, path: Floats) -> Floats:
    """Squares into each hidden unit minus squares out of it. [T + 1, units]"""
    squares = setup.split(path**2)
    weights, biases = squares[: setup.depth], squares[setup.depth :]
    of_layers = []
    for k in range(setup.depth - 1):
        into = weights[k].sum(axis=2) + (biases[k] if biases else 0.0)
        of_layers.append(into - weights[k + 1].sum(axis=1))
    return np.concatenate(of_layers, axis=1)


def _plain_descent(setup: NetSetup) -> Answer:
    if setup.optimizer != "sgd" or setup.momentum or setup.flat("weight_decay").any():
        return Answer(False, "momentum, weight decay and adaptive steps are not along the gradient")
    if np.ptp(setup.flat("eta")):
        return Answer(False, "the tensors have learning rates of their own")
    return _has_hidden_units(setup)


RELU_BALANCE: Law[NetSetup, Training] = Law(
    name="relu-balance",
    statement="|in|^2 + b^2 - |out|^2 of a hidden unit changes in a step by eta^2 (|grad in|^2 - |grad out|^2) and not "
    "otherwise: conserved by gradient flow, and over a given time it drifts in proportion to eta",
    source="scale moves through a unit unseen (diagonal-gauge), so w . grad is the same into it and out of it",
    breaks="with Adam, momentum, weight decay, or learning rates by layer",
    of=NetSetup,
    admits=_plain_descent,
    rescale=lambda s, t: replace(s, steps=t),
    carry=lambda run, t: Quantity(np.repeat(_balance(run)[:1], t + 1, axis=0)),
    takes=steps,
    sees=_balance,
)
