"""Which units may change their sign, or their size, and take everything that reads them along.

phi(-z) = -phi(z): all that a tanh layer computes of a unit and its negative differs by a sign. phi(c z) = c phi(z) for
c > 0: behind a rectifier it differs by a factor. A space of units has such a gauge where every operation between its
weights in and its weights out has it; whatever is not known to have it takes it away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from .ledger import PLACE, Ledger
from .operations import Call, tensors, words
from .sums import CONVOLUTIONS
from .tracked import Tracked, aligned
from .units import Integers

Name = Literal["odd", "scaled"]
Kind = Literal["moves", "stays"]  # with the unit; not at all

_MOVING: Mapping[Name, frozenset[str]] = {
    "odd": frozenset(words("tanh sin asinh arctan atan erf neg sinh tanhshrink softshrink hardshrink")),
    "scaled": frozenset(words("relu leaky_relu abs neg")),
}
_STAYING = frozenset(words("abs square cos cosh"))  # of an odd unit
_CARRIED = frozenset(
    words(
        "view reshape _unsafe_view flatten unflatten view_as _reshape_alias ravel reshape_as view_copy permute "
        "permute_copy transpose swapaxes swapdims t mT transpose_copy t_copy movedim moveaxis unsqueeze unsqueeze_copy "
        "squeeze squeeze_copy expand expand_as broadcast_to expand_copy slice slice_copy narrow narrow_copy select "
        "select_copy split split_with_sizes chunk unsafe_chunk unsafe_split unsafe_split_with_sizes unbind flip cat "
        "concat concatenate stack clone alias detach contiguous _to_copy lift_fresh_copy lift_fresh to positive "
        "detach_copy alias_copy dropout native_dropout feature_dropout avg_pool1d avg_pool2d avg_pool3d "
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_linear1d"
    )
)
_LARGEST = frozenset(words("max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices"))
_LAID = frozenset(words("cat concat concatenate stack"))
_SUMS = frozenset(words("linear addmm addmv baddbmm matmul mm bmm mv")) | CONVOLUTIONS.keys()
_NORMS = frozenset(
    words(
        "batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional "
        "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_with_update_functional rms_norm "
        "_fused_rms_norm"
    )
)
_BIASES, _SCALES = ("bias", "running_mean"), ("weight", "running_var")
_ENTRYWISE = frozenset(words("add sub mul div exp rsqrt sqrt reciprocal log pow clamp clamp_min clamp_max"))


@dataclass
class Gauge:
    """One of the two: what is known to change with a unit, and which units have lost it."""

    name: Name
    lost: list[Integers] = field(default_factory=list)
    still: dict[int, Tracked] = field(default_factory=dict)  # tensors that do not change with their units
    spoilt: dict[int, Tracked] = field(default_factory=dict)  # tensors of both kinds
    roles: dict[str, Kind | None] = field(default_factory=dict)  # of tensors met entry by entry

    def watch(self, call: Call, found: object, ledger: Ledger, before: int) -> None:
        """Follow one operation that was read; the book held `before` units until then."""
        given, made = call.tracked, list(tensors([found]))
        kind = self._kind(call, given, made, ledger)
        if kind is None:
            for t in (*given, *made):
                self.lost += [label.ids.reshape(-1) for label in t.labels]
            self.lost.append(np.arange(before, ledger.units))
        for n, t in enumerate(made):
            if n and call.name in _NORMS | _LARGEST:  # means and variances, numbers of places
                self.spoilt[id(t)] = t
            elif kind == "stays":
                self.still[id(t)] = t

    def free(self, ledger: Ledger) -> dict[str, tuple[int, ...]]:
        """Spaces that have the gauge, and the columns of their attributes that do not change with a unit."""
        lost: set[int] = set()
        for ids in self.lost:
            lost.update(ledger.resolve(ids, ids * 0)[0].tolist())
        found = {}
        for space, ids in ledger.named().items():
            roles = ["stays" if of == PLACE else self.roles.get(of or "") for of in ledger.columns.get(space, ())]
            if None not in roles and lost.isdisjoint(ids.tolist()):
                found[space] = tuple(k for k, role in enumerate(roles) if role == "stays")
        return found

    # ---- one operation ---------------------------------------------------------------------------------------------

    def _kind(self, call: Call, given: Sequence[Tracked], made: Sequence[Tracked], ledger: Ledger) -> Kind | None:
        """What becomes of what the operation makes; None where the gauge is lost."""
        units = [t for t in given if t.labels and not t.fixed]
        if not units:
            return "moves"
        if any(id(t) in self.spoilt for t in units):
            return None
        if call.name in _CARRIED:
            return self._carried(call, given, units) if _no_new(units, made, ledger) else None
        if call.name in _SUMS:
            return self._summed(call, made)
        if not _no_new(units, made, ledger):
            return None
        if call.name in _NORMS:
            return self._normed(call)
        if call.name in ("sum", "mean") or (self.name == "odd" and call.name == "linalg_vector_norm"):
            return self._reduced(call)
        if call.name in _LARGEST:
            return "moves" if self.name == "scaled" else None
        return self._entrywise(call, units)

    def _of(self, t: Tracked) -> Kind:
        return "stays" if id(t) in self.still else "moves"

    def _carried(self, call: Call, given: Sequence[Tracked], units: Sequence[Tracked]) -> Kind | None:
        dtype = call.get("dtype")
        if dtype is not None and not dtype.is_floating_point:
            return None
        kinds = {self._of(t) for t in units}
        if call.name in _LAID and (len({_cover(t) for t in given}) > 1 or any(t.fixed or t.owner for t in given)):
            return None
        return kinds.pop() if len(kinds) == 1 else None

    def _summed(self, call: Call, made: Sequence[Tracked]) -> Kind | None:
        """Linear in what it reads: weights are multiplied, one bias is added."""
        bias = call.given.get("bias", call.given.get("self") if call.name.startswith(("addm", "badd")) else None)
        rest = [t for t in call.tracked if t is not bias]
        signals = [t for t in rest if t.labels and not t.fixed and t.owner is None]
        if len(rest) != 2 or len(signals) > 1 or sum(t.owner is not None and not t.fixed for t in rest) > 1:
            return None
        if any(self._of(t) == "stays" for t in signals):
            return None
        if not any(t.owner for t in rest) and sum(len(t.labels) for t in made) < len(signals[0].labels):
            return None  # a plain sum over units
        if not isinstance(bias, Tracked):
            return "moves"
        along = {1} if call.name in CONVOLUTIONS else {made[0].ndim - 1}
        if bias.fixed or bias.ndim != 1 or set(_cover(made[0])) != along:
            return None
        return self._met(bias, "moves")

    def _normed(self, call: Call) -> Kind | None:
        """Shifted by a unit's own mean, divided by what is the same for its negative."""
        if self.name != "odd" or self._of(call.first) != "moves" or call.first.owner is not None:
            return None
        for names, role in ((_BIASES, "moves"), (_SCALES, "stays")):
            for t in (call.given.get(n) for n in names):
                if isinstance(t, Tracked) and self._met(t, role) is None:  # type: ignore[arg-type]
                    return None
        return "moves"

    def _reduced(self, call: Call) -> Kind | None:
        x = call.first
        if x.owner is not None or len(call.tracked) > 1:
            return None
        dims = call.get("dim", ())
        over = {d % x.ndim for d in ([dims] if isinstance(dims, int) else dims)} or set(range(x.ndim))
        if call.name == "linalg_vector_norm":
            return "stays"
        if self._of(x) == "stays" or not over & set(_cover(x)):
            return self._of(x)
        return None

    def _entrywise(self, call: Call, units: Sequence[Tracked]) -> Kind | None:
        name, x, *rest = call.name, *call.tracked
        if call.get("rounding_mode") is not None:
            return None
        if not rest:
            return self._alone(call, x)
        if name not in ("add", "sub", "mul", "div") or len(rest) != 1:
            return None
        (other,) = rest
        for t, u in ((x, other), (other, x)):
            if t.owner is not None and not t.fixed:
                return self._with_tensor(name, t, u, first=t is x)
        if name in ("add", "sub"):
            kinds = {self._of(t) for t in units}
            if kinds == {"stays"}:
                return "stays"
            alike = kinds == {"moves"} and len(units) == 2 and _same_cover(x, other)
            return "moves" if alike or any(_zero(t) for t in (x, other)) else None
        return self._product(name, x, other)

    def _alone(self, call: Call, x: Tracked) -> Kind | None:
        """One signal, and numbers."""
        if x.owner is not None:
            return None
        number = call.given.get("other", call.given.get("exponent"))
        if self._of(x) == "stays":
            return "stays" if call.name in _ENTRYWISE | _STAYING else None
        if call.name in _MOVING[self.name] or (call.name in ("mul", "div") and number is not None):
            return "moves" if call.name != "leaky_relu" or isinstance(call["negative_slope"], int | float) else None
        if call.name in ("add", "sub") and number == 0:
            return "moves"
        if call.name in ("clamp", "hardtanh", "clamp_min"):
            return self._clipped(call)
        even = call.name in _STAYING or (call.name == "pow" and number in (2, 4))
        return "stays" if self.name == "odd" and even else None

    def _clipped(self, call: Call) -> Kind | None:
        low, high = (call.given.get(k, call.given.get(f"{k}_val")) for k in ("min", "max"))
        if isinstance(low, Tensor | Tracked) or isinstance(high, Tensor | Tracked):
            return None
        symmetric = low is not None and high is not None and low == -high
        return "moves" if (symmetric if self.name == "odd" else low == 0 and high is None) else None

    def _with_tensor(self, name: str, tensor: Tracked, signal: Tracked, *, first: bool) -> Kind | None:
        """A signal and a parameter or buffer, entry by entry."""
        if signal.owner is not None or signal.fixed or not signal.labels or (name in ("sub", "div") and first):
            return None
        if name in ("mul", "div"):
            inside = set(_cover(tensor, signal.ndim)) <= set(_cover(signal, tensor.ndim))
            return self._of(signal) if inside and self._met(tensor, "stays") is not None else None
        alike = self._of(signal) == "moves" and _same_cover(tensor, signal)
        return self._met(tensor, "moves") if alike else None

    def _product(self, name: str, x: Tracked, other: Tracked) -> Kind | None:
        one, two = (self._of(t) if t.labels and not t.fixed else "stays" for t in (x, other))
        if name == "div" and two == "moves":
            return "stays" if self.name == "odd" and one == "moves" and _same_cover(x, other) else None
        if one == two == "moves":
            if not set(_cover(x, other.ndim)) & set(_cover(other, x.ndim)):
                return "moves"
            return "stays" if self.name == "odd" and _same_cover(x, other) else None
        return "moves" if "moves" in (one, two) else "stays"

    def _met(self, tensor: Tracked, role: Kind) -> Kind | None:
        """A tensor of the model meets units entry by entry: it changes with them, as a bias does, or stays."""
        if tensor.owner is None:
            return None
        self.roles[tensor.owner] = role if self.roles.get(tensor.owner, role) == role else None
        return "moves"


def _cover(t: Tracked, ndim: int = 0) -> tuple[int, ...]:
    """Dimensions along which units lie."""
    if t.fixed:
        return ()
    t = aligned(t, max(ndim, t.ndim))
    return tuple(sorted(frozenset().union(*(label.dims for label in t.labels))))


def _same_cover(a: Tracked, b: Tracked) -> bool:
    return _cover(a, b.ndim) == _cover(b, a.ndim)


def _zero(t: Tracked) -> bool:
    return t.fixed and t.value is not None and not bool(t.value.any())


def _no_new(given: Iterable[Tracked], made: Iterable[Tracked], ledger: Ledger) -> bool:
    """Whether all units of what was made were units before: new ones depend on others in a way that is not followed."""
    old, new = (_spaces(some, ledger) for some in (given, made))
    return new <= old


def _spaces(some: Iterable[Tracked], ledger: Ledger) -> set[int]:
    found: set[int] = set()
    for t in some:
        for label in t.labels:
            ids, _ = ledger.resolve(label.ids.reshape(-1), label.taps.reshape(-1))
            found.update(ledger.space_of(ids).tolist())
    return found
