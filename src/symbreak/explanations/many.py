"""Many small networks trained side by side in one batched product: starts, seeds and learning rates at once.

Index letters: m networks, n samples, i in units, o out units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symbreak.explanations.problem import Problem

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Many:
    """M multilayer perceptrons of one shape. Nothing is trained in place: `train` returns new ones.

    Example:
        >>> import torch
        >>> nets = Many((torch.zeros(3, 1, 2),), (torch.zeros(3, 1),), torch.tanh)
        >>> nets.outputs(torch.ones(5, 2)).shape
        torch.Size([3, 5, 1])

    Source: torch.baddbmm.
    """

    weights: tuple[Tensor, ...]  # each [m, o, i]
    biases: tuple[Tensor, ...]  # each [m, o]
    activation: Callable[[Tensor], Tensor]

    def sums(self, x: Tensor) -> list[Tensor]:
        """z of every layer, [m, n, o] each; the last is the output. x: [n, i]."""
        import torch

        h = x.expand(len(self.weights[0]), *x.shape)
        found: list[Tensor] = []
        for number, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = self.activation(found[-1]) if number else h
            found.append(torch.baddbmm(b[:, None], h, W.transpose(1, 2)))
        return found

    def outputs(self, x: Tensor) -> Tensor:
        return self.sums(x)[-1]

    def parameters(self) -> tuple[Tensor, ...]:
        return (*self.weights, *self.biases)

    def of(self, parameters: Sequence[Tensor]) -> Many:
        """The same networks with other weights and biases, in the order of `parameters`."""
        layers = len(self.weights)
        return Many(tuple(parameters[:layers]), tuple(parameters[layers:]), self.activation)


def draw(
    widths: Sequence[int], stds: Sequence[float], n_nets: int, activation: Callable[[Tensor], Tensor], *, seed: int
) -> Many:
    """Normal weights with a standard deviation for each layer, biases of zero; every network its own draw.

    Example:
        >>> import torch
        >>> draw((4, 8, 1), (0.5, 0.3), 2, torch.tanh, seed=0).weights[0].shape
        torch.Size([2, 8, 4])

    Source: torch.randn with a generator.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    weights = [
        std * torch.randn((n_nets, o, i), generator=generator)
        for i, o, std in zip(widths[:-1], widths[1:], stds, strict=True)
    ]
    return Many(tuple(weights), tuple(torch.zeros(n_nets, o) for o in widths[1:]), activation)


Loss = Callable[["Tensor"], "Tensor"]  # outputs [m, n, o] -> [m]


def tensors(problem: Problem) -> tuple[Tensor, Loss, int]:
    """Features [n, i], the loss the target asks for, and how many outputs it takes: cross entropy, or half the squares.

    Example:
        >>> from symbreak.explanations.problem import read
        >>> tensors(read("iris"))[2]
        3

    Source: torch.nn.functional.
    """
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(problem.X).float()
    if problem.task == "classification":
        labels = torch.from_numpy(problem.y).long()

        def cross_entropy(outputs: Tensor) -> Tensor:
            expected = labels.expand(len(outputs), -1)
            return F.cross_entropy(outputs.transpose(1, 2), expected, reduction="none").mean(dim=1)

        return x, cross_entropy, problem.n_classes
    y = torch.from_numpy(problem.y).float()[:, None]

    def half_squares(outputs: Tensor) -> Tensor:
        return ((outputs - y) ** 2).mean(dim=(1, 2)) / 2

    return x, half_squares, 1


def gradients(nets: Many, x: Tensor, loss: Loss) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Losses [m] and the gradient of every parameter; networks do not see one another, so one sum serves them all."""
    import torch

    leaves = tuple(p.detach().requires_grad_() for p in nets.parameters())
    losses = loss(nets.of(leaves).outputs(x))
    return losses.detach(), torch.autograd.grad(losses.sum(), leaves)


def train(nets: Many, x: Tensor, loss: Loss, etas: Tensor, steps: int, *, momentum: float = 0.0) -> tuple[Many, Tensor]:
    """Full-batch descent with a learning rate for each network, etas [m].

    Returns:
        the networks after the last step, and losses [steps + 1, m]; inf or nan where one diverged.
    Example:
        >>> import torch
        >>> from symbreak.explanations.problem import read
        >>> x, loss, n_out = tensors(read("iris"))
        >>> nets = draw((4, 8, n_out), (0.5, 0.3), 2, torch.tanh, seed=0)
        >>> bool((train(nets, x, loss, torch.full((2,), 0.1), 20)[1][-1] < 1.0).all())
        True

    Source: torch.optim.SGD's update rule, without its loop over parameters.
    """
    import torch

    found = []
    velocity = tuple(torch.zeros_like(p) for p in nets.parameters())
    for _ in range(steps):
        losses, slopes = gradients(nets, x, loss)
        found.append(losses)
        velocity = tuple(momentum * v + g for v, g in zip(velocity, slopes, strict=True))
        nets = nets.of(
            [p - etas.reshape(-1, *[1] * (p.ndim - 1)) * v for p, v in zip(nets.parameters(), velocity, strict=True)]
        )
    with torch.no_grad():
        found.append(loss(nets.outputs(x)))
    return nets, torch.stack(found)
