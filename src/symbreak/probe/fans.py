"""Weights scaled by the wrong fan: grouped and transposed convolutions, stacked experts, fused projections (SB407).

torch.nn.init reads the fans off the shape: the second axis times the kernel is fan_in, the first is fan_out. That is
wrong where the shape holds several matrices or turns them round. A weight is suspected where its size is what a usual
formula gives with the shape's fans, and not what any of them gives with the fans that really meet in one output.
Layers of one kind are judged together, because a depthwise filter alone has too few values to tell sizes apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from symbreak.records import WrongFan
from symbreak.schemes import (
    Fans,
    Scheme,
    fans_of_shape,
    kaiming_uniform,
    lecun_uniform,
    recognise,
    torch_default,
    xavier_uniform,
)
from symbreak.schemes.recognise import FAMILIAR, NORMAL, TRUNCATED_STD

from .observe import Seen, Site
from .wakeup import rms

UNIFORM = (torch_default(), kaiming_uniform(), xavier_uniform(), lecun_uniform(), kaiming_uniform(mode="fan_out"))
ERRORS = 4  # standard errors within which a size is that of a formula
SHARP = 0.1  # of the size: what four standard errors may amount to, over all layers of a kind
ASKED = 8  # ordinary layers that are asked how the author drew them
QUESTIONS = 16  # about norms that hide the mistake; layers that were not asked about are told as information
LEAST_FACTOR = 1.5  # between the sizes by the two fans: below it the mistake does not matter (xavier on fused q, k, v)

Moves = Callable[[Mapping[str, float], Mapping[str, float]], bool]
Gain = Callable[[Mapping[str, float]], float]


@dataclass(frozen=True)
class _Suspect:
    site: Site
    kind: str
    n: int
    size: float
    family: str
    shaped: Fans
    right: tuple[Fans, ...]


def wrong_fans(
    seen: Seen, params: Mapping[str, nn.Parameter], moves: Moves, gain: Gain, heads: Callable[[str], int | None]
) -> tuple[WrongFan, ...]:
    """Every layer whose weight was scaled by a fan that is not its own.

    Args:
        seen: what the first pass showed.
        params: the weights at the start.
        moves: asked with two maps weight -> factor: do the outputs differ between the two scalings? Where they do
            not, a normalisation behind the layer hides the mistake.
        gain: asked with one map: how many times larger does it make what varies at the outputs?
        heads: weight -> the head count that its module states, None where it states none.
    """
    by_kind: dict[str, list[_Suspect]] = {}
    for site in seen.sites.values():
        suspect = _suspect(site, params, heads)
        if suspect is not None:
            by_kind.setdefault(f"{suspect.kind} {suspect.family}", []).append(suspect)
    usual = _usual(seen, params) if by_kind else frozenset()
    found = [(s, f) for some in by_kind.values() for s, f in _agreeing(some, usual)]
    if not found:
        return ()
    factors = {s.site.weight: _factor(s, f) for s, f in found}
    open_ = set(_that_move(factors, moves))
    together = gain({weight: factors[weight] for weight in open_}) if open_ else 1.0
    return tuple(_told(s, formula, hidden=s.site.weight not in open_, together=together) for s, formula in found)


def _suspect(site: Site, params: Mapping[str, nn.Parameter], heads: Callable[[str], int | None]) -> _Suspect | None:
    weight = params[site.weight].data
    special = _special(site, weight, heads)
    if special is None or not weight.is_floating_point():
        return None
    kind, right = special
    shaped = fans_of_shape(tuple(weight.shape))
    if all(f == shaped for f in right) or min(shaped.fan_in, shaped.fan_out, *(f.fan_in for f in right)) < 1:
        return None
    law = recognise(weight).text.split("(")[0]
    family = {"uniform": "uniform", "normal": "normal", "truncated normal": "truncated"}.get(law)
    return _Suspect(site, kind, weight.numel(), rms(weight), family, shaped, right) if family is not None else None


def _special(site: Site, weight: Tensor, heads: Callable[[str], int | None]) -> tuple[str, tuple[Fans, ...]] | None:
    """What makes the shape mislead, and the fans that are right; two where which axis is the input is a convention.

    Of a transposed convolution the shape's fan_in is its own fan_out, which somebody may have meant: without groups
    it is never told.
    """
    shape = tuple(weight.shape)
    if site.kind.startswith("conv_transpose"):
        return "transposed convolution", (fans_of_shape(shape, groups=site.groups, transposed=True),)
    if site.kind.startswith("conv") and site.groups > 1:
        return "grouped convolution", (fans_of_shape(shape, groups=site.groups),)
    if site.kind in ("bmm", "baddbmm", "matmul", "__matmul__") and len(shape) == 3 and shape[0] > 1:
        return "stacked matrices", (Fans(shape[1], shape[2]), Fans(shape[2], shape[1]))
    fused = site.kind == "linear" and len(shape) == 2 and shape[0] == 3 * shape[1] and heads(site.weight) is not None
    blocks = site.gates if site.gates > 1 else 3 if fused else 1
    if len(shape) == 2 and blocks > 1 and shape[0] % blocks == 0:
        return "fused matrices", (Fans(shape[1], shape[0] // blocks),)
    return None


def _usual(seen: Seen, params: Mapping[str, nn.Parameter]) -> frozenset[Scheme]:
    """What the ordinary layers of this model were drawn by: of two formulas that fit, the author used that one."""
    plain = [s for s in seen.sites.values() if s.kind in ("linear", "conv1d", "conv2d", "conv3d") and s.groups == 1]
    weights = [params[s.weight].data for s in plain[:ASKED]]
    known = [recognise(w, fans_of_shape(tuple(w.shape))).scheme for w in weights if w.dim() >= 2 and not w.is_complex()]
    return frozenset(scheme for scheme in known if scheme is not None)


def _agreeing(suspects: Sequence[_Suspect], usual: frozenset[Scheme]) -> Iterator[tuple[_Suspect, Scheme]]:
    """The suspects of one kind that one formula with the shape's fans explains, and none with the right fans does."""
    formulas: tuple[Scheme, ...] = UNIFORM if suspects[0].family == "uniform" else NORMAL
    if suspects[0].kind == "transposed convolution":
        formulas = tuple(f for f in formulas if f.name != "torch_default")  # torch's own, where nobody chose
    members = {f: [s for s in suspects if _fits([s], f) and not _is_right([s], formulas)] for f in formulas}
    most = max(sum(s.n for s in some) for some in members.values())
    likely = [f for f in formulas if sum(s.n for s in members[f]) >= 0.8 * most]
    formula = min(likely, key=lambda f: (f not in usual, _gap(members[f], f)))
    some = [s for s in members[formula] if not 1 / LEAST_FACTOR < _factor(s, formula) < LEAST_FACTOR]
    explained = some and (_is_right(some, formulas) or _is_familiar(some))
    if some and _sharp(some) and _fits(some, formula) and not explained:
        for s in some:
            yield s, formula


def _is_right(suspects: Sequence[_Suspect], formulas: Sequence[Scheme]) -> bool:
    """Whether a formula with the right fans gives these sizes as well."""
    more = UNIFORM[:1] if suspects[0].family == "uniform" else ()
    return any(
        _near_one(suspects, [s.size / _std(f, s, s.right[min(i, len(s.right) - 1)]) for s in suspects])
        for f in (*formulas, *more)
        for i in range(2)
    )


def _is_familiar(suspects: Sequence[_Suspect]) -> bool:
    """Whether all of them have one size that people pick without any fan, such as 0.02."""
    return any(_near_one(suspects, [s.size / f.moments().std for s in suspects]) for f in FAMILIAR)


def _fits(suspects: Sequence[_Suspect], formula: Scheme) -> bool:
    return _gap(suspects, formula) <= _slack(suspects)


def _gap(suspects: Sequence[_Suspect], formula: Scheme) -> float:
    return abs(_pooled(suspects, [s.size / _std(formula, s, s.shaped) for s in suspects]) - 1) if suspects else math.inf


def _near_one(suspects: Sequence[_Suspect], ratios: Sequence[float]) -> bool:
    """Whether the pooled second moment over the formula's is one, within its standard errors."""
    return abs(_pooled(suspects, ratios) - 1) <= _slack(suspects)


def _pooled(suspects: Sequence[_Suspect], ratios: Sequence[float]) -> float:
    n = sum(s.n for s in suspects)
    return math.sqrt(sum(s.n * r * r for s, r in zip(suspects, ratios, strict=True)) / n)


def _slack(suspects: Sequence[_Suspect]) -> float:
    return ERRORS / math.sqrt(2 * sum(s.n for s in suspects))


def _sharp(suspects: Sequence[_Suspect]) -> bool:
    return _slack(suspects) <= SHARP


def _std(formula: Scheme, s: _Suspect, fans: Fans) -> float:
    """By the formula; a truncated normal as libraries draw it keeps the formula's std, or is narrower by the cut."""
    std = formula.moments(fan_in=fans.fan_in, fan_out=fans.fan_out).std
    return std * TRUNCATED_STD if s.family == "truncated" and s.size < 0.94 * std else std


def _factor(s: _Suspect, formula: Scheme) -> float:
    """What the weight has to be multiplied by: the size by the right fans over the size by the shape's."""
    return min((_std(formula, s, f) / _std(formula, s, s.shaped) for f in s.right), key=lambda r: abs(math.log(r)))


def _that_move(factors: Mapping[str, float], moves: Moves) -> list[str]:
    """Those whose scale the outputs feel, by halving: all hidden ones cost one question together.

    Asked at the right size and at twice that: at a size that is far too small, a norm's epsilon lets the scale through.
    """
    found: list[str] = []
    stack, asked = [dict(factors)], 0
    while stack and asked < QUESTIONS:
        some, asked = stack.pop(), asked + 1
        if moves(some, {name: 2 * f for name, f in some.items()}):
            names = list(some)
            middle = len(names) // 2
            if middle:
                stack += [{n: some[n] for n in half} for half in (names[middle:], names[:middle])]
            else:
                found += names
    return found


def _told(s: _Suspect, formula: Scheme, *, hidden: bool, together: float) -> WrongFan:
    factor = _factor(s, formula)
    right = min(s.right, key=lambda f: abs(math.log(_std(formula, s, f) / _std(formula, s, s.shaped))))
    return WrongFan(
        layer=s.site.layer,
        tensor=s.site.weight,
        kind=s.kind,
        formula=repr(formula),
        used=(s.shaped.fan_in, s.shaped.fan_out),
        right=(right.fan_in, right.fan_out),
        size=s.size,
        factor=factor,
        hidden=hidden,
        together=together,
    )
