"""The step of a vmapped module, compiled by torch where that pays: once for all chunks of a race that a process trains.

It runs plainly at first, and is timed. Where what is left to do would take longer than WORTH, it is compiled for the
number of rows at hand, held against the plain step on the batch at hand, timed beside it, and kept if it is faster.
What cannot be compiled, or is no faster, goes on plainly, and the runs say why.

Index letters: m models.
"""

from __future__ import annotations

import itertools
import math
import time
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Step = Callable[[Tensors, Tensors, Any, "Tensor | None"], tuple[Tensors, Tensors]]
"""(parameters, buffers, x, y) -> gradients and the buffers that the step leaves; all stacked, [m, ...]."""


class Code(Protocol):
    """Whose step is compiled."""

    step: Step

    def mode(self, *, train: bool) -> AbstractContextManager[None]:
        """Around a step: its modules train, or not."""


WORTH = 120.0  # seconds of plain steps: some six times what compiling takes, for a gain of a tenth up to sevenfold
TIMED = 10  # steps, the fastest of which counts
FASTER = 0.95  # of a plain step's time: what is closer is a draw, and plain
KEPT = 4  # races whose compiled steps a process keeps
CLOSE = 1e-3  # of a gradient's size: more than float32 rounding in another order, less than any wrong statistic
OPTIONS: dict[str, Any] = {
    "compile_threads": 1,  # no pool of processes, which would outlive a race, hear Ctrl-C, and fight with workers
    "fallback_random": True,  # dropout draws what it draws in a plain step
}
_numbers = itertools.count()


class Stepper:
    """A plain step that becomes a compiled one where that pays. Not for two threads at once.

    Args:
        make: code as it is at the start; what is compiled is tried on it, so that nothing a module may count moves on.
        wanted: True compiles at once, False never, None where it pays.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.compile.html.
    """

    def __init__(self, make: Callable[[], Code], wanted: bool | None) -> None:
        self.make, self.wanted, self.settled = make, wanted, wanted is False
        self.code: Code | None = None  # that was compiled
        self.fast: Step | None = None
        self.rows = 0  # that it is for
        self.share = math.inf  # of a plain step's time that it takes
        self.note = ""
        self._seconds: list[float] = []  # of plain steps

    def rows_for(self, n: int) -> int:
        """Rows that n models should hold: those of the compiled step, where fewer plain ones would not be faster."""
        return self.rows if self.share * self.rows <= n <= self.rows else n

    def __call__(
        self, code: Code, learned: Tensors, fixed: Tensors, x: Any, y: Tensor | None, *, left: int
    ) -> tuple[Tensors, Tensors]:
        """One step, in training mode; `left` are to come in this process with it."""
        rows = len(next(iter(learned.values())))
        if self.fast is not None and code is self.code and rows == self.rows:
            return self.fast(learned, fixed, x, y)
        if not self.settled and (self.wanted or self._pays(left)):
            self.settled = True
            self._compile(learned, fixed, x, y)
        started = time.perf_counter()
        found = code.step(learned, fixed, x, y)
        if not self.settled:
            self._seconds.append(time.perf_counter() - started)
        return found

    def _pays(self, left: int) -> bool:
        return len(self._seconds) >= TIMED and min(self._seconds[-TIMED:]) * left > WORTH

    def _compile(self, learned: Tensors, fixed: Tensors, x: Any, y: Tensor | None) -> None:
        """Try it, and put the random state back; the buffers that steps move are copies."""
        state = torch.get_rng_state()

        def run(step: Step) -> tuple[Tensors, Tensors]:
            torch.set_rng_state(state)
            return step(learned, {name: one.clone() for name, one in fixed.items()}, x, y)

        try:
            code = self.make()
            with warnings.catch_warnings(), code.mode(train=True):
                warnings.simplefilter("ignore")  # torch's own, of its internals
                self._try(code, run)
            self.rows = len(next(iter(learned.values())))
        except Exception as err:  # noqa: BLE001 (no compiler, or code it cannot compile: the plain step is known to work)
            text = next((line for line in str(err).splitlines() if line.strip()), "")
            self.note = f"not compiled: {type(err).__name__}: {text[:120]}"
        finally:
            torch.set_rng_state(state)

    def _try(self, code: Code, run: Callable[[Step], tuple[Tensors, Tensors]]) -> None:
        fast: Step = torch.compile(_apart(code.step), fullgraph=True, dynamic=False, options=OPTIONS)
        started = time.perf_counter()
        found = run(fast)
        seconds = time.perf_counter() - started
        if not _same(found, run(code.step)):
            self.note = "not compiled: a compiled step and a plain one give different gradients"
            return
        slow, quick = _timed(lambda: run(code.step), lambda: run(fast))
        if quick > FASTER * slow:
            self.note = f"not compiled: it takes {quick / slow:.2f} of a plain step's time"
            return
        self.share, self.fast, self.code = quick / slow, fast, code
        self.note = f"compiled: a step is {slow / quick:.2g} times as fast, after {seconds:.0f} s"


def _apart(step: Step) -> Step:
    """The step with a code object of its own: torch keeps what it compiled by code, in eight versions at most."""
    assert isinstance(step, types.FunctionType)
    code = step.__code__.replace(co_name=f"{step.__name__}_{next(_numbers)}")
    return types.FunctionType(code, step.__globals__, code.co_name, step.__defaults__, step.__closure__)


def _timed(*calls: Callable[[], object]) -> list[float]:
    """Seconds of each, taking turns: the best of TIMED."""
    best = [math.inf] * len(calls)
    for _ in range(TIMED):
        for number, call in enumerate(calls):
            started = time.perf_counter()
            call()
            best[number] = min(best[number], time.perf_counter() - started)
    return best


def _same(found: tuple[Tensors, Tensors], expected: tuple[Tensors, Tensors]) -> bool:
    slopes = agree(found[0].values(), expected[0].values(), together=True)
    return slopes and agree(found[1].values(), expected[1].values(), together=False)


def agree(found: Iterable[Tensor], expected: Iterable[Tensor], *, together: bool) -> bool:
    """Whether tensors are equal to rounding.

    Args:
        together: rounding of the largest number in all of them; else of the largest in each. A bias in front of a norm
            has a gradient of noise alone.
    Example:
        >>> agree([torch.tensor([1.0, 2e-7])], [torch.tensor([1.0, 1e-7])], together=True)
        True
    """
    pairs = list(zip(found, expected, strict=True))
    sizes = [float(one.abs().max()) if one.numel() else 0.0 for _, one in pairs]
    if together:
        sizes = [max(sizes, default=0.0)] * len(pairs)
    atols = [CLOSE * size if math.isfinite(size) else 0.0 for size in sizes]
    return all(
        torch.allclose(ours, theirs, rtol=CLOSE, atol=atol, equal_nan=True)
        for (ours, theirs), atol in zip(pairs, atols, strict=True)
    )


_STEPPERS: OrderedDict[str, Stepper] = OrderedDict()


def stepper_of(race: str, make: Callable[[], Code], wanted: bool | None) -> Stepper:
    """The one stepper of a race in this process: a chunk goes on with what an earlier one compiled."""
    found = _STEPPERS.pop(race, None) or Stepper(make, wanted)
    _STEPPERS[race] = found
    while len(_STEPPERS) > KEPT:
        _STEPPERS.popitem(last=False)
    return found
