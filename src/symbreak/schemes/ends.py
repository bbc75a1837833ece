"""Schemes of the two ends and of adapters: embeddings, the output bias, LoRA's factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from symbreak.errors import SchemeError
from symbreak.schemes.checks import choice, number
from symbreak.schemes.laws import Companions, Constant, Law, Moments, Normal, within
from symbreak.schemes.place import Place
from symbreak.schemes.scheme import LawOf, scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def _width(place: Place) -> int:
    """Entries of one row of a table [row, d]."""
    if len(place.shape) < 2:
        raise SchemeError(f"it starts a table [row, d]; this tensor has shape {place.shape}.")
    return place.shape[-1]


@scheme
def embedding_normal(*, scaled: bool = True) -> LawOf:
    """A table whose rows have length about 1, which suits a head tied to it.

    W[row, d] ~ N(0, 1/d), and looked-up rows times sqrt(d) where scaled (see `companions`), so that the stream has
    entries of size 1 while the tied head's logits do. torch's own nn.Embedding is normal(1.0): tied to a head, its
    first logits have standard deviation sqrt(d). GPT-2 takes normal(0.02) and word2vec `word2vec`.

    Args:
        scaled: whether the forward pass multiplies by sqrt(d), as the first transformer does.
    Example:
        >>> embedding_normal().moments(place=Place(shape=(1000, 64), role="embedding")).std
        0.125

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.4 (the factor); fairseq and tensor2tensor (the law).
    """
    if not isinstance(scaled, bool):
        raise SchemeError(f"scaled={scaled!r}: expected True or False.")

    def law(place: Place) -> Law:
        d = _width(place)
        return Normal(1 / math.sqrt(d), companions=Companions(multiplier=math.sqrt(d) if scaled else 1.0))

    return law


@scheme
def word2vec() -> LawOf:
    """The table of word2vec's input vectors; its output vectors start at zero.

    W[row, d] ~ U(-1/(2d), 1/(2d)). Tiny, but the outputs are zero, so the first step is what sizes them.

    Example:
        >>> import torch
        >>> bool(word2vec().draw((10, 50), generator=torch.Generator()).abs().max() <= 0.01)
        True

    Source: Mikolov et al. 2013, word2vec.c, InitNet.
    """
    return lambda place: within(0.5 / _width(place))


@dataclass(frozen=True)
class _Levels(Law):
    """Given numbers, entry by entry."""

    levels: tuple[float, ...]

    def moments(self) -> Moments:
        mean = sum(self.levels) / len(self.levels)
        return Moments(mean, math.sqrt(sum((level - mean) ** 2 for level in self.levels) / len(self.levels)))

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:  # noqa: ARG002 (one signature for all laws)
        if len(self.levels) == 1:
            return weight.fill_(self.levels[0])
        if weight.numel() != len(self.levels):
            raise SchemeError(f"{len(self.levels)} numbers were given for a bias of shape {tuple(weight.shape)}.")
        return weight.copy_(weight.new_tensor(self.levels).reshape(weight.shape))


@scheme
def prior_bias(prior: float | Sequence[float]) -> LawOf:
    """The output bias of a classifier that knows how often each class comes, and nothing else yet.

    Softmax with class shares p (or counts): b[k] = log p[k]. Sigmoid with probability p: b = log(p / (1 - p)), the same
    in every output; RetinaNet takes 0.01. With a zero last layer the first loss is then the entropy of the labels, and
    with any other it is close. A regression's is constant(mean of the targets).

    Args:
        prior: one probability in (0, 1), or a share or count for each class, all above 0.
    Example:
        >>> round(prior_bias(0.01).moments().mean, 3)
        -4.595
        >>> import torch
        >>> [round(p, 3) for p in prior_bias((30, 10)).draw((2,), generator=torch.Generator()).softmax(0).tolist()]
        [0.75, 0.25]

    Source: Lin et al. 2017 (focal loss), arXiv:1708.02002, section 3.3; Bishop 1995, section 6.
    """
    if isinstance(prior, int | float):
        share = number("prior", prior)
        if not 0 < share < 1:
            raise SchemeError(f"prior={prior!r}: one number is a probability, between 0 and 1.")
        levels: tuple[float, ...] = (math.log(share / (1 - share)),)
    else:
        counts = tuple(number("prior", count, above=0.0) for count in prior)
        if len(counts) < 2:
            raise SchemeError(f"prior={prior!r}: expected a probability, or a share for each of two classes or more.")
        levels = tuple(math.log(count / sum(counts)) for count in counts)

    def law(place: Place) -> Law:
        if place.role not in ("bias", "weight") or len(place.shape) > 1:
            raise SchemeError(
                f"it starts the bias of the output; this tensor is a {place.role} of shape {place.shape}."
            )
        return _Levels(levels)

    return law


@scheme
def lora(*, first: Literal["uniform", "normal"] = "uniform", zero: Literal["out", "in"] = "out") -> LawOf:
    """The two factors of an adapter, W + scale B A: A drawn, B zero, so that the function does not change.

    A[r, i] (role adapter_in) ~ U(-1/sqrt(n_in), 1/sqrt(n_in)), torch's default, or N(0, 1/r^2), peft's
    "gaussian"; B[o, r] (role adapter_out) = 0. B learns from the first step, A from the second. With both at zero
    neither ever learns.

    peft gives an embedding's adapter the roles swapped (A zero, B drawn): zero="in". The scale is alpha / r, or
    alpha / sqrt(r) for rank-stabilised LoRA, and belongs to the forward pass. PiSSA and OLoRA factor the weight itself:
    `pissa`, `olora`.

    Args:
        first: distribution of the factor that is drawn.
        zero: which factor is zero.
    Example:
        >>> lora().moments(place=Place(role="adapter_out", shape=(64, 8))).std
        0.0

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; huggingface/peft, reset_lora_parameters.
    """
    kind, empty = choice("first", first, ("uniform", "normal")), choice("zero", zero, ("out", "in"))

    def law(place: Place) -> Law:
        if place.role not in ("adapter_in", "adapter_out"):
            raise SchemeError(f"it starts the factors of an adapter; this tensor is a {place.role}.")
        if place.role == f"adapter_{empty}":
            return Constant(0.0)
        if kind == "uniform":
            return within(1 / math.sqrt(place.fan_in))
        rank = place.fan_out if place.role == "adapter_in" else place.fan_in
        return Normal(1 / rank)

    return law
