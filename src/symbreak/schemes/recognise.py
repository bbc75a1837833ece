"""Which scheme a tensor's values look like: exact patterns, then the likeliest law, then the formula of that size.

Nothing is drawn at random; a large tensor is thinned by a fixed stride. A name is given only where the values speak for
it: a law must beat its rival by 20 to 1 and must not fail a Kolmogorov-Smirnov test, and a formula must lie within four
standard errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from symbreak.schemes.ends import embedding_normal, word2vec
from symbreak.schemes.fans import Fans, Layout, fans_of_shape
from symbreak.schemes.patterns import sparse
from symbreak.schemes.place import Place
from symbreak.schemes.plain import normal, truncated_normal, uniform
from symbreak.schemes.recurrent import rnn_default
from symbreak.schemes.scaled import (
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    siren,
    torch_default,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
)
from symbreak.schemes.scheme import Scheme
from symbreak.schemes.signatures import signature

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 16  # below this not even uniform and normal differ by 20 to 1
THINNED_TO = 50_000  # values; more would only make float rounding look like a different law
ODDS = math.log(20)
KS_LIMIT = 1.95  # sqrt(n) D: a true law fails once in a thousand
STANDARD_ERRORS = 4
TRUNCATED_STD = 0.8796256610342398  # of a standard normal cut at -2 and 2
TRUNCATED_MASS = 0.9544997361036416
UNIFORM = (
    torch_default(),
    kaiming_uniform(),
    xavier_uniform(),
    lecun_uniform(),
    kaiming_uniform(mode="fan_out"),
    siren(),
)
NORMAL = (kaiming_normal(), xavier_normal(), lecun_normal(), kaiming_normal(mode="fan_out"))
OTHER_GAINS = (kaiming_normal(gain=5 / 3), xavier_normal(gain=5 / 3))  # what torch calculates for tanh
TABLES = (embedding_normal(), word2vec())
_SCALING = {
    kaiming_normal(): variance_scaling(2.0),
    kaiming_normal(mode="fan_out"): variance_scaling(2.0, mode="fan_out"),
    lecun_normal(): variance_scaling(),
    xavier_normal(): variance_scaling(mode="fan_avg"),
}
OF_BIASES = (torch_default(), normal(0.01), normal(0.02), normal(0.05), normal(0.1))
FAMILIAR = (normal(0.01), normal(0.02), normal(0.05), normal(0.1))
SHARP = 0.03  # relative error of a std below which a familiar number is worth naming beside a formula


@dataclass(frozen=True)
class Recognition:
    """What a tensor looks like: the sentence, and the scheme where it is one of the catalogue.

    Args:
        text: the sentence.
        scheme: of the catalogue, where there is one.
        odds: natural logarithm of how many times likelier the law is than its best rival; None for an exact pattern,
            and where no law was found.
    Example:
        >>> from symbreak.schemes import zeros
        >>> str(Recognition("zeros", zeros()))
        'zeros'

    Source: `recognise`.
    """

    text: str
    scheme: Scheme | None = None
    odds: float | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def certainty(self) -> str:
        """How sure it is, as a person reads it: "exact", "10^12 : 1", or "" where nothing was recognised.

        Example:
            >>> Recognition("uniform(±0.1)", odds=30.0).certainty
            '10^13 : 1'

        Source: likelihood ratio of the law against its best rival.
        """
        if self.odds is None:
            return "exact" if self.scheme is not None else ""
        tens = self.odds / math.log(10)
        return f"10^{tens:.0f} : 1" if tens >= 3 else f"{math.exp(self.odds):.0f} : 1"


def recognise(weight: Tensor, fans: Fans | None = None, *, place: Place | None = None) -> Recognition:
    """Say which scheme the values of a tensor look like.

    Args:
        weight: any tensor; it is only read.
        fans: of its layer; without them formulas that scale with the fans are not tried.
        place: where it stands, which also tells fused gates and stacked experts apart.
    Example:
        >>> import torch
        >>> recognise(torch.zeros(3, 3)).text
        'zeros'
        >>> recognise(torch.tensor([0.3, -0.2])).text
        'too few values to tell (2)'

    Source: likelihood ratio and Kolmogorov-Smirnov test; standard error of a normal's std is std / sqrt(2 n).
    """
    import torch

    if weight.is_meta or weight.numel() == 0:
        return Recognition("no values")
    if weight.layout != torch.strided:
        return Recognition(f"unrecognised ({weight.layout})")
    if not weight.is_floating_point() or weight.element_size() == 1:  # quantised, and float8, which can hardly be read
        return Recognition(f"unrecognised ({weight.dtype})")
    weight = weight.detach()
    if not bool(weight.isfinite().all()):
        return Recognition("unrecognised (not finite)")
    place = (place or Place()).having(weight.shape, fans)
    return _exact(weight, place) or _drawn(weight, place)


def _exact(weight: Tensor, place: Place) -> Recognition | None:
    found = signature(weight, place)
    if found is None:
        return None
    return Recognition(repr(found), found)


def _drawn(weight: Tensor, place: Place) -> Recognition:
    blank = _blank_rows(weight)
    values = weight.flatten(1)[~blank].flatten() if blank is not None else weight.flatten()
    n_values = values.numel()
    if n_values < FEWEST:
        return Recognition(f"too few values to tell ({weight.numel()})")
    thin = values[:: -(-n_values // THINNED_TO)].double().cpu().sort().values
    zero_share = float((thin == 0).double().mean())
    if zero_share > 0.05:
        return _sparse(weight) or Recognition(f"unrecognised ({zero_share:.0%} zeros)")
    found = _law(thin, place, rounding=_rounding(weight))
    n_blank = int(blank.sum()) if blank is not None else 0
    rows = "row" if n_blank == 1 else "rows"
    return replace(found, text=f"{found.text}, {n_blank} {rows} zero") if n_blank else found


def _sparse(weight: Tensor) -> Recognition | None:
    """Martens' start: the same few strong weights in every row, the rest zero."""
    if weight.dim() < 2:
        return None
    rows = weight.flatten(1)
    kept = (rows != 0).sum(1)
    many = int(kept[0])
    if many == 0 or not bool((kept == many).all()) or rows.count_nonzero() < FEWEST:
        return None
    strong = _law(rows[rows != 0][:THINNED_TO].double().cpu().sort().values, Place(), rounding=_rounding(weight))
    size = dict(strong.scheme.arguments).get("std", 1.0) if strong.scheme and strong.scheme.name == "normal" else None
    if size is None:
        return None
    found = sparse(many, std=size)
    return Recognition(repr(found), found, strong.odds)


def _blank_rows(weight: Tensor) -> Tensor | None:
    """Rows that are zero in a tensor where most are not: the padding row of an embedding."""
    if weight.ndim < 2:
        return None
    blank = (weight == 0).flatten(1).all(dim=1)
    return blank if 0 < 2 * int(blank.sum()) < len(blank) else None


def _rounding(weight: Tensor) -> float:
    import torch

    return torch.finfo(weight.dtype).eps


def _law(values: Tensor, place: Place, *, rounding: float) -> Recognition:
    """values: sorted, float64."""
    n, mean, std, bound = len(values), float(values.mean()), float(values.std()), float(values.abs().max())
    if std <= 8 * rounding * bound:
        return Recognition(f"constant({mean:.4g}) but for rounding")
    if abs(mean) > STANDARD_ERRORS * std / math.sqrt(n):
        return _off_centre(values, mean, std)
    rms = math.sqrt(float((values**2).mean()))
    likelihood = {  # a value, in nats
        "uniform": -math.log(2 * bound) - math.log(n) / (2 * n),  # the largest value flatters its own bound
        "normal": -math.log(rms * math.sqrt(2 * math.pi)) - 0.5,
        "truncated": _truncated_likelihood(rms, bound),
    }
    plain = max("uniform", "normal", key=likelihood.__getitem__)
    rival = min("uniform", "normal", key=likelihood.__getitem__)
    best = "truncated" if n * (likelihood["truncated"] - likelihood[plain]) > ODDS else plain
    if n * (likelihood[best] - likelihood[rival]) < ODDS:
        return Recognition(f"too few values to tell ({n})")
    scale = {"uniform": bound, "normal": rms, "truncated": rms / TRUNCATED_STD}[best]
    if _distance(values, best, scale) * math.sqrt(n) > KS_LIMIT + math.sqrt(n) * rounding:
        return Recognition(f"unrecognised (mean {mean:.2g}, std {std:.3g})")
    odds = n * (likelihood[best] - max(likelihood[law] for law in likelihood if law != best))
    slack = STANDARD_ERRORS / math.sqrt(2 * n) + rounding
    if best == "uniform":
        found = _uniform(bound, place, slack=10 / n + 2 * rounding)
    else:
        found = _truncated(scale, place, slack) if best == "truncated" else _normal(scale, place, slack)
    return replace(found, odds=odds)


def _off_centre(values: Tensor, mean: float, std: float) -> Recognition:
    n, low, high = len(values), float(values[0]), float(values[-1])
    odds = n * (math.log(std * math.sqrt(2 * math.pi)) + 0.5 - math.log(high - low))  # of uniform against normal
    flat = _distance(values - (low + high) / 2, "uniform", (high - low) / 2)
    bell = _distance(values - mean, "normal", std)
    if odds > ODDS and flat * math.sqrt(n) < KS_LIMIT:
        slack = 10 * (high - low) / n
        found = uniform(_decimal(low, slack), _decimal(high, slack))
    elif -odds > ODDS and bell * math.sqrt(n) < KS_LIMIT:
        slack = STANDARD_ERRORS * std / math.sqrt(n)
        found = normal(_round(std, slack / std), mean=_decimal(mean, slack))
    else:
        return Recognition(f"unrecognised (mean {mean:.2g}, std {std:.3g})")
    return Recognition(repr(found), found, abs(odds))


def _decimal(value: float, slack: float) -> float:
    """The shortest decimal within the slack: 0.4998 measured to 0.01 is 0.5."""
    for digits in range(12):
        if abs(round(value, digits) - value) <= slack:
            return round(value, digits) + 0.0  # no -0.0
    return value


def _truncated_likelihood(rms: float, bound: float) -> float:
    """A normal cut at two of its standard deviations; impossible where a value lies beyond the cut."""
    std = rms / TRUNCATED_STD
    if bound > 2 * std * 1.02:
        return -math.inf
    return -math.log(std * math.sqrt(2 * math.pi) * TRUNCATED_MASS) - rms**2 / (2 * std**2)


def _distance(values: Tensor, law: str, scale: float) -> float:
    """Kolmogorov-Smirnov: the largest gap between the values' distribution function and the law's. values: sorted."""
    import torch

    if law == "uniform":
        below = (values / scale + 1) / 2
    else:
        below = torch.special.ndtr(values / scale)
        if law == "truncated":
            below = ((below - (1 - TRUNCATED_MASS) / 2) / TRUNCATED_MASS).clamp(0, 1)
    steps = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    return float(torch.maximum((steps[1:] - below).max(), (below - steps[:-1]).max()))


def _uniform(bound: float, place: Place, slack: float) -> Recognition:
    named = _named(UNIFORM, bound / math.sqrt(3), place, below=slack, above=1e-4 + slack / 100)
    if named is None:
        short = _round(bound, slack)
        return Recognition(f"uniform(±{short})", uniform(-short, short))
    if named.text == "torch_default":
        return Recognition("uniform(±1/sqrt(fan_in)), torch's default", named.scheme)
    return named


def _normal(std: float, place: Place, slack: float) -> Recognition:
    sharp = slack < SHARP
    named = _named((*NORMAL, *FAMILIAR) if sharp else NORMAL, std, place, below=slack, above=slack)
    if named is None and sharp:
        named = _named(OTHER_GAINS, std, place, below=slack, above=slack)
    if named is not None:
        return named
    short = _round(std, slack)
    return Recognition(f"normal(std={short})", normal(short))


def _truncated(std: float, place: Place, slack: float) -> Recognition:
    """std is the parent's; libraries leave it so (narrower weights) or widen it to keep the formula's std."""
    for size, note in ((std * TRUNCATED_STD, ""), (std, ", not corrected for the cut")):
        named = _named(NORMAL, size, place, below=slack, above=slack)
        if named is not None:
            scheme = _SCALING.get(named.scheme) if named.scheme is not None and not note else None
            return Recognition(f"truncated {named.text}, cut at 2 std{note}", scheme)
    short = _round(std, slack)
    found = truncated_normal(short, corrected=False)
    return Recognition(f"truncated normal(std={short}), cut at 2 std", found)


def _named(schemes: tuple[Scheme, ...], std: float, place: Place, *, below: float, above: float) -> Recognition | None:
    """The schemes whose formula gives this size, the nearest first; failing that, by the fans torch would count."""
    found = _nearest(schemes, std, place, below=below, above=above)
    if found is not None or place.layout == Layout() or place.is_bias or len(place.shape) < 2:
        return found
    plain = replace(place, layout=Layout(), fans=fans_of_shape(place.shape))
    found = _nearest(schemes, std, plain, below=below, above=above)
    return None if found is None else replace(found, text=f"{found.text}, by the fans of the shape alone")


def _nearest(
    schemes: tuple[Scheme, ...], std: float, place: Place, *, below: float, above: float
) -> Recognition | None:
    if place.fans is None or min(place.fans.fan_in, place.fans.fan_out) < 1:
        if place.role != "embedding":
            return None
        schemes = TABLES
    elif len(place.shape) < 2:  # formulas of a weight mean nothing for a bias
        schemes = tuple(scheme for scheme in schemes if scheme in OF_BIASES)
    elif place.fans.fan_in == place.fans.fan_out:  # one size, so one name
        schemes = tuple(scheme for scheme in schemes if dict(scheme.arguments).get("mode") != "fan_out")
    if place.layout.parts > 1 and place.role != "query_key_value" and schemes and schemes[0] == torch_default():
        schemes = (rnn_default(), *schemes)
    ratio = {scheme: std / scheme.moments(place=place).std for scheme in schemes}
    close = [scheme for scheme in schemes if 1 - below <= ratio[scheme] <= 1 + above]
    close.sort(key=lambda scheme: round(abs(math.log(ratio[scheme])), 6))
    return Recognition(" or ".join(map(repr, close)), close[0]) if close else None


def _round(scale: float, slack: float) -> float:
    """The shortest decimal within the slack: 0.0199 measured to 1% is 0.02."""
    for digits in range(1, 4):
        short = float(f"{scale:.{digits}g}")
        if abs(short / scale - 1) <= slack:
            return short
    return float(f"{scale:.3g}")
