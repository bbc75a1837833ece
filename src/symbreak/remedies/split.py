"""Part what is one: units, heads, experts, tokens, networks (SB001-SB006).

Copies compute the same number, so what their readers multiply it by may be shared out among them at will as long as the
sum stays: the function is kept to the last rounding, and the copies get different back-signals at the first step. Where
nothing reads them through a weight that can be shared out, or that weight is zero on purpose, the copies themselves get
noise of the weights' own scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from symbreak.records import Finding, LayerTrace, SliceClasses
from symbreak.rules.grouping import listed

from .bench import Bench
from .part import Part, adding, replacing
from .suited import fresh, is_matrix, suited_std

CODES = frozenset({"SB001", "SB002", "SB003", "SB004", "SB005", "SB006"})
SHARED_OUT = 0.5  # noise on outgoing weights, over their rms: the function does not depend on it
JITTER = 0.1  # noise on the copies themselves: copies 1e-2 apart separate (THEORY.md), and the function moves little
_NEXT_LAYERS = 6

Groups = tuple[tuple[int, ...], ...]


def takes(f: Finding) -> bool:
    """Whether a finding is of this kind: copies, of whatever."""
    return f.code in CODES


def propose(bench: Bench, findings: Sequence[Finding]) -> list[Part]:
    """Parts that split what the findings name: those that keep the function first, then noise on the copies."""
    told = {f.where for f in findings}
    slices = [s for s in bench.report.trace.slices if s.tied or s.near]
    ends = [s for s in slices if s.layer in told or s.parameter in told]
    keeping = [*_shared_out(bench, slices), *_further_readers(bench, [s for s in ends if s.side == "out"], slices)]
    kept = [*_keeping(bench, keeping), *_keeping(bench, [(part, 0.0) for part in _routers(bench)])]
    return [*kept, *_jittered(bench, ends), *_parted_networks(bench, told), *_multiples(bench, told)]


def _keeping(bench: Bench, suspects: Sequence[tuple[Part, float]]) -> list[Part]:
    """Those that leave the function as it is: all at once where that holds for all of them, else by halving."""
    if not suspects:
        return []
    if bench.keeps_function([part for part, _ in suspects], max(tolerance for _, tolerance in suspects)):
        return [part for part, _ in suspects]
    middle = len(suspects) // 2
    return [*_keeping(bench, suspects[:middle]), *_keeping(bench, suspects[middle:])] if middle else []


def anew(bench: Bench, findings: Sequence[Finding]) -> Iterator[Part]:
    """Where layers hold one number: every such matrix drawn anew, named or not.

    Unequal shares tell units apart, but what a constant matrix passes on stays one direction of the signal: all tokens
    look alike behind it, and a router sends them to one expert.
    """
    del findings
    trace = bench.report.trace
    flat = [t.name for t in trace.tensors if t.start == "constant" and is_matrix(t) and bench.may(t.name)]
    if len(flat) > 1:
        yield Part("draw", "it held one number; drawn anew", tuple((n, replacing(fresh(bench, n))) for n in flat))


# ---- weights out -----------------------------------------------------------------------------------------------------


def _shared_out(bench: Bench, slices: Sequence[SliceClasses]) -> Iterator[tuple[Part, float]]:
    """The weights that read the copies show themselves: their columns are tied, too."""
    order = {r.weight: i for i, r in enumerate(bench.report.trace.layers)}
    for s in sorted(slices, key=lambda s: order.get(s.parameter, 0)):
        if s.side == "in" and bench.may(s.parameter):
            part = _redistribute(bench, s.parameter, s.axis, _groups(s))
            if part is not None:
                yield part, 100 * s.near_distance if s.near else 0.0


def _further_readers(
    bench: Bench, ends: Sequence[SliceClasses], slices: Sequence[SliceClasses]
) -> Iterator[tuple[Part, float]]:
    """Where no columns are tied (a joint swap, a mirror image): a layer that runs later and is as wide."""
    rows = bench.report.trace.layers
    for s in ends:
        if any(o.side == "in" and o.width == s.width and set(_groups(s)) <= set(_groups(o)) for o in slices):
            continue
        width = s.width // s.gates
        groups = tuple(dict.fromkeys(tuple(u % width for u in g) for g in _groups(s)))
        here = next((i for i, r in enumerate(rows) if r.weight == s.parameter), len(rows))
        readers = [r for r in rows[here + 1 :] if _inputs(r) and _inputs(r) % width == 0]
        for reader in readers[:_NEXT_LAYERS]:
            if not bench.may(reader.weight):
                continue
            signs = _signs(bench.now(s.parameter), s.axis, groups) if s.mirrored else {}
            part = _redistribute(bench, reader.weight, _in_axis(reader), groups, width=width, signs=signs)
            if part is not None and bench.keeps_function([part], 100 * s.near_distance if s.near else 0.0):
                yield part, 100 * s.near_distance if s.near else 0.0
                break


def _redistribute(
    bench: Bench,
    name: str,
    axis: int,
    groups: Groups,
    *,
    width: int | None = None,
    signs: dict[int, float] | None = None,
) -> Part | None:
    """Noise on the columns of each class that sums to zero over the class; None where all of them are zero."""
    value = bench.now(name)
    width = width or value.shape[axis]
    block = value.shape[axis] // width  # a flattened map has several columns a unit
    table = value.movedim(axis, 0).reshape(width, block, -1)
    used = tuple(g for g in groups if len(g) > 1 and bool(table[list(g)].any()))
    if not used:
        return None
    noise = bench.noise(_first_copy(bench, name), table.shape, 1.0, salt="share")
    moves = torch.zeros_like(table)
    for g in used:
        index = list(g)
        sign = torch.tensor([(signs or {}).get(u, 1.0) for u in index], dtype=table.dtype, device=table.device)
        sign = sign.reshape(-1, 1, 1)
        some = noise[index] * (SHARED_OUT * float(table[index].square().mean().sqrt()))
        moves[index] = some - sign * (sign * some).mean(0, keepdim=True)
    change = moves.reshape(value.movedim(axis, 0).shape).movedim(0, axis)
    units = sum(len(g) for g in used)
    return Part(
        "redistribute",
        f"{units} columns of {name} read copies; their shares are made unequal and the sums stay",
        ((name, adding(change)),),
    )


def _first_copy(bench: Bench, name: str) -> str:
    """Deep copies along the depth stay copies: what is shared out in one is shared out alike in the others."""
    depth = (twin.modules for twin in bench.report.trace.twins if not twin.tied)
    found = (first + name.removeprefix(m) for first, *rest in depth for m in rest if name.startswith(f"{m}."))
    return next(found, name)


def _signs(weight: Tensor, axis: int, groups: Groups) -> dict[int, float]:
    """+1 or -1: whether a unit is a copy or the mirror image of the first of its class."""
    rows = weight.movedim(axis, 0).reshape(weight.shape[axis], -1)
    return {u: -1.0 if float(rows[u] @ rows[g[0]]) < 0 else 1.0 for g in groups for u in g}


def _inputs(row: LayerTrace) -> int:
    axis = _in_axis(row)
    return row.shape[axis] if axis < len(row.shape) and row.kind != "embedding" else 0


def _in_axis(row: LayerTrace) -> int:
    if row.kind.startswith("conv_transpose"):
        return 0
    if row.kind == "linear" or row.kind.startswith("conv") or row.out_axis == 0:
        return 1
    out = (row.out_axis or 0) % max(1, len(row.shape))
    return out - 1 if out == len(row.shape) - 1 else out + 1


# ---- the copies themselves -------------------------------------------------------------------------------------------


def _routers(bench: Bench) -> Iterator[Part]:
    """What has no gradient because copies stand behind it, such as a router: unequal, it tells them apart."""
    for t in bench.report.trace.tensors:
        if t.status == "tied" and len(t.shape) >= 2 and bench.may(t.name):
            noise = fresh(bench, t.name) if t.start == "zero" else _around(bench, t.name, 0.5)
            yield Part(
                "draw" if t.start == "zero" else "jitter",
                f"{t.name} treats copies alike and gets no gradient for it; unequal rows tell them apart",
                ((t.name, adding(noise)),),
            )


def _jittered(bench: Bench, ends: Sequence[SliceClasses]) -> Iterator[Part]:
    """Noise on the tied slices themselves; it sums to zero over each class, so the function moves at second order."""
    for s in ends:
        if not bench.may(s.parameter):
            continue
        value = bench.now(s.parameter)
        rows = value.movedim(s.axis, 0)
        moves = torch.zeros_like(rows)
        size = float(value.square().mean().sqrt())
        std = JITTER * size if size > 0 else suited_std(bench, s.parameter)
        noise = bench.noise(s.parameter, rows.shape, std, salt="jitter")
        for g in _groups(s):
            index = list(g)
            moves[index] = noise[index] if size == 0 else noise[index] - noise[index].mean(0, keepdim=True)
        n = sum(len(g) for g in _groups(s))
        yield Part(
            "draw" if size == 0 else "jitter",
            f"{n} slices of {s.parameter} are copies"
            + (", all zero: drawn anew" if size == 0 else f"; noise of {JITTER:g} of the weights' size parts them"),
            ((s.parameter, adding(moves.movedim(0, s.axis))),),
        )


def _multiples(bench: Bench, told: set[str]) -> Iterator[Part]:
    """Units that are multiples of one another: their weights are drawn anew."""
    for s in bench.report.trace.slices:
        if s.multiples_proved and s.side == "out" and s.layer in told and bench.may(s.parameter):
            why = f"units of {s.layer} are multiples of one another; drawn anew"
            yield Part("draw", why, ((s.parameter, replacing(fresh(bench, s.parameter))),))


def _parted_networks(bench: Bench, told: set[str]) -> Iterator[Part]:
    """Twin networks: one matrix of all but the first gets noise; failing that, all their matrices do."""
    for twin in bench.report.trace.twins:
        if twin.tied and twin.modules[0] in told:
            for most in (1, None):
                names = [n for m in twin.modules[1:] for n in _matrices(bench, m)[:most]]
                if names:
                    yield Part(
                        "jitter",
                        f"{listed(twin.modules)} are one network; noise of {JITTER:g} of the weights' size parts them",
                        tuple((n, adding(_around(bench, n, JITTER))) for n in names),
                    )


def _matrices(bench: Bench, module: str) -> list[str]:
    """The weights of a network that may be changed, the largest first."""
    inside = [n for n, p in bench.params.items() if n.startswith(module + ".") and p.dim() >= 2 and bench.may(n)]
    return sorted(inside, key=lambda n: -bench.params[n].numel())


def _around(bench: Bench, name: str, share: float) -> Tensor:
    value = bench.now(name)
    size = float(value.square().mean().sqrt())
    return bench.noise(name, value.shape, share * size if size > 0 else suited_std(bench, name), salt="around")


def _groups(s: SliceClasses) -> Groups:
    return (*s.tied, *s.near)
