"""Where each weight really stands, read off the flow: what follows it, in which residual branch, how deep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from symbreak.schemes import Activation, Fans, Layout, Place
from symbreak.schemes.place import BIASES, Role

from .branches import Branch, branches_of, is_gate
from .flow import Call, Flow
from .images import catalogued, is_straight, second_moment

_STEPS_ON = 40  # calls that are followed from a layer before giving up
_KNOWN_ENDS = frozenset(
    ("apply", "add", "gate", "product", "attention", "softmax", "lookup", "recurrent", "mean", "sum")
)
_ATTENDED = ("query_key", "value", "query_key_value")
_PASSES = frozenset(("view", "shift", "scale", "max", "concat"))


@dataclass
class Fact:
    """One weight between units, or one table.

    Attributes:
        call: where it is applied first.
        phi: the activation that follows; None where none does.
        keeps: E[phi(z)^2] over a standard normal z, where phi is in no catalogue.
        known: whether what follows is known.
        normalised: a normalisation follows before the activation.
        ends: what the layer's result goes into, where no activation follows.
        gate_follows: a parameter multiplies the branch behind it: LayerScale, ReZero.
        part: its part in attention, as the flow shows it.
    """

    weight: str
    call: Call
    phi: Activation | None = None
    keeps: float | None = None
    known: bool = True
    normalised: bool = False
    ends: str = ""
    branches: int | None = None
    branch_end: bool = False
    branch_layers: int | None = None
    in_branch: bool = False
    gate_follows: bool = False
    depth: int = 1
    first: bool = False
    last: bool = False
    part: Role | None = None
    biases: tuple[str, ...] = ()


@dataclass
class Facts:
    """Everything the flow says, a weight at a time.

    Attributes:
        of: weight -> its fact, in the order of execution.
        layer_of: bias -> its weight.
        last_biases: of layers behind which there is no other; a tied head's weight stands elsewhere, too.
        outputs: weights whose units are outputs of the model, with nothing but views behind them.
        norm_ends: gains of norms that end a residual branch.
        lookups_in_logits: tables that are added to the logits of attention.
    """

    of: dict[str, Fact] = field(default_factory=dict)
    layer_of: dict[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    last_biases: frozenset[str] = frozenset()
    norm_ends: frozenset[str] = frozenset()
    lookups_in_logits: frozenset[str] = frozenset()


def facts_of(flow: Flow) -> Facts:
    """Read a flow."""
    found = Facts()
    for call in flow.applies():
        assert call.weight is not None
        fact = found.of.setdefault(call.weight, Fact(call.weight, call))
        if call.bias is not None:
            found.layer_of.setdefault(call.bias, call.weight)
            fact.biases = tuple(dict.fromkeys((*fact.biases, call.bias)))
    for fact in found.of.values():
        _follow(fact)
        fact.part = _attention_part(fact.call)
    _depths(flow, found)
    found.norm_ends = frozenset(gain for branch in branches_of(flow) for gain in _mark(branch, found))
    found.outputs = tuple(dict.fromkeys(w for out in flow.outputs if (w := _made_by(out)) is not None))
    found.lookups_in_logits = frozenset(
        f.weight for f in found.of.values() if f.call.kind == "lookup" and _reaches_softmax(f.call)
    )
    return found


def refined(places: Mapping[str, Place], facts: Facts) -> dict[str, Place]:
    """The places with what only running shows filled in."""
    better = dict(places)
    for name, fact in facts.of.items():
        if name not in places:
            continue
        place = places[name]
        if place.role == "unknown" and fact.call.kind == "apply":
            place = _bare_weight(place, fact) or place
        elif place.role == "unknown" and fact.call.kind == "lookup" and len(place.shape) == 2:
            place = replace(place, role="embedding")
        if place.role == "weight" and fact.part is not None and place.layout.parts == 1:
            place = replace(place, role=fact.part)
        elif place.role in _ATTENDED and fact.part is None and fact.known and place.layout.parts == 1:
            place = replace(place, role="weight")  # it is only called so
        better[name] = replace(
            place,
            position="last" if fact.last else "first" if fact.first else "hidden",
            depth=fact.depth,
            branches=fact.branches,
            branch_layers=fact.branch_layers,
            in_branch=fact.in_branch,
            branch_end=fact.branch_end and not fact.gate_follows,
        )
    for bias, weight in facts.layer_of.items():
        if bias in better and weight in better and better[bias].role in (*BIASES, "unknown"):
            position = "last" if bias in facts.last_biases else better[weight].position
            fans = better[bias].fans or _fans(better[weight])
            better[bias] = replace(better[bias], role=_bias_role(better[bias]), position=position, fans=fans)
    for gain in facts.norm_ends:
        if gain in better and better[gain].role == "gain":
            better[gain] = replace(better[gain], branch_end=True)
    return better


def _bias_role(place: Place) -> Role:
    return place.role if place.role in BIASES else "bias"


def _fans(place: Place) -> Fans | None:
    return place.known_fans if len(place.shape) >= 2 + place.layout.stack else None


def _bare_weight(place: Place, fact: Fact) -> Place | None:
    """A parameter of no known layer that is used as a weight: read by the operation that uses it."""
    call, shape = fact.call, place.shape
    if call.out_axis is None or call.in_axis is None or max(call.out_axis, call.in_axis) >= len(shape):
        return None
    if call.name.startswith("conv"):
        channels = call.inputs[0].shape[1] if call.inputs and len(call.inputs[0].shape) > 1 else 0
        transposed = call.name.startswith("conv_transpose")
        groups = max(1, channels // shape[1]) if not transposed and channels % max(1, shape[1]) == 0 else 1
        layout = Layout(groups=groups, transposed=transposed)
    else:
        low, high = sorted((call.out_axis, call.in_axis))
        if (low, high) != (len(shape) - 2, len(shape) - 1):
            return None
        layout = Layout(transposed=call.in_axis < call.out_axis, stack=low)
    return replace(place, role="weight", layout=layout, fans=layout.fans(shape))


# ---- what follows ----------------------------------------------------------------------------------------------------


def _follow(fact: Fact) -> None:
    ends = list(_ends(fact.call, _STEPS_ON))
    kinds = {end.key for end in ends}
    fact.normalised = bool(ends) and all(end.normalised for end in ends)
    fact.known = all(end.known for end in ends)
    if len(kinds) == 1 and ends[0].samples is not None:
        fact.phi = catalogued(ends[0].samples)
        if fact.phi is None:
            fact.keeps = second_moment(ends[0].samples)
    elif len(kinds) > 1:
        fact.ends = "different things"
    fact.ends = fact.ends or (ends[0].reader if ends else "the output")


@dataclass(frozen=True)
class _End:
    samples: Tensor | None = None
    normalised: bool = False
    known: bool = True
    reader: str = ""

    @property
    def key(self) -> object:
        return "linear" if self.samples is None else tuple(round(float(s), 6) for s in self.samples[::200])


def _ends(call: Call, left: int, normalised: bool = False) -> Iterator[_End]:
    """What stands at the end of each way from a value to the next layer."""
    region = [call]
    for here in region:  # grows: everything elementwise in this one value
        region += [r for r in here.readers if r.root is call.root and r not in region]
    written = [r for c in region for r in c.readers if r.kind in ("norm", "view") and len(set(r.inputs)) == 2]
    if written and left > 0:  # a normalisation written out: its statistics are no readers of their own
        for reader in dict.fromkeys(written):
            yield from _ends(reader, left - 1, normalised or reader.kind == "norm")
        return
    exits = [c for c in region if c.output or not c.readers or any(r.root is not call.root for r in c.readers)]
    bent = [c for c in exits if not is_straight(c.samples)]
    if bent and len(bent) == len(exits):
        for exit_ in {id(c.samples): c for c in bent}.values():
            yield _End(exit_.samples, normalised)
        return
    if bent:
        yield _End(bent[0].samples, normalised)
    for exit_ in exits:
        if exit_ in bent:
            continue
        outside = [r for r in exit_.readers if r.root is not call.root]
        if not outside or exit_.output:
            outside = []
            yield _End(None, normalised, reader="the output")
        for reader in dict.fromkeys(outside):
            if left <= 0:
                yield _End(None, normalised, known=False)
            elif reader.kind == "norm":
                yield from _ends(reader, left - 1, True)
            elif reader.kind in _PASSES:
                yield from _ends(reader, left - 1, normalised)
            else:
                yield _End(None, normalised, known=reader.kind in _KNOWN_ENDS, reader=_READERS.get(reader.kind, ""))


_READERS = {
    "apply": "the next layer",
    "recurrent": "the next layer",
    "lookup": "a lookup",
    "add": "a sum",
    "gate": "a product",
    "product": "a product",
    "attention": "attention",
    "softmax": "a softmax",
    "mean": "a mean",
    "sum": "a sum",
}  # fmt: skip


def _attention_part(call: Call) -> Role | None:
    """Query, key or value, or all three, by where the layer's result goes without passing another layer."""
    parts: set[Role] = set()
    queue = [call]
    seen: set[int] = set()
    while queue and len(seen) < 80:
        here = queue.pop(0)
        for reader in here.readers:
            if id(reader) in seen or reader.mixes:
                continue
            seen.add(id(reader))
            if reader.name == "scaled_dot_product_attention":
                place = [p for p, c in zip(reader.positions, reader.inputs, strict=True) if c is here]
                parts |= {"value" if p == 2 else "query_key" for p in place if p <= 2}
            elif reader.kind == "product":
                if any(c.is_softmax for c in reader.inputs if c is not here):
                    parts.add("value")
                elif _reaches_softmax(reader):
                    parts.add("query_key")
            elif reader.kind in ("view", "shift", "scale", "phi", "norm", "add", "concat") and not _is_sum(reader):
                queue.append(reader)
    if len(parts) == 2:
        return "query_key_value"
    return next(iter(parts), None)


def _is_sum(call: Call) -> bool:
    """A sum of two things that come from different layers ends a layer's own reach; rotary sums do not."""
    return call.kind == "add" and len({id(_layer_behind(c)) for c in call.inputs}) > 1


def _layer_behind(call: Call) -> Call | None:
    for _ in range(30):
        if call.mixes or not call.inputs:
            return call
        call = call.inputs[0]
    return None


def _reaches_softmax(call: Call) -> bool:
    queue, seen = [call], 0
    while queue and seen < 60:
        here = queue.pop(0)
        seen += 1
        for reader in here.readers:
            if reader.kind == "softmax":
                return True
            if reader.name == "scaled_dot_product_attention":
                place = [p for p, c in zip(reader.positions, reader.inputs, strict=True) if c is here]
                if 3 in place:
                    return True
            elif not reader.mixes and reader.kind in ("view", "shift", "scale", "phi", "add", "concat"):
                queue.append(reader)
    return False


def _made_by(out: Call) -> str | None:
    """The weight whose units are the entries of an output."""
    for _ in range(20):
        if out.kind == "apply":
            return out.weight
        if out.kind not in ("view", "shift") or not out.inputs:
            return None
        out = out.inputs[0]
    return None


# ---- depth, branches -------------------------------------------------------------------------------------------------


def _depths(flow: Flow, found: Facts) -> None:
    """Layers in a row that nothing resets: no norm, no sum of branches; first and last layers."""
    before: dict[int, int] = {}
    behind: dict[int, bool] = {}
    for call in flow.calls:
        reset = call.kind in ("norm", "add", "attention", "recurrent", "lookup")
        run = 0 if reset else max((before[c.index] for c in call.inputs), default=0)
        before[call.index] = run + (call.kind == "apply")
        behind[call.index] = call.mixes or any(behind[c.index] for c in call.inputs)
    after: dict[int, int] = {}
    ahead: dict[int, bool] = {}
    for call in reversed(flow.calls):
        reset = call.kind in ("norm", "add", "attention", "recurrent", "lookup")
        run = 0 if reset else max((after[r.index] for r in call.readers), default=0)
        after[call.index] = run + (call.kind == "apply")
        ahead[call.index] = any(r.mixes or ahead[r.index] for r in call.readers)
    found.last_biases = frozenset(
        c.bias for c in flow.applies() if c.bias is not None and c.inputs and not ahead[c.index]
    )
    for fact in found.of.values():
        i = fact.call.index
        fact.depth = max(1, before[i] + after[i] - 1)
        fact.first = fact.call.kind != "attention" and not any(behind[c.index] for c in fact.call.inputs)
        fact.last = not ahead[i] and bool(fact.call.inputs)


def _mark(branch: Branch, found: Facts) -> Iterator[str]:
    """Mark the layers of a branch, and the one that ends it; yields the gains of norms that do."""
    weights = branch.weights()
    for weight in weights:
        fact = found.of[weight]
        fact.in_branch, fact.branches, fact.branch_layers = True, branch.many, len(weights)
    here, gated = branch.end, False
    for _ in range(30):
        if here.kind in ("apply", "attention") and here.weight is not None:
            fact = found.of[here.weight]
            fact.branch_end, fact.branches, fact.gate_follows = True, branch.many, gated
            return
        if here.kind == "norm":
            yield from here.params[:1]
        gated = gated or (here.kind == "scale" and bool(here.params)) or is_gate(here)
        if here.kind not in ("view", "shift", "scale", "norm", "phi", "gate", "max", "mean") or not here.inputs:
            return
        here = max(here.inputs, key=lambda c: math.prod(c.shape))
