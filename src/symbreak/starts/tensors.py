"""The tensors of a model: which names they go by, which may be written, which a pattern means."""

from __future__ import annotations

import bisect
import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from symbreak.errors import ModelError, SchemeError, nearest

_MAPS = Path("/proc/self/maps")


@dataclass(frozen=True, eq=False)
class Held:
    """One tensor of a model, under its first name.

    Attributes:
        names: every name it goes by; tied weights have several.
        left: why it must not be written, or None.
    """

    parameter: nn.Parameter
    names: tuple[str, ...]
    left: str | None

    @property
    def name(self) -> str:
        return self.names[0]


def tensors_of(model: nn.Module) -> dict[str, Held]:
    """First name -> tensor, in the model's order. Two parameters over one memory are one tensor.

    Raises:
        ModelError: not a module, no parameters, or one of them has no values (meta, lazy).
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"init_() got {type(model).__name__}; expected a torch.nn.Module. Pass the model itself, not its class, "
            "its state_dict or its output."
        )
    groups: dict[object, list[tuple[str, nn.Parameter]]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        _refuse(model, name, p)
        groups.setdefault(_memory(p), []).append((name, p))
    if not groups:
        raise ModelError(f"{type(model).__name__} has no parameters, so there is nothing to start.")
    one = [Held(group[0][1], tuple(name for name, _ in group), None) for group in groups.values()]
    beside, locked = _overlapping(one), _maps()
    return {t.name: Held(t.parameter, t.names, _reason(t, beside.get(t.name), locked)) for t in one}


def _refuse(model: nn.Module, name: str, p: nn.Parameter) -> None:
    if isinstance(p, nn.parameter.UninitializedParameter):
        raise ModelError(
            f"{name!r} of {type(model).__name__} is lazy and has no weights yet. Run one batch through the model first."
        )
    if p.is_meta:
        raise ModelError(
            f"{name!r} of {type(model).__name__} is on the meta device and has no memory. Give the model some first: "
            "model.to_empty(device='cpu')."
        )


def _memory(p: Tensor) -> object:
    if p.layout != torch.strided or p.numel() == 0 or p.data_ptr() == 0:
        return id(p)
    return p.data_ptr(), tuple(p.shape), tuple(p.stride()), p.dtype, p.device


def _reason(tensor: Held, beside: str | None, maps: list[tuple[int, int]]) -> str | None:
    p = tensor.parameter
    if not p.requires_grad:
        return "frozen (requires_grad=False)"
    if not p.is_floating_point():
        return f"holds {str(p.dtype).removeprefix('torch.')} numbers, not real ones"
    if p.layout != torch.strided or type(p) not in (Tensor, nn.Parameter):
        return f"is no plain dense tensor ({type(p).__name__}, {p.layout})"
    if any(stride == 0 and size > 1 for size, stride in zip(p.shape, p.stride(), strict=True)):
        return "its entries share memory with one another (it was expanded)"
    if beside is not None:
        return f"shares a part of its memory with {beside}"
    low, _ = _span(p)
    if p.device.type == "cpu" and _inside(low, maps):
        raise ModelError(
            f"{tensor.name!r} lies in read-only memory (a memory map), so nothing was written. Load it writable, or "
            "give it memory of its own: p.data = p.data.clone()."
        )
    return None


def _inside(address: int, spans: list[tuple[int, int]]) -> bool:
    """Whether one of the spans, from low addresses to high ones and apart, holds an address."""
    i = bisect.bisect(spans, (address, math.inf)) - 1
    return i >= 0 and address < spans[i][1]


def _overlapping(every: Iterable[Held]) -> dict[str, str]:
    """Tensor -> one over a part of the same memory; memory is gone through once, from low addresses to high ones."""
    found: dict[str, str] = {}
    open_: list[tuple[int, str]] = []
    device = ""
    for where, low, high, name in sorted((str(t.parameter.device), *_span(t.parameter), t.name) for t in every):
        open_ = [(end, other) for end, other in open_ if end > low and where == device]
        device = where
        if high > low:
            for _, other in open_:
                found.setdefault(name, other)
                found.setdefault(other, name)
            open_.append((high, name))
    return found


def _span(p: Tensor) -> tuple[int, int]:
    if p.layout != torch.strided or p.numel() == 0:
        return 0, 0
    last = sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True))
    return p.data_ptr(), p.data_ptr() + (last + 1) * p.element_size()


def _maps() -> list[tuple[int, int]]:
    """Spans of memory that the operating system lets nobody write: writing there ends the process, it does not raise.

    Source: the permissions column of /proc/self/maps (Linux); nothing is known elsewhere.
    """
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return []
    spans = []
    for line in lines:
        span, permissions, *_ = line.split()
        if "w" not in permissions:
            low, high = span.split("-")
            spans.append((int(low, 16), int(high, 16)))
    return spans


def numbers(tensor: Tensor) -> Tensor:
    """The entries of a tensor in a form that every operation takes: dense, and float32 where they are integers or too
    narrow for sums (float16 and below). Of a sparse tensor only the entries it holds; the others are 0.

    Example:
        >>> numbers(torch.tensor([3, -4])).norm()
        tensor(5.)
    """
    value = tensor.detach()
    if value.layout == torch.sparse_coo:
        value = value.coalesce().values()
    elif value.layout != torch.strided:
        value = value.to_dense()
    if value.is_quantized:
        value = value.dequantize()
    return value if value.dtype in (torch.float32, torch.float64) or value.is_complex() else value.float()


def matching(pattern: str, tensors: Mapping[str, Held]) -> tuple[str, ...]:
    """First names of the tensors that a glob pattern means, by any of their names.

    Raises:
        SchemeError: there is none; the message has the nearest three names.
    """
    if not isinstance(pattern, str):
        raise SchemeError(f"{pattern!r} is no pattern; expected a text such as 'head.*' or 'layers.?.weight'.")
    found = tuple(t.name for t in tensors.values() if any(fnmatch.fnmatchcase(name, pattern) for name in t.names))
    if not found:
        known = [name for t in tensors.values() for name in t.names]
        inside = any(name.startswith(f"{pattern}.") for name in known)
        hint = f" Patterns name tensors, not modules: write {pattern + '.*'!r}." if inside else ""
        raise SchemeError(f"no tensor matches {pattern!r}.{hint} {nearest(pattern, known)}")
    return found


def lengths_of(name: str) -> str | None:
    """The tensor of lengths that weight norm keeps beside one of directions.

    Example:
        >>> lengths_of("conv.parametrizations.weight.original1")
        'conv.parametrizations.weight.original0'
        >>> lengths_of("conv.weight_v")
        'conv.weight_g'
    """
    for ours, theirs in ((".original1", ".original0"), ("weight_v", "weight_g")):
        if name.endswith(ours):
            return name.removesuffix(ours) + theirs
    return None
