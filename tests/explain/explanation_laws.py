"""What every question must keep, whoever wrote it: used by the tests of each question."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from symbreak.explanations.derivation import Identity, Step


def assert_identities_hold_in_numbers(steps: tuple[Step, ...], *, draws: int = 3) -> int:
    """Random numbers into both sides of every identity; how many were checked. Shares no code with `Identity.holds`."""
    rng = np.random.default_rng(7)
    checked = 0
    for step in steps:
        assert (step.standing == "algebra") == bool(step.identities), step
        assert (step.standing == "cited") == bool(step.source), step
        for identity in step.identities:
            for _ in range(draws):
                left, right = in_numbers(identity, rng)
                assert np.isclose(left, right, rtol=1e-4, atol=1e-6), (step.sentence, identity.left, left, right)
            checked += 1
    return checked


def in_numbers(identity: Identity, rng: np.random.Generator) -> tuple[complex, complex]:
    symbols = sorted(sp.sympify(identity.left).free_symbols | sp.sympify(identity.right).free_symbols, key=str)
    point: dict[Any, Any] = {symbol: _draw(symbol, rng) for symbol in symbols}
    return _value(identity.left, point), _value(identity.right, point)


def _draw(symbol: sp.Symbol, rng: np.random.Generator) -> sp.Number:
    if symbol.is_integer:
        return sp.Integer(int(rng.integers(1, 6)))
    drawn = rng.uniform(0.2, 1.5)
    return sp.Float(drawn if symbol.is_positive or rng.random() < 0.5 else -drawn)


def _value(expression: sp.Expr, point: dict[Any, Any]) -> complex:
    """A Derivative by central differences, a Limit by going near, everything else by putting numbers in."""
    expression = sp.sympify(expression)
    for one in sorted(expression.atoms(sp.Derivative), key=sp.count_ops, reverse=True):
        if expression.has(one):
            expression = expression.subs(one, _difference(one, point))
    for one in expression.atoms(sp.Limit):
        inner, variable, to, _ = one.args
        near = sp.Float(1e6) if to == sp.oo else to + sp.Float(1e-7)
        expression = expression.subs(one, sp.N(inner.subs({**point, variable: near})))
    return complex(sp.N(expression.subs(point)))


def _difference(derivative: sp.Derivative, point: dict[Any, Any]) -> sp.Number:
    inner, (variable, order) = derivative.args
    assert order == 1
    step = sp.Float("1e-10", 40)
    at = {symbol: sp.Float(number, 40) for symbol, number in point.items()}
    high, low = (inner.subs({**at, variable: at[variable] + s}) for s in (step, -step))
    return sp.Float(sp.N(high - low, 40) / (2 * step), 15)
