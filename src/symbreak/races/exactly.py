"""Linear regression in closed form and perceptrons by their scale law: no loop over steps, or one for all rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from symbreak.exact import descent, grid
from symbreak.races.errors import RaceError
from symbreak.races.grid import Cell
from symbreak.races.optimizers import MOMENTUM
from symbreak.races.work import Run, Work

Floats = NDArray[np.float64]


def fits(work: Work) -> bool:
    """Whether there is a closed form: a perceptron; or full-batch descent on the squares of one linear output."""
    setup, spec = work.setup, work.subject.spec
    if spec is None or spec.kind not in ("linear", "perceptron"):
        return False
    if spec.kind == "perceptron":
        return True
    whole = setup.batch_size == len(work.table.train[0])
    plain = setup.optimizer in ("sgd", "momentum") and setup.schedule == "constant"
    return whole and plain and setup.loss == "mse" and work.subject.n_outputs == 1


def complain(work: Work) -> None:
    """A perceptron has one way to learn: its own rule, a sample a step.

    Raises:
        RaceError: another optimizer, schedule or loss.
    """
    setup, spec = work.setup, work.subject.spec
    if spec is not None and spec.kind == "perceptron":
        if setup.optimizer != "sgd" or setup.schedule != "constant":
            raise RaceError("a perceptron learns by its own rule: leave optimizer and schedule out, or take logistic.")
        if setup.loss != "perceptron":
            raise RaceError(f"a perceptron counts mistakes; loss {setup.loss!r} is not used. Leave it out.")
    elif setup.loss == "perceptron":
        raise RaceError("loss 'perceptron' belongs to the target perceptron.")


def run(work: Work, cells: Sequence[Cell]) -> list[Run]:
    """The cells, by closed form or kernel."""
    spec = work.subject.spec
    assert spec is not None
    return _lines(work, cells) if spec.kind == "linear" else _perceptrons(work, cells)


def _starts(work: Work, cells: Sequence[Cell]) -> tuple[Floats, NDArray[np.int64], list[float], NDArray[np.int64]]:
    """Different starts [S, o, d + 1] with which of them each cell has, and the same of learning rates."""
    known: dict[tuple[str, int, float], int] = {}
    starts: list[Floats] = []
    which: list[int] = []
    for cell in cells:
        name = (cell.scheme, cell.seed, cell.scale)
        if name not in known:
            known[name] = len(starts)
            state = work.subject.state(cell)
            starts.append(torch.cat((state["fc1.weight"], state["fc1.bias"][:, None]), dim=1).double().numpy())
        which.append(known[name])
    etas = list(dict.fromkeys(cell.eta for cell in cells))
    return np.stack(starts), np.array(which), etas, np.array([etas.index(cell.eta) for cell in cells])


def _lines(work: Work, cells: Sequence[Cell]) -> list[Run]:
    """Mean squared error is twice the half squares of `exact.descent`, so its learning rate is doubled."""
    setup, split = work.setup, work.table
    X, y = (part.double().numpy() for part in split.train)
    y = y.reshape(len(X))
    ones = np.c_[X, np.ones(len(X))]
    starts, start_of, etas, eta_of = _starts(work, cells)
    momentum = MOMENTUM if setup.optimizer == "momentum" else 0.0
    paths = descent.path(ones, y, starts[:, 0], [2 * eta for eta in etas], list(setup.points), momentum=momentum)
    weights = paths[start_of, eta_of]  # [m, p, d + 1]
    norms = np.linalg.norm(2 * (starts[:, 0] @ ones.T - y) @ ones / len(y), axis=1)
    tables = [_squares(weights, side) for side in (split.seen(), split.unseen())]
    found = []
    for r, cell in enumerate(cells):
        loss, r2 = (part[r] for part in tables[0])
        held, held_r2 = (part[r] for part in tables[1])
        gone = np.flatnonzero(~(loss <= 1e6 * max(loss[0], 1.0)))
        at = setup.points[gone[0]] if len(gone) else None
        paths_of = [tuple(one.tolist()) for one in (loss, r2, held, held_r2)]
        norm = float(norms[start_of[r]])
        found.append(Run(cell, paths_of[0], paths_of[1], paths_of[2], paths_of[3], norm, at, "exact"))
    return found


def _squares(weights: Floats, side: tuple[torch.Tensor, torch.Tensor] | None) -> tuple[Floats, Floats]:
    """Mean squared error and R2 [m, p]."""
    if side is None:
        nothing = np.full(weights.shape[:2], np.nan)
        return nothing, nothing
    X, y = (part.double().numpy() for part in side)
    with np.errstate(over="ignore", invalid="ignore"):
        left = ((np.c_[X, np.ones(len(X))] @ weights[..., None])[..., 0] - y.reshape(-1)) ** 2
        loss = left.mean(axis=-1)
        return loss, 1 - loss / max(float(y.var()), 1e-30)


def _perceptrons(work: Work, cells: Sequence[Cell]) -> list[Run]:
    """One against the rest for more than two classes. A step is a visit, so points are rounded to whole epochs.

    The loss at a point is the share of visits, in the epoch that ends there, that were mistakes; at the start it is
    measured without learning.
    """
    setup, split = work.setup, work.table
    X, y = split.train[0].double().numpy(), split.train[1].numpy()
    starts, start_of, etas, eta_of = _starts(work, cells)
    order = np.random.default_rng(setup.data_seed).permutation(len(X))
    epochs = max(1, -(-setup.steps // len(X)))
    n_out = starts.shape[1]
    ends = np.array([min(epochs, max(1, -(-step // len(X)))) for step in setup.points[1:]])
    wrong = np.zeros((len(cells), epochs))
    weights = np.empty((len(cells), n_out, starts.shape[2]))
    for o in range(n_out):
        own = y if n_out == 1 else (y == o).astype(np.int64)
        cells_of_o = grid.run_grid(X, own, starts[:, o, :-1], etas, b0=starts[:, o, -1], epochs=epochs, order=order)
        wrong += cells_of_o.mistakes[start_of, eta_of] / (len(X) * n_out)
        weights[:, o, :-1] = cells_of_o.weights[start_of, eta_of]
        weights[:, o, -1] = cells_of_o.biases[start_of, eta_of]
    sides = (split.seen(), split.unseen())
    first = [_guesses(starts[start_of], side) for side in sides]
    last = [_guesses(weights, side) for side in sides]
    found = []
    for r, cell in enumerate(cells):
        loss = (float(first[0][1][r]), *wrong[r, ends - 1].tolist())
        blank = (float("nan"),) * (len(setup.points) - 2)
        metric, held = ((float(first[k][0][r]), *blank, float(last[k][0][r])) for k in (0, 1))
        held_loss = (float(first[1][1][r]), *blank, float(last[1][1][r]))
        found.append(Run(cell, loss, metric, held_loss, held, float("nan"), None, "exact"))
    return found


def _guesses(weights: Floats, side: tuple[torch.Tensor, torch.Tensor] | None) -> tuple[Floats, Floats]:
    """Accuracy [m], and the share of wrong decisions, each class against the rest [m]."""
    if side is None:
        nothing = np.full(len(weights), np.nan)
        return nothing, nothing
    X, y = side[0].double().numpy(), side[1].numpy()
    z = np.einsum("moi,ni->mno", weights, np.c_[X, np.ones(len(X))])
    fired = z >= 0
    if z.shape[2] == 1:
        right = (fired[..., 0] == (y == 1)).mean(axis=1)
        return right, 1 - right
    meant = y[:, None] == np.arange(z.shape[2])
    return (z.argmax(axis=2) == y).mean(axis=1), (fired != meant).mean(axis=(1, 2))
