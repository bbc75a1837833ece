"""The wake-up ladder: at which optimizer step each tensor, and each row of it, first gets a gradient.

Every step draws generic data and moves every tensor that is awake by a normalised generic amount (rms 0.02 x U of its
scale). Plain learning rates shrink doubly exponentially with depth and would give a false "never". U is derived from
the tensor's own values and gradient, so that copies in different tensors get equal steps and stay copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .copies import CopyLog
from .passes import Pass, Runner
from .project import slice_tops

STEP = 0.02  # rms of a probe step over the tensor's scale: small enough not to kill ReLU units
LEAST_STEPS = 4  # a ladder of three rungs (ControlNet, Fixup) and one quiet step
QUIET_STEPS = 3  # stopping after one quiet step is wrong: THEORY.md section 5, the gap example
ALMOST_ZERO = 1e-12  # a tensor below this rms has no scale of its own
NOISE = 1e-4  # |g64| < NOISE |g32|: rounding, not gradient
_EPSILON = 2.0**-52  # of float64
_UNDERFLOW = 1e-30  # what is larger, float32 can show; deep chains have gradients that it cannot
_MILLIONTH, _JUMP = 1e-6, 1e-2  # a change of all weights, and the change of a gradient that is too large for it
_ODD = 1e-9  # gradients this small against the largest tensor's are compared in two precisions
_ODD_ROW = 1e-9  # the same for a row against its tensor
_ODD_ALL = 1e-9  # and this is small in itself: where every gradient is rounding, none of them looks odd beside another


@dataclass
class Ladder:
    """What a climb found. Steps count from 1."""

    wake: dict[str, int | None]
    path: set[str] = field(default_factory=set)
    rows: dict[str, Tensor] = field(default_factory=dict)  # [rows] ever live
    noisy: dict[str, Tensor] = field(default_factory=dict)  # [rows] only ever rounding noise
    first: Pass | None = None
    starved: set[str] = field(default_factory=set)
    steps: int = 0
    nonfinite: tuple[str, ...] = ()

    def asleep(self) -> list[str]:
        return [name for name, step in self.wake.items() if step is None]


def climb(
    runner: Runner, *, offset: int = 0, copies: CopyLog | None = None, varied: bool = False, only: int | None = None
) -> Ladder:
    """Step the borrowed weights until nothing new wakes.

    Args:
        runner: the borrowed model and its task.
        offset: added to the step's number in every seed, so that a second climb sees other data and other steps.
        copies: where slices of weights and gradients are logged, to find units that never separate.
        varied: jitter the user's batch, so that "never" is not said of one batch.
        only: climb exactly this many steps.
    """
    held = runner.held
    ladder = Ladder(wake=dict.fromkeys(held.trainable))
    ladder.rows = {n: torch.zeros(_rows(held.params[n]), dtype=torch.bool) for n in held.trainable}
    ladder.noisy = {n: torch.zeros(_rows(held.params[n]), dtype=torch.bool) for n in held.trainable}
    noise = _Noise(runner)
    last_new, most = 0, only or len(held.trainable) + QUIET_STEPS
    while ladder.steps < max(most, LEAST_STEPS if only is None else 0):
        step = ladder.steps = ladder.steps + 1
        seen = runner.run(step + offset, measure=ladder.first is None and copies is not None, varied=varied)
        ladder.first = ladder.first or seen
        ladder.starved |= seen.seen.starved
        tops = _tops(seen)
        bad = tuple(n for n, t in tops.items() if not bool(torch.isfinite(t).all()))
        if bad or (seen.loss is not None and not math.isfinite(seen.loss)):
            ladder.nonfinite = bad or ("the loss",)
            break
        live = noise.live_rows(step + offset, tops, varied=varied)
        new = _climbed(ladder, live, tops, step)
        last_new = step if new else last_new
        awake = [n for n, rows in live.items() if bool(rows.any())]
        if copies is not None:
            copies.log(step, held, seen, awake)
        _advance(runner, seen, awake)
        settled = copies is None or step - last_new > 2 * QUIET_STEPS or copies.enough(awake)
        if only is None and step >= LEAST_STEPS and step - last_new >= QUIET_STEPS and settled:
            break
    return ladder


def _tops(seen: Pass) -> dict[str, Tensor]:
    """name -> [rows] the largest absolute gradient of each row; names without a path are left out."""
    return {n: slice_tops(g) for n, g in seen.gradients.items() if g is not None and g.numel()}


def _climbed(ladder: Ladder, live: dict[str, Tensor], tops: dict[str, Tensor], step: int) -> bool:
    new = False
    for name, rows in live.items():
        if ladder.wake[name] is None and bool(rows.any()):
            # Without a path until now, it was dropped at random (layer drop, routing), not asleep.
            ladder.wake[name], new = step if name in ladder.path else 1, True
        ladder.path.add(name)
        ladder.rows[name] |= rows
        ladder.noisy[name] |= (tops[name] > 0) & ~rows
    return new


def _advance(runner: Runner, seen: Pass, awake: Iterable[str]) -> None:
    with torch.no_grad():
        for name in awake:
            p, g = runner.held.params[name].data, seen.gradients[name]
            assert g is not None
            size, weight = rms(g), rms(p)
            if size > 0:
                relative = weight if weight > ALMOST_ZERO else nominal_scale(p)
                p.add_(g, alpha=-STEP * _generic_factor(p, g, size) * relative / size)


def _generic_factor(p: Tensor, g: Tensor, size: float) -> float:
    """A number in [0.5, 1.5] from the gradient's own shape and size: equal tensors get equal factors, others not."""
    shape = float(torch.linalg.vector_norm(g, 1)) / (g.numel() * size)
    return 1.0 + 0.5 * math.sin(1e3 * shape + 10 * math.log(size) + math.sqrt(p.numel()))


def rms(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor)) / math.sqrt(max(1, tensor.numel()))


def nominal_scale(p: Tensor) -> float:
    """The size a tensor of this shape has by a usual start: 1/sqrt(fan_in) for weights, 0.1 for vectors and gates."""
    return math.sqrt(p.shape[0] / p.numel()) if p.dim() >= 2 and p.numel() else 0.1


def scale(p: Tensor) -> float:
    """What a relative step is relative to: the tensor's rms, or its nominal scale while it is (almost) zero."""
    size = rms(p)
    return size if size > ALMOST_ZERO else nominal_scale(p)


def _rows(p: Tensor) -> int:
    return p.shape[0] if p.dim() else 1


def _at_most(top: Tensor, odd: Tensor) -> Tensor:
    """Each row's gradient; where every row is odd, the tensor's largest, since the rows then stand or fall together."""
    return top.max().expand(top.shape) if bool((odd | (top == 0)).all()) else top


def _typical(coarse: Tensor, odd: Tensor) -> Tensor:
    """Each row's float32 gradient, at least that of most odd rows: one number's rounding can be small by luck."""
    if not bool(odd.any()):
        return coarse
    together = bool((odd | (coarse < coarse[odd].max() * 1e3)).all())
    return coarse.clamp_min(float(coarse[odd].max() if together else coarse[odd].median()))


class _Noise:
    """Tells "mathematically zero" from "small": a gradient that is rounding shrinks with the precision."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._floor: dict[str, Tensor] = {}  # [rows] the largest row maximum known to be rounding
        self._largest = 0.0  # gradient of the model, where that was so

    def live_rows(self, step: int, tops: dict[str, Tensor], *, varied: bool) -> dict[str, Tensor]:
        """name -> [rows] True where the row has a gradient that is not rounding; names without a path are left out."""
        largest = max((float(t.max()) for t in tops.values()), default=0.0)
        self._lower(largest)
        odd = {n: self._odd(n, t, largest) for n, t in tops.items()}
        live = {n: t > 0 for n, t in tops.items()}
        if any(bool(rows.any()) for rows in odd.values()):
            noise = self._compare(step, tops, odd, varied=varied)
            live = {n: rows & ~noise[n] for n, rows in live.items()}
        for name, t in tops.items():
            known = t <= 1e3 * self._floor.get(name, torch.zeros_like(t))
            live[name] = live[name] & ~known
        return live

    def _lower(self, largest: float) -> None:
        """Rounding shrinks with the gradients it is the rounding of: batch norm on a constant starts them at 1e38."""
        if 0 < largest < self._largest:
            self._floor = {name: floor * (largest / self._largest) for name, floor in self._floor.items()}
        self._largest = largest

    def _odd(self, name: str, top: Tensor, largest: float) -> Tensor:
        """Rows whose gradient is suspiciously small and not yet explained."""
        small = (top < _ODD_ROW * top.max()) | (top.max() < max(_ODD * largest, _ODD_ALL))
        known = top <= 1e3 * self._floor.get(name, torch.zeros_like(top))
        return (top > 0) & small & ~known

    def _compare(
        self, step: int, tops: dict[str, Tensor], odd: dict[str, Tensor], *, varied: bool
    ) -> dict[str, Tensor]:
        runner = self._runner
        if runner.held.dtype == torch.float64:
            with runner.held.at(torch.float32):
                coarse = _tops(runner.run(step, varied=varied))
            noise = {
                n: odd[n] & (_at_most(t, odd[n]) < NOISE * _typical(coarse.get(n, 0 * t), odd[n]))
                for n, t in tops.items()
            }
            top = max((float(t[noise[n]].max()) for n, t in tops.items() if bool(noise[n].any())), default=0.0)
            for n, t in tops.items():  # rounding of rounding: below this pass's noise, and nothing at all in float32
                noise[n] = noise[n] | (odd[n] & (t <= top) & (coarse.get(n, torch.ones_like(t)) == 0))
            for n in self._jumping(step, tops, odd, coarse, varied=varied):
                noise[n] = odd[n]
        else:
            noise = odd  # one precision alone cannot tell; the report says that the check ran in float32
        for name, rows in noise.items():
            if bool(rows.any()):
                floor = self._floor.setdefault(name, torch.zeros_like(tops[name]))
                # One row's rounding can be small by luck: the tensor's largest stands for all of them.
                quiet = rows | (tops[name] == 0)
                self._floor[name] = torch.where(quiet, floor.clamp_min(float(tops[name][rows].max())), floor)
        return noise

    def _jumping(
        self, step: int, tops: dict[str, Tensor], odd: dict[str, Tensor], coarse: dict[str, Tensor], *, varied: bool
    ) -> list[str]:
        """Gradients below the last digit of the largest, and nothing in float32, that are no smooth function.

        Equal terms that cancel leave rounding in float64 and, by luck, nothing in float32; a slope of 1e-17 is nothing
        there as well. All weights a millionth larger (so that copies stay copies) leave the slope as it was, and give
        other rounding.
        """
        last_digit = _EPSILON * max((float(t.max()) for t in tops.values()), default=0.0)
        doubtful = [
            n
            for n, t in tops.items()
            if n in coarse
            and not bool(coarse[n].any())
            and bool((odd[n] & (t > _UNDERFLOW)).any())
            and float(t.max()) <= last_digit
        ]
        if not doubtful:
            return []
        with self._runner.held.scratch(), torch.no_grad():
            for p in self._runner.held.params.values():
                if p.is_floating_point():
                    p.data.mul_(1 + _MILLIONTH)
            with torch.enable_grad():
                again = _tops(self._runner.run(step, varied=varied))
        return [n for n in doubtful if float((again.get(n, 0 * tops[n]) - tops[n]).abs().max()) > _JUMP * tops[n].max()]
