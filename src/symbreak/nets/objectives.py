"""What a multilayer perceptron is trained for: each loss as torch has it, and with its gradient written out.

Index letters: b samples, o outputs. Targets come as columns [b, o] of the output's dtype, or as a table holds them:
class numbers [b] or numbers [b].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from symbreak.nets.losses import like


@dataclass(frozen=True)
class Objective:
    """A loss twice: `objective(output, target)` for autograd and `check`; `with_gradient` for the pass by hand.

    Args:
        name: as in `symbreak.nets.LOSSES`, where it is the same there.
        loss: (output, target) -> loss [], differentiable.
        with_gradient: (output, target) -> loss [], dloss/doutput [b, o]; target as columns [b, o].
    Example:
        >>> HALF_SQUARES(torch.tensor([[3.0]]), torch.tensor([1.0]))
        tensor(2.)

    Source: each loss says.
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    with_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return self.loss(output, like(target, output))


def softmax_entropy(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of softmax, mean over b, and its gradient (p - y) / n.

    Args:
        output: logits [b, o].
        target: one column a class [b, o], of zeros and ones.
    Example:
        >>> loss, delta = softmax_entropy(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        >>> round(loss.item(), 4), delta.tolist()
        (0.6931, [[-0.5, 0.5]])

    Source: torch.nn.functional.cross_entropy.
    """
    # Classes first: torch then works on many samples at once, in a tenth of the time it takes row by row.
    logs, wanted = torch.log_softmax(output.t().contiguous(), 0), target.t().contiguous()
    loss = -torch.dot(logs.view(-1), wanted.view(-1)) / len(output)
    return loss, logs.exp_().sub_(wanted).div_(len(output)).t()


def logistic_entropy(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross entropy of logits, mean over b, sum over o, and its gradient (p - y) / n.

    Args:
        output: logits [b, o].
        target: zeros and ones [b, o].
    Example:
        >>> loss, delta = logistic_entropy(torch.zeros(1, 1), torch.ones(1, 1))
        >>> round(loss.item(), 4), delta.item()
        (0.6931, -0.5)

    Source: torch.nn.functional.binary_cross_entropy_with_logits.
    """
    return _logistic(output, target), torch.sigmoid(output).sub_(target).div_(len(output))


def half_squares(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Half the squared error, mean over b, sum over o, and its gradient (z - y) / n.

    Args:
        output: numbers [b, o].
        target: numbers [b, o].
    Example:
        >>> loss, delta = half_squares(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
        >>> loss.item(), delta.item()
        (2.0, 2.0)

    Source: least squares, with the half that makes the gradient of a linear model X^T (X w - y) / n.
    """
    delta = output - target
    flat = delta.view(-1)
    return torch.dot(flat, flat) / (2 * len(output)), delta.div_(len(output))


def _logistic(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, target, reduction="sum") / len(output)


def _half_squares(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum() / (2 * len(output))


SOFTMAX = Objective("cross_entropy", F.cross_entropy, softmax_entropy)
LOGISTIC = Objective("bce", _logistic, logistic_entropy)
HALF_SQUARES = Objective("half_squares", _half_squares, half_squares)
