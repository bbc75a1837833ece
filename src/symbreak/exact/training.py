"""A small network trained by full-batch steps in NumPy, with every knob of the optimizer set for each entry apart.

    z_l = W_l h_(l-1) + b_l,   z_l normalised over the batch if asked (no scale, no shift),   h_l = phi(z_l),   f = z_L

What the scale laws are run on: torch.optim takes one learning rate and one eps a tensor, and a law may need one for
each unit. Otherwise the formulas are torch's, and so are the results, to rounding. Index letters: n samples, i in
units, o out units, k layers, P parameters, T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from symbreak.exact import arrays
from symbreak.exact.arrays import ArrayError, Floats

Optimizer = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"]
Loss = Literal["mse", "margin", "logistic", "cross_entropy"]
Pair = tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]

# phi and its derivative, the derivative at 0 as torch takes it
ACTIVATIONS: dict[str, Pair] = {
    "identity": (lambda z: z, np.ones_like),
    "relu": (lambda z: np.where(z > 0, z, 0.0), lambda z: np.where(z > 0, 1.0, 0.0)),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1.0, 0.01)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": (lambda z: 0.5 + 0.5 * np.tanh(z / 2), lambda z: 0.25 - 0.25 * np.tanh(z / 2) ** 2),
}
HOMOGENEOUS = ("identity", "relu", "leaky_relu")  # phi(c z) = c phi(z) for every c > 0
EPS = {"sgd": 0.0, "adam": 1e-8, "adamw": 1e-8, "rmsprop": 1e-8, "adagrad": 1e-10}  # torch's defaults
BETA1, BETA2, SMOOTHING = 0.9, 0.999, 0.99  # torch's defaults, of Adam twice and of RMSprop


@dataclass(frozen=True, eq=False)
class NetSetup:
    """Everything that decides the training of a network.

    Args:
        X: features [n, d].
        y: targets: numbers [n] or [n, o] for "mse", -1 and +1 [n] for "margin" and "logistic", classes 0 .. o - 1 [n]
            for "cross_entropy".
        weights: W_1 .. W_L, each [o, i], as torch.nn.Linear keeps them.
        biases: b_1 .. b_L, each [o]; None: none.
        steps: optimizer steps, from 0 on.
        eta: learning rate; one number, or for each tensor (weights first, then biases) what broadcasts to its shape.
        optimizer: "sgd", "adam" and "rmsprop" and "adagrad" (their L2 enters the gradient), "adamw" (decoupled).
        weight_decay, eps: like eta; eps None is torch's default.
        momentum, nesterov: of "sgd".
        activation: between the layers: "relu", "leaky_relu", "identity", "tanh", "sigmoid".
        norm_eps: normalise the hidden z over the batch, with this eps; None: no normalisation.
        loss: the mean of (f - y)^2, max(0, margin - y f), log(1 + exp(-y f)), or -log softmax(f)_y.
        margin: of the loss "margin", >= 0.
        loss_scale: what the loss is multiplied with.
    Raises:
        ArrayError: from `run`: NaN, layers that do not fit, an unknown name, a number out of its range.
    Example:
        >>> NetSetup([[1.0]], [2.0], [[[0.0]]], steps=1, eta=0.5, loss="mse").run().weights.ravel().tolist()
        [0.0, 2.0]

    Source: torch.nn and torch.optim, their documentation.
    """

    X: ArrayLike
    y: ArrayLike
    weights: Sequence[ArrayLike]
    biases: Sequence[ArrayLike] | None = None
    steps: int = 1
    eta: ArrayLike | Sequence[ArrayLike] = 0.1
    optimizer: Optimizer = "sgd"
    weight_decay: ArrayLike | Sequence[ArrayLike] = 0.0
    eps: ArrayLike | Sequence[ArrayLike] | None = None
    momentum: float = 0.0
    nesterov: bool = False
    activation: str = "relu"
    norm_eps: float | None = None
    loss: Loss = "mse"
    margin: float = 0.0
    loss_scale: float = 1.0

    def run(self) -> Training:
        """Train."""
        return _train(self)

    @property
    def tensors(self) -> tuple[Floats, ...]:
        """Weights, then biases."""
        return tuple(np.asarray(t, dtype=np.float64) for t in (*self.weights, *(self.biases or ())))

    def flat(self, knob: Literal["eta", "weight_decay", "eps"]) -> Floats:
        """A knob as one number for each parameter [P].

        Raises:
            ArrayError: neither one number nor one entry for each tensor, or an entry that does not broadcast.
        """
        given = getattr(self, knob)
        given = EPS[self.optimizer] if given is None else given
        shapes = [t.shape for t in self.tensors]
        parts = list(given) if isinstance(given, Sequence) else [given] * len(shapes)
        if len(parts) != len(shapes):
            raise ArrayError(
                f"{knob} has {len(parts)} entries for {len(shapes)} tensors; give one number, or one a tensor."
            )
        try:
            whole = [np.broadcast_to(arrays.numbers(knob, p), s) for p, s in zip(parts, shapes, strict=True)]
        except ValueError as err:
            raise ArrayError(f"{knob} does not broadcast to its tensor: {err}.") from err
        return np.concatenate([one.ravel() for one in whole])

    def split(self, flat: Floats) -> tuple[Floats, ...]:
        """Numbers for each parameter [..., P] as arrays [..., *shape]; [P] alone gives what `eta` takes."""
        ends = np.cumsum([t.size for t in self.tensors])[:-1]
        parts = np.split(flat, ends, axis=-1)
        return tuple(part.reshape(*flat.shape[:-1], *t.shape) for part, t in zip(parts, self.tensors, strict=True))

    @property
    def depth(self) -> int:
        return len(self.weights)


@dataclass(frozen=True, eq=False)
class Training:
    """What a network came to: all its parameters, weights first, at every step.

    Example:
        >>> run = NetSetup([[1.0]], [2.0], [[[0.0]]], steps=3, eta=0.25).run()
        >>> run.tensors(3)[0].item(), run.losses.tolist()
        (1.75, [4.0, 1.0, 0.25, 0.0625])

    Source: `NetSetup`.
    """

    weights: Floats = field(repr=False)  # [T + 1, P]
    gradients: Floats = field(repr=False)  # [T + 1, P] of the loss, without penalty
    losses: Floats  # [T + 1]
    setup: NetSetup = field(repr=False)

    def tensors(self, step: int) -> tuple[Floats, ...]:
        """Weights, then biases, at one step."""
        return self.setup.split(self.weights[step])


def _train(setup: NetSetup) -> Training:
    _refuse(setup)
    weights = np.concatenate([t.ravel() for t in setup.tensors])
    moves, penalty = _moves(setup), setup.flat("weight_decay")
    path, gradients, losses = [], [], []
    with np.errstate(all="ignore"):  # a diverging run comes back as inf and nan, as torch's does
        for t in range(setup.steps + 1):
            loss, gradient = _loss_and_gradient(setup, setup.split(weights))
            path.append(weights)
            gradients.append(gradient)
            losses.append(loss)
            if t < setup.steps:
                weights = moves(weights, gradient, penalty, t + 1)
    return Training(np.array(path), np.array(gradients), np.array(losses), setup)


# ---- the loss and its gradient --------------------------------------------------------------------------------------


def _loss_and_gradient(setup: NetSetup, tensors: Sequence[Floats]) -> tuple[float, Floats]:
    phi, slope = ACTIVATIONS[setup.activation]
    L = setup.depth
    weights, biases = tensors[:L], tensors[L:]
    into, before, widths = [np.asarray(setup.X, dtype=np.float64)], [], []
    for k in range(L):
        z = into[-1] @ weights[k].T + (biases[k] if biases else 0.0)  # [n, o]
        normed = setup.norm_eps is not None and k < L - 1
        width = np.sqrt(z.var(axis=0) + setup.norm_eps) if normed else np.ones(z.shape[1])
        z = (z - z.mean(axis=0)) / width if normed else z
        before.append(z)
        widths.append(width)
        into.append(phi(z) if k < L - 1 else z)
    loss, back = _loss(setup, into[-1])
    of_weights, of_biases = [], []
    for k in reversed(range(L)):
        if setup.norm_eps is not None and k < L - 1:
            z = before[k]
            back = (back - back.mean(axis=0) - z * (back * z).mean(axis=0)) / widths[k]
        of_weights.append(back.T @ into[k])
        of_biases.append(back.sum(axis=0))
        if k:
            back = (back @ weights[k]) * slope(before[k - 1])
    of_tensors = of_weights[::-1] + (of_biases[::-1] if biases else [])
    return loss, np.concatenate([g.ravel() for g in of_tensors])


def _loss(setup: NetSetup, f: Floats) -> tuple[float, Floats]:
    """The loss, and its derivative with respect to the outputs [n, o]."""
    y, scale = np.asarray(setup.y, dtype=np.float64), setup.loss_scale
    if setup.loss == "cross_entropy":
        rows, classes = np.arange(len(f)), y.astype(int)
        shifted = f - f.max(axis=1, keepdims=True)
        log_share = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        right = np.zeros_like(f)
        right[rows, classes] = 1
        return scale * -float(log_share[rows, classes].mean()), scale * (np.exp(log_share) - right) / len(f)
    y = y.reshape(f.shape)
    if setup.loss == "mse":
        return scale * float(((f - y) ** 2).mean()), scale * 2 * (f - y) / f.size
    if setup.loss == "margin":
        short = setup.margin - y * f
        return scale * float(np.maximum(short, 0).mean()), scale * np.where(short > 0, -y, 0.0) / f.size
    loss = np.logaddexp(0, -y * f)
    return scale * float(loss.mean()), scale * -y * np.exp(-np.logaddexp(0, y * f)) / f.size


# ---- one step of each optimizer -------------------------------------------------------------------------------------

Move = Callable[[Floats, Floats, Floats, int], Floats]  # weights, gradient, penalty, t from 1 on -> weights


def _moves(setup: NetSetup) -> Move:
    eta, eps = setup.flat("eta"), setup.flat("eps")
    first, second = np.zeros_like(eta), np.zeros_like(eta)  # the memory of the optimizer, one number a parameter

    def sgd(w: Floats, g: Floats, penalty: Floats, _t: int) -> Floats:
        nonlocal first
        g = g + penalty * w
        first = setup.momentum * first + g
        return w - eta * (g + setup.momentum * first if setup.nesterov else first)

    def adam(w: Floats, g: Floats, penalty: Floats, t: int) -> Floats:
        nonlocal first, second
        g = g + penalty * w
        first, second = BETA1 * first + (1 - BETA1) * g, BETA2 * second + (1 - BETA2) * g**2
        return w - eta * (first / (1 - BETA1**t)) / (np.sqrt(second / (1 - BETA2**t)) + eps)

    def adamw(w: Floats, g: Floats, penalty: Floats, t: int) -> Floats:
        return adam(w * (1 - eta * penalty), g, np.zeros_like(penalty), t)

    def rmsprop(w: Floats, g: Floats, penalty: Floats, _t: int) -> Floats:
        nonlocal second
        g = g + penalty * w
        second = SMOOTHING * second + (1 - SMOOTHING) * g**2
        return w - eta * g / (np.sqrt(second) + eps)

    def adagrad(w: Floats, g: Floats, penalty: Floats, _t: int) -> Floats:
        nonlocal second
        g = g + penalty * w
        second = second + g**2
        return w - eta * g / (np.sqrt(second) + eps)

    return {"sgd": sgd, "adam": adam, "adamw": adamw, "rmsprop": rmsprop, "adagrad": adagrad}[setup.optimizer]


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse(setup: NetSetup) -> None:
    for name, known in (("optimizer", get_args(Optimizer)), ("loss", get_args(Loss)), ("activation", (*ACTIVATIONS,))):
        if getattr(setup, name) not in known:
            raise ArrayError(f"{name} is {getattr(setup, name)!r}; one of {', '.join(known)} is needed.")
    X, y = arrays.table("X", setup.X), arrays.numbers("y", setup.y)
    if len(y) != len(X):
        raise ArrayError(f"X has {len(X)} samples and y has {len(y)}; they need to be as many.")
    outputs = _fitted(setup, X.shape[1])
    _fitting_targets(setup, y, outputs)
    arrays.counts("steps", setup.steps)
    arrays.share("momentum", setup.momentum)
    arrays.not_negative("margin", setup.margin)
    arrays.not_negative("norm_eps", setup.norm_eps or 0.0)
    if setup.norm_eps is not None and len(X) < 2:
        raise ArrayError("X has 1 sample; a batch to normalise over needs at least 2, or norm_eps=None.")
    arrays.rates("loss_scale", setup.loss_scale)
    etas = arrays.rates("eta", setup.flat("eta"))
    arrays.each_from_zero_on("weight_decay", setup.flat("weight_decay"), len(etas))
    arrays.each_from_zero_on("eps", setup.flat("eps"), len(etas))


def _fitted(setup: NetSetup, features: int) -> int:
    """The number of outputs, once every layer takes what the one before it gives."""
    if not setup.weights:
        raise ArrayError("weights is empty; at least one layer is needed.")
    if setup.biases is not None and len(setup.biases) != setup.depth:
        raise ArrayError(f"biases has {len(setup.biases)} entries for {setup.depth} layers; give as many, or None.")
    width = features
    for k, given in enumerate(setup.weights):
        W = arrays.numbers(f"weights[{k}]", given)
        if W.ndim != 2 or W.shape[1] != width or not len(W):
            raise ArrayError(f"weights[{k}] has shape {W.shape}; (out units, {width}) is needed.")
        width = len(W)
        if setup.biases is not None and arrays.numbers(f"biases[{k}]", setup.biases[k]).shape != (width,):
            raise ArrayError(f"biases[{k}] has shape {np.shape(setup.biases[k])}; ({width},) is needed.")
    return width


def _fitting_targets(setup: NetSetup, y: Floats, outputs: int) -> None:
    if setup.loss == "cross_entropy":
        if y.ndim != 1 or not set(np.unique(y).tolist()) <= set(range(outputs)):
            raise ArrayError(f"y needs classes 0 to {outputs - 1}, one a sample, for the {outputs} outputs.")
        return
    if y.size != len(y) * outputs:
        raise ArrayError(f"y has shape {y.shape}, and the network {outputs} outputs a sample.")
    if setup.loss in ("margin", "logistic") and (outputs != 1 or not set(np.unique(y).tolist()) <= {-1.0, 1.0}):
        raise ArrayError(f"y needs -1 and +1, and the network one output, for the loss {setup.loss!r}.")
