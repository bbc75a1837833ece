"""Which elements of which tensors may be anything, and which are certainly zero: one mask a storage, not one a tensor.

A mask lies over a tensor's memory, element for element. Views, slices and in-place writes through any of them are then
right by construction: two tensors over one memory read and write one mask. What is not known may be anything.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

_SWEEP = 256  # writes between two looks for memory that is gone


class Masks:
    """Memory -> [elements] bool, False where the number is zero whatever the data and the free weights are."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[StorageWeakRef, int, Tensor]] = {}  # address -> (storage, bytes an element, mask)
        self._fixed: dict[int, StorageWeakRef] = {}
        self._writes = 0

    def known(self, tensor: Tensor) -> bool:
        """True where some element of this memory is certainly zero."""
        return address(tensor) in self._known

    def may(self, tensor: Tensor) -> Tensor:
        """[like tensor] True where the element may be anything."""
        entry = self._known.get(address(tensor) or 0)
        if entry is None or entry[1] != tensor.element_size() or entry[2].numel() != _elements(tensor):
            return torch.ones((), dtype=torch.bool, device=tensor.device).expand(tensor.shape)
        return entry[2].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def put(self, tensor: Tensor, may: Tensor | None) -> None:
        """Write the mask of what was just written into `tensor`; None is "anything"."""
        key = address(tensor)
        if key is None:
            return
        entry = self._known.get(key)
        if entry is None and (may is None or bool(may.all())):
            return
        if entry is not None and (entry[1] != tensor.element_size() or entry[2].numel() != _elements(tensor)):
            del self._known[key]  # the same memory read as another type: nothing is certain of it any more
            return
        if _overlaps(tensor):
            self._known.pop(key, None)
            return
        if entry is None:
            mask = torch.ones(_elements(tensor), dtype=torch.bool, device=tensor.device)
            entry = self._known[key] = (_hold(tensor), tensor.element_size(), mask)
            self._sweep()
        view = entry[2].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        view.copy_(may) if may is not None else view.fill_(True)

    def forget(self, tensor: Tensor) -> None:
        """Anything may be anywhere in this memory."""
        self._known.pop(address(tensor) or 0, None)

    # ---- numbers that are the same for every batch and every weight: index tables, ranges, causal masks -------------

    def fixed(self, tensor: Tensor) -> bool:
        """True where the numbers themselves are known to be the same on every batch."""
        return address(tensor) in self._fixed

    def fix(self, tensor: Tensor, fixed: bool) -> None:
        """Note whether what was just written into this memory depends on neither data nor weights."""
        key = address(tensor)
        if key is not None and fixed:
            self._fixed[key] = _hold(tensor)
            self._sweep()
        elif key is not None:
            self._fixed.pop(key, None)

    def _sweep(self) -> None:
        self._writes += 1
        if self._writes % _SWEEP == 0:
            self._known = {k: e for k, e in self._known.items() if not _gone(e[0])}
            self._fixed = {k: ref for k, ref in self._fixed.items() if not _gone(ref)}


def address(tensor: Tensor) -> int | None:
    """The identity of the memory below a plain tensor; None where it has none of its own (sparse, wrapped)."""
    if tensor.layout != torch.strided or tensor.numel() == 0:
        return None
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def _hold(tensor: Tensor) -> StorageWeakRef:
    """Keeps the address from being used again, not the memory."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _gone(storage: StorageWeakRef) -> bool:
    return bool(storage.expired())  # type: ignore[no-untyped-call]


def _elements(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().nbytes() // tensor.element_size())


def _overlaps(tensor: Tensor) -> bool:
    """True where one element of memory stands at several places of the tensor, as behind expand."""
    reach = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False
