"""Moments through the graph: the variance every weight needs so that its layer's output has the one that is wanted.

Of every value three numbers travel: its mean m, its variance v, and c, the part of v that all positions of one sample
share (pooling averages the rest away, and attention, too). A weight W ~ N(0, s^2) with n_in terms x gives an output of
mean 0, variance n_in s^2 E[x^2] and shared part n_in s^2 (m^2 + c): so s^2 = 1 / (n_in E[x^2]). Along elementwise runs
the image of a grid is kept, and moments are sums over it; for c it is integrated twice, over what positions share and
over the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from symbreak.schemes import Place

from .flow import GRID, MASS, Call, Flow
from .tensors import numbers

_COARSE = slice(0, None, 8)  # enough of the grid for the double integral
_MANY = 1024  # logits, from which the limit of a softmax's concentration is good to a few in a hundred
_NODES, _WEIGHTS = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(21))
_WEIGHTS = _WEIGHTS / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Moments:
    """Mean, variance, and the part of the variance that positions share."""

    mean: float
    variance: float
    shared: float = 0.0

    @property
    def second(self) -> float:
        """E[x^2]."""
        return self.mean**2 + self.variance


@dataclass(frozen=True)
class Sized:
    """What a weight needs.

    Attributes:
        std: of its entries.
        gain: std times the root of fan_in.
        second: E[x^2] of what goes in.
    """

    std: float
    gain: float
    second: float


@dataclass(frozen=True)
class Propagated:
    """The sizes of the weights that were asked for, the moments of every value, and what had to be assumed."""

    sizes: Mapping[str, Sized]
    moments: Mapping[int, Moments]
    assumed: tuple[str, ...]


def propagate(
    flow: Flow,
    places: Mapping[str, Place],
    values: Mapping[str, Tensor],
    drawn: Collection[str],
    *,
    variance: float = 1.0,
) -> Propagated:
    """Follow the moments from the input to the outputs.

    Args:
        places: of every weight.
        values: of every parameter; those not in `drawn` count as they are.
        drawn: the weights whose size is looked for.
        variance: wanted of every layer's output.
    """
    return _Propagation(flow, places, values, frozenset(drawn), variance).run()


class _Propagation:
    def __init__(
        self,
        flow: Flow,
        places: Mapping[str, Place],
        values: Mapping[str, Tensor],
        drawn: frozenset[str],
        variance: float,
    ) -> None:
        self.flow, self.places, self.values, self.drawn, self.variance = flow, places, values, drawn, variance
        self.sizes: dict[str, Sized] = {}
        self.at: dict[int, Moments] = {}
        self.assumed: dict[str, None] = {}

    def run(self) -> Propagated:
        for call in self.flow.calls:
            found = self._of(call)
            finite = all(math.isfinite(x) for x in (found.mean, found.variance, found.shared))
            found = found if finite else Moments(0.0, 1.0)
            shared = min(max(found.shared, 0.0), max(found.variance, 0.0))
            self.at[call.index] = Moments(found.mean, max(found.variance, 0.0), shared)
        return Propagated(self.sizes, self.at, tuple(self.assumed))

    def _of(self, call: Call) -> Moments:
        if call.kind == "input":
            return self._input(call)
        ins = [self.at[c.index] for c in dict.fromkeys(call.inputs)]
        if not ins and call.kind not in ("apply", "lookup"):
            return self._of_parameters(call.params)
        rule: Callable[[Call, list[Moments]], Moments] = getattr(self, f"_{call.kind}")
        return rule(call, ins)

    # ---- sources -------------------------------------------------------------------------------------------------

    def _input(self, call: Call) -> Moments:
        if call.moments is None:
            return self._of_parameters(call.params)
        mean, variance, channels_first, channels_last = call.moments
        image = len(call.shape) > 3 or any(reader.name.startswith("conv") for reader in call.readers)
        return Moments(mean, variance, channels_first if image else channels_last)

    def _of_parameters(self, names: Collection[str]) -> Moments:
        tensors = [self.values[n] for n in names if n in self.values]
        if not tensors:
            return Moments(0.0, 1.0)
        mean = sum(_mean(numbers(t).real, t.numel()) for t in tensors) / len(tensors)
        square = sum(_mean(numbers(t).abs().square(), t.numel()) for t in tensors) / len(tensors)
        return Moments(mean, max(square - mean**2, 0.0))

    # ---- layers --------------------------------------------------------------------------------------------------

    def _apply(self, call: Call, ins: list[Moments]) -> Moments:
        assert call.weight is not None
        x = ins[0] if ins else self._of_parameters([n for n in call.params if n not in (call.weight, call.bias)])
        return self._weighted(call.weight, x, call.share, call.bias)

    def _weighted(self, weight: str, x: Moments, share: float, bias: str | None) -> Moments:
        place = self.places.get(weight)
        fans = place.known_fans if place is not None and len(place.shape) >= 2 + place.layout.stack else None
        terms = (fans.fan_in if fans is not None else 1) * share
        if weight in self.drawn and weight not in self.sizes and terms > 0:
            std = math.sqrt(self.variance / (terms * x.second)) if x.second > 0 else 1 / math.sqrt(terms)
            self.sizes[weight] = Sized(std, std * math.sqrt(fans.fan_in if fans is not None else 1), x.second)
        size = self.sizes[weight].std ** 2 if weight in self.sizes else self._square(weight)
        out = terms * size * x.second
        shared = terms * size * (x.mean**2 + x.shared)
        shift = self._of_parameters([bias]) if bias is not None and bias not in self.drawn else Moments(0.0, 0.0)
        return Moments(shift.mean, out + shift.variance, shared + shift.variance)

    def _square(self, name: str) -> float:
        value = self.values.get(name)  # None of a buffer that is used as a weight
        return _mean(numbers(value).abs().square(), value.numel()) if value is not None else 1.0

    def _lookup(self, call: Call, ins: list[Moments]) -> Moments:
        del ins
        return self._of_parameters([call.weight] if call.weight is not None else [])

    def _recurrent(self, call: Call, ins: list[Moments]) -> Moments:
        del ins
        self.assumed[f"{call.name} puts out mean 0 and variance 0.1"] = None
        return Moments(0.0, 0.1)

    def _attention(self, call: Call, ins: list[Moments]) -> Moments:
        if call.name != "multi_head_attention_forward":
            value = self.at[call.inputs[-1].index] if len(call.inputs) < 3 else self.at[call.inputs[2].index]
            keys = call.inputs[min(1, len(call.inputs) - 1)].shape[-2]
            return _averaged(value, keys)
        x = ins[-1]
        inner = [n for n in call.params if n.endswith("_proj_weight")]
        outer = [n for n in call.params if n.endswith("out_proj.weight")]
        value = x
        for name in inner:
            value = self._weighted(name, x, 1.0, None)
        value = _averaged(value, call.inputs[0].shape[0] if call.inputs[0].shape else 1)
        return self._weighted(outer[0], value, 1.0, None) if outer else value

    # ---- one value -----------------------------------------------------------------------------------------------

    def _view(self, call: Call, ins: list[Moments]) -> Moments:
        del call
        return ins[0]

    def _phi(self, call: Call, ins: list[Moments]) -> Moments:
        root = call.root
        if root is None or root is call or call.fresh is None:
            self.assumed[f"{call.name} keeps mean and variance"] = None
            return ins[0]
        base = self.at[root.index]
        spread = math.sqrt(base.variance)
        return self._moments(lambda z: self._through(call, root, z), base.mean, spread, base.shared)

    def _moments(self, f: Callable[[Tensor], Tensor], mean: float, spread: float, shared: float) -> Moments:
        image = f(mean + spread * GRID)
        m, second = float((image * MASS).sum()), float((image**2 * MASS).sum())
        if spread == 0 or shared <= 0:
            return Moments(m, second - m**2)
        own = math.sqrt(max(spread**2 - shared, 0.0))
        inner = torch.stack(
            [(f(mean + math.sqrt(shared) * float(u) + own * GRID[_COARSE]) * MASS[_COARSE] * 8).sum() for u in _NODES]
        )
        return Moments(m, second - m**2, float((inner**2 * _WEIGHTS).sum()) - m**2)

    def _through(self, call: Call, root: Call, z: Tensor) -> Tensor:
        """The image of z, put in at the root, at a call of its run."""
        if call is root:
            return z
        sides = [self._through(c, root, z) for c in dict.fromkeys(call.inputs)]
        return call.fresh(*sides).double() if call.fresh is not None else sides[0]

    def _shift(self, call: Call, ins: list[Moments]) -> Moments:
        by = self._beside(call)
        sign = -1.0 if "sub" in call.name else 1.0
        return Moments(ins[0].mean + sign * by.mean, ins[0].variance + by.variance, ins[0].shared + by.variance)

    def _scale(self, call: Call, ins: list[Moments]) -> Moments:
        by, x = self._beside(call, inverse="div" in call.name), ins[0]
        second = by.second * x.second
        mean = by.mean * x.mean
        shared = by.second * (x.shared + x.mean**2) - mean**2
        return Moments(mean, second - mean**2, shared)

    def _beside(self, call: Call, *, inverse: bool = False) -> Moments:
        if call.constant is not None:
            c = 1 / call.constant.clamp_min(1e-12) if inverse else call.constant
            return Moments(float(c.mean()), float(c.var(unbiased=False)) if c.numel() > 1 else 0.0)
        return self._of_parameters(call.params)

    def _norm(self, call: Call, ins: list[Moments]) -> Moments:
        x = ins[0]
        gains = [n for n in call.params if "bias" not in n]
        shifts = [n for n in call.params if "bias" in n]
        gain = self._of_parameters(gains) if gains else Moments(1.0, 0.0)
        shift = self._of_parameters(shifts) if shifts else Moments(0.0, 0.0)
        plain = call.name in ("rms_norm", "normalize") or "norm" not in call.name
        if plain:
            size = max(x.second, 1e-30)
            mean, variance, shared = x.mean / math.sqrt(size), x.variance / size, x.shared / size
        else:
            mean, variance, shared = 0.0, 1.0, x.shared / x.variance if x.variance > 0 else 0.0
        second = gain.second * (mean**2 + variance)
        mean_out = gain.mean * mean
        return Moments(
            mean_out + shift.mean, second - mean_out**2 + shift.variance, gain.second * shared + shift.variance
        )

    def _softmax(self, call: Call, ins: list[Moments]) -> Moments:
        n = max(1, call.shape[-1] if call.shape else 1)
        mean = 1 / n
        return Moments(mean, max(0.0, concentration(round(ins[0].variance, 3), n) / n - mean**2))

    def _other(self, call: Call, ins: list[Moments]) -> Moments:
        self.assumed[f"{call.name} keeps mean and variance"] = None
        return ins[0]

    # ---- windows -------------------------------------------------------------------------------------------------

    def _mean(self, call: Call, ins: list[Moments]) -> Moments:
        x, k = ins[0], max(1.0, call.share)
        kept = x.shared + (x.variance - x.shared) / k
        return Moments(x.mean, kept, x.shared)

    def _sum(self, call: Call, ins: list[Moments]) -> Moments:
        k, one = max(1.0, call.share), self._mean(call, ins)
        return Moments(k * one.mean, k**2 * one.variance, k**2 * one.shared)

    def _max(self, call: Call, ins: list[Moments]) -> Moments:
        """The largest of k: the distribution function to the power k, given what positions share."""
        del ins
        k, source = max(1.0, call.share), call.inputs[0]
        root = source.root or source
        base = self.at[root.index]
        own = math.sqrt(max(base.variance - base.shared, 0.0))
        firsts, seconds = [], []
        for u in _NODES:
            z = base.mean + math.sqrt(base.shared) * float(u) + own * GRID
            image, order = self._through(source, root, z).sort()
            below = torch.cumsum(MASS[order], 0).clamp(0, 1) ** k
            mass = torch.diff(below, prepend=torch.zeros(1, dtype=below.dtype))
            mass = mass / mass.sum()
            firsts.append((image * mass).sum())
            seconds.append((image**2 * mass).sum())
        first, second = torch.stack(firsts), torch.stack(seconds)
        mean = float((first * _WEIGHTS).sum())
        return Moments(mean, float((second * _WEIGHTS).sum()) - mean**2, float((first**2 * _WEIGHTS).sum()) - mean**2)

    # ---- several values ------------------------------------------------------------------------------------------

    def _add(self, call: Call, ins: list[Moments]) -> Moments:
        sign = -1.0 if "sub" in call.name and len(ins) > 1 else 1.0
        first, rest = ins[0], ins[1:]
        return Moments(
            first.mean + sign * sum(m.mean for m in rest),
            sum(m.variance for m in ins),
            sum(m.shared for m in ins),
        )

    def _gate(self, call: Call, ins: list[Moments]) -> Moments:
        if "div" in call.name:
            self.assumed[f"{call.name} of two values keeps the first's mean and variance"] = None
            return ins[0]
        mean, second, shared = 1.0, 1.0, 1.0
        for m in ins:
            mean, second, shared = mean * m.mean, second * m.second, shared * (m.mean**2 + m.shared)
        return Moments(mean, second - mean**2, shared - mean**2)

    def _concat(self, call: Call, ins: list[Moments]) -> Moments:
        sizes = [math.prod(c.shape) for c in dict.fromkeys(call.inputs)]
        total = sum(sizes) or 1
        mean = sum(n * m.mean for n, m in zip(sizes, ins, strict=True)) / total
        second = sum(n * m.second for n, m in zip(sizes, ins, strict=True)) / total
        shared = sum(n * (m.shared + m.mean**2) for n, m in zip(sizes, ins, strict=True)) / total
        return Moments(mean, second - mean**2, shared - mean**2)

    def _product(self, call: Call, ins: list[Moments]) -> Moments:
        """Scores: a sum over the width. Attention written out: an average of values by shares."""
        del ins
        a, b = (call.inputs[0], call.inputs[1]) if len(call.inputs) > 1 else (call.inputs[0], call.inputs[0])
        for shares, other in ((a, b), (b, a)):
            if shares.is_softmax:
                return _averaged(self.at[other.index], max(1, shares.shape[-1]))
        width = a.shape[-1] if a.shape else 1
        x, y = self.at[a.index], self.at[b.index]
        mean = width * x.mean * y.mean
        return Moments(mean, width * (x.second * y.second - (x.mean * y.mean) ** 2))


@lru_cache(maxsize=256)
def concentration(variance: float, n: int) -> float:
    """The mean sum of squared shares of a softmax over n normal logits: between 1/n and 1.

    e^v / n for many of them, the mean over two thousand fixed draws for few.

    Example:
        >>> concentration(0.0, 4)
        0.25
        >>> 0.1 < concentration(1.0, 16) < math.e / 16
        True
    """
    if n > _MANY:
        return min(1.0, math.exp(min(variance, 20.0)) / n)
    logits = math.sqrt(variance) * torch.randn(2000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return float(logits.softmax(-1).square().sum(-1).mean())


def _averaged(value: Moments, n: int, logits: float = 1.0) -> Moments:
    """An average by the shares of a softmax over n logits of this variance."""
    kept = concentration(round(logits, 3), max(1, n))
    return Moments(value.mean, value.shared + (value.variance - value.shared) * kept, value.shared)


def _mean(entries: Tensor, many: int) -> float:
    """Over as many entries, of which a sparse tensor has only those that are not 0."""
    return float(entries.sum(dtype=torch.float64)) / max(many, 1)
