"""The gradient of a multilayer perceptron, written out: two matrix products a layer, and one vector for all of it.

Autograd is right for any model and pays for that at every step. A chain of nn.Linear and elementwise activations needs
none of it, so a step of a small net costs about half as much here; autograd stays as the oracle in the tests, and for
the activations whose slope is not written out. Index letters: b samples, o units out, i units in, p all parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from symbreak.errors import ModelError
from symbreak.nets.objectives import Objective

Forward = Callable[[Tensor], Tensor]  # z -> h, both [b, o]
Pullback = Callable[[Tensor, Tensor], Tensor]  # (h, dloss/dh) -> dloss/dz, all [b, o]


def _tanh(z: Tensor) -> Tensor:
    # NumPy's float64 tanh takes a seventh of the time of torch's; they agree to the last bits. In float32 torch wins.
    if z.dtype == torch.float64:
        return torch.from_numpy(np.asarray(np.tanh(z.numpy())))
    return torch.tanh(z)


# Any activation may be missing here: it then goes through autograd, at some 20 to 60 microseconds a layer and step.
# The slope is a function of h alone in these four, and torch's own kernel multiplies it in.
KNOWN: dict[type[nn.Module], tuple[Forward, Pullback]] = {
    nn.Identity: (lambda z: z, lambda h, delta: delta),  # noqa: ARG005 (one signature for all)
    nn.ReLU: (torch.relu, lambda h, delta: torch.ops.aten.threshold_backward.default(delta, h, 0)),
    nn.Tanh: (_tanh, lambda h, delta: torch.ops.aten.tanh_backward.default(delta, h)),
    nn.Sigmoid: (torch.sigmoid, lambda h, delta: torch.ops.aten.sigmoid_backward.default(delta, h)),
}


class _Layer(Protocol):
    def forward(self, x: Tensor) -> Tensor: ...

    def backward(self, delta: Tensor, *, down: bool) -> Tensor: ...


class _Affine:
    """z = x W^T + b, with the gradients of W and b written where they are kept.

    The products are NumPy's, on the tensors' own memory: its BLAS takes a fifth less time than the one in torch's CPU
    wheel on AMD, and a quarter of it where the output is narrow. On Intel they are level.
    """

    def __init__(self, weight: Tensor, bias: Tensor, weight_grad: Tensor, bias_grad: Tensor, alpha: float) -> None:
        self.weight, self.bias, self.bias_grad, self.alpha = weight.numpy(), bias.numpy(), bias_grad, alpha
        self.transposed, self.weight_grad = self.weight.T, weight_grad.numpy()

    def forward(self, x: Tensor) -> Tensor:
        self.x = x.numpy()
        z = np.matmul(self.x, self.transposed)
        return torch.from_numpy(np.add(z, self.bias, out=z))

    def backward(self, delta: Tensor, *, down: bool) -> Tensor:
        slope = delta.numpy()
        np.matmul(slope.T, self.x, out=self.weight_grad)
        torch.sum(delta, 0, out=self.bias_grad)
        if self.alpha:
            self.weight_grad += self.alpha * self.weight
        return torch.from_numpy(np.matmul(slope, self.weight)) if down else delta


class _Known:
    """An activation whose slope is written out."""

    def __init__(self, phi: Forward, pullback: Pullback) -> None:
        self.phi, self.pullback = phi, pullback

    def forward(self, z: Tensor) -> Tensor:
        self.h = self.phi(z)
        return self.h

    def backward(self, delta: Tensor, *, down: bool) -> Tensor:  # noqa: ARG002 (one signature for all layers)
        return self.pullback(self.h, delta)


class _ByAutograd:
    """Any other elementwise activation, with what it learns itself (the slope of PReLU)."""

    def __init__(self, module: nn.Module, gradients: list[Tensor]) -> None:
        self.module, self.own, self.gradients = module, list(module.parameters()), gradients

    def forward(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            self.z = z.detach().requires_grad_()
            self.h = self.module(self.z)
        return cast(Tensor, self.h.detach())

    def backward(self, delta: Tensor, *, down: bool) -> Tensor:  # noqa: ARG002
        below: Tensor | None
        if not self.h.requires_grad:  # a step function: flat wherever it has a slope
            for kept in self.gradients:
                kept.zero_()
            return torch.zeros_like(delta)
        below, *own = torch.autograd.grad(self.h, [self.z, *self.own], delta, allow_unused=True)
        for kept, gradient in zip(self.gradients, own, strict=True):
            kept.zero_() if gradient is None else kept.copy_(gradient)
        return torch.zeros_like(delta) if below is None else below


class Backprop:
    """Loss and gradient of a chain of nn.Linear and elementwise activations, all parameters in one vector theta [p].

    Made by `in_one_vector`; while it lives, the parameters of the net are views of theta, so that a step that moves
    theta moves the net.

    Args:
        net: the chain, on the CPU, of one dtype.
        objective: the loss, and its gradient at the output.
        alpha: of the penalty alpha/2 |W|^2 on the weights of the linear layers; biases are free.
    """

    def __init__(self, net: nn.Sequential, objective: Objective, *, alpha: float = 0.0) -> None:
        parameters = list(net.parameters())
        self.theta = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        self.gradient = torch.zeros_like(self.theta)
        self.objective, self.alpha = objective, alpha
        homes = dict(zip(map(id, parameters), self._homes(parameters), strict=True))
        for parameter in parameters:
            parameter.data, parameter.grad = homes[id(parameter)]
        self.layers: list[_Layer] = [self._layer(module) for module in net]
        self.penalised = [torch.from_numpy(one.weight).view(-1) for one in self.layers if isinstance(one, _Affine)]

    def _homes(self, parameters: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        start = 0
        for parameter in parameters:
            part = slice(start, start := start + parameter.numel())
            yield self.theta[part].view(parameter.shape), self.gradient[part].view(parameter.shape)

    def _layer(self, module: nn.Module) -> _Layer:
        if isinstance(module, nn.Linear):
            weight, bias = module.weight, module.bias
            assert weight.grad is not None
            assert bias.grad is not None
            return _Affine(weight.detach(), bias.detach(), weight.grad, bias.grad, self.alpha)
        if any(module.children()):
            raise ModelError(f"{type(module).__name__} is no elementwise activation: it has layers of its own.")
        if type(module) in KNOWN:
            return _Known(*KNOWN[type(module)])
        return _ByAutograd(module, [own.grad for own in module.parameters() if own.grad is not None])

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """The loss [] of one batch, penalty included; the gradient is left in `gradient` [p].

        Args:
            x: features [b, i].
            target: as the objective takes it [b, o].
        """
        with torch.no_grad(), np.errstate(over="ignore", invalid="ignore"):  # infinities are the loop's business
            for layer in self.layers:
                x = layer.forward(x)
            loss, delta = self.objective.with_gradient(x, target)
            for number in range(len(self.layers) - 1, -1, -1):
                delta = self.layers[number].backward(delta, down=number > 0)
            return loss + self.penalty() if self.alpha else loss

    def penalty(self) -> Tensor:
        """alpha/2 |W|^2 over the weights of the linear layers.

        Source: ridge regression; torch's weight_decay gives the same gradient.
        """
        return torch.stack([torch.dot(weight, weight) for weight in self.penalised]).sum() * (self.alpha / 2)


@contextmanager
def in_one_vector(net: nn.Sequential, objective: Objective, *, alpha: float = 0.0) -> Iterator[Backprop]:
    """The net with its parameters in one vector for a while; afterwards each has memory of its own again, and no .grad.

    Example:
        >>> from symbreak.nets.objectives import HALF_SQUARES
        >>> net = nn.Sequential(nn.Linear(2, 1))
        >>> with in_one_vector(net, HALF_SQUARES) as backprop:
        ...     loss = backprop(torch.zeros(1, 2), torch.zeros(1, 1))
        ...     backprop.gradient.shape
        torch.Size([3])

    Source: flat parameters, as in torch.nn.utils.parameters_to_vector.
    """
    try:
        yield Backprop(net, objective, alpha=alpha)
    finally:
        for parameter in net.parameters():  # views would drag the whole vector into every pickle
            parameter.data, parameter.grad = parameter.data.clone(), None
