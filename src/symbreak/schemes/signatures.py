"""Starts that leave an exact pattern in the values: no likelihood is needed, only a comparison.

Each function looks at a tensor and returns the scheme that makes such a pattern, or None. Cheap tests come first: a
tensor of many millions is passed over after one look at a few rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from symbreak.schemes.patterns import (
    delta_orthogonal,
    dirac,
    hadamard,
    identity,
    idinit,
    orthogonal,
    repeated_eye,
    zero_hadamard,
)
from symbreak.schemes.place import Place
from symbreak.schemes.plain import constant, ones, zeros
from symbreak.schemes.recurrent import LSTM, chrono, lstm_forget_bias, nguyen_widrow
from symbreak.schemes.scheme import Scheme
from symbreak.schemes.state_space import hippo_legs, mamba_decay

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 16  # values below which rows of one length, or at right angles, may be chance
ROWS_LOOKED_AT = 64  # 64 vectors orthogonal by chance to 1e-4 do not happen; more only costs time


def signature(weight: Tensor, place: Place) -> Scheme | None:
    """The scheme whose exact pattern the values show, or None.

    Args:
        weight: finite, floating point; it is only read.
        place: layout and fans, where they are known.
    Example:
        >>> import torch
        >>> signature(torch.eye(3), Place())
        identity

    Source: the definitions of the schemes.
    """
    low, high = (float(edge) for edge in weight.aminmax())
    if low == high:
        return level(low)
    looks = (
        (_gate_biases,)
        if weight.dim() < 2
        else (_taps, _identity, _repeated, _hadamard, _states, _orthogonal, _one_length)
    )
    return next((found for look in looks if (found := look(weight, place)) is not None), None)


def level(value: float) -> Scheme:
    """The scheme of a constant tensor; float32's 0.1, which is 0.10000000149, is told as 0.1.

    Example:
        >>> level(0.0), level(1.0), level(0.10000000149)
        (zeros, ones, constant(0.1))

    Source: six digits are what float32 keeps.
    """
    if value == 0:
        return zeros()
    return ones() if value == 1 else constant(float(f"{value:.6g}"))


def _gate_biases(bias: Tensor, place: Place) -> Scheme | None:
    """[0, c, 0, 0] is a forget gate's bias; [-b, b, 0, 0] with b > 0 is chrono's, whose longest time it shows."""
    if place.layout.parts != LSTM or bias.numel() % LSTM or not place.is_bias:
        return None
    i, f, *rest = (part.float() for part in bias.chunk(LSTM))
    if any(bool(part.any()) for part in rest):
        return None
    if not bool(i.any()):
        return lstm_forget_bias(level(float(f[0])).moments().mean) if bool((f == f[0]).all()) else None
    times = float(f.exp().max())
    return chrono(float(f"{times + 1:.2g}")) if bool((i == -f).all()) and float(f.min()) >= 0 and times > 1 else None


def _taps(weight: Tensor, place: Place) -> Scheme | None:
    """Kernels that are zero but for the centre: dirac in any number of groups, or a delta-orthogonal convolution."""
    if weight.dim() < 3 or place.layout.stack:
        return None
    centre = _centre(weight)
    if int(weight.count_nonzero()) != int(centre.count_nonzero()):
        return None
    if int(centre.count_nonzero()) <= len(centre):
        o = len(centre)
        groups = next((g for g in range(1, o + 1) if o % g == 0 and _is_grouped_eye(centre, g)), None)
        return dirac() if groups is not None else None
    gain = right_angles(centre.T)
    return delta_orthogonal(gain=_told(gain)) if gain is not None and centre.shape[0] >= centre.shape[1] else None


def _centre(weight: Tensor) -> Tensor:
    while weight.dim() > 2:
        weight = weight.select(2, weight.shape[2] // 2)
    return weight


def _is_grouped_eye(centre: Tensor, groups: int) -> bool:
    import torch

    rows, i = len(centre) // groups, centre.shape[1]
    eye = torch.eye(rows, i, dtype=centre.dtype, device=centre.device)
    return int(centre.count_nonzero()) == groups * min(rows, i) and torch.equal(centre, eye.repeat(groups, 1))


def _identity(weight: Tensor, place: Place) -> Scheme | None:  # noqa: ARG001 (one signature for all looks)
    if weight.dim() != 2 or int(weight.count_nonzero()) != min(weight.shape):
        return None
    diagonal = weight.diagonal()
    if not bool((diagonal == diagonal[0]).all()) or not bool(diagonal[0]):
        return None
    return identity(gain=level(float(diagonal[0])).moments().mean)


def _repeated(weight: Tensor, place: Place) -> Scheme | None:  # noqa: ARG001 (one signature for all looks)
    """IDInit: a repeated identity, over all taps or in the centre one, under noise that is tiny beside it."""
    readings = {"patch": weight.flatten(1), "channel": _centre(weight)}
    return next((found for kernel in readings if (found := _repeated_in(weight, readings[kernel], kernel))), None)


def _repeated_in(weight: Tensor, part: Tensor, kernel: str) -> Scheme | None:
    gain, (o, i) = float(part[0, 0]), part.shape
    first = repeated_eye(o, i)[0].to(part.device)
    if min(o, i) < 2 or not gain or float((part[0] - gain * first).abs().max()) > 1e-3 * abs(gain):
        return None  # the first row tells nearly all that is not
    off, gain = weight.clone(), round(gain, 4)
    inside = off.flatten(1) if kernel == "patch" else _centre(off)
    inside.sub_(gain * repeated_eye(o, i).to(weight))
    noise = float(off.double().square().mean().sqrt())
    if float(off.abs().max()) > 1e-3 * abs(gain):
        return None
    short = float(f"{noise:.1g}")
    noise = 0.0 if noise < 1e-12 else short if abs(noise / short - 1) < 0.1 else noise
    return idinit(gain=gain, noise=noise) if kernel == "patch" else idinit(gain=gain, noise=noise, kernel="channel")


def _hadamard(weight: Tensor, place: Place) -> Scheme | None:  # noqa: ARG001 (one signature for all looks)
    centre = _centre(weight)
    o, i = centre.shape
    if o <= i or not bool((centre[0] == centre[0, 0]).all()) or int(weight.count_nonzero()) != centre.numel():
        return None
    power = math.ceil(math.log2(o))
    expected = hadamard(power)[:o, :i].to(centre) / math.sqrt(2**power)
    return zero_hadamard() if bool((centre - expected).abs().max() <= 1e-2 * expected[0, 0]) else None


def _states(weight: Tensor, place: Place) -> Scheme | None:  # noqa: ARG001 (one signature for all looks)
    """The matrices of state-space layers: log 1, log 2, ... in every row, or HiPPO-LegS."""
    import torch

    if weight.dim() != 2 or weight.shape[1] < 3:
        return None
    first, second, third = (round(float(entry), 2) for entry in weight[0, :3])
    scheme = {(0.0, 0.69, 1.1): mamba_decay(), (-1.0, 0.0, 0.0): hippo_legs()}.get((first, second, third))
    if scheme is None or (scheme == hippo_legs() and weight.shape[0] != weight.shape[1]):
        return None
    made = scheme.draw(weight.shape, generator=torch.Generator(), dtype=weight.dtype).to(weight.device)
    return scheme if torch.allclose(weight, made, rtol=1e-2 if weight.dtype.itemsize < 4 else 1e-5) else None


def _orthogonal(weight: Tensor, place: Place) -> Scheme | None:
    """All matrices of the tensor orthonormal up to one gain: gate by gate and expert by expert, or as one.

    Four square ones below each other are also orthonormal as one, with twice the gain: so the parts come first.
    """
    gains = [right_angles(matrix.flatten(1)) for matrix in place.matrices(weight)]
    first, whole = gains[0], right_angles(weight.flatten(1))
    if first is None and whole is not None:
        return orthogonal(gain=_told(whole))
    if first is None or any(gain is None or abs(gain / first - 1) > 1e-3 for gain in gains):
        return None
    return orthogonal(gain=_told(first))


def right_angles(matrix: Tensor) -> float | None:
    """The common length of rows at right angles (or of columns, where they are fewer); None where they are not.

    Example:
        >>> import torch
        >>> right_angles(3 * torch.eye(4, 5)), right_angles(torch.ones(4, 5))
        (3.0, None)

    Source: the Gram matrix of up to 64 of them.
    """
    import torch

    rows = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    if len(rows) < 2 or rows.numel() < FEWEST:
        return None
    rows = rows[:ROWS_LOOKED_AT].double()
    gram = rows @ rows.T
    square = float(gram.diagonal().mean())
    tolerance = max(1e-4, 4 * torch.finfo(matrix.dtype).eps) * square
    apart = float((gram - square * torch.eye(len(rows), dtype=gram.dtype, device=gram.device)).abs().max())
    return math.sqrt(square) if square > 0 and apart < tolerance else None


def _told(gain: float) -> float:
    return 1.0 if abs(gain - 1) < 1e-3 else float(f"{gain:.3g}")


def _one_length(weight: Tensor, place: Place) -> Scheme | None:  # noqa: ARG001 (one signature for all looks)
    """Rows of the length that Nguyen and Widrow give."""
    rows = weight.flatten(1)[:ROWS_LOOKED_AT].double()
    if weight.dim() != 2 or rows.shape[1] < 2 or rows.numel() < FEWEST:
        return None
    lengths = rows.norm(dim=1)
    if float(lengths.max() - lengths.min()) > 1e-5 * float(lengths.max()):
        return None
    active = float(lengths[0]) / (0.7 * len(weight) ** (1 / weight.shape[1]))
    near = round(active)
    return nguyen_widrow(active=float(near)) if near in (1, 2) and abs(active / near - 1) < 1e-4 else None
