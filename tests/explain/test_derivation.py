"""The algebra is carried out: a wrong formula cannot be built, and the laws of the tests see one that is."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from explanation_laws import assert_identities_hold_in_numbers, in_numbers

from symbreak.explanations.derivation import Formula, Identity, Named, Sized, Step, cite, derive, formula, gradient

x, a = sp.symbols("x a", real=True)
p = sp.Symbol("p", positive=True)


def test_a_formula_that_is_wrong_cannot_be_built() -> None:
    with pytest.raises(AssertionError, match="is not"):
        derive("Wrong.", Named("f'", "f'"), 3 * x, proof=[(sp.Derivative(x**2, x), 3 * x)])


def test_a_step_without_anything_to_check_cannot_be_built() -> None:
    with pytest.raises(AssertionError, match="nothing proves"):
        derive("Empty.", x, x, proof=[])


def test_matrices_of_other_shapes_are_not_compared() -> None:
    with pytest.raises(AssertionError, match="against"):
        derive("Shapes.", x, x, proof=[(sp.zeros(2, 1), sp.zeros(1, 2))])


@pytest.mark.parametrize(
    ("left", "right"),
    [(sp.Derivative(x**3 + a * x, x), 3 * x**2 + a), (sp.Limit(sp.sin(x) / x, x, 0), sp.Integer(1)),
     (sp.exp(p + a), sp.exp(p) * sp.exp(a)), (sp.Limit(sp.log(p) / p, p, sp.oo), sp.Integer(0))],
)  # fmt: skip
def test_the_numbers_agree_with_sympy(left: sp.Expr, right: sp.Expr) -> None:
    assert Identity(left, right).holds()
    one, other = in_numbers(Identity(left, right), np.random.default_rng(0))
    assert one == pytest.approx(other, rel=1e-4, abs=1e-4)


def test_the_numbers_see_a_wrong_formula() -> None:
    """The step is built by hand, around `derive`: the law must not rest on sympy's word."""
    wrong = Step("Wrong.", Formula("", ""), "algebra", (Identity(sp.Derivative(x**2, x), 3 * x),))
    with pytest.raises(AssertionError):
        assert_identities_hold_in_numbers((wrong,))


def test_the_gradient_of_a_quadratic_form() -> None:
    n = sp.Symbol("n", integer=True, positive=True)
    at = Sized({n: 3})
    A, w = sp.MatrixSymbol("A", n, n), sp.MatrixSymbol("w", n, 1)
    found = gradient(at(w.T * A * w), at(w)).doit()
    assert sp.simplify(found - at((A + A.T) * w)) == sp.zeros(3, 1)


def test_both_texts_come_from_one_expression() -> None:
    assert formula(Named("f", "f"), 1 - x**2) == Formula("f = 1 - x^{2}", "f = 1 - x^2")
    assert formula(Named("f", "f"), sp.Limit(x, x, 0), relation="<=").latex.startswith(r"f \le \lim")
    assert cite("So.", Named("a", "a"), Named("b", "b"), source="Euclid").source == "Euclid"
