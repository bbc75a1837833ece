"""Parts of a model that no graph shows: what enters and leaves them is all that is known, and is told apart.

A custom autograd.Function has a backward of its own, of which its forward says nothing. A module that can be neither
exported nor traced is run once by itself; in the graph its recorded outputs stand behind a border.
"""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from symbreak.probe.graph import nodes_below

BORDER = "border"


_border = torch.library.custom_op(
    f"symbreak::{BORDER}",
    lambda inside, outside, name: [t.clone() for t in outside],  # noqa: ARG005 - a graph reads what came in, and who
    mutates_args=(),
    schema="(Tensor[] inside, Tensor[] outside, str name) -> Tensor[]",
)
_border.register_fake(lambda inside, outside, name: [torch.empty_like(t) for t in outside])  # noqa: ARG005 - as above


def fenced(given: Iterable[Any], made: Any, name: str) -> Any:
    """`made`, in a graph behind a border that all tensors of `given` go into."""
    leaves, spec = tree_flatten(made)
    at = [n for n, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    if at:
        inside = [t for t in tree_flatten(list(given))[0] if isinstance(t, Tensor)]
        for n, t in zip(at, _border(inside, [leaves[n] for n in at], name), strict=True):
            leaves[n] = t
    return tree_unflatten(leaves, spec)


@contextlib.contextmanager
def functions_fenced() -> Iterator[None]:
    """Every custom autograd.Function of this thread behind a border; torch's own have the backward of their forward."""
    plain, here = torch.autograd.Function.__dict__["apply"], threading.get_ident()

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        made = plain.__get__(None, cls)(*args, **kwargs)
        if threading.get_ident() != here or cls.__module__.partition(".")[0] == "torch":
            return made
        return fenced((args, kwargs), made, cls.__name__)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.autograd.Function.apply = plain  # type: ignore[method-assign]


@dataclass
class _Recorded:
    """What a module returned, call by call, and which parameters of others its gradients reach by no input."""

    made: list[Any] = field(default_factory=list)
    foreign: set[str] = field(default_factory=set)


@contextlib.contextmanager
def modules_fenced(
    model: nn.Module, names: Iterable[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[None]:
    """These modules behind borders: the model is called once more, to record what they return."""
    modules = {name: model.get_submodule(name) for name in names}
    with contextlib.ExitStack() as hooks:
        found = {name: hooks.enter_context(_record(model, module)) for name, module in modules.items()}
        if modules:
            model(*args, **kwargs)
    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(_replayed(model, module, found[name], name))
        yield


@contextlib.contextmanager
def _record(model: nn.Module, module: nn.Module) -> Iterator[_Recorded]:
    found, names = _Recorded(), {id(p): name for name, p in model.named_parameters()}
    own = {id(p) for p in module.parameters()}

    def look(_: nn.Module, args: Any, kwargs: Any, made: Any) -> None:
        leaves, spec = tree_flatten(made)
        found.foreign |= {names[n] for n in reached(leaves, tree_flatten((args, kwargs))[0]) - own if n in names}
        found.made.append(tree_unflatten([t.detach().clone() if isinstance(t, Tensor) else t for t in leaves], spec))

    handle = module.register_forward_hook(look, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def reached(made: Iterable[Any], given: Iterable[Any]) -> set[int]:
    """Ids of the leaves that gradients of `made` reach without passing through `given`."""
    inputs = [t for t in given if isinstance(t, Tensor)]
    roots = (t.grad_fn for t in made if isinstance(t, Tensor))
    nodes = nodes_below(roots, until=[t.grad_fn for t in inputs])
    return {id(n.variable) for n in nodes if hasattr(n, "variable")} - {id(t) for t in inputs}


@contextlib.contextmanager
def _replayed(model: nn.Module, module: nn.Module, found: _Recorded, name: str) -> Iterator[None]:
    made = iter(found.made)

    def forward(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
        others = [model.get_submodule(n.rpartition(".")[0])._parameters[n.rpartition(".")[2]] for n in found.foreign]
        return fenced((args, kwargs, list(module.parameters()), others), next(made), name)

    before = dict(module.__dict__)
    module.__dict__["forward"] = types.MethodType(forward, module)
    try:
        yield
    finally:
        del module.__dict__["forward"]
        module.__dict__.update({k: v for k, v in before.items() if k == "forward"})


def hooked(model: nn.Module) -> list[str]:
    """Modules whose gradients somebody's hooks may change."""
    return [n for n, m in model.named_modules() if n and (m._backward_hooks or m._backward_pre_hooks)]


def stumbled(error: BaseException, model: nn.Module, cut: Mapping[str, str]) -> str | None:
    """The innermost module in whose forward this was raised, and that is not cut out yet; None for the model itself."""
    names = {id(module): name for name, module in model.named_modules()}
    path, at = "", error.__traceback__
    while at is not None:
        path = names.get(id(at.tb_frame.f_locals.get("self")), path)
        at = at.tb_next
    while path and any(path == n or path.startswith(n + ".") for n in cut):
        path = path.rpartition(".")[0]
    return path or None
