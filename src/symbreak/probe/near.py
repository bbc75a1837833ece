"""How long near copies stay together: the growth of their distance along training, looked at in large steps.

Two copies at distance d sit beside the symmetric point where they are one. The swap of the two commutes with the
Hessian there, so that their difference has dynamics of its own, d' = (I - eta H_anti) d, which stay linear as long as
d is small: the pair of near copies is its own tangent vector, and no Hessian is needed. H_anti is that of the symmetric
point, which moves as the rest of the network trains, so a rate taken at the start says little of a thousand steps
later (measured: too early by any factor, and too late as well). Therefore the look follows training itself.

Small steps of gradient descent follow the gradient flow: N steps at eta are one stretch of flow of length N eta. The
flow is followed by Euler steps as long as the gradient allows (it changes by a fifth a step), never shorter than eta.
What the look covers is measured, on this batch and without the noise of mini-batches; what lies beyond is told as a
number only where the rate was steady. Adam's steps do not follow the flow, and longer ones go elsewhere (measured:
wrong by 3 and more), so nothing is said of adaptive optimizers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from symbreak.errors import BatchError
from symbreak.records import Parting, SliceClasses
from symbreak.thresholds import TOGETHER

from .passes import Runner, UsersCodeError

FLOWS = {"sgd": 1.0, "momentum": 10.0, "nesterov": 10.0}  # optimizer -> flow a step over its rate; momentum is 0.9
_PASSES = 30
_TURN = 0.2  # of the gradient's size: how far it may change over one step of the look
_FURTHER = 3.0  # times what was looked at: how far a steady rate is trusted
_STEADY = 1.3  # ratio of the rates in the third and the last quarter of the look; any power of the time has 1.41
_FELL = 0.9  # of the distance: a smaller fall is no attraction
_SETTLED = 0.1  # of the largest gradient: before training settles, copies that attract at first part later (measured)
_MOST_MEMBERS = 64  # of a class compared pair by pair; larger ones against their first member


def partings(runner: Runner, near: Sequence[SliceClasses], *, rate: float) -> list[Parting]:
    """For each of `near`, when its copies will be further apart than TOGETHER of their size.

    Args:
        near: slices with classes of near copies.
        rate: flow a step of the optimizer: its learning rate, over one minus its momentum.
    """
    runner.what = "following near copies"
    times, gaps = [0.0], [[gap(runner.held.params[s.parameter].data, s) for s in near]]
    before: dict[str, Tensor] | None = None
    length, sizes = rate, [0.0]
    with runner.held.scratch():
        for _ in range(_PASSES):
            try:
                seen = runner.run(1, record=False)
            except (UsersCodeError, BatchError):
                break
            gradients = {n: g for n, g in seen.gradients.items() if g is not None}
            if not all(bool(torch.isfinite(g).all()) for g in gradients.values()):
                break
            sizes.append(_size(gradients.values()))
            length = max(rate, length * _stretch(gradients, before))
            with torch.no_grad():
                for name, g in gradients.items():
                    runner.held.params[name].data.sub_(g, alpha=length)
            times.append(times[-1] + length / rate)
            gaps.append([gap(runner.held.params[s.parameter].data, s) for s in near])
            before = gradients
            if min(gaps[-1]) > TOGETHER:
                break
    settled = sizes[-1] < _SETTLED * max(sizes)
    return [judged(times, [g[i] for g in gaps], settled=settled) for i in range(len(near))]


def _stretch(gradients: Mapping[str, Tensor], before: Mapping[str, Tensor] | None) -> float:
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


def judged(times: Sequence[float], gaps: Sequence[float], *, settled: bool = False) -> Parting:
    """What a look at distances `gaps` at `times` says of the time when they exceed TOGETHER.

    Args:
        times: in steps of the optimizer, from 0.
        gaps: relative distances of the copies then.
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
        return Parting(looked, growth, (logs[i] - logs[0]) / max(times[i], 1.0), steps, measured=True)
    if looked == 0:
        return Parting(0.0, 1.0, 0.0, None, measured=False)
    middle, late = (_slope(times, logs, looked * a, looked * b) for a, b in ((0.5, 0.75), (0.75, 1.0)))
    rate = _slope(times, logs, looked * 0.5, looked)
    if rate <= 0 and growth <= _FELL and settled:
        return Parting(looked, growth, rate, math.inf, measured=False)
    steps = looked + (goal - logs[-1]) / rate if rate > 0 else math.inf
    steady = min(middle, late) > 0 and max(middle, late) <= _STEADY * min(middle, late)
    known = steady and steps <= (1 + _FURTHER) * looked
    return Parting(looked, growth, rate, steps if known else None, measured=not known)


def _slope(times: Sequence[float], logs: Sequence[float], start: float, end: float) -> float:
    """Growth of the log a step between two times, by linear interpolation."""
    return (_at(times, logs, end) - _at(times, logs, start)) / (end - start)


def _at(times: Sequence[float], logs: Sequence[float], time: float) -> float:
    i = next(i for i in range(1, len(times)) if times[i] >= time or i == len(times) - 1)
    share = (time - times[i - 1]) / (times[i] - times[i - 1])
    return logs[i - 1] + share * (logs[i] - logs[i - 1])
