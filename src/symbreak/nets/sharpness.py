"""How steep the loss bends at the start: the largest eigenvalue of its Hessian, and the learning rate that allows."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn

from symbreak.nets.objectives import Objective

PRECISION = 1e-3  # of the eigenvalue: a learning rate needs no more
DENSE = 16  # so few parameters that the whole Hessian is quicker


def sharpness(net: nn.Module, objective: Objective, x: Tensor, y: Tensor, *, alpha: float = 0.0) -> float:
    """The largest eigenvalue of the Hessian of the loss, by Lanczos on Hessian-vector products; no Hessian is formed.

    Args:
        net: any module; it is left as it is.
        objective: the loss.
        x: features [b, i].
        y: targets [b, o].
        alpha: of the penalty alpha/2 |W|^2, which lifts the eigenvalue by at most alpha; all of it is counted.
    Returns:
        The eigenvalue, in units of loss per squared weight; it may be zero or below.
    Example:
        >>> from symbreak.nets.objectives import HALF_SQUARES
        >>> net = nn.Linear(1, 1).double()                          # L = mean of (w x + b - y)^2 / 2
        >>> x = torch.tensor([[3.0], [-3.0]]).double()
        >>> round(sharpness(net, HALF_SQUARES, x, x), 6)            # mean of x^2
        9.0

    Source: Pearlmutter 1994, Fast exact multiplication by the Hessian; Cohen et al. 2021, arXiv:2103.00065.
    """
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    size = sum(parameter.numel() for parameter in parameters)
    with torch.enable_grad():
        gradient = _flat(torch.autograd.grad(objective(net(x), y), parameters, create_graph=True), parameters)

    def times(vector: np.ndarray) -> np.ndarray:
        along = torch.as_tensor(vector.ravel(), dtype=gradient.dtype)
        if not gradient.requires_grad:  # the loss is linear in every weight
            return np.zeros(size)
        products = torch.autograd.grad(gradient, parameters, along, retain_graph=True, allow_unused=True)
        product: np.ndarray = _flat(products, parameters).detach().double().numpy()
        return product

    if size <= DENSE:
        return float(np.linalg.eigvalsh(np.stack([times(row) for row in np.eye(size)]))[-1]) + alpha
    start = np.random.default_rng(0).normal(size=size)  # fixed: same data, same answer
    hessian = LinearOperator((size, size), matvec=times, dtype=np.float64)
    try:
        found = eigsh(hessian, k=1, which="LA", v0=start, tol=PRECISION, return_eigenvectors=False)
    except ArpackNoConvergence as err:
        found = err.eigenvalues
    return float(found[0]) + alpha if len(found) else math.nan


def largest_eta(curvature: float, *, momentum: float = 0.0, nesterov: bool = False) -> float:
    """The learning rate at which a quadratic of this curvature stops converging.

    2/h for plain descent, 2 (1 + momentum)/h with momentum, 2 (1 + momentum) / (1 + 2 momentum) / h with Nesterov's.

    Args:
        curvature: h > 0, the largest eigenvalue of the Hessian.
        momentum: from 0 up to 1.
        nesterov: as torch.optim.SGD has it.
    Example:
        >>> largest_eta(4.0), largest_eta(4.0, momentum=0.5), largest_eta(4.0, momentum=0.5, nesterov=True)
        (0.5, 0.75, 0.375)

    Source: the roots of each recursion's characteristic polynomial reach -1 there; Polyak 1964, Cohen et al. 2021.
    """
    reach = 1 + momentum
    return 2 * reach / curvature / (1 + 2 * momentum if nesterov else 1)


def _flat(tensors: tuple[Tensor | None, ...], parameters: list[nn.Parameter]) -> Tensor:
    whole = [
        torch.zeros_like(parameter).view(-1) if found is None else found.reshape(-1)
        for found, parameter in zip(tensors, parameters, strict=True)
    ]
    return torch.cat(whole)
