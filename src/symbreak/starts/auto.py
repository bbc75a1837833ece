"""`"auto"`: the scheme for each tensor, by what the model does with it.

Three rounds of one story. What runs is written down (flow.py) and read (facts.py). Every weight is drawn by the scheme
that suits its place. Then the tensors that were zero before are judged by what they do: a zero that wakes, blocks
nothing and ties no units was meant (LoRA's B, a zero convolution, a gate, adaLN-Zero, a zero head) and stays; one that
keeps others asleep, or units equal, is drawn, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from symbreak.errors import SymbreakError
from symbreak.probe import look
from symbreak.records import Trace
from symbreak.schemes import (
    Place,
    Scheme,
    Suit,
    edge_of_chaos,
    embedding_normal,
    kaiming_normal,
    layout_of,
    normal,
    ones,
    places_of,
    zeros,
)
from symbreak.schemes.place import BIASES
from symbreak.schemes.places import at_rest, following
from symbreak.schemes.suits import suits

from .desk import Desk
from .facts import Fact, Facts, refined
from .plain import MATRICES, STAYS
from .prior import prior
from .session import Session, within
from .tensors import numbers

_ROUNDS = 3
_TOKENS = 0.02  # std of bare tokens and positions, as in BERT, GPT-2 and ViT
_LARGEST_PRIOR = 12.0  # a logit beyond this is no share of a class


def auto(
    desk: Desk,
    names: Collection[str],
    facts: Facts | None,
    batch: Any,
    loss: Callable[..., Tensor] | None,
    *,
    sizes: Mapping[str, tuple[Scheme, str]] = MappingProxyType({}),
) -> None:
    """Start the named tensors as suits each.

    Args:
        facts: what running the model showed; None where it was not run.
        sizes: weight -> scheme and reason, where moments were propagated; they decide.
    """
    if facts is not None:
        desk.places = refined(desk.places, facts)
    choice = _Choice(desk, facts, sizes)
    waiting = []
    for name in names:
        suit = choice.of(name)
        if suit.scheme is None or (choice.is_zero(name) and desk.places[name].role == "adapter_out"):
            desk.keep(name, suit.because)
        elif choice.is_zero(name) and desk.places[name].role in (*MATRICES, "embedding"):
            desk.keep(name, "zero, and judged below")
            waiting.append(name)
        else:
            desk.draw(name, suit.scheme, suit.because)
    if waiting or any(choice.is_zero(name) and desk.places[name].role == "gain" for name in names):
        _judge(desk, choice, names, waiting, batch, loss)
    if facts is not None and loss is not None:
        _prior(desk, names, facts, batch, loss)


class _Choice:
    """The scheme for a tensor, and why."""

    def __init__(self, desk: Desk, facts: Facts | None, sizes: Mapping[str, tuple[Scheme, str]]) -> None:
        self.desk, self.facts, self.sizes = desk, facts, sizes
        self.follows = following(desk.model)
        tied = {n for n, t in desk.tensors.items() if len(t.names) > 1}
        self.tied = {n for n in tied if desk.places[n].role == "embedding"}
        self.tied_widths = {desk.places[n].shape[-1] for n in self.tied}
        self.edges: set[str] = set()  # weights at the edge of chaos, whose biases are drawn, too

    def is_zero(self, name: str) -> bool:
        p = self.desk.before(name)
        return p.numel() > 0 and not bool(numbers(p).any())

    def _is_broken(self, name: str) -> bool:
        return not bool(numbers(self.desk.before(name)).isfinite().all())

    def of(self, name: str) -> Suit:
        place = self.desk.places[name]
        if self.desk.tensors[name].left is not None:
            return Suit(None, self.desk.tensors[name].left or "")
        if not self.desk.tensors[name].parameter.numel():
            return Suit(None, "has no entries")
        if (place.role == "gain" or self._is_shift(name, place)) and self._is_broken(name):
            return Suit(ones() if place.role == "gain" else zeros(), "held numbers that are none: a norm's usual start")
        if place.role in ("gate", "slope", "unknown") and self._is_broken(name):
            found = suits(place).scheme or normal(_TOKENS)
            return Suit(found, "held numbers that are none: the usual start of such a parameter")
        if place.role in BIASES:
            return self._bias(name, place)
        if place.role in ("gain", "gate", "slope", "unknown"):
            return Suit(None, STAYS[place.role])
        if place.role == "embedding":
            return self._table(name, place)
        return self._weight(name, place)

    def _weight(self, name: str, place: Place) -> Suit:
        fact = self.facts.of.get(name) if self.facts is not None else None
        own = fact is not None and fact.phi is not None and fact.phi.name == "sin"  # by its frequency, not by moments
        if name in self.sizes and place.role not in ("recurrent", "router") and not own:
            return Suit(*self.sizes[name])
        if fact is None:
            layer = name.rpartition(".")[0]
            next_ = self.follows.get(layer)
            suit = suits(
                place, next_.phi if next_ else None, known=next_ is not None,
                normalised=next_.normalised if next_ else False,
            )  # fmt: skip
        elif fact.keeps is not None and place.role in MATRICES and not fact.normalised and place.layout.parts == 1:
            gain = float(f"{1 / math.sqrt(fact.keeps):.4g}") if fact.keeps > 0 else 1.0
            suit = Suit(
                kaiming_normal(gain=gain),
                f"a function of its own follows and keeps {fact.keeps:.3g} of a second moment: gain {gain:.4g} makes "
                "up for it",
            )
        else:
            suit = suits(place, fact.phi, known=fact.known, normalised=fact.normalised)
            if suit.because.startswith("no activation") and fact.ends:
                suit = Suit(suit.scheme, f"no activation before {fact.ends}: gain 1 keeps the size")
            if fact.gate_follows and fact.phi is None and suit.scheme is not None:
                suit = Suit(suit.scheme, "ends a residual branch behind which a gate sets the size")
        if suit.scheme is not None and suit.scheme.name == "edge_of_chaos":
            self.edges.add(name)
        return suit

    def _bias(self, name: str, place: Place) -> Suit:
        if self._is_shift(name, place):
            return Suit(None, "a norm's shift: norms are left as they are")
        weight = self._weight_of(name)
        if weight in self.edges:
            return Suit(self.desk.scheme(weight) or edge_of_chaos(), f"goes with {weight}")
        before = self.desk.before(name)
        if self.is_zero(name) and place.layout.parts == 1:
            return Suit(None, "zero, as it should be")
        fact = self.facts.of.get(weight) if self.facts is not None and weight is not None else None
        if fact is not None and fact.phi is not None and fact.phi.name == "softplus" and not fact.normalised:
            return Suit(None, "shifts a softplus, where it sets a rate: left as it is")
        level = float(before.reshape(-1)[0])
        if place.position == "last" and bool((before == level).all()) and abs(level) <= _LARGEST_PRIOR:
            return Suit(None, "one number on the output: a prior that somebody chose")
        if weight is not None and self.desk.action(weight) == "kept" and not self.is_zero(weight):
            return Suit(None, f"{weight} is kept, so its bias is")
        return suits(place, fact.phi if fact is not None else None)

    def _is_shift(self, name: str, place: Place) -> bool:
        return place.role == "bias" and place.fans is None and self._weight_of(name) is None

    def _weight_of(self, bias: str) -> str | None:
        if self.facts is not None and bias in self.facts.layer_of:
            return self.facts.layer_of[bias]
        head, _, own = bias.rpartition(".")
        name = f"{head}.{own.replace('bias', 'weight')}".lstrip(".")
        place = self.desk.places.get(name)
        return name if place is not None and place.role != "gain" else None

    def _table(self, name: str, place: Place) -> Suit:
        if self.facts is not None and name in self.facts.lookups_in_logits:
            return Suit(None, "added to the logits of attention: left as it is")
        if name not in self.tied and place.shape[-1] in self.tied_widths:
            return Suit(embedding_normal(), "as large as the tied table that it is added to")
        return suits(place, None, tied=name in self.tied)


# ---- zeros: meant or not ---------------------------------------------------------------------------------------------


def _judge(
    desk: Desk,
    choice: _Choice,
    names: Collection[str],
    waiting: list[str],
    batch: Any,
    loss: Callable[..., Tensor] | None,
) -> None:
    """Look at the model as it is now; zeros that do harm are drawn, a round at a time."""
    wake: dict[str, int | None] = {}
    for _ in range(_ROUNDS):
        trace = _looked(desk, batch, loss)
        if trace is None:
            for name in waiting:
                _draw_zero(desk, choice, name, "zero, and the model could not be run to see whether it is meant")
            return
        wake = {t.name: t.wake for t in trace.tensors}
        harmful = _harmful(trace, waiting)
        gains = _shut_norms(trace, desk, names)
        for name, because in harmful.items():
            _draw_zero(desk, choice, name, because)
            waiting.remove(name)
        for name in gains:
            desk.draw(name, ones(), "a norm's gain of zero with another zero in its way: neither would ever learn")
        if not harmful and not gains:
            break
    for name in waiting:
        step = wake.get(name)
        told = f"wakes at step {step}" if step is not None else "nothing depends on it here"
        desk.keep(name, f"zero on purpose: {told}, and blocks nothing")


def _draw_zero(desk: Desk, choice: _Choice, name: str, because: str) -> None:
    suit = choice.of(name)
    if suit.scheme is not None:
        desk.draw(name, suit.scheme, f"{because}; {suit.because}")


def _looked(desk: Desk, batch: Any, loss: Callable[..., Tensor] | None) -> Trace | None:
    try:
        trace = look(desk.model, batch, loss)
    except SymbreakError:
        if batch is not None:
            raise
        return None
    return trace if trace.precision != "none" else None


def _harmful(trace: Trace, waiting: Collection[str]) -> dict[str, str]:
    """Zero tensor -> what it does: never learns, keeps others asleep, or holds units together."""
    found: dict[str, str] = {}
    for tensor in trace.tensors:
        if tensor.status != "asleep":
            continue
        if tensor.name in waiting:
            found.setdefault(tensor.name, "zero, and would never learn")
            continue
        for name in (*tensor.input_zero, *tensor.back_zero):
            if name in waiting:
                found.setdefault(name, f"zero, and kept {tensor.name} from ever learning")
    for slices in trace.slices:
        if slices.tied and slices.parameter in waiting:
            found.setdefault(slices.parameter, "zero, and kept its units equal for ever")
    return found


def _shut_norms(trace: Trace, desk: Desk, names: Collection[str]) -> list[str]:
    asleep = {t.name for t in trace.tensors if t.status == "asleep" and t.start == "zero"}
    return [n for n in names if n in asleep and desk.places[n].role == "gain" and desk.tensors[n].left is None]


# ---- the output ------------------------------------------------------------------------------------------------------


def _prior(desk: Desk, names: Collection[str], facts: Facts, batch: Any, loss: Callable[..., Tensor]) -> None:
    """The bias of the outputs from the labels, where there is one such layer and the loss tells how."""
    if len(facts.outputs) != 1:
        return
    fact: Fact = facts.of[facts.outputs[0]]
    if len(fact.biases) != 1 or fact.biases[0] not in names or desk.tensors[fact.biases[0]].left is not None:
        return
    name = fact.biases[0]
    labels = within(desk.model, batch, loss, lambda session: _labels(session))
    told = prior(desk.tensors[name].parameter, labels, loss)
    if told is None:
        return
    value, because = told
    if isinstance(value, Tensor):
        desk.draw(name, zeros(), because)
        desk.put(name, value.to(desk.tensors[name].parameter), "set", because)
    else:
        desk.draw(name, value, because)


def _labels(session: Session) -> Any:
    return session.task.draw(1, session.held.dtype).target


def places_for(model: nn.Module, names: Collection[str]) -> dict[str, Place]:
    """The places of a model's tensors, by the names that `tensors_of` gives them."""
    found = places_of(model)
    with at_rest(model):
        return {name: _parametrised(name, found[name], model) for name in names}


def _parametrised(name: str, place: Place, model: nn.Module) -> Place:
    """What stands behind a weight that a parametrisation makes is read as the weight."""
    head, _, own = name.partition(".parametrizations.")
    if not own:
        head, _, own = name.rpartition(".")
        own = own.removesuffix("_v").removesuffix("_orig") if own.endswith(("_v", "_orig")) else ""
    else:
        own = own.partition(".")[0]
    layout = layout_of(model.get_submodule(head), own) if own else None
    if place.role != "unknown" or layout is None or tuple(getattr(model.get_submodule(head), own).shape) != place.shape:
        return place
    return replace(place, role="weight", layout=layout, fans=layout.fans(place.shape))
