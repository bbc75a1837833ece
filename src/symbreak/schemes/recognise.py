"""Which scheme a tensor's values look like: exact patterns, then the likeliest law, then the formula of that size.

Nothing is drawn at random; a large tensor is thinned by a fixed stride. A name is given only where the values speak for
it: a law must beat its rival by 20 to 1 and must not fail a Kolmogorov-Smirnov test, and a formula must lie within four
standard errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symbreak.schemes.fans import Fans
from symbreak.schemes.plain import constant, normal, zeros
from symbreak.schemes.scaled import (
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    torch_default,
    xavier_normal,
    xavier_uniform,
)
from symbreak.schemes.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 16  # below this not even uniform and normal differ by 20 to 1
THINNED_TO = 50_000  # values; more would only make float rounding look like a different law
ODDS = math.log(20)
KS_LIMIT = 1.95  # sqrt(n) D: a true law fails once in a thousand
STANDARD_ERRORS = 4
ORTHOGONAL_ROWS = 64  # 64 vectors orthogonal by chance to 1e-4 do not happen; more only costs time
TRUNCATED_STD = 0.8796256610342398  # of a standard normal cut at -2 and 2
TRUNCATED_MASS = 0.9544997361036416
UNIFORM = (torch_default(), kaiming_uniform(), xavier_uniform(), lecun_uniform(), kaiming_uniform(mode="fan_out"))
NORMAL = (kaiming_normal(), xavier_normal(), lecun_normal(), kaiming_normal(mode="fan_out"))
FAMILIAR = (normal(0.01), normal(0.02), normal(0.05), normal(0.1))
SHARP = 0.03  # relative error of a std below which a familiar number is worth naming beside a formula


@dataclass(frozen=True)
class Recognition:
    """What a tensor looks like: the sentence, and the scheme where it is one of the catalogue.

    Example:
        >>> str(Recognition("zeros", zeros()))
        'zeros'

    Source: `recognise`.
    """

    text: str
    scheme: Scheme | None = None

    def __str__(self) -> str:
        return self.text


def recognise(weight: Tensor, fans: Fans | None = None) -> Recognition:
    """Say which scheme the values of a tensor look like.

    Args:
        weight: any tensor; it is only read.
        fans: of its layer; without them formulas that scale with the fans are not tried.
    Example:
        >>> import torch
        >>> recognise(torch.zeros(3, 3)).text
        'zeros'
        >>> recognise(torch.tensor([0.3, -0.2])).text
        'too few values to tell (2)'

    Source: likelihood ratio and Kolmogorov-Smirnov test; standard error of a normal's std is std / sqrt(2 n).
    """
    if weight.is_meta or weight.numel() == 0:
        return Recognition("no values")
    if weight.is_quantized or not weight.is_floating_point():
        return Recognition(f"unrecognised ({weight.dtype})")
    weight = weight.detach()
    if not bool(weight.isfinite().all()):
        return Recognition("unrecognised (not finite)")
    return _exact(weight) or _drawn(weight, fans)


def _exact(weight: Tensor) -> Recognition | None:
    low, high = (float(edge) for edge in weight.aminmax())
    if low == high:
        return _level(low)
    if weight.ndim < 2:
        return None
    if _is_identity(weight):
        return Recognition("identity")
    gain = _orthogonal_gain(weight)
    if gain is None:
        return None
    return Recognition("orthogonal" if abs(gain - 1) < 1e-3 else f"orthogonal(gain={gain:.3g})")


def _level(level: float) -> Recognition:
    if level == 0:
        return Recognition("zeros", zeros())
    found = constant(float(f"{level:.6g}"))  # 0.1 in float32 is 0.10000000149
    return Recognition("ones" if level == 1 else repr(found), found)


def _is_identity(weight: Tensor) -> bool:
    import torch

    centre = weight
    while centre.ndim > 2:
        centre = centre.select(2, centre.shape[2] // 2)
    eye = torch.eye(*centre.shape, dtype=weight.dtype, device=weight.device)
    return torch.equal(centre, eye) and int(weight.count_nonzero()) == min(centre.shape)


def _orthogonal_gain(weight: Tensor) -> float | None:
    import torch

    rows = weight.flatten(1)
    rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
    if len(rows) < 2 or rows.numel() < FEWEST:
        return None
    rows = rows[:ORTHOGONAL_ROWS].double()
    gram = rows @ rows.T
    square = float(gram.diagonal().mean())
    tolerance = max(1e-4, 4 * torch.finfo(weight.dtype).eps) * square
    apart = float((gram - square * torch.eye(len(rows), dtype=gram.dtype, device=gram.device)).abs().max())
    return math.sqrt(square) if square > 0 and apart < tolerance else None


def _drawn(weight: Tensor, fans: Fans | None) -> Recognition:
    blank = _blank_rows(weight)
    values = weight.flatten(1)[~blank].flatten() if blank is not None else weight.flatten()
    n_values = values.numel()
    if n_values < FEWEST:
        return Recognition(f"too few values to tell ({weight.numel()})")
    thin = values[:: -(-n_values // THINNED_TO)].double().cpu().sort().values
    zero_share = float((thin == 0).double().mean())
    if zero_share > 0.05:
        return Recognition(f"unrecognised ({zero_share:.0%} zeros)")
    found = _law(thin, fans, rounding=_rounding(weight))
    n_blank = int(blank.sum()) if blank is not None else 0
    rows = "row" if n_blank == 1 else "rows"
    return Recognition(f"{found.text}, {n_blank} {rows} zero", found.scheme) if n_blank else found


def _blank_rows(weight: Tensor) -> Tensor | None:
    """Rows that are zero in a tensor where most are not: the padding row of an embedding."""
    if weight.ndim < 2:
        return None
    blank = (weight == 0).flatten(1).all(dim=1)
    return blank if 0 < 2 * int(blank.sum()) < len(blank) else None


def _rounding(weight: Tensor) -> float:
    import torch

    return torch.finfo(weight.dtype).eps


def _law(values: Tensor, fans: Fans | None, *, rounding: float) -> Recognition:
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
    if best == "uniform":
        return _uniform(bound, fans, slack=10 / n + 2 * rounding)
    slack = STANDARD_ERRORS / math.sqrt(2 * n) + rounding
    return _truncated(scale, fans, slack) if best == "truncated" else _normal(scale, fans, slack)


def _off_centre(values: Tensor, mean: float, std: float) -> Recognition:
    low, high = float(values[0]), float(values[-1])
    if _distance(values - (low + high) / 2, "uniform", (high - low) / 2) * math.sqrt(len(values)) < KS_LIMIT / 2:
        return Recognition(f"uniform({low:.2g}, {high:.2g})")
    if _distance(values - mean, "normal", std) * math.sqrt(len(values)) > KS_LIMIT:
        return Recognition(f"unrecognised (mean {mean:.2g}, std {std:.3g})")
    found = normal(float(f"{std:.3g}"), mean=float(f"{mean:.3g}"))
    return Recognition(repr(found), found)


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


def _uniform(bound: float, fans: Fans | None, slack: float) -> Recognition:
    named = _named(UNIFORM, bound / math.sqrt(3), fans, below=slack, above=1e-4 + slack / 100)
    if named is None:
        return Recognition(f"uniform(±{_round(bound, slack)})")
    if named.text == "torch_default":
        return Recognition("uniform(±1/sqrt(fan_in)), torch's default", named.scheme)
    return named


def _normal(std: float, fans: Fans | None, slack: float) -> Recognition:
    named = _named((*NORMAL, *FAMILIAR) if slack < SHARP else NORMAL, std, fans, below=slack, above=slack)
    if named is not None:
        return named
    short = _round(std, slack)
    return Recognition(f"normal(std={short})", normal(short))


def _truncated(std: float, fans: Fans | None, slack: float) -> Recognition:
    """std is the parent's; libraries leave it so (narrower weights) or widen it to keep the formula's std."""
    for size, note in ((std * TRUNCATED_STD, ""), (std, ", not corrected for the cut")):
        named = _named(NORMAL, size, fans, below=slack, above=slack)
        if named is not None:
            return Recognition(f"truncated {named.text}, cut at 2 std{note}")
    return Recognition(f"truncated normal(std={_round(std, slack)}), cut at 2 std")


def _named(
    schemes: tuple[Scheme, ...], std: float, fans: Fans | None, *, below: float, above: float
) -> Recognition | None:
    """The schemes whose formula gives this size, the nearest first."""
    if fans is None or min(fans.fan_in, fans.fan_out) < 1:
        return None
    if fans.fan_in == fans.fan_out:  # one size, so one name
        schemes = tuple(scheme for scheme in schemes if dict(scheme.arguments).get("mode") != "fan_out")
    ratio = {scheme: std / scheme.moments(fan_in=fans.fan_in, fan_out=fans.fan_out).std for scheme in schemes}
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
