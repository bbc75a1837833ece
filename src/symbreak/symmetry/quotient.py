"""The network with one unit a class: what a symmetric start really is, small enough to hold.

Classes come from the unit graph by refinement and are certified. Spaces whose size the code of the model holds fixed
are kept whole, and the rest is refined again. Nothing is believed: the small network's outputs and gradients must equal
those of the full one, at the start and at a random point with the same classes, or it is not given out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from symbreak.errors import ModelError, RemedyError
from symbreak.probe import fingerprint, unwrap
from symbreak.probe.borrow import borrow, swapped
from symbreak.probe.passes import Runner, UsersCodeError
from symbreak.probe.task import Task, explain_forward_error
from symbreak.records import Asked

from .certificate import LEVELS, Certificate, certify
from .fold import Fold, fold_of
from .graph import Axis, UnitGraph, unit_graph
from .places import axes_of, fixed_spaces, out_axes, places_of
from .refine import coarsest
from .smaller import REST, own_tensors, rebuild
from .units import Level, Network, Partition, SymmetryError

TOLERANCE = 1e-8  # relative, in float64; a wrong class size is an error of a few percent at least
_NOISE = 0.1  # of a tensor's root mean square: how far away the second point of the comparison is

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
        model: a module to use and train in place of the full one; names of tensors are those of the full one.
        widths: layer -> (units here, units of the full network), for every layer with a weight.
        kept: space of units that is not folded though it may hold equal units -> why.
        certificate: the proof that the classes are classes, of the network as the unit graph reads it.
        multiplicity: parameter -> how many full entries each of its entries stands for; it broadcasts. A penalty on
            the weights is written as ever: its gradient is that of one entry. Only its value counts a block once; that
            of the full network is sum(multiplicity * f(weight)).
        breakers: what in the model itself tears equal units apart, as the unit graph found it.
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

        Raises:
            SymmetryError: nothing is proved of an update of this name; the nearest three are named.
        """
        torn = self.certificate.breakers(updates)
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
    with the same classes; where the code of the model holds a width fixed, those units stay, and `kept` says why.

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
    graph = unit_graph(inner, batch, loss, objective, seed=seed)
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
    sides = _Sides(model, batch, loss, objective, seed)
    kept = dict(graph.cut) | fixed_spaces(model, graph)
    while True:
        attempt = _Attempt.of(model, graph, kept, level, seed)
        problem = sides.difference(attempt)
        if problem is None:
            return attempt.finished(graph, kept)
        if not attempt.shrinking:
            raise QuotientError(
                f"a plain copy of {type(model).__name__} does not compute what the model computes: {problem}. Its "
                "forward refers to something outside the module, or is not the same twice. Make it deterministic."
            )
        space = _culprit(model, graph, kept, level, seed, attempt.shrinking, sides)
        kept |= dict.fromkeys(_alike(space, attempt.shrinking, model), problem)


def _asked_by(model: nn.Module, report: Reported | None) -> Asked | None:
    asked = None if report is None else report._asked
    if asked is not None and asked.fingerprint != fingerprint(model):
        raise RemedyError(
            f"the report is of another model, or the weights of {type(model).__name__} have changed since. Run "
            "check(model, ...) again, or leave the report out and pass batch=."
        )
    return asked


def _culprit(
    model: nn.Module, graph: UnitGraph, kept: Mapping[str, str], level: Level, seed: int,
    shrinking: tuple[str, ...], sides: _Sides,
) -> str:  # fmt: skip
    """A space that cannot shrink: the last of the shortest beginning of the list that fails, found by halving."""
    good, bad = 0, len(shrinking)
    while bad - good > 1:
        middle = (good + bad) // 2
        apart = dict(kept) | dict.fromkeys(shrinking[middle:], "")
        fails = sides.difference(_Attempt.of(model, graph, apart, level, seed), quick=True) is not None
        good, bad = (good, middle) if fails else (middle, bad)
    return shrinking[bad - 1]


def _alike(space: str, spaces: Iterable[str], model: nn.Module) -> Iterator[str]:
    """This space and those at the same place of another copy of its module: the same code runs there."""
    modules = dict(model.named_modules())
    pattern = re.sub(r"\d+", "*", space)
    kind = type(modules.get(space.rpartition(".")[0]))
    for other in spaces:
        parent = other.rpartition(".")[0]
        if other == space or (parent and re.sub(r"\d+", "*", other) == pattern and type(modules.get(parent)) is kind):
            yield other


# ---- one attempt -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A small model for one choice of what is kept whole; names are those of the full model's tensors."""

    full: nn.Module
    small: nn.Module
    network: Network
    partition: Partition
    level: Level
    folds: Mapping[str, Fold]
    starts: Mapping[str, Tensor]  # name -> the small tensor at the start, in float64
    uneven: frozenset[str]  # tensors that are not constant over blocks

    @classmethod
    def of(cls, model: nn.Module, graph: UnitGraph, kept: Mapping[str, str], level: Level, seed: int) -> _Attempt:
        known = graph.network.told_apart | (kept.keys() & graph.network.sizes.keys())
        network = dataclasses.replace(graph.network, told_apart=frozenset(known))
        partition = coarsest(network, level=level, seed=seed)
        tensors, names = _tensors_of(model)
        axes = axes_of(model, graph)
        folds = {key: _fold(tensors[key], axes[key], partition) for key in tensors if key in axes}
        folds = {key: fold for key, fold in folds.items() if not fold.trivial}
        starts = {key: fold.fold(tensors[key].detach().double()) for key, fold in folds.items()}
        uneven = {key for key, fold in folds.items() if not _constant(tensors[key].detach(), fold)}
        built = rebuild(
            model,
            {key: _made(t, starts.get(key)) for key, t in tensors.items()},
            places_of(model, graph, folds),
            folds,
            {key: _rest(tensors[key]) for key in uneven if isinstance(tensors[key], nn.Parameter)},
        )
        return cls(
            full=model,
            small=built,
            network=network,
            partition=partition,
            level=level,
            folds={name: fold for key, fold in folds.items() for name in names[key]},
            starts={name: start for key, start in starts.items() for name in names[key]},
            uneven=frozenset(name for key in uneven for name in names[key]),
        )

    @property
    def shrinking(self) -> tuple[str, ...]:
        return tuple(s for s, c in self.partition.items() if int(c.max(initial=-1)) + 1 < len(c))

    def finished(self, graph: UnitGraph, kept: Mapping[str, str]) -> Quotient:
        full = self.full.state_dict(keep_vars=True)
        starts = {n: (full[n].detach().double().clone(), self.starts[n]) for n in sorted(self.uneven) if n in full}
        return Quotient(
            model=self.small,
            widths={layer: self._width(weight, axis) for layer, weight, axis in out_axes(self.full)},
            kept=dict(kept),
            certificate=self._proved(),
            multiplicity=dict(self._multiplicities()),
            breakers=graph.breakers,
            _folds=self.folds,
            _starts=starts,
            _others={n: v.detach().clone() if isinstance(v, Tensor) else v for n, v in full.items()},
        )  # fmt: skip

    def _proved(self) -> Certificate:
        """At the finest level that holds. One channel a kernel is a diagonal block: even, and not block-constant."""
        for finer in LEVELS[:0:-1] if not self.uneven else ():
            with contextlib.suppress(SymmetryError):
                return certify(self.network, self.partition, level=finer)
        return certify(self.network, self.partition, level=self.level)

    def _width(self, weight: str, axis: int) -> tuple[int, int]:
        units = self.full.get_parameter(weight).shape[axis]
        return self.folds[weight].small[axis] if weight in self.folds else units, units

    def _multiplicities(self) -> Iterator[tuple[str, Tensor]]:
        for name, p in self.small.named_parameters():
            if name in self.folds:
                yield name, self.folds[name].product(range(p.ndim))
            else:
                rest = name.endswith(REST) and name.removesuffix(REST) in self.folds
                yield name, torch.full((1,) * p.ndim, 0.0 if rest else 1.0, dtype=torch.float64)


def _tensors_of(model: nn.Module) -> tuple[dict[int, Tensor], dict[int, list[str]]]:
    """Parameters and buffers by their id, and all names of each."""
    tensors: dict[int, Tensor] = {}
    names: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        for attribute, tensor in own_tensors(module):
            tensors[id(tensor)] = tensor
            names.setdefault(id(tensor), []).append(f"{prefix}.{attribute}" if prefix else attribute)
    return tensors, names


def _fold(tensor: Tensor, axes: Sequence[Axis], partition: Partition) -> Fold:
    return fold_of(tuple(tensor.shape), [(axis.spaces, axis.repeat) for axis in axes], partition)


def _constant(full: Tensor, fold: Fold) -> bool:
    return bool((full == fold.spread(fold.first(full))).all())


def _made(tensor: Tensor, start: Tensor | None) -> Tensor:
    value = tensor.detach().clone() if start is None else start.to(tensor.dtype, copy=True)
    if not isinstance(tensor, nn.Parameter):
        return value
    return nn.Parameter(value, requires_grad=tensor.requires_grad)


def _rest(tensor: Tensor) -> nn.Parameter:
    ones = torch.ones((1,) * tensor.ndim, dtype=tensor.dtype, device=tensor.device)
    return nn.Parameter(ones, requires_grad=tensor.requires_grad)


# ---- both sides, compared --------------------------------------------------------------------------------------------


class _Sides:
    """Runs the full and the small network on the same batch, at several points, and says where they differ."""

    def __init__(
        self, model: nn.Module, batch: Any, loss: Callable[..., Tensor] | None,
        objective: Callable[..., Tensor] | None, seed: int,
    ) -> None:  # fmt: skip
        self.model, self._batch, self._loss, self._objective, self._seed = model, batch, loss, objective, seed
        self._values = {name: p.detach().double() for name, p in model.named_parameters()}
        self._first: _Point | None = (
            None  # random, with the classes of the first attempt, so that all attempts have them
        )

    def difference(self, attempt: _Attempt, *, quick: bool = False) -> str | None:
        """None where outputs and gradients agree at the start and at a random point with the same classes.

        Args:
            quick: at one random point alone, which is the same for all attempts; the full network is run there once.
        """
        if self._first is None:
            self._first = self._moved(attempt)
        problem = self._at(self._first, attempt)
        if problem is not None or quick:
            return problem
        return self._at(self._start, attempt) or self._at(self._moved(attempt), attempt)

    @functools.cached_property
    def _start(self) -> _Point:
        return _Point({}, self._run(self.model, self._values))

    def _moved(self, attempt: _Attempt) -> _Point:
        """Every entry of the small network moved by a random part of its tensor's size."""
        generator = torch.Generator().manual_seed(self._seed + 1)
        moves = {}
        for name, value in self._values.items():
            start = attempt.starts.get(name, value)
            size = float(start.square().mean().sqrt()) if start.numel() else 0.0
            noise = torch.randn(start.shape, generator=generator, dtype=torch.float64).to(start.device)
            move = noise * _NOISE * (size or 1.0)
            moves[name] = attempt.folds[name].spread(move) if name in attempt.folds else move
        return _Point(moves, self._run(self.model, {name: v + moves[name] for name, v in self._values.items()}))

    def _at(self, point: _Point, attempt: _Attempt) -> str | None:
        values = {name: attempt.starts.get(name, value) for name, value in self._values.items()}
        for name, move in point.moves.items():
            values[name] = values[name] + (attempt.folds[name].first(move) if name in attempt.folds else move)
        try:
            return _compare(point.results, self._run(attempt.small, values), attempt.folds)
        except UsersCodeError as error:
            text = str(error.cause).strip().split("\n")[0]
            return f"with fewer units the forward raises {type(error.cause).__name__}: {text[:120]}"

    def _run(self, model: nn.Module, values: Mapping[str, Tensor]) -> _Results:
        with borrow(model, (self._loss, self._objective), torch.float64) as held:
            task = Task(held.model, self._batch, self._loss, self._objective, seed=self._seed)
            runner = Runner(held, task, self._seed)
            try:
                with swapped([(held.params[name], value) for name, value in values.items()]):
                    return _Results(runner.outputs(1), runner.run(1).gradients)
            except UsersCodeError as error:
                if model is self.model:
                    raise explain_forward_error(error.cause, model) from error.cause
                raise


@dataclass(frozen=True, eq=False)
class _Point:
    """A point of the full network's weights: how far from the start, and what the full network computes there."""

    moves: Mapping[str, Tensor]
    results: _Results


@dataclass(frozen=True, eq=False)
class _Results:
    outputs: tuple[Tensor, ...]
    gradients: Mapping[str, Tensor | None]


def _compare(full: _Results, small: _Results, folds: Mapping[str, Fold]) -> str | None:
    if [o.shape for o in full.outputs] != [o.shape for o in small.outputs]:
        return "with fewer units its output has another shape"
    for wanted, got in zip(full.outputs, small.outputs, strict=True):
        if not _close(wanted, got, float(wanted.abs().max()) if wanted.numel() else 0.0):
            return "with fewer units it computes something else"
    largest = max((float(g.abs().max()) for g in full.gradients.values() if g is not None and g.numel()), default=0.0)
    for name, g in full.gradients.items():
        other = small.gradients.get(name)
        if g is None and other is None:
            continue
        one = torch.zeros(1, dtype=torch.float64) if g is None else g
        two = torch.zeros(1, dtype=torch.float64) if other is None else other
        if other is not None and name in folds:
            two = folds[name].spread(two)
        if not _close(one, two, max(float(one.abs().max()) if one.numel() else 0.0, 1e-4 * largest)):
            return f"the gradient of {name} is not that of equal units"
    return None


def _close(one: Tensor, other: Tensor, scale: float) -> bool:
    if not one.is_floating_point() and not one.is_complex():
        return bool(torch.equal(one, other))
    if one.ndim and other.ndim and one.shape != other.shape and 1 not in (one.numel(), other.numel()):
        return False
    return not one.numel() or bool(((one - other).abs() <= TOLERANCE * scale + 1e-300).all())
