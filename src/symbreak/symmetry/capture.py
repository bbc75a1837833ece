"""From a model and a batch to a graph of ATen operations, and its reading, node by node."""

from __future__ import annotations

import contextlib
import io
import logging
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from symbreak.probe.task import leaves as outputs

from . import positions, sums, totals, views  # noqa: F401  each puts its operations on the list
from .algebra import Algebra
from .borders import BORDER, functions_fenced, hooked, modules_fenced, reached, stumbled
from .gauges import Gauge
from .operations import ENTRYWISE, OPERATIONS, Call, NotUnderstoodError, Unread, constant, elementwise, tensors
from .recurrent import Kept
from .tracked import Tracked

_MADE = frozenset(
    {
        "zeros", "ones", "full", "empty", "arange", "linspace", "eye", "zeros_like", "ones_like", "full_like",
        "empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor", "tril_indices",
        "triu_indices", "logspace",
    }
)  # fmt: skip
_SMALL = 1 << 24  # constants with more entries are not computed


@dataclass(frozen=True)
class Captured:
    """One call of a model as a graph without side effects.

    Attributes:
        sources: placeholder -> ("parameter" | "buffer" | "constant" | "input", name).
        results: what the graph returns: ("output" | "mutation", name) each.
        leaks: where one call was followed, why no more could be: numbers that it took out of its tensors are what they
            were in it.
        cut: module that stands behind a border, and why.
        hidden: parameters with a gradient by a way that the graph does not show.
        switches: whether gradients are switched off for a part of it, which the graph does not show either.
    """

    module: fx.GraphModule
    sources: Mapping[str, tuple[str, str]]
    results: tuple[tuple[str, str], ...]
    constants: Mapping[str, Any]
    leaks: tuple[str, ...] = ()
    cut: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    switches: bool = False


def exported(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Captured:
    """The model's graph by torch.export: it raises where the way through the model depends on the data."""
    for name in hooked(model):
        raise NotUnderstoodError(f"hooks may change the gradients of {name}")
    with _quiet(), functions_fenced():
        program = torch.export.export(model, args, dict(kwargs), strict=False)
        switches = any("grad_enabled" in str(node.target) for node in program.graph.nodes)
        program = program.run_decompositions({})  # which forgets them
    kinds = {InputKind.PARAMETER: "parameter", InputKind.BUFFER: "buffer", InputKind.CONSTANT_TENSOR: "constant"}
    sources = {
        spec.arg.name: (kinds.get(spec.kind, "input"), spec.target or "")
        for spec in program.graph_signature.input_specs
    }
    results = tuple(
        ("mutation", spec.target or "") if spec.kind == OutputKind.BUFFER_MUTATION else ("output", "")
        for spec in program.graph_signature.output_specs
    )
    return Captured(program.graph_module, sources, results, program.constants, switches=switches)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """An export that fails is told by what it raises: torch also logs it, and prints the whole graph to stderr."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def followed(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], why: str) -> Captured:
    """One call, where the model cannot be exported; a module that cannot be traced either stands behind a border."""
    cut = dict.fromkeys(hooked(model), "hooks may change its gradients")
    while True:
        try:
            with functions_fenced(), modules_fenced(model, cut, args, kwargs):
                return replace(traced(model, args, kwargs, why), cut=cut)
        except Exception as error:
            name = stumbled(error, model, cut)
            if name is None:
                raise
            cut = {n: w for n, w in cut.items() if not n.startswith(name + ".")} | {name: told(error)}


def told(error: BaseException) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"could not be exported: {type(error).__name__}: {first[:200].removesuffix('.')}."


def traced(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], why: str) -> Captured:
    """The operations of one call: sound for calls that go the same way, by the same branches and whole numbers."""
    flat, spec = tree_flatten((args, dict(kwargs)))
    at = [n for n, leaf in enumerate(flat) if isinstance(leaf, Tensor)]
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], *given: Tensor) -> list[Tensor]:
        full = list(flat)
        for n, t in zip(at, given, strict=True):
            full[n] = t
        args, kwargs = tree_unflatten(full, spec)
        return list(outputs(torch.func.functional_call(model, {**parameters, **buffers}, args, kwargs)))

    inputs = (parameters, buffers, *(flat[n] for n in at))
    graph = make_fx(call, tracing_mode="real", pre_dispatch=True, _error_on_data_dependent_ops=False)(*inputs)
    for node in list(graph.graph.nodes):
        if str(node.target) in ("aten.item.default", "aten._local_scalar_dense.default") and not node.users:
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    lifted = [operator.attrgetter(str(node.target))(graph) for node in graph.graph.nodes if node.op == "get_attr"]
    leaves = reached([t for t in lifted if isinstance(t, Tensor)], [])
    hidden = frozenset(n for n, p in parameters.items() if id(p) in leaves)
    names = [*(("parameter", n) for n in parameters), *(("buffer", n) for n in buffers), *(("input", "") for _ in at)]
    try:
        with _quiet():
            program = torch.export.export(graph, inputs, strict=False).run_decompositions({})
    except Exception:  # noqa: BLE001 - sizes that depend on the data: as they were in this call
        plain = make_fx(torch.func.functionalize(graph), _error_on_data_dependent_ops=False)(*inputs)
        places = [node.name for node in plain.graph.nodes if node.op == "placeholder"]
        made = [node.args[0] for node in plain.graph.nodes if node.op == "output"]
        results = tuple(("output", "") for _ in _leaves(made))
        return Captured(plain, dict(zip(places, names, strict=True)), results, {}, (why,), hidden=hidden)
    left = iter(names)
    sources = {
        spec.arg.name: next(left) if spec.kind == InputKind.USER_INPUT else ("constant", spec.target or "")
        for spec in program.graph_signature.input_specs
    }
    results = tuple(
        ("mutation", sources[spec.target][1]) if spec.kind == OutputKind.USER_INPUT_MUTATION else ("output", "")
        for spec in program.graph_signature.output_specs
    )
    return Captured(program.graph_module, sources, results, {**program.state_dict, **program.constants}, (why,),
                    hidden=hidden)  # fmt: skip


def read(captured: Captured, model: nn.Module, algebra: Algebra, gauges: Sequence[Gauge] = ()) -> None:
    """Read a graph into the ledger of the algebra, the gauges watching; what it returns is told apart."""
    reader = _Reader(captured, model, algebra, gauges)
    outputs = reader.run(captured.module, reader.inputs())
    by_hooks = {name for name, p in model.named_parameters() if p._backward_hooks}
    for name in sorted(captured.hidden | by_hooks):
        tensor = algebra.tensor(name, reader.owned(name).detach(), fixed=False)
        algebra.forget(tensor, f"how {name} gets its gradient is not understood")
    flat = list(_leaves(outputs))
    for (kind, name), found in zip(captured.results, flat, strict=True):
        if not isinstance(found, Tracked):
            continue
        if kind == "output" or name not in reader.sources:
            algebra.forget(found)
        else:  # a buffer: its axes are units only as far as what is put into it says so
            before = reader.sources[name]
            algebra.elementwise([before, replace(algebra.exposed(found), random=False)], before.shape)


class _Reader:
    def __init__(self, captured: Captured, model: nn.Module, algebra: Algebra, gauges: Sequence[Gauge]) -> None:
        self.captured, self.model, self.algebra, self._gauges = captured, model, algebra, gauges
        self.sources: dict[str, Tracked] = {}
        self._tensors = {
            n: t for some in (model.named_buffers, model.named_parameters) for n, t in some(remove_duplicate=False)
        }
        first: dict[int, str] = {}
        for n, t in (*model.named_parameters(), *model.named_buffers()):
            first.setdefault(id(t), n)
        self._first = first
        self._changing = {name for kind, name in captured.results if kind == "mutation"}
        self._samples = _samples(captured) if algebra.prefix else frozenset()
        self._one_call = bool(captured.leaks)

    def inputs(self) -> list[Tracked]:
        found = []
        for node in self.captured.module.graph.nodes:
            if node.op == "placeholder":
                kind, name = self.captured.sources.get(node.name, ("input", ""))
                found.append(self._input(kind, name, node))
        return found

    def _input(self, kind: str, name: str, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if kind == "input":
            return _raw(value)
        if kind == "constant" or name not in self._tensors:
            known = self.captured.constants.get(name)
            return self._plain_tensor(known) if isinstance(known, Tensor) else _raw(value)
        tensor = self._tensors[name]
        name = self._first.get(id(tensor), name)
        inside = any(name.startswith(n + ".") for n in self.captured.cut)
        fixed = kind == "buffer" and name not in self._changing and not inside
        if fixed and not tensor.is_floating_point():
            return constant(tensor.detach())
        if name not in self.sources:
            self.sources[name] = self.algebra.tensor(name, tensor.detach(), fixed=fixed)
        return self.sources[name]

    def owned(self, name: str) -> Tensor:
        return self._tensors[name]

    def run(self, module: fx.GraphModule, given: Iterable[Any]) -> Any:
        values: dict[fx.Node, Any] = {}
        arguments = iter(given)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(arguments)
            elif node.op == "get_attr":
                values[node] = self._attribute(module, str(node.target))
            elif node.op == "output":
                return fx.node.map_arg(node.args[0], lambda n: values[n])
            else:
                args = fx.node.map_arg(node.args, lambda n: values[n])
                kwargs = fx.node.map_arg(node.kwargs, lambda n: values[n])
                values[node] = self._call(node, args, kwargs)
        raise AssertionError("a graph ends with its output")

    def _attribute(self, module: fx.GraphModule, name: str) -> Any:
        found = operator.attrgetter(name)(module)
        return self._plain_tensor(found) if isinstance(found, Tensor) else found

    def _plain_tensor(self, tensor: Tensor) -> Tracked:
        """A tensor that the model does not own: its numbers, unless they are trained elsewhere or those of one call.

        What an objective holds of the length of the batch may be its labels, which another batch would not have.
        """
        labels = tensor.ndim > 0 and tensor.shape[0] in self._samples
        free = labels or tensor.requires_grad or (self._one_call and not _whole_numbers(tensor))
        return Tracked(_shape(tensor)) if free else constant(tensor.detach())

    def _call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target, value = node.target, node.meta.get("val")
        self.algebra.where = _module(node).removeprefix(self.algebra.prefix) or self.algebra.where or "model"
        if target is operator.getitem:
            if isinstance(args[0], Tracked):  # a list of one
                return args[0] if args[1] == 0 else self._unknown(str(node), [args[0]], value)
            found = args[0][args[1]]
            if isinstance(found, Unread):
                return self._unknown(str(node), [found.like], value)
            return found.stacked(self.algebra, _shape(value)) if isinstance(found, Kept) else found
        inner = [a for a in args if isinstance(a, fx.GraphModule)]
        if inner and "wrap_with" in str(target):
            at = args.index(inner[0])
            return self.run(inner[0], args[at + 1 :])
        if not isinstance(target, torch._ops.OpOverload):
            return self._plain(node, args, kwargs)
        return self._operation(target, args, kwargs, value)

    def _plain(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Arithmetic on sizes, and calls that hide a graph."""
        if not list(tensors([args, list(kwargs.values())])):
            return node.meta.get("val") if node.meta.get("val") is not None else node.target(*args, **kwargs)  # type: ignore[operator]
        return self._unknown(str(node.target), [args, list(kwargs.values())], node.meta.get("val"))

    def _operation(self, target: Any, args: Any, kwargs: Any, value: Any) -> Any:
        name = target._schema.name.split("::")[-1]
        if name.startswith(("_assert", "sym_", "_check")):
            return value
        if name == BORDER:
            return self._fenced(args[2], args, value)
        operands = list(tensors([args, list(kwargs.values())]))
        if torch.Tag.nondeterministic_seeded in target.tags and name not in OPERATIONS:
            for t in operands:
                self.algebra.forget(t)
            return _map(value, lambda v: replace(_raw(v), random=True) if isinstance(v, Tensor) else v)
        if name in _MADE or all(t.fixed for t in operands):
            known = self._known(target, name, args, kwargs, value)
            if known is not None:
                return known
        if not any(isinstance(v, Tensor) for v in _leaves(value)):
            for t in operands:
                self.algebra.forget(t, f"{name} takes a number out of the graph")
            return value
        handler = OPERATIONS.get(
            f"{name}_dim" if target._overloadname == "dim" and f"{name}_dim" in OPERATIONS else name
        )
        if handler is None and (torch.Tag.pointwise in target.tags or name in ENTRYWISE):
            handler = elementwise
        shapes = tuple(_shape(v) for v in _leaves(value) if isinstance(v, Tensor))
        if handler is None:
            return self._unknown(name, [args, list(kwargs.values())], value)
        call, before = Call(name, self.algebra, _bound(target, args, kwargs), shapes), self.algebra.ledger.units
        try:
            found = handler(call)
        except NotUnderstoodError:
            return self._unknown(name, [args, list(kwargs.values())], value)
        except Exception:  # noqa: BLE001 - a form that the rule did not foresee is not understood
            return self._unknown(name, [args, list(kwargs.values())], value)
        for gauge in self._gauges:
            gauge.watch(call, found, self.algebra.ledger, before)
        return found

    def _known(self, target: Any, name: str, args: Any, kwargs: Any, value: Any) -> Any:
        """The numbers of what depends on nothing."""
        leaves = [v for v in _leaves(value) if isinstance(v, Tensor)]
        if self._one_call and any(isinstance(a, float) for a in _leaves([args, kwargs])):
            return None  # it may have been taken out of a tensor
        if not leaves or sum(v.numel() for v in leaves) > _SMALL:
            return None
        if name in _MADE and any(not t.fixed for t in tensors([args, list(kwargs.values())])):
            if name.startswith("new_"):
                args = (torch.zeros(1, dtype=leaves[0].dtype), *args[1:])
            else:
                args = (torch.zeros(leaves[0].shape, dtype=leaves[0].dtype), *args[1:])
        try:
            found = target(*_map(args, _numbers), **{k: _map(v, _numbers) for k, v in kwargs.items()})
        except (RuntimeError, TypeError, NotImplementedError, AttributeError, ValueError):
            return None
        if name in ("empty", "empty_like", "new_empty"):
            found = torch.zeros_like(found)
        return _map(found, lambda t: constant(t) if isinstance(t, Tensor) else t)

    def _fenced(self, name: str, operands: Any, value: Any) -> Any:
        why = f"{name} is not understood"
        self.algebra.ledger.cut.setdefault(name, self.captured.cut.get(name, "its gradient is written by hand"))
        for t in tensors(operands):
            self.algebra.forget(t, why)
        return _map(value, lambda v: _raw(v) if isinstance(v, Tensor) else v)

    def _unknown(self, name: str, operands: Any, value: Any) -> Any:
        for t in tensors(operands):
            self.algebra.forget(t, f"{name} in {self.algebra.where or 'the model'} is not understood")
        return _map(value, lambda v: _raw(v) if isinstance(v, Tensor) else v)


_UNKNOWN_SIZES: dict[str, int] = {}


def _shape(value: Any) -> tuple[int, ...]:
    """Sizes; one that depends on the data stands as a number of its own, and only needs to be equal to itself."""
    return tuple(
        n if isinstance(n, int) else _UNKNOWN_SIZES.setdefault(str(n), 1_000_003 + 2 * len(_UNKNOWN_SIZES))
        for n in value.shape
    )


def _samples(captured: Captured) -> frozenset[int]:
    """Lengths of the inputs along their first dimension."""
    inputs = (n for n in captured.module.graph.nodes if n.op == "placeholder")
    values = [n.meta.get("val") for n in inputs if captured.sources.get(n.name, ("input", ""))[0] == "input"]
    return frozenset(v.shape[0] for v in values if isinstance(v, Tensor) and v.ndim and v.shape[0] != 1)


def _whole_numbers(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def _numbers(thing: Any) -> Any:
    return thing.value if isinstance(thing, Tracked) else thing


def _raw(value: Any) -> Any:
    return Tracked(_shape(value)) if isinstance(value, Tensor) else value


def _bound(target: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments by the names of the operation's schema, with its defaults."""
    found = {}
    for n, a in enumerate(target._schema.arguments):
        found[a.name] = args[n] if n < len(args) else kwargs.get(a.name, a.default_value)
    return found


def _module(node: fx.Node) -> str:
    """The path of the innermost module that runs."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(list(stack.values())), ("", None))[0] if stack else ""
    return str(path).removeprefix("L['self'].").replace("L['self']", "")


def _leaves(thing: Any) -> Iterable[Any]:
    if isinstance(thing, tuple | list):
        for part in thing:
            yield from _leaves(part)
    elif isinstance(thing, dict):
        for part in thing.values():
            yield from _leaves(part)
    else:
        yield thing


def _map(thing: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(thing, tuple | list):
        return (
            type(thing)([_map(part, change) for part in thing])
            if type(thing) in (tuple, list)
            else [_map(p, change) for p in thing]
        )
    return change(thing)
