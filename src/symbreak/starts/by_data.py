"""Schemes that look at data: each draws its start, then adjusts the layers in the order in which they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from symbreak.errors import BatchError
from symbreak.schemes import Scheme

from .arguments import arguments
from .desk import Desk
from .plain import MATRICES
from .session import Session, within
from .walk import Layer, walk

Loss = Callable[..., Tensor] | None


def lsuv(desk: Desk, names: Collection[str], scheme: Scheme, batch: Any, loss: Loss) -> None:
    """Variance 1 of every layer's output. See `symbreak.schemes.lsuv`."""
    options = arguments(scheme)

    def adjust(layer: Layer) -> str:
        before = layer.variance()
        if before == 0:
            return "its output is constant on this batch, so there is nothing to scale by"
        now = before
        for _ in range(options["attempts"]):
            if abs(now - 1) < options["tol"]:
                break
            layer.scale(1 / math.sqrt(now))
            layer.again()
            now = layer.variance()
        part = layer.name.removeprefix(layer.weight).strip()
        return f"{part + ': ' if part else ''}the variance of its output went from {before:.3g} to {now:.3g}"

    _walk(desk, names, batch, loss, adjust)


def weight_norm_data(desk: Desk, names: Collection[str], scheme: Scheme, batch: Any, loss: Loss) -> None:
    """Mean 0 and variance 1 of every unit. See `symbreak.schemes.weight_norm_data`."""
    del scheme
    _walk(desk, names, batch, loss, _standardise(0.0))


def krahenbuhl(desk: Desk, names: Collection[str], scheme: Scheme, batch: Any, loss: Loss) -> None:
    """Mean beta and variance 1 of every unit, then equal rates of change. See `symbreak.schemes.krahenbuhl`."""
    options = arguments(scheme)
    _walk(desk, names, batch, loss, _standardise(options["beta"]))
    if options["between"]:
        _balance(desk, names, options, batch, loss)


def _standardise(beta: float) -> Callable[[Layer], str]:
    def adjust(layer: Layer) -> str:
        output = layer.output
        std = output.std(0, unbiased=False)  # [o]
        alive = std > 1e-12 * float(std.max()) if float(std.max()) > 0 else std > 0
        if not bool(alive.any()):
            return "its output is constant on this batch, so there is nothing to scale by"
        factor = torch.where(alive, 1 / std.where(alive, torch.ones_like(std)), torch.ones_like(std))
        layer.scale(factor)
        layer.again()
        if layer.biased:
            layer.move(beta - layer.output.mean(0))
            layer.again()
        still = int((~alive).sum())
        dead = f"; {still} constant units left as they were" if still else ""
        centred = f"mean {beta:g} and " if layer.biased else ""
        return f"every unit brought to {centred}deviation 1 on the batch{dead}"

    return adjust


def _walk(desk: Desk, names: Collection[str], batch: Any, loss: Loss, adjust: Callable[[Layer], str]) -> None:
    open_ = {n for n in names if desk.tensors[n].left is None and desk.places[n].role != "embedding"}
    drawn = {n for n in open_ if desk.action(n) != "kept"}
    values, told = within(desk.model, batch, loss, lambda session: walk(session, _with_aliases(desk, drawn), adjust))
    first = {name: t.name for t in desk.tensors.values() for name in t.names}
    for name, value in values.items():
        own = first[name]
        if name not in told and torch.equal(
            value.to(desk.tensors[own].parameter), desk.tensors[own].parameter.detach()
        ):
            continue  # a bias that had nowhere to go
        desk.put(own, value, "scaled", told.get(name, "goes with its layer"))
    for name in drawn:
        if desk.places[name].role in MATRICES and name not in {first[n] for n in told}:
            reason = "not reached by this batch" if desk.places[name].layout.parts == 1 else "a recurrent layer's gates"
            desk.tell(name, f"{reason}: only drawn, not scaled by data")


def _with_aliases(desk: Desk, names: Collection[str]) -> set[str]:
    return {alias for name in names for alias in desk.tensors[name].names}


# ---- between layers --------------------------------------------------------------------------------------------------


def _balance(desk: Desk, names: Collection[str], options: dict[str, Any], batch: Any, loss: Loss) -> None:
    weights = [n for n in names if desk.places[n].role in MATRICES and desk.action(n) in ("drawn", "scaled")]
    if len(weights) < 2:
        return
    values, spreads = within(
        desk.model, batch, loss, lambda session: _balanced(session, weights, _biases(desk, names, weights), options)
    )
    for name, value in values.items():
        because = desk.because(name)
        desk.put(name, value, "scaled", because)
    desk.notes.append(
        f"between layers: the rates of change lay within a factor of {math.exp(spreads[0]):.3g} of their mean, and lie "
        f"within {math.exp(spreads[-1]):.3g} after {len(spreads) - 1} rounds"
    )


def _biases(desk: Desk, names: Collection[str], weights: Collection[str]) -> dict[str, str]:
    """weight -> the bias beside it, of those that may be written."""
    found = {}
    for weight in weights:
        head, _, own = weight.rpartition(".")
        bias = f"{head}.{own.replace('weight', 'bias')}".lstrip(".")
        if bias != weight and bias in names and desk.tensors[bias].left is None:
            found[weight] = bias
    return found


def _balanced(
    session: Session, weights: list[str], biases: dict[str, str], options: dict[str, Any]
) -> tuple[dict[str, Tensor], list[float]]:
    """Multiply each weight by (C_k / C)^(1/4) until the rates agree; biases by all the factors up to their layer."""
    params = session.held.params
    spreads: list[float] = []
    order: list[str] = []
    for _ in range(options["rounds"] + 1):
        rates = _rates(session, weights)
        order = [n for n in order or list(rates) if n in rates]
        if len(order) < 2:
            break
        logs = {n: math.log(rates[n]) for n in order}
        middle = sum(logs.values()) / len(logs)
        spreads.append(max(abs(x - middle) for x in logs.values()))
        if spreads[-1] <= options["tol"] or len(spreads) > options["rounds"]:
            break
        along = 0.0
        for name in order:
            step = (logs[name] - middle) / 4
            along += step
            params[name].data.mul_(math.exp(step))
            if name in biases:
                params[biases[name]].data.mul_(math.exp(along))
    changed = {*order, *(biases[n] for n in order if n in biases)}
    return {n: params[n].detach().clone() for n in changed}, spreads or [0.0]


def _rates(session: Session, weights: list[str]) -> dict[str, float]:
    """weight -> rms of its gradient over its own, in the order of the model; those without a gradient are left out."""
    params = session.held.params
    for p in params.values():
        p.grad = None
    session.run().backward()
    found = {}
    for name in weights:
        g = params[name].grad
        size = float(torch.linalg.vector_norm(params[name].detach()))
        if g is not None and size > 0 and (steep := float(torch.linalg.vector_norm(g.to_dense()))) > 0:
            if not math.isfinite(steep):
                raise BatchError(f"the gradient of {name} is not finite on this batch.")
            found[name] = steep / size
    for p in params.values():
        p.grad = None
    return found
