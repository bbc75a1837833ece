"""Attention that starts where trained attention tends to end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symbreak.errors import SchemeError
from symbreak.schemes.checks import number, whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Attention:
    """Weights of four linear layers [d, d], as nn.Linear stores them; head h has rows h d/H to (h + 1) d/H of three."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor

    @property
    def fused(self) -> Tensor:
        """Query, key and value in one [3d, d] weight, as nn.MultiheadAttention's in_proj_weight."""
        import torch

        return torch.cat([self.query, self.key, self.value])


def mimetic(
    width: int,
    heads: int,
    *,
    generator: torch.Generator,
    query_key: tuple[float, float] = (0.7, 0.7),
    value_out: tuple[float, float] = (0.4, -0.4),
) -> Attention:
    """Self-attention whose products look like those of trained vision transformers.

    In every head W_Q^T W_K is close to a1 Z + b1 I, and over all heads W_O W_V to a2 Z + b2 I with b2 negative; entries
    of Z ~ N(0, 1/d). The factors come from the singular value decomposition: a head's is cut to its d / H leading
    terms.

    Tokens then attend to tokens like themselves, and attention begins by subtracting what it mixes in. Found for
    images; for language the signs of b1 and b2 are reported the other way round.

    The paper multiplies from the right: x W_Q W_K^T x^T and x W_V W_O. As nn.Linear stores them that is query^T key
    and (out value)^T, which is what is made here; a transposed product has the same law, since Z has. 0.7 and 0.7,
    0.4 and -0.4, one Z a head for queries and keys, one in all for values, and cutting to the leading terms agree with
    two public implementations of others, queries and keys entry by entry. For values these store the factors without
    transposing them, so that their product is R L instead of L R: the same trace and eigenvalues, but no longer the
    matrix that the paper describes.

    Args:
        width: d.
        heads: H, a divisor of d.
        generator: where the randomness comes from.
        query_key: a1 and b1.
        value_out: a2 and b2.
    Example:
        >>> import torch
        >>> made = mimetic(32, 4, generator=torch.Generator())
        >>> float((made.out @ made.value).diagonal().mean()) < -0.3
        True

    Raises:
        SchemeError: the heads do not divide the width.
    Source: Trockman and Kolter 2023, arXiv:2305.09828, section 3.
    """
    import torch

    width, heads = whole("width", width), whole("heads", heads)
    if width % heads:
        raise SchemeError(f"heads={heads}: expected a divisor of width={width}.")
    size = width // heads
    queries, keys = [], []
    for _ in range(heads):
        left, right = _roots(width, query_key, generator)  # A = left @ right
        queries.append(left[:, :size].T)
        keys.append(right[:size])
    out, value = _roots(width, value_out, generator)
    made = (torch.cat(queries), torch.cat(keys), value, out)
    return Attention(*(weight.float().contiguous() for weight in made))


def _roots(width: int, sizes: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both factors of a Z + b I, leading terms first."""
    import torch

    alpha, beta = (number("scale", size) for size in sizes)
    noise = torch.empty(width, width, device=generator.device).normal_(generator=generator).double() / width**0.5
    u, s, vh = torch.linalg.svd(alpha * noise + beta * torch.eye(width, dtype=torch.float64, device=noise.device))
    return u * s.sqrt(), s.sqrt()[:, None] * vh
