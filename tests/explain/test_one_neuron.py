"""linear-zero, logistic-zero, perceptron-eta: other data, and each claim made false."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from symbreak.exact import perceptron
from symbreak.explanations import Criterion, explain
from symbreak.explanations.problem import read
from symbreak.explanations.questions import linear_zero, logistic_zero, perceptron_eta


def unmet(criteria: tuple[Criterion, ...]) -> list[str]:
    return [one.states for one in criteria if not one.met]


@pytest.mark.parametrize("data", ["digits", "wine"])
def test_linear_zero_on_classes_and_on_columns_that_are_constant(data: str) -> None:
    found = linear_zero.experiment(read(data), 0)
    assert found.settled, unmet(found.criteria)


def test_linear_zero_stopped_early_is_not_settled() -> None:
    found = linear_zero.experiment(read("diabetes"), 0, end=50)
    assert [one for one in unmet(found.criteria) if one.startswith("all starts end at one loss")]
    assert not found.settled


def test_linear_zero_counts_steps_as_the_loop_does() -> None:
    """The step count by bisection in closed form, against a plain loop."""
    problem = read("iris").quantity().standardised()
    X = linear_zero._with_ones(problem.X)
    race = linear_zero._Race(X, problem.y, {"zero": np.zeros(X.shape[1])}, linear_zero.END)
    w, steps = np.zeros(X.shape[1]), 0
    while (race.loss(w) - race.least_loss) / race.losable > linear_zero.SHARE:
        w = w - race.eta * race.gradient(w)
        steps += 1
    assert race.steps(np.zeros(X.shape[1])) == steps


def test_linear_zero_on_xor_finds_that_nothing_moves() -> None:
    answer = explain("linear-zero", "xor")
    assert [one for one in unmet(answer.experiment.criteria) if one.startswith("the gradient at zero is not zero")]


@pytest.mark.parametrize("data", ["iris", "moons"])
def test_logistic_zero_on_separable_and_on_mixed_classes(data: str) -> None:
    found = logistic_zero.experiment(read(data), 0)
    assert found.settled, unmet(found.criteria)


def test_logistic_zero_without_a_penalty_on_separable_classes_is_not_settled() -> None:
    found = logistic_zero.experiment(read("iris"), 0, alpha=1e-6)
    assert unmet(found.criteria) == ["L2: largest distance of an end from the judge's minimum, relative"]


def test_the_largest_margin_is_that_of_a_general_solver() -> None:
    """min |w|^2 with A w >= 1, by sequential quadratic programming. (An SVM has an intercept that costs nothing.)"""
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    X = np.hstack([rng.standard_normal((40, 3)), np.ones((40, 1))])
    A = np.sign(X @ [1.0, -2.0, 0.5, 0.3])[:, None] * X
    w = logistic_zero.largest_margin(A)
    solved = minimize(
        lambda v: v @ v,
        np.array([10.0, -20.0, 5.0, 3.0]),
        jac=lambda v: 2 * v,
        constraints={"type": "ineq", "fun": lambda v: A @ v - 1, "jac": lambda v: A},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert w is not None
    assert (A @ w).min() == pytest.approx(1, abs=1e-9)
    assert w == pytest.approx(solved.x, rel=1e-5)


def test_there_is_no_margin_where_no_plane_divides() -> None:
    corners = np.array([[-1.0, -1, 1], [1, 1, 1], [-1, 1, 1], [1, -1, 1]])
    assert logistic_zero.largest_margin(np.array([[1.0], [1], [-1], [-1]]) * corners) is None


@pytest.mark.parametrize("data", ["digits", "xor"])
def test_perceptron_eta_on_many_features_and_on_what_never_converges(data: str) -> None:
    found = perceptron_eta.experiment(read(data), 0)
    assert found.settled, unmet(found.criteria)


def test_perceptron_eta_from_weights_that_are_not_zero_is_not_settled() -> None:
    found = perceptron_eta.experiment(read("breast_cancer"), 0, start=0.5)
    assert len(unmet(found.criteria)) >= 4
    assert not found.settled


def test_the_recorded_updates_are_those_of_the_rational_engine() -> None:
    X, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [-1, -1, -1, 1]
    done = perceptron_eta._updates(X, y, Fraction(0), "0.1", epochs=7)
    engine = perceptron.run_rational(X, y, [[0, 0]], "0.1", b0=0, epochs=7)
    assert done[-1].weights == (*engine.weights[0], engine.biases[0])
    assert len(done) == engine.mistakes.sum()


def test_and_gate_six_epochs_and_four() -> None:
    ties = explain("perceptron-eta", "xor").fails_when[0]
    assert ties.shown
    assert ties.tables[0].rows == (("float64", 6, 4, 6), ("fractions", 6, 6, None))
