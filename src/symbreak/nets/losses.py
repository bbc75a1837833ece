"""The losses the textbook models are trained with, each `loss(output, target)` as torch has them.

Targets come as a table holds them: class numbers [b] or numbers [b]. The losses that compare output and target entry
by entry bring the target to the output's shape first, because [b, 1] against [b] would broadcast to [b, b].
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from symbreak.errors import BatchError

Loss = Callable[[Tensor, Tensor], Tensor]


def like(target: Tensor, output: Tensor) -> Tensor:
    """The target in the shape and dtype of the output: class numbers become one column a class where there are several.

    Example:
        >>> import torch
        >>> like(torch.tensor([1, 0]), torch.zeros(2, 2))
        tensor([[0., 1.],
                [1., 0.]])

    Source: one-hot coding.
    """
    if not target.is_floating_point() and target.ndim == 1 and output.ndim == 2 and output.shape[1] > 1:
        if int(target.max()) >= output.shape[1]:
            raise BatchError(f"class number {int(target.max())}, but the model has {output.shape[1]} outputs.")
        target = F.one_hot(target.long(), output.shape[1])
    if target.numel() != output.numel():
        raise BatchError(f"the model's output has shape {tuple(output.shape)}, the target {tuple(target.shape)}.")
    return target.reshape(output.shape).to(output.dtype)


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error.

    Example:
        >>> import torch
        >>> mse(torch.zeros(2, 1), torch.tensor([1.0, 3.0]))
        tensor(5.)

    Source: torch.nn.functional.mse_loss.
    """
    return F.mse_loss(output, like(target, output))


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error.

    Example:
        >>> import torch
        >>> l1(torch.zeros(2, 1), torch.tensor([1.0, -3.0]))
        tensor(2.)

    Source: torch.nn.functional.l1_loss.
    """
    return F.l1_loss(output, like(target, output))


def huber(output: Tensor, target: Tensor) -> Tensor:
    """Huber's loss: quadratic up to 1, linear beyond.

    Example:
        >>> import torch
        >>> huber(torch.zeros(1, 1), torch.tensor([2.0]))
        tensor(1.5000)

    Source: torch.nn.functional.huber_loss.
    """
    return F.huber_loss(output, like(target, output))


def bce(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of logits; with several outputs, each class against the rest.

    Example:
        >>> import torch
        >>> bce(torch.zeros(2, 1), torch.tensor([0, 1]))
        tensor(0.6931)

    Source: torch.nn.functional.binary_cross_entropy_with_logits.
    """
    return F.binary_cross_entropy_with_logits(output, like(target, output))


def perceptron(output: Tensor, target: Tensor) -> Tensor:
    """The loss whose gradient is exactly the perceptron update; with several outputs, each class against the rest.

    L = mean over b of sum over o of (yhat - y) z, with yhat = 1 where z >= 0 held fixed, so that dL/dw is the mean
    of (yhat - y) x.

    Example:
        >>> import torch
        >>> z = torch.tensor([[2.0], [-1.0]], requires_grad=True)
        >>> perceptron(z, torch.tensor([0, 0])).backward()
        >>> z.grad.flatten()
        tensor([0.5000, 0.0000])

    Source: Rosenblatt 1958; the convention at z = 0 is a step function with phi(0) = 1.
    """
    fired = (output.detach() >= 0).to(output.dtype)
    return ((fired - like(target, output)) * output).sum() / len(output)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": mse,
    "ce": F.cross_entropy,
    "cross_entropy": F.cross_entropy,
    "bce": bce,
    "l1": l1,
    "huber": huber,
    "nll": F.nll_loss,
    "perceptron": perceptron,
}
