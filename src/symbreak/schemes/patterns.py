"""Schemes that are a pattern: orthogonal, identity, dirac, sparse, Hadamard.

Each acts on every independent matrix by itself: experts of a stack, groups of a convolution, fused gates.
Index letters: W[o, i, k], o out units, i in units, k taps of the kernel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from symbreak.errors import SchemeError
from symbreak.schemes.checks import choice, number, whole
from symbreak.schemes.laws import Constant, Each, Law
from symbreak.schemes.place import Place
from symbreak.schemes.scheme import LawOf, scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def haar(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A matrix [rows, columns] with orthonormal rows or columns, whichever are fewer, uniform under rotations; float32.

    Inner products are off by up to 1e-6: of that is the rounding of float32 a hundredth, and the rest its QR, which
    takes 0.6 of the time of one in float64 and gives what torch's own fill gives, bit for bit.

    Example:
        >>> import torch
        >>> Q = haar(2, 3, torch.Generator().manual_seed(0))
        >>> torch.allclose(Q @ Q.T, torch.eye(2), atol=1e-6)
        True

    Source: Mezzadri 2007, math-ph/0609050: the signs of R's diagonal make QR unique, and Q Haar-distributed.
    """
    import torch

    drawn = torch.empty(rows, columns, device=generator.device).normal_(generator=generator)
    q: Tensor
    q, r = torch.linalg.qr(drawn if rows >= columns else drawn.T)
    q *= torch.where(r.diagonal() < 0, -1.0, 1.0)
    return q if rows >= columns else q.T


def _centre(weight: Tensor) -> Tensor:
    """The middle tap of every kernel: [o, i]."""
    for _ in range(weight.dim() - 2):
        weight = weight.select(2, weight.shape[2] // 2)
    return weight


@scheme
def orthogonal(*, gain: float = 1.0) -> LawOf:
    """Orthonormal rows or columns, whichever are fewer, uniform under rotations.

    W = gain Q, with Q of the QR decomposition of normal weights and the signs of R's diagonal moved into Q. A square
    linear layer keeps every length, forward and backward, so a linear net of any depth does; tanh wants the gain of its
    edge of chaos.

    A kernel is flattened to [o, i k]: that is no isometry of the convolution (`delta_orthogonal` is one). Each gate,
    group and expert gets a matrix of its own, where torch makes one of all four LSTM gates.

    Args:
        gain: length that a unit vector is sent to.
    Example:
        >>> orthogonal().moments(fan_in=100, fan_out=25).std
        0.1

    The last bits of a QR depend on the number of threads, here as in torch.

    Source: Saxe, McClelland and Ganguli 2013, arXiv:1312.6120; torch.nn.init.orthogonal_, bit for bit.
    """
    gain = number("gain", gain)

    def paint(matrix: Tensor, generator: torch.Generator) -> None:
        flat = matrix.flatten(1)
        matrix.copy_(haar(flat.shape[0], flat.shape[1], generator).reshape(matrix.shape)).mul_(gain)

    return lambda place: Each(place, paint, lambda o, i, taps: (0.0, gain**2 / max(o, i * taps)))


@scheme
def delta_orthogonal(*, gain: float = 1.0) -> LawOf:
    """A convolution whose centre tap is orthonormal and whose other taps are zero: it keeps the length of every image.

    W[:, :, centre] = gain Q with Q^T Q = I, which needs o >= i. The centre is k // 2, torch's own for dirac_; JAX takes
    (k - 1) // 2, which differs for even kernels.

    Args:
        gain: length that a unit vector is sent to.
    Example:
        >>> import torch
        >>> W = delta_orthogonal().draw((8, 4, 3, 3), generator=torch.Generator())
        >>> int(W.count_nonzero()) == 8 * 4
        True

    Source: Xiao et al. 2018, arXiv:1806.05393 (a 10,000-layer CNN); jax.nn.initializers.delta_orthogonal.
    """
    gain = number("gain", gain)

    def paint(matrix: Tensor, generator: torch.Generator) -> None:
        o, i = matrix.shape[:2]
        if i > o:
            raise SchemeError(f"it needs at least as many channels out as in, got {i} in and {o} out.")
        matrix.zero_()
        _centre(matrix).copy_(gain * haar(o, i, generator))

    return lambda place: Each(place, paint, lambda o, i, taps: (0.0, gain**2 / (o * taps)))  # noqa: ARG005


@scheme
def identity(*, gain: float = 1.0) -> LawOf:
    """The identity matrix, padded with zeros where it is not square.

    W[o, i] = gain where o = i, else 0. Keeps every input apart in a square layer. Units beyond the square are all zero,
    so they stay copies of one another: 4-16-16-3 has 5 different units of 16 for ever.

    Args:
        gain: the number on the diagonal.
    Example:
        >>> import torch
        >>> identity().draw((2, 3), generator=torch.Generator()).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]

    Source: torch.nn.init.eye_, bit for bit; Le, Jaitly and Hinton 2015 for recurrent weights.
    """
    gain = number("gain", gain)

    def paint(matrix: Tensor, generator: torch.Generator) -> None:  # noqa: ARG001 (one signature for all painters)
        if matrix.dim() > 2:
            raise SchemeError(f"it needs a matrix, got {tuple(matrix.shape)}: take dirac for a convolution.")
        matrix.zero_().diagonal().fill_(gain)

    return lambda place: Each(place, paint, lambda o, i, taps: _ones_among(min(o, i), o * i * taps, gain))


@scheme
def dirac(*, gain: float = 1.0) -> LawOf:
    """A convolution that hands its channels on unchanged.

    W[o, i, centre] = gain where o = i, else 0, in every group. The same caveat as `identity`: channels beyond the
    smaller side are zero, and one class.

    Args:
        gain: the number on the diagonal.
    Example:
        >>> import torch
        >>> dirac().draw((1, 1, 3), generator=torch.Generator()).tolist()
        [[[0.0, 1.0, 0.0]]]

    Source: Zagoruyko and Komodakis 2017, arXiv:1706.00388; torch.nn.init.dirac_, bit for bit, groups included.
    """
    gain = number("gain", gain)

    def paint(matrix: Tensor, generator: torch.Generator) -> None:  # noqa: ARG001 (one signature for all painters)
        if matrix.dim() < 3:
            raise SchemeError(f"it needs a kernel, got {tuple(matrix.shape)}: take identity for a matrix.")
        matrix.zero_()
        _centre(matrix).diagonal().fill_(gain)

    return lambda place: Each(place, paint, lambda o, i, taps: _ones_among(min(o, i), o * i * taps, gain))


def _ones_among(many: int, all_: int, gain: float) -> tuple[float, float]:
    return gain * many / all_, gain**2 * many / all_


@scheme
def sparse(connections: int = 15, *, std: float = 1.0) -> LawOf:
    """A few strong incoming weights for every unit, none for the rest.

    Each o has `connections` places among its i (all of them where there are fewer), drawn without replacement, with
    W ~ N(0, std^2) there. Units see different inputs, so they differ, and their sums do not grow with the width.

    torch.nn.init.sparse_ is another scheme: it zeroes a share of every column of [out, in], the outgoing weights of an
    input; its default std is 0.01; and it ignores its generator, because the mask comes from the global state.

    Args:
        connections: incoming weights of a unit that are not zero.
        std: of those.
    Example:
        >>> import torch
        >>> W = sparse(3).draw((5, 10), generator=torch.Generator())
        >>> (W != 0).sum(1).tolist()
        [3, 3, 3, 3, 3]

    Source: Martens 2010, Deep learning via Hessian-free optimization, section 5; Sutskever et al. 2013.
    """
    connections, std = whole("connections", connections), number("std", std, least=0.0)

    def paint(matrix: Tensor, generator: torch.Generator) -> None:
        import torch

        flat = torch.zeros(matrix.shape[0], matrix[0].numel(), device=matrix.device)
        kept = min(connections, flat.shape[1])
        places = torch.rand(flat.shape, generator=generator, device=flat.device).topk(kept, dim=1).indices
        strong = torch.empty(places.shape, device=flat.device).normal_(0.0, std, generator=generator)
        matrix.copy_(flat.scatter_(1, places, strong).reshape(matrix.shape))

    return lambda place: Each(
        place, paint, lambda o, i, taps: (0.0, std**2 * min(connections, i * taps) / (i * taps))  # noqa: ARG005
    )  # fmt: skip


def hadamard(power: int) -> Tensor:
    """Sylvester's Hadamard matrix of size 2^power: H[a, b] = (-1)^(number of common binary ones), not normalised.

    Example:
        >>> hadamard(1).tolist()
        [[1.0, 1.0], [1.0, -1.0]]

    Source: Sylvester 1867.
    """
    import torch

    matrix = torch.ones(1, 1)
    for _ in range(power):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


@scheme
def zero_hadamard() -> LawOf:
    """ZerO: only zeros and ones (up to one common factor), nothing drawn at random.

    o <= i: the identity, padded. o > i: the first i columns and o rows of a Hadamard matrix H_p / sqrt(p), with p the
    next power of two from o. A convolution has it in its centre tap, k // 2. The last weight of a residual branch and
    the last layer are zero, where the place says so.

    Made for residual nets with relu'(0) = 1 (a custom one: torch has 0). Rows repeat with the next power of two from i:
    784 -> 2048 has 1024 different ones, and the rest stay copies for ever where nothing else tells them apart.

    Example:
        >>> import torch
        >>> zero_hadamard().draw((4, 2), generator=torch.Generator()).tolist()
        [[0.5, 0.5], [0.5, -0.5], [0.5, 0.5], [0.5, -0.5]]

    Source: Zhao, Schaefer and Anandkumar 2022, arXiv:2110.12661, algorithms 1 and 2; jiaweizzhao/ZerO-initialization.
    """

    def paint(matrix: Tensor, generator: torch.Generator) -> None:  # noqa: ARG001 (one signature for all painters)
        o, i = matrix.shape[:2]
        centre = _centre(matrix.zero_())
        if o <= i:
            centre.diagonal().fill_(1.0)
        else:
            power = math.ceil(math.log2(o))
            centre.copy_(hadamard(power)[:o, :i] / math.sqrt(2**power))

    def sizes(o: int, i: int, taps: int) -> tuple[float, float]:
        if o <= i:
            return _ones_among(o, o * i * taps, 1.0)
        power = math.ceil(math.log2(o))
        mean = float(hadamard(power)[:o, :i].mean()) / math.sqrt(2**power)
        return mean / taps, 2.0**-power / taps

    def law(place: Place) -> Law:
        if place.is_bias or place.branch_end or place.position == "last":
            return Constant(0.0)
        return Each(place, paint, sizes)

    return law


@scheme
def idinit(*, gain: float = 1.0, noise: float = 1e-6, kernel: Literal["patch", "channel"] = "patch") -> LawOf:
    """Identity repeated until it fills the matrix, with a trace of noise that tells the repetitions apart.

    W[o, i] = gain where o = i modulo min(n_out, n_in), else 0, plus N(0, noise^2). A convolution is read as a matrix
    [o, i k] first (the paper's "patch-maintain"), so that its channels see different taps; kernel="channel" puts the
    identity into the centre tap and keeps the image ("channel-maintain"). A branch's last weight is `noise` on that
    pattern, where the place says so.

    Without the noise repeated rows are one unit for ever (12 of 16 in 4-16-16-3); with 1e-6 they are nearly tied, and
    take hundreds of steps to part.

    Held against the paper's abstract, its figure of the two kinds (1 and 1e-6), its published reviews and a summary of
    it, which agree on the padded identity, the reshape to [o, i k] and the smaller last weight of a branch. Not held
    against code: none of the authors' was found in public indexes. Ours therefore: the order of the taps (torch's own:
    W[o, i, k] is on the pattern where i K + k = o modulo min(n_out, n_in K), with K taps), noise on every entry (the
    reviews speak of the diagonal), and its law.

    Args:
        gain: the number on the pattern.
        noise: standard deviation of what is added everywhere.
        kernel: how a convolution is filled.
    Example:
        >>> import torch
        >>> idinit(noise=0.0).draw((4, 2), generator=torch.Generator()).tolist()
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
        >>> idinit(noise=0.0).draw((2, 1, 3), generator=torch.Generator()).tolist()
        [[[1.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]]

    Source: Pan et al. 2025, arXiv:2503.04626.
    """
    gain, noise = number("gain", gain), number("noise", noise, least=0.0)
    reading = choice("kernel", kernel, ("patch", "channel"))

    def law(place: Place) -> Law:
        if place.is_bias:
            return Constant(0.0)
        level = noise if place.branch_end else gain

        def paint(matrix: Tensor, generator: torch.Generator) -> None:
            import torch

            drawn = torch.empty(matrix.shape, device=matrix.device).normal_(0.0, 1.0, generator=generator)
            whole = noise * drawn
            on = whole.flatten(1) if reading == "patch" else _centre(whole)
            on.add_(level * repeated_eye(*on.shape).to(on))
            matrix.copy_(whole)

        def sizes(o: int, i: int, taps: int) -> tuple[float, float]:
            columns = i * taps if reading == "patch" else i
            share = max(o, columns) / (o * i * taps)
            return level * share, level**2 * share + noise**2

        return Each(place, paint, sizes)

    return law


def repeated_eye(rows: int, columns: int) -> Tensor:
    """1 where row = column modulo the smaller side, else 0: boolean.

    Example:
        >>> repeated_eye(2, 3).int().tolist()
        [[1, 0, 1], [0, 1, 0]]

    Source: Pan et al. 2025, arXiv:2503.04626.
    """
    import torch

    return (torch.arange(rows)[:, None] - torch.arange(columns)) % min(rows, columns) == 0
