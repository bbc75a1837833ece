"""Hold the user's model for a while, then give it back bit for bit. The only place that touches modes and state.

The working copies live in the user's own Parameter and buffer objects (`p.data = copy`), so tied weights stay
tied and every reference the model keeps stays valid. `copy.deepcopy` is never used: it breaks real models.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Convert = Callable[[Tensor], Tensor]
Undo = Callable[[], None]
_CONTAINERS = (list, dict, OrderedDict, defaultdict, set, deque)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A detached working copy: floats in `dtype`, complex in its complex twin, everything else as it is."""
    if tensor.is_quantized:
        return tensor
    wanted = tensor.dtype
    if tensor.is_floating_point():
        wanted = dtype
    elif tensor.is_complex():
        wanted = torch.complex128 if dtype == torch.float64 else torch.complex64
    return tensor.detach().to(wanted, copy=True)


class Borrowed:
    """A model (and its loss, if that is a module) in working precision, between `borrow` and its end.

    Attributes:
        model: the user's module, its tensors replaced by working copies.
        params: name -> parameter, each shared parameter once, under its first name.
        trainable: the names among them that require a gradient.
        dtype: the working precision.
    """

    def __init__(self, model: nn.Module, extra: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype
        self._modules = _all_modules((model, *extra))
        self.params = dict(model.named_parameters())
        self.trainable = tuple(name for name, p in self.params.items() if p.requires_grad)

    @contextlib.contextmanager
    def at(self, dtype: torch.dtype) -> Iterator[None]:
        """The same working values for a moment in another precision (to tell a small number from rounding)."""
        undo = _swap(self._modules, lambda t: cast(t, dtype))
        before, self.dtype = self.dtype, dtype
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
            self.dtype = before
            undo()

    @contextlib.contextmanager
    def scratch(self) -> Iterator[None]:
        """Whatever is done to the working values inside is undone at the end."""
        with self.at(self.dtype):
            yield


@contextlib.contextmanager
def borrow(model: nn.Module, extra: Sequence[nn.Module], dtype: torch.dtype) -> Iterator[Borrowed]:
    """Lend `model` in `dtype`, in training mode if it is in evaluation mode as a whole; restore it whatever happens."""
    with torch.inference_mode(False), contextlib.ExitStack() as stack:
        stack.enter_context(_global_state(model))
        modules = _all_modules((model, *extra))
        stack.callback(_snapshot(modules))
        stack.callback(_swap(modules, lambda t: cast(t, dtype)))
        for module in modules:
            for p in module._parameters.values():
                if p is not None:
                    p.grad = None
        torch.set_default_dtype(dtype)
        if not model.training:
            model.train()
        yield Borrowed(model, extra, dtype)


@contextlib.contextmanager
def _global_state(model: nn.Module) -> Iterator[None]:
    """Random state, default dtype, gradient mode, autocast: as they were, whatever the user's forward does to them."""
    default = torch.get_default_dtype()
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's forward may draw from either
    devices = sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
    autocast = {"cpu", *(d.type for d in devices)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[d.index or 0 for d in devices]))
        stack.enter_context(torch.enable_grad())
        for kind in sorted(autocast):
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            torch.set_default_dtype(default)
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def _all_modules(roots: Sequence[nn.Module]) -> list[nn.Module]:
    seen: dict[int, nn.Module] = {}
    for root in roots:
        for module in root.modules():
            seen.setdefault(id(module), module)
    return list(seen.values())


def _snapshot(modules: Sequence[nn.Module]) -> Undo:
    """Every attribute of every module, the contents of its containers, and each parameter's gradient and flags."""
    attributes = [(m, dict(m.__dict__)) for m in modules if not isinstance(m, torch.jit.ScriptModule)]
    contents: dict[int, tuple[Any, Any]] = {}
    for _, saved in attributes:
        for thing in saved.values():
            _save_contents(thing, contents)
    unique = {id(p): p for m in modules for p in m._parameters.values() if p is not None}
    params = [(p, p.grad, p.requires_grad, getattr(p, "_post_accumulate_grad_hooks", None)) for p in unique.values()]
    for p, *_ in params:
        # An optimizer that steps inside backward must not run on the probe's gradients.
        p._post_accumulate_grad_hooks = None  # type: ignore[assignment]

    def undo() -> None:
        for module, saved in attributes:
            module.__dict__.clear()
            module.__dict__.update(saved)
        for thing, content in contents.values():
            _restore_contents(thing, content)
        for p, grad, requires_grad, hooks in params:
            if p.requires_grad != requires_grad:
                p.requires_grad_(requires_grad)
            p.grad = grad
            p._post_accumulate_grad_hooks = hooks  # type: ignore[assignment]

    return undo


def _save_contents(thing: Any, saved: dict[int, tuple[Any, Any]]) -> None:
    if type(thing) in _CONTAINERS and id(thing) not in saved:
        saved[id(thing)] = (thing, thing.copy())
        for item in thing.values() if isinstance(thing, dict) else thing:
            _save_contents(item, saved)
    elif isinstance(thing, tuple):
        for item in thing:
            _save_contents(item, saved)


def _restore_contents(thing: Any, content: Any) -> None:
    # Unequal only when the forward changed it; comparing by identity never calls a tensor's own ==.
    if isinstance(thing, dict):
        if list(map(id, thing.values())) != list(map(id, content.values())) or list(thing) != list(content):
            thing.clear()
            thing.update(content)
    elif list(map(id, thing)) != list(map(id, content)):
        thing.clear()
        thing.update(content) if isinstance(thing, set) else thing.extend(content)


def _swap(modules: Sequence[nn.Module], convert: Convert) -> Undo:
    """Replace every tensor the modules hold by `convert(tensor)`; the returned function puts the originals back."""
    undo: list[Undo] = []
    made: dict[Any, Tensor] = {}
    done: set[int] = set()

    def working(tensor: Tensor) -> Tensor:
        # Two parameters over one memory stay one; so do a buffer and the attribute that points to it.
        key = (tensor.data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)
        if tensor.numel() == 0 or tensor.data_ptr() == 0:
            return convert(tensor)
        if key not in made:
            made[key] = convert(tensor)
        return made[key]

    for module in modules:
        for p in module._parameters.values():
            if p is not None and id(p) not in done:
                done.add(id(p))
                undo.append(_swap_data(p, working))
        if isinstance(module, torch.jit.ScriptModule):
            for buffer in module.buffers(recurse=False):
                undo.append(_swap_in_place(buffer))
            continue
        for holder in (module._buffers, module.__dict__):
            undo.append(_swap_values(holder, working))
        done.add(id(module._buffers))
        for value in list(module.__dict__.values()):
            undo.extend(_swap_container(value, working, done))

    def put_back() -> None:
        for step in reversed(undo):
            step()

    return put_back


def _swap_data(p: nn.Parameter, working: Convert) -> Undo:
    original, grad = p.data, p.grad
    p.grad = None
    p.data = working(original)

    def put_back() -> None:
        p.grad = None
        p.data = original
        p.grad = grad

    return put_back


def _swap_in_place(buffer: Tensor) -> Undo:
    original = buffer.detach().clone()
    return lambda: buffer.data.copy_(original) and None


def _swap_values(holder: dict[str, Any], working: Convert) -> Undo:
    originals = {k: v for k, v in holder.items() if isinstance(v, Tensor) and not isinstance(v, nn.Parameter)}
    holder.update({k: working(v) for k, v in originals.items()})
    return lambda: holder.update(originals)


def _swap_container(value: Any, working: Convert, done: set[int]) -> list[Undo]:
    """Plain tensors kept in a list or dict attribute, such as a cache of position tables."""
    if id(value) in done or not isinstance(value, list | dict):
        return []
    done.add(id(value))
    keys: Sequence[Any] = list(value) if isinstance(value, dict) else range(len(value))
    undo: list[Undo] = []
    for key in keys:
        item = value[key]
        if isinstance(item, Tensor) and not isinstance(item, nn.Parameter):
            value[key] = working(item)
            undo.append(_put_item(value, key, item))
        else:
            undo.extend(_swap_container(item, working, done))
    return undo


def _put_item(holder: Any, key: Any, item: Any) -> Undo:
    def put_back() -> None:
        if isinstance(holder, dict) or key < len(holder):
            holder[key] = item

    return put_back
