"""One forward pass in which every layer is adjusted as it is reached: what the next layer sees is already in order."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from symbreak.errors import BatchError
from symbreak.probe.observe import Observer
from symbreak.probe.task import Outcome
from symbreak.probe.usage import Owned, usage_of

from .session import Session
from .tensors import lengths_of

Adjust = Callable[["Layer"], str]


class Layer:
    """A layer at the moment it is applied: its output on the batch, and how to change what makes it.

    Attributes:
        weight: name of the parameter.
        name: what to call it: one part of a fused weight says which.
        biased: whether it has a bias that may be moved.
    """

    def __init__(
        self,
        weight: str,
        name: str,
        used: tuple[Tensor, ...],
        bias: Tensor | None,
        axis: int,
        out_axis: int,
        run: Callable[[], Any],
    ) -> None:
        self.weight, self.name = weight, name
        self._used, self._bias, self._axis, self._out_axis, self._run = used, bias, axis, out_axis, run
        self.result: Any = None
        self.again()

    @property
    def biased(self) -> bool:
        return self._bias is not None

    @property
    def output(self) -> Tensor:
        """[..., o] float: one column a unit."""
        first: Tensor = self.result[0] if isinstance(self.result, tuple) else self.result
        return first.detach().movedim(self._axis, -1).reshape(-1, first.shape[self._axis])

    def again(self) -> None:
        """Apply the layer once more."""
        self.result = self._run()
        if not bool(self.output.isfinite().all()):
            raise BatchError(
                f"the output of {self.name} is not finite on this batch. Look for very large inputs, or layers "
                "before it that were kept as they are."
            )

    def variance(self) -> float:
        """Of the whole output."""
        return float(self.output.var(unbiased=False))

    def scale(self, factor: float | Tensor) -> None:
        """Multiply the weight: by one number, or by one for each unit [o]."""
        for used in self._used:
            used.data.mul_(factor if isinstance(factor, float) else _along(factor, used, self._out_axis))

    def move(self, by: Tensor) -> None:
        """Add to the bias [o]."""
        assert self._bias is not None
        self._bias.data.add_(by.reshape(self._bias.shape))

    def put_bias(self, value: Tensor) -> None:
        """Set the bias [o]."""
        assert self._bias is not None
        self._bias.data.copy_(value.reshape(self._bias.shape))


def _along(factor: Tensor, used: Tensor, axis: int) -> Tensor:
    """[o] factors in the shape of the weight; the outputs of a transposed convolution with groups lie in both axes."""
    units = used.shape[axis]
    shape = [1] * used.dim()
    if len(factor) == units:
        shape[axis] = units
        return factor.reshape(shape)
    groups = len(factor) // units
    spread = factor.reshape(groups, units).repeat_interleave(used.shape[1 - axis] // groups, 0)  # [i, o / groups]
    return spread.reshape(*spread.shape, *[1] * (used.dim() - 2))


class Walker(Observer):
    """Calls `adjust` on each of the named layers when it is applied for the first time."""

    def __init__(self, session: Session, names: Collection[str], adjust: Adjust) -> None:
        super().__init__(session.model, session.held.dtype, step=1, measure=False)
        self._session, self._names, self._adjust = session, names, adjust
        self.told: dict[str, str] = {}
        self.beside: set[str] = set()  # lengths of weight norm, and biases, that were changed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if not self._recording:
            return result
        name = getattr(func, "__name__", "")
        self._recording = False  # what is done to a layer is no part of the model
        try:
            with torch.no_grad():
                changed = self._reached(func, name, types, args, kwargs or {}, result)
        finally:
            self._recording = True
        return super().__torch_function__(func, types, args, kwargs) if changed else result

    def _reached(self, func: Any, name: str, types: Any, args: Any, kwargs: Any, result: Any) -> bool:
        def rerun() -> Any:
            return super(Walker, self).__torch_function__(func, types, args, kwargs)

        if name == "multi_head_attention_forward":
            return self._attention(rerun, args, kwargs)
        layout = usage_of(name, args, kwargs, result) if isinstance(result, Tensor) else None
        tag = self._own.get(layout.weight) if layout is not None and layout.weight is not None else None
        if layout is None or tag is None or layout.out_axis is None or name == "embedding":
            return False
        weight = max(tag.names, key=self._sizes.__getitem__)
        if weight not in self._names or weight in self.told:
            return False
        if not result.numel():
            self.told[weight] = "puts out nothing on this batch: only drawn, not scaled by data"
            return False
        used = self._writable(weight, tag, layout.weight)
        if used is None:
            self.told[weight] = "made from parameters by code on the way: only drawn, not scaled by data"
            return False
        bias = self._bias_of(layout.bias)
        self._adjusted(Layer(weight, weight, used, bias, layout.unit_axis, layout.out_axis, rerun))
        return True

    def _adjusted(self, layer: Layer) -> None:
        told = self._adjust(layer)
        if layer.weight in self.told and layer.name != layer.weight:
            told = f"{self.told[layer.weight]}; {told}"
        self.told[layer.weight] = told

    def _bias_of(self, bias: Tensor | None) -> Tensor | None:
        tag = self._own.get(bias) if bias is not None else None
        if tag is None or bias is None or tag.names[-1] not in self._names or not self._is_own(bias, tag.names[-1]):
            return None
        self.beside.add(tag.names[-1])
        return bias

    def _writable(self, weight: str, tag: Owned, used: Tensor) -> tuple[Tensor, ...] | None:
        """What to multiply so that the weight is: the parameter itself through a view, or weight norm's lengths."""
        if self._is_own(used, weight):
            return (used,)
        lengths = lengths_of(weight)
        if lengths in tag.names and lengths in self._names:
            self.beside.add(lengths)
            length = self._session.held.params[lengths]
            if length.dim() == used.dim():
                return used, length
        return None

    def _is_own(self, used: Tensor, name: str) -> bool:
        own = self._session.held.params.get(name)
        return own is not None and used.untyped_storage().data_ptr() == own.untyped_storage().data_ptr()

    def _attention(self, rerun: Callable[[], Any], args: Any, kwargs: Any) -> bool:
        """torch's fused attention: query, key and value projections one by one, then the output's."""
        changed = False
        packed, packed_bias = args[5], args[6]
        width = args[0].shape[-1]
        parts: list[tuple[str, Tensor, Tensor | None, Tensor]] = []
        for i, part in enumerate(("query", "key", "value")):
            rows = slice(i * width, (i + 1) * width)
            weight = packed if packed is not None else kwargs.get(f"{part[0]}_proj_weight")
            if weight is None:
                continue
            bias = packed_bias[rows] if packed_bias is not None else None
            parts.append((part, weight[rows] if packed is not None else weight, bias, args[i]))
        for part, weight, bias, x in parts:
            tag = self._own.get(packed if packed is not None else weight)
            if tag is None or tag.names[-1] not in self._names or not self._is_own(weight, tag.names[-1]):
                continue
            own = tag.names[-1]
            run = _linear(x, weight, bias)
            may = bias is not None and self._bias_of(packed_bias) is not None
            self._adjusted(Layer(own, f"{own} ({part})", (weight,), bias if may else None, -1, 0, run))
            changed = True
        tag = self._own.get(args[11])
        if tag is not None and tag.names[-1] in self._names and tag.names[-1] not in self.told:
            bias = self._bias_of(args[12])
            self._adjusted(Layer(tag.names[-1], tag.names[-1], (args[11],), bias, -1, 0, rerun))
            changed = True
        return changed


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Callable[[], Tensor]:
    return lambda: torch.nn.functional.linear(x.detach(), weight, bias)


def walk(session: Session, names: Collection[str], adjust: Adjust) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Adjust the named layers in one pass. (new values, what was done to each weight)."""
    walker = Walker(session, names, adjust)
    _refuse_void(session.run(walker))
    changed = {*walker.told, *walker.beside}
    return {name: session.held.params[name].detach().clone() for name in changed}, walker.told


def _refuse_void(outcome: Outcome) -> None:
    """Layers were sized by what they put out; if nothing comes out of the model, that was no signal."""
    for i, output in enumerate(outcome.outputs):
        if output.numel() and not bool(output.detach().isfinite().any()):
            which = f"output {i} of the model" if len(outcome.outputs) > 1 else "the model's output"
            raise BatchError(
                f"{which} has no finite entry on this batch (shape {tuple(output.shape)}), though that of every layer "
                "it was sized by is finite. Look at what the model does after its last layer: a division by zero, a "
                "log, or a mask over everything."
            )
