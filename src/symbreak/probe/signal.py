"""How the signal fares at step 1: scale forward and backward, slopes, and what the batch itself looks like."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from symbreak.records import ActivationTrace, InputTrace, LayerTrace, TargetTrace
from symbreak.schemes import Place, recognise
from symbreak.schemes.activations import PIECEWISE, RANGES
from symbreak.schemes.fans import layout_used
from symbreak.thresholds import ENOUGH_SAMPLES, FEWEST_SAMPLES, SURELY

from .graph import Graph
from .observe import Activation, Seen, Site
from .passes import Pass
from .wakeup import rms


def layers(
    first: Pass, params: Mapping[str, nn.Parameter], learning_rate: float, adaptive: bool
) -> tuple[LayerTrace, ...]:
    """One row a layer, in the order of execution."""
    by_layer = {a.layer: a for a in reversed(first.seen.activations) if a.layer is not None}
    return tuple(
        _layer(site, by_layer.get(name), first.gradients.get(site.weight), params, learning_rate, adaptive)
        for name, site in first.seen.sites.items()
    )


def _layer(
    site: Site,
    activation: Activation | None,
    gradient: Tensor | None,
    params: Mapping[str, nn.Parameter],
    learning_rate: float,
    adaptive: bool,
) -> LayerTrace:
    weight = params[site.weight].data
    forward, backward = _root_mean(site.second_moment), _root_mean(site.back_second_moment)
    weight_rms, gradient_rms = rms(weight), rms(gradient) if gradient is not None else 0.0
    step = learning_rate if adaptive and gradient_rms > 0 else learning_rate * gradient_rms
    return LayerTrace(
        name=site.layer,
        kind=site.kind,
        weight=site.weight,
        shape=tuple(weight.shape),
        scheme=str(recognise(weight, place=_place(site, weight))),
        activation=site.activation,
        out_axis=site.out_axis,
        gates=site.gates,
        heads=site.heads,
        from_data=site.from_data,
        forward_rms=forward,
        forward_variance=_variance(site),
        backward_rms=backward,
        signal_product=forward * backward if forward is not None and backward is not None else None,
        backward_norm=_norm(site),
        weight_rms=weight_rms,
        gradient_rms=gradient_rms,
        gradient_to_weight=gradient_rms / weight_rms if weight_rms > 0 else None,
        update_to_weight=step / weight_rms if weight_rms > 0 else None,
        spread=site.spread if site.second_moment is not None else None,
        linear=activation.linear if activation else None,
        saturated=activation.saturated if activation else None,
        dead=float(activation.dead.double().mean()) if activation else None,
    )


def _place(site: Site, weight: Tensor) -> Place:
    """Where its layer stands, as far as the scheme of a weight depends on it: groups, fused parts, stacked experts."""
    if site.kind == "embedding" or weight.dim() < 2:
        return Place(role="embedding" if site.kind == "embedding" else "weight")
    parts = 3 if site.weight.endswith("in_proj_weight") else site.gates  # of torch's attention
    layout = layout_used(site.kind, weight.shape, site.out_axis, groups=site.groups, parts=parts)
    return Place(layout=layout, fans=layout.fans(weight.shape)) if layout is not None else Place()


def _root_mean(second_moment: Tensor | None) -> float | None:
    return None if second_moment is None else math.sqrt(float(second_moment.mean()))


def _norm(site: Site) -> float | None:
    if site.back_second_moment is None:
        return None
    return math.sqrt(float(site.back_second_moment.sum()) * site.samples)


def _variance(site: Site) -> float | None:
    if site.second_moment is None or site.variance is None:
        return None
    variance, size = float(site.variance.mean()), float(site.second_moment.mean())
    return variance if variance > 1e-20 * size else 0.0  # below that it is the rounding of one constant


def activations(seen: Seen, graph: Graph) -> tuple[ActivationTrace, ...]:
    """Every measured call of an activation, its dead units by number; `graph` tells which are hidden.

    An activation written out by hand is not seen as a call; where its units are off, its layer shows it.
    """
    called = tuple(
        ActivationTrace(
            where=a.where,
            name=a.name,
            layer=a.layer,
            units=a.units,
            samples=a.samples,
            linear=a.linear,
            saturated=a.saturated,
            jammed=a.jammed,
            dead=_indices(a.dead & a.negative),
            surely_dead=_indices(a.dead & a.negative & (a.margin >= _least_margin(a.samples))),
            hidden=not graph.ends_at(a.node),
            gate=a.gate,
            rests=not bool(a.mean.any() or a.std.any()),
        )
        for a in seen.activations
    )
    told = {a.layer for a in seen.activations}
    silent = (_written_out(site) for name, site in seen.sites.items() if name not in told)
    return called + tuple(a for a in silent if a is not None)


def _written_out(site: Site) -> ActivationTrace | None:
    """The units of a layer that get no back-signal at all, their values lying far below zero."""
    if site.mean is None or site.variance is None or site.back_second_moment is None or site.calls > 1:
        return None
    quiet = site.back_second_moment == 0
    margin = -site.mean / site.variance.sqrt().clamp_min(torch.finfo(site.mean.dtype).tiny)
    off = quiet & (margin >= _least_margin(site.samples))
    if not bool(off.any()) or bool(quiet.all()):
        return None
    units = _indices(off)
    return ActivationTrace(
        where=site.layer, name="what follows", layer=site.layer, units=len(off), samples=site.samples,
        linear=0.0, saturated=0.0, dead=units, surely_dead=units,
    )  # fmt: skip


def _least_margin(samples: int) -> float:
    return SURELY * max(1.0, ENOUGH_SAMPLES / samples) if samples >= FEWEST_SAMPLES else math.inf


def flat_nodes(seen: Seen) -> dict[Any, str]:
    """Backward nodes of activations that let no gradient through: off by negative input, or fully saturated."""
    return {
        a.node: a.where
        for a in seen.activations
        if a.node is not None and bool((a.dead & (~torch.tensor(a.name in PIECEWISE) | a.negative)).all())
    }


def off_nodes(seen: Seen) -> frozenset[Any]:
    """Those among them whose output is zero, too."""
    return frozenset(a.node for a in seen.activations if a.name in PIECEWISE and bool((a.dead & a.negative).all()))


def _indices(mask: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in mask.nonzero().reshape(-1))


# ---- the batch -------------------------------------------------------------------------------------------------


def inputs(first: Pass, made_up: bool) -> tuple[InputTrace, ...]:
    """Statistics of the float inputs of the first batch; none where symbreak made the batch up."""
    if made_up:
        return ()
    named = [*((f"input {i}", a) for i, a in enumerate(first.draw.args)), *first.draw.kwargs.items()]
    return tuple(
        _input(name, t) for name, t in named if isinstance(t, Tensor) and t.is_floating_point() and t.numel() > 1
    )


def _input(name: str, x: Tensor) -> InputTrace:
    table = x.dim() == 2 and x.shape[0] >= 8
    std = x.std(0, unbiased=False) if table else None
    spread = std[std > 0] if std is not None else None
    return InputTrace(
        name=name,
        shape=tuple(x.shape),
        mean=float(x.mean()),
        rms=rms(x),
        low=float(x.min()),
        high=float(x.max()),
        feature_std=(float(spread.min()), float(spread.max())) if spread is not None and spread.numel() else None,
        constant_features=_indices(std == 0) if std is not None else (),
    )


def target(first: Pass, loss: Callable[..., Any] | None) -> TargetTrace | None:
    """What the labels of the first batch say, where a loss and a target were given."""
    y = first.draw.target
    if loss is None or not isinstance(y, Tensor) or y.numel() == 0 or y.is_complex():
        return None
    low, high = float(y.min()), float(y.max())
    return TargetTrace(
        samples=y.shape[0] if y.dim() else 1,
        entropy=_entropy(y) if _is_cross_entropy(loss) else None,
        low=low,
        high=high,
        output_activation=first.end,
        output_range=RANGES.get(first.end or ""),
    )


def _is_cross_entropy(loss: Callable[..., Any]) -> bool:
    return "cross_entropy" in getattr(loss, "__name__", "") or isinstance(
        loss, nn.CrossEntropyLoss | nn.BCEWithLogitsLoss
    )


def is_classes(y: Any) -> bool:
    """True for integer or boolean labels, and for real ones that are all 0 or 1."""
    if not isinstance(y, Tensor):
        return True
    return not y.is_floating_point() or bool(((y == 0) | (y == 1)).all())


def _entropy(y: Tensor) -> float | None:
    if not y.is_floating_point() and y.dtype != torch.bool:
        counts = torch.bincount(y.reshape(-1)[y.reshape(-1) >= 0])
    elif set(torch.unique(y).tolist()) <= {0.0, 1.0}:
        counts = torch.stack([(y == 0).sum(), (y == 1).sum()])
    else:
        return None
    shares = counts[counts > 0].double() / counts.sum()
    return float(-(shares * shares.log()).sum())


def equal_tensors(params: Mapping[str, nn.Parameter]) -> tuple[tuple[str, ...], ...]:
    """Groups of different weight matrices that start bit for bit alike and are not constant."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, p in params.items():
        head = p.data.reshape(-1)[:64].tolist()
        if p.dim() >= 2 and len(head) > 3 and len(set(head)) > len(head) / 2:  # drawn, not an identity or a pattern
            key = (tuple(p.shape), tuple(head))
            groups.setdefault(key, []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1 and _all_equal(params, names))


def _all_equal(params: Mapping[str, nn.Parameter], names: Iterable[str]) -> bool:
    first, *rest = (params[n].data for n in names)
    return all(torch.equal(first, other) for other in rest)
