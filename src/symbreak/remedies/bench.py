"""Try other values on a model and measure what comes of it. The model is untouched before, between and after."""

from __future__ import annotations

import contextlib
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from symbreak._check import examine
from symbreak.errors import SymbreakError
from symbreak.probe.borrow import borrow, swapped
from symbreak.probe.passes import Pass, Runner, UsersCodeError
from symbreak.probe.task import Task
from symbreak.records import Asked
from symbreak.report import Report
from symbreak.schemes import places_of

from .part import Part, forgets, without
from .trained import looks_trained

Values = Mapping[str, Tensor]
Progress = Callable[[int, int | None, str], None]
Answer = TypeVar("Answer")


class Bench:
    """A model, the question its report answered, and the parts of the repair that were chosen so far.

    Attributes:
        first: the report that the repair is for.
        report: of the model with the chosen parts in place.
        chosen: in the order in which they were chosen.
        refusals: parameter -> why it may not be changed, of those that a repair would have liked to change.
        places: parameter -> where it stands, as far as its module tells.
        tied: parameters that go by several names.
    """

    def __init__(
        self, model: nn.Module, asked: Asked, report: Report, *, unsafe: bool = False, progress: Progress | None = None
    ) -> None:
        self.model, self.asked, self.report, self.unsafe = model, asked, report, unsafe
        self.first = report
        # nothing but a proof shows these
        self._proofs = any(s.multiples_proved or s.output for s in report.trace.slices)
        self._progress, self._checks = progress, 0
        self.params = dict(model.named_parameters())
        self.places = places_of(model)
        self.tied = _tied(model)
        self.chosen: list[Part] = []
        self.refusals: dict[str, str] = {}
        self._allowed: dict[str, bool] = {}
        self._dtype = torch.float32 if report.trace.precision == "float32" else torch.float64
        self._before = self.outputs({})
        self._now: tuple[Tensor, ...] | None = self._before  # with the chosen parts

    # ---- values --------------------------------------------------------------------------------------------------

    def values(self, parts: Sequence[Part] = ()) -> dict[str, Tensor]:
        """Parameter -> new value in its own dtype, of everything that the chosen parts and these change."""
        exact: dict[str, Tensor] = {}
        for part in (*self.chosen, *parts):
            for name, edit in part.edits:
                exact[name] = edit(exact.get(name, self.params[name].detach().double()))
        return {name: value.to(self.params[name].dtype) for name, value in exact.items()}

    def now(self, name: str) -> Tensor:
        """[...] float64: the value a parameter has with the chosen parts in place."""
        value = self.params[name].detach().double()
        for part in self.chosen:
            for edited, edit in part.edits:
                value = edit(value) if edited == name else value
        return value

    def noise(self, name: str, shape: Iterable[int], std: float, *, salt: str = "") -> Tensor:
        """Normal numbers for one parameter: the same at every call, whatever else is drawn."""
        drawn = torch.randn(tuple(shape), generator=self.generator(name, salt), dtype=torch.float64)
        return (drawn * std).to(self.params[name].device)

    def generator(self, name: str, salt: str = "") -> torch.Generator:
        """Where the random numbers for one parameter come from."""
        return torch.Generator("cpu").manual_seed(zlib.crc32(f"{name} {salt} {self.asked.seed}".encode()))

    def choose(self, parts: Sequence[Part]) -> None:
        """Add parts to those chosen. What was done before to a tensor that is now drawn anew is no part of the plan."""
        for part in parts:
            anew = {name for name, edit in part.edits if forgets(edit)}
            earlier = (without(p, anew) for p in self.chosen)
            self.chosen = [*(p for p in earlier if p.edits), part]
        self._now = self.outputs(self.values())

    # ---- what may be changed -------------------------------------------------------------------------------------

    def may(self, name: str) -> bool:
        """Whether this parameter may be changed; the reason against it is kept in `refusals`."""
        if name not in self._allowed:
            reason = self._refusal(name)
            self._allowed[name] = reason is None
            if reason is not None:
                self.refusals[name] = reason
        return self._allowed[name]

    def _refusal(self, name: str) -> str | None:
        p = self.params[name]
        if not p.requires_grad:
            return "is frozen"
        if not p.is_floating_point():
            return f"holds {str(p.dtype).removeprefix('torch.')} numbers, not real ones"
        if p.layout != torch.strided or type(p) not in (Tensor, nn.Parameter):
            return f"is no plain dense tensor ({type(p).__name__}, {p.layout})"
        other = self._overlapping(p)
        if other is not None:
            return f"shares a part of its memory with {other}"
        reason = None if self.unsafe else looks_trained(self.now(self.judged_by(name)))
        return f"looks trained ({reason}); it is changed only with unsafe=True" if reason is not None else None

    def judged_by(self, name: str) -> str:
        """Whose values say whether a parameter is trained: a bias or gain is judged by the matrix beside it."""
        if self.params[name].dim() >= 2:
            return name
        owner = name.rpartition(".")[0]
        beside = [n for n, p in self.params.items() if n.rpartition(".")[0] == owner and p.dim() >= 2]
        return beside[0] if beside else name

    def _overlapping(self, p: Tensor) -> str | None:
        """Another parameter over a part of the same memory. (Over all of it is fine: they are one tensor.)"""
        start, end = _span(p)
        for other, q in self.params.items():
            low, high = _span(q)
            apart = end <= low or high <= start or q.device != p.device
            if q is not p and not apart and not _same_memory(p, q):
                return other
        return None

    # ---- trying --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _with(self, values: Values) -> Iterator[None]:
        pairs = [(self.params[name], value) for name, value in values.items()]
        twins = [(q, v) for p, v in pairs for q in self.params.values() if q is not p and _same_memory(p, q)]
        with swapped((*pairs, *twins)):
            yield

    def report_with(self, parts: Sequence[Part]) -> Report | None:
        """The report of the model with these parts; None where it does not even run with them."""
        a = self.asked
        self._checks += 1
        if self._progress is not None:
            self._progress(self._checks, None, "trying repairs")
        with self._with(self.values(parts)), contextlib.suppress(SymbreakError):
            return examine(self.model, a.batch, a.loss, a.objective, a.optimizer, a.seed, proofs=self._proofs)
        return None

    def outputs(self, values: Values) -> tuple[Tensor, ...] | None:
        """Every output on the first batch, in the probe's precision; None where the model does not run."""
        return self._ask(values, lambda runner: tuple(o.clone() for o in runner.outputs(1)))

    def seen(self, parts: Sequence[Part] = ()) -> Pass | None:
        """One measured pass with these parts: scale of each layer, pre-activations of each activation."""
        return self._ask(self.values(parts), lambda runner: runner.run(1, measure=True))

    def _ask(self, values: Values, question: Callable[[Runner], Answer]) -> Answer | None:
        a = self.asked
        extra = [f for f in (a.loss, a.objective) if f is not None]
        task = Task(self.model, a.batch, a.loss, a.objective, seed=a.seed)
        with (
            contextlib.suppress(UsersCodeError, SymbreakError),
            self._with(values),
            borrow(self.model, extra, self._dtype) as held,
        ):
            return question(Runner(held, task, a.seed))
        return None

    def function_change(self, values: Values) -> float | None:
        """The largest change of any output over that output's root mean square; None where it cannot be measured."""
        if self._before is None:
            return None
        after = self.outputs(values)
        if after is None or [a.shape for a in after] != [b.shape for b in self._before]:
            return None
        change = max((_change(b, a) for b, a in zip(self._before, after, strict=True)), default=0.0)
        return change if math.isfinite(change) else None

    def keeps_function(self, parts: Sequence[Part], tolerance: float = 0.0) -> bool:
        """Whether these parts leave every output as it is now, to the precision of the weights' own dtype."""
        before, after = self._now, self.outputs(self.values(parts))
        if before is None or after is None or [a.shape for a in after] != [b.shape for b in before]:
            return False
        names = {name for part in parts for name in part.tensors}
        allowed = max(tolerance, *(rounding(self.params[n].dtype) for n in names))
        return all(_change(b, a) <= allowed for b, a in zip(before, after, strict=True))


def rounding(dtype: torch.dtype) -> float:
    """The relative change of an output that rounding weights of this type explains."""
    return min(1e-2, 1e3 * torch.finfo(dtype).eps)


def _change(before: Tensor, after: Tensor) -> float:
    if before.numel() == 0:
        return 0.0
    gap = float((after - before).abs().max())
    size = float(torch.linalg.vector_norm(before)) / math.sqrt(before.numel())
    return gap / size if size > 0 else gap


def _span(p: Tensor) -> tuple[int, int]:
    if p.numel() == 0 or p.layout != torch.strided or p.is_meta:
        return 0, 0
    last = sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True))
    return p.data_ptr(), p.data_ptr() + (last + 1) * p.element_size()


def _tied(model: nn.Module) -> frozenset[str]:
    names = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return frozenset(name for name, p in model.named_parameters() if names[id(p)] > 1)


def _same_memory(p: Tensor, q: Tensor) -> bool:
    def key(t: Tensor) -> tuple[Any, ...]:
        return t.data_ptr(), tuple(t.shape), t.stride(), t.dtype, t.device

    return p.layout == q.layout == torch.strided and p.numel() > 0 and key(p) == key(q)
