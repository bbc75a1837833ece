"""How a gradient becomes a step: on one vector where we write it out, through torch.optim for everything else."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from symbreak.errors import nearest
from symbreak.nets.errors import NetError


class SolverError(NetError):
    """A solver that is not known, or cannot train a net one gradient at a time."""


class Stepper(Protocol):
    """What the training loop asks of a solver."""

    def step(self, theta: Tensor, gradient: Tensor) -> None: ...


class Sgd:
    """Gradient descent with momentum, on one vector; bit for bit torch.optim.SGD.

    v <- momentum v + g, the first time v <- g;   theta <- theta - eta v, or with Nesterov theta - eta (g + momentum v)

    Example:
        >>> theta = torch.tensor([1.0])
        >>> Sgd(0.1).step(theta, torch.tensor([2.0]))
        >>> theta
        tensor([0.8000])

    Source: torch.optim.SGD; Sutskever et al. 2013 for this form of Nesterov's method.
    """

    def __init__(self, eta: float, *, momentum: float = 0.0, nesterov: bool = False) -> None:
        self.eta, self.momentum, self.nesterov = eta, momentum, nesterov
        self.velocity: Tensor | None = None

    def step(self, theta: Tensor, gradient: Tensor) -> None:
        if self.momentum:
            if self.velocity is None:
                self.velocity = gradient.clone()
            else:
                self.velocity.mul_(self.momentum).add_(gradient)
            ahead = gradient.add(self.velocity, alpha=self.momentum) if self.nesterov else self.velocity
            theta.add_(ahead, alpha=-self.eta)
        else:
            theta.add_(gradient, alpha=-self.eta)


class Adam:
    """Adam on one vector; the same steps as torch.optim.Adam, up to rounding.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2;   theta <- theta - eta mhat / (sqrt(vhat) + eps)

    Example:
        >>> theta = torch.tensor([1.0])
        >>> Adam(0.1).step(theta, torch.tensor([2.0]))      # the first step has size eta, whatever the gradient
        >>> theta
        tensor([0.9000])

    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, with its default betas and eps.
    """

    BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

    def __init__(self, eta: float) -> None:
        self.eta, self.t = eta, 0
        self.mean: Tensor | None = None
        self.square: Tensor | None = None

    def step(self, theta: Tensor, gradient: Tensor) -> None:
        if self.mean is None or self.square is None:
            self.mean, self.square = torch.zeros_like(theta), torch.zeros_like(theta)
        self.t += 1
        self.mean.lerp_(gradient, 1 - self.BETA1)
        self.square.mul_(self.BETA2).addcmul_(gradient, gradient, value=1 - self.BETA2)
        # Both corrections in the two numbers, not in two more passes over theta.
        size = math.sqrt(1 - self.BETA2**self.t)
        scale = self.square.sqrt().add_(self.EPS * size)
        theta.addcdiv_(self.mean, scale, value=-self.eta * size / (1 - self.BETA1**self.t))


class FromTorch:
    """Any torch optimizer; it moves the parameters themselves, which are views of theta.

    Example:
        >>> weight = nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> FromTorch(torch.optim.Adagrad([weight], lr=0.5)).step(weight, weight.grad)
        >>> weight.item()
        0.5

    Source: torch.optim.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, theta: Tensor, gradient: Tensor) -> None:  # noqa: ARG002 (they are the parameters' own)
        self.optimizer.step()


Factory = Callable[..., torch.optim.Optimizer]
TORCH: dict[str, Factory] = {
    "adagrad": torch.optim.Adagrad,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
}
SOLVERS = ("sgd", "adam", *TORCH)


def solver(
    given: str | Factory, parameters: Iterable[nn.Parameter], eta: float, *, momentum: float, nesterov: bool
) -> Stepper:
    """The solver of that name, or what a factory makes of `factory(parameters, lr=eta)`.

    Args:
        given: "sgd", "adam", a name of `TORCH`, or such as functools.partial(torch.optim.AdamW, weight_decay=0.1).
        parameters: of the net, for torch's optimizers.
        eta: the learning rate.
        momentum: for "sgd" alone.
        nesterov: for "sgd" alone.
    Raises:
        SolverError: an unknown name, no torch optimizer, or one that needs a closure (LBFGS).
    Example:
        >>> solver("sgd", [], 0.1, momentum=0.9, nesterov=True).momentum
        0.9

    Source: torch.optim; sklearn.neural_network.MLPClassifier for the names.
    """
    if given == "sgd":
        return Sgd(eta, momentum=momentum, nesterov=nesterov)
    if given == "adam":
        return Adam(eta)
    return FromTorch(_made(_factory(given), given, parameters, eta))


def _factory(given: Any) -> Factory:
    if isinstance(given, str):
        if given not in TORCH:
            raise SolverError(f"no solver is called {given!r}. {nearest(given, SOLVERS)}")
        return TORCH[given]
    if not callable(given):
        raise SolverError(f"solver={given!r}: expected one of {', '.join(SOLVERS)}, or a torch.optim class.")
    return given  # type: ignore[no-any-return]  # its result is looked at below


def _made(factory: Factory, given: object, parameters: Iterable[nn.Parameter], eta: float) -> torch.optim.Optimizer:
    try:
        optimizer = factory(list(parameters), lr=eta)
    except (TypeError, ValueError) as err:
        raise SolverError(f"solver={given!r} was called as factory(parameters, lr={eta:g}) and raised: {err}.") from err
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise SolverError(f"solver={given!r} made a {type(optimizer).__name__}; expected a torch.optim.Optimizer.")
    if inspect.signature(type(optimizer).step).parameters["closure"].default is inspect.Parameter.empty:
        raise SolverError(f"{type(optimizer).__name__} asks for the loss several times a step, which is not done here.")
    return optimizer
