"""`symbreak.race`: plan -> chunks -> runs -> result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from symbreak.errors import SchemeError
from symbreak.races import batched, optimizers
from symbreak.races import workers as crews
from symbreak.races.errors import RaceError
from symbreak.races.grid import AS_BUILT, AUTO, Cell, cells, positive, scheme_texts, seed_list
from symbreak.races.plan import BATCH, prepared
from symbreak.races.result import RaceResult
from symbreak.races.store import Store
from symbreak.races.subjects import digest
from symbreak.races.work import Run, Work
from symbreak.races.workers import Chunk
from symbreak.schemes import Scheme, critical

USUAL = ("torch_default", "xavier_uniform", "kaiming_normal", "orthogonal")
POLL = 0.5  # seconds between looks at what another race on the same store has finished

Progress = Callable[[int, "int | None", str], None]


class Race:
    """Train every start side by side, over many seeds, and answer with statistics. Call it: `race(target, data, ...)`.

    All runs see the same mini-batches in the same order, so seeds are paired across schemes and learning rates. Runs of
    one shape are trained as one batch; models that cannot be are run one by one, and the result says why.

    Args:
        target: "mlp:16-16:tanh", "linear", "logistic", "perceptron"; file.py:factory; a function that builds a
            torch.nn.Module; or a module, which is left as it is. A factory may return (model, batch, objective) as for
            `symbreak.check`: objective(model, batch) is then minimised, on mini-batches (x, y) of the data.
        data: "digits", file.csv, ... as on the command line; a pair (X, y); a torch Dataset or DataLoader. None: the
            batch that the factory brings; where that is no pair (x, y), its objective gets it whole at every step.
        schemes: starts by name or value; "as_built" is a factory's own, "auto" and those that look at data (lsuv, ...)
            are as `symbreak.init_` makes them. Biases start at zero but under torch_default.
        seeds: of the starts; a number means 0 up to it.
        etas: learning rates; by default the usual one of the optimizer.
        steps: optimizer steps. A perceptron's are visits of one sample, rounded up to whole epochs.
        batch_size: samples a step; None: all. Full-batch descent of "linear" is done in closed form.
        optimizer: sgd, momentum (0.9), adam or adamw (decay 0.01), with torch's defaults.
        schedule: constant, linear, cosine, warmup, or a function of the share of the steps done -> factor.
        loss, metric: names or functions (output, target); by default what the data asks for.
        held_out: share of the samples that no run trains on.
        goal: loss that counts as reached; by default half of what the best constant output has.
        points: how often losses and metrics are measured after the start, on 512 samples of either side at most.
        data_seed: of the split and the mini-batches.
        look: whether each run says when its tensors wake and how many of its units are distinct. None: for built-in
            nets, side by side, for about ten steps' time; True: also for other modules, one start at a time by the
            probe of `symbreak.check`.
        store: a SQLite file: what it holds is not run again, what is finished is committed chunk by chunk.
        workers: processes, "dask://host:port", or a concurrent.futures.Executor.
        memory_mb: that the runs of one chunk may take.
        threads: of torch; None leaves them.
        compile: whether the steps of modules other than built-in nets are compiled, which takes some 20 seconds. None:
            where minutes of them are to come and a trial shows that it pays; losses are then those of plain steps to
            rounding, not to the bit.
        progress: called as progress(runs done, runs in all, what is being done).
    Returns:
        a RaceResult; after Ctrl-C with the runs that were done, and `finished` False.
    Raises:
        SymbreakError: a mistake in what was given, before anything is trained where it can be told.
    Example:
        >>> done = Race()("mlp:8:tanh", "iris", schemes=["zeros", "xavier"], seeds=8, etas=[0.1], steps=100)
        >>> [one.scheme for one in done.summaries if one.converged == 0]
        ['zeros']

    Source: paired designs, Fisher 1935; torch.func, https://docs.pytorch.org/docs/stable/func.html.
    """

    def __call__(
        self,
        target: Any,
        data: Any,
        *,
        schemes: Iterable[str | Scheme] = USUAL,
        seeds: Iterable[int] | int = 16,
        etas: Iterable[float] | float | None = None,
        steps: int = 500,
        batch_size: int | None = BATCH,
        optimizer: str = "sgd",
        schedule: str | Callable[[float], float] = "constant",
        loss: Any = None,
        metric: Any = None,
        held_out: float = 0.25,
        goal: float | None = None,
        points: int = 20,
        data_seed: int = 0,
        look: bool | None = None,
        store: Path | str | None = None,
        workers: Any = None,
        memory_mb: float = 1024.0,
        threads: int | None = None,
        compile: bool | None = None,
        progress: Progress | None = None,
    ) -> RaceResult:
        work = prepared(
            target, data, steps=steps, batch_size=batch_size, optimizer=optimizer, schedule=schedule, loss=loss,
            metric=metric, held_out=held_out, goal=goal, points=points, data_seed=data_seed, look=look,
            threads=threads, compile=compile,
        )  # fmt: skip
        rates = positive("etas", optimizers.USUAL_ETA[work.setup.optimizer] if etas is None else etas)
        wanted = cells(scheme_texts(schemes), seed_list(seeds), rates, [1.0])
        return _run(work, wanted, store, workers, memory_mb, progress)

    def map(
        self,
        target: Any,
        data: Any,
        *,
        scheme: str | Scheme = "lecun_normal",
        scales: Iterable[float] | float = (0.25, 0.5, 1.0, 2.0, 4.0),
        etas: Iterable[float] | float = (1e-3, 1e-2, 1e-1, 1.0),
        seeds: Iterable[int] | int = 3,
        store: Path | str | None = None,
        workers: Any = None,
        memory_mb: float = 1024.0,
        progress: Progress | None = None,
        **knobs: Any,
    ) -> RaceResult:
        """Learning rate against weight scale: the trainable region, and where theory puts the edge of chaos.

        Args:
            scheme: whose weights are multiplied by the scales.
            scales: factors on every weight matrix.
            knobs: as for the race itself.
        Example:
            >>> done = Race().map("mlp:8:tanh", "xor", scales=[0.5, 1.0], etas=[0.1], seeds=2, steps=20)
            >>> len(done.runs), done.theory
            (4, 1.0)

        Source: Poole et al. 2016, arXiv:1606.05340, for the prediction, at zero biases and small signals for tanh.
        """
        work = prepared(target, data, **knobs)
        (text,) = scheme_texts([scheme])
        wanted = cells([text], seed_list(seeds), positive("etas", etas), positive("scales", scales))
        done = _run(work, wanted, store, workers, memory_mb, progress)
        return dataclasses.replace(done, theory=_edge(work, text))


race = Race()


def _edge(work: Work, scheme: str) -> float | None:
    """The scale at which hidden weights of a built-in MLP have the critical variance; None where that is not known."""
    spec = work.subject.spec
    if spec is None or len(spec.hidden) < 1 or scheme in (AS_BUILT, AUTO):
        return None
    from symbreak.schemes import parse

    try:
        # Biases are zero: the signal's own fixed point. For odd ones like tanh that is q -> 0.
        q = 1.0 if spec.activation in ("relu", "leaky_relu") else 1e-9
        edge = critical(spec.activation, q)
        std = parse(scheme).moments(fan_in=spec.hidden[0], fan_out=spec.hidden[0]).std
    except SchemeError:
        return None
    return round(float((edge.weight_variance / spec.hidden[0]) ** 0.5 / std), 4) if std and edge.feasible else None


# Running ---------------------------------------------------------------------------------------------------------


def _run(
    work: Work,
    wanted: Sequence[Cell],
    store: Path | str | None,
    workers: Any,
    memory_mb: float,
    progress: Progress | None,
) -> RaceResult:
    started = time.perf_counter()
    if not memory_mb > 0:
        raise RaceError(f"memory_mb={memory_mb!r}: expected a number above 0.")
    crews.complain(workers)
    twins = _twins(work, wanted)
    plain = batched.why_plain(work, wanted[0])
    size = batched.chunk_size(work, wanted[0], memory_mb)
    if workers is not None:  # every worker should have some, and a lost chunk should not cost much
        size = min(size, max(1, -(-len(set(twins.values())) // (2 * crews.how_many(workers)))))
    with Store(store, work.setup) if store is not None else nullcontext() as open_store:
        lane = _Lane(work, twins, size, open_store, progress, crews.how_many(workers))
        interrupted = lane.drive(plain, workers)
    runs = tuple(lane.done[cell] for cell in twins if cell in lane.done)
    notes = [f"Runs went one by one: {plain}."] if plain else []
    notes += _on_compiling(work, runs)
    if interrupted:
        rest = "The same command with the same store runs the rest" if store is not None else "With a store they last"
        notes.append(f"Interrupted: {len(runs)} of {len(wanted)} runs are here. {rest}.")
    n_same = len(wanted) - len(set(twins.values()))
    if n_same:
        notes.append(f"{n_same} runs have the same start and learning rate as another, and were not repeated.")
    return RaceResult(work.setup, runs, len(wanted), lane.trained, time.perf_counter() - started, tuple(notes))


def _on_compiling(work: Work, runs: Sequence[Run]) -> list[str]:
    """What became of compiled steps, where that was asked for or tried."""
    said = dict.fromkeys(run.note for run in runs if run.note.startswith(("compiled: ", "not compiled: ")))
    if work.compile and not said:
        return ["Nothing was compiled: only the steps of modules that are batched can be; others are written out."]
    notes = []
    for note in said:
        what, _, rest = note.partition(": ")
        if what == "compiled":
            rest += "; their losses are those of plain steps to rounding, not to the bit"
        notes.append(f"Runs whose steps were {what}: {rest}.")
    return notes


def _short(cell: Cell) -> str:
    return f"{cell.scheme}, seed {cell.seed}"


def _twins(work: Work, wanted: Sequence[Cell]) -> dict[Cell, Cell]:
    """Each cell -> the cell that is run for it: the first one with the same start, learning rate and all.

    Whether a scheme draws at all is seen from two seeds; where those agree, all are compared.
    """
    by_scheme: dict[tuple[str, float], list[int]] = {}
    for cell in wanted:
        seeds = by_scheme.setdefault((cell.scheme, cell.scale), [])
        if cell.seed not in seeds:
            seeds.append(cell.seed)
    starts: dict[tuple[str, float, int], str] = {}
    for (scheme, scale), seeds in by_scheme.items():
        found = [digest(work.subject.state(Cell(scheme, seed, 1.0, scale))) for seed in seeds[:2]]
        if len(set(found)) < len(found):
            found += [digest(work.subject.state(Cell(scheme, seed, 1.0, scale))) for seed in seeds[2:]]
        starts.update({(scheme, scale, seed): one for seed, one in zip(seeds, found, strict=False)})
    first: dict[tuple[object, ...], Cell] = {}
    twins = {}
    for cell in wanted:
        name = (cell.scheme, cell.scale, cell.seed)
        twins[cell] = first.setdefault((starts.get(name, name), cell.eta), cell)
    return twins


class _Lane:
    """The runs still to do, and those done: what the workers draw chunks from, and bring them back to."""

    def __init__(
        self,
        work: Work,
        twins: dict[Cell, Cell],
        size: int,
        store: Store | None,
        progress: Progress | None,
        n_workers: int,
    ) -> None:
        self.work, self.size, self.store, self.progress, self.n_workers = work, size, store, progress, n_workers
        self.stands_for: dict[Cell, list[Cell]] = {}
        for cell, one in twins.items():
            self.stands_for.setdefault(one, []).append(cell)
        self.n_all, self.trained, self.started = len(self.stands_for), 0, time.perf_counter()
        self.done: dict[Cell, Run] = {}
        self.todo = list(self.stands_for)
        self._known()

    def _known(self) -> None:
        """What the store has. The run of one cell is the run of all that it stands for."""
        known = self.store.runs() if self.store is not None else {}
        found = [copy for cell in self.todo if cell in known for copy in self._copies(known[cell])]
        new = [run for run in found if run.cell not in known]
        if self.store is not None and new:
            self.store.commit(new)
        self._add(found)

    def _copies(self, run: Run) -> list[Run]:
        same = f"same start as {_short(run.cell)}"
        cells = self.stands_for.get(run.cell, [run.cell])
        return [run if cell == run.cell else dataclasses.replace(run, cell=cell, note=same) for cell in cells]

    def drive(self, plain: str | None, workers: Any) -> bool:
        """Train all; whether it was interrupted."""
        try:
            while self.todo:
                for runs in crews.train(self.work, self._chunks(), plain, workers):
                    self._take(runs)
                self._elsewhere()
        except KeyboardInterrupt:
            return True
        return False

    def _chunks(self) -> Iterator[Chunk]:
        """Cells nobody is at. Those of another living race are left for later."""
        waiting = list(self.todo)
        while waiting:
            chunk, waiting = waiting[: self.size], waiting[self.size :]
            mine = chunk if self.store is None else self.store.claim(chunk)[0]
            if mine:
                yield Chunk(tuple(mine), -(-len(waiting) // self.size) // self.n_workers)

    def _take(self, runs: list[Run]) -> None:
        copies = [copy for run in runs for copy in self._copies(run)]
        if self.store is not None:
            self.store.commit(copies)
        self.trained += len(runs)
        self._add(copies)

    def _elsewhere(self) -> None:
        """What another race on the same store has finished, or is at: wait a little, then look again."""
        if self.store is not None and self.todo:
            self._known()
            if self.todo:
                time.sleep(POLL)

    def _add(self, found: list[Run]) -> None:
        self.done.update({run.cell: run for run in found})
        self.todo = [cell for cell in self.todo if cell not in self.done]
        self._tell()

    def _tell(self) -> None:
        if self.progress is None:
            return
        seconds = time.perf_counter() - self.started
        rate = self.trained / seconds if self.trained else 0.0
        left = f", {len(self.todo) / rate:.0f} s left" if rate else ""
        self.progress(self.n_all - len(self.todo), self.n_all, f"runs, {rate:.3g} a second{left}" if rate else "runs")
