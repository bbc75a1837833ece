"""Mend the scale of layers: exploding and vanishing signals and gradients, linear nets, update ratios.

A layer is off where its weights are far larger or smaller than the scheme that suits it would draw them. Off layers are
scaled back by one factor each, the most outlying first; directions, zeros and what looks trained stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from symbreak.probe.passes import Pass
from symbreak.records import Finding, LayerTrace

from .bench import Bench
from .part import Edit, Part, replacing, scaling
from .smallest import FEW
from .suited import bias_of, fresh, is_factor, place_of, suited_std, tensor_of

CODES = frozenset({"SB201", "SB202", "SB203", "SB204", "SB206", "SB207", "SB208"})
TIERS = (30.0, 3.0, 1.25)  # how far off its suited size a layer is; torch's default is off by 2.4 behind a ReLU
SWEEPS = 4
SPREADS = (1.0, 3.0)  # of pre-activations that bend: tanh and sigmoid bend at one, hardsigmoid at three
_HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu", None})
_ROWS = 1e3  # times the median row: rows of memory that was never written


def takes(f: Finding) -> bool:
    """Whether a finding is of this kind: scale."""
    return f.code in CODES


def propose(bench: Bench, findings: Sequence[Finding]) -> list[Part]:
    """Whole repairs, of which one is taken: zeros, wild rows, the layers far off, nearer ones, by data, constants."""
    if all(f.code == "SB206" for f in findings):
        return list(_out_of_the_linear_region(bench))
    rows = [r for r in bench.report.trace.layers if _can(bench, r)]
    found = list(_wild_rows(bench, rows))
    told: set[tuple[str, ...]] = set()
    for tier in TIERS:
        off = {r: f for r in rows if not 1 / tier <= (f := _factor(bench, r)) <= tier}
        key = tuple(r.weight for r in off)
        if off and key not in told:
            told.add(key)
            found += [*_balanced(bench, off), _scaled(off)]
    behind_zero = any(f.code in ("SB203", "SB208") for f in findings)
    zeros = _other_zeros(bench) if behind_zero else ()
    return [*zeros, *found, *_by_data(bench, rows), *_constants(bench, rows)]


def _can(bench: Bench, row: LayerTrace) -> bool:
    trainable = tensor_of(bench.report.trace, row.weight).start != "zero" and row.kind != "embedding"
    trainable = trainable and place_of(bench, row.weight).role != "router"  # small on purpose, and no signal's way
    return trainable and len(row.shape) >= 2 and row.weight_rms > 0 and bench.may(row.weight)


def _factor(bench: Bench, row: LayerTrace) -> float:
    """What brings a layer to the size that the scheme that suits it would draw."""
    return suited_std(bench, row.weight) / float(bench.now(row.weight).square().mean().sqrt())


def _scaled(factors: dict[LayerTrace, float]) -> Part:
    edits: dict[str, Edit] = {r.weight: scaling(f) for r, f in factors.items()}
    return Part("rescale", "scaled to the size that suits the layer", tuple(edits.items()), _sentences(factors))


def _sentences(factors: dict[LayerTrace, float], more: str = "") -> dict[str, str]:
    return {r.weight: f"scaled by {f:.3g} to the size that suits the layer{more}" for r, f in factors.items()}


def _balanced(bench: Bench, factors: dict[LayerTrace, float]) -> Iterator[Part]:
    """Behind rectifiers a factor passes through: biases carried along, and factors that cancel, keep the function."""
    rows = bench.report.trace.layers
    product = math.prod(factors.values())
    if any(r.activation not in _HOMOGENEOUS for r in rows) or not 0.9 < product < 1.1:
        return
    edits: list[tuple[str, Edit]] = []
    so_far = 1.0
    last = list(factors)[-1]
    for row in rows:
        factor = factors.get(row, 1.0) / (product if row is last else 1.0)
        so_far *= factor
        if factor != 1.0:
            edits.append((row.weight, scaling(factor)))
        bias = bias_of(bench, row)
        if abs(so_far - 1) > 1e-9 and bias is not None and bool(bench.now(bias).any()) and bench.may(bias):
            edits.append((bias, scaling(so_far)))
    why = "the factors of all layers cancel, and biases are carried along"
    part = Part("rescale", why, tuple(edits), _sentences(factors, f"; {why}"))
    if bench.keeps_function([part]):
        yield part


def _wild_rows(bench: Bench, rows: Sequence[LayerTrace]) -> Iterator[Part]:
    """Rows a thousand times larger than the others of a layer were never written: drawn anew."""
    edits = []
    for row in rows:
        value = bench.now(row.weight)
        size = value.reshape(len(value), -1).square().mean(1).sqrt()
        wild = size > _ROWS * max(float(size.min()), suited_std(bench, row.weight))
        if bool(wild.any()):
            drawn = fresh(bench, row.weight)
            keep = ~wild.reshape(-1, *(1,) * (value.dim() - 1))
            edits.append((row.weight, replacing(torch.where(keep, value, drawn))))
    if edits:
        why = "rows a thousand times their usual size are drawn anew"
        yield Part("draw", why, tuple(edits))


def _constants(bench: Bench, rows: Sequence[LayerTrace]) -> Iterator[Part]:
    """Matrices that hold one number, once the copies in them are told apart: they pass on one direction only."""
    copies = any(f.code.startswith("SB00") and f.severity != "info" for f in bench.report.findings)
    names = [r.weight for r in rows if tensor_of(bench.report.trace, r.weight).start == "constant"]
    if names and not copies:
        why = "it held one number, which passes on one direction of the signal alone; drawn anew"
        yield Part("draw", why, tuple((name, replacing(fresh(bench, name))) for name in names))


def _other_zeros(bench: Bench) -> Iterator[Part]:
    """A zero that was left when another was drawn, once nothing sleeps: each, then all.

    Behind it all inputs look alike (SB208). Where normalisations follow, each sees a constant and makes the back-signal
    1 / sqrt(eps) times as large (SB203): the zero trains, and the first step is as wild as the signal.
    """
    asleep = any(f.code == "SB101" for f in bench.report.findings)
    told = {
        name
        for f in bench.first.findings
        if f.code == "SB101"
        for key in ("tensors", "input_zero", "back_zero")
        for name in f.evidence.get(key, ())
    }
    zeros = [t for t in bench.report.trace.tensors if t.start == "zero" and t.name in told and is_factor(t)]
    names = [t.name for t in zeros if not asleep and bench.may(t.name)]
    parts = {(name,): None for name in names[:FEW]} | {tuple(names): None}
    for some in filter(None, parts):
        why = "the zero that was left kept all inputs alike, or the back-signal far too large; drawn anew"
        yield Part("draw", why, tuple((name, replacing(fresh(bench, name))) for name in some))


# ---- by data ---------------------------------------------------------------------------------------------------------


def _by_data(bench: Bench, rows: Sequence[LayerTrace]) -> Iterator[Part]:
    """Every layer scaled so that it passes the signal on at the size it gets it, measured in a few sweeps."""
    factors: dict[str, float] = {}
    for _ in range(SWEEPS):
        edits = tuple((name, scaling(f)) for name, f in factors.items())
        seen = bench.seen([Part("rescale", "", edits)])
        if seen is None:
            return
        gains = dict(_gains(seen, rows))
        if not gains or all(1 / 2 <= g <= 2 for g in gains.values()):
            break
        for name, gain in gains.items():
            if not 1 / 2 <= gain <= 2:
                factors[name] = factors.get(name, 1.0) / gain
    if factors:
        why = "so that the layer passes the signal on at the size it gets it"
        yield Part(
            "rescale",
            why,
            tuple((name, scaling(f)) for name, f in factors.items()),
            {name: f"scaled by {f:.3g}, by data, {why}" for name, f in factors.items()},
        )


def _gains(seen: Pass, rows: Sequence[LayerTrace]) -> Iterator[tuple[str, float]]:
    """weight -> how much larger the layer's output is than that of the layer before it (the first: than one)."""
    before = 1.0
    for row in rows:
        site = seen.seen.sites.get(row.name)
        if site is None or site.second_moment is None:
            continue
        size = math.sqrt(float(site.second_moment.mean()))
        if 0 < size < math.inf:
            yield row.weight, size / before
            before = size


def _out_of_the_linear_region(bench: Bench) -> Iterator[Part]:
    """One layer in front of an activation that bends is enough: its pre-activations get spread one."""
    seen = bench.seen()
    trace = bench.report.trace
    for a in trace.activations if seen is not None else ():
        row = next((r for r in trace.layers if r.name == a.layer), None)
        one = (
            next((x for x in seen.seen.activations if (x.where, x.layer) == (a.where, a.layer)), None) if seen else None
        )
        if row is None or one is None or not a.hidden or not bench.may(row.weight):
            continue
        spread = float(one.std.square().mean().sqrt())
        for wanted in SPREADS:
            if not bench.now(row.weight).any():
                why = f"{row.weight} is zero, so its units are constant; drawn anew, x {wanted:g}"
                yield Part("draw", why, ((row.weight, replacing(wanted * fresh(bench, row.weight))),))
            elif 0 < spread < wanted:
                why = f"what goes into {a.where} has a spread of {spread:.2g}; the weights grow until it is {wanted:g}"
                yield Part("rescale", why, ((row.weight, scaling(wanted / spread)),))
