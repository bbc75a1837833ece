"""The elementwise activations, one row each: the torch function and module, where they bend, what they can reach.

No torch here: rules and the command line read it. `symbreak.schemes.gain` computes their gains, regions and edges of
chaos, for these and for any other callable.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from symbreak.errors import SchemeError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["identity", "sigmoidal", "rectifier", "leaky", "smooth", "shrinking", "periodic", "other"]
"""sigmoidal: monotone, flat on both sides, so it can saturate; rectifier: exactly zero, with slope exactly zero, on
negative numbers; leaky: two straight or bent halves with a slope on both; smooth: the soft rectifiers."""

OURS = "symbreak.schemes.elementwise"


@dataclass(frozen=True)
class Activation:
    """One elementwise function phi, as torch computes it.

    Equal when name and options are; `activation(repr(phi)) == phi`.

    Args:
        name: of the row.
        path: dotted name of the function, called as path(z, **options).
        formula: as a person reads it.
        kind: what it looks like; see Kind.
        options: keyword arguments of the function, all of them, and of the module, where it has one.
        bends: where phi or its slope jumps: numbers, or names of options, "-" before them negates.
        span: infimum and supremum of phi, likewise.
        cls: class in torch.nn; without one `module()` wraps the function.
        seen_as: names of the torch functions that compute it.
    Example:
        >>> phi = activation("leaky_relu(0.2)")
        >>> phi.kinks
        (0.0,)
        >>> phi.module()
        LeakyReLU(negative_slope=0.2)

    Source: torch.nn.functional; each row's formula.
    """

    name: str
    path: str
    formula: str
    kind: Kind
    options: tuple[tuple[str, float | str], ...] = ()
    bends: tuple[float | str, ...] = ()
    span: tuple[float | str, float | str] = (-float("inf"), float("inf"))
    cls: str | None = None
    seen_as: tuple[str, ...] = ()

    def __repr__(self) -> str:
        usual = dict(ACTIVATIONS[self.name].options)
        changed = [(key, given) for key, given in self.options if given != usual[key]]
        if not changed:
            return self.name
        if changed == list(self.options[: len(changed)]):  # the leading ones go without their name
            return f"{self.name}({', '.join(repr(given) for _, given in changed)})"
        return f"{self.name}({', '.join(f'{key}={given!r}' for key, given in changed)})"

    @property
    def kinks(self) -> tuple[float, ...]:
        """Where phi or its slope jumps, ascending: quadrature must be split there."""
        return tuple(sorted({self._number(bend) for bend in self.bends}))

    @property
    def reach(self) -> tuple[float, float]:
        """Infimum and supremum of phi: what an output that ends in it can come near to."""
        low, high = self.span
        return self._number(low), self._number(high)

    def _number(self, given: float | str) -> float:
        if not isinstance(given, str):
            return given
        value = float(dict(self.options)[given.removeprefix("-")])
        return -value if given.startswith("-") else value

    @property
    def function(self) -> Callable[..., Tensor]:
        """The torch function itself, to be called with `dict(options)`."""
        where, _, what = self.path.rpartition(".")
        found: Callable[..., Tensor] = getattr(import_module(where), what)
        return found

    def __call__(self, z: Tensor) -> Tensor:
        """phi(z), a new tensor."""
        return self.function(z, **dict(self.options))

    def slope(self, z: Tensor) -> Tensor:
        """phi'(z) by autograd: at a kink, the side that torch takes."""
        import torch

        with torch.enable_grad():
            point = z.detach().clone().requires_grad_()
            (found,) = torch.autograd.grad(self(point).sum(), point)
        return found

    def module(self) -> nn.Module:
        """A new module that computes it: torch's own class, or a wrapper that shows the name."""
        if self.cls is None:
            from symbreak.schemes.elementwise import Elementwise

            return Elementwise(self)
        from torch import nn

        made: nn.Module = getattr(nn, self.cls)(**dict(self.options))
        return made

    def having(self, *values: float | str, **named: float | str) -> Activation:
        """The same row with other options, by position or by name."""
        options = dict(self.options)
        if len(values) > len(options):
            raise SchemeError(f"{self.name} takes {len(options)} options ({', '.join(options)}), got {len(values)}.")
        given: dict[str, Any] = dict(zip(options, values, strict=False))
        for key in named:
            if key not in options or key in given:
                expected = f"options are {', '.join(options)}" if options else "it takes none"
                raise SchemeError(f"{self.name} has no option {key!r} left to set: {expected}.")
        for key, value in {**given, **named}.items():
            wanted = str if isinstance(options[key], str) else (int, float)
            if isinstance(value, bool) or not isinstance(value, wanted):
                raise SchemeError(f"{self.name}({key}={value!r}): expected a value such as {options[key]!r}.")
            options[key] = value if isinstance(value, str) else float(value)
        return replace(self, options=tuple(options.items()))


INF = float("inf")
_F, _T = "torch.nn.functional.", "torch."
_ROWS = (
    Activation("identity", f"{OURS}.identity", "z", "identity", cls="Identity"),
    Activation(
        "relu", _F + "relu", "max(0, z)", "rectifier", (), (0.0,), (0.0, INF), "ReLU", ("relu",)),
    Activation(
        "leaky_relu", _F + "leaky_relu", "z if z > 0 else a z", "leaky", (("negative_slope", 0.01),), (0.0,),
        cls="LeakyReLU", seen_as=("leaky_relu",)),
    Activation(
        "prelu", f"{OURS}.prelu", "z if z > 0 else a z, a learned from init on", "leaky", (("init", 0.25),), (0.0,),
        cls="PReLU", seen_as=("prelu",)),
    Activation(
        "rrelu", _F + "rrelu", "z if z > 0 else a z, a ~ U(lower, upper), their mean when evaluated", "leaky",
        (("lower", 1 / 8), ("upper", 1 / 3)), (0.0,), cls="RReLU", seen_as=("rrelu",)),
    Activation(
        "elu", _F + "elu", "z if z > 0 else a (e^z - 1)", "smooth", (("alpha", 1.0),), (0.0,),
        ("-alpha", INF), "ELU", ("elu",)),
    Activation(
        "celu", _F + "celu", "z if z > 0 else a (e^(z/a) - 1)", "smooth", (("alpha", 1.0),), (0.0,),
        ("-alpha", INF), "CELU", ("celu",)),
    Activation(
        "selu", _F + "selu", "1.0507 elu(z, 1.6733)", "smooth", (), (0.0,), (-1.7580993408473766, INF),
        cls="SELU", seen_as=("selu",)),
    Activation(
        "gelu", _F + "gelu", "z Phi(z), or its tanh approximation", "smooth", (("approximate", "none"),),
        span=(-0.17004, INF), cls="GELU", seen_as=("gelu",)),
    Activation(
        "silu", _F + "silu", "z sigmoid(z)", "smooth", span=(-0.2784645427610738, INF), cls="SiLU",
        seen_as=("silu",)),
    Activation(
        "mish", _F + "mish", "z tanh(softplus(z))", "smooth", span=(-0.3088435, INF), cls="Mish", seen_as=("mish",)),
    Activation("tanh", _T + "tanh", "tanh z", "sigmoidal", span=(-1.0, 1.0), cls="Tanh", seen_as=("tanh",)),
    Activation("lecun_tanh", f"{OURS}.lecun_tanh", "1.7159 tanh(2z/3)", "sigmoidal", span=(-1.7159, 1.7159)),
    Activation(
        "sigmoid", _T + "sigmoid", "1 / (1 + e^-z)", "sigmoidal", span=(0.0, 1.0), cls="Sigmoid",
        seen_as=("sigmoid",)),
    Activation(
        "softplus", _F + "softplus", "ln(1 + e^(beta z)) / beta", "smooth", (("beta", 1.0),), span=(0.0, INF),
        cls="Softplus", seen_as=("softplus",)),
    Activation(
        "shifted_softplus", f"{OURS}.shifted_softplus", "ln(1 + e^z) - ln 2", "smooth",
        span=(-0.6931471805599453, INF)),
    Activation(
        "softsign", _F + "softsign", "z / (1 + |z|)", "sigmoidal", (), (0.0,), (-1.0, 1.0), "Softsign",
        ("softsign",)),
    Activation(
        "hardtanh", _F + "hardtanh", "clip(z, min_val, max_val)", "sigmoidal", (("min_val", -1.0), ("max_val", 1.0)),
        ("min_val", "max_val"), ("min_val", "max_val"), "Hardtanh", ("hardtanh",)),
    Activation(
        "hardsigmoid", _F + "hardsigmoid", "clip(z/6 + 1/2, 0, 1)", "sigmoidal", (), (-3.0, 3.0), (0.0, 1.0),
        "Hardsigmoid", ("hardsigmoid",)),
    Activation(
        "hardswish", _F + "hardswish", "z hardsigmoid(z)", "smooth", (), (-3.0, 3.0), (-0.375, INF), "Hardswish",
        ("hardswish",)),
    Activation(
        "relu6", _F + "relu6", "clip(z, 0, 6)", "rectifier", (), (0.0, 6.0), (0.0, 6.0), "ReLU6", ("relu6",)),
    Activation(
        "threshold", _F + "threshold", "z if z > threshold else value", "rectifier",
        (("threshold", 0.0), ("value", 0.0)), ("threshold",), cls="Threshold", seen_as=("threshold",)),
    Activation(
        "logsigmoid", _F + "logsigmoid", "-ln(1 + e^-z)", "smooth", span=(-INF, 0.0), cls="LogSigmoid",
        seen_as=("logsigmoid",)),
    Activation("tanhshrink", _F + "tanhshrink", "z - tanh z", "shrinking", cls="Tanhshrink", seen_as=("tanhshrink",)),
    Activation(
        "softshrink", _F + "softshrink", "z - clip(z, -lambd, lambd)", "shrinking", (("lambd", 0.5),),
        ("-lambd", "lambd"), cls="Softshrink", seen_as=("softshrink",)),
    Activation(
        "hardshrink", _F + "hardshrink", "z if |z| > lambd else 0 (a jump: slopes are those beside it)", "shrinking",
        (("lambd", 0.5),), ("-lambd", "lambd"), cls="Hardshrink", seen_as=("hardshrink",)),
    Activation("abs", _T + "abs", "|z|", "other", (), (0.0,), (0.0, INF)),
    Activation("relu_squared", f"{OURS}.relu_squared", "max(0, z)^2", "rectifier", (), (0.0,), (0.0, INF)),
    Activation(
        "sin", f"{OURS}.sin", "sin(frequency z)", "periodic", (("frequency", 1.0),), span=(-1.0, 1.0),
        seen_as=("sin",)),
    Activation("snake", f"{OURS}.snake", "z + sin(a z)^2 / a", "periodic", (("a", 1.0),)),
    Activation("gaussian", f"{OURS}.gaussian", "e^(-z^2)", "other", span=(0.0, 1.0)),
    Activation("erf", _T + "erf", "erf z", "sigmoidal", span=(-1.0, 1.0), seen_as=("erf",)),
    Activation(
        "atan", _T + "atan", "arctan z", "sigmoidal", span=(-1.5707963267948966, 1.5707963267948966),
        seen_as=("atan", "arctan")),
)  # fmt: skip

ACTIVATIONS: dict[str, Activation] = {row.name: row for row in _ROWS}
"""Every activation, by name."""

OTHER_NAMES: dict[str, str] = {
    "linear": "identity", "swish": "silu", "arctan": "atan", "gelu_tanh": "gelu('tanh')", "gelu_new": "gelu('tanh')",
    "siren": "sin(30.0)", "relu2": "relu_squared", "hard_tanh": "hardtanh", "leakyrelu": "leaky_relu",
}  # fmt: skip


def activation(text: str) -> Activation:
    """The activation a text names: "relu", "leaky_relu(0.2)", "gelu('tanh')".

    Example:
        >>> activation("swish").name, activation("sin(30)")
        ('silu', sin(30.0))

    Source: the notation is Python's own call syntax, as of schemes.
    """
    name, args, kwargs = _call(OTHER_NAMES.get(text.strip(), text.strip()))
    name = OTHER_NAMES.get(name, name)
    if name not in ACTIVATIONS:
        raise SchemeError(f"no activation is called {name!r}. {nearest(name, [*ACTIVATIONS, *OTHER_NAMES])}")
    return ACTIVATIONS[name].having(*args, **kwargs)


def _call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    malformed = f"{text!r} is not an activation. Expected a name such as tanh, or a call such as leaky_relu(0.2)."
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise SchemeError(malformed)
        kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
        return node.func.id, [ast.literal_eval(argument) for argument in node.args], kwargs
    except (SyntaxError, ValueError) as err:
        raise SchemeError(malformed) from err


def _seen(kind: Kind | None = None) -> frozenset[str]:
    return frozenset(name for row in _ROWS if kind in (None, row.kind) for name in row.seen_as)


ELEMENTWISE = _seen()
"""Names of the torch functions that act on each number by itself."""

BOUNDED = _seen("sigmoidal")
"""Those that flatten on both sides, and so can saturate."""

PIECEWISE = _seen("rectifier")
"""Those that are exactly zero, with slope exactly zero, on negative numbers."""

RANGES = {name: row.reach for row in _ROWS if row.kind == "sigmoidal" for name in row.seen_as}
"""What an output that ends in one of them can reach."""
