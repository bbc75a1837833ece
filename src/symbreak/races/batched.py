"""Runs of one shape trained as one batch: the loop over steps, the points where all are measured, who drops out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symbreak.races import chains, exactly, looks, mapped
from symbreak.races.chains import Chains
from symbreak.races.compiled import stepper_of
from symbreak.races.grid import Cell
from symbreak.races.optimizers import COPIES, Rule
from symbreak.races.scores import Score
from symbreak.races.subjects import State
from symbreak.races.tied import folded, is_tied, quotient
from symbreak.races.work import Run, Work

BEYOND = 1e6  # times the loss at the start, or times 1 where that is smaller: diverged
FEWEST, MOST = 16, 256  # runs of a chunk, memory permitting: fewer are slower, more are long until the next commit
CACHE = 4.5e6  # bytes of a chunk's tensors in a step, beyond which products were up to a tenth slower
TIED = "all units of each hidden layer are equal: trained as one unit a layer"


class Engine(Protocol):
    """M models side by side."""

    @property
    def parameters(self) -> list[Tensor]: ...

    def outputs(self, x: Tensor) -> Tensor: ...

    def gradients(self, x: Any, y: Any) -> list[Tensor]: ...

    def counts(self) -> Sequence[int | Tensor]: ...

    def keep(self, rows: Tensor) -> Tensor: ...


def run(work: Work, cells: Sequence[Cell], *, plain: str | None = None, later: int = 0) -> list[Run]:
    """Train the cells of a chunk from start to end.

    Args:
        work: what and how.
        cells: which starts and learning rates.
        plain: why they run one by one; None: batched.
        later: chunks that this process is likely to be given after it: a step is compiled for all of them.
    Example:
        >>> from symbreak.races._race import prepared
        >>> work = prepared("mlp:4:tanh", "xor", steps=10, points=2)
        >>> [len(one.loss) for one in run(work, [Cell("zeros", 0, 0.1), Cell("zeros", 1, 0.1)])]
        [3, 3]

    Source: torch.func; torch.bmm.
    """
    if exactly.fits(work):
        with threads(work.threads):
            return _with_looks(work, cells, exactly.run(work, cells), None)
    with threads(work.threads), torch.no_grad():
        states = [work.subject.state(cell) for cell in cells]
        return _with_looks(work, cells, _by_engine(work, cells, states, plain, later), states)


def _by_engine(work: Work, cells: Sequence[Cell], states: Sequence[State], plain: str | None, later: int) -> list[Run]:
    """Written out, as one-unit nets where the start is tied, by vmap, or one by one."""
    spec = work.subject.spec
    if spec is None or plain is not None or not chains.fits(spec, work.setup.loss):
        return _modules(work, cells, states, plain, later)
    found: dict[int, Run] = {}
    small = [r for r, state in enumerate(states) if is_tied(spec, state)]
    whole = sorted(set(range(len(cells))) - set(small))
    for rows, build, name in ((small, quotient, "quotient"), (whole, chains.stack, "batched")):
        if rows:
            engine = build(spec, [states[r] for r in rows], work.setup.loss)
            runs = _trained(work, [cells[r] for r in rows], engine, name, TIED if name == "quotient" else "")
            found.update(zip(rows, runs, strict=True))
    return [found[r] for r in range(len(cells))]


def _modules(work: Work, cells: Sequence[Cell], states: Sequence[State], plain: str | None, later: int) -> list[Run]:
    """Starts with many equal units as their quotients, the others by vmap, or one by one."""
    found: dict[int, Run] = {}
    for rows, small in folded(work, states, batched=plain is None):
        found.update(zip(rows, _trained(work, [cells[r] for r in rows], small, "quotient", small.note), strict=True))
    rest = [r for r in range(len(cells)) if r not in found]
    if rest:
        others = [cells[r] for r in rest], [states[r] for r in rest]
        runs = _by_vmap(work, *others, later) if plain is None else _one_by_one(work, *others, plain)
        found.update(zip(rest, runs, strict=True))
    return [found[r] for r in range(len(cells))]


def _one_by_one(work: Work, cells: Sequence[Cell], states: Sequence[State], why: str) -> list[Run]:
    brought, seed = work.subject.brought(0), work.setup.data_seed
    return _trained(
        work, cells, mapped.Models(brought, states, work.score, seed=seed, batched=False), "one by one", why
    )


def _by_vmap(work: Work, cells: Sequence[Cell], states: Sequence[State], later: int) -> list[Run]:
    stepper = stepper_of(work.race, lambda: mapped.Code(work.subject.brought(0), work.score), work.compile)
    models = mapped.Models(
        work.subject.brought(0), states, work.score, seed=work.setup.data_seed, batched=True,
        stepper=stepper, ahead=(1 + later) * work.setup.steps,
    )  # fmt: skip
    return [replace(run, note=stepper.note) for run in _trained(work, cells, models, "batched")]


def _with_looks(work: Work, cells: Sequence[Cell], runs: Sequence[Run], states: Sequence[State] | None) -> list[Run]:
    """Each run with what its start looks like; equal starts are looked at once."""
    if not work.setup.looked:
        return list(runs)
    first: dict[tuple[str, int, float], int] = {}
    for r, cell in enumerate(cells):
        first.setdefault((cell.scheme, cell.seed, cell.scale), r)
    chosen = [states[r] if states is not None else work.subject.state(cells[r]) for r in first.values()]
    found = dict(zip(first, looks.look(work, chosen), strict=True))
    seen = [found[cell.scheme, cell.seed, cell.scale] for cell in cells]
    return [replace(run, wakeup=one.wakeup, width=one.width) for run, one in zip(runs, seen, strict=True)]


def _trained(work: Work, cells: Sequence[Cell], engine: Engine, name: str, note: str = "") -> list[Run]:
    """All steps, with a look at the paths on the way."""
    setup = work.setup
    field = _Field(work, cells, engine)
    points = {step: number for number, step in enumerate(setup.points)}
    field.measure(0)
    for step, (x, y) in enumerate(work.split.batches(setup.steps)):
        if not len(field.alive):
            break
        field.step(x, y, work.schedule(step / setup.steps), first=not step)
        if step + 1 in points:
            field.measure(points[step + 1])
    return field.paths.runs(cells, name, note)


class _Field:
    """The runs of a chunk that are still in the race: the rows of the engine's tensors, and the rate of each."""

    def __init__(self, work: Work, cells: Sequence[Cell], engine: Engine) -> None:
        self.engine, self.paths = engine, _Paths(work, len(cells))
        self.rule = Rule(work.setup.optimizer, engine.parameters)
        self.eta = torch.tensor([cell.eta for cell in cells], dtype=torch.float64)
        self.alive = torch.arange(len(cells))
        self._hold(self.alive)

    def _hold(self, rows: Tensor) -> None:
        held = self.engine.keep(rows)
        self.eta = self.eta[held]
        self.rule.keep(held, self.engine.parameters)

    def step(self, x: Any, y: Any, factor: float, *, first: bool) -> None:
        """One step of all; the first leaves the gradients' norms."""
        rate = self.eta * factor
        if isinstance(self.engine, Chains) and self.rule.name == "sgd" and not first:
            self.engine.descend(x, y, rate)
            return
        gradients = self.engine.gradients(x, y)
        if first:
            self.paths.norms[self.alive.numpy()] = _norms(gradients, self.engine.counts())[: len(self.alive)]
        self.rule.step(gradients, rate)

    def measure(self, point: int) -> None:
        """Write down what they have come to, and drop the lost, so that the rest do not pay for them."""
        finite = self.paths.measure(point, self.engine, self.alive)
        if not finite.all():
            rows = finite.nonzero()[:, 0]
            self.alive = self.alive[rows]
            if len(rows):
                self._hold(rows)


def _norms(gradients: Sequence[Tensor], counts: Sequence[int | Tensor]) -> NDArray[np.float64]:
    """L2 norm over all parameters [m]; counts: how many parameters each number stands for."""
    squares = [
        (count * one.double().square()).reshape(len(one), -1).sum(dim=1)  # scalars, too
        for one, count in zip(gradients, counts, strict=True)
    ]
    return np.asarray(torch.stack(squares).sum(dim=0).sqrt().numpy(), np.float64)


def _scored(score: Score, engine: Engine, x: Any, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """Loss and metric of every model [m]."""
    if score.by_objective:
        assert isinstance(engine, mapped.Models)
        losses = engine.objectives(x, y)
        if y is None or score.metric == "none":
            return losses, torch.full_like(losses, torch.nan)
        return losses, score.metrics(engine.outputs(x), y)
    assert y is not None
    outputs = engine.outputs(x)
    return score.losses(outputs, y), score.metrics(outputs, y)


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
                losses, metrics = _scored(self.work.score, engine, *side)
                self.table[2 * number, rows, point] = losses.numpy()
                self.table[2 * number + 1, rows, point] = metrics.numpy()
        losses = self.table[0, rows, point]
        start = self.table[0, rows, 0]
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(losses) & (losses <= BEYOND * np.maximum(np.abs(start), 1.0))
        for row in rows[~finite]:
            self.diverged[row] = self.work.setup.points[point]
        return torch.from_numpy(finite)

    def runs(self, cells: Sequence[Cell], engine: str, note: str) -> list[Run]:
        loss, metric, held_loss, held_metric = ([tuple(path) for path in side.tolist()] for side in self.table)
        norms = self.norms.tolist()
        return [
            Run(cell, loss[r], metric[r], held_loss[r], held_metric[r], norms[r], self.diverged[r], engine, note)
            for r, cell in enumerate(cells)
        ]


# How many at once ------------------------------------------------------------------------------------------------


def why_plain(work: Work, cell: Cell) -> str | None:
    """Why the runs of this work cannot be batched, or None."""
    spec = work.subject.spec
    if exactly.fits(work) or chains.fits(spec, work.setup.loss):
        return None
    brought, state = work.subject.brought(0), work.subject.state(cell)
    x, y = next(iter(work.split.batches(1)))

    def make(batched: bool) -> mapped.Models:
        copies = [{name: one.clone() for name, one in state.items()} for _ in range(2)]
        return mapped.Models(brought, copies, work.score, seed=work.setup.data_seed, batched=batched)

    with torch.no_grad():
        return mapped.why_not_batched(make, x, y)


def chunk_size(work: Work, cell: Cell, memory_mb: float) -> int:
    """Runs that fit into the memory, at least one."""
    if exactly.fits(work):
        return 4096
    spec, setup = work.subject.spec, work.setup
    rows = work.split.rows
    if spec is not None and chains.fits(spec, setup.loss):
        widths = (work.subject.n_features, *spec.hidden, work.subject.n_outputs)
        floats, weights = chains.floats_a_run(widths, rows), chains.floats_a_run(widths, 0) // 2
        in_a_step = chains.floats_a_run(widths, setup.batch_size)
    else:
        x, y = next(iter(work.split.batches(1)))
        state = work.subject.state(cell)
        in_a_step = mapped.floats_a_run(work.subject.brought(0), state, work.score, x, y)
        floats, weights = in_a_step * -(-rows // work.split.batch_size), sum(one.numel() for one in state.values())
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
