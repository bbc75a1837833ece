"""Networks exchanged in fact: a second look at what `exchange` proves by the graph, which shares no code with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

TOLERANCE = 1e-8  # of the largest entry, in float64: sums in another order


def same_when_exchanged(
    model: nn.Module,
    modules: Sequence[str],
    run: Callable[[], Iterable[Tensor]],
    beside: Sequence[Mapping[str, int]] = (),
) -> bool:
    """Whether, when these modules change places, outputs stay and gradients change places as well.

    Args:
        model: in float64; its weights are drawn anew around what they are, in place, and left so.
        modules: at least two, with tensors of the same names and shapes.
        beside: for the first one and each other one, tensor -> axis of the entries that change places with them; the
            modules are members of one list then.
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
    tensors, (first, *others) = dict((*model.named_parameters(), *model.named_buffers())), modules
    for other, axes in zip(others, beside or [{}] * len(others), strict=True):
        pair = model.get_submodule(first), model.get_submodule(other)
        at = [int(name.rpartition(".")[2]) for name in (first, other)] if axes else []
        rows = [tuple(tensors[name].select(axis, k) for k in at) for name, axis in axes.items()]
        before = _seen(run, *pair)
        _change_places(*pair, rows)
        after = _seen(run, *reversed(pair))
        _change_places(*pair, rows)
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


def _change_places(one: nn.Module, other: nn.Module, rows: Iterable[tuple[Tensor, ...]]) -> None:
    whole = zip((*one.parameters(), *one.buffers()), (*other.parameters(), *other.buffers()), strict=True)
    with torch.no_grad():
        for a, b in (*whole, *rows):
            kept = a.clone()
            a.copy_(b)
            b.copy_(kept)


def _agree(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().amax() <= TOLERANCE * one.abs().amax())
