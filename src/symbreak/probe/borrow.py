"""Hold the user's model for a while, then give it back bit for bit. The only place that touches modes and state.

Everything the model owns is found by walking it: modules, containers, helper objects, what its hooks close over.
Plain tensors are replaced by working copies in the place that holds them. A parameter keeps its identity, so that tied
weights stay tied and every reference to it stays valid: its Python object is lent another tensor underneath, and the
original (values, `.grad`, hooks, gradient accumulator) lies untouched until the end. Assigning `p.data` instead would
drop the accumulator's hooks, and with them the synchronisation of DistributedDataParallel; `copy.deepcopy` breaks real
models.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import types
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_CONTAINERS = frozenset({list, dict, OrderedDict, defaultdict, Counter, set, deque})
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_ATOMS = frozenset({str, bytes, int, float, bool, complex, types.NoneType})  # the quick way out
_IGNORED = (str, bytes, int, float, complex, type, types.ModuleType, types.NoneType, torch.dtype, torch.device)
Working = Callable[[Tensor], Tensor]
Undo = Callable[[], Any]
Lend = Callable[[Tensor, Tensor], Undo]
_HOPS = 2  # helper objects deep: a cache held by a module, and what it holds; not a trainer and all its data


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A detached working copy: floats in `dtype`, complex in its complex twin, everything else as it is."""
    if tensor.is_quantized or torch.nn.parameter.is_lazy(tensor):
        return tensor
    wanted = tensor.dtype
    if tensor.is_floating_point():
        wanted = dtype
    elif tensor.is_complex():
        wanted = torch.complex128 if dtype == torch.float64 else torch.complex64
    return tensor.detach().to(wanted, copy=True)


def weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter, each shared parameter once, under its first name.

    Integers (quantised weights, index tables), which nothing trains, are not among them: they are data, as buffers are.
    """
    return {n: p for n, p in module.named_parameters() if p.is_floating_point() or p.is_complex()}


class Borrowed:
    """A model (and the modules of its loss or objective) in working precision, between `borrow` and its end.

    Attributes:
        model: the user's module, its tensors replaced by working copies.
        params: name -> parameter, as `weights` gives them.
        trainable: the names among them that require a gradient.
        dtype: the working precision.
    """

    def __init__(self, model: nn.Module, things: Sequence[Any], dtype: torch.dtype, device: torch.device) -> None:
        self._device = device
        self.model = model
        self.dtype = dtype
        self._things = things
        self._generators = [thing for thing in things if isinstance(thing, _GENERATORS)]
        self.params = weights(model)
        self.trainable = tuple(name for name, p in self.params.items() if p.requires_grad)

    @contextlib.contextmanager
    def at(self, dtype: torch.dtype) -> Iterator[None]:
        """The same working values for a moment in another precision (to tell a small number from rounding)."""
        before, default = self.dtype, torch.get_default_dtype()
        try:
            with _kept(self._generators), _lent(self._things, dtype, _lend_data):
                self.dtype = dtype
                torch.set_default_dtype(dtype)
                yield
        finally:
            torch.set_default_dtype(default)
            self.dtype = before

    @contextlib.contextmanager
    def scratch(self) -> Iterator[None]:
        """Whatever is done to the working values inside is undone at the end."""
        with self.at(self.dtype):
            yield

    def users_device(self) -> contextlib.AbstractContextManager[Any]:
        """Where the user's code makes its tensors (`torch.set_default_device`); the probe's own live on the CPU."""
        return contextlib.nullcontext() if self._device.type == "cpu" else self._device

    def seed(self, number: int) -> None:
        """Seed everything a forward can draw from: torch, numpy, Python, and generators that the model owns."""
        torch.default_generator.manual_seed(number)
        for device in _cuda_devices():
            torch.cuda.default_generators[device].manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)
        for generator in self._generators:
            _reseed(generator, number)


@contextlib.contextmanager
def borrow(model: nn.Module, extra: Sequence[Any], dtype: torch.dtype) -> Iterator[Borrowed]:
    """Lend `model` in `dtype`, in training mode if it is in evaluation mode as a whole; restore it whatever happens.

    `extra` is what else takes part, a loss or an objective: the modules among it, or that it refers to, are lent too.
    """
    device = torch.get_default_device()
    things = _belongings((model, *(thing for thing in _belongings(extra) if isinstance(thing, nn.Module))))
    with torch.inference_mode(False), _global_state(), _kept(things), _lent(things, dtype, _lend_tensor):
        torch.set_default_dtype(dtype)
        if not model.training:
            model.train()
        yield Borrowed(model, things, dtype, device)


@contextlib.contextmanager
def swapped(values: Iterable[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
    """Other values in place of some parameters for a while; nothing of the originals is touched."""
    with contextlib.ExitStack() as stack:
        for p, value in values:
            stack.callback(_lend_tensor(p, value.detach()))
        yield


# ---- the world around the model --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _global_state() -> Iterator[None]:
    """Random state, default dtype, gradient mode, autocast: as they were, whatever the user's forward does to them."""
    default = torch.get_default_dtype()
    python, legacy = random.getstate(), np.random.get_state()
    devices = _cuda_devices()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda") if devices else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if "torch._dynamo" in sys.modules:  # a compiled part of the model would be compiled anew for every precision
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            torch.set_default_dtype(default)
            random.setstate(python)
            np.random.set_state(legacy)


def _cuda_devices() -> list[int]:
    """Every device with a random state. One that was never used has none, and asking for it would create a context."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]


# ---- what the model owns ---------------------------------------------------------------------------------------------


def _belongings(roots: Iterable[Any]) -> list[Any]:
    """Everything the roots reach: modules, tensors, containers, closures, helper objects, generators."""
    queue = deque((root, 0) for root in roots)
    seen: dict[int, Any] = {}
    while queue:
        thing, hops = queue.popleft()
        if id(thing) in seen or hops > _HOPS or isinstance(thing, _IGNORED):
            continue
        seen[id(thing)] = thing
        for child in _children(thing):
            kind = type(child)
            if kind in _CONTAINERS or isinstance(child, (nn.Module, Tensor, tuple)):
                queue.appendleft((child, hops))
            elif kind not in _ATOMS:
                queue.append((child, hops + 1))
    return list(seen.values())


def _children(thing: Any) -> Iterable[Any]:
    if type(thing) in _CONTAINERS:
        return list(thing.values()) if isinstance(thing, dict) else list(thing)
    if isinstance(thing, tuple):
        return thing
    if isinstance(thing, torch.jit.ScriptModule):
        return [vars(thing), *thing.children(), *thing.parameters(recurse=False)]
    if isinstance(thing, Tensor):
        return [vars(thing), thing._backward_hooks] if thing.is_leaf else ()
    if isinstance(thing, types.FunctionType):
        used = (thing.__globals__.get(name) for name in thing.__code__.co_names)
        return [*(thing.__closure__ or ()), *(value for value in used if isinstance(value, nn.Module))]
    if isinstance(thing, types.MethodType):
        return thing.__self__, thing.__func__
    if isinstance(thing, functools.partial):
        return thing.func, thing.args, thing.keywords
    if isinstance(thing, types.CellType):
        return _contents(thing)
    attributes = getattr(thing, "__dict__", None)
    return [attributes] if type(attributes) is dict else ()


def _contents(cell: types.CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # an empty cell: a name that is assigned later
        return []


# ---- lend and give back ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _kept(things: Sequence[Any]) -> Iterator[None]:
    """Whatever the forward does to its own state is undone at the end."""
    undos = [restore for thing in things for restore in _restorers(thing)]
    try:
        yield
    finally:
        _undo_all(undos)


def _undo_all(undos: Sequence[Undo]) -> None:
    """Last first, and all of them, also where one raises. An ExitStack does the same, at a microsecond or more each."""
    failure: BaseException | None = None
    for undo in reversed(undos):
        try:
            undo()
        except BaseException as error:  # noqa: BLE001 - raised below, once everything is back
            failure = error
    if failure is not None:
        raise failure


@contextlib.contextmanager
def _lent(things: Sequence[Any], dtype: torch.dtype, lend: Lend) -> Iterator[None]:
    """Working copies in place of every tensor among the things; at the end the tensors are back."""
    made: dict[Any, Tensor] = {}

    def working(tensor: Tensor) -> Tensor:
        # Two parameters over one memory stay one; so do a buffer and the attribute that points to it.
        if tensor.layout != torch.strided or tensor.numel() == 0 or tensor.data_ptr() == 0:
            return cast(tensor, dtype)
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)
        if key not in made:
            made[key] = cast(tensor, dtype)
        return made[key]

    scripts = [thing for thing in things if isinstance(thing, torch.jit.ScriptModule)]
    in_script = {id(p) for module in scripts for p in module.parameters(recurse=False)}
    with contextlib.ExitStack() as stack:
        for thing in things:
            if isinstance(thing, Tensor):
                if _stays(thing):
                    # C++ refers to a script's parameters, not to their Python objects; subclasses hold more than one.
                    by_data = id(thing) in in_script or type(thing) not in (Tensor, nn.Parameter)
                    stack.callback((_lend_data if by_data else lend)(thing, working(thing)))
            elif isinstance(thing, torch.jit.ScriptModule):
                _replace_scripted(thing, working, stack)
            elif type(thing) in _CONTAINERS or isinstance(thing, types.CellType):
                _replace_items(thing, working, stack)
        yield


def _stays(tensor: Tensor) -> bool:
    """True for a tensor that gradients arrive at: others hold references to it, so it keeps its identity."""
    return isinstance(tensor, nn.Parameter) or (tensor.requires_grad and tensor.is_leaf)


def _lend_tensor(p: Tensor, copy: Tensor) -> Undo:
    """Let the Python object `p` stand for `copy`, and back again: nothing of the original is touched."""
    stand_in = nn.Parameter(copy, requires_grad=p.requires_grad)
    try:
        torch._C._swap_tensor_impl(p, stand_in)
    except RuntimeError:  # something in C++ watches the tensor
        return _lend_data(p, copy)
    p._backward_hooks = p._backward_hooks  # the user's hooks on the gradient are part of how the tensor learns
    return lambda: torch._C._swap_tensor_impl(p, stand_in)


def _lend_data(p: Tensor, copy: Tensor) -> Undo:
    """The same through `p.data`: for working copies, which nobody else watches, and for what C++ refers to."""
    original, grad, requires_grad = p.data, p.grad, p.requires_grad
    hooks = p._post_accumulate_grad_hooks or OrderedDict()
    kept = hooks.copy()
    hooks.clear()  # an optimizer that steps inside backward must not run on the probe's gradients

    def give_back() -> None:
        p.grad = None
        p.data = original
        p.requires_grad_(requires_grad)
        p.grad = grad
        hooks.update(kept)

    p.grad = None
    p.data = copy
    return give_back


def _replace_items(holder: Any, working: Working, stack: contextlib.ExitStack) -> None:
    if isinstance(holder, types.CellType):
        for content in _contents(holder):
            stack.callback(setattr, holder, "cell_contents", content)
            holder.cell_contents = _replaced(content, working)
    elif holder and not isinstance(holder, set):
        for key, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            if isinstance(value, (Tensor, np.ndarray, tuple)):
                other = _replaced(value, working)
                if other is not value:
                    stack.callback(_put_item, holder, key, value)
                    holder[key] = other


def _put_item(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, dict) or key < len(holder):  # the forward may have shortened a list
        holder[key] = value


def _replaced(value: Any, working: Working) -> Any:
    if isinstance(value, Tensor):
        return value if _stays(value) else working(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, tuple):
        items = [_replaced(item, working) for item in value]
        if any(a is not b for a, b in zip(items, value, strict=True)):
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _replace_scripted(module: torch.jit.ScriptModule, working: Working, stack: contextlib.ExitStack) -> None:
    for name, value in _scripted_attributes(module).items():
        if isinstance(value, Tensor) and not _stays(value):
            stack.callback(module._c.setattr, name, value)
            module._c.setattr(name, working(value))


def _scripted_attributes(module: torch.jit.ScriptModule) -> dict[str, Any]:
    names = {"training", *(name for name, _ in module.named_buffers(recurse=False))}
    if hasattr(module, "_concrete_type"):
        names |= set(module._concrete_type.get_attributes())
    return {name: module._c.getattr(name) for name in sorted(names) if module._c.hasattr(name)}


# ---- how each kind of thing is put back ------------------------------------------------------------------------------


def _restorers(thing: Any) -> Iterator[Undo]:
    if type(thing) in _CONTAINERS:
        yield functools.partial(_restore_container, thing, thing.copy())
    elif isinstance(thing, types.CellType):
        for content in _contents(thing):
            yield functools.partial(setattr, thing, "cell_contents", content)
    elif isinstance(thing, torch.jit.ScriptModule):
        for name, value in _scripted_attributes(thing).items():
            yield functools.partial(thing._c.setattr, name, value)
    elif isinstance(thing, _GENERATORS):
        yield _restore_generator(thing)
    elif isinstance(thing, Tensor) and thing._backward_hooks is None and thing.is_leaf and thing.requires_grad:
        yield functools.partial(_drop_hooks, thing)


def _restore_container(holder: Any, content: Any) -> None:
    # Only where the forward changed it; compared by identity, which never calls a tensor's own ==.
    if isinstance(holder, dict):
        same = list(holder) == list(content) and _all_same(holder.values(), content.values())
    else:
        same = _all_same(holder, content)
    if same:
        return
    holder.clear()
    holder.extend(content) if isinstance(holder, list | deque) else holder.update(content)


def _all_same(some: Collection[Any], others: Collection[Any]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _restore_generator(generator: Any) -> Undo:
    if isinstance(generator, torch.Generator):
        return functools.partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random):
        return functools.partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.RandomState):
        return functools.partial(generator.set_state, generator.get_state())
    return functools.partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)


def _drop_hooks(p: Tensor) -> None:
    if p._backward_hooks is not None:
        p._backward_hooks = None


def _reseed(generator: Any, number: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(number)
    elif isinstance(generator, random.Random):
        generator.seed(number)
    elif isinstance(generator, np.random.RandomState):
        generator.seed(number % 2**32)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(number).state
