"""What a race costs against training one by one: plain torch, scikit-learn, and the machine's own matrix products.

    python benchmarks/race.py [--quick] [--cpu] [scaling nets folded compiled long cluster]

The plain loop trains the same nets on the same mini-batches from the same starts; scikit-learn nets of the same shape
for as many steps. All take turns in one process with the same threads, after a warm-up, and the best turn counts. --cpu
counts processor seconds instead of the clock's, for a machine that others use; with one thread (OMP_NUM_THREADS=1) they
mean the same. Budgets: 256 nets of 64-16-16-10, batch 32: 20 times the plain loop; 64 nets of 64-64-64-10, batch 128: 3
times, and half of the rate at which the machine does a hidden layer's batched product; losses equal to float tolerance;
cost near linear in the number of runs, memory under the limit. Starts are looked at (wake-up, width) on our side only.

folded: a module of 64-256-256-10 at a constant, at 16 learning rates, as its quotient (the proof counts) against whole.

compiled: what torch.compile makes of a vmapped step and of a built-in net's, and after how many steps its compilation
is paid for. long: a race of 256 modules of 64-16-16-10 over 20,000 steps, plain, and compiled of its own accord.
cluster: a Dask cluster on this machine, two workers of one thread against one, by the clock, and what a chunk costs
beyond its work. Names of parts run those alone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from symbreak import nets, race
from symbreak.races import Cell, batched, chains, tied
from symbreak.races.compiled import OPTIONS
from symbreak.races.plan import prepared
from symbreak.races.work import Run, Work
from symbreak.schemes import parse

ETA = 0.1
clock = time.process_time if "--cpu" in sys.argv else time.perf_counter


def cells(n_runs: int) -> list[Cell]:
    return [Cell("kaiming_normal", seed, ETA) for seed in range(n_runs)]


def work_of(hidden: str, batch: int, steps: int) -> Work:
    return prepared(f"mlp:{hidden}:relu", "digits", steps=steps, batch_size=batch, points=2)


def ours(work: Work, n_runs: int) -> list[Run]:
    size = batched.chunk_size(work, cells(1)[0], 1024.0)
    todo = cells(n_runs)
    return [run for first in range(0, n_runs, size) for run in batched.run(work, todo[first : first + size])]


def plain_loop(work: Work, n_runs: int) -> list[float]:
    """What one writes by hand: torch.optim.SGD, the same batches and measurements, one net at a time."""
    found = []
    for cell in cells(n_runs):
        spec = work.subject.spec
        assert spec is not None
        model = nets.build(spec, work.subject.n_features, work.subject.n_outputs, parse(cell.scheme), cell.seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=ETA)
        for step, (x, y) in enumerate(work.split.batches(work.setup.steps)):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step + 1 in work.setup.points:
                with torch.no_grad():
                    for side in (work.split.seen(), work.split.unseen()):
                        assert side is not None
                        loss = float(F.cross_entropy(model(side[0]), side[1]))
                        found.append(loss)
    return found[2::4]  # the training loss at the last point


def scikit(work: Work, n_runs: int, hidden: tuple[int, ...], batch: int, steps: int) -> None:
    from sklearn.neural_network import MLPClassifier

    X, y = (part.numpy() for part in work.split.train)
    epochs = max(1, round(steps * batch / len(X)))
    for seed in range(n_runs):
        model = MLPClassifier(
            hidden, solver="sgd", learning_rate_init=ETA, momentum=0.0, alpha=0.0, batch_size=batch, max_iter=epochs,
            random_state=seed, tol=0.0, n_iter_no_change=epochs + 1,
        )  # fmt: skip
        model.fit(X, y)


def best(call: Callable[[], object], turns: int) -> float:
    found = []
    for _ in range(turns):
        started = clock()
        call()
        found.append(clock() - started)
    return min(found)


def product_rate(m: int, b: int, i: int, o: int) -> float:
    """GFLOP/s of one batched product of the hidden layers' shape, at its best."""
    W, h, out = torch.randn(m, o, i), torch.randn(m, i, b), torch.empty(m, o, b)
    seconds = min(best(lambda: torch.bmm(W, h, out=out), 20) for _ in range(3))
    return 2 * m * b * i * o / seconds / 1e9


def flops(widths: tuple[int, ...], batch: int) -> int:
    """Of the products of one step of one net: forward, weights' gradient, and back through all layers but the first."""
    layers = list(itertools.pairwise(widths))
    return sum(2 * batch * i * o * (2 if not k else 3) for k, (i, o) in enumerate(layers))


def compare(hidden: str, n_runs: int, batch: int, steps: int, budget: float, *, turns: int) -> list[str]:
    work = work_of(hidden, batch, steps)
    inner = tuple(int(width) for width in hidden.split("-"))
    share = 8 if n_runs >= 64 else 1  # the slow sides are timed on a part of the runs
    part = n_runs // share
    mine, theirs, sk = [], [], []
    ours(work, n_runs), plain_loop(work, 1), scikit(work, 1, inner, batch, steps)  # warm
    for _ in range(turns):
        mine.append(best(lambda: ours(work, n_runs), 1))
        theirs.append(share * best(lambda: plain_loop(work, part), 1))
        sk.append(share * best(lambda: scikit(work, part, inner, batch, steps), 1))
    fast, slow, skl = min(mine), min(theirs), min(sk)
    losses = np.array([run.loss[-1] for run in ours(work, part)])
    gap = float(np.max(np.abs(losses - plain_loop(work, part)) / losses))
    widths = (64, *inner, 10)
    # The starts are drawn and the points measured on both sides; the rate is that of the steps alone.
    drawing = best(lambda: batched.run(prepared(f"mlp:{hidden}:relu", "digits", steps=1, points=1), cells(n_runs)), 2)
    rate = n_runs * steps * flops(widths, batch) / max(fast - drawing, 1e-9) / 1e9
    peak = product_rate(n_runs, batch, inner[0], inner[-1])
    print(
        f"{n_runs} nets {'-'.join(map(str, widths))}, batch {batch}, {steps} steps, {torch.get_num_threads()} threads"
    )
    print(f"  symbreak       {fast:8.2f} s")
    print(f"  plain torch    {slow:8.2f} s   {slow / fast:6.1f} times   (timed on {part} nets)")
    print(f"  scikit-learn   {skl:8.2f} s   {skl / fast:6.1f} times   (timed on {part} nets)")
    print(f"  steps alone    {rate:8.1f} GFLOP/s in products, {rate / peak:.2f} of the measured {peak:.1f}")
    print(f"  largest relative difference of final losses {gap:.1e}")
    failed = []
    if slow / fast < budget:
        failed.append(f"{hidden}: {slow / fast:.1f} times, below {budget:g}")
    if gap > 1e-3:
        failed.append(f"{hidden}: losses differ by {gap:.1e}")
    if n_runs == 64 and rate < peak / 2:
        failed.append(f"{hidden}: {rate / peak:.2f} of the product rate, below 0.5")
    return failed


def scaling(largest: int) -> list[str]:
    print("cost against the number of runs, 64-16-16-10, batch 32, 100 steps, memory limit 256 MB")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates, counts = [], [n for n in (1, 4, 16, 64, 256, 1024, 4096) if n <= largest]
    for n_runs in counts:
        started = clock()
        race("mlp:16-16:relu", "digits", schemes=["he"], seeds=n_runs, etas=[ETA], steps=100, points=2, memory_mb=256.0)
        seconds = clock() - started
        rates.append(seconds / n_runs)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"  {n_runs:5d} runs {seconds:8.2f} s   {1e3 * seconds / n_runs:7.2f} ms a run   {memory - before:+6.0f} MB"
        )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    failed = [f"memory grew by {grown:.0f} MB"] if grown > 256 + 64 else []
    if counts[-1] >= 1024 and rates[-1] > 1.5 * rates[counts.index(256)]:
        failed.append(f"{counts[-1]} runs cost {rates[-1] / rates[counts.index(256)]:.2f} times as much each as 256")
    return failed


# torch.compile -----------------------------------------------------------------------------------------------------


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last((h + torch.tanh(self.second(h))).mean(dim=(2, 3)))


def plain_mlp(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )  # fmt: skip


def compiled() -> list[str]:
    """A measurement without a budget: what compiling costs and gains, step by step."""
    print("torch.compile of a step, fresh cache: seconds to compile by the clock, milliseconds a step")
    X, y = (part[:1280] for part in prepared("mlp:16:relu", "digits", held_out=0).table.train)
    cases: list[tuple[str, Callable[[], nn.Module], Tensor, int, int]] = [
        ("64-16-16-10", lambda: plain_mlp(16), X, 256, 32),
        ("64-64-64-10", lambda: plain_mlp(64), X, 64, 128),
        ("two convolutions, residual", Convolutional, X.reshape(-1, 1, 8, 8), 32, 32),
    ]
    for name, make, inputs, m, b in cases:
        torch.manual_seed(0)
        models = [make() for _ in range(m)]
        stacked = {key: torch.stack([one.state_dict()[key] for one in models]) for key in models[0].state_dict()}
        step, given = _vmapped(models[0]), (stacked, inputs[:b], y[:b])
        fast, seconds = _compiled(_vmapped(models[0]), *given)
        expected, found = step(*given), fast(*given)
        gap = max(float((found[key] - expected[key]).abs().max() / expected[key].abs().max()) for key in expected)
        print(f"{_paid(f'{m} vmapped {name}', step, fast, seconds, *given)}   (gradients differ by {gap:.0e})")
    for hidden, m, b in (("16-16", 160, 32), ("64-64", 16, 128)):
        work = work_of(hidden, b, 1)
        assert work.subject.spec is not None
        many = chains.stack(work.subject.spec, [work.subject.state(cell) for cell in cells(m)], "ce")
        x, wanted = next(work.table.batches(1))
        eta = torch.full((m,), ETA)
        fast, seconds = _compiled(_functional, many.weights, many.biases, x, wanted, eta)
        print(_paid(f"{m} built-in {hidden}", lambda *_: many.descend(*_[2:]), fast, seconds,  # noqa: B023
                    many.weights, many.biases, x, wanted, eta))  # fmt: skip
    return []


def _compiled(step: Callable[..., Any], *given: object) -> tuple[Callable[..., Any], float]:
    """The step and the seconds of its compilation."""
    fast: Any = torch.compile(step, fullgraph=True, dynamic=False, options=OPTIONS)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), _cache(folder):
        seconds = _clocked(lambda: fast(*given))
    return fast, seconds


def _paid(name: str, step: Callable[..., Any], fast: Callable[..., Any], seconds: float, *given: object) -> str:
    before, after = _milliseconds(step, *given), _milliseconds(fast, *given)
    paid = f"paid for after {1e3 * seconds / (before - after):.0f} steps" if after < before else "never paid for"
    return f"  {name:38s} compile {seconds:5.1f} s   step {before:6.2f} -> {after:6.2f} ms, {paid}"


def _functional(weights: list[Tensor], biases: list[Tensor], x: Tensor, y: Tensor, eta: Tensor) -> None:
    """The step of a built-in ReLU net as one would write it for torch.compile, which plans its own memory."""
    z = torch.matmul(weights[0], x.T) + biases[0][:, :, None]
    hidden = []
    for W, b in zip(weights[1:], biases[1:], strict=True):
        hidden.append(torch.relu(z))
        z = torch.bmm(W, hidden[-1]) + b[:, :, None]
    expected = F.one_hot(y, z.shape[1]).T.to(z.dtype)
    delta = (torch.softmax(z, 1) - expected) * (-eta[:, None, None] / len(y))
    for k in range(len(weights) - 1, 0, -1):
        below = torch.bmm(weights[k].transpose(1, 2), delta) * (hidden[k - 1] > 0)
        weights[k].baddbmm_(delta, hidden[k - 1].transpose(1, 2))
        biases[k].add_(delta.sum(2))
        delta = below
    weights[0].add_(torch.matmul(delta, x))
    biases[0].add_(delta.sum(2))


def long(steps: int) -> list[str]:
    """By the clock, compiling included: the race decides by itself."""
    print(f"a race of 256 modules 64-16-16-10, batch 32, {steps} steps, by the clock, fresh cache")
    knobs: dict[str, Any] = {"schemes": ["he"], "seeds": 256, "etas": [ETA], "steps": steps, "points": 5}
    with tempfile.TemporaryDirectory() as folder, _cache(folder):
        done = race(lambda: plain_mlp(16), "digits", **knobs)
    print(f"  {done.seconds:.1f} s of its own accord", flush=True)
    plain = race(lambda: plain_mlp(16), "digits", compile=False, **knobs)
    ours, theirs = (np.array([run.loss for run in one.runs]) for one in (done, plain))
    gaps = np.abs(ours / theirs - 1).max(axis=0)
    for note in done.notes:
        print(f"  {note}")
    print(
        f"  plain {plain.seconds:.1f} s, of its own accord {done.seconds:.1f} s: {plain.seconds / done.seconds:.2f} "
        f"times as fast\n  largest relative difference of losses at each point: {' '.join(f'{g:.0e}' for g in gaps)}"
    )
    return []


def _vmapped(module: nn.Module) -> Callable[[dict[str, Tensor], Tensor, Tensor], dict[str, Tensor]]:
    def loss(tensors: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(module, tensors, (x,)), y)

    def step(stacked: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
        slopes: dict[str, Tensor] = vmap(grad_and_value(loss), in_dims=(0, None, None))(stacked, x, y)[0]
        return slopes

    return step


def _milliseconds(step: Callable[..., object], *arguments: object) -> float:
    """Of one step, the best of five tens."""

    def ten() -> None:
        with torch.no_grad():
            for _ in range(10):
                step(*arguments)

    return 100 * best(ten, 5)


@contextlib.contextmanager
def _cache(folder: str) -> Iterator[None]:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    try:
        yield
    finally:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]


# a Dask cluster ----------------------------------------------------------------------------------------------------


def cluster(*, quick: bool) -> list[str]:
    """By the clock, whatever --cpu says: the work is done in other processes."""
    try:
        import distributed
    except ImportError:
        print("cluster: dask.distributed is not installed")
        return []
    runs, steps = (64, 100) if quick else (128, 300)
    knobs: dict[str, Any] = {"schemes": ["he"], "etas": [ETA], "points": 2, "memory_mb": 8.0}
    seconds: dict[int, float] = {}
    few = many = 0.0
    for n_workers in (1, 2):
        with distributed.LocalCluster(
            n_workers=n_workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
            silence_logs=50, memory_limit=None,
        ) as found:  # fmt: skip
            address = str(found.scheduler_address).replace("tcp://", "dask://")

            def go(steps: int, seeds: int, address: str = address) -> float:
                started = time.perf_counter()
                race("mlp:64-64:relu", "digits", seeds=seeds, steps=steps, workers=address, batch_size=128, **knobs)
                return time.perf_counter() - started

            go(1, 8)  # the workers import torch
            seconds[n_workers] = min(go(steps, runs) for _ in range(2))
            if n_workers == 1:
                few, many = (min(go(1, count) for _ in range(2)) for count in (32, 288))
    work = prepared("mlp:64-64:relu", "digits", steps=1, points=2, batch_size=128)
    size = batched.chunk_size(work, cells(1)[0], knobs["memory_mb"])
    chunks = -(-288 // size) - -(-32 // size)
    here = min(_clocked(lambda: [batched.run(work, cells(size)) for _ in range(chunks)]) for _ in range(2))
    print(
        f"Dask cluster on this machine ({os.cpu_count()} cores), {runs} nets 64-64-64-10, {steps} steps, by the clock\n"
        f"  1 worker {seconds[1]:.2f} s, 2 workers {seconds[2]:.2f} s: {seconds[1] / seconds[2]:.2f} times as fast\n"
        f"  a chunk of {size} costs {1e3 * (many - few - here) / chunks:.1f} ms beyond its work "
        f"({1e3 * here / chunks:.1f} ms in this process)"
    )
    return []


def constant_module() -> nn.Module:
    layers = nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10)
    return nn.Sequential(*layers)


def as_quotient(steps: int, *, turns: int) -> list[str]:
    """A constant start of a module: trained as its quotient, and whole."""
    work = prepared(constant_module, "digits", steps=steps, batch_size=32, points=2)
    todo = [Cell("constant(0.01)", 0, 0.1 * 0.8**n) for n in range(16)]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    losses: dict[bool, list[float]] = {}
    looks_for = tied.shows_copies
    for _ in range(turns + 1):  # the first turn warms up
        for folds, took in seconds.items():
            tied.shows_copies = looks_for if folds else lambda state: False  # noqa: ARG005
            try:
                started = clock()
                runs = batched.run(work, todo)
                took.append(clock() - started)
            finally:
                tied.shows_copies = looks_for
            assert {run.engine for run in runs} == {"quotient" if folds else "batched"}
            losses[folds] = [run.loss[-1] for run in runs]
    small, full = (min(seconds[folds][1:]) for folds in (True, False))
    apart = float(np.abs(np.array(losses[True]) / np.array(losses[False]) - 1).max())
    print(
        f"{len(todo)} learning rates of a module 64-256-256-10 at a constant, batch 32, {steps} steps\n"
        f"  as its quotient {small:.2f} s, whole {full:.2f} s: {full / small:.1f} times as fast; "
        f"last losses apart by {apart:.1e} (relative)"
    )
    return [] if full > small else ["a quotient slower than the whole"]


def _clocked(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> int:
    warnings.simplefilter("ignore")  # scikit-learn's ConvergenceWarning: it is stopped on purpose
    quick = "--quick" in sys.argv
    parts = ["scaling", "nets", "folded", "compiled", "long", "cluster"]
    asked = [one for one in sys.argv[1:] if not one.startswith("--")] or parts
    steps, turns = (60, 1) if quick else (300, 3)
    failed: list[str] = []
    if "scaling" in asked:  # first, while the process has needed no memory for anything else
        failed += scaling(256 if quick else 4096)
    if "nets" in asked:
        failed += compare("16-16", 256, 32, steps, 20.0, turns=turns)
        failed += compare("64-64", 64, 128, steps, 3.0, turns=turns)
    if "folded" in asked:
        failed += as_quotient(steps, turns=turns)
    if "compiled" in asked and not quick:
        failed += compiled()
    if "long" in asked and not quick:
        failed += long(20_000)
    if "cluster" in asked:
        failed += cluster(quick=quick)
    print("over budget: " + ("; ".join(failed) or "none"))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
