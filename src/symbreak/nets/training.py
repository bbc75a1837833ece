"""The training loop of the multilayer perceptrons: batches, epochs, the loss path, when to stop, and divergence.

It holds no model and no solver of its own: a Backprop gives losses and gradients, a Stepper moves theta.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from symbreak.nets.backprop import Backprop
from symbreak.nets.solvers import Stepper

# Below this many floating-point operations a step, a second thread costs more to wake than it saves.
WORTH_A_THREAD = 2e7


@dataclass(frozen=True)
class Plan:
    """How long to train and on what batches.

    Args:
        batch_size: samples a step; the last batch of an epoch may be smaller.
        max_epochs: passes over the data at most.
        shuffle: a new order each epoch; the whole data at once is never shuffled.
        seed: of the orders.
        epochs_before: epochs already trained, so that going on gives new orders.
        tol: an epoch counts as an improvement where the loss falls by more than this; None never stops early.
        patience: epochs in a row without improvement before it stops.
    Source: sklearn.neural_network.MLPClassifier, whose rule for stopping this is.
    """

    batch_size: int
    max_epochs: int
    shuffle: bool = True
    seed: int = 0
    epochs_before: int = 0
    tol: float | None = None
    patience: int = 10


@dataclass(frozen=True)
class Course:
    """What happened.

    Args:
        losses: one an epoch: the mean over its samples, each batch seen before its own step.
        steps: taken.
        ended: "tol", "epochs" (the limit), or "diverged".
        diverged_step: first step, from 1, whose loss or result was no finite number, where it diverged.
    Source: none.
    """

    losses: tuple[float, ...]
    steps: int
    ended: Literal["tol", "epochs", "diverged"]
    diverged_step: int | None = None


def train(
    backprop: Backprop,
    stepper: Stepper,
    X: Tensor,
    Y: Tensor,
    plan: Plan,
    *,
    after_epoch: Callable[[int, Tensor], None] | None = None,
) -> Course:
    """Train in place. On divergence theta goes back to where the epoch of the lowest loss began.

    On the whole data at once those are the best weights seen; on mini-batches the nearest there is to them, for no more
    than a copy of theta an epoch.

    Args:
        backprop: of the net.
        stepper: of the solver.
        X: features [n, i].
        Y: targets [n, o].
        plan: how long, on what batches.
        after_epoch: called with the number of epochs done and theta [p].
    Example:
        >>> from torch import nn
        >>> from symbreak.nets.backprop import in_one_vector
        >>> from symbreak.nets.objectives import HALF_SQUARES
        >>> from symbreak.nets.solvers import Sgd
        >>> net = nn.Sequential(nn.Linear(1, 1))
        >>> _ = [nn.init.zeros_(weight) for weight in net.parameters()]
        >>> x = torch.ones(2, 1)
        >>> with in_one_vector(net, HALF_SQUARES) as backprop:
        ...     train(backprop, Sgd(0.5), x, x, Plan(batch_size=2, max_epochs=2)).losses     # solved by the first step
        (0.5, 0.0)

    Source: the loop of every torch tutorial.
    """
    losses: list[float] = []
    stopper = _Stopper(plan.tol, plan.patience)
    steps, lowest, best = 0, math.inf, backprop.theta.clone()
    for epoch in range(plan.max_epochs):
        before = backprop.theta.clone()
        seen, sizes = [], []
        for x, y in batches(X, Y, plan, plan.epochs_before + epoch):
            seen.append(backprop(x, y))
            stepper.step(backprop.theta, backprop.gradient)
            sizes.append(len(x))
        path = torch.stack(seen)
        loss = float(path @ torch.tensor(sizes, dtype=path.dtype)) / sum(sizes)
        if not math.isfinite(loss) or not _finite(backprop.theta):
            backprop.theta.copy_(best)
            return Course(tuple(losses), steps, "diverged", steps + _first_bad(path))
        steps += len(seen)
        losses.append(loss)
        if loss < lowest:
            lowest, best = loss, before
        if after_epoch is not None:
            after_epoch(epoch + 1, backprop.theta)
        if stopper.enough(loss):
            return Course(tuple(losses), steps, "tol")
    return Course(tuple(losses), steps, "epochs")


def _finite(theta: Tensor) -> bool:
    """One sum instead of a look at every number; it can overflow only where the look would be due anyway."""
    return math.isfinite(float(theta.sum())) or bool(theta.isfinite().all())


def _first_bad(path: Tensor) -> int:
    """From 1; where all losses are finite it was the last step itself that left the range."""
    bad = (~path.isfinite()).nonzero()
    return int(bad[0]) + 1 if len(bad) else len(path)


class _Stopper:
    def __init__(self, tol: float | None, patience: int) -> None:
        self.tol, self.patience, self.best, self.quiet = tol, patience, math.inf, 0

    def enough(self, loss: float) -> bool:
        if self.tol is None:
            return False
        self.quiet = self.quiet + 1 if loss > self.best - self.tol else 0
        self.best = min(self.best, loss)
        return self.quiet > self.patience


def batches(X: Tensor, Y: Tensor, plan: Plan, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch, in its order.

    Example:
        >>> plan = Plan(batch_size=2, max_epochs=1, shuffle=False)
        >>> [x.flatten().tolist() for x, _ in batches(torch.arange(3).view(3, 1), torch.zeros(3, 1), plan, 0)]
        [[0, 1], [2]]

    Source: every sample once an epoch; Bottou 2012, Stochastic gradient descent tricks.
    """
    if plan.batch_size >= len(X):
        return iter([(X, Y)])
    if not plan.shuffle:
        return zip(_split(X, plan.batch_size), _split(Y, plan.batch_size), strict=True)
    # Batch by batch, so that a large table is not copied whole.
    chosen = _split(order(len(X), seed=plan.seed, epoch=epoch), plan.batch_size)
    return ((X.index_select(0, rows), Y.index_select(0, rows)) for rows in chosen)


def _split(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    return cast(tuple[Tensor, ...], rows.split(size))  # type: ignore[no-untyped-call]  # torch annotates no more


def order(n_samples: int, *, seed: int, epoch: int) -> Tensor:
    """The order [n] of the samples in one epoch.

    It depends on seed and epoch alone, so that k epochs in one call, and one in each of k calls, are the same training.

    Args:
        n_samples: n.
        seed: of the training.
        epoch: from 0, counted over all calls.
    Example:
        >>> torch.equal(order(5, seed=0, epoch=3), order(5, seed=0, epoch=3))
        True

    Source: torch.randperm.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch + 1) % 2**63)
    return torch.randperm(n_samples, generator=generator)


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all loaded libraries, so once


@contextmanager
def quietly(net: nn.Module, batch_size: int, *, seed: int = 0) -> Iterator[None]:
    """Training mode, as many threads as the net is worth, and torch's global random state put back afterwards.

    The threads are torch's and those of NumPy's BLAS; whoever had set them finds them as they were.

    Example:
        >>> with quietly(nn.Linear(2, 2), 8):
        ...     torch.get_num_threads()
        1

    Source: a step of 64 x 64 x 10 takes 0.1 ms; waking a second thread takes about as long.
    """
    threads = torch.get_num_threads()
    work = 6 * batch_size * sum(weight.numel() for weight in net.parameters())
    small = work < WORTH_A_THREAD
    torch.set_num_threads(1 if small else threads)
    try:
        with torch.random.fork_rng(devices=[]), _libraries().limit(limits=1 if small else None, user_api="blas"):
            torch.default_generator.manual_seed(seed)  # RReLU draws from it
            net.train()
            yield
    finally:
        net.eval()
        torch.set_num_threads(threads)
