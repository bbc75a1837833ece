"""Runs of one shape trained as one batch: the loop over steps, the points where all are measured, who drops out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symbreak.races import chains, exactly, mapped
from symbreak.races.chains import Chains
from symbreak.races.grid import Cell
from symbreak.races.optimizers import COPIES, Rule
from symbreak.races.work import Run, Work

BEYOND = 1e6  # times the loss at the start, or times 1 where that is smaller: diverged
FEWEST, MOST = 16, 256  # runs of a chunk, memory permitting: fewer are slower, more are long until the next commit
CACHE = 4.5e6  # bytes of a chunk's tensors in a step, beyond which products were up to a tenth slower


class Engine(Protocol):
    """M models side by side."""

    @property
    def parameters(self) -> list[Tensor]: ...

    def outputs(self, x: Tensor) -> Tensor: ...

    def gradients(self, x: Tensor, y: Tensor) -> list[Tensor]: ...

    def keep(self, rows: Tensor) -> None: ...


def run(work: Work, cells: Sequence[Cell], *, plain: str | None = None) -> list[Run]:
    """Train the cells of a chunk from start to end.

    Args:
        work: what and how.
        cells: which starts and learning rates.
        plain: why they run one by one; None: batched.
    Example:
        >>> from symbreak.races._race import prepared
        >>> work = prepared("mlp:4:tanh", "xor", steps=10, points=2)
        >>> [len(one.loss) for one in run(work, [Cell("zeros", 0, 0.1), Cell("zeros", 1, 0.1)])]
        [3, 3]

    Source: torch.func; torch.bmm.
    """
    if exactly.fits(work):
        return exactly.run(work, cells)
    with threads(work.threads):
        return _trained(work, cells, plain)


def _engine(work: Work, cells: Sequence[Cell], *, batched: bool) -> Engine:
    states = [work.subject.state(cell) for cell in cells]
    spec = work.subject.spec
    if spec is not None and batched and chains.fits(spec, work.setup.loss):
        return chains.stack(spec, states, work.setup.loss)
    seed = work.setup.data_seed
    return mapped.Models(work.subject.build(0), states, work.score, seed=seed, batched=batched)


def _trained(work: Work, cells: Sequence[Cell], plain: str | None) -> list[Run]:
    setup, split = work.setup, work.split
    with torch.no_grad():
        engine = _engine(work, cells, batched=plain is None)
        paths = _Paths(work, len(cells))
        rule = Rule(setup.optimizer, engine.parameters)
        eta = torch.tensor([cell.eta for cell in cells])
        fused = engine if isinstance(engine, Chains) and setup.optimizer == "sgd" else None
        alive = torch.arange(len(cells))
        points = {step: number for number, step in enumerate(setup.points)}
        paths.measure(0, engine, alive)
        for step, (x, y) in enumerate(split.batches(setup.steps)):
            rate = eta * work.schedule(step / setup.steps)
            gradients = None if fused is not None and step else engine.gradients(x, y)
            if gradients is not None and not step:
                paths.norms = _norms(gradients)
            if fused is not None:
                fused.descend(x, y, rate)
            else:
                assert gradients is not None
                rule.step(gradients, rate)
            if step + 1 in points:
                finite = paths.measure(points[step + 1], engine, alive)
                if not finite.all():  # the rest must not pay for those that are lost
                    rows = finite.nonzero()[:, 0]
                    alive, eta = alive[rows], eta[rows]
                    if not len(rows):
                        break
                    engine.keep(rows)
                    rule.keep(rows, engine.parameters)
    return paths.runs(cells, "batched" if plain is None else "one by one", plain or "")


def _norms(gradients: Sequence[Tensor]) -> NDArray[np.float64]:
    """L2 norm over all parameters [m]."""
    total = sum(one.double().square().flatten(1).sum(dim=1) for one in gradients)
    assert isinstance(total, Tensor)
    return np.asarray(total.sqrt().numpy(), np.float64)


class _Paths:
    """Losses and metrics [m, p] while they are made; NaN where nothing was measured."""

    def __init__(self, work: Work, n_runs: int) -> None:
        self.work, n_points = work, len(work.setup.points)
        self.table = np.full((4, n_runs, n_points), np.nan)  # loss, metric, held-out loss, held-out metric
        self.norms: NDArray[np.float64] = np.full(n_runs, np.nan)
        self.diverged: list[int | None] = [None] * n_runs

    def measure(self, point: int, engine: Engine, alive: Tensor) -> Tensor:
        """Write what the living runs have come to, and say which of them are still finite [alive]."""
        sides = (self.work.split.seen(), self.work.split.unseen())
        rows = alive.numpy()
        for number, side in enumerate(sides):
            if side is not None:
                outputs = engine.outputs(side[0])
                self.table[2 * number, rows, point] = self.work.score.losses(outputs, side[1]).numpy()
                self.table[2 * number + 1, rows, point] = self.work.score.metrics(outputs, side[1]).numpy()
        losses = self.table[0, rows, point]
        start = self.table[0, rows, 0]
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(losses) & (losses <= BEYOND * np.maximum(np.abs(start), 1.0))
        for row in rows[~finite]:
            self.diverged[row] = self.work.setup.points[point]
        return torch.from_numpy(finite)

    def runs(self, cells: Sequence[Cell], engine: str, note: str) -> list[Run]:
        def path(kind: int, r: int) -> tuple[float, ...]:
            return tuple(self.table[kind, r].tolist())

        return [
            Run(
                cell,
                path(0, r),
                path(1, r),
                path(2, r),
                path(3, r),
                float(self.norms[r]),
                self.diverged[r],
                engine,
                note,
            )
            for r, cell in enumerate(cells)
        ]


# How many at once ------------------------------------------------------------------------------------------------


def why_plain(work: Work, cell: Cell) -> str | None:
    """Why the runs of this work cannot be batched, or None."""
    spec = work.subject.spec
    if exactly.fits(work) or chains.fits(spec, work.setup.loss):
        return None
    module, state = work.subject.build(0), work.subject.state(cell)
    x, y = next(work.split.batches(1))

    def make(batched: bool) -> mapped.Models:
        copies = [{name: one.clone() for name, one in state.items()} for _ in range(2)]
        return mapped.Models(module, copies, work.score, seed=work.setup.data_seed, batched=batched)

    with torch.no_grad():
        return mapped.why_not_batched(make, x, y)


def chunk_size(work: Work, cell: Cell, memory_mb: float) -> int:
    """Runs that fit into the memory, at least one."""
    if exactly.fits(work):
        return 4096
    spec, setup = work.subject.spec, work.setup
    rows = max(len(work.split.seen()[0]), setup.batch_size)
    if spec is not None and chains.fits(spec, setup.loss):
        widths = (work.subject.n_features, *spec.hidden, work.subject.n_outputs)
        floats, weights = chains.floats_a_run(widths, rows), chains.floats_a_run(widths, 0) // 2
        in_a_step = chains.floats_a_run(widths, setup.batch_size)
    else:
        x, y = next(work.split.batches(1))
        module, state = work.subject.build(0), work.subject.state(cell)
        in_a_step = mapped.floats_a_run(module, state, work.score, x, y)
        floats, weights = in_a_step * -(-rows // len(x)), sum(one.numel() for one in state.values())
    kept = COPIES[setup.optimizer] * weights
    usual = min(MOST, max(FEWEST, int(CACHE // (4 * (in_a_step + kept)))))
    return int(max(1, min(usual, memory_mb * 2**20 // (4 * (floats + kept)))))


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads of torch for a while; None: as they are."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
