"""What becomes of the parameters that never woke: unused, starved, absorbed, or asleep, and what keeps them so.

A zero gradient is explained by intervention, not by name: fill every zero with noise and look again; shift the
parameter and see whether any output moves.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from symbreak.errors import BatchError

from .passes import Runner, UsersCodeError
from .project import slice_tops
from .selection import left_out
from .uncalled import uncalled
from .wakeup import Ladder, climb, nominal_scale, scale

SHIFT = 1e-3  # of the scale: small enough to stay on one side of a ReLU or a max
FAR = 1.0  # of the scale: leaves the step of a rounding; what a normalisation removes, it removes at any size
_FELT = 0.1  # of the output's size: doubling a weight behind which no norm stands moves it by more
_STILL = {torch.float64: 1e-8, torch.float32: 1e-4}  # relative movement of the outputs that counts as none


@dataclass
class Sleepers:
    """What the interventions showed. Rows are slices along axis 0."""

    filled_wake: set[str] = field(default_factory=set)
    filled_rows: dict[str, Tensor] = field(default_factory=dict)
    absorbed: set[str] = field(default_factory=set)
    absorbed_rows: dict[str, Tensor] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)  # moves the loss, yet no graph leads to it
    freed: set[str] = field(default_factory=set)  # wakes once copies are told apart
    climbs: int = 1


@dataclass(frozen=True)
class _Item:
    name: str
    rows: Tensor  # [rows] which of them to shift


def investigate(
    runner: Runner,
    ladder: Ladder,
    *,
    lookups: frozenset[str],
    tied: Callable[[], frozenset[str]],
    touched: frozenset[str],
) -> Sleepers:
    """Look again at what stayed asleep: on other data, with zeros filled, with copies told apart, and by shifting it.

    Args:
        lookups: tables whose rows need not all be seen.
        tied: gives the tensors that hold copies; asked only where something sleeps.
        touched: tensors that the forward pass uses.
    """
    ladder.starved |= uncalled(runner, [n for n in ladder.wake if n not in ladder.path | touched], touched)
    found = Sleepers(cut=_cut_off(runner, ladder, touched))
    blank = {n: _zero_rows(runner.held.params[n].data) for n in ladder.path if n not in lookups}
    if _unexplained(ladder, blank):
        _look_again(runner, ladder, found)
    suspects = _suspects(ladder, blank)
    if not suspects:
        return found
    copies = tied() if any(ladder.wake[name] is None for name in suspects) else frozenset()
    if copies:
        found.freed = _tell_apart(runner, copies)
        found.climbs += 1
    with runner.held.scratch():
        _fill(runner)
        runner.what = "filling zeros"
        filled = climb(runner, offset=2000, only=2)
        found.climbs += 1
        for name in suspects:
            found.filled_rows[name] = filled.rows[name]
            if filled.wake[name] is not None and ladder.wake[name] is None:
                found.filled_wake.add(name)
        items = [_Item(n, _quiet_rows(n, ladder, filled)) for n in suspects]
        for item in _unmoved(runner, [i for i in items if bool(i.rows.any())]):
            found.absorbed_rows[item.name] = item.rows
            if bool(item.rows.all()):
                found.absorbed.add(item.name)
    if any(runner.held.params[name].dim() > 1 for name in found.absorbed):
        runner.what = "looking for what the batch leaves out"
        ladder.starved |= left_out(runner, found.absorbed)
    return found


def _cut_off(runner: Runner, ladder: Ladder, touched: frozenset[str]) -> set[str]:
    """What the forward pass uses and the loss depends on, though no gradient can reach it: rounding, argmax, detach."""
    groups: dict[str, list[_Item]] = {}
    for name in ladder.wake:
        if name in touched and name not in ladder.path and name not in ladder.starved:
            rows = torch.ones_like(ladder.rows[name])
            groups.setdefault(name.partition(".")[0], []).append(_Item(name, rows))
    if not groups:
        return set()
    runner.what = "shifting what has no path to the loss"
    before = runner.outputs(1, felt=True)
    moving = [items for items in groups.values() if _moves(runner, items, before, shift=FAR, felt=True)]
    return {item.name for items in moving for item in items}


def _unexplained(ladder: Ladder, blank: dict[str, Tensor]) -> bool:
    """True where a tensor, or a row of zeros, got exactly zero and not rounding: other data might wake it."""
    return any(
        bool((~ladder.rows[n] & ~ladder.noisy[n] & (rows if ladder.wake[n] is not None else True)).any())
        for n, rows in blank.items()
    )


def _suspects(ladder: Ladder, blank: dict[str, Tensor]) -> list[str]:
    """What to intervene on: whole tensors asleep, entries of vectors that are only rounding, rows of zeros asleep."""
    return [
        n
        for n in ladder.wake
        if n in ladder.path
        and (ladder.wake[n] is None or (n in blank and bool((~ladder.rows[n] & (blank[n] | ladder.noisy[n])).any())))
    ]


def _zero_rows(p: Tensor) -> Tensor:
    return (
        slice_tops(p) == 0
        if p.dim() >= 2 and p.numel()
        else torch.zeros(p.shape[0] if p.dim() else 1, dtype=torch.bool)
    )


def _quiet_rows(name: str, ladder: Ladder, filled: Ladder) -> Tensor:
    """The rows to shift: all of a tensor that sleeps, the noisy entries of one that is awake."""
    asleep = ~(ladder.rows[name] | filled.rows[name])
    return asleep if ladder.wake[name] is None else asleep & ladder.noisy[name]


def _look_again(runner: Runner, ladder: Ladder, found: Sleepers) -> None:
    """A second climb on varied data and other steps: ReLU luck, routing and balanced batches must not read as never."""
    runner.what = "looking again on other data"
    with runner.held.scratch():
        try:
            again = climb(runner, offset=1000, varied=True, only=min(ladder.steps, 8))
        except (UsersCodeError, BatchError):
            return  # a jittered batch may be invalid for the model; the user's own was not
    found.climbs += 1
    if again.nonfinite:
        return
    ladder.starved |= again.starved
    for name, rows in again.rows.items():
        ladder.rows[name] |= rows
        ladder.noisy[name] &= ~rows
        step = again.wake[name]
        if step is not None and ladder.wake[name] is None:
            ladder.wake[name] = step
    ladder.path |= again.path


def _tell_apart(runner: Runner, tied: frozenset[str]) -> set[str]:
    """What wakes when the copies get noise: an invariance explains why it sleeps, not a blocked path."""
    runner.what = "telling copies apart"
    generator = torch.Generator().manual_seed(runner.seed + 777)
    with runner.held.scratch():
        with torch.no_grad():
            for name in sorted(tied):
                p = runner.held.params[name].data
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype).to(p.device)
                p.add_(noise * (0.3 * scale(p)))
        return {name for name, step in climb(runner, offset=3000, only=2).wake.items() if step is not None}


def _fill(runner: Runner) -> None:
    """Small noise in every tensor that is all zero, and in every zero row and column of the others."""
    generator = torch.Generator().manual_seed(runner.seed + 4242)
    with torch.no_grad():
        for name in runner.held.trainable:
            p = runner.held.params[name].data
            if not (p.is_floating_point() or p.is_complex()) or p.numel() == 0:
                continue
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype).to(p.device)
            holes = _holes(p)
            if bool(holes.any()):
                p.add_(noise * holes * nominal_scale(p))


def _holes(p: Tensor) -> Tensor:
    if p.dim() < 2:
        return (p == 0).all().expand(p.shape).to(p.dtype if not p.is_complex() else torch.float64)
    zero = p == 0
    rows = zero.reshape(p.shape[0], -1).all(1).reshape(-1, *(1,) * (p.dim() - 1))
    columns = zero.transpose(0, 1).reshape(p.shape[1], -1).all(1).reshape(1, -1, *(1,) * (p.dim() - 2))
    return (rows | columns).expand(p.shape)


def _unmoved(runner: Runner, items: Sequence[_Item]) -> list[_Item]:
    """The items whose small shift moves no output, unless a large one does and still gives them no gradient.

    A bias in front of a normalisation moves nothing at any size, or only where a ReLU between them changes sides, and
    then it learns. In front of a rounding nothing small moves anything, and nothing ever learns.
    """
    if not items:
        return []
    runner.what = "shifting what stays asleep"
    before = runner.outputs(1)
    if not before:
        return []
    near = _still(runner, items, before, SHIFT)
    if not near or not _moves(runner, near, before, shift=FAR):
        return near
    flat = _without_gradient(runner, near)
    still = {item.name for item in _still(runner, flat, before, FAR)}
    hidden = {item.name for item in flat} - still
    return [item for item in near if item.name not in hidden]


def _without_gradient(runner: Runner, items: Sequence[_Item]) -> list[_Item]:
    """Those that get exactly no gradient where all of them are shifted far."""
    with _shifted(runner, items, FAR):
        try:
            gradients = runner.run(1).gradients
        except UsersCodeError:
            return []
    return [item for item in items if (g := gradients[item.name]) is not None and not bool(g.any())]


def _still(runner: Runner, items: Sequence[_Item], before: tuple[Tensor, ...], shift: float) -> list[_Item]:
    """Found by halving: all absorbed biases cost one forward pass together."""
    found: list[_Item] = []
    stack: list[list[_Item]] = [list(items)] if items else []
    while stack:
        group = stack.pop()
        if not _moves(runner, group, before, shift=shift):
            found.extend(group)
        elif len(group) > 1:
            middle = len(group) // 2
            stack += [group[:middle], group[middle:]]
    return found


def _moves(
    runner: Runner, items: Sequence[_Item], before: tuple[Tensor, ...], *, shift: float, felt: bool = False
) -> bool:
    with _shifted(runner, items, shift):
        try:
            after = runner.outputs(1, felt=felt)
        except UsersCodeError:
            return True
    return any(_differs(a, b, _STILL.get(runner.held.dtype, 1e-4)) for a, b in zip(before, after, strict=True))


@contextlib.contextmanager
def _shifted(runner: Runner, items: Sequence[_Item], shift: float) -> Iterator[None]:
    generator = torch.Generator().manual_seed(runner.seed + 99)
    with runner.held.scratch():
        with torch.no_grad():
            for item in items:
                p = runner.held.params[item.name].data
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype).to(p.device)
                rows = item.rows.to(p.device).reshape(p.shape[:1] + (1,) * (p.dim() - 1) if p.dim() else ())
                p.add_(noise * rows * (shift * max(scale(p), 0.1)))
        yield


def scale_moves(runner: Runner) -> Callable[[Mapping[str, float], Mapping[str, float]], bool]:
    """A function of two maps parameter -> factor: do the outputs differ between these scalings?"""

    def scaled(factors: Mapping[str, float]) -> tuple[Tensor, ...]:
        with _scaled(runner, factors):
            return runner.outputs(1)

    def moves(some: Mapping[str, float], others: Mapping[str, float]) -> bool:
        runner.what = "scaling what may have the wrong fan"
        try:
            before, after = scaled(some), scaled(others)
        except UsersCodeError:
            return True  # a forward that no longer runs has felt it: VITS reads the length of its output off a sum
        return any(_differs(*_spread(a, b), _FELT) for a, b in zip(before, after, strict=True))

    return moves


def scale_gain(runner: Runner) -> Callable[[Mapping[str, float]], float]:
    """A function of a map parameter -> factor: how many times larger do these scalings make what varies at the outputs?

    1 where nothing varies there, or where the scaled network does not run.
    """

    def gain(factors: Mapping[str, float]) -> float:
        runner.what = "scaling what may have the wrong fan"
        before = _varying(runner.outputs(1))
        try:
            with _scaled(runner, factors):
                after = _varying(runner.outputs(1))
        except UsersCodeError:
            return 1.0
        return after / before if before > 0 and after > 0 else 1.0

    return gain


@contextlib.contextmanager
def _scaled(runner: Runner, factors: Mapping[str, float]) -> Iterator[None]:
    with runner.held.scratch():
        with torch.no_grad():
            for name, factor in factors.items():
                runner.held.params[name].data.mul_(factor)
        yield


def _varying(outputs: Sequence[Tensor]) -> float:
    """The l2 norm of all outputs, each less its mean over the samples."""
    return math.sqrt(sum(float(torch.linalg.vector_norm(_spread(o, o)[0])) ** 2 for o in outputs))


def _spread(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both, less their means over the samples: a bias keeps an output up, whatever becomes of the signal."""
    if a.shape != b.shape or a.dim() < 2 or a.shape[0] < 2:
        return a, b
    return a - a.mean(0), b - b.mean(0)


def _differs(a: Tensor, b: Tensor, still: float) -> bool:
    if a.shape != b.shape:
        return True
    if a.numel() == 0:
        return False
    size = float(torch.linalg.vector_norm(a)) / math.sqrt(a.numel())
    return float((a - b).abs().max()) > still * max(size, 1e-300)
