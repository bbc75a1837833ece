"""A certificate of "never": zeros that hold one another at zero, whatever the data and the other weights are.

The ladder of wakeup.py measures that some elements got no gradient. This file proves it, by other means. One forward
and backward pass runs as it is, and beside every tensor runs a mask: may this element be anything, or is it certainly
zero? The candidates (elements that are zero and never moved) start as certain zeros, every other weight, the batch and
the loss as anything, and zero_rules.py says what each operation of ATen makes of the masks.

Z, a set of zero elements, is closed where every element of Z gets a gradient that is certainly zero. Then it stays
zero under every update that leaves a zero weight without gradient at zero (SGD, momentum, Adam, decay, clipping; not
added noise), by induction over the steps, whatever the other weights have become: the pass made no use of them. The
candidates that may get a gradient are taken out of Z until it is closed: the largest closed set among them. A weight
that is not zero, and whose gradient is certainly zero, is proved the same way: every path to it runs through Z.

What it assumes, and says: finite numbers; the path this batch took through the forward, where Python code branches;
frozen weights, integer and boolean buffers as they are, where the pass does not write to them. What it does not prove:
dead ReLU units, equal terms that cancel, rounding.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from symbreak.errors import BatchError

from .borrow import Borrowed
from .masks import Masks, address
from .passes import Runner, UsersCodeError
from .wakeup import STEP, Ladder, scale
from .zero_rules import MADE_OF_NOTHING, RULES, Call

_MOST_ROUNDS = 12
_PASSES_OF_THE_MASKS = 1.0  # what the masks cost beside the pass that carries them
_OFFSET = 3000  # of the step's number, so that the checker sees data the ladder has not seen
_READS = frozenset({"tolist", "numpy", "__array__", "item", "__bool__", "__int__", "__float__", "__index__"})
_NORM_STATE = ("running_mean", "running_var")  # written by operations whose schema does not say so


@dataclass(frozen=True)
class Proof:
    """A closed set of zeros, and every weight whose gradient is certainly zero with it.

    Attributes:
        still: tensor -> [like it] True where the gradient is certainly zero for ever.
        zeros: tensor -> how many elements of the closed set it holds.
        rounds: passes until the set was closed.
        reads: what the forward read off its data in Python, so that another batch may take another path.
    """

    still: Mapping[str, Tensor]
    zeros: Mapping[str, int]
    rounds: int
    reads: tuple[str, ...] = ()


class RefutedError(Exception):
    """A number that a rule called certainly zero was none: a wrong rule, or memory written behind torch's back."""


def still_zero(runner: Runner, ladder: Ladder) -> dict[str, Tensor]:
    """The candidates at the end of a climb: elements that are zero now, in tensors with zeros; a step moves the others.

    Empty where every row of every tensor got a gradient.
    """
    if all(bool(rows.all()) for rows in ladder.rows.values()):
        return {}
    found = {n: runner.held.params[n].data == 0 for n in runner.held.trainable if n in ladder.path}
    return {n: zero for n, zero in found.items() if bool(zero.any())}


def prove(runner: Runner, candidates: Mapping[str, Tensor]) -> Proof | None:
    """The largest closed set of zeros among the candidates; None where nothing could be proved.

    Args:
        runner: the borrowed model at its start.
        candidates: parameter -> [like it] True where it was zero before and after a climb.
    """
    runner.what = "proving what never learns"
    held = runner.held
    closed = {n: still & (held.params[n].data == 0) for n, still in candidates.items()}
    moving: frozenset[str] = frozenset()  # constants that the forward writes to
    for rounds in range(1, _MOST_ROUNDS + 1):
        closed = {n: z for n, z in closed.items() if bool(z.any())}
        try:
            seen = _propagate(runner, closed, moving)
        except (RefutedError, UsersCodeError, BatchError):
            return None
        moved, moving = seen.written - moving, moving | seen.written
        if moved:
            continue
        smaller = {n: z & ~seen.may[n] for n, z in closed.items() if n in seen.may}
        if all(n in smaller and torch.equal(smaller[n], z) for n, z in closed.items()):
            still = {n: ~may for n, may in seen.may.items() if not bool(may.all())}
            if not still:
                return None
            return Proof(still, {n: int(z.sum()) for n, z in closed.items()}, rounds, tuple(sorted(seen.reads)))
        closed = smaller
    return None


@dataclass
class _Seen:
    may: dict[str, Tensor]  # parameter with a path -> [like it] True where its gradient may be anything
    written: frozenset[str]
    reads: set[str]


def _propagate(runner: Runner, closed: Mapping[str, Tensor], moving: frozenset[str]) -> _Seen:
    """One pass with masks. Every weight outside `closed` is moved, so that a wrong rule is refuted by a number."""
    held = runner.held
    runner.passes += _PASSES_OF_THE_MASKS
    with held.scratch():
        _stir(runner, closed)
        masks, constants = Masks(), _constants(held)
        for name, table in constants.items():
            masks.fix(table, name not in moving and name not in held.params)
        frozen = {n: c == 0 for n, c in constants.items() if n in held.params and n not in moving}
        _begin(masks, held.params, {**closed, **frozen})
        before = {n: (c.detach().clone(), c._version) for n, c in constants.items()}
        mode = Propagation(masks, trusted=runner.task.objective is None)
        seen = runner.run(1 + _OFFSET, record=False, around=mode.running())
        if mode.refuted is not None:
            raise RefutedError(mode.refuted)
        gradients = {n: g for n, g in seen.gradients.items() if g is not None}
        may = {n: masks.may(g).clone() for n, g in gradients.items()}
        for name, gradient in gradients.items():
            if _refutes(gradient, may[name]):
                raise RefutedError(f"the gradient of {name}")
        now = _constants(held)
        written = {n for n, (c, version) in before.items() if now[n]._version != version or not torch.equal(now[n], c)}
    return _Seen(may, frozenset(written), mode.reads)


def _constants(held: Borrowed) -> dict[str, Tensor]:
    """What training leaves as it is, unless the forward writes to it: integer and boolean buffers, frozen weights."""
    tables = {n: b for n, b in held.model.named_buffers() if not (b.is_floating_point() or b.is_complex())}
    return tables | {n: p for n, p in held.params.items() if n not in held.trainable}


def _stir(runner: Runner, closed: Mapping[str, Tensor]) -> None:
    """Noise on every trainable weight outside the set: the claim is for every value of them."""
    generator = torch.Generator().manual_seed(runner.seed + 4242)
    with torch.no_grad():
        for name in runner.held.trainable:
            p = runner.held.params[name].data
            if p.is_floating_point():
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype).to(p.device)
                p.add_(
                    (STEP * scale(p) * noise).masked_fill_(closed[name], 0.0)
                    if name in closed
                    else STEP * scale(p) * noise
                )


def _begin(masks: Masks, params: Mapping[str, Tensor], closed: Mapping[str, Tensor]) -> None:
    """Certain zeros are what every parameter over the same memory holds to be in the set."""
    for name, zero in closed.items():
        masks.put(params[name].data, ~zero)
    shared: dict[int | None, list[str]] = {}
    for name, p in params.items():
        shared.setdefault(address(p.data), []).append(name)
    for names in shared.values():
        if len(names) > 1:
            for name in names:
                free = ~closed[name] if name in closed else torch.ones_like(params[name], dtype=torch.bool)
                masks.put(params[name].data, masks.may(params[name].data) | free)


class Propagation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operation as it is, and its rule on the masks."""

    def __init__(self, masks: Masks, *, trusted: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.masks = masks
        self.reads: set[str] = set()
        self.refuted: str | None = None
        self.trusted = trusted

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Attention by its parts, each of which has a rule; what Python reads off a tensor is noted."""
        with sdpa_kernel(SDPBackend.MATH), _Reading(self), self:
            yield

    def read(self, what: str, tensors: Sequence[Any]) -> None:
        """A number left torch for Python: literal numbers may be the data's from here on."""
        if any(isinstance(t, Tensor) and not self.masks.fixed(t) for t in tensors):
            self.reads.add("item" if what == "_local_scalar_dense" else what.strip("_"))
            self.trusted = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():  # the probe's own observer must not see the arithmetic of the masks
            result = func(*args, **kwargs)
            if self.refuted is None:
                try:
                    with torch.no_grad():
                        self._follow(func, args, kwargs, result)
                except Exception as error:  # noqa: BLE001 - nothing is proved then, and the user's pass goes on
                    self.refuted = f"the rule of {func} raised {error!r}"
            return result

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Note of every result which elements may be anything, and whether it is the same on every batch."""
        if torch.Tag.inplace_view in func.tags:
            return  # transpose_ and the like: other strides over the same memory
        name: str = func._overloadpacket.__name__
        arguments = _by_name(func, args, kwargs)
        operands, results = list(_tensors(list(arguments.values()))), list(_tensors(result))
        if _looks_at_data(func, name, arguments, result):
            self.read(name, operands)
        written = _written(func, arguments)
        name = name.removesuffix("_") if written else name
        says = self._ask(func, name, arguments, operands, result)
        fixed = self._is_fixed(func, name, operands)
        alone = len(written) == 1 and len(results) == 1 and written[0] is results[0]
        for t in written:
            self._note(name, t, says if alone and isinstance(says, Tensor) else None, fixed=fixed)
        old = {address(t) for t in operands}
        masks = says if isinstance(says, tuple) else (says,)
        parts = result if isinstance(says, tuple) else results
        for t, may in itertools.zip_longest(parts, masks):
            if isinstance(t, Tensor) and address(t) not in old:  # else a view, whose mask is that of its memory
                self._note(name, t, may, fixed=fixed)
        for t in _tensors([arguments.get(state) for state in _NORM_STATE]):
            self.masks.forget(t)

    def _ask(self, func: Any, name: str, arguments: dict[str, Any], operands: Sequence[Tensor], result: Any) -> Any:
        """What the operation's rule says; None, which is "anything", where there is none, or nothing to say."""
        rule = RULES.get(name) if func.namespace == "aten" and "out" not in arguments else None
        if rule is None or not (name in MADE_OF_NOTHING or any(self.masks.known(t) for t in operands)):
            return None
        return rule(Call(func, arguments, result, self.masks, trusted=self.trusted))

    def _note(self, name: str, tensor: Tensor, may: Tensor | None, *, fixed: bool) -> None:
        may = may if may is None else may.to(tensor.device).broadcast_to(tensor.shape)
        if may is not None and _refutes(tensor, may):
            self.refuted = f"a result of {name}"
        self.masks.put(tensor, may)
        self.masks.fix(tensor, fixed)

    def _is_fixed(self, func: Any, name: str, operands: Sequence[Tensor]) -> bool:
        chance = torch.Tag.nondeterministic_seeded in func.tags or name.startswith(("empty", "new_empty"))
        chance = chance or any(a.name == "generator" for a in func._schema.arguments)
        return self.trusted and not chance and all(self.masks.fixed(t) for t in operands)


def _written(func: Any, arguments: Mapping[str, Any]) -> list[Tensor]:
    """The arguments that the operation writes to, by its schema."""
    names = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return list(_tensors([arguments.get(n) for n in names]))


def _looks_at_data(func: Any, name: str, arguments: Mapping[str, Any], result: Any) -> bool:
    """True where a number goes to Python, or a shape depends on numbers: nonzero, unique, an index by a mask."""
    if name in ("index", "index_put", "_index_put_impl", "_unsafe_index_put"):
        return any(i.dtype in (torch.bool, torch.uint8) for i in _tensors(arguments["indices"]))
    foreign = func.namespace != "aten" and result is not None and not list(_tensors(result))
    return foreign or bool({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags))


class _Reading(TorchFunctionMode):
    """Sees what leaves torch without an operation: tolist, numpy."""

    def __init__(self, mode: Propagation) -> None:
        super().__init__()
        self._mode = mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READS:
            self._mode.read(name, args[:1])
        return func(*args, **(kwargs or {}))


def _refutes(tensor: Tensor, may: Tensor) -> bool:
    """True where a number that is certainly zero is another one, or none (NaN)."""
    if tensor.layout != torch.strided:
        return not bool(may.all())
    return bool(((tensor != 0) & ~may).any())


def _by_name(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument by the name the schema gives it, defaults included."""
    schema = func._schema.arguments
    found = {a.name: a.default_value for a in schema if a.has_default_value()}
    found |= {a.name: value for a, value in zip(schema, args, strict=False)}
    return {**found, **kwargs}


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from _tensors(item)
