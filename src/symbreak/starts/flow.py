"""What a forward pass does, as a graph of calls: which value is made of which, by what kind of operation.

Recorded once, read by everything else: what follows a layer, where residual branches end, how moments travel. Nothing
of the values is kept but their shapes and, along runs of elementwise operations, the image of a fixed grid: what an
activation does is asked of the very functions that ran, written out or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from symbreak.probe.observe import Observer
from symbreak.probe.usage import APPLIES, Owned, Tags, tensors_among, usage_of

from .operations import (
    ADDS,
    CONCATS,
    FUSED,
    MAPS,
    MAXES,
    MEANS,
    MULTIPLIES,
    NORMS,
    PRODUCTS,
    RECURRENT,
    SOFTMAXES,
    VIEWS,
)
from .session import Session

Kind = Literal[
    "input",  # no parameter has touched it
    "apply",  # a weight between units: linear, convolution, x @ W
    "lookup",  # rows of a table
    "attention",  # torch's fused attention, with its projections or without
    "recurrent",
    "norm",
    "phi",  # elementwise in one value
    "view",  # the same numbers, or some of them, in another shape
    "add",  # of two values
    "shift",  # a parameter or a constant tensor added
    "scale",  # a parameter or a constant tensor times a value
    "gate",  # of two values, multiplied
    "concat",
    "mean", "sum", "max",  # over axes or windows
    "softmax",
    "product",  # of two values, as matrices
    "other",
]  # fmt: skip

GRID = torch.linspace(-8.0, 8.0, 3201, dtype=torch.float64)
"""Standard deviations at which an activation is looked at, a two-hundredth apart."""
STEP = float(GRID[1] - GRID[0])
MASS = torch.exp(-(GRID**2) / 2) / math.sqrt(2 * math.pi) * STEP
"""Of a standard normal at each of them."""


@dataclass(eq=False)
class Call:
    """One value of the forward pass, and what made it.

    Attributes:
        inputs: the values it is made of, without parameters.
        params: the parameters that took part, in the order of the arguments.
        weight, bias: of an apply or lookup, and of the output projection of torch's attention.
        fresh: of a phi: calls(samples) -> samples, the operation with everything but its one value filled in.
        share: of a mean, sum, max: how many numbers one is made of.
        part: of a view: whether its numbers are some, not all, of its input's.
    """

    index: int
    kind: Kind
    name: str
    shape: tuple[int, ...]
    inputs: tuple[Call, ...] = ()
    params: tuple[str, ...] = ()
    weight: str | None = None
    bias: str | None = None
    out_axis: int | None = None
    in_axis: int | None = None
    layer: str = ""
    fresh: Callable[..., Tensor] | None = None
    share: float = 1.0
    part: bool = False
    constant: Tensor | None = None
    readers: list[Call] = field(default_factory=list, repr=False)
    positions: tuple[int, ...] = ()  # which argument each input was
    root: Call | None = field(default=None, repr=False)
    samples: Tensor = field(default=GRID, repr=False)  # image of the grid, put in at the root
    output: bool = False  # whether the model returns it
    moments: tuple[float, float, float, float] | None = None  # of an input: see _moments

    @property
    def mixes(self) -> bool:
        """Whether it sums over units with weights, so that another distribution begins."""
        return self.kind in ("apply", "lookup", "recurrent") or self.name == "multi_head_attention_forward"

    @property
    def is_softmax(self) -> bool:
        """Whether it is a softmax, seen through a few views, scales and elementwise functions."""
        call = self
        for _ in range(6):
            if call.kind == "softmax":
                return True
            if call.kind not in ("view", "scale", "phi") or not call.inputs:
                return False
            call = call.inputs[0]
        return False


@dataclass
class Flow:
    """The calls of one pass in the order of execution."""

    calls: list[Call] = field(default_factory=list)
    outputs: tuple[Call, ...] = ()

    def applies(self) -> Iterator[Call]:
        """Every application of a weight; of torch's attention, that of its output projection."""
        return (call for call in self.calls if call.weight is not None)


class Recorder(Observer):
    """Writes down the flow of the forward pass it is active in."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__(model, dtype, step=1, measure=False)
        self.flow = Flow()
        self._made = Tags()

    def _record(self, func: Any, name: str, args: Any, kwargs: Any, z: Tensor | None, result: Any) -> None:
        tensors = list(tensors_among((*args, *kwargs.values())))
        tags: list[Owned | None] = [self._own.get(t) for t in tensors]
        super()._record(func, name, args, kwargs, z, result)
        outs = [t for t in tensors_among((result,)) if t.is_floating_point() or t.is_complex()]
        if name == "__setitem__" and tensors:
            outs = [tensors[0]]
        if not outs or (tensors and all(tags) and name not in APPLIES):
            return
        if not any(tags) and all(self.value(t) is None for t in tensors):
            return  # of constants alone: masks, positions
        parts = outs if name in VIEWS else outs[:1]  # pieces of a split are values of their own
        made = [
            self._call(func, name, args, kwargs, tensors, tags, result, parts[i : i + 1]) for i in range(len(parts))
        ]
        for call in made:
            self._add(call)
        for i, out in enumerate(outs):
            if self._own.get(out) is None:
                self._made.set(out, made[min(i, len(made) - 1)])

    def _add(self, call: Call) -> None:
        call.index = len(self.flow.calls)
        self.flow.calls.append(call)
        for source in call.inputs:
            source.readers.append(call)

    def feed(self, tensor: Tensor) -> None:
        """Say that a tensor is the model's input."""
        if tensor.is_floating_point() and self.value(tensor) is None:
            call = Call(0, "input", "input", tuple(tensor.shape), moments=_moments(tensor))
            self._add(call)
            self._made.set(tensor, call)

    def value(self, tensor: Tensor) -> Call | None:
        """The call that made a tensor."""
        found: Call | None = self._made.get(tensor)
        return found

    # ---- one call --------------------------------------------------------------------------------------------------

    def _call(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        tensors: Sequence[Tensor],
        tags: Sequence[Owned | None],
        result: Any,
        outs: Sequence[Tensor],
    ) -> Call:
        known = [(i, self.value(t)) for i, (t, tag) in enumerate(zip(tensors, tags, strict=True)) if tag is None]
        inputs = tuple(call for _, call in known if call is not None)
        distinct = tuple(dict.fromkeys(inputs))
        params = tuple(n for tag in tags if tag is not None for n in tag.names)
        call = Call(
            0, "other", name, tuple(outs[0].shape), inputs, params,
            positions=tuple(i for i, c in known if c is not None),
        )  # fmt: skip
        layout = usage_of(name, args, kwargs, outs[0]) if isinstance(result, Tensor) else None
        weight = self._own.get(layout.weight) if layout is not None and layout.weight is not None else None
        if layout is not None and weight is not None:
            self._applied(call, name, layout, weight, args, kwargs)
        elif name in FUSED or name in RECURRENT:
            call.kind = "attention" if name in FUSED else "recurrent"
            if name in RECURRENT or name == "multi_head_attention_forward":
                call.layer = self._where() or ""
                call.weight, call.bias = (_ending(params, f"out_proj.{part}") for part in ("weight", "bias"))
        elif name in NORMS:
            call.kind = "norm"
        elif name in SOFTMAXES:
            call.kind = "softmax"
        elif name in CONCATS:
            call.kind = "concat"
        elif name in PRODUCTS and self._from_the_left(call, args):
            pass
        elif name in PRODUCTS:
            call.kind = "product" if len(inputs) > 1 else "other"
        elif name in MEANS or name in MAXES or name == "sum":
            call.kind = "mean" if name in MEANS else "max" if name in MAXES else "sum"
            call.share = self._share(name, args, kwargs, tensors, outs[0])
        elif name in VIEWS or name == "__setitem__":
            call.kind = "view" if len(distinct) == 1 or name != "__setitem__" else "concat"
            call.part = bool(tensors) and outs[0].numel() != tensors[0].numel()
        elif name in ADDS or name in MULTIPLIES or name in MAPS:
            self._elementwise(call, func, name, args, kwargs, tensors, tags, distinct)
        if not inputs and call.kind not in ("apply", "lookup", "recurrent", "attention"):
            call.kind = "input"
        return call

    def _applied(self, call: Call, name: str, layout: Any, weight: Owned, args: Any, kwargs: Any) -> None:
        call.kind = "lookup" if name == "embedding" else "apply"
        call.weight = max(weight.names, key=self._sizes.__getitem__)
        bias = self._own.get(layout.bias) if layout.bias is not None else None
        call.bias = bias.names[-1] if bias is not None else None
        axes = (layout.in_axis, layout.out_axis) if weight.flipped else (layout.out_axis, layout.in_axis)
        call.out_axis, call.in_axis = axes
        call.layer = self._where() or ""
        if name.startswith("conv") and not name.startswith("conv_transpose"):
            call.share = _taps_on_data(args, kwargs)

    def _from_the_left(self, call: Call, args: Any) -> bool:
        """W @ x: the units are rows of W and of the result."""
        weight = self._own.get(args[0]) if args and isinstance(args[0], Tensor) else None
        if weight is None or args[0].dim() != 2 or not call.inputs or call.name == "einsum":
            return False
        call.kind, call.weight = "apply", max(weight.names, key=self._sizes.__getitem__)
        call.out_axis, call.in_axis = (1, 0) if weight.flipped else (0, 1)
        call.layer = self._where() or ""
        return True

    def _share(self, name: str, args: Any, kwargs: Any, tensors: Sequence[Tensor], out: Tensor) -> float:
        if "pool" in name and not name.startswith("adaptive"):
            size = args[1] if len(args) > 1 else kwargs.get("kernel_size", 1)
            window = size if isinstance(size, tuple | list) else (size,) * max(1, _dimensions(name))
            n = 1
            for length in window:
                n *= int(length)
            return float(n)
        return max(1.0, tensors[0].numel() / max(1, out.numel())) if tensors else 1.0

    def _elementwise(
        self,
        call: Call,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        tensors: Sequence[Tensor],
        tags: Sequence[Owned | None],
        distinct: tuple[Call, ...],
    ) -> None:
        pairs = zip(tensors, tags, strict=True)
        wide = [t for t, tag in pairs if t.numel() > 1 and (tag is not None or self.value(t) is None)]
        maps = name in MAPS
        if len(distinct) > 1:
            call.kind = "add" if name in ADDS else "gate" if name in MULTIPLIES else "other"
        elif distinct and (maps or not wide):  # PReLU's slopes are wide; its image at their mean will do
            call.kind = "phi" if maps or not call.params else "scale" if name in MULTIPLIES else "shift"
        elif distinct:
            call.kind = "shift" if name in ADDS else "scale"
        if call.kind in ("scale", "shift") and (
            by := [t for t, tag in zip(tensors, tags, strict=True) if self.value(t) is None]
        ):
            call.constant = by[0].detach().reshape(-1)[:4096].double().cpu()
        if (call.kind in ("phi", "add", "gate") and not wide) or maps:
            call.fresh = self._template(func, args, kwargs, distinct)

    def _template(self, func: Any, args: Any, kwargs: Any, distinct: tuple[Call, ...]) -> Callable[..., Tensor]:
        """The call as a function of vectors of samples, one a value: other tensors become their mean."""
        place = {id(call): i for i, call in enumerate(distinct)}

        def fix(thing: Any) -> Any:
            if isinstance(thing, Tensor):
                if self._own.get(thing) is None and (made := self.value(thing)) is not None:
                    return _Slot(place[id(made)])
                return thing.detach().double().mean().cpu() if thing.is_floating_point() else thing
            return type(thing)(fix(item) for item in thing) if type(thing) in (list, tuple) else thing

        fixed = tuple(fix(a) for a in args)
        named = {k: fix(v) for k, v in kwargs.items() if k not in ("inplace", "out")}

        def fresh(*samples: Tensor) -> Tensor:
            def fill(thing: Any) -> Any:
                return samples[thing.position].clone() if isinstance(thing, _Slot) else thing

            with torch.no_grad():
                filled = [fill(a) for a in fixed]
                if func is torch.nn.functional.prelu:
                    filled[1] = filled[1].reshape(1)
                out: Tensor = func(*filled, **{k: fill(v) for k, v in named.items()})
                return out

        return fresh


@dataclass(frozen=True)
class _Slot:
    """Where the samples of the position-th value go in a template."""

    position: int


def _moments(tensor: Tensor) -> tuple[float, float, float, float]:
    """Mean, variance, and the part of it that all positions of a sample's channel share: channels first, and last."""
    wide = tensor.detach().double()
    mean, variance = float(wide.mean()), float(wide.var(unbiased=False))

    def shared(axes: tuple[int, ...]) -> float:
        return min(float(wide.mean(axes).var(unbiased=False)), variance) if axes else 0.0

    return mean, variance, shared(tuple(range(2, wide.dim()))), shared(tuple(range(1, wide.dim() - 1)))


def _taps_on_data(args: Any, kwargs: Any) -> float:
    """The share of a convolution's taps that fall on data, not on padding."""

    def option(position: int, key: str, default: Any) -> Any:
        return args[position] if len(args) > position else kwargs.get(key, default)

    x, weight = option(0, "input", None), option(1, "weight", None)
    n = weight.dim() - 2
    if x.dim() != weight.dim():
        return 1.0
    ones = torch.ones(1, 1, *x.shape[2:], dtype=torch.float32)
    taps = torch.ones(1, 1, *weight.shape[2:], dtype=torch.float32)
    run = (torch.conv1d, torch.conv2d, torch.conv3d)[n - 1]
    hit = run(ones, taps, None, option(3, "stride", 1), option(4, "padding", 0), option(5, "dilation", 1))
    return float(hit.mean()) / float(taps.numel()) if hit.numel() else 1.0


def _dimensions(name: str) -> int:
    return next((int(letter) for letter in name if letter.isdigit()), 1)


def record(session: Session) -> Flow:
    """Run the model once and write its flow down."""
    recorder = Recorder(session.model, session.held.dtype)
    draw = session.task.draw(1, session.held.dtype)
    for tensor in _nested((draw.args, draw.kwargs)):
        recorder.feed(tensor)
    outcome = session.run(recorder, draw=draw)
    flow = recorder.flow
    flow.outputs = tuple(c for c in (recorder.value(o) for o in outcome.outputs) if c is not None)
    for call in flow.outputs:
        call.output = True
    end = max((call.index for call in flow.outputs), default=len(flow.calls)) + 1
    flow.calls = flow.calls[:end]  # what the loss does with the outputs is no part of the model
    for call in flow.calls:
        call.readers = [reader for reader in call.readers if reader.index < end]
    for call in flow.calls:
        if call.kind in ("add", "gate") and _is_statistic(call):
            call.kind = "norm" if call.kind == "gate" else "view"
    _image(flow)
    return flow


def _ending(names: Sequence[str], end: str) -> str | None:
    return next((name for name in names if name.endswith(end)), None)


def _nested(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        yield from _nested(tuple(thing.values()))
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from _nested(item)


def _is_statistic(call: Call) -> bool:
    """x / f(mean of x): a normalisation written out, or its centring. One side is a statistic of the other's source."""
    sides = tuple(dict.fromkeys(call.inputs))
    if len(sides) != 2:
        return False
    wide, narrow = sorted(sides, key=lambda c: -math.prod(c.shape))
    if math.prod(narrow.shape) >= math.prod(wide.shape):
        return False
    source, queue, means = _unviewed(wide), [narrow], False
    for _ in range(24):
        if not queue:
            return False
        here = queue.pop()
        if means and _unviewed(here) is source:
            return True
        if here.mixes or here.kind == "norm":
            return False
        means = means or here.kind == "mean"
        queue += here.inputs
    return False


def _unviewed(call: Call) -> Call:
    while call.kind == "view" and len(set(call.inputs)) >= 1:
        call = call.inputs[0]
    return call


def _image(flow: Flow) -> None:
    """Along elementwise runs: the value the run starts from, and the image of the grid."""
    for call in flow.calls:
        call.root, call.samples = call, GRID
        sides = tuple(dict.fromkeys(call.inputs))
        roots = {id(side.root) for side in sides}
        if len(roots) != 1 or not sides or sides[0].root is None:
            continue
        if call.kind == "view" and not call.part and len(sides) == 1:
            call.root, call.samples = sides[0].root, sides[0].samples
        elif call.kind in ("phi", "add", "gate") and call.fresh is not None:
            try:
                samples = call.fresh(*(side.samples for side in sides)).double()
            except Exception:  # noqa: BLE001 - a call that does not take a vector begins a run of its own
                continue
            if samples.shape == GRID.shape and bool(samples.isfinite().all()):
                call.root, call.samples = sides[0].root, samples
                call.kind = "phi"
