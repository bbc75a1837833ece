"""Larger or fresher networks from trained ones: wider, deeper, smaller, shaken, split into experts.

Index letters: W[o, i, *k]; j hidden units, e experts. Every function returns new tensors and leaves its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from symbreak.errors import SchemeError
from symbreak.schemes.activations import Activation, activation
from symbreak.schemes.checks import choice, number, whole
from symbreak.schemes.place import Place
from symbreak.schemes.scheme import Scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Wider:
    """Two layers with more units between them, computing what they did.

    `copied[j]` is the old unit that unit j is a copy of; `tied` are classes of units that will stay equal for ever, one
    to another, because nothing tells them apart.
    """

    incoming: Tensor  # [j, i, *k]
    bias: Tensor | None  # [j]
    outgoing: Tensor  # [o, j * s, *k]
    beside: tuple[Tensor, ...]  # [j] each
    copied: tuple[int, ...]
    tied: tuple[tuple[int, ...], ...]


def net2wider(
    incoming: Tensor,
    bias: Tensor | None,
    outgoing: Tensor,
    width: int,
    *,
    generator: torch.Generator,
    split: Literal["unequal", "equal"] = "unequal",
    beside: Sequence[Tensor] = (),
) -> Wider:
    """More hidden units, same function: new units copy old ones, and outgoing weights are shared between the copies.

    Unit j >= n copies g(j), drawn uniformly. Outgoing weights of a unit with m copies are multiplied by shares that sum
    to 1: 1/m each when equal, which ties the copies for ever; proportional to U(0.5, 1.5) when unequal, so that
    gradients differ and the copies part at the first step. A unit whose outgoing weights are all zero has nothing to
    share unequally: it stays tied, and `tied` says so.

    Args:
        incoming: [n, i, *k], weight of the layer in front.
        bias: [n] of that layer, or None.
        outgoing: [o, n * s, *k], weight of the layer behind; s columns a unit where a flatten stands between.
        width: units afterwards.
        generator: where the randomness comes from.
        split: "unequal" breaks the tie, "equal" is the paper's and leaves it.
        beside: further [n] tensors to copy along: gamma, beta, running mean and variance of a norm.
    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> made = net2wider(torch.ones(2, 3), None, torch.ones(1, 2), 4, generator=g)
        >>> made.copied, round(float(made.outgoing.sum()), 6), made.tied
        ((0, 1, 0, 1), 2.0, ())

    Raises:
        SchemeError: shapes do not fit one another, or the width shrinks.
    Source: Chen, Goodfellow and Shlens 2016, arXiv:1511.05641; the unequal split is exact, where noise is not.
    """
    import torch

    n = incoming.shape[0]
    choice("split", split, ("unequal", "equal"))
    if whole("width", width) < n:
        raise SchemeError(f"width={width}: expected {n} units or more; weight_selection makes layers smaller.")
    if outgoing.dim() < 2 or outgoing.shape[1] % n:
        raise SchemeError(f"outgoing weights of shape {tuple(outgoing.shape)} do not read {n} units.")
    for vector in (*([] if bias is None else [bias]), *beside):
        if tuple(vector.shape) != (n,):
            raise SchemeError(f"a tensor of shape {tuple(vector.shape)} beside {n} units: expected ({n},).")
    drawn = torch.randint(n, (width - n,), generator=generator, device=generator.device)
    copied = torch.cat([torch.arange(n), drawn.cpu()])
    weight = torch.ones(width, dtype=torch.float64)
    if split == "unequal":
        weight = torch.empty(width, device=generator.device).uniform_(0.5, 1.5, generator=generator).double().cpu()
    share = weight / torch.zeros(n, dtype=torch.float64).index_add_(0, copied, weight)[copied]
    share = share.to(outgoing.device)
    where = copied.to(incoming.device)
    shape = outgoing.shape
    by_unit = outgoing.detach().reshape(shape[0], n, shape[1] // n, *shape[2:])  # [o, n, s, *k]
    columns = by_unit.double()[:, copied.to(outgoing.device)]  # [o, j, s, *k]
    shared = columns * share.reshape(1, width, *[1] * (columns.dim() - 2))
    silent = {unit for unit in range(n) if not bool(by_unit[:, unit].any())}
    classes = [tuple(j for j in range(width) if int(copied[j]) == unit) for unit in range(n)]
    return Wider(
        incoming.detach()[where],
        None if bias is None else bias.detach()[where],
        shared.flatten(1, 2).to(outgoing.dtype),
        tuple(vector.detach()[where] for vector in beside),
        tuple(int(unit) for unit in copied),
        tuple(klass for unit, klass in enumerate(classes) if len(klass) > 1 and (split == "equal" or unit in silent)),
    )


def net2deeper(
    width: int, phi: str | Activation = "relu", *, kernel: Sequence[int] = (), dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a new layer that changes nothing behind an activation with phi(phi(z)) = phi(z).

    The identity, or a kernel whose centre tap is. Units differ because what they read differs: no tie arises.

    Args:
        width: units of the layer in front.
        phi: the activation in front, and behind the new layer.
        kernel: of a convolution, odd sizes.
        dtype: of the result, float32 by default.
    Example:
        >>> weight, bias = net2deeper(2)
        >>> weight.tolist(), bias.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])

    Raises:
        SchemeError: the activation is not idempotent, as tanh is not.
    Source: Chen, Goodfellow and Shlens 2016, arXiv:1511.05641.
    """
    import torch

    from symbreak.schemes.patterns import dirac, identity

    known = activation(phi) if isinstance(phi, str) else phi
    z = torch.linspace(-12, 12, 2001, dtype=torch.float64)
    if not torch.equal(known(known(z)), known(z)):
        raise SchemeError(
            f"{known!r} applied twice is not itself, so an identity layer changes the function. Take relu."
        )
    if any(size % 2 == 0 for size in kernel):
        raise SchemeError(f"kernel={tuple(kernel)!r}: expected odd sizes, which have a centre.")
    made = (dirac() if kernel else identity()).draw(
        (whole("width", width), width, *kernel), generator=torch.Generator(), dtype=dtype
    )
    return made, torch.zeros(width, dtype=made.dtype)


def weight_selection(teacher: Tensor, shape: Sequence[int]) -> Tensor:
    """A smaller tensor made of evenly spaced slices of a trained one, along every axis.

    Index i of n comes from floor(i N / n) of N. Take the first layers of the teacher for the layers, and the same
    slices everywhere for the residual stream: they follow from the widths alone, so they agree.

    Where n does not divide N the authors' code rounds linspace(0, N, n), whose last index is N: out of range.

    Args:
        teacher: the trained tensor.
        shape: of the student's, no larger on any axis.
    Example:
        >>> import torch
        >>> weight_selection(torch.arange(6.0), (4,)).tolist()
        [0.0, 1.0, 3.0, 4.0]

    Raises:
        SchemeError: another number of axes, or an axis that grows.
    Source: Xu et al. 2024, arXiv:2311.18823; OscarXZQ/weight-selection, uniform_element_selection.
    """
    import torch

    sizes = tuple(shape)
    if len(sizes) != teacher.dim() or any(not 0 < n <= N for n, N in zip(sizes, teacher.shape, strict=True)):
        raise SchemeError(f"a tensor of shape {tuple(teacher.shape)} has no slice of shape {sizes}.")
    for axis, n in enumerate(sizes):
        chosen = torch.arange(n, device=teacher.device) * teacher.shape[axis] // n
        teacher = teacher.detach().index_select(axis, chosen)
    return teacher


def shrink_perturb(
    weight: Tensor,
    fresh: Scheme,
    *,
    generator: torch.Generator,
    shrink: float = 0.4,
    perturb: float = 0.1,
    place: Place | None = None,
) -> Tensor:
    """A trained weight pulled towards a fresh one: for going on with new data as if from the start, only faster.

    shrink W + perturb W', with W' drawn from the scheme. Shrinking a weight in front of a normalisation changes only
    its effective learning rate, by 1 / shrink^2.

    Args:
        weight: the trained weight.
        fresh: what W' is drawn from.
        generator: where the randomness comes from.
        shrink: lambda, in [0, 1].
        perturb: factor on the fresh weight.
        place: where the weight stands, for the scheme.
    Example:
        >>> import torch
        >>> from symbreak.schemes import zeros
        >>> shrink_perturb(torch.ones(2), zeros(), generator=torch.Generator()).tolist()
        [0.4000000059604645, 0.4000000059604645]

    Source: Ash and Adams 2020, arXiv:1910.08475; JordanAsh/warm_start.
    """
    shrink, perturb = number("shrink", shrink, least=0.0), number("perturb", perturb, least=0.0)
    if shrink > 1:
        raise SchemeError(f"shrink={shrink!r}: expected a factor from 0 to 1.")
    new = fresh.draw(weight.shape, generator=generator, place=place).to(weight.device)
    return (shrink * weight.detach().double() + perturb * new.double()).to(weight.dtype)


def upcycled(weight: Tensor, experts: int, *, generator: torch.Generator, noise: float = 0.0) -> Tensor:
    """Experts [e, *shape] that start as copies of one trained feed-forward weight, with or without noise.

    expert = W + noise rms(W) N(0, 1). Without noise all experts are equal: the router's gradient is exactly zero at
    first, and with equal gates they stay equal for ever; a random router or top-k breaks that. The noise is a share of
    the root mean square, so it is none only where the weight is zero, and that is refused.

    Args:
        weight: of the dense layer.
        experts: how many.
        generator: where the randomness comes from.
        noise: relative size; 0 keeps the function, 0.01 changes it by about a hundredth.
    Example:
        >>> import torch
        >>> upcycled(torch.ones(2, 3), 4, generator=torch.Generator()).shape
        torch.Size([4, 2, 3])

    Raises:
        SchemeError: noise for a weight that is all zero.
    Source: Komatsuzaki et al. 2022, arXiv:2212.05055; NVIDIA Megatron's upcycling.
    """
    import torch

    whole("experts", experts)
    size = number("noise", noise, least=0.0) * float(weight.detach().double().square().mean().sqrt())
    copies = weight.detach().expand(experts, *weight.shape).clone()
    if noise and not size:
        raise SchemeError(f"noise={noise!r} of a weight that is all zero is no noise: start it with a scheme.")
    if size:
        drawn = torch.empty(copies.shape, device=generator.device).normal_(0.0, size, generator=generator)
        copies += drawn.to(copies)
    return copies


def drop_upcycled(
    up: Tensor,
    down: Tensor,
    experts: int,
    *,
    generator: torch.Generator,
    ratio: float = 0.5,
    gate: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Experts that copy a trained feed-forward block, each with another share of its hidden units started afresh.

    In every expert floor(ratio h) hidden units are drawn; their rows of `up` and `gate` and columns of `down` are
    redrawn from the normal of the same mean and standard deviation (n - 1 in the denominator) as the part they replace,
    each weight by its own. Experts then differ, and the router gets a gradient at the first step. Not
    function-preserving.

    As in the paper the same hidden units are renewed in all three weights. The authors' conversion draws them anew for
    each weight, so that with ratio 0.5 a unit is wholly new only once in eight, and it permutes the hidden units of
    every expert first, which changes no function. The router is not drawn here; theirs is uniform in [0, 1) by default.

    Args:
        up: [h, i].
        down: [o, h].
        experts: how many.
        generator: where the randomness comes from.
        ratio: share of hidden units started afresh, 0.5 in the paper.
        gate: [h, i], of a gated block (SwiGLU).
    Example:
        >>> import torch
        >>> up, down, gate = drop_upcycled(torch.ones(4, 3), torch.ones(2, 4), 5, generator=torch.Generator())
        >>> up.shape, down.shape, gate
        (torch.Size([5, 4, 3]), torch.Size([5, 2, 4]), None)

    Raises:
        SchemeError: shapes that do not share their hidden units.
    Source: Nakamura et al. 2025, arXiv:2502.19261, section 3; Taishi-N324/Drop-Upcycling,
        conversions/drop_upcycling.py.
    """
    import torch

    hidden = up.shape[0]
    if up.dim() != 2 or down.dim() != 2 or down.shape[1] != hidden or (gate is not None and gate.shape != up.shape):
        shapes = ", ".join(str(tuple(weight.shape)) for weight in (up, down, gate) if weight is not None)
        raise SchemeError(f"expected up [h, i], down [o, h] and gate [h, i], got shapes {shapes}.")
    if number("ratio", ratio, least=0.0) > 1:
        raise SchemeError(f"ratio={ratio!r}: expected a share from 0 to 1.")
    rows = [
        upcycled(weight, experts, generator=generator) for weight in (up, down.T, *([] if gate is None else [gate]))
    ]
    for expert in range(whole("experts", experts)):
        chosen = torch.randperm(hidden, generator=generator, device=generator.device)[: int(ratio * hidden)]
        for stack in rows:
            part = stack[expert, chosen.to(stack.device)].double()
            if part.numel() > 1:
                new = torch.empty(part.shape, device=generator.device).normal_(generator=generator).to(part)
                stack[expert, chosen.to(stack.device)] = (part.mean() + part.std() * new).to(stack.dtype)
    return rows[0], rows[1].transpose(1, 2).contiguous(), rows[2] if gate is not None else None
