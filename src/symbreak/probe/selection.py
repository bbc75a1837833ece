"""What a selection by the data leaves out whole: anchors that no box matches, experts that a mask weighs with nothing.

Its gradient is exactly zero in this batch, and another batch may choose it. The graph tells it from what can never
learn: going up from the parameter, the gradient first stops being zero at a node that only picks entries (cat, slice,
index), and above it one picks by a tensor (index, gather, a mask) that is no buffer of the model's: CondenseNet's index
buffers, all zero until a checkpoint fills them, leave out channels for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from .graph import kind, nodes_below
from .passes import Runner

_BY_DATA = frozenset(["Index", "IndexSelect", "Gather", "Take", "MaskedSelect", "MaskedFill", "MaskedScatter", "Where"])
_PICKS = _BY_DATA | frozenset(
    ["Cat", "Stack", "Select", "Slice", "Split", "SplitWithSizes", "Unbind", "Narrow", "AsStrided"]
)


def left_out(runner: Runner, names: Iterable[str]) -> set[str]:
    """Those of the parameters that a selection by the data leaves out, in the first batch."""
    flow = _Flow(runner.held.model)
    runner.run(1, hooked=flow.watch)
    return {name for name in names if flow.leaves_out(name)}


class _Flow:
    """Which gradients of one backward pass are exactly zero, edge by edge of its graph."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._buffers = {b.untyped_storage().data_ptr() for b in model.buffers()}
        self._by_batch: set[Any] = set()
        self._leaf: dict[str, Any] = {}
        self._parents: dict[Any, list[tuple[Any, int]]] = {}
        self._arrives: dict[Any, bool] = {}  # node -> a gradient that is not all zero came to it
        self._passes: dict[tuple[Any, int], bool] = {}  # node, position -> it handed one down there

    def watch(self, roots: Iterable[Any]) -> None:
        """Hook every node below the roots, before backward."""
        for node in nodes_below(roots):
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) in self._names:
                self._leaf[self._names[id(variable)]] = node
            for position, (child, _) in enumerate(node.next_functions):
                if child is not None:
                    self._parents.setdefault(child, []).append((node, position))
            if kind(node) in _BY_DATA and not self._buffers & set(_chosen_by(node)):
                self._by_batch.add(node)
            node.register_hook(self._hook(node))

    def _hook(self, node: Any) -> Callable[..., None]:
        def hook(down: tuple[Tensor | None, ...], up: tuple[Tensor | None, ...]) -> None:
            self._arrives[node] = any(map(_lives, up))
            for position, gradient in enumerate(down):
                self._passes[node, position] = _lives(gradient)

        return hook

    def leaves_out(self, name: str) -> bool:
        """True where every gradient on its way to the parameter ends at a node that picks, and one picks by data."""
        if name not in self._leaf:
            return False
        stack, seen, ends = [self._leaf[name]], set(), []
        while stack:
            node = stack.pop()
            for above, position in self._parents.get(node, []):
                if self._passes.get((above, position)):
                    return False
                if self._arrives.get(above):
                    ends.append(above)
                elif above not in seen:
                    seen.add(above)
                    stack.append(above)
        return bool(ends) and all(kind(end) in _PICKS and self._by_data(end) for end in ends)

    def _by_data(self, node: Any) -> bool:
        stack, seen = [node], set()
        while stack:
            here = stack.pop()
            if here in self._by_batch:
                return True
            new = [above for above, _ in self._parents.get(here, []) if above not in seen]
            seen.update(new)
            stack.extend(new)
        return False


def _chosen_by(node: Any) -> Iterator[int]:
    """Where the tensors lie that say which entries a node picks. They are gone after backward."""
    for name in ("_saved_index", "_saved_indices", "_saved_mask", "_saved_condition"):
        saved = getattr(node, name, None)
        for t in saved if isinstance(saved, tuple | list) else [saved]:
            if isinstance(t, Tensor):
                yield t.untyped_storage().data_ptr()


def _lives(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())
