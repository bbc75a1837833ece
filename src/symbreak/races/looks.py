"""What a start looks like before it is trained: when each tensor wakes, and how many units of each layer are distinct.

Built-in nets are looked at side by side, in float64 and by the probe's own ladder: every tensor that has a gradient
moves by 2 % of its size, step after step, on the race's own mini-batches. Other modules are given to `probe.look`.

Index letters: m models, b samples, o units out, i units in, k layers, f features of a unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symbreak.probe import look as probe_look
from symbreak.probe.wakeup import ALMOST_ZERO, LEAST_STEPS, NOISE, QUIET_STEPS, STEP
from symbreak.races import chains
from symbreak.races.brought import ONE_AT_A_TIME
from symbreak.races.chains import Chains
from symbreak.races.subjects import State, wearing
from symbreak.races.work import Work

ROWS = 32  # samples of a batch that are looked at, at most: a look then costs what a few steps do
ODD = 1e-9  # of the largest gradient, or of 1: below it, a gradient is compared in two precisions
QUIET = 1e-6  # of the loudest back-signal: where terms cancel, what is left is rounding, and differs between copies
EQUAL = 1e-9  # of the layer's largest: units that differ by less at every step are one
SIGNS = 3  # random projections of a unit's signal; equal units have equal ones, others do not, with probability 1


@dataclass(frozen=True)
class Look:
    """A start as it was found.

    Attributes:
        wakeup: tensor -> the first step (from 1) at which it has a gradient; None: at no step of the look.
        width: hidden layer -> (distinct units, units).
    """

    wakeup: dict[str, int | None]
    width: dict[str, tuple[int, int]]


def look(work: Work, states: Sequence[State]) -> list[Look]:
    """A look at every start.

    Example:
        >>> from symbreak.races.plan import prepared
        >>> from symbreak.races.grid import Cell
        >>> work = prepared("mlp:8:tanh", "iris")
        >>> (one,) = look(work, [work.subject.state(Cell("zeros", 0, 0.1))])
        >>> one.wakeup["fc1.weight"], one.wakeup["fc2.bias"], one.width
        (None, 1, {'fc1': (1, 8)})

    Source: `symbreak.check`, whose `wakeup` and `width` these are.
    """
    spec = work.subject.spec
    if spec is not None and chains.fits(spec, work.setup.loss):
        full = [{name: one.double() for name, one in state.items()} for state in states]
        return _Ladder(chains.stack(spec, full, work.setup.loss), work).climb()
    return [_probed(work, state) for state in states]


# Built-in nets, side by side -------------------------------------------------------------------------------------


class _Ladder:
    """The climb of M nets; awake [m, 2 k] holds, for weight and bias of each layer, the step at which it woke, or 0."""

    def __init__(self, many: Chains, work: Work) -> None:
        self.many, self.work = many, work
        self.awake = torch.zeros(len(many.weights[0]), len(many.parameters), dtype=torch.long)
        self.features: list[list[Tensor]] = [[] for _ in many.weights[1:]]
        self.draw = torch.Generator().manual_seed(0)

    def climb(self) -> list[Look]:
        last = 0
        for step, (x, y) in enumerate(self._batches(), start=1):
            gradients = self.many.gradients(x, y)
            live = self._live(_tops(gradients), x, y)
            new = live & (self.awake == 0)
            self.awake[new] = step
            last = step if bool(new.any()) else last
            self._write_down(len(x), y)
            self._move(gradients, live)
            if step >= LEAST_STEPS and step - last >= QUIET_STEPS:
                break
        return self._looks()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        at_most = self.awake.shape[1] + LEAST_STEPS + QUIET_STEPS
        for step, (x, y) in enumerate(self.work.table.batches(at_most)):
            first = step * ROWS % len(x)  # a full batch is the same at every step: other rows of it
            rows = slice(first, first + ROWS) if first + ROWS <= len(x) else slice(0, ROWS)
            yield x[rows].double(), y[rows]

    def _live(self, tops: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Where the gradient is more than rounding: that shrinks with the precision, a gradient does not."""
        odd = (tops > 0) & (tops < ODD * tops.max(dim=1, keepdim=True).values.clamp_min(1.0))
        if not bool(odd.any()):
            return tops > 0
        weights, biases = ([one.float() for one in group] for group in (self.many.weights, self.many.biases))
        coarse = Chains(weights, biases, self.many.activation, self.many.loss)
        return (tops > 0) & ~(odd & (tops < NOISE * _tops(coarse.gradients(x.float(), y)).double()))

    def _write_down(self, n: int, y: Tensor) -> None:
        """Projections of what each hidden unit hears and of what it is told: z and dloss/dz."""
        room = self.many.room(n)
        onto = torch.randn(n, SIGNS, generator=self.draw, dtype=torch.float64)
        told = [slope @ onto for slope in room.slopes]
        last = _top(self.many.slope(room.z[-1], y, None)) * _top(self.many.weights[-1])
        loudest = torch.stack([last, *map(_top, told)]).amax(dim=0)
        for kept, z, one in zip(self.features, room.z, told, strict=False):
            kept += [_to_one(z @ onto), _to_one(one, QUIET * loudest)]

    def _move(self, gradients: Sequence[Tensor], live: Tensor) -> None:
        for number, (w, slope) in enumerate(zip(self.many.parameters, gradients, strict=True)):
            weight, size = (one.flatten(1).square().mean(dim=1).sqrt() for one in (w, slope))
            usual = w.new_tensor(0.1 if w.ndim == 2 else w.shape[2] ** -0.5)
            relative = torch.where(weight > ALMOST_ZERO, weight, usual)
            factor = 0.5 + float(torch.rand((), generator=self.draw))
            rate = torch.where(live[:, number], STEP * factor * relative / size, 0.0)
            w -= rate.reshape(-1, *[1] * (w.ndim - 1)) * slope

    def _looks(self) -> list[Look]:
        names = [f"fc{k}.{part}" for k in range(1, len(self.many.weights) + 1) for part in ("weight", "bias")]
        widths = [_distinct(torch.cat(kept, dim=2)) for kept in self.features]
        found = []
        for r, row in enumerate(self.awake.tolist()):
            wakeup = {name: step or None for name, step in zip(names, row, strict=True)}
            width = {f"fc{k}": (int(one[r]), kept[0].shape[1])
                     for k, (one, kept) in enumerate(zip(widths, self.features, strict=True), start=1)}  # fmt: skip
            found.append(Look(wakeup, width))
        return found


def _tops(gradients: Sequence[Tensor]) -> Tensor:
    """The largest absolute gradient of each layer's weight and bias [m, 2 k]."""
    return torch.stack([_top(one) for one in gradients], dim=1)


def _top(many: Tensor) -> Tensor:
    """The largest absolute number of each [m]."""
    return many.flatten(1).abs().amax(dim=1)


def _to_one(features: Tensor, least: Tensor | None = None) -> Tensor:
    """Each column [m, o, f] over its largest number, or over `least` [m] where that is larger."""
    largest = features.abs().amax(dim=1, keepdim=True).clamp_min(1e-300)
    return features / (largest if least is None else torch.maximum(largest, least[:, None, None]))


def _distinct(scaled: Tensor) -> Tensor:
    """Different rows of each [o, f], to within EQUAL [m]. Sorted along a random direction equal ones are neighbours."""
    along = torch.randn(scaled.shape[2], generator=torch.Generator().manual_seed(1), dtype=scaled.dtype)
    order = (scaled @ along).argsort(dim=1)[:, :, None].expand_as(scaled)
    rows = scaled.gather(1, order)
    return 1 + ((rows[:, 1:] - rows[:, :-1]).abs().amax(dim=2) > EQUAL).sum(dim=1)


# Any other module, one at a time ---------------------------------------------------------------------------------


def _probed(work: Work, state: State) -> Look:
    subject, (x, y) = work.subject, next(iter(work.split.batches(1)))
    with ONE_AT_A_TIME:
        brought = subject.brought(0)
        with wearing(brought.model, state), torch.enable_grad():
            loss = None if brought.objective is not None else work.score.function
            trace = probe_look(brought.model, x if y is None else (x, y), loss, brought.objective)
    wakeup = {one.name: one.wake for one in trace.tensors if one.status != "frozen"}
    return Look(wakeup, {name: (int(distinct), int(units)) for name, (distinct, units) in trace.width.items()})


__all__ = ["Look", "look"]
