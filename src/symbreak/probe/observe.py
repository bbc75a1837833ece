"""Watch one forward and backward pass, from outside: which operation uses which parameter, and how, and what passes.

A TorchFunctionMode sees every torch call of the user's forward. It needs no hook on any module, misses no raw
parameter (`F.linear(x, self.qkv.weight)`), and can lift inner float32 casts to the working precision. Activations and
back-signals are kept as a few numbers a unit: mean, second moment, and a random projection over samples and positions.
Equal units have equal projections; different ones do not, with probability 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from symbreak.schemes.activations import ELEMENTWISE
from symbreak.thresholds import JAMMED, LINEAR, SATURATED

from .borrow import weights
from .project import Array, project
from .slopes import slope, steepest
from .usage import APPLIES, Owned, Tags, Usage, argument, tensors_among, usage_of

_LOW = frozenset({torch.float32, torch.float16, torch.bfloat16})
_TO_FLOAT = frozenset({"float", "half", "bfloat16"})
_FROM_OUTSIDE = frozenset({"from_numpy", "as_tensor", "tensor", "asarray"})
_DROPOUTS = frozenset(
    [
        "dropout",
        "dropout_",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "alpha_dropout_",
        "feature_dropout",
        "feature_dropout_",
        "feature_alpha_dropout",
        "feature_alpha_dropout_",
    ]
)
_RECURRENT = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_NORMS = {"batch_norm": 4, "layer_norm": 3, "group_norm": 3, "instance_norm": 4, "rms_norm": 9}  # where the bias stands
_MULTIPLIES = frozenset(["mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"])
_FLIPS = frozenset(["t", "T", "mT", "transpose", "adjoint", "swapaxes", "__get__"])
_MOST_SLOPES = 1 << 21  # elements of one activation whose slope is measured


@dataclass
class Site:
    """One layer: the operation that applies a weight, its unit axis, and what went through it."""

    layer: str
    kind: str
    weight: str
    out_axis: int | None  # of the weight
    in_axis: int | None
    bias: str | None = None
    groups: int = 1
    gates: int = 1
    heads: int | None = None
    from_data: bool = False  # its input depends on no parameter
    calls: int = 0
    shape: tuple[int, ...] = ()
    samples: int = 0
    forward: list[Array] = field(default_factory=list)  # projections, [o] a call
    backward: list[Array] = field(default_factory=list)
    second_moment: Tensor | None = None  # [o]
    mean: Tensor | None = None  # [o] over samples and positions
    variance: Tensor | None = None  # [o] likewise
    back_second_moment: Tensor | None = None  # [o]
    spread: float = 1.0  # share of the second moment that differs between samples
    activation: str | None = None


@dataclass(eq=False)
class Activation:
    """One call of an elementwise activation: shares of its linear, saturated and dead samples, a unit at a time."""

    where: str
    name: str
    layer: str | None
    units: int
    samples: int
    linear: float
    saturated: float
    jammed: float
    dead: Tensor  # [o] slope exactly 0 on every sample
    negative: Tensor  # [o] every pre-activation below 0
    margin: Tensor  # [o] how many standard deviations the mean lies below 0
    mean: Tensor  # [o] of the pre-activation
    std: Tensor  # [o] likewise
    node: Any
    gate: bool = False  # it multiplies another signal


@dataclass
class Seen:
    """What one pass showed."""

    sites: dict[str, Site] = field(default_factory=dict)
    activations: list[Activation] = field(default_factory=list)
    roles: dict[str, set[str]] = field(default_factory=dict)
    breakers: dict[str, str] = field(default_factory=dict)
    starved: set[str] = field(default_factory=set)  # parameters that met a tensor without elements


@dataclass
class _Phase:
    """Whether the forward, with the loss, is still running."""

    forward: bool = True


class Observer(TorchFunctionMode):
    """See the module's docstring. `measure` adds the signal statistics and slopes, which only the first pass needs."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, *, step: int, measure: bool) -> None:
        super().__init__()
        self.seen = Seen()
        self._dtype = dtype
        self._measure = measure
        self._step = step
        self._recording = True
        self._phase = _Phase()
        self._modules = {id(m): name for name, m in model.named_modules()}
        self._root = type(model).__name__
        named = weights(model)
        self._sizes = {n: p.numel() for n, p in named.items()}
        self._own = Tags()
        self._origin = Tags()  # tensor -> (layer, unit axis) it comes from, elementwise
        self._end = Tags()  # tensor -> the name of the activation whose result it is
        self._activation = Tags()  # tensor -> the Activation it comes from, elementwise
        for name, p in named.items():
            self._own.set(p, Owned((name,)))

    def activation_of(self, tensor: Tensor) -> str | None:
        """The name of the activation whose result this tensor is."""
        name: str | None = self._end.get(tensor)
        return name

    def forward_is_over(self) -> None:
        """Stop recording; recomputation inside backward (checkpointing) is still lifted to the working precision."""
        self._recording = self._phase.forward = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name: str = getattr(func, "__name__", "")
        if name in _DROPOUTS:
            return self._without_dropout(args, kwargs)
        if self._dtype == torch.float64:
            func, args, kwargs = _lift(func, name, args, kwargs)
        args, kwargs = self._calm(name, args, kwargs)
        inside = _is_inside_a_transform(args)  # of torch.func: what passes has no numbers of its own to look at
        z = None if inside else self._before_activation(name, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except RuntimeError:
            lifted = _promote(args, kwargs) if self._dtype == torch.float64 else None
            if lifted is None:
                raise
            result = func(*lifted[0], **lifted[1])
        if self._dtype == torch.float64 and name in _FROM_OUTSIDE and result.dtype in _LOW:
            result = result.double()
        if self._recording and not inside:
            self._recording = False  # what the recording itself calls is not part of the model
            try:
                self._record(func, name, args, kwargs, z, result)
            finally:
                self._recording = True
        return result

    # ---- randomness that treats units differently is switched off, and noted -------------------------------------

    def _without_dropout(self, args: Any, kwargs: Any) -> Any:
        p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
        training = args[2] if len(args) > 2 else kwargs.get("training", True)
        if p and training:
            self.seen.breakers["dropout"] = f"dropout (p={float(p):g})"
        return args[0] if args else kwargs["input"]

    def _calm(self, name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Dropout that hides in an argument of attention and of the fused recurrent operations."""
        if name == "scaled_dot_product_attention" and kwargs.get("dropout_p"):
            self.seen.breakers["dropout"] = f"attention dropout (p={kwargs['dropout_p']:g})"
            kwargs = {**kwargs, "dropout_p": 0.0}
        if name == "multi_head_attention_forward" and len(args) > 10 and args[10]:
            self.seen.breakers["dropout"] = f"attention dropout (p={args[10]:g})"
            args = (*args[:10], 0.0, *args[11:])
        if name in _RECURRENT and len(args) == 9:
            at = 5 if isinstance(args[3], bool) else 6  # of a packed sequence the batch sizes come second
            if args[at]:
                self.seen.breakers["dropout"] = f"dropout between recurrent layers (p={args[at]:g})"
                args = (*args[:at], 0.0, *args[at + 1 :])
        return args, kwargs

    # ---- who uses which parameter, and how ----------------------------------------------------------------------

    def _before_activation(self, name: str, args: Any, kwargs: Any) -> Tensor | None:
        """The pre-activation, kept apart where the activation is about to overwrite it."""
        if not self._recording or name.rstrip("_") not in ELEMENTWISE or not args or not isinstance(args[0], Tensor):
            return None
        if self._own.get(args[0]) is not None:
            return None  # a gate such as tanh(alpha) acts on a parameter, not on units
        in_place = name.endswith("_") or kwargs.get("inplace") or any(a is True for a in args[1:])
        return args[0].detach().clone() if in_place and self._measure else args[0].detach()

    def _record(self, func: Any, name: str, args: Any, kwargs: Any, z: Tensor | None, result: Any) -> None:
        tensors = list(tensors_among((*args, *kwargs.values())))
        owned = [(t, tag) for t in tensors if (tag := self._own.get(t)) is not None]
        if owned:
            if len(owned) == len(tensors):
                self._derive(name, args, kwargs, tensors, owned, result)
            elif isinstance(result, Tensor | tuple):
                self._use(name, args, kwargs, owned, result)
        elif isinstance(result, Tensor) and tensors:
            if name in _MULTIPLIES:
                self._note_gates(tensors)
            self._pass_on(tensors[0], result)
        if z is not None and isinstance(result, Tensor) and result.requires_grad:
            self._activate(func, _known_as(name.rstrip("_"), args, kwargs), args, kwargs, z, result)

    def _derive(self, name: str, args: Any, kwargs: Any, tensors: Sequence[Tensor], owned: Any, result: Any) -> None:
        if name in APPLIES:  # a layer applied to a free parameter, such as learned queries: those are data to it
            self._name_roles(name, args, kwargs, owned, result)
            return
        names = tuple(dict.fromkeys(n for _, tag in owned for n in tag.names))
        for out in tensors_among((result,)):
            flips = name in _FLIPS and out.dim() >= 2 and out.shape == tensors[0].transpose(-2, -1).shape
            flipped = owned[0][1].flipped != (
                flips and out.data_ptr() == tensors[0].data_ptr() and out is not tensors[0]
            )
            self._own.set(out, Owned(names, flipped))

    def _pass_on(self, source: Tensor, result: Tensor) -> None:
        if result is source or result.numel() != source.numel():
            return
        origin, same = self._origin.get(source), result.shape == source.shape
        if origin is not None and (same or (origin[1] == -1 and result.shape[-1:] == source.shape[-1:])):
            self._origin.set(result, origin)  # elementwise, or a view that keeps the unit axis last
        if same and (activation := self._activation.get(source)) is not None:
            self._activation.set(result, activation)

    def _note_gates(self, tensors: Sequence[Tensor]) -> None:
        """What multiplies another signal is a gate, which may start open or shut. z * sigmoid(z) and the like are one
        activation written out; its inner function says nothing of the units, and is dropped."""
        inner = [t for t in tensors if self._activation.get(t) is not None]
        for gate in inner:
            activation = self._activation.get(gate)
            others = [self._origin.get(t) for t in tensors if t is not gate]
            if activation in self.seen.activations and any(o is not None and o[0] == activation.layer for o in others):
                self.seen.activations.remove(activation)
            elif any(t.requires_grad for t in tensors if t is not gate):
                activation.gate = True

    def _name_roles(self, name: str, args: Any, kwargs: Any, owned: Any, result: Any) -> None:
        for tensor, tag in owned:
            for parameter in tag.names:
                self.seen.roles.setdefault(parameter, set()).add(_role(name, args, kwargs, tensor, result))

    def _use(self, name: str, args: Any, kwargs: Any, owned: Any, result: Any) -> None:
        self._name_roles(name, args, kwargs, owned, result)
        data = next((t for t in tensors_among((*args, *kwargs.values())) if self._own.get(t) is None), None)
        if data is not None and data.numel() == 0:
            self.seen.starved.update(n for _, tag in owned for n in tag.names)
            return
        if name == "multi_head_attention_forward":
            self._use_attention(args, kwargs, result)
        elif name in _RECURRENT:
            self._use_recurrent(name, args)
        elif isinstance(result, Tensor):
            layout = usage_of(name, args, kwargs, result)
            if layout is not None and (tag := self._own.get(layout.weight)) is not None:
                self._apply(name, layout, tag, data, result)
            elif data is not None:
                self._pass_on(data, result)

    def _apply(self, name: str, layout: Usage, tag: Owned, data: Tensor | None, result: Tensor) -> None:
        bias = self._own.get(layout.bias) if layout.bias is not None else None
        axes = (layout.in_axis, layout.out_axis) if tag.flipped else (layout.out_axis, layout.in_axis)
        site = self._site(max(tag.names, key=self._sizes.__getitem__), name, *axes)
        site.bias = bias.names[-1] if bias is not None else site.bias
        site.groups = layout.groups
        site.from_data = data is not None and not data.requires_grad
        self._watch(site, result, layout.unit_axis)

    def _use_attention(self, args: Any, kwargs: Any, result: Any) -> None:
        for position, axis in ((5, 0), (11, 0)):
            tag = self._own.get(args[position]) if len(args) > position else None
            if tag is not None:
                site = self._site(tag.names[-1], "linear", axis, 1)
                site.heads = int(args[4])
                bias = self._own.get(args[position + 1])
                site.bias = bias.names[-1] if bias is not None else None
                if position == 11:
                    site.heads = None
                    self._watch(site, result[0], -1)
        for key in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            tag = self._own.get(kwargs.get(key))
            if tag is not None:
                self._site(tag.names[-1], "linear", 0, 1).heads = int(args[4])

    def _use_recurrent(self, name: str, args: Any) -> None:
        weights = next((a for a in args if isinstance(a, list | tuple) and a and self._own.get(a[0])), ())
        for w in weights:
            if w.dim() == 2:
                site = self._site(self._own.get(w).names[-1], name, 0, 1)
                site.gates = _RECURRENT[name]
                site.shape = tuple(w.shape[:1])

    def _site(self, weight: str, kind: str, out_axis: int | None, in_axis: int | None) -> Site:
        layer = layer_name(weight, self._root)
        known = self.seen.sites.get(layer)
        if known is not None and known.weight != weight:
            layer = weight
        elif known is not None and known.kind != kind:
            layer = f"{layer} (as {kind})"  # a tied weight: an embedding that is the head, too
        return self.seen.sites.setdefault(layer, Site(layer, kind, weight, out_axis, in_axis))

    # ---- what passes ------------------------------------------------------------------------------------------

    def _watch(self, site: Site, result: Tensor, axis: int) -> None:
        site.calls += 1
        self._origin.set(result, (site.layer, axis))
        if not result.is_floating_point() or site.calls > 8:
            return  # a cell stepped by hand shows itself in its first calls
        site.forward.append(project(result, axis, self._step))
        if self._measure and site.calls == 1:
            still, others = result.detach(), _others(result, axis)
            site.shape, site.samples = tuple(result.shape), result.numel() // max(1, result.shape[axis])
            site.second_moment = _second_moment(still, axis)
            site.mean = still.mean(others) if others else still
            site.variance = still.var(others, unbiased=False) if others else torch.zeros_like(still)
            site.spread = _spread(still)
        if result.requires_grad:
            result.register_hook(self._watch_back(site, axis))  # type: ignore[no-untyped-call]

    def _watch_back(self, site: Site, axis: int) -> Callable[[Tensor], None]:
        """A hook that holds little: the graph holds the hook, and whoever holds the graph would never die.

        Gradients that the forward asks for itself (a penalty on them, a differential equation) are no back-signal.
        """
        step, measure, phase = self._step, self._measure and site.calls == 1, self._phase

        def hook(gradient: Tensor) -> None:
            if phase.forward:
                return
            site.backward.append(project(gradient, axis, step))
            if measure:
                site.back_second_moment = _second_moment(gradient.detach(), axis)

        return hook

    def _activate(self, func: Any, name: str, args: Any, kwargs: Any, z: Tensor, result: Tensor) -> None:
        layer, axis = self._origin.get(args[0]) or (None, 1 if z.dim() == 4 else -1)
        self._origin.set(result, (layer, axis))
        self._end.set(result, name)
        if layer is not None and self.seen.sites[layer].activation is None:
            self.seen.sites[layer].activation = name
        if not self._measure or not z.is_floating_point() or z.dim() < 2 or z.numel() == 0:
            return
        rest, options = args[1:], {k: v for k, v in kwargs.items() if k != "inplace"}

        def phi(point: Tensor) -> Tensor:
            out: Tensor = func(point, *rest, **options)
            return out

        rows = _by_unit(z, axis)  # [b, o]
        most = max(1, _MOST_SLOPES // max(1, rows.shape[1]))
        sample = rows[:: max(1, -(-rows.shape[0] // most))]
        size = slope(phi, sample).abs()
        top = max(1.0, float(rest[0].abs().max())) if name == "prelu" else steepest(phi, name, str((rest, options)))
        mean, std = rows.mean(0), rows.std(0, unbiased=False)
        activation = Activation(
            where=self._where() or layer or name,
            name=name,
            layer=layer,
            units=rows.shape[1],
            samples=rows.shape[0],
            linear=float((size >= LINEAR * top).double().mean()),
            saturated=float((size <= SATURATED * top).double().mean()),
            jammed=float((size <= JAMMED * top).double().mean()),
            dead=(size == 0).all(0),
            negative=rows.amax(0) < 0,
            margin=_margin(mean, std),
            mean=mean,
            std=std,
            node=result.grad_fn,
        )
        self.seen.activations.append(activation)
        self._activation.set(result, activation)

    def _where(self) -> str | None:
        """The innermost module whose method is running: the frame that holds it as `self`."""
        frame = sys._getframe(1)
        while frame is not None:
            owner = frame.f_locals.get("self")
            if owner is not None and id(owner) in self._modules and isinstance(owner, nn.Module):
                return self._modules[id(owner)] or None
            frame = frame.f_back  # type: ignore[assignment]
        return None


def _is_inside_a_transform(args: Any) -> bool:
    return any(isinstance(a, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(a) for a in args)


def layer_name(parameter: str, root: str) -> str:
    """The layer a parameter belongs to: `fc1.weight` -> `fc1`, `conv.parametrizations.weight.original1` -> `conv`.

    Example:
        >>> layer_name("fc1.weight", "Net"), layer_name("weight", "Linear"), layer_name("rnn.weight_ih_l0", "Net")
        ('fc1', 'Linear', 'rnn.weight_ih_l0')
    """
    head, _, _ = parameter.partition(".parametrizations.")
    if head != parameter:
        return head
    if parameter in ("weight", "bias"):
        return root
    for suffix in (".weight", ".weight_v", ".weight_orig"):
        if parameter.endswith(suffix):
            return parameter.removesuffix(suffix)
    return parameter


def _role(name: str, args: Any, kwargs: Any, tensor: Tensor, result: Any) -> str:
    """How an operation uses a parameter: weight, bias, norm_weight, norm_bias, lookup, input, scale, shift, other."""
    if name == "embedding":
        return "lookup"
    if name in ("__getitem__", "index_select", "gather", "take"):
        return "lookup"
    if name in _NORMS:
        return "norm_bias" if tensor is argument(args, kwargs, _NORMS[name], "bias") else "norm_weight"
    if name in _RECURRENT:
        return "weight" if tensor.dim() >= 2 else "bias"
    if name == "multi_head_attention_forward":
        return "weight" if tensor.dim() == 2 else "bias"
    if name in APPLIES:
        if tensor is argument(args, kwargs, 0, "input"):
            return "input"
        return "bias" if tensor is argument(args, kwargs, 2, "bias") else "weight"
    if name in ("add", "add_", "sub", "sub_", "__add__", "__radd__", "__iadd__", "__sub__", "__rsub__"):
        return "bias" if _along_channels(tensor, result) else "shift"
    if name in _MULTIPLIES or name in ("div", "__truediv__"):
        return "scale"
    products = ("matmul", "mm", "bmm", "__matmul__", "addmm", "baddbmm", "einsum", "_grouped_mm")
    return "weight" if name in products else "other"


def _known_as(name: str, args: Any, kwargs: Any) -> str:
    """torch.nn.ReLU6 calls hardtanh(z, 0, 6)."""
    return "relu6" if name == "hardtanh" and argument(args, kwargs, 1, "min_val") in (0, 0.0) else name


def _along_channels(tensor: Tensor, result: Any) -> bool:
    """True where an added parameter has one number a channel (axis 1 or the last), as a bias has."""
    if not isinstance(result, Tensor):
        return False
    wide = [i + result.dim() - tensor.dim() for i, n in enumerate(tensor.shape) if n > 1]
    return not wide or wide in ([1], [result.dim() - 1])


def _lift(func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """Casts to float32 and below become casts to float64."""
    if name in _TO_FLOAT and args and isinstance(args[0], Tensor):
        return torch.Tensor.double, args[:1], {}
    if any(a in _LOW for a in args if isinstance(a, torch.dtype)):
        args = tuple(torch.float64 if isinstance(a, torch.dtype) and a in _LOW else a for a in args)
    if kwargs.get("dtype") in _LOW:
        kwargs = {**kwargs, "dtype": torch.float64}
    if name == "_grouped_mm" and args and args[0].dtype == torch.float64:
        func = _grouped_product
    return func, args, kwargs


def _grouped_product(rows: Tensor, weights: Tensor, offs: Tensor, **options: Any) -> Tensor:
    """torch's own knows no float64: rows [n, i] in groups that end at offs [e], weights [e, i, o] -> [n, o]."""
    if rows.dim() != 2 or weights.dim() != 3 or any(value is not None for value in options.values()):
        raise RuntimeError("a grouped product of another kind, which has no float64")
    ends = offs.tolist()
    parts = [rows[start:end] @ w for start, end, w in zip([0, *ends], ends, weights, strict=False)]
    return torch.cat([*parts, rows.new_zeros(len(rows) - ends[-1], weights.shape[-1])])


def _promote(args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """The same call with its float32 tensors in float64 (a global constant, a teacher), or None where it has none."""
    if not any(t.dtype in _LOW for t in tensors_among((*args, *kwargs.values()))):
        return None

    def lift(a: Any) -> Any:
        if isinstance(a, Tensor):
            return a.double() if a.dtype in _LOW else a
        return type(a)(lift(i) for i in a) if type(a) in (list, tuple) else a

    return tuple(map(lift, args)), {k: lift(v) for k, v in kwargs.items()}


def _margin(mean: Tensor, std: Tensor) -> Tensor:
    """[o]: standard deviations below zero; of size 1 where a whole layer is still: its input is a zero that may move,
    and what rules of scale give a unit then is of about that size."""
    if not bool((std > 1e-9 * mean.abs()).any()):
        return -mean
    return -mean / std.clamp_min(torch.finfo(mean.dtype).tiny)


def _by_unit(tensor: Tensor, axis: int) -> Tensor:
    """[..., o, ...] -> [b, o]: one column a unit, one row a sample and position."""
    tensor = tensor.detach()
    return tensor.movedim(axis, -1).reshape(-1, tensor.shape[axis])


def _others(tensor: Tensor, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(tensor.dim()) if i != axis % tensor.dim())


def _second_moment(tensor: Tensor, axis: int) -> Tensor:
    """[..., o, ...] -> [o]: the mean square of each unit."""
    others = _others(tensor, axis)
    if not others:
        return tensor.square()
    norms: Tensor = torch.linalg.vector_norm(tensor, 2, dim=others)
    return norms.square() * (tensor.shape[axis] / tensor.numel())


def _spread(result: Tensor) -> float:
    """The share of the second moment that lies between samples: 0 when all samples look the same."""
    if result.dim() < 2 or result.shape[0] < 2:
        return 1.0
    total = float(torch.linalg.vector_norm(result)) ** 2
    common = float(torch.linalg.vector_norm(result.mean(0))) ** 2 * result.shape[0]
    return max(0.0, 1.0 - common / total) if total > 0 else 1.0
