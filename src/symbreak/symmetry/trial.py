"""Networks exchanged in fact: a second look at what `exchange` proves by the graph, which shares no code with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

TOLERANCE = 1e-8  # of the largest entry, in float64: sums in another order


def same_when_exchanged(model: nn.Module, modules: Sequence[str], run: Callable[[], Iterable[Tensor]]) -> bool:
    """Whether, when these modules change places, outputs stay and gradients change places as well.

    Args:
        model: in float64; its weights are drawn anew around what they are, in place, and left so.
        modules: at least two, with tensors of the same names and shapes.
        run: calls the model, or its objective, on the same batch and with the same random numbers every time.

    Example:
        >>> net = nn.ModuleList(nn.Linear(2, 1) for _ in range(2)).double()
        >>> x = torch.ones(1, 2, dtype=torch.float64)
        >>> both, one = (lambda: [net[0](x) * net[1](x)]), (lambda: [net[0](x)])
        >>> same_when_exchanged(net, ["0", "1"], both), same_when_exchanged(net, ["0", "1"], one)
        (True, False)

    Source: two analytic functions that agree at a point drawn from a density are one, with probability 1.
    """
    _draw_anew(model)
    first, *others = (model.get_submodule(name) for name in modules)
    for other in others:
        before = _seen(run, first, other)
        _change_places(first, other)
        after = _seen(run, other, first)
        _change_places(first, other)
        if not all(_agree(a, b) for a, b in zip(before, after, strict=True)):
            return False
    return True


class _Seen(NamedTuple):
    outputs: Tensor
    one: Tensor  # the gradients of one network
    other: Tensor


def _draw_anew(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for t in (*model.parameters(), *model.buffers()):
            if t.is_floating_point():
                size = t.square().mean().sqrt() if bool(t.any()) else torch.tensor(0.1)
                t += 0.3 * size.to(t) * torch.rand(t.shape, generator=generator, dtype=t.dtype).to(t)


def _seen(run: Callable[[], Iterable[Tensor]], one: nn.Module, other: nn.Module) -> _Seen:
    """What comes out, and the gradients of a random projection of it."""
    generator = torch.Generator().manual_seed(1)
    made = torch.cat([t.double().flatten() for t in run() if t.is_floating_point()])
    goal = made @ torch.randn(len(made), generator=generator, dtype=made.dtype).to(made)
    sides = [[p for p in m.parameters() if p.requires_grad] for m in (one, other)]
    found = iter(torch.autograd.grad(goal, [p for side in sides for p in side], materialize_grads=True))
    return _Seen(made.detach(), *(torch.cat([next(found).flatten() for _ in side]) for side in sides))


def _change_places(one: nn.Module, other: nn.Module) -> None:
    with torch.no_grad():
        for a, b in zip((*one.parameters(), *one.buffers()), (*other.parameters(), *other.buffers()), strict=True):
            kept = a.clone()
            a.copy_(b)
            b.copy_(kept)


def _agree(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().amax() <= TOLERANCE * one.abs().amax())
