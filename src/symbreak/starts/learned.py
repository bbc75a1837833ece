"""Schemes that learn the size of each tensor: MetaInit by the gradient quotient, GradInit by one step of training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from symbreak.errors import BatchError, ModelError
from symbreak.probe.task import Draw
from symbreak.schemes import Scheme

from .arguments import arguments
from .desk import Desk
from .plain import MATRICES
from .session import Session, within
from .tensors import numbers

Loss = Callable[..., Tensor] | None
NOTHING = "no tensor was drawn whose size could be learned, so the model was not run"
_LOOKS = 20  # times that MetaInit compares where it is with where it was


# ---- MetaInit --------------------------------------------------------------------------------------------------------


def metainit(desk: Desk, names: Collection[str], scheme: Scheme, batch: Any, loss: Loss) -> None:
    """Norms tuned until the gradient quotient is small. See `symbreak.schemes.metainit`."""
    options = arguments(scheme)
    tuned = [n for n in names if desk.action(n) == "drawn" and desk.places[n].role in MATRICES
             and desk.tensors[n].parameter.dim() >= 2 and bool(numbers(desk.tensors[n].parameter).any())]  # fmt: skip
    if not tuned:
        desk.notes.append(NOTHING)
        return
    norms, quotients = within(desk.model, batch, loss, lambda session: _metainit(session, tuned, options, desk))
    for name, factor in norms.items():
        p = desk.tensors[name].parameter
        desk.put(name, numbers(p) * factor, "scaled", f"its norm times {factor:.3g} lowers the gradient quotient")
    if quotients:
        desk.notes.append(
            f"the gradient quotient went from {quotients[0]:.3g} to {min(quotients):.3g} (at 1 a step changes the "
            f"gradient by all of itself), the lowest of {len(quotients) - 1} looks in {options['steps']} steps"
        )


def _metainit(
    session: Session, tuned: list[str], options: dict[str, Any], desk: Desk
) -> tuple[dict[str, float], list[float]]:
    params = session.held.params
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, (1,), generator=desk.generator)))
    start = {n: float(torch.linalg.vector_norm(params[n].detach())) for n in tuned}
    now, speed = dict(start), dict.fromkeys(tuned, 0.0)
    quotients = [_evaluated(session, tuned, options["eps"])] if options["steps"] else []
    best = dict(now)
    often = max(1, options["steps"] // _LOOKS)
    for step in range(options["steps"]):
        _, slopes = quotient_and_slopes(session, tuned, options["eps"], step, generator)
        for name in tuned:
            speed[name] = options["momentum"] * speed[name] - options["learning_rate"] * slopes[name]
            wanted = max(now[name] + speed[name], 1e-3 * start[name])
            params[name].data.mul_(wanted / now[name])
            now[name] = wanted
        if (step + 1) % often == 0:
            quotients.append(_evaluated(session, tuned, options["eps"]))
            best = dict(now) if quotients[-1] <= min(quotients) else best
    return {n: best[n] / start[n] for n in tuned}, quotients


def _evaluated(session: Session, tuned: Collection[str], eps: float) -> float:
    """The quotient on two fixed draws: what is compared from time to time, because single draws are very noisy."""
    generator = torch.Generator().manual_seed(0)
    values = [quotient_and_slopes(session, tuned, eps, step, generator)[0] for step in range(2)]
    return sum(values) / len(values)


def quotient_and_slopes(
    session: Session, tuned: Collection[str], eps: float, step: int, generator: torch.Generator
) -> tuple[float, dict[str, float]]:
    """The gradient quotient on random inputs, and the sign of its slope along the norm of each tuned tensor.

    Source: Dauphin and Schoenholz 2019, equation 4.
    """
    params = {n: p for n, p in session.held.params.items() if p.requires_grad}
    draw = _random(session.task.draw(step + 1, session.held.dtype), generator)
    with sdpa_kernel([SDPBackend.MATH]):  # the fused kernels cannot be differentiated twice
        value = _scalar(session, draw, generator)
        first = torch.autograd.grad(value, list(params.values()), create_graph=True, allow_unused=True)
        used = [(n, g) for n, g in zip(params, first, strict=True) if g is not None]
        half = sum(((g**2).sum() for _, g in used), start=torch.zeros((), dtype=value.dtype)) / 2
        if not half.requires_grad:
            raise ModelError("the gradient does not depend on the weights, so MetaInit has nothing to tune.")
        wanted = [params[n] for n, _ in used]
        second = torch.autograd.grad(half, wanted, create_graph=True, allow_unused=True)  # H g
        total, entries = torch.zeros((), dtype=value.dtype), 0
        for (_, g), hg in zip(used, second, strict=True):
            change = g - hg if hg is not None else g
            sign = torch.where(g >= 0, 1.0, -1.0).to(g.dtype).detach()
            total = total + (change / (g + eps * sign) - 1).abs().sum()
            entries += g.numel()
        quotient = total / entries
        if not quotient.requires_grad:
            raise ModelError("the model is linear in its weights, so the gradient quotient is constant.")
        third = torch.autograd.grad(quotient, [params[n] for n in tuned], allow_unused=True)
    if not bool(torch.isfinite(quotient)):
        raise BatchError("the gradient quotient is not finite at this start. Begin with another: metainit(start=...).")
    slopes = {}
    for name, g3 in zip(tuned, third, strict=True):
        along = 0.0 if g3 is None else float((params[name].detach() * g3).sum())
        slopes[name] = math.copysign(1.0, along) if along else 0.0
    return float(quotient.detach()), slopes


def _random(draw: Draw, generator: torch.Generator) -> Draw:
    """The same batch with every real number of its inputs a standard normal one."""

    def noise(thing: Any) -> Any:
        if isinstance(thing, Tensor) and thing.is_floating_point():
            drawn = torch.randn(thing.shape, generator=generator, dtype=torch.float64)
            return drawn.to(thing.device, thing.dtype)
        if isinstance(thing, Mapping):
            return {key: noise(value) for key, value in thing.items()}
        return type(thing)(noise(item) for item in thing) if type(thing) in (list, tuple) else thing

    return dataclasses.replace(draw, args=noise(draw.args), kwargs=noise(dict(draw.kwargs)))


def _scalar(session: Session, draw: Draw, generator: torch.Generator) -> Tensor:
    """The loss; where there is none, half the mean squared distance of every output from random targets."""
    outcome = session.run(draw=draw)
    if outcome.loss is not None:
        return outcome.loss
    wanted = [o for o in outcome.outputs if o.requires_grad and o.numel()]
    if not wanted:
        raise ModelError("no output of the model depends on a trainable parameter.")
    targets = [
        torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.device, o.real.dtype) for o in wanted
    ]
    halves = [(o - t).abs().square().mean() / 2 for o, t in zip(wanted, targets, strict=True)]
    return torch.stack(halves).sum()


# ---- GradInit --------------------------------------------------------------------------------------------------------


def gradinit(desk: Desk, names: Collection[str], scheme: Scheme, batch: Any, loss: Loss) -> None:
    """Factors tuned until one step lowers the loss most. See `symbreak.schemes.gradinit`."""
    options = arguments(scheme)
    tuned = [n for n in names if desk.action(n) == "drawn" and bool(numbers(desk.tensors[n].parameter).any())]
    if not tuned:
        desk.notes.append(NOTHING)
        return
    factors, story = within(desk.model, batch, loss, lambda session: _gradinit(session, tuned, options, desk))
    for name, factor in factors.items():
        p = desk.tensors[name].parameter
        desk.put(
            name, numbers(p) * factor, "scaled", f"times {factor:.3g}, learned so that the first step lowers the loss"
        )
    if story:
        before, after = story
        desk.notes.append(
            f"on this batch: gradient norm {before[1]:.3g} -> {after[1]:.3g} (bound {options['gamma']:g}), loss after "
            f"one step of {options['eta']:g} {before[2]:.4g} -> {after[2]:.4g}, before it {before[0]:.4g} -> "
            f"{after[0]:.4g}"
        )


class _Asked(nn.Module):
    """The loss as a function of the model's parameters."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.model = session.model
        self._session = session

    def forward(self, draw: Draw, step: int) -> Tensor:
        outcome = self._session.run(draw=draw, step=step)
        if outcome.loss is None:
            raise BatchError(
                "gradinit looks at the loss after one step, and none was given. Pass loss= and a batch (x, y), or a "
                "model that returns its own loss."
            )
        return outcome.loss


def _gradinit(
    session: Session, tuned: list[str], options: dict[str, Any], desk: Desk
) -> tuple[dict[str, float], tuple[tuple[float, float, float], tuple[float, float, float]] | None]:
    ask, params = _Asked(session), session.held.params
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, (1,), generator=desk.generator)))
    whole = session.task.draw(1, session.held.dtype)
    factors = {n: torch.ones((), dtype=session.held.dtype, requires_grad=True) for n in tuned}
    adam = torch.optim.Adam(list(factors.values()), lr=options["learning_rate"])
    before = _one_step(ask, params, factors, whole, whole, options)
    for step in range(options["steps"]):
        first, second = _overlapping(session.task.draw(step + 1, session.held.dtype), generator)
        value = _objective(ask, params, factors, first, second, options)
        slopes = torch.autograd.grad(value, list(factors.values()), allow_unused=True)
        for factor, slope in zip(factors.values(), slopes, strict=True):
            factor.grad = slope if slope is not None and bool(slope.isfinite()) else None
        adam.step()
        with torch.no_grad():
            for factor in factors.values():
                factor.clamp_(min=options["least"])
    after = _one_step(ask, params, factors, whole, whole, options)
    return {n: float(f.detach()) for n, f in factors.items()}, (before, after)


def _scaled(params: Mapping[str, nn.Parameter], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: p * factors[n] if n in factors else p for n, p in params.items()}


def _loss_and_gradient(
    ask: _Asked, theta: Mapping[str, Tensor], draw: Draw, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    value = functional_call(ask, {f"model.{n}": t for n, t in theta.items()}, (draw, step))
    wanted = {n: t for n, t in theta.items() if t.requires_grad}
    found = torch.autograd.grad(value, list(wanted.values()), create_graph=True, allow_unused=True)
    return value, {n: g for n, g in zip(wanted, found, strict=True) if g is not None}


def _norm(gradient: Mapping[str, Tensor], optimizer: str) -> Tensor:
    parts = [g.abs().sum() if optimizer == "adam" else (g**2).sum() for g in gradient.values()]
    total = torch.stack(parts).sum()
    return total if optimizer == "adam" else total.clamp_min(1e-60).sqrt()


def _stepped(
    theta: Mapping[str, Tensor], gradient: Mapping[str, Tensor], options: Mapping[str, Any]
) -> dict[str, Tensor]:
    sign = options["optimizer"] == "adam"
    step = {n: torch.sign(g).detach() if sign else g for n, g in gradient.items()}
    return {n: t - options["eta"] * step[n] if n in step else t for n, t in theta.items()}


def _objective(
    ask: _Asked,
    params: Mapping[str, nn.Parameter],
    factors: Mapping[str, Tensor],
    first: Draw,
    second: Draw,
    options: Mapping[str, Any],
) -> Tensor:
    """What the factors go down on: the norm where it is above its bound, else the loss after one step."""
    with sdpa_kernel([SDPBackend.MATH]):
        theta = _scaled(params, factors)
        _, gradient = _loss_and_gradient(ask, theta, first, 1)
        norm = _norm(gradient, options["optimizer"])
        if not bool(norm.isfinite()):
            raise BatchError("the gradient is not finite at this start. Begin with another: gradinit(start=...).")
        if float(norm.detach()) > options["gamma"]:
            return norm
        stepped = _stepped(theta, gradient, options)
        found: Tensor = functional_call(ask, {f"model.{n}": t for n, t in stepped.items()}, (second, 1))
        return found


def _one_step(
    ask: _Asked,
    params: Mapping[str, nn.Parameter],
    factors: Mapping[str, Tensor],
    first: Draw,
    second: Draw,
    options: Mapping[str, Any],
) -> tuple[float, float, float]:
    """(loss, gradient norm, loss after one step)."""
    with sdpa_kernel([SDPBackend.MATH]):
        theta = _scaled(params, factors)
        value, gradient = _loss_and_gradient(ask, theta, first, 1)
        stepped = {
            f"model.{n}": t.detach().requires_grad_(t.requires_grad)
            for n, t in _stepped(theta, gradient, options).items()
        }
        after = functional_call(ask, stepped, (second, 1))
    return float(value.detach()), float(_norm(gradient, options["optimizer"]).detach()), float(after.detach())


def _overlapping(draw: Draw, generator: torch.Generator) -> tuple[Draw, Draw]:
    """Two parts of a batch that share half of their samples; the whole twice where it has fewer than three."""

    first = next((t for t in _tensors((*draw.args, *draw.kwargs.values())) if t.dim()), None)
    many = len(first) if first is not None else 0
    if many < 3:
        return draw, draw
    order = torch.randperm(many, generator=generator)
    part = max(2, 2 * many // 3)
    shift = part // 2

    def take(thing: Any, rows: Tensor) -> Any:
        if isinstance(thing, Tensor):
            return thing[rows.to(thing.device)] if thing.dim() and len(thing) == many else thing
        if isinstance(thing, Mapping):
            return {key: take(value, rows) for key, value in thing.items()}
        return type(thing)(take(item, rows) for item in thing) if type(thing) in (list, tuple) else thing

    def cut(rows: Tensor) -> Draw:
        return dataclasses.replace(
            draw, args=take(draw.args, rows), kwargs=take(dict(draw.kwargs), rows), target=take(draw.target, rows)
        )

    return cut(order[:part]), cut(torch.cat([order[shift:part], order[part : part + shift]]))


def _tensors(things: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for thing in things:
        if isinstance(thing, Tensor):
            found.append(thing)
        elif isinstance(thing, Mapping):
            found += _tensors(thing.values())
        elif isinstance(thing, list | tuple):
            found += _tensors(thing)
    return found
