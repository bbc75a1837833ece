"""perceptron-eta: does the learning rate of a perceptron matter?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from symbreak.exact import grid, perceptron
from symbreak.exact.perceptron import rational
from symbreak.explanations.derivation import Named, Step, define, derive
from symbreak.explanations.evidence import Caveat, Criterion, Experiment, Table
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Floats, Problem
from symbreak.explanations.question import Question

POWERS = tuple(2.0**k for k in (-10, -3, -1, 1, 4, 10))  # times these, float64 rounds nothing
DECIMALS = ("0.001", "0.01", "0.1", "0.3", "7", "100")
EPOCHS = 30
EXACT_PRODUCTS = 40_000  # products of fractions a run may take: a tenth of a second
AND = ([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 0, 1])

CLAIM = (
    "From zero weights it does not: every weight is eta times a sum of samples, no prediction sees the factor, so the "
    "mistakes are the same for every eta > 0 and one run stands for all. "
    "From other weights only the ratio w0 / eta matters; and floats are not real numbers: where a sum is zero but for "
    "rounding, two learning rates may decide differently."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    eta, c = sp.symbols("eta c", positive=True)
    s, m, z0 = sp.symbols("s m z", real=True)
    u, x, w = (sp.Matrix(sp.symbols(f"{name}_0 {name}_1", real=True)) for name in "uxw")
    c0, b = sp.symbols("c_t b_t", real=True)
    z, z_u = (eta * u).dot(x) + eta * c0, u.dot(x) + c0
    total, k = sp.symbols("T k", integer=True, positive=True)
    term, three = sp.Function("g")(k), sp.symbols("g_1:4", real=True)  # m_k s_k x_k, one feature of it
    return (
        define(
            "At each visit the perceptron predicts by the sign of z and, on a mistake (m = 1, else 0), adds eta s x, "
            "where s = +1 or -1 is the target; the bias is a weight whose feature is 1.",
            Named("w_{t+1}", "w_{t+1}"),
            Named("w_t + eta m_t s_t x_t", r"w_t + \eta\, m_t s_t x_t"),
        ),
        define(
            "Beside it runs another one with learning rate 1, u, from u_0 = 0. Suppose that up to visit t the weights "
            "are eta times its weights; at the start that is 0 = eta 0.",
            Named("w_t", "w_t"),
            Named("eta u_t", r"\eta\, u_t"),
        ),
        derive(
            "Then its z is eta times the other z ...",
            Named("z_t", "z_t"),
            Named("eta (u_t . x_t + c_t)", r"\eta\,(u_t \cdot x_t + c_t)"),
            proof=[(z, eta * z_u)],
        ),
        derive(
            "... and eta > 0 does not change a sign, zero included: both predict the same, and m_t is the same.",
            Named("sign(eta z)", r"\operatorname{sign}(\eta z)"),
            sp.sign(z0),
            proof=[(sp.sign(eta * z0, evaluate=False), sp.sign(z0))],
        ),
        derive(
            "So the next weights are eta times the other's next weights, and what held at visit t holds at t + 1: by "
            "induction at every visit, whatever the order of the samples.",
            Named("w_{t+1} = eta u_t + eta m_t s_t x_t", r"w_{t+1} = \eta u_t + \eta m_t s_t x_t"),
            Named("eta (u_t + m_t s_t x_t) = eta u_{t+1}", r"\eta (u_t + m_t s_t x_t) = \eta u_{t+1}"),
            proof=[(eta * u + eta * m * s * x, eta * (u + m * s * x))],
        ),
        derive(
            "Written out, g(k) = m_k s_k x_k: the weights are eta times a sum of signed samples (checked for T = 3; "
            "each further term is the step above).",
            sp.Sum(eta * term, (k, 1, total)),
            eta * sp.Sum(term, (k, 1, total)),
            proof=[(sum(eta * g for g in three), eta * sum(three))],
        ),
        derive(
            "From other weights the same steps relate the run (c w_0, c b_0, c eta) to the run (w_0, b_0, eta), for "
            "any c > 0. With c = 1 / eta: what matters is w_0 / eta, how many updates the start is worth.",
            Named("c w_t + (c eta) m_t s_t x_t", r"c\,w_t + (c\,\eta)\, m_t s_t x_t"),
            Named("c (w_t + eta m_t s_t x_t) = c w_{t+1}", r"c\,(w_t + \eta\, m_t s_t x_t) = c\,w_{t+1}"),
            proof=[
                (c * w + c * eta * m * s * x, c * (w + eta * m * s * x)),
                ((c * w).dot(x) + c * b, c * (w.dot(x) + b)),
            ],
        ),
    )


@dataclass(frozen=True)
class _Update:
    """One visit of a sample that was predicted wrong."""

    visit: int
    sample: int
    sign: int
    weights: tuple[Fraction, ...]  # after it, the bias last


def _updates(X: Sequence[Sequence[Any]], signs: Sequence[int], start: Fraction, eta: Any, epochs: int) -> list[_Update]:
    """The textbook loop in fractions, with everything it did. (It shares no code with `perceptron.run_rational`.)"""
    samples = [[rational("X", one) for one in row] + [Fraction(1)] for row in X]
    step = rational("eta", eta)
    w = [start] * len(samples[0])
    done: list[_Update] = []
    for visit in range(epochs * len(samples)):
        i = visit % len(samples)
        z = sum((p * q for p, q in zip(w, samples[i], strict=True)), Fraction(0))
        if (z >= 0) != (signs[i] > 0):
            w = [p + step * signs[i] * q for p, q in zip(w, samples[i], strict=True)]
            done.append(_Update(visit + 1, i, int(signs[i]), tuple(w)))
    return done


def experiment(problem: Problem, seed: int, *, start: float = 0.0) -> Experiment:
    """From `start`, which the claim wants to be zero."""
    problem = problem.signs()
    X, y = problem.X, problem.y
    W0 = np.full((1, X.shape[1]), start)
    unit = perceptron.run(X, y, W0, 1.0, b0=start, epochs=EPOCHS)
    rows, odd_powers, unexplained = [], 0, 0
    for eta in sorted((*POWERS, *map(float, DECIMALS))):
        run = perceptron.run(X, y, W0, eta, b0=start, epochs=EPOCHS)
        same = bool(np.array_equal(run.mistakes, unit.mistakes))
        apart = _apart(run.weights / eta, unit.weights)
        ties = int(max(run.ties[0], unit.ties[0]))
        if eta in POWERS:
            odd_powers += not (same and apart == 0)
        unexplained += not same and ties == 0
        rows.append((eta, int(run.mistakes.sum()), int(run.epochs_to_converge[0]) or None, same, apart, ties))
    every = Table(
        f"Weights and bias start at {start:g}; at most {EPOCHS} epochs over {len(X)} samples, in float64.",
        ("eta", "mistakes", "epochs", "as eta = 1", "w / eta apart", "ties"),
        tuple(rows),
    )
    chain = _Chain(X, y, start)
    other = _scaled_start(X, y, seed)
    essential = grid.reduce(W0, [float(one) for one in DECIMALS], b0=start)
    criteria = (
        Criterion("etas that are powers of two, whose run is not eta = 1's bit for bit", odd_powers, "==", 0),
        Criterion("etas with other mistakes than eta = 1 and no tie to explain it", unexplained, "==", 0),
        Criterion(f"exact arithmetic, {chain.about}: updates where w_t is not eta u_t", chain.broken, "==", 0),
        Criterion("the same: updates that were compared", chain.compared, ">", 0),
        Criterion(f"runs needed for {len(DECIMALS)} learning rates", len(essential.eta), "==", 1),
        Criterion("random w0: (c w0, c eta) with c = 8 differs from (w0, eta) in mistakes", other.law, "==", 0),
        Criterion("random w0, eta alone changed: runs of six that make other mistakes", other.alone, ">", 0),
    )
    how = (
        "The perceptron of the textbook, phi(z) = 1 for z >= 0, samples in order, with twelve learning rates; then the "
        "induction itself, update by update, in fractions; then a start that is not zero."
    )
    return Experiment(how, (every, chain.table(), other.table), criteria, _picture(problem, seed))


def _apart(found: Floats, expected: Floats) -> float:
    size = float(np.abs(expected).max()) or 1.0
    return float(np.abs(found - expected).max()) / size


class _Chain:
    """The induction on the real sequence of updates, in exact arithmetic."""

    def __init__(self, X: Floats, y: Floats, start: float) -> None:
        epochs = 3
        most = int(np.clip(EXACT_PRODUCTS // (epochs * (X.shape[1] + 1)), 4, 100))
        # The first of both classes, in their order: of one class alone there would be no mistake to look at.
        self.chosen = np.sort(np.concatenate([np.flatnonzero(y == s)[: most // 2] for s in (-1, 1)]))
        chosen = self.chosen
        self.about = f"{len(chosen)} samples, {epochs} epochs"
        signs = [int(one) for one in y[chosen]]
        rows = X[chosen].tolist()
        self.unit = _updates(rows, signs, rational("start", start), 1, epochs)
        self.others = {eta: _updates(rows, signs, rational("start", start), eta, epochs) for eta in ("0.1", "0.3", "7")}
        self.broken = sum(_broken(self.unit, other, rational("eta", eta)) for eta, other in self.others.items())
        self.compared = sum(len(other) for other in self.others.values())

    def table(self) -> Table:
        shown = list(zip(self.unit, self.others["0.1"], strict=False))[:6]
        rows = tuple(
            (
                number,
                one.visit,
                int(self.chosen[one.sample]),
                f"{one.sign:+d}",
                float(one.weights[0]),
                float(tenth.weights[0]),
                float(one.weights[-1]),
                float(tenth.weights[-1]),
            )
            for number, (one, tenth) in enumerate(shown, start=1)
        )
        return Table(
            "The first updates, in fractions: u with eta = 1, w with eta = 1/10; the first weight and the bias.",
            ("update", "visit", "row", "s", "u first", "w first", "u bias", "w bias"),
            rows,
        )


def _broken(unit: list[_Update], other: list[_Update], eta: Fraction) -> int:
    """Updates of one run that are not eta times those of the run with eta = 1, at the same visit."""
    wrong = abs(len(unit) - len(other))
    for a, b in zip(unit, other, strict=False):
        wrong += (a.visit, a.sign) != (b.visit, b.sign) or any(
            eta * p != q for p, q in zip(a.weights, b.weights, strict=True)
        )
    return wrong


@dataclass(frozen=True)
class _Other:
    """A start that is not zero."""

    law: int
    alone: int
    table: Table


def _start(X: Floats, seed: int) -> tuple[Floats, float]:
    """Random weights, some updates long: a start that matters and can be left."""
    rng = np.random.default_rng(seed)
    w0 = rng.standard_normal(X.shape[1] + 1) * 3 * float(np.linalg.norm(X, axis=1).mean() or 1.0)
    return w0[None, :-1], float(w0[-1])


def _scaled_start(X: Floats, y: Floats, seed: int) -> _Other:
    W0, b0 = _start(X, seed)
    base = perceptron.run(X, y, W0, 1.0, b0=b0, epochs=EPOCHS)
    law = perceptron.run(X, y, 8 * W0, 8.0, b0=8 * b0, epochs=EPOCHS)
    rows, alone = [], 0
    for eta in map(float, DECIMALS):
        run = perceptron.run(X, y, W0, eta, b0=b0, epochs=EPOCHS)
        differs = not np.array_equal(run.mistakes, base.mistakes)
        alone += differs
        rows.append((eta, int(run.mistakes[0, 0]), int(run.mistakes.sum()), int(run.epochs_to_converge[0]) or None))
    table = Table(
        f"One random start for all (|w0| = {float(np.linalg.norm(W0)):.3g}); now eta says how far away it is.",
        ("eta", "mistakes in epoch 1", "mistakes", "epochs"),
        tuple(rows),
    )
    return _Other(int((law.mistakes != base.mistakes).sum()), alone, table)


def _picture(problem: Problem, seed: int) -> Picture:
    X, y = problem.X, problem.y
    W0, b0 = _start(X, seed)
    zero = np.zeros_like(W0)
    lines = []
    for eta in (0.01, 1.0, 100.0):
        run = perceptron.run(X, y, zero, eta, b0=0.0, epochs=EPOCHS)
        lines.append(_by_epoch(f"from zero, eta = {eta:g}", run))
    for eta in (0.01, 1.0, 100.0):
        run = perceptron.run(X, y, W0, eta, b0=b0, epochs=EPOCHS)
        lines.append(_by_epoch(f"from w0, eta = {eta:g}", run))
    return Picture(
        f"Perceptron on {problem.name}: from zero the three rates are one line",
        "epoch",
        "mistakes in the epoch",
        tuple(lines),
    )


def _by_epoch(label: str, run: perceptron.Run) -> Line:
    mistakes = run.mistakes[0]
    return Line(label, tuple(float(t) for t in range(1, len(mistakes) + 1)), tuple(map(float, mistakes)))


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:  # noqa: ARG001
    X, y = AND
    floats = {eta: perceptron.run(X, y, [[0, 0]], eta, b0=0, epochs=20) for eta in (1.0, 0.1, 0.125)}
    exact = perceptron.run_rational(X, y, [[0, 0], [0, 0]], [1, "0.1"], b0=0, epochs=20).epochs_to_converge
    epochs = {eta: int(run.epochs_to_converge[0]) for eta, run in floats.items()}
    both = problem.signs()
    return (
        Caveat(
            "In floats, at ties. The AND gate from zero: 0.1 + 0.1 + 0.1 is not 0.3, so a z that is zero in real "
            "numbers falls on one side with eta = 0.1, and the run takes another way. In fractions both take the "
            "same; so do floats where eta is a power of two. Run eta = 1 and multiply.",
            often_said="the learning rate of a perceptron does not matter at all",
            criteria=(
                Criterion(
                    "AND gate in float64: epochs with eta = 1, less those with eta = 0.1",
                    epochs[1.0] - epochs[0.1],
                    ">",
                    0,
                ),
                Criterion("the same in fractions", int(exact[0] - exact[1]), "==", 0),
                Criterion("the same in float64 with eta = 1/8 instead", epochs[1.0] - epochs[0.125], "==", 0),
            ),
            tables=(
                Table(
                    "AND gate from zero: the first epoch without a mistake.",
                    ("arithmetic", "eta = 1", "eta = 0.1", "eta = 1/8"),
                    (
                        ("float64", epochs[1.0], epochs[0.1], epochs[0.125]),
                        ("fractions", int(exact[0]), int(exact[1]), None),
                    ),
                ),
            ),
        ),
        Caveat(
            "The bias, or any weight, does not start at zero: eta then sets how many updates the start is worth (the "
            "last table above).",
        ),
        Caveat(
            "The model is no perceptron. In logistic regression from zero the second step already sees how far the "
            "first one went, so eta changes the direction of the weights and not only their length.",
            often_said="for a single neuron from zero, the learning rate only scales the weights",
            criteria=(
                Criterion(
                    "logistic regression from zero, 20 steps: angle between eta = 0.1 and eta = 10, in radians",
                    _logistic_angle(both.standardised().X, both.y),
                    ">",
                    1e-3,
                ),
            ),
        ),
        Caveat(
            "The update has a scale of its own: a margin (y z < 1 counts as a mistake), weight decay, or a rate that "
            "changes in the course of the run by more than a common factor.",
        ),
    )


def _logistic_angle(X: Floats, y: Floats) -> float:
    ends = []
    for eta in (0.1, 10.0):
        w = np.zeros(X.shape[1])
        for _ in range(20):
            w = w + eta * X.T @ (y / (1 + np.exp(np.clip(y * (X @ w), -500, 500)))) / len(y)
        ends.append(w / (np.linalg.norm(w) or 1.0))
    if not ends[0].any():  # nothing was learned in 20 steps, so there is no direction
        return 0.0
    return float(np.arccos(np.clip(ends[0] @ ends[1], -1, 1)))


QUESTION = Question(
    name="perceptron-eta",
    asks="Does the learning rate of a perceptron matter?",
    brief="from zero it only scales the weights; otherwise only w0 / eta matters; floats break it at ties",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "Rosenblatt 1958, The perceptron, Psychological Review 65:386",
        "Novikoff 1962, On convergence proofs for perceptrons (the bound on mistakes has no eta in it)",
        "Raschka and Mirjalili 2019, Python Machine Learning, chapter 2 (eta matters for weights that are not zero)",
    ),
    default="breast_cancer",
    needs="classes",
)
