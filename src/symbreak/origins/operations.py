"""What an operation does to memory, read off its schema: what it writes, and whether by chance, by rule, or by copying.

Modes see operations after the composite ones have been taken apart, so that what arrives here is small: factories,
in-place writes, copies, views and arithmetic.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._ops import OpOverload

Way = Literal["views", "allocates", "adopts", "draws", "sets", "moves", "changes", "scatters"]
"""views: writes no values; allocates: memory as it is found; adopts: memory made elsewhere; draws: random numbers;
sets: numbers without chance or data; moves: what another tensor holds; changes: arithmetic on what it reads; scatters:
some entries, at places that are data."""

_ADOPTS = frozenset(["lift_fresh", "lift_fresh_copy", "lift"])
_ALLOCATES = frozenset(["empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "empty_permuted"])
_SETS = frozenset(["fill_", "fill", "zero_", "eye", "arange", "linspace", "logspace", "full", "ones", "zeros",
                   "scalar_tensor", "tril_indices", "triu_indices", "full_like", "ones_like", "zeros_like", "new_full",
                   "new_ones", "new_zeros", "range", "hann_window", "hamming_window"])  # fmt: skip
_MOVES = frozenset(["copy_", "copy", "clone", "_to_copy", "cat", "stack", "index", "index_select", "gather", "flip",
                    "roll", "repeat", "masked_select", "constant_pad_nd", "view_copy", "diagonal_copy", "expand_copy",
                    "permute_copy", "transpose_copy", "slice_copy", "select_copy", "tril", "triu", "_unsafe_view",
                    "_pin_memory"])  # fmt: skip
_SCATTERS = frozenset(["index_put_", "_index_put_impl_", "scatter_", "masked_fill_", "masked_scatter_", "index_fill_",
                       "index_copy_", "put_", "fill_diagonal_"])  # fmt: skip
_UNDECLARED = dict.fromkeys(
    ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"), ("running_mean", "running_var")
)
"""Arguments that an operation writes though its schema does not say so."""


@dataclass(frozen=True)
class Operation:
    """What an operation does.

    Attributes:
        name: as in `torch.ops.aten`, without the overload.
        way: what becomes of the values it writes.
        written: positions of the arguments it writes to.
        keywords: keyword arguments it writes to (out=).
        new: whether it may return memory of its own.
    """

    name: str
    way: Way
    written: tuple[int, ...]
    keywords: tuple[str, ...]
    new: bool

    def targets(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The tensors among the arguments that it wrote to."""
        found = [args[i] for i in self.written if i < len(args)]
        return tensors([*found, *(kwargs[k] for k in self.keywords if k in kwargs)])


@functools.cache
def operation_of(func: OpOverload) -> Operation:
    """What an operation does, by its schema, its tags and its name."""
    schema = func._schema
    name = schema.name.split("::")[-1]
    undeclared = _UNDECLARED.get(name, ())
    positions, keywords = [], []
    for i, argument in enumerate(schema.arguments):
        if argument.name in undeclared or (argument.alias_info is not None and argument.alias_info.is_write):
            keywords.append(argument.name)
            if not argument.kwarg_only:
                positions.append(i)
    new = any(r.alias_info is None for r in schema.returns)
    return Operation(name, _way(func, name), tuple(positions), tuple(keywords), new)


def _way(func: OpOverload, name: str) -> Way:
    if name in ("set_", "resize_", "resize_as_"):
        return "adopts" if name == "set_" else "allocates"
    if torch.Tag.inplace_view in func.tags:
        return "views"
    if torch.Tag.nondeterministic_seeded in func.tags:
        return "draws"
    known: tuple[tuple[frozenset[str], Way], ...] = (
        (_ADOPTS, "adopts"), (_ALLOCATES, "allocates"), (_SETS, "sets"), (_MOVES, "moves"), (_SCATTERS, "scatters"),
    )  # fmt: skip
    for names, way in known:
        if name in names:
            return way
    reads = any("Tensor" in str(a.type) and not (a.alias_info and a.alias_info.is_write and a.kwarg_only)
                for a in func._schema.arguments)  # fmt: skip
    return "changes" if reads else "sets"


def tensors(values: Any) -> list[Tensor]:
    """The tensors among values, and in lists among them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [v for v in value if isinstance(v, Tensor)]
    return found
