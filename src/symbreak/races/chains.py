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
import torch.nn.functional as F
from torch import Tensor

from symbreak.nets import Spec
from symbreak.nets.losses import like
from symbreak.races.subjects import State
from symbreak.schemes import ACTIVATIONS

Pullback = Callable[[Tensor, Tensor, Tensor], Tensor]  # (z, h, dloss/dh) -> dloss/dz
KNOWN: dict[str, tuple[Callable[[Tensor], Tensor], Pullback]] = {
    "identity": (lambda z: z, lambda z, h, d: d),  # noqa: ARG005 (one signature)
    "relu": (torch.relu, lambda z, h, d: torch.ops.aten.threshold_backward.default(d, z, 0)),  # noqa: ARG005
    "tanh": (torch.tanh, lambda z, h, d: torch.ops.aten.tanh_backward.default(d, h)),  # noqa: ARG005
    "sigmoid": (torch.sigmoid, lambda z, h, d: torch.ops.aten.sigmoid_backward.default(d, h)),  # noqa: ARG005
}
LEARNS_OR_DRAWS = ("prelu", "rrelu")


def fits(spec: Spec | None, loss: str) -> bool:
    """Whether the gradient is written out: a spec without learned or random activations, cross entropy or squares."""
    return spec is not None and spec.activation not in LEARNS_OR_DRAWS and loss in ("ce", "mse", "bce")


def _by_autograd(name: str) -> tuple[Callable[[Tensor], Tensor], Pullback]:
    phi = ACTIVATIONS[name]

    def pullback(z: Tensor, h: Tensor, delta: Tensor) -> Tensor:  # noqa: ARG001 (one signature)
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            out = phi(point)
            if not out.requires_grad:
                return torch.zeros_like(z)
            return torch.autograd.grad(out, point, delta)[0]

    return phi, pullback


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

    def __post_init__(self) -> None:
        self.phi, self.pullback = KNOWN.get(self.activation) or _by_autograd(self.activation)

    @property
    def parameters(self) -> list[Tensor]:
        return self.weights

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs [m, n, o] for features x [n, i]."""
        return self._forward(x)[1][-1].transpose(1, 2)

    def _forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The input of every layer, with its unit of ones, and z of every layer."""
        m, n = len(self.weights[0]), len(x)
        ones = x.new_ones(1, n)
        # The first layer sees the same samples in every model: one large product instead of m small ones.
        inputs = [torch.cat((x.T, ones))]
        first = self.weights[0]
        found = [(first.view(-1, first.shape[2]) @ inputs[0]).view(m, -1, n)]
        for W in self.weights[1:]:
            h = x.new_empty(m, W.shape[2], n)
            h[:, -1] = 1.0
            h[:, :-1] = self.phi(found[-1])
            inputs.append(h)
            found.append(torch.bmm(W, h))
        return inputs, found

    def _slope(self, z: Tensor, y: Tensor) -> Tensor:
        """dloss/dz of the last layer [m, o, b]."""
        if self.loss == "ce":
            expected = F.one_hot(y.long(), z.shape[1]).T.to(z.dtype)
            return torch.softmax(z, dim=1).sub_(expected).div_(len(y))
        target = like(y, z[0].T).T
        if self.loss == "bce":
            return torch.sigmoid(z).sub_(target).div_(target.numel())
        return (z - target).mul_(2 / target.numel())

    def _backward(self, x: Tensor, y: Tensor, use: Callable[[int, Tensor, Tensor], None]) -> None:
        """Hand every layer's (number, delta [m, o, b], input) to `use`, from the last to the first."""
        inputs, z = self._forward(x)
        delta = self._slope(z[-1], y)
        for number in range(len(self.weights) - 1, -1, -1):
            below = torch.bmm(self.weights[number].transpose(1, 2), delta)[:, :-1] if number else None
            use(number, delta, inputs[number])
            if below is not None:
                delta = self.pullback(z[number - 1], inputs[number][:, :-1], below)

    def gradients(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """The gradient of every layer [m, o, i + 1]."""
        found: list[Tensor] = [torch.empty(0)] * len(self.weights)

        def put(number: int, delta: Tensor, below: Tensor) -> None:
            if number:
                found[number] = torch.bmm(delta, below.transpose(1, 2))
            else:
                m, o, b = delta.shape
                found[0] = (delta.reshape(m * o, b) @ below.T).view(m, o, -1)

        self._backward(x, y, put)
        return found

    def descend(self, x: Tensor, y: Tensor, eta: Tensor) -> None:
        """A step of plain descent, with no gradient kept: the product is added into the weights. eta [m]"""
        rate = -eta[:, None, None].to(self.weights[0].dtype)

        def take(number: int, delta: Tensor, below: Tensor) -> None:
            W, scaled = self.weights[number], delta * rate
            if number:
                W.baddbmm_(scaled, below.transpose(1, 2))
            else:
                m, o, b = scaled.shape
                W.view(m * o, -1).addmm_(scaled.reshape(m * o, b), below.T)

        self._backward(x, y, take)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the models."""
        self.weights = [W[rows] for W in self.weights]


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
