"""What the seeds say: medians with bootstrap intervals, paired differences, and whether they settle anything.

Schemes are compared at their best learning rate, seed by seed: the same seed sees the same mini-batches. A diverged run
counts as the worst that any run came to, or as its start where that is worse.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from symbreak.races.work import Run, Setup

Floats = NDArray[np.float64]

LEVEL = 0.05  # chance of any false difference in one race, all comparisons together
POWER = 0.8
RESAMPLES = 4000
EXACT_UP_TO = 12  # seeds: all 2^n sign flips; beyond, RESAMPLES of them
MANY = 10_000  # seeds nobody will run


@dataclass(frozen=True)
class Summary:
    """One scheme at one learning rate. Intervals are 95 % bootstrap intervals of the median."""

    scheme: str
    eta: float
    scale: float
    n_seeds: int
    final_loss: float
    final_loss_interval: tuple[float, float]
    held_metric: float
    steps_to_target: float | None  # median; None: half of the seeds or more never got there
    steps_interval: tuple[float, float] | None
    converged: float  # share
    diverged: float  # share
    best: bool = False  # of the learning rates and scales of this scheme


@dataclass(frozen=True)
class Comparison:
    """Two schemes, each at its best learning rate, paired by seed. Negative: the first has the lower final loss.

    The interval is a bootstrap interval of the mean difference, at a level that holds for all comparisons together; p
    is of the sign-flip test, corrected by Holm's method, and decides.
    """

    first: str
    second: str
    n_seeds: int
    difference: float
    interval: tuple[float, float]
    p: float
    seen: bool
    seeds_needed: int | None  # in all, to see a difference as large as this; None: none to see
    sentence: str


def final_loss(run: Run) -> float:
    """Loss at the last point; infinite for a diverged run."""
    return math.inf if run.diverged_at is not None else run.loss[-1]


def steps_to(run: Run, goal: float | None, points: Sequence[int]) -> int | None:
    """The first point at which the loss was the goal or below it.

    Source: no interpolation: what was not measured is not claimed.
    """
    if goal is None:
        return None
    return next((step for step, loss in zip(points, run.loss, strict=True) if loss <= goal), None)


def starts(runs: Sequence[Run]) -> list[str]:
    """A sentence for each scheme whose starts are lost before a step, have tensors that never wake, or copied units.

    Source: the first point of each path; the looks of `symbreak.races.looks`.
    """
    return [*_lost(runs), *_faults(runs)]


def _lost(runs: Sequence[Run]) -> list[str]:
    groups: dict[str, list[int]] = {}
    for run in runs:
        groups.setdefault(run.cell.scheme, []).append(run.diverged_at == 0)
    return [
        f"{scheme} is lost at step 0: before any step its loss is not finite, in {sum(gone)} of {len(gone)} runs."
        for scheme, gone in groups.items()
        if any(gone)
    ]


def _faults(runs: Sequence[Run]) -> list[str]:
    groups: dict[str, dict[tuple[int, float], Run]] = {}
    for run in runs:
        if run.wakeup:
            groups.setdefault(run.cell.scheme, {}).setdefault((run.cell.seed, run.cell.scale), run)
    found = []
    for scheme, seen in groups.items():
        asleep = [sum(step is None for step in run.wakeup.values()) for run in seen.values()]
        pairs = [run.width.values() for run in seen.values()]
        copies = [sum(units - distinct for distinct, units in one) for one in pairs]
        said = []
        if any(asleep):
            n_tensors = len(next(iter(seen.values())).wakeup)
            said.append(f"{max(asleep)} of {n_tensors} tensors get no gradient{_share(asleep)}")
        if any(copies):
            units = max(sum(units for _, units in one) for one in pairs)
            said.append(f"{units - max(copies)} of {units} hidden units are distinct{_share(copies)}")
        if said:
            found.append(f"{scheme} starts with a fault: {', and '.join(said)}.")
    return found


def _share(counts: Sequence[int]) -> str:
    n = sum(count > 0 for count in counts)
    return "" if n == len(counts) else f" ({n} of {len(counts)} starts, the worst)"


def interval_of_median(values: Floats, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval.

    Example:
        >>> interval_of_median(np.ones(8))
        (1.0, 1.0)

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    draw = np.random.default_rng(seed)
    medians = np.sort(np.median(values[draw.integers(0, len(values), (RESAMPLES, len(values)))], axis=1))
    edge = int(RESAMPLES * 0.025)
    return float(medians[edge]), float(medians[-1 - edge])


def summaries(runs: Sequence[Run], setup: Setup) -> tuple[Summary, ...]:
    """One row a scheme, learning rate and scale, the best of each scheme marked."""
    groups: dict[tuple[str, float, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.cell.scheme, run.cell.eta, run.cell.scale), []).append(run)
    best = best_cells(groups)
    return tuple(_summary(key, group, setup, best=best[key[0]] == key) for key, group in groups.items())


def best_cells(groups: dict[tuple[str, float, float], list[Run]]) -> dict[str, tuple[str, float, float]]:
    """Scheme -> its group with the lowest median final loss."""
    medians = {key: float(np.median([final_loss(run) for run in group])) for key, group in groups.items()}
    found: dict[str, tuple[str, float, float]] = {}
    for key, median in medians.items():
        if key[0] not in found or median < medians[found[key[0]]]:
            found[key[0]] = key
    return found


def _summary(key: tuple[str, float, float], group: list[Run], setup: Setup, *, best: bool) -> Summary:
    losses = np.array([final_loss(run) for run in group])
    steps = [steps_to(run, setup.goal, setup.points) for run in group]
    reached = np.array([math.inf if step is None else float(step) for step in steps])
    median_steps = float(np.median(reached)) if setup.goal is not None else math.inf
    interval = interval_of_median(reached) if math.isfinite(median_steps) else None
    metrics = np.array([run.held_metric[-1] for run in group])
    return Summary(
        scheme=key[0],
        eta=key[1],
        scale=key[2],
        n_seeds=len(group),
        final_loss=float(np.median(losses)),
        final_loss_interval=interval_of_median(losses),
        held_metric=float(np.median(metrics)),
        steps_to_target=median_steps if math.isfinite(median_steps) else None,
        steps_interval=interval,
        converged=float(np.isfinite(reached).mean()),
        diverged=float(np.mean([run.diverged_at is not None for run in group])),
        best=best,
    )


def comparisons(runs: Sequence[Run]) -> tuple[Comparison, ...]:
    """Every pair of schemes that share two seeds or more, each at its best learning rate and scale."""
    groups: dict[tuple[str, float, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.cell.scheme, run.cell.eta, run.cell.scale), []).append(run)
    chosen = {scheme: {run.cell.seed: run for run in groups[key]} for scheme, key in best_cells(groups).items()}
    worst = _worst([run for one in chosen.values() for run in one.values()])
    pairs = []
    for a, b in itertools.combinations(chosen, 2):
        shared = sorted(chosen[a].keys() & chosen[b].keys())
        if len(shared) > 1:
            pairs.append(
                (a, b, np.array([_counted(chosen[a][s], worst) - _counted(chosen[b][s], worst) for s in shared]))
            )
    # Starts that draw nothing differ by one number, however many seeds: there is no test to make, nor to correct for.
    tested = [k for k, (_, _, difference) in enumerate(pairs) if difference.std() > 0]
    p_values = [1.0 if not difference.any() else 0.0 for _, _, difference in pairs]
    for k, p in zip(tested, holm([sign_flip_p(pairs[k][2]) for k in tested]), strict=True):
        p_values[k] = p
    return tuple(
        _compared(a, b, difference, p, max(1, len(tested)))
        for (a, b, difference), p in zip(pairs, p_values, strict=True)
    )


def _worst(runs: Sequence[Run]) -> float:
    return max((final_loss(run) for run in runs if math.isfinite(final_loss(run))), default=0.0)


def _counted(run: Run, worst: float) -> float:
    loss = final_loss(run)
    return loss if math.isfinite(loss) else max(worst, run.loss[0])


def sign_flip_p(differences: Floats, *, seed: int = 0) -> float:
    """Two-sided p that the signs of paired differences are a coin's: all sign flips, or a sample of them.

    Example:
        >>> sign_flip_p(np.array([1.0, 2.0, 3.0]))           # the mean is extreme in 2 of 8 flips
        0.25

    Source: Fisher 1935, The Design of Experiments, section 21.
    """
    n, seen = len(differences), abs(differences.sum())
    if not differences.any():
        return 1.0
    slack = 1e-12 * np.abs(differences).sum()
    if n <= EXACT_UP_TO:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
        return float((np.abs(signs @ differences) >= seen - slack).mean())
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (RESAMPLES, n))
    return float(((np.abs(signs @ differences) >= seen - slack).sum() + 1) / (RESAMPLES + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number.

    Example:
        >>> holm([0.01, 0.04])
        [0.02, 0.04]

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    found, running = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[k]))
        found[k] = running
    return found


def seeds_needed(mean: float, std: float, n_comparisons: int) -> int | None:
    """Seeds that show a mean paired difference with a power of 80 %, at the corrected level; None: never.

    Example:
        >>> seeds_needed(1.0, 1.0, 1)
        8

    Source: the normal approximation, n = ((z_level + z_power) std / mean)^2; no fewer than sign flips can tell.
    """
    level = LEVEL / max(1, n_comparisons)
    least = math.ceil(math.log2(2 / level))
    if mean == 0:
        return None
    z = float(norm.isf(level / 2) + norm.isf(1 - POWER))
    return max(least, math.ceil((z * std / mean) ** 2)) if std else least


def _compared(a: str, b: str, difference: Floats, p: float, n_comparisons: int) -> Comparison:
    n, mean = len(difference), float(difference.mean())
    draw = np.random.default_rng(0)
    means = np.sort(difference[draw.integers(0, n, (RESAMPLES, n))].mean(axis=1))
    edge = int(RESAMPLES * LEVEL / (2 * n_comparisons))
    interval = float(means[edge]), float(means[-1 - edge])
    seen = p <= LEVEL
    needed = seeds_needed(mean, float(difference.std(ddof=1)), n_comparisons)
    better, worse = (a, b) if mean < 0 else (b, a)
    if not difference.any():
        sentence = f"{a} and {b} came to the same loss at every seed"
    elif not difference.std():
        sentence = f"{better} ends lower than {worse}, by {abs(mean):.3g}; the seeds change nothing in either"
    elif seen:
        low, high = sorted(abs(one) for one in interval)
        sentence = (
            f"{better} ends lower than {worse}, by {abs(mean):.3g} (interval {low:.3g} to {high:.3g}; p = {p:.2g})"
        )
        if interval[0] * interval[1] <= 0:
            sentence = f"{better} ends lower than {worse}, by {abs(mean):.3g} (p = {p:.2g})"
    elif 2 ** (1 - n) * n_comparisons > LEVEL:
        least = seeds_needed(1.0, 0.0, n_comparisons)
        sentence = (
            f"No difference seen between {a} and {b} at this size ({mean:+.3g}): {n} seeds are too few for any; "
            f"about {max(needed or 0, least or 0) - n} more would settle one as large"
        )
    else:
        more = "no number of seeds" if needed is None or needed > MANY else f"about {max(needed, n + 1) - n} more seeds"
        sentence = (
            f"No difference seen between {a} and {b} at this size ({mean:+.3g}, interval {interval[0]:.3g} to "
            f"{interval[1]:.3g}); {more} would settle one as large"
        )
    return Comparison(a, b, n, mean, interval, p, seen, needed, sentence)
