"""A derivation: steps of a sentence and a formula, with the algebra carried out by sympy each time it is asked for.

A step that follows from those before it brings two expressions: what the algebra came to (a derivative that was taken,
a recurrence that was run) and what the step says. Their difference must simplify to zero, or building the step fails.
Both are kept, so that anyone can also put numbers in. sympy is imported by the functions, never by this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Expr = Any  # a sympy expression, scalar or matrix; sympy has no types of its own
Standing = Literal["definition", "algebra", "cited"]


@dataclass(frozen=True)
class Named:
    """A left-hand side that is a name and not an expression, such as the gradient of L.

    Example:
        >>> Named("grad L(w)", r"\\nabla L(w)").plain
        'grad L(w)'

    Source: a derivative, once taken, no longer says what it is the derivative of.
    """

    plain: str
    latex: str


@dataclass(frozen=True)
class Formula:
    """One formula, twice: as LaTeX and as plain text, both printed by sympy from one expression."""

    latex: str
    plain: str


@dataclass(frozen=True, eq=False)
class Identity:
    """Two scalar expressions that sympy has shown to be equal; `left` is what the algebra came to.

    `left` may be an unevaluated Derivative, Limit, Sum or Integral: evaluating it is then part of the proof.

    Example:
        >>> import sympy
        >>> x = sympy.Symbol("x")
        >>> Identity(sympy.Derivative(x**2, x), 2 * x).holds()
        True

    Source: sympy.simplify.
    """

    left: Expr
    right: Expr

    def holds(self) -> bool:
        import sympy

        left, right = sympy.sympify(self.left).doit(), sympy.sympify(self.right).doit()
        return bool(left == right or sympy.simplify(left - right) == 0)


@dataclass(frozen=True, eq=False)
class Step:
    """One step: what is said, its formula, and on what it stands.

    "definition"  it names something; there is nothing to check.
    "algebra"     it follows from the steps before; `identities` are what sympy reduced to zero.
    "cited"       it is a theorem proved elsewhere; `source` says where.
    """

    sentence: str
    formula: Formula
    standing: Standing
    identities: tuple[Identity, ...] = field(default=(), repr=False)
    source: str = ""


def define(sentence: str, left: Expr | Named, right: Expr | Named, *, relation: str = "=") -> Step:
    """A step that introduces a name.

    Example:
        >>> import sympy
        >>> define("Call it a.", Named("a", "a"), sympy.Symbol("x") / 2).formula.plain
        'a = x/2'

    Source: mathematics.
    """
    return Step(sentence, formula(left, right, relation=relation), "definition")


def derive(
    sentence: str,
    left: Expr | Named,
    right: Expr | Named,
    *,
    proof: Sequence[tuple[Expr, Expr]] | None = None,
    relation: str = "=",
) -> Step:
    """A step that follows, and is checked here and now.

    Args:
        sentence: why it follows.
        left: what is shown on the left, an expression or a name.
        right: what is shown on the right.
        proof: pairs (what the algebra came to, what the step says), scalars or matrices of equal shape, with every
            entry a symbol or a number; None: left and right themselves.
        relation: what is shown between the two; the pairs of `proof` are equalities in any case.
    Returns:
        the step, standing on "algebra".
    Raises:
        AssertionError: sympy cannot reduce a difference to zero. That is a fault in symbreak, not of the user's.
    Example:
        >>> import sympy
        >>> x = sympy.Symbol("x")
        >>> derive("Expand.", (x + 1) ** 2, x**2 + 2 * x + 1).standing
        'algebra'

    Source: sympy.simplify.
    """
    pairs = [(left, right)] if proof is None else proof
    identities = tuple(one for a, b in pairs for one in _entries(a, b))
    assert identities, f"nothing proves {sentence!r}"
    for one in identities:
        assert one.holds(), f"{sentence!r}: {one.left} is not {one.right}"
    return Step(sentence, formula(left, right, relation=relation), "algebra", identities)


def cite(sentence: str, left: Expr | Named, right: Expr | Named, *, source: str, relation: str = "=") -> Step:
    """A step whose proof is in the literature.

    Example:
        >>> cite("It is so.", Named("a", "a"), Named("b", "b"), source="Euclid").standing
        'cited'

    Source: `source`.
    """
    return Step(sentence, formula(left, right, relation=relation), "cited", source=source)


_RELATIONS = {"=": "=", "->": r"\to", "<": "<", "<=": r"\le", ">": ">", "!=": r"\ne", "~": r"\sim", "in": r"\in"}


def formula(left: Expr | Named, right: Expr | Named, *, relation: str = "=") -> Formula:
    """Both sides printed by sympy.

    Example:
        >>> import sympy
        >>> formula(Named("f", "f"), sympy.Symbol("x") ** 2).latex
        'f = x^{2}'

    Source: sympy.latex, sympy.sstr.
    """
    (l_plain, l_latex), (r_plain, r_latex) = _printed(left), _printed(right)
    return Formula(f"{l_latex} {_RELATIONS[relation]} {r_latex}", f"{l_plain} {relation} {r_plain}")


def _printed(side: Expr | Named) -> tuple[str, str]:
    if isinstance(side, Named):
        return side.plain, side.latex
    import sympy

    # rev-lex: 1 - eta h, as a person writes it, and not -eta h + 1
    return sympy.sstr(side, order="rev-lex").replace("**", "^").replace(", dir='-'", "").replace(
        ", dir='+'", ""
    ), sympy.latex(side, order="rev-lex")


def _entries(left: Expr, right: Expr) -> Iterator[Identity]:
    import sympy

    left, right = sympy.sympify(left), sympy.sympify(right)
    shape = getattr(left, "shape", ())
    assert shape == getattr(right, "shape", ()), f"{shape} against {getattr(right, 'shape', ())}"
    if not shape:
        yield Identity(left, right)
        return
    for i in range(shape[0]):
        for j in range(shape[1]):
            yield Identity(left[i, j], right[i, j])


@dataclass(frozen=True, eq=False)
class Sized:
    """Matrix expressions written out at one size, with a symbol of its own in every entry.

    sympy proves little about matrices of unknown size, and everything about a 3 x 2 one. Show the general expression,
    prove its instance.

    Example:
        >>> import sympy
        >>> n, d = sympy.symbols("n d", positive=True, integer=True)
        >>> at = Sized({n: 3, d: 2})
        >>> at(sympy.MatrixSymbol("w", d, 1)).T
        Matrix([[w_0, w_1]])

    Source: sympy.MatrixSymbol.
    """

    sizes: Mapping[Expr, int]

    def __call__(self, expression: Expr) -> Expr:
        import sympy

        sized = sympy.sympify(expression).subs(dict(self.sizes))
        for matrix in sorted(sized.atoms(sympy.MatrixSymbol), key=str):
            sized = sized.subs(matrix, _symbols(matrix))
        return sized.doit()


def _symbols(matrix: Expr) -> Expr:
    import sympy

    def entry(i: int, j: int) -> Expr:
        return sympy.Symbol(f"{matrix.name}_{i}{j}" if matrix.cols != 1 else f"{matrix.name}_{i}", real=True)

    return sympy.ImmutableMatrix(matrix.rows, matrix.cols, entry)


def gradient(scalar: Expr, variables: Expr) -> Expr:
    """The derivative of a scalar by every entry of a matrix, in the shape of that matrix; not yet evaluated.

    Args:
        scalar: an expression, or a 1 x 1 matrix.
        variables: a matrix of symbols.
    Example:
        >>> import sympy
        >>> w = sympy.Matrix(sympy.symbols("w_0 w_1"))
        >>> gradient(w[0] ** 2 * w[1], w).doit().T
        Matrix([[2*w_0*w_1, w_0**2]])

    Source: sympy.Derivative.
    """
    import sympy

    value = scalar[0, 0] if getattr(scalar, "shape", ()) else scalar
    return sympy.ImmutableMatrix(
        *variables.shape, lambda i, j: sympy.Derivative(value, variables[i, j], evaluate=False)
    )
