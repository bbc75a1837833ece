"""How long near copies stay together: the growth of their distance along training, looked at in large steps.

Two copies at distance d sit beside the symmetric point where they are one. The swap of the two commutes with the
Hessian there, so that their difference has dynamics of its own, d' = (I - eta H_anti) d, which stay linear as long as
d is small: the pair of near copies is its own tangent vector, and no Hessian is needed. H_anti is that of the symmetric
point, which moves as the rest of the network trains, so a rate taken at the start says little of a thousand steps
later (measured: too early by any factor, and too late as well). Therefore the look follows training itself.

Small steps of gradient descent follow the gradient flow: N steps at eta are one stretch of flow of length N eta. The
flow is followed by Euler steps as long as the gradient allows (it changes by a fifth a step), never shorter than eta.

Momentum remembers ten steps, and as one flow of ten times the rate it was wrong by a factor of two where copies part
fast. Adam, AdamW and RMSprop move each weight by about the rate, whatever the size of its gradient, and remember more.
Their stretches are integrated (`updates.py`): forward with the gradient carried on as it last changed, and again,
without a further pass, once the gradient at the end is known. Where the two disagree on the distance of the copies, the
stretch was too long and is halved.

What the look covers is measured, on this batch and without the noise of mini-batches. What lies beyond it is told as a
number only for gradient descent, and where the rate was steady: with a memory the growth has no such law, and the same
numbers were tried and were wrong too often (most of all "they attract for ever").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from symbreak.errors import BatchError
from symbreak.records import Parting, SliceClasses
from symbreak.thresholds import TOGETHER

from .passes import Runner, UsersCodeError
from .updates import Moments, Update

_PASSES = 30
_TURN = 0.2  # of the gradient's size: how far it may change over one step of the look
_FURTHER = 3.0  # times what was looked at: how far a steady rate is trusted
_STEADY = 1.3  # ratio of the rates in the third and the last quarter of the look; any power of the time has 1.41
_FELL = 0.9  # of the distance: a smaller fall is no attraction
_SETTLED = 0.1  # of the largest gradient: before training settles, copies that attract at first part later (measured)
_MOST_MEMBERS = 64  # of a class compared pair by pair; larger ones against their first member
_DISAGREE, _GREW = 1.3, 2.0  # a stretch is too long where its two distances differ so much, or the copies part so fast

Gradients = dict[str, Tensor]


def partings(runner: Runner, near: Sequence[SliceClasses], update: Update) -> list[Parting]:
    """For each of `near`, when its copies will be further apart than TOGETHER of their size.

    Args:
        near: slices with classes of near copies.
    """
    runner.what = "following near copies"
    path = _Path(runner, near)
    with runner.held.scratch():
        (_stretches if update.remembers else _flow)(path, update)
    return [
        judged(
            path.times, [g[i] for g in path.gaps], update=str(update), settled=path.settled,
            beyond=not update.remembers,
        )
        for i in range(len(near))
    ]  # fmt: skip


@dataclass
class _Path:
    """The borrowed weights on their way, and how far apart the copies were when."""

    runner: Runner
    near: Sequence[SliceClasses]
    times: list[float] = field(default_factory=lambda: [0.0])
    gaps: list[list[float]] = field(default_factory=list)
    _sizes: list[float] = field(default_factory=lambda: [0.0])

    def __post_init__(self) -> None:
        self.gaps.append(self.apart())

    @property
    def settled(self) -> bool:
        """Whether the gradient has become small."""
        return self._sizes[-1] < _SETTLED * max(self._sizes)

    @property
    def over(self) -> bool:
        """Whether all copies are apart."""
        return min(self.gaps[-1]) > TOGETHER

    def apart(self) -> list[float]:
        return [gap(self.runner.held.params[s.parameter].data, s) for s in self.near]

    def reached(self, time: float) -> None:
        self.times.append(time)
        self.gaps.append(self.apart())

    def gradients(self) -> Gradients | None:
        """One pass here; None where the user's code raises or a gradient is not finite."""
        try:
            seen = self.runner.run(1, record=False, plain=True)
        except (UsersCodeError, BatchError):
            return None
        found = {n: g for n, g in seen.gradients.items() if g is not None}
        if not all(bool(torch.isfinite(g).all()) for g in found.values()):
            return None
        self._sizes.append(_size(found.values()))
        return found


def _flow(path: _Path, update: Update) -> None:
    """Follow gradient descent in Euler steps of its flow."""
    params, before, length = path.runner.held.params, None, update.rate
    for _ in range(_PASSES):
        gradients = path.gradients()
        if gradients is None:
            return
        length = max(update.rate, length * _longer(gradients, before))
        with torch.no_grad():
            for name, g in gradients.items():
                params[name].data.sub_(update.pulled(g, params[name].data), alpha=length)
        path.reached(path.times[-1] + length / update.rate)
        before = gradients
        if path.over:
            return


@dataclass(frozen=True, eq=False)
class _Stretch:
    """Some steps of an optimizer with memory: where they begin, and the gradient there and a step further on."""

    start: Mapping[str, Moments]
    gradients: Gradients
    slopes: Gradients
    steps: int

    def end(self, update: Update) -> dict[str, Moments]:
        return {
            n: self.start[n].after(update, update.pulled(g, self.start[n].weight), self.slopes[n], self.steps)
            for n, g in self.gradients.items()
        }


def _stretches(path: _Path, update: Update) -> None:
    """Follow an optimizer with memory in stretches, each corrected by the pass at its end."""
    params, stretch, guessed, steps = path.runner.held.params, None, path.gaps[-1], 1
    for _ in range(_PASSES):
        gradients = path.gradients()
        if gradients is None or (stretch is not None and gradients.keys() != stretch.gradients.keys()):
            return
        if stretch is None:
            start = {n: Moments.fresh(params[n].data) for n in gradients}
            slopes = {n: torch.zeros_like(g) for n, g in gradients.items()}
        else:
            slopes = {n: (g - stretch.gradients[n]) / stretch.steps for n, g in gradients.items()}
            start = replace(stretch, slopes=slopes).end(update)
            _put(params, start)
            if stretch.steps > 1 and _too_long(path.gaps[-1], guessed, path.apart()):
                stretch = replace(stretch, steps=stretch.steps // 2)
                _put(params, stretch.end(update))
                guessed = path.apart()
                continue
            path.reached(path.times[-1] + stretch.steps)
            if path.over:
                return
            steps = max(1, int(stretch.steps * _longer(gradients, stretch.gradients)))
        stretch = _Stretch(start, gradients, slopes, steps)
        _put(params, stretch.end(update))
        guessed = path.apart()


def _too_long(before: Sequence[float], guessed: Sequence[float], found: Sequence[float]) -> bool:
    """Whether the distances at a stretch's end are in doubt, of those copies that were together before it."""
    return any(
        max(f / max(g, 1e-300), g / max(f, 1e-300)) > _DISAGREE or f > _GREW * b
        for b, g, f in zip(before, guessed, found, strict=True)
        if b <= TOGETHER
    )


def _put(params: Mapping[str, Tensor], state: Mapping[str, Moments]) -> None:
    with torch.no_grad():
        for name, moments in state.items():
            params[name].data.copy_(moments.weight)


def _longer(gradients: Mapping[str, Tensor], before: Mapping[str, Tensor] | None) -> float:
    """How much longer the next step may be, by how much the gradient turned over the last."""
    if before is None or gradients.keys() != before.keys():
        return 1.0
    turned = _size(g - before[n] for n, g in gradients.items())
    return min(2.0, max(0.5, _TURN * _size(before.values()) / max(turned, 1e-300)))


def _size(gradients: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(torch.linalg.vector_norm(g)) ** 2 for g in gradients))


def gap(value: Tensor, s: SliceClasses) -> float:
    """The largest distance between two near copies, relative to their size."""
    rows = value.movedim(s.axis, 0).reshape(value.shape[s.axis], -1)
    largest = 0.0
    for group in s.near:
        members = rows[list(group)]
        others = members if len(group) <= _MOST_MEMBERS else members[:1]
        size = float(torch.linalg.vector_norm(members, dim=1).max())
        apart = (members[:, None] - others[None]).flatten(2).norm(dim=2)
        largest = max(largest, float(apart.max()) / max(size, 1e-300))
    return largest


def judged(
    times: Sequence[float],
    gaps: Sequence[float],
    *,
    update: str = "sgd",
    settled: bool = False,
    beyond: bool = True,
) -> Parting:
    """What a look at distances `gaps` at `times` says of the time when they exceed TOGETHER.

    Args:
        times: in steps of the optimizer, from 0.
        gaps: relative distances of the copies then.
        update: of what the steps are, in words.
        beyond: False where nothing is said of what comes after the look.
        settled: True where the gradient has become small; only then "they attract" is said to last.

    Example:
        >>> grows = judged([0, 100, 200, 300, 400], [1e-4, 2e-4, 4e-4, 8e-4, 16e-4])
        >>> round(grows.steps), grows.looked
        (664, 400)
    """
    end = next((i for i, g in enumerate(gaps) if g > TOGETHER), None)
    logs, goal = [math.log(max(g, 1e-300)) for g in gaps], math.log(TOGETHER)
    looked, growth = times[-1], math.exp(logs[-1] - logs[0])
    if end is not None:
        i = max(end, 1)
        share = (goal - logs[i - 1]) / max(logs[i] - logs[i - 1], 1e-300)
        steps = times[i - 1] + min(1.0, max(0.0, share)) * (times[i] - times[i - 1])
        return Parting(update, looked, growth, (logs[i] - logs[0]) / max(times[i], 1.0), steps, measured=True)
    if looked == 0:
        return Parting(update, 0.0, 1.0, 0.0, None, measured=False)
    if not beyond:
        return Parting(update, looked, growth, (logs[-1] - logs[0]) / looked, None, measured=True)
    middle, late = (_slope(times, logs, looked * a, looked * b) for a, b in ((0.5, 0.75), (0.75, 1.0)))
    rate = _slope(times, logs, looked * 0.5, looked)
    if rate <= 0 and growth <= _FELL and settled:
        return Parting(update, looked, growth, rate, math.inf, measured=False)
    steps = looked + (goal - logs[-1]) / rate if rate > 0 else math.inf
    steady = min(middle, late) > 0 and max(middle, late) <= _STEADY * min(middle, late)
    known = steady and steps <= (1 + _FURTHER) * looked
    return Parting(update, looked, growth, rate, steps if known else None, measured=not known)


def _slope(times: Sequence[float], logs: Sequence[float], start: float, end: float) -> float:
    """Growth of the log a step between two times, by linear interpolation."""
    return (_at(times, logs, end) - _at(times, logs, start)) / (end - start)


def _at(times: Sequence[float], logs: Sequence[float], time: float) -> float:
    i = next(i for i in range(1, len(times)) if times[i] >= time or i == len(times) - 1)
    share = (time - times[i - 1]) / (times[i] - times[i - 1])
    return logs[i - 1] + share * (logs[i] - logs[i - 1])
