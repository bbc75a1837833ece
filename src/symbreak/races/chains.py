"""Many multilayer perceptrons of one shape as one: forward and backward written out, two products a layer.

Index letters: m models, b samples, i units in, o units out. Signals are [m, o, b], samples last, because elementwise
functions and the softmax then run over long rows: a softmax over a last axis of 10 took forty times as long. Biases are
tensors of their own: as one more column, heard by a unit that is always 1, they made rows of 65 numbers out of 64, and
the product that is added into a first layer took twice as long.

torch.compile has little to add here: a step compiled as a whole took as long as this one (`python benchmarks/race.py
compiled`).
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

    z [m, o, n] of each layer; inputs [m, i, n] of each further one; and dloss/d(input) of the further ones, which
    becomes dloss/dz below it.
    """

    def __init__(self, weights: Sequence[Tensor], n: int) -> None:
        m = len(weights[0])
        self.z = [W.new_empty(m, W.shape[1], n) for W in weights]
        self.inputs = [torch.empty_like(z) for z in self.z[:-1]]
        self.slopes = [torch.empty_like(z) for z in self.z[:-1]]
        self.ones = weights[0].new_ones(n)


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

    weights: list[Tensor]  # of each layer [m, o, i]
    biases: list[Tensor]  # of each layer [m, o]
    activation: str
    loss: str
    copies: tuple[int, ...] = ()  # that each unit of a hidden layer stands for; empty: each for itself

    def __post_init__(self) -> None:
        self.phi, self.pullback = KNOWN.get(self.activation) or _by_autograd(self.activation)
        self._rooms: dict[int, _Room] = {}

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases in turn, the first layer's first."""
        return [one for pair in zip(self.weights, self.biases, strict=True) for one in pair]

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
        room, x = self.room(len(x)), x.to(self.weights[0].dtype)
        torch.addmm(self.biases[0].view(-1, 1), _flat(self.weights[0]), x.T, out=_flat(room.z[0]))
        for k, h in enumerate(room.inputs, start=1):
            self.phi(room.z[k - 1], h)
            torch.baddbmm(self.biases[k][:, :, None], self.weights[k], h, alpha=self._copies(k - 1), out=room.z[k])
        return room

    def _copies(self, k: int) -> int:
        """How many units each unit of layer k stands for."""
        return self.copies[k] if k < len(self.copies) else 1

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
        """Hand each layer's (k, delta [m, o, b], input) to `use`, the last first; delta times rate.

        The first layer's input is one for all models, [b, i]; those of the others are [m, b, i].
        """
        room = self._forward(x)
        delta = self.slope(room.z[-1], y, rate)
        for k in range(len(self.weights) - 1, 0, -1):
            h, slope = room.inputs[k - 1], room.slopes[k - 1]
            torch.bmm(self.weights[k].transpose(1, 2), delta, out=slope)
            if self._copies(k) > 1:
                slope.mul_(self._copies(k))
            use(k, delta, h.transpose(1, 2))
            self.pullback(room.z[k - 1], h, slope)
            delta = slope
        use(0, delta, x.to(delta.dtype))

    def gradients(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """The gradient of every parameter."""
        found = [torch.empty_like(one) for one in self.parameters]

        def put(k: int, delta: Tensor, below: Tensor) -> None:
            if k:
                torch.bmm(delta, below, out=found[2 * k])
            else:
                torch.mm(_flat(delta), below, out=_flat(found[0]))
            torch.sum(delta, dim=2, out=found[2 * k + 1])

        self._backward(x, y, None, put)
        return found

    def descend(self, x: Tensor, y: Tensor, eta: Tensor) -> None:
        """A step of plain descent, with no gradient kept: the products are added into the weights. eta [m]"""
        ones = self.room(len(x)).ones

        def take(k: int, delta: Tensor, below: Tensor) -> None:
            if k:
                self.weights[k].baddbmm_(delta, below)
            else:
                _flat(self.weights[0]).addmm_(_flat(delta), below)
            self.biases[k].view(-1).addmv_(_flat(delta), ones)

        self._backward(x, y, -eta[:, None, None].to(self.weights[0].dtype), take)

    def counts(self) -> Sequence[int]:
        """For each parameter, how many weights each of its numbers stands for."""
        found = []
        for k in range(len(self.weights)):
            out, heard = self._copies(k), self._copies(k - 1) if k else 1
            found += [out * heard, out]
        return found

    def keep(self, rows: Tensor) -> Tensor:
        """Go on with some of the models."""
        self.weights, self.biases = ([one[rows] for one in group] for group in (self.weights, self.biases))
        self._rooms.clear()
        return rows


def _flat(many: Tensor) -> Tensor:
    """[m, o, n] as [m o, n]: what all models read is one large product, a tenth faster than many small ones."""
    return many.view(-1, many.shape[-1])


def stack(spec: Spec, states: Sequence[State], loss: str) -> Chains:
    """Chains from the tensors of each start, fc1.weight, fc1.bias, fc2.weight, ..."""
    n_layers = len(spec.hidden) + 1
    weights, biases = (
        [torch.stack([one[f"fc{k}.{part}"] for one in states]) for k in range(1, n_layers + 1)]
        for part in ("weight", "bias")
    )
    return Chains(weights, biases, spec.activation if spec.hidden else "identity", loss)


def floats_a_run(widths: Sequence[int], n_samples: int) -> int:
    """Numbers that one run needs while it is trained, the rule's copies aside: weights, gradients, three signals."""
    weights = sum(o * (i + 1) for i, o in itertools.pairwise(widths))
    return 2 * weights + 3 * n_samples * sum(widths[1:])
