"""Which units, heads, experts, tokens and networks are one and the same (SB001-SB007)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from symbreak.records import Claim, Parting, Remedy, SliceClasses, Standing, TensorTrace, Trace, TwinModules
from symbreak.thresholds import TOGETHER

from .grouping import called, layers, listed, numbers, some
from .rule import rule

Groups = tuple[tuple[int, ...], ...]
_ODD = "exact arithmetic, and an update odd in weights and gradients together, as SGD, Adam and Lion are: here {}"
_ASSUMED = "exact arithmetic, and an update that treats units alike and starts from empty buffers, such as {}"


@rule("SB001", "tied-units", "error", "redundant")
def tied_units(trace: Trace) -> Iterator[Claim]:
    """Units of a layer start alike and move alike, so they stay one unit.

    Why: equal weights in and weights out (or, more generally, equal activation and equal back-signal) are a symmetry
    that every deterministic update that treats units alike keeps: SGD, momentum, Adam, decay, clipping. The layer is
    narrower than it looks. Equal weights in alone are harmless: unequal weights out separate the units at the first
    step (SB007). Behind an odd activation (tanh) mirror images stay so in the same way. Behind a rectifier (ReLU)
    positive multiples stay multiples under SGD, momentum and L2, while Adam and its kin part them: they are told of
    where that is proved for the optimizer at hand.

    Evidence: equal weights and equal, non-zero gradients at three or more steps on generic data, in float64 where the
    model allows; or, for units that no gradient reached, a proof (live_steps is 0). Dropout, top-k ties and Muon's
    round-off can break the tie; those present are named.

    Remedy: draw the weights at random, or split the copies by unequal outgoing weights, which keeps the function.
    """
    for s in trace.slices:
        groups = _units(trace, s)
        if groups:
            units = tuple(u for g in groups for u in g)
            layer = called(trace, s.layer)
            yield Claim(
                where=s.layer,
                units=units,
                because=_sentence(s, groups, layer) + _breakers(trace) + _in_part(s),
                evidence=_evidence(trace, s, groups),
                standing=_standing(s),
                remedy=Remedy(
                    "split",
                    s.layer,
                    f"draw the weights of {layer} at random, or split the copies by unequal weights out",
                ),
            )
        if s.multiples_proved:
            layer = called(trace, s.layer)
            yield Claim(
                where=s.layer,
                units=tuple(u for g in s.multiples for u in g),
                because=(
                    f"{_many(s.multiples, s.width, 'units', layer)} are one function up to scale: positive multiples "
                    f"of one another in weights in, bias and weights out, which {trace.optimizer} keeps"
                    f"{_breakers(trace)}{_in_part(s)}"
                ),
                evidence=_evidence(trace, s, s.multiples)
                | {"assumes": _given(s, "exact arithmetic, and an update linear in weights and gradients: {}", trace)},
                standing="proved",
                remedy=Remedy("reinit", s.layer, f"draw the weights of {layer} at random"),
            )


@rule("SB002", "tied-heads", "error", "redundant")
def tied_heads(trace: Trace) -> Iterator[Claim]:
    """Attention heads are equal in Q, K, V and O: exchangeable, so they stay one head.

    Why: equal heads attend alike and get equal gradients; the layer pays for several and has one. Heads equal in Q, K
    and V with unequal slices of O separate at the first step.

    Evidence: the rows of a projection that belong to the heads are equal, and so are their gradients, at three or more
    steps.

    Remedy: re-draw the output projection, or the queries and keys, of all but one.
    """
    told: set[str] = set()
    for s in trace.slices:
        heads = _head_groups(trace, s)
        attention = s.layer.rpartition(".")[0]
        if heads and attention not in told:
            told.add(attention)
            block = called(trace, attention) if attention else trace.model
            yield Claim(
                where=s.layer,
                units=tuple(h for g in heads for h in g),
                because=(
                    f"{_many(heads, s.heads or 0, 'heads', block)} are {_one(heads, 'head')}: equal "
                    f"weights that get equal gradients{_breakers(trace)}"
                ),
                evidence=_evidence(trace, s, heads),
                standing=_standing(s),
                remedy=Remedy(
                    "split",
                    s.layer,
                    f"re-draw the output projection of {block}, or the queries and keys of all but one head",
                ),
            )


@rule("SB003", "tied-experts", "error", "redundant")
def tied_experts(trace: Trace) -> Iterator[Claim]:
    """Experts start as copies under a router that treats them alike, and stay copies.

    Why: equal experts behind equal gates get equal gradients, so the mixture stays one expert at the price of many. A
    random router separates copied experts at the first step (sparse upcycling); an equal or zero router with soft gates
    does not.

    Evidence: equal weights and equal gradients at three or more steps.

    Remedy: make the router's rows differ, or add noise of the weights' own scale to the experts.
    """
    hint = "draw the router at random, or add noise of the weights' own scale to the experts"
    for s in trace.slices:
        if s.tied and _is_expert_axis(trace, s):
            yield Claim(
                where=s.parameter,
                units=tuple(u for g in s.tied for u in g),
                because=(
                    f"{_many(s.tied, s.width, 'experts', s.parameter)} are {_one(s.tied, 'expert')}: "
                    f"equal weights that get equal gradients{_breakers(trace)}"
                ),
                evidence=_evidence(trace, s, s.tied),
                standing=_standing(s),
                remedy=Remedy("split", s.parameter, hint),
            )
    for twin in trace.twins:
        if twin.tied and twin.experts:
            yield Claim(
                where=twin.modules[0],
                because=(
                    f"experts {listed(twin.modules)} start as copies and get equal gradients at "
                    f"{twin.live_steps} steps, so they stay one expert{_breakers(trace)}"
                ),
                evidence={"modules": list(twin.modules), "live_steps": twin.live_steps} | _exchanged(trace, twin),
                standing="proved" if twin.proved else "measured",
                remedy=Remedy("split", twin.modules[0], hint),
            )


@rule("SB004", "tied-tokens", "error", "redundant")
def tied_tokens(trace: Trace) -> Iterator[Claim]:
    """Embedding rows, queries, prompts or register tokens start alike and get equal gradients.

    Why: tokens without a position of their own are exchangeable; equal ones stay one token.

    Evidence: equal rows and equal gradients at three or more steps.

    Remedy: draw them at random, for example normal(0.02).
    """
    for s in trace.slices:
        if s.tied and _is_token_axis(trace, s):
            yield Claim(
                where=s.parameter,
                units=tuple(u for g in s.tied for u in g),
                because=(
                    f"{_many(s.tied, s.width, 'tokens', s.parameter)} are {_one(s.tied, 'token')}: "
                    f"equal values that get equal gradients{_breakers(trace)}"
                ),
                evidence=_evidence(trace, s, s.tied),
                standing=_standing(s),
                remedy=Remedy("reinit", s.parameter, f"draw {s.parameter} at random, for example normal(0.02)"),
            )


@rule("SB005", "tied-networks", "error", "redundant")
def tied_networks(trace: Trace) -> Iterator[Claim]:
    """Whole sub-networks start equal and are trained alike: twin critics, ensemble members from one seed.

    Why: what makes an ensemble, or a minimum over two critics, worth its cost is that the members differ.

    Evidence: all their tensors are equal, and so are their gradients, at three or more steps; proved where the graph of
    the model and its objective is the same with the networks exchanged.

    Remedy: draw each from a seed of its own.
    """
    for twin in trace.twins:
        if twin.tied and not twin.experts:
            names = layers(trace, twin.modules)
            # The generic loss treats outputs of one shape alike; yours may not.
            plain = trace.loss is None and not twin.proved
            under = " under a loss that treats their outputs alike" if plain else ""
            tensors = f"all {twin.tensors} tensors" if twin.tensors > 1 else "their one tensor"
            yield Claim(
                where=twin.modules[0],
                because=(
                    f"{names} ({twin.kind}) start equal in {tensors} and get equal gradients at "
                    f"{twin.live_steps} steps: one network, counted {len(twin.modules)} "
                    f"times{under}{_breakers(trace)}"
                ),
                evidence={"modules": list(twin.modules), "live_steps": twin.live_steps, "tensors": twin.tensors}
                | _exchanged(trace, twin),
                standing="proved" if twin.proved else "measured",
                remedy=Remedy("reinit", twin.modules[-1], f"draw each of {names} from a seed of its own"),
            )


@rule("SB006", "nearly-tied", "warning", "degraded")
def nearly_tied(trace: Trace) -> Iterator[Claim]:
    """Units so close in weights and gradients that they stay together for a long time.

    Why: their distance grows in proportion to itself (the two are a tangent vector of training), and slowly: copies
    1e-6 apart are still within 2e-4 of each other after 4000 steps of SGD; from 1e-2 on they part.

    Evidence: the largest distance between them at the probed steps, relative to their size. Where the loss is given,
    training on this batch is followed in long stretches by the given optimizer (SGD, momentum, Adam, AdamW, RMSprop) at
    its rate, or at the usual one where only its name is known: how far that went is measured. Under plain SGD a number
    of steps beyond it is told where the growth was steady, as a heuristic; Adam has no such law, since it moves each
    weight by about the rate, whatever the gradient's size. Without a loss there is no number: how fast copies part is
    the curvature of the loss. Noise of mini-batches and dropout part copies sooner.

    Remedy: separate them by at least 1e-2 of their size.
    """
    for s in trace.slices:
        if s.near and s.side == "out":
            layer = called(trace, s.layer)
            yield Claim(
                where=s.layer,
                units=tuple(sorted(u for g in s.near for u in g)),
                because=(
                    f"{_many(s.near, s.width, 'units', layer)} are nearly {_one(s.near, 'unit')}: "
                    f"weights and gradients differ by at most {s.near_distance:.1e} of their size at "
                    f"each of {s.live_steps} probed steps{_parting(trace, s.parting)}"
                ),
                standing="heuristic" if s.parting is not None and not s.parting.measured else "measured",
                evidence={**_evidence(trace, s, s.near), "relative_distance": s.near_distance, **_forecast(s.parting)},
                remedy=Remedy("split", s.layer, f"separate these units of {layer} by at least 1e-2 of their size"),
            )


@rule("SB007", "separating-copies", "info")
def separating_copies(trace: Trace) -> Iterator[Claim]:
    """Units with equal weights at the start that get different gradients: equal now, apart at the named step.

    Why: it explains equal rows that need no repair. A constant layer between random neighbours is slower to start, but
    not redundant.

    Evidence: equal weights before the first step, and the step at which their gradients differ.

    Remedy: none is needed; random weights save the steps it takes.
    """
    start = {t.name: t.start for t in trace.tensors}
    for s in trace.slices:
        if s.separated and s.side == "out" and s.gates == 1 and start.get(s.parameter) != "zero":
            yield Claim(
                where=s.layer,
                units=tuple(u for g in s.separated for u in g),
                because=(
                    f"{_many(s.separated, s.width, 'units', called(trace, s.layer))} have equal "
                    f"weights at the start and separate at step {s.separated_at}, where their "
                    "gradients differ"
                ),
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
    """Equal columns are the far side of tied rows one layer before, or of tied heads in the same attention."""
    around = s.layer.rpartition(".")[0]
    if any(other.layer.rpartition(".")[0] == around and _head_groups(trace, other) for other in trace.slices):
        return True
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


def _sentence(s: SliceClasses, groups: Groups, layer: str) -> str:
    side = "inputs" if s.side == "in" else "units"
    them = _many(groups, s.width // s.gates, side, layer)
    if s.mirrored:
        return (
            f"{them} are mirror images (u = -v) behind an odd activation, so every update that treats "
            "units alike moves them as one"
        )
    if s.proved and not s.live_steps:
        return f"{them} are one by the proof alone: the probe saw no gradient reach them, and none will tell them apart"
    if s.by_function:
        return f"{them} compute the same number and get the same back-signal, though their weights differ"
    return f"{them} share weights in and weights out, so every update that treats units alike moves them alike"


def _parting(trace: Trace, p: Parting | None) -> str:
    """How long they stay together, as far as that is known, and else why it is not."""
    if trace.loss is None:
        return "; for how long depends on the loss, and none was given"
    if p is None:
        return f"; for how long is not followed under {trace.optimizer}"
    if p.looked == 0:
        return ""
    on = p.update + ("" if trace.rate_given else ", the usual rate,")
    looked = f"{_round(p.looked)} steps of {on}"
    moved = f"grew {p.growth:.2g} times" if p.growth >= 1 else f"fell to {p.growth:.2g} of what it was"
    if p.steps == math.inf:
        return f"; over {looked} on this batch their distance {moved}, so at this rate they stay together for ever"
    if p.steps is None:
        return (
            f"; they stay within {TOGETHER:.0%} of each other for more than {looked} on this batch, over which their "
            f"distance {moved}"
        )
    return f"; they stay within {TOGETHER:.0%} of each other for about {_round(p.steps)} steps of {on} on this batch"


def _round(steps: float) -> str:
    """Two digits of a number of steps."""
    digits = max(0, math.floor(math.log10(max(steps, 1))) - 1)
    return f"{round(steps, -digits):,.0f}"


def _forecast(p: Parting | None) -> dict[str, object]:
    if p is None:
        return {}
    return {
        "steps_together": p.steps,
        "steps_looked_at": p.looked,
        "growth_of_distance": p.growth,
        "log_growth_a_step": p.rate,
        "followed": p.update,
    }


def _standing(s: SliceClasses) -> Standing:
    return "proved" if s.proved else "measured"


def _many(groups: Groups, width: int, noun: str, place: str) -> str:
    n = sum(len(g) for g in groups)
    if len(groups) == 1:
        return f"{some(n, width, noun, groups[0])} of {place}"
    return f"{some(n, width, noun)} of {place}, in {len(groups)} groups such as ({numbers(groups[0])}),"


def _one(groups: Groups, noun: str) -> str:
    return f"one {noun}" if len(groups) == 1 else f"one {noun} each"


def _exchanged(trace: Trace, twin: TwinModules) -> dict[str, object]:
    """What the proof takes for granted: the graph is the same with the networks exchanged."""
    return {"assumes": _ASSUMED.format(trace.optimizer)} if twin.proved else {}


def _breakers(trace: Trace) -> str:
    return (
        f" (assumes deterministic updates; {', '.join(trace.breakers)} in this model can break the tie)"
        if trace.breakers
        else ""
    )


def _evidence(trace: Trace, s: SliceClasses, groups: Groups) -> dict[str, object]:
    return {
        "groups": [list(g) for g in groups][:50],
        "classes_tied": len(groups),
        "units": s.width // s.gates,
        "largest_relative_difference": s.largest_difference,
        "live_steps": s.live_steps,
        "axis": s.axis,
        **({"assumes": _given(s, _ODD if s.mirrored else _ASSUMED, trace)} if s.proved else {}),
    }


def _given(s: SliceClasses, what: str, trace: Trace) -> str:
    """What a proof takes for granted, and what it knows only in part."""
    return what.format(trace.optimizer) + _in_part(s)


def _in_part(s: SliceClasses) -> str:
    """What a proof leaves out."""
    return f"; in part: {'; '.join(s.unread[:4])}" if s.unread else ""
