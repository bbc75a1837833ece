"""The smallest network with a symmetry, two hidden units, one input, one output, one sample; every entry a symbol.

The derivations about layers are carried out on it. sympy is imported by the functions, never by this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from symbreak.explanations.derivation import Expr, Named, gradient

Phi = Callable[[Any], Any]


def functions(*names: str) -> dict[str, Phi]:
    """The activations the algebra is carried out for, as sympy writes them; all, or those named.

    Example:
        >>> functions()["sigmoid"](0)
        1/2

    Source: Hendrycks and Gimpel 2016 for GELU.
    """
    import sympy as sp

    known: dict[str, Phi] = {
        "tanh": sp.tanh,
        "gelu": lambda z: z * (1 + sp.erf(z / sp.sqrt(2))) / 2,
        "sigmoid": lambda z: 1 / (1 + sp.exp(-z)),
        "softplus": lambda z: sp.log(1 + sp.exp(z)),
    }
    return {name: known[name] for name in names or known}


class TwoUnits:
    """f(x) = a . phi(w x + b) + c with half the squared error of one sample (x, y).

    Attributes:
        w, b, a: weight in, bias and weight out of both units, [2]; c: the output bias.
        z, h: what a unit sums, and what it puts out, [2].
        delta: derivative of the loss by the output.
    Example:
        >>> import sympy
        >>> TwoUnits(sympy.tanh).h.T
        Matrix([[tanh(b_0 + w_0*x), tanh(b_1 + w_1*x)]])

    Source: any textbook.
    """

    def __init__(self, phi: Phi) -> None:
        import sympy as sp

        u = sp.Symbol("u", real=True)
        self.x, self.y, self.c = sp.symbols("x y c", real=True)
        self.w, self.b, self.a = (sp.Matrix(sp.symbols(f"{name}_0 {name}_1", real=True)) for name in "wba")
        self.z = self.w * self.x + self.b
        self.h = self.z.applyfunc(phi)
        self.delta = (self.a.T * self.h)[0] + self.c - self.y
        self.loss = self.delta**2 / 2
        self.phi_0 = phi(sp.Integer(0))
        self.slope_0 = sp.diff(phi(u), u).subs(u, 0)
        self.slope = sp.Matrix([sp.diff(phi(u), u).subs(u, z) for z in self.z])

    @property
    def back(self) -> Expr:
        """The back-signal at the units by hand, [2]: delta, times the weight out, times the slope."""
        return self.a.multiply_elementwise(self.slope) * self.delta

    def by(self, variables: Expr) -> Expr:
        """The gradient, not yet evaluated, in the shape of the variables: a matrix, or one symbol."""
        import sympy as sp

        if not hasattr(variables, "shape"):
            return sp.Derivative(self.loss, variables, evaluate=False)
        return gradient(self.loss, variables)

    def at(self, expression: Expr, values: dict[Any, Any]) -> Expr:
        """An expression, its derivatives taken, with values put in."""
        return expression.doit().subs(values)

    def zeros(self, *groups: Expr) -> dict[Any, Any]:
        return {symbol: 0 for group in groups for symbol in group}

    def equal(self, *groups: Expr) -> dict[Any, Any]:
        """Both units alike in these groups of symbols."""
        return {group[1]: group[0] for group in groups}


def slope_by(*names: str, at: str = "", latex_at: str = "") -> Named:
    """The derivative of the loss by one tensor or several, as a left-hand side.

    Example:
        >>> slope_by("W1", at="0").plain
        'dL/dW1 at 0'

    Source: Leibniz.
    """
    plain = names[0] if len(names) == 1 else f"({', '.join(names)})"
    latex = re.sub(r"([A-Za-z])(\d)", r"\1_{\2}", plain)
    body = rf"\partial L / \partial {latex}"
    if not at:
        return Named(f"dL/d{plain}", body)
    return Named(f"dL/d{plain} at {at}", rf"\left.{body}\right|_{{{latex_at or at}}}")
