"""Many multilayer perceptrons of one shape as one: forward and backward written out, two products a layer.

Index letters: m models, b samples, i units in, o units out. Signals are [m, o, b], samples last, because elementwise
functions and the softmax then run over long rows: a softmax over a last axis of 10 took forty times as long. A unit
that is always 1 carries the bias, so that a layer is one tensor [m, o, i + 1] and one product.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symbreak.nets import Spec
from symbreak.nets.losses import like
from symbreak.races.subjects import State
from symbreak.schemes import ACTIVATIONS

aten = torch.ops.aten
Forward = Callable[[Tensor, Tensor], object]  # (z, h): phi(z) into h
Pullback = Callable[[Tensor, Tensor, Tensor], object]  # (z, h, dloss/dh): it becomes dloss/dz
KNOWN: dict[str, tuple[Forward, Pullback]] = {
    "identity": (lambda z, h: h.copy_(z), lambda z, h, d: d),  # noqa: ARG005 (one signature)
    "relu": (
        lambda z, h: torch.clamp_min(z, 0, out=h),
        lambda z, h, d: aten.threshold_backward.grad_input(d, z, 0, grad_input=d),  # noqa: ARG005
    ),
    "tanh": (
        lambda z, h: torch.tanh(z, out=h),
        lambda z, h, d: aten.tanh_backward.grad_input(d, h, grad_input=d),  # noqa: ARG005
    ),
    "sigmoid": (
        lambda z, h: torch.sigmoid(z, out=h),
        lambda z, h, d: aten.sigmoid_backward.grad_input(d, h, grad_input=d),  # noqa: ARG005
    ),
}
Use = Callable[[int, Tensor, Tensor], None]
BLOCK = 256  # samples measured at once: more fall out of the cache, and took twice as long each
LEARNS_OR_DRAWS = ("prelu", "rrelu")


def fits(spec: Spec | None, loss: str) -> bool:
    """Whether the gradient is written out: a spec without learned or random activations, cross entropy or squares."""
    return spec is not None and spec.activation not in LEARNS_OR_DRAWS and loss in ("ce", "mse", "bce")


def _by_autograd(name: str) -> tuple[Forward, Pullback]:
    phi = ACTIVATIONS[name]

    def pullback(z: Tensor, h: Tensor, delta: Tensor) -> None:  # noqa: ARG001 (one signature)
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            out = phi(point)
        delta.copy_(torch.autograd.grad(out, point, delta)[0] if out.requires_grad else torch.zeros_like(z))

    return lambda z, h: h.copy_(phi(z)), pullback


class _Room:
    """Memory for the signals of m models and n samples, used again at every step.

    x [n, i + 1] of all models; inputs of each further layer [m, i + 1, n], with the unit of ones; z of each layer; and
    dloss/d(input) of the further ones, which becomes dloss/dz below it.
    """

    def __init__(self, weights: Sequence[Tensor], n: int) -> None:
        m = len(weights[0])
        self.x = weights[0].new_ones(n, weights[0].shape[2])
        self.inputs = [W.new_ones(m, W.shape[2], n) for W in weights[1:]]
        self.z = [W.new_empty(m, W.shape[1], n) for W in weights]
        self.slopes = [W.new_empty(m, W.shape[2] - 1, n) for W in weights[1:]]


@dataclass(eq=False)
class Chains:
    """M perceptrons with their weights stacked; `step` moves them in place.

    Example:
        >>> from symbreak import nets
        >>> from symbreak.schemes import zeros
        >>> state = {k: v.detach().clone() for k, v in nets.build("mlp:8:tanh", 2, 1, zeros()).named_parameters()}
        >>> many = stack(nets.parse_spec("mlp:8:tanh"), [state, state], "mse")
        >>> many.outputs(torch.ones(5, 2)).shape
        torch.Size([2, 5, 1])

    Source: torch.bmm; the gradient of a multilayer perceptron as in any textbook.
    """

    weights: list[Tensor]  # each [m, o, i + 1], the bias last
    activation: str
    loss: str
    copies: tuple[int, ...] = ()  # that each unit of a hidden layer stands for; empty: each for itself

    def __post_init__(self) -> None:
        self.phi, self.pullback = KNOWN.get(self.activation) or _by_autograd(self.activation)
        self._rooms: dict[int, _Room] = {}
        self._heard: list[Tensor] = []  # of each further layer [i + 1]: how often it hears each of its inputs
        for below, W in zip(self.copies, self.weights[1:], strict=False):
            heard = W.new_full((W.shape[2],), float(below))
            heard[-1] = 1.0  # the bias
            self._heard.append(heard)

    @property
    def parameters(self) -> list[Tensor]:
        return self.weights

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs [m, n, o] for features x [n, i]."""
        last = self.weights[-1]
        found = last.new_empty(len(last), last.shape[1], len(x))
        for first in range(0, len(x), BLOCK):
            found[:, :, first : first + BLOCK] = self._forward(x[first : first + BLOCK]).z[-1]
        return found.transpose(1, 2)

    def room(self, n: int) -> _Room:
        """The signals of n samples, as the last pass over so many left them."""
        if n not in self._rooms:
            self._rooms[n] = _Room(self.weights, n)
        return self._rooms[n]

    def _forward(self, x: Tensor) -> _Room:
        room = self.room(len(x))
        room.x[:, :-1] = x
        torch.mm(_flat(self.weights[0]), room.x.T, out=_flat(room.z[0]))
        for number, (h, W) in enumerate(zip(room.inputs, self.weights[1:], strict=True)):
            self.phi(room.z[number], h[:, :-1])
            torch.bmm(W * self._heard[number] if self.copies else W, h, out=room.z[number + 1])
        return room

    def slope(self, z: Tensor, y: Tensor, rate: Tensor | None) -> Tensor:
        """dloss/dz of the last layer [m, o, b], times rate [m, 1, 1]."""
        if self.loss == "ce":
            # Long rows: the transpose of a one-hot table [b, o] took three times as long to subtract.
            expected = z.new_zeros(z.shape[1:]).scatter_(0, y.long()[None], 1.0)
            slope, per = torch.softmax(z, dim=1).sub_(expected), 1 / len(y)
        else:
            target = like(y, z[0].T).T
            slope = (torch.sigmoid(z) if self.loss == "bce" else z) - target
            per = (1 if self.loss == "bce" else 2) / target.numel()
        return slope.mul_(per if rate is None else per * rate)

    def _backward(self, x: Tensor, y: Tensor, rate: Tensor | None, use: Use) -> None:
        """Hand each layer's (number, delta [m, o, b], input) to `use`, the last first; delta times rate.

        The first layer's input is one for all models, [b, i + 1]; those of the others are [m, b, i + 1].
        """
        room = self._forward(x)
        delta = self.slope(room.z[-1], y, rate)
        for number in range(len(self.weights) - 1, 0, -1):
            h, slope = room.inputs[number - 1], room.slopes[number - 1]
            torch.bmm(self.weights[number][:, :, :-1].transpose(1, 2), delta, out=slope)
            if number < len(self.copies):
                slope.mul_(self.copies[number])
            use(number, delta, h.transpose(1, 2))
            self.pullback(room.z[number - 1], h[:, :-1], slope)
            delta = slope
        use(0, delta, room.x)

    def gradients(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """The gradient of every layer [m, o, i + 1]."""
        found = [torch.empty_like(W) for W in self.weights]

        def put(number: int, delta: Tensor, below: Tensor) -> None:
            if number:
                torch.bmm(delta, below, out=found[number])
            else:
                torch.mm(_flat(delta), below, out=_flat(found[number]))

        self._backward(x, y, None, put)
        return found

    def descend(self, x: Tensor, y: Tensor, eta: Tensor) -> None:
        """A step of plain descent, with no gradient kept: the products are added into the weights. eta [m]"""

        def take(number: int, delta: Tensor, below: Tensor) -> None:
            if number:
                self.weights[number].baddbmm_(delta, below)
            else:
                _flat(self.weights[number]).addmm_(_flat(delta), below)

        self._backward(x, y, -eta[:, None, None].to(self.weights[0].dtype), take)

    def counts(self) -> list[Tensor]:
        """For each layer [o, i + 1], how many weights each of its numbers stands for."""
        found = []
        for number, W in enumerate(self.weights):
            row = self._heard[number - 1] if self.copies and number else W.new_ones(W.shape[2])
            out = self.copies[number] if number < len(self.copies) else 1
            found.append((out * row).expand(W.shape[1:]))
        return found

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the models."""
        self.weights = [W[rows] for W in self.weights]
        self._rooms.clear()


def _flat(many: Tensor) -> Tensor:
    """[m, o, n] as [m o, n]: what all models read is one large product, a tenth faster than many small ones."""
    return many.view(-1, many.shape[-1])


def stack(spec: Spec, states: Sequence[State], loss: str) -> Chains:
    """Chains from the tensors of each start, fc1.weight, fc1.bias, fc2.weight, ..."""
    n_layers = len(spec.hidden) + 1
    weights = [
        torch.stack([torch.cat((one[f"fc{k}.weight"], one[f"fc{k}.bias"][:, None]), dim=1) for one in states])
        for k in range(1, n_layers + 1)
    ]
    return Chains(weights, spec.activation if spec.hidden else "identity", loss)


def floats_a_run(widths: Sequence[int], n_samples: int) -> int:
    """Numbers that one run needs while it is trained, the rule's copies aside: weights, gradients, three signals."""
    weights = sum(o * (i + 1) for i, o in itertools.pairwise(widths))
    return 2 * weights + 3 * n_samples * sum(widths[1:])
