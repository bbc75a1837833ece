"""Recurrent layers: the gates of a hidden unit are taps of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_letters
from typing import Any

import numpy as np

from .algebra import Algebra
from .operations import (
    Call,
    NotUnderstoodError,
    Shape,
    operation,
)
from .tracked import Label, Tracked, squeezed, unsqueezed
from .views import chosen, joined

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@operation(*GATES)
def recurrent(call: Call) -> Any:
    """Layers whose gates are taps of one hidden unit, read by all weights alike."""
    algebra, gates = call.algebra, GATES[call.name]
    if "batch_sizes" in call.given or "params" not in call.given:
        raise NotUnderstoodError
    x, params, each = algebra.exposed(call["input"]), call["params"], 4 if call["has_biases"] else 2
    states = call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]]
    ways = 2 if call["bidirectional"] else 1
    if len(params) != each * call["num_layers"] * ways:
        raise NotUnderstoodError  # projections
    if call["dropout"] and call["train"] and call["num_layers"] > 1:
        algebra.breakers["dropout"] = None
    x = algebra.forget(algebra.only(x, {x.ndim - 1}), dims=range(x.ndim - 1))
    last: list[Tracked] = []
    for layer in range(call["num_layers"]):
        outs = []
        for way in range(ways):
            n = layer * ways + way
            mine = params[each * n : each * (n + 1)]
            start = [squeezed(chosen(algebra, s, 0, [n]), [0]) for s in states]
            outs.append(_cell(algebra, x, mine, gates, start))
        last += outs
        shape = (*x.shape[:-1], sum(t.shape[-1] for t in outs))
        x = joined(algebra, outs, x.ndim - 1, shape)
    kept = Kept(last)
    return x, *(kept for _ in call.shapes[1:])


@dataclass(frozen=True)
class Kept:
    """Final states, stacked only where somebody reads them: stacking makes the layers one space."""

    parts: Sequence[Tracked]

    def stacked(self, algebra: Algebra, shape: Shape) -> Tracked:
        rows = [Tracked((1, *shape[1:]), tuple(_last_axis(a, len(shape)) for a in t.labels)) for t in self.parts]
        return joined(algebra, rows, 0, shape)


def _last_axis(label: Label, ndim: int) -> Label:
    if label.dims - {label.ids.ndim - 1}:
        raise NotUnderstoodError
    return label.each(lambda x: x.reshape([1] * (ndim - 1) + [-1]))


def _cell(algebra: Algebra, x: Tracked, params: Sequence[Tracked], gates: int, start: Sequence[Tracked]) -> Tracked:
    w_ih, w_hh, *biases = params
    if any(p.owner is None for p in params):
        raise NotUnderstoodError
    n = w_hh.shape[-1]
    units = algebra.ledger.fresh(algebra.where, n)
    algebra.ledger.use(units)
    hidden = Tracked((1, n), (Label(units[None, :], np.zeros((1, n), np.int64)),))
    for s in start:
        hidden = algebra.elementwise(
            [hidden, s if s.ndim == 2 else unsqueezed(s, 0)], (max(1, s.shape[0]) if s.ndim == 2 else 1, n)
        )
    hidden = replace(hidden, shape=(1, n))
    for p in (w_ih, w_hh, *biases):  # [gates x units, ...]
        axis = next((a for a in p.labels if 0 in a.dims), None)
        if axis is None or not algebra.ledger.is_axis(axis.ids.reshape(-1)):
            raise NotUnderstoodError
        algebra.ledger.stand_for(axis.ids.reshape(-1), np.tile(units, gates), np.repeat(np.arange(gates), n))
    for b in biases:
        algebra.expose(str(b.owner))
    letters = list(ascii_letters[: x.ndim])
    algebra.contracted(x, w_ih, letters, ["Z", letters[-1]], [*letters[:-1], "Z"])
    algebra.contracted(hidden, w_hh, ["a", "b"], ["Z", "b"], ["a", "Z"])
    at = units.reshape([1] * (x.ndim - 1) + [-1])
    return Tracked((*x.shape[:-1], n), (Label(at, np.zeros_like(at)),) if n > 1 else ())
