"""The network with one unit a class: what a symmetric start really is, small enough to hold.

Classes come from the unit graph by refinement and are certified. Spaces whose size the code of the model holds fixed
are kept whole, and the rest is refined again. Nothing is believed: the small network's outputs and gradients must equal
those of the full one, at the start and at a random point with the same classes, or it is not given out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from symbreak.errors import ModelError, RemedyError
from symbreak.probe import fingerprint, unwrap
from symbreak.records import Asked

from .attempt import Attempt
from .certificate import Certificate
from .comparison import Comparison
from .fold import Fold
from .graph import UnitGraph, unit_graph
from .places import fixed_spaces, out_axes
from .smaller import REST
from .units import Level, SymmetryError

ALIKE = frozenset(
    ["sgd", "momentum", "nesterov", "adam", "amsgrad", "adamw", "rmsprop", "adagrad", "adadelta", "adamax", "nadam",
     "radam", "rprop", "asgd", "lion", "l2", "adam+l2", "rmsprop+l2", "l1", "weight-clip", "clip-value",
     "clip-norm", "input-dropout", "droppath"]
)  # fmt: skip
"""Updates that go entry by entry, so that one entry a block goes the way of them all (clip-norm: by `clip_grad_norm_`).
Muon, Shampoo, L-BFGS, LARS and others keep the classes too, and yet see a different matrix in the small network."""
_NONLINEAR = frozenset(["adam+l2", "rmsprop+l2", "l1", "weight-clip"])


class QuotientError(SymmetryError):
    """A model that has no quotient that can be trusted."""


class Reported(Protocol):
    """A report of `check`, as far as it is read here."""

    @property
    def _asked(self) -> Asked | None: ...


@dataclass(frozen=True, eq=False)
class Quotient:
    """A network with one unit a class that computes and trains as the full one.

    Attributes:
        model: a module to use and train in place of the full one; names of tensors are those of the full one. Read as
            an attribute, `layer.weight` is what the forward reads; what is trained is in `named_parameters()`.
        widths: layer -> (units here, units of the full network), for every layer with a weight.
        kept: space of units that is not folded though it may hold equal units -> why.
        certificate: the proof that the classes are classes, of `unit_graph(model, batch).network`; `verify` repeats it.
        multiplicity: parameter -> how many full entries each of its entries stands for; it broadcasts. A penalty on
            the weights is written as ever: its gradient is that of one entry. Only its value counts a block once; that
            of the full network is sum(multiplicity * f(weight)).
        breakers: what in the model tears equal units apart and is not heeded here: "dropout" where the model was in
            evaluation mode, so that the quotient is one for evaluation. In training mode units behind it stay.
    """

    model: nn.Module
    widths: Mapping[str, tuple[int, int]]
    kept: Mapping[str, str]
    certificate: Certificate
    multiplicity: Mapping[str, Tensor] = field(repr=False)
    breakers: tuple[str, ...] = ()
    _folds: Mapping[str, Fold] = field(default_factory=dict, repr=False)
    _starts: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    _others: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass of the small model."""
        return self.model(*args, **kwargs)

    def parameters(self) -> Iterator[nn.Parameter]:
        """What an optimizer is given; learning rate, eps and weight decay are those of the full network."""
        return self.model.parameters()

    @property
    def merged(self) -> bool:
        """True where some units are one; else the small model is a copy of the full one."""
        return bool(self._folds)

    @property
    def size(self) -> tuple[int, int]:
        """(parameters here, parameters of the full network)."""
        names = {n: p for n, p in self.model.named_parameters() if not n.endswith(REST) or n not in self.multiplicity}
        full = sum(math.prod(self._folds[n].shape) if n in self._folds else p.numel() for n, p in names.items())
        return sum(p.numel() for p in names.values()), full

    def keeps(self, *updates: str) -> bool:
        """True where training with every one of these updates equals that of the full network, in exact arithmetic.

        They go entry by entry ("adamw", "clip-value", ...); "clip-norm" by `clip_grad_norm_`. What is not linear in the
        weights ("adam+l2") needs classes that are equal weight by weight: `quotient(..., level="block-constant")`.

        Never where `breakers` are named.

        Raises:
            SymmetryError: nothing is proved of an update of this name; the nearest three are named.
        """
        torn = self.certificate.breakers(updates) or self.breakers
        if not self.merged:
            return True
        even = not self._starts
        return not torn and all(u.lower() in ALIKE and (even or u.lower() not in _NONLINEAR) for u in updates)

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        """torch.nn.utils.clip_grad_norm_ by the norm of the full network's gradient, which it returns."""
        held = [(p.grad, self.multiplicity[n].to(p)) for n, p in self.model.named_parameters() if p.grad is not None]
        if math.isinf(norm_type):
            norm = torch.stack([g.abs().max() for g, _ in held]).max()
        else:
            norm = torch.stack([(m * g.abs() ** norm_type).sum() for g, m in held]).sum() ** (1 / norm_type)
        factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        for g, _ in held:
            g.mul_(factor)
        return norm

    def expand(self) -> dict[str, Any]:
        """The full weights as they are now, as a state dict that loads into the full model.

        Weights move by block: W(t) = W(0) + S (T(t) - T(0)) S', and the part that no gradient reaches decays as the
        optimizer would have decayed it. Entries are copies.
        """
        small: dict[str, Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        small |= dict(self.model.named_buffers(remove_duplicate=False))
        found: dict[str, Any] = {}
        for name, other in self._others.items():
            if name not in small:
                found[name] = other
            else:
                found[name] = self._expanded(name, small[name].detach(), small.get(name + REST))
        return found

    def _expanded(self, name: str, now: Tensor, rest: Tensor | None) -> Tensor:
        if name not in self._folds:
            return now.clone()
        fold = self._folds[name]
        if name not in self._starts:
            return fold.spread(now)
        full, start = (t.to(now.device) for t in self._starts[name])
        left = 0.0 if rest is None else float(rest.detach()) - 1.0
        return (full + fold.spread(now.double() - start) + left * (full - fold.spread(start))).to(now.dtype)

    def __str__(self) -> str:
        small, full = self.size
        lines = [f"{type(self.model).__name__}: {small:,} of {full:,} parameters"]
        if not self.merged:
            lines = [f"{type(self.model).__name__}: no two units are one; the quotient is the model itself"]
        lines += [f"  {name}: {m} of {n} units" for name, (m, n) in self.widths.items() if m < n]
        lines += [f"  kept whole: {space} ({why})" for space, why in self.kept.items()]
        return "\n".join(lines)


def quotient(
    model: nn.Module,
    report: Reported | None = None,
    *,
    batch: Any = None,
    loss: Callable[..., Tensor] | None = None,
    objective: Callable[..., Tensor] | None = None,
    level: Level = "biequitable",
    seed: int = 0,
) -> Quotient:
    """The network with one unit a class: smaller, computes the same, trains the same.

    Any optimizer that works entry by entry (SGD, momentum, Adam, AdamW, RMSprop, Lion, ...) trains `model` of the
    result exactly as it trains the full network, with the same learning rate, eps and weight decay:
    `torch.optim.AdamW(q.parameters())`. Each parameter holds one entry of every block of equal entries; a layer sees it
    times the units it sums over, and its gradient is that of one full entry. `expand` leads back to the full weights at
    any time. For a trained model with copied units (widened, merged) it is a lossless compression.

    The model is not changed. Outputs and gradients of both are compared in float64, at the start and at a random point
    with the same classes; where the code of the model holds a width fixed, those units stay, and `kept` says why. Units
    behind dropout stay too, unless the model is in evaluation mode: then the quotient is one for evaluation.

    Args:
        model: any torch.nn.Module, with the weights it has now.
        report: what `check(model, ...)` returned; its batch, loss, objective and seed are used where none are given
            here. Classes are found anew, and proved.
        batch, loss, objective: as for `check`.
        level: which classes: "biequitable", the coarsest; "block-constant", equal weight by weight, for what is not
            linear in the weights, such as Adam with coupled L2.
        seed: of the random inputs and the random point.

    Returns:
        A Quotient: model, widths, kept, certificate; expand(), keeps("adamw"), clip_grad_norm_().

    Raises:
        RemedyError: the report is of other weights.
        QuotientError: the model gives different results for the same input, so nothing can be compared.
        SymbreakError: no batch where one is needed; the forward raised.

    Example:
        One neuron in every layer: a network that starts at a constant is this one, for ever.

        >>> import torch, symbreak as sb
        >>> layers = torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32), torch.nn.Tanh()
        >>> net = torch.nn.Sequential(*layers, torch.nn.Linear(32, 10))
        >>> _ = [torch.nn.init.constant_(p, 0.1) for p in net[:4].parameters()]
        >>> _ = [torch.nn.init.constant_(p, 0.1) for p in net[4:].parameters()]
        >>> q = sb.quotient(net)
        >>> q.widths
        {'0': (1, 32), '2': (1, 32), '4': (10, 10)}
        >>> q.size, q.keeps("adamw")
        ((87, 3466), True)
        >>> _ = net.load_state_dict(q.expand())

    Source: THEORY of bi-equitable partitions; forward half: Prabhakar 2021, arXiv:2110.03726.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"quotient() got {type(model).__name__}; expected a torch.nn.Module. Pass the model itself.")
    inner = unwrap(model)
    asked = _asked_by(inner, report)
    if asked is not None:
        batch = asked.batch if batch is None else batch
        if loss is None and objective is None:
            loss, objective = asked.loss, asked.objective
        seed = seed or asked.seed
    graph = unit_graph(inner, batch, loss, objective, seed=seed, heed_dropout=inner.training)
    return quotient_of(inner, graph, batch=batch, loss=loss, objective=objective, level=level, seed=seed)


def quotient_of(
    model: nn.Module,
    graph: UnitGraph,
    *,
    batch: Any = None,
    loss: Callable[..., Tensor] | None = None,
    objective: Callable[..., Tensor] | None = None,
    level: Level = "biequitable",
    seed: int = 0,
) -> Quotient:
    """The quotient by a unit graph that is known already. Arguments, result and errors as for `quotient`."""
    comparison = Comparison(model, batch, loss, objective, seed)
    kept = dict(graph.cut) | fixed_spaces(model, graph)
    while True:
        attempt = Attempt.of(model, graph, kept, level, seed)
        problem = comparison.difference(attempt)
        if problem is None:
            return _finished(attempt, graph, kept)
        if not attempt.shrinking:
            raise QuotientError(
                f"a plain copy of {type(model).__name__} does not compute what the model computes: {problem}. Its "
                "forward refers to something outside the module, or is not the same twice. Make it deterministic."
            )
        space = _culprit(attempt.shrinking, partial(_quickly, comparison, model, graph, frozenset(kept), level, seed))
        kept |= dict.fromkeys(_alike(space, attempt.shrinking, model), problem)


def _quickly(
    comparison: Comparison, model: nn.Module, graph: UnitGraph, kept: Iterable[str], level: Level, seed: int,
    apart: Sequence[str],
) -> str | None:  # fmt: skip
    return comparison.difference(Attempt.of(model, graph, {*kept, *apart}, level, seed), quick=True)


def _finished(attempt: Attempt, graph: UnitGraph, kept: Mapping[str, str]) -> Quotient:
    full = attempt.full.state_dict(keep_vars=True)
    uneven = sorted(attempt.uneven & full.keys())
    heeded = {"dropout"} if attempt.full.training else set()  # units behind it are kept whole
    return Quotient(
        model=attempt.small,
        widths={layer: attempt.width(weight, axis) for layer, weight, axis in out_axes(attempt.full)},
        kept=dict(kept),
        certificate=attempt.proved(),
        multiplicity=dict(attempt.multiplicities()),
        breakers=tuple(b for b in graph.breakers if b not in heeded),
        _folds=attempt.folds,
        _starts={n: (full[n].detach().double().clone(), attempt.starts[n]) for n in uneven},
        _others={n: v.detach().clone() if isinstance(v, Tensor) else v for n, v in full.items()},
    )


def _asked_by(model: nn.Module, report: Reported | None) -> Asked | None:
    asked = None if report is None else report._asked
    if asked is not None and asked.fingerprint != fingerprint(model):
        raise RemedyError(
            f"the report is of another model, or the weights of {type(model).__name__} have changed since. Run "
            "check(model, ...) again, or leave the report out and pass batch=."
        )
    return asked


def _culprit(spaces: Sequence[str], problem: Callable[[Sequence[str]], str | None]) -> str:
    """A space that cannot shrink: the last of the shortest beginning of the list that fails, found by halving.

    Args:
        problem: what is wrong when these spaces are told apart and the others shrink.
    """
    good, bad = 0, len(spaces)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if problem(spaces[middle:]) is None else (good, middle)
    return spaces[bad - 1]


def _alike(space: str, spaces: Iterable[str], model: nn.Module) -> Iterator[str]:
    """This space and those at the same place of another copy of its module: the same code runs there."""
    modules = dict(model.named_modules())
    pattern = re.sub(r"\d+", "*", space)
    kind = type(modules.get(space.rpartition(".")[0]))
    for other in spaces:
        parent = other.rpartition(".")[0]
        if other == space or (parent and re.sub(r"\d+", "*", other) == pattern and type(modules.get(parent)) is kind):
            yield other
