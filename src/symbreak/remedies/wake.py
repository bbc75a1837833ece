"""Wake what never gets a gradient (SB101): draw anew as few of the zero factors as it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from symbreak.records import Finding, TensorTrace, Trace
from symbreak.rules.grouping import by_pattern, numbers

from .bench import Bench
from .part import Part, replacing
from .smallest import FEW
from .suited import fresh


def takes(f: Finding) -> bool:
    """Whether a finding is of this kind: what never wakes, unless an activation without slope is why (shift.py)."""
    return f.code == "SB101" and not f.evidence.get("dead")


def propose(bench: Bench, findings: Sequence[Finding]) -> list[Part]:
    """Parts that each draw one zero factor anew, in the order in which a repair should try them.

    Zeros stand last by custom (LoRA's B, the last layer of a branch, a gate), so the earlier factor is drawn and the
    later one keeps its zero, and with it the output. Matrices and gains come before gates, those before biases.
    """
    trace = bench.report.trace
    zeros = [t for t in _zero_factors(trace, findings) if bench.may(t.name)]
    zeros.sort(key=lambda t: (_rank(t), _place(trace, t)))
    groups = {t.name: [t.name] for t in zeros} if len(zeros) <= FEW else by_pattern(t.name for t in zeros)
    parts = [_drawn(bench, names) for names in groups.values()]
    kept = {id(p): bench.keeps_function([p]) for p in parts} if len(parts) <= FEW else {}
    parts.sort(key=lambda p: not kept.get(id(p), True))  # stable: those that keep the output first
    return [*parts, *_rows(bench, findings), *_constants(bench, findings)]


def _zero_factors(trace: Trace, findings: Sequence[Finding]) -> list[TensorTrace]:
    """Every zero tensor that the findings name as asleep or as what blocks: only those are touched."""
    asleep = {n for f in findings for n in f.evidence.get("tensors", ())}
    known = {t.name: t for t in trace.tensors}
    named = [n for n in asleep if n in known]
    named += [z for n in asleep if n in known for z in (*known[n].input_zero, *known[n].back_zero)]
    zeros = [known[n] for n in dict.fromkeys(named) if n in known and known[n].start == "zero"]
    if not zeros:  # the graph named nothing: any zero along the way may be the factor
        zeros = [t for t in trace.tensors if t.start == "zero" and t.status in ("asleep", "live")]
    if not any(f.evidence.get("input_zero") or f.evidence.get("back_zero") for f in findings):
        zeros += [t for t in trace.tensors if t.start == "zero" and t.status == "frozen" and len(t.shape) >= 2]
    return zeros


def _rank(t: TensorTrace) -> int:
    if t.roles & {"bias", "norm_bias", "shift"}:
        return 2
    return 0 if len(t.shape) >= 2 or "norm_weight" in t.roles else 1


def _place(trace: Trace, t: TensorTrace) -> int:
    """When its layer runs; tensors without a layer of their own by their place in the model."""
    rows = [r.weight for r in trace.layers]
    names = [x.name for x in trace.tensors]
    if t.name in rows:
        return rows.index(t.name) * len(names)
    before = [rows.index(n) for n in names[: names.index(t.name)] if n in rows]
    return (max(before, default=-1) * len(names)) + names.index(t.name) + 1


def _drawn(bench: Bench, names: Iterable[str]) -> Part:
    names = list(names)
    return Part(
        "draw",
        "it was zero, and so is another factor on the way to the loss; drawn anew, so that the other zero can stay",
        tuple((n, replacing(fresh(bench, n))) for n in names),
    )


def _rows(bench: Bench, findings: Sequence[Finding]) -> Iterable[Part]:
    """Units whose weights in are zero, in a layer that learns otherwise: their rows get the layer's own scale."""
    by_layer = {t.layer: t for t in bench.report.trace.tensors if len(t.shape) >= 2}
    for f in findings:
        t = by_layer.get(f.where)
        if f.units and t is not None and bench.may(t.name):
            yield Part(
                "draw",
                f"rows {numbers(f.units)} of {t.name} are zero and get no gradient; drawn at the scale of the others",
                ((t.name, _FillRows(fresh(bench, t.name), f.units)),),
            )


def _constants(bench: Bench, findings: Sequence[Finding]) -> Iterable[Part]:
    """Without a zero: matrices that hold one number, of which a normalisation makes nothing at all."""
    asleep = {n for f in findings for n in f.evidence.get("tensors", ())}
    flat = [t.name for t in bench.report.trace.tensors if t.start == "constant" and len(t.shape) >= 2]
    names = [n for n in flat if n in asleep and bench.may(n)]
    if names:
        why = "it held one number, of which a normalisation leaves nothing; drawn anew"
        yield Part("draw", why, tuple((n, replacing(fresh(bench, n))) for n in names))


class _FillRows:
    """Drawn rows in place of zero ones, at the root mean square of the rows that are not."""

    def __init__(self, drawn: Tensor, rows: Sequence[int]) -> None:
        self._drawn, self._rows = drawn, list(rows)

    def __call__(self, value: Tensor) -> Tensor:
        filled = value.clone()
        rest = torch.ones(len(value), dtype=torch.bool, device=value.device)
        rest[self._rows] = False
        size = float(value[rest].square().mean().sqrt()) if bool(rest.any()) else 0.0
        own = float(self._drawn.square().mean().sqrt())
        filled[self._rows] = self._drawn[self._rows] * (size / own if size > 0 and own > 0 else 1.0)
        return filled
