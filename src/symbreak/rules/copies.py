"""Which units, heads, experts, tokens and networks are one and the same (SB001-SB007)."""

from __future__ import annotations

from collections.abc import Iterator

from ..records import Claim, Remedy, SliceClasses, TensorTrace, Trace
from .grouping import listed, numbers
from .rule import rule

Groups = tuple[tuple[int, ...], ...]


@rule("SB001", "tied-units", "error", "redundant")
def tied_units(trace: Trace) -> Iterator[Claim]:
    """Units of a layer that start alike, move alike, and therefore stay one unit for ever.

    Equal weights in and weights out (or, more generally, equal activation and equal back-signal) are a symmetry that
    every deterministic update that treats units alike keeps: SGD, momentum, Adam, decay, clipping. The layer is narrower
    than it looks. Equal weights in alone are harmless: unequal weights out separate the units at the first step (SB007).

    Evidence: equal weights and equal, non-zero gradients at three or more steps on generic data, in float64. Dropout,
    top-k ties and Muon's round-off can break the tie; those present are named.
    """
    for s in trace.slices:
        groups = _units(trace, s)
        if groups:
            units = tuple(u for g in groups for u in g)
            yield Claim(
                where=s.layer,
                units=units,
                because=_sentence(s, groups) + _breakers(trace),
                evidence=_evidence(s, groups),
                remedy=Remedy("split", s.layer, "split the copies without changing the function: unequal outgoing weights"),
            )


@rule("SB002", "tied-heads", "error", "redundant")
def tied_heads(trace: Trace) -> Iterator[Claim]:
    """Attention heads that are equal in Q, K, V and O: exchangeable, so they stay one head for ever.

    Heads equal in Q, K and V with unequal slices of O separate at the first step.
    """
    told: set[str] = set()
    for s in trace.slices:
        heads = _head_groups(trace, s)
        attention = s.layer.rpartition(".")[0]
        if heads and attention not in told:
            told.add(attention)
            yield Claim(
                where=s.layer,
                units=tuple(h for g in heads for h in g),
                because=f"{_many(heads, s.heads or 0, 'heads')} of {attention or s.layer} are one head: equal queries, keys and values that get equal gradients{_breakers(trace)}",
                evidence=_evidence(s, heads),
                remedy=Remedy("split", s.layer, "re-draw the output projection of one of them"),
            )


@rule("SB003", "tied-experts", "error", "redundant")
def tied_experts(trace: Trace) -> Iterator[Claim]:
    """Experts that start as copies under a router that treats them alike, and stay copies.

    A random router separates copied experts at the first step (sparse upcycling); an equal or zero router with soft gates
    never does.
    """
    for s in trace.slices:
        if s.tied and _is_expert_axis(trace, s):
            yield Claim(
                where=s.parameter,
                units=tuple(u for g in s.tied for u in g),
                because=f"{_many(s.tied, s.width, 'experts')} of {s.parameter} are one expert: equal weights, equal gradients{_breakers(trace)}",
                evidence=_evidence(s, s.tied),
                remedy=Remedy("split", s.parameter, "add noise on the weights' own scale, or make the router's rows differ"),
            )
    for twin in trace.twins:
        if twin.tied and twin.experts:
            yield Claim(
                where=twin.modules[0],
                because=f"experts {listed(twin.modules)} start as copies and get equal gradients at {twin.live_steps} steps, so they stay one expert{_breakers(trace)}",
                evidence={"modules": list(twin.modules), "live_steps": twin.live_steps},
                remedy=Remedy("split", twin.modules[0], "add noise on the weights' own scale, or make the router's rows differ"),
            )


@rule("SB004", "tied-tokens", "error", "redundant")
def tied_tokens(trace: Trace) -> Iterator[Claim]:
    """Embedding rows, queries, prompts or register tokens that start alike and get equal gradients.

    Tokens without a position of their own are exchangeable; equal ones stay one token.
    """
    for s in trace.slices:
        if s.tied and _is_token_axis(trace, s):
            yield Claim(
                where=s.parameter,
                units=tuple(u for g in s.tied for u in g),
                because=f"{_many(s.tied, s.width, 'tokens')} of {s.parameter} are one token: equal values that get equal gradients{_breakers(trace)}",
                evidence=_evidence(s, s.tied),
                remedy=Remedy("reinit", s.parameter, "draw them at random, for example normal(0.02)"),
            )


@rule("SB005", "tied-networks", "error", "redundant")
def tied_networks(trace: Trace) -> Iterator[Claim]:
    """Whole sub-networks that start equal and are trained alike: twin critics, ensemble members from one seed.

    What makes an ensemble worth its cost is that its members differ.
    """
    for twin in trace.twins:
        if twin.tied and not twin.experts:
            yield Claim(
                where=twin.modules[0],
                because=f"{listed(twin.modules)} ({twin.kind}) start equal in all {twin.tensors} tensors and get equal gradients at {twin.live_steps} steps: one network, counted {len(twin.modules)} times{_breakers(trace)}",
                evidence={"modules": list(twin.modules), "live_steps": twin.live_steps, "tensors": twin.tensors},
                remedy=Remedy("reinit", twin.modules[-1], "draw each from a seed of its own"),
            )


@rule("SB006", "nearly-tied", "warning", "degraded")
def nearly_tied(trace: Trace) -> Iterator[Claim]:
    """Units so close in weights and gradients that they stay together for a long time.

    Copies 1e-6 apart are still within 2e-4 of each other after 4000 steps of SGD; from 1e-2 on they part.
    """
    for s in trace.slices:
        if s.near and s.side == "out":
            units = tuple(u for g in s.near for u in g)
            yield Claim(
                where=s.layer,
                units=units,
                because=f"{_many(s.near, s.width, 'units')} of {s.layer} are nearly one: weights and gradients differ by at most {s.near_distance:.1e} of their size at each of {s.live_steps} probed steps",
                evidence={**_evidence(s, s.near), "relative_distance": s.near_distance},
                remedy=Remedy("split", s.layer, "separate them by at least 1e-2 of their size"),
            )


@rule("SB007", "separating-copies", "info")
def separating_copies(trace: Trace) -> Iterator[Claim]:
    """Units with equal weights in that are told apart by what follows: equal now, apart at the named step.

    A single constant layer between random neighbours is slower to start but not redundant.
    """
    start = {t.name: t.start for t in trace.tensors}
    for s in trace.slices:
        if s.separated and s.side == "out" and s.gates == 1 and start.get(s.parameter) != "zero":
            units = tuple(u for g in s.separated for u in g)
            yield Claim(
                where=s.layer,
                units=units,
                because=f"{_many(s.separated, s.width, 'units')} of {s.layer} have equal weights at the start and separate at step {s.separated_at}: what follows them differs",
                evidence={"groups": [list(g) for g in s.separated][:50], "separation_step": s.separated_at},
            )


# ---- what a slice is -------------------------------------------------------------------------------------------


def _tensor(trace: Trace, s: SliceClasses) -> TensorTrace:
    return next(t for t in trace.tensors if t.name == s.parameter)


def _is_expert_axis(trace: Trace, s: SliceClasses) -> bool:
    t = _tensor(trace, s)
    return s.side == "slice" and s.axis == 0 and len(t.shape) >= 3 and "weight" in t.roles


def _is_token_axis(trace: Trace, s: SliceClasses) -> bool:
    t = _tensor(trace, s)
    return s.side == "slice" and s.axis < len(t.shape) - 1 and "weight" not in t.roles


def _units(trace: Trace, s: SliceClasses) -> Groups:
    """The tied units that no more specific rule tells of."""
    if not s.tied or _is_expert_axis(trace, s) or _is_token_axis(trace, s):
        return ()
    if s.side == "in" and _told_upstream(trace, s):
        return ()
    if s.gates > 1:
        return _recurrent(s)
    if _head_groups(trace, s):
        return _inside_heads(trace, s)
    return s.tied


def _told_upstream(trace: Trace, s: SliceClasses) -> bool:
    """Equal columns are the far side of tied rows one layer before."""
    told = [set(g) for other in trace.slices if other.side == "out" and other.width == s.width for g in other.tied]
    return all(any(set(g) <= known for known in told) for g in s.tied)


def _recurrent(s: SliceClasses) -> Groups:
    """Units of a recurrent layer whose rows are tied in every gate."""
    labels = _labels(s)
    units = s.width // s.gates
    columns: dict[tuple[int, ...], list[int]] = {}
    for u in range(units):
        columns.setdefault(tuple(labels[g * units + u] for g in range(s.gates)), []).append(u)
    return tuple(tuple(g) for g in columns.values() if len(g) > 1)


def _labels(s: SliceClasses) -> list[int]:
    labels = list(range(s.width))
    for group in s.tied:
        for u in group:
            labels[u] = group[0]
    return labels


def _blocks(trace: Trace, s: SliceClasses) -> list[list[int]]:
    """The rows of each head, as lists of labels; empty where the layer is no attention projection."""
    t = _tensor(trace, s)
    if not s.heads or s.side != "out" or len(t.shape) != 2 or t.shape[1] % s.heads:
        return []
    size = t.shape[1] // s.heads
    if s.width % (size * s.heads) or size < 1:
        return []
    labels = _labels(s)
    return [labels[i : i + size] for i in range(0, s.width, size)]


def _head_groups(trace: Trace, s: SliceClasses) -> Groups:
    blocks = _blocks(trace, s)
    groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for i, block in enumerate(blocks):
        groups.setdefault((i // (s.heads or 1), tuple(block)), []).append(i % (s.heads or 1))
    return tuple(dict.fromkeys(tuple(g) for g in groups.values() if len(g) > 1))


def _inside_heads(trace: Trace, s: SliceClasses) -> Groups:
    """Units tied to another unit of their own head."""
    blocks = _blocks(trace, s)
    size = len(blocks[0])
    found: dict[tuple[int, int], list[int]] = {}
    for i, block in enumerate(blocks):
        for j, label in enumerate(block):
            found.setdefault((i, label), []).append(i * size + j)
    return tuple(tuple(g) for g in found.values() if len(g) > 1)


# ---- sentences -------------------------------------------------------------------------------------------------


def _sentence(s: SliceClasses, groups: Groups) -> str:
    width = s.width // s.gates
    if s.mirrored:
        return f"{_many(groups, width, 'units')} of {s.layer} are mirror images (u = -v) behind an odd activation, so every update moves them as one"
    if s.by_function:
        return f"{_many(groups, width, 'units')} of {s.layer} compute the same number and get the same back-signal, though their weights differ"
    side = "inputs" if s.side == "in" else "units"
    return f"{_many(groups, width, side)} of {s.layer} share weights in and weights out, so every update moves them alike"


def _many(groups: Groups, width: int, noun: str) -> str:
    n = sum(len(g) for g in groups)
    if len(groups) == 1:
        return f"{n} of {width} {noun} ({numbers(groups[0])})"
    return f"{n} of {width} {noun}, in {len(groups)} groups such as ({numbers(groups[0])}),"


def _breakers(trace: Trace) -> str:
    return f" (assumes deterministic updates; {', '.join(trace.breakers)} in this model can break the tie)" if trace.breakers else ""


def _evidence(s: SliceClasses, groups: Groups) -> dict[str, object]:
    return {
        "groups": [list(g) for g in groups][:50],
        "classes_tied": len(groups),
        "units": s.width // s.gates,
        "largest_relative_difference": s.largest_difference,
        "live_steps": s.live_steps,
        "axis": s.axis,
    }
