"""linear-zero: may a linear regression start from zero?"""

from __future__ import annotations

from typing import Any

import numpy as np

from symbreak.exact import descent
from symbreak.explanations.derivation import Named, Sized, Step, define, derive, gradient
from symbreak.explanations.evidence import Caveat, Criterion, Experiment, Table
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Floats, Problem
from symbreak.explanations.question import Question

END = 2**63 - 1  # steps: as many as are counted; the closed form takes them at once
SHARE = 1e-6  # of the loss that zero can lose: how near to the minimum counts as there
STEPPED = 300  # steps that are also taken one by one
NEAR = 1e-6  # relative distance of weights that counts as none

CLAIM = (
    "Yes: at w = 0 the first product X w is zero, but the gradient X^T (X w - y) / n is -X^T y / n and is not, so "
    "zero, small random and pretrained starts descend to one and the same minimum. "
    "That one minimum exists where the columns of X are independent; with more features than samples every start keeps "
    "for ever its part that no sample sees, and zero alone ends in the solution of least norm."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    n, d = sp.symbols("n d", positive=True, integer=True)
    eta, h, t, e0 = sp.symbols("eta h t e_0", positive=True)
    X, w, y = sp.MatrixSymbol("X", n, d), sp.MatrixSymbol("w", d, 1), sp.MatrixSymbol("y", n, 1)
    best, r, v = sp.MatrixSymbol("w*", d, 1), sp.MatrixSymbol("r", n, 1), sp.MatrixSymbol("v", d, 1)
    at = Sized({n: 3, d: 2})
    loss = (X * w - y).T * (X * w - y) / (2 * n)
    slope = X.T * (X * w - y) / n
    taken = gradient(at(loss), at(w))
    from_zero = dict.fromkeys(at(w), 0)
    apart = w - eta * slope - best  # one step, seen from the minimum; y = X w* + r with X^T r = 0
    shrunk = (sp.Identity(d) - eta * X.T * X / n) * (w - best)
    residual = dict(zip(at(y), at(X * best + r), strict=True))
    wide = Sized({n: 1, d: 2})  # more features than samples
    a, b = wide(X)
    unseen = sp.ImmutableMatrix([[-b, a]])  # X v = 0
    return (
        define(
            "Gradient descent on the mean squared error of a linear model, halved so that no 2 follows it around.",
            Named("L(w)", "L(w)"),
            loss,
        ),
        derive(
            "Its derivative by every weight is two products: the residual X w - y, then X^T times it.",
            Named("grad L(w)", r"\nabla L(w)"),
            slope,
            proof=[(taken, at(slope))],
        ),
        derive(
            "At w = 0 the first product is zero, so the first prediction is zero for every sample.",
            Named("X*0", "X 0"),
            sp.Integer(0),
            proof=[(at(X * w).subs(from_zero), at(sp.ZeroMatrix(n, 1)))],
        ),
        derive(
            "The second is not: the residual there is -y, so every weight whose feature correlates with y moves at the "
            "first step.",
            Named("grad L(0)", r"\nabla L(0)"),
            -X.T * y / n,
            proof=[(at(slope).subs(from_zero), at(-X.T * y / n))],
        ),
        derive(
            "Seen from a minimum w* (y = X w* + r with X^T r = 0), a step multiplies the distance by one matrix that "
            "does not know the start; the last term is the X^T r that is zero.",
            Named("w_{t+1} - w*", r"w_{t+1} - w^*"),
            shrunk + eta * X.T * r / n,
            proof=[(at(apart).subs(residual), at(shrunk + eta * X.T * r / n))],
        ),
        derive(
            "Along an eigenvector of X^T X / n with eigenvalue h the distance e shrinks by 1 - eta h a step: what "
            "holds at step t holds at t + 1, so it holds for all t. For 0 < eta < 2 / h it goes to 0 from any e_0.",
            Named("e_{t+1}", "e_{t+1}"),
            (1 - eta * h) ** (t + 1) * e0,
            proof=[((1 - eta * h) * ((1 - eta * h) ** t * e0), (1 - eta * h) ** (t + 1) * e0)],
        ),
        derive(
            "A direction v that no sample sees (X v = 0) gets no gradient: that part of the start stays for ever.",
            Named("v^T grad L(w)", r"v^T \nabla L(w)"),
            sp.Integer(0),
            proof=[((unseen * wide(slope))[0, 0], sp.Integer(0))],
        ),
        derive(
            "Among all minima w* + v with v orthogonal to w*, the one without v is shortest; zero, having no v, ends "
            "there.",
            (best + v).T * (best + v),
            best.T * best + v.T * v + 2 * best.T * v,
            proof=[(at((best + v).T * (best + v)), at(best.T * best + v.T * v + 2 * best.T * v))],
        ),
    )


def experiment(problem: Problem, seed: int, *, end: int = END) -> Experiment:
    """Up to step `end`, which the claim wants to be late enough for the slowest direction."""
    problem = problem.quantity().standardised()
    tall = _with_ones(problem.X)
    starts = _starts(tall, problem.y, seed)
    race = _Race(tall, problem.y, starts, end)
    first = Table(
        f"All {len(tall)} samples, {tall.shape[1]} weights (a column of ones is the intercept), rank {race.rank}. "
        f"Steps: until the loss is within {SHARE:g} of what zero can lose; end: after {end:.1e} steps, in closed form.",
        ("start", "|X w0|", "|gradient|", "loss at first", "steps", "loss at the end", "end from the minimum"),
        tuple(race.rows()),
    )
    few = np.random.default_rng(seed).permutation(len(tall))[: max(1, tall.shape[1] // 2)]
    wide = _Race(tall[few], problem.y[few], starts, end)
    second = Table(
        f"{len(few)} of these samples for the same {tall.shape[1]} weights: every start reaches the same loss, and "
        "another minimum.",
        ("start", "steps", "loss at the end", "|w| at the end", "least |w|", "part of w0 that no sample sees"),
        tuple(wide.rows_wide()),
    )
    criteria = (
        Criterion(
            "the first product X w from zero, largest entry", float(np.abs(tall @ starts["zero"]).max()), "==", 0
        ),
        Criterion("the gradient at zero is not zero: its norm", race.slope("zero"), ">", 1e-8 * race.scale),
        Criterion(
            f"closed form against {STEPPED} steps taken one by one: largest distance",
            race.closed_form_error(),
            "<=",
            1e-9,
        ),
        Criterion("gradient formula against differences of the loss, relative", race.formula_error(), "<=", 1e-5),
        Criterion("all starts end at one loss: largest excess, of what zero can lose", race.excess(), "<=", SHARE),
        Criterion("and in one minimum, plus the unseen part of the start: largest distance", race.apart(), "<=", NEAR),
        Criterion("with fewer samples than weights, the same law: largest distance", wide.apart(), "<=", NEAR),
        Criterion("there zero ends at the least norm, relative", wide.norm_error("zero"), "<=", NEAR),
        Criterion("and the large start does not: its norm, of the least", wide.times_least("large"), ">", 1 + 1e-3),
    )
    how = (
        "Gradient descent in closed form from four starts, eta = 1 / (largest curvature): zero; small random (std "
        "0.01); pretrained on half of the samples; large random (ten times as long as the minimum)."
    )
    return Experiment(how, (first, second), criteria, race.picture(problem.name))


def _with_ones(X: Floats) -> Floats:
    return np.hstack([X, np.ones((len(X), 1))])


def _starts(X: Floats, y: Floats, seed: int) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    half = rng.permutation(len(X))[: -(-len(X) // 2)]
    pretrained = np.linalg.lstsq(X[half], y[half])[0]
    size = _size(X, y, np.linalg.lstsq(X, y)[0])
    large = rng.standard_normal(X.shape[1])
    starts = {
        "zero": np.zeros(X.shape[1]),
        "small random": 0.01 * rng.standard_normal(X.shape[1]),
        "pretrained": pretrained,
        "large": 10 * size * large / np.linalg.norm(large),
    }
    return {name: np.asarray(start, dtype=np.float64) for name, start in starts.items()}


def _size(X: Floats, y: Floats, w: Any) -> float:
    """How long the weights of this problem are: as w, or where that is nothing, as what makes X w as large as y."""
    return max(float(np.linalg.norm(w)), float(np.linalg.norm(y)) / (float(np.linalg.norm(X)) or 1.0), 1e-300)


class _Race:
    """Several starts on one least-squares problem, and where the theory says they must end."""

    def __init__(self, X: Floats, y: Floats, starts: dict[str, Floats], end: int) -> None:
        self.X, self.y, self.starts, self.end = X, y, starts, end
        self.W0 = np.array(list(starts.values()))  # [S, d]
        self.eta = descent.largest_eta(X) / 2
        # Where the theory says they end, from LAPACK's least squares, and not from the code that says where they do.
        minimum, _, self.rank, _ = np.linalg.lstsq(X, y)
        self.minimum = np.asarray(minimum, dtype=np.float64)  # of least norm
        self.size = _size(X, y, self.minimum)
        self.unseen = self.W0 - np.linalg.lstsq(X, X @ self.W0.T)[0].T  # [S, d]
        self.ends = descent.path(X, y, self.W0, self.eta, end)[:, 0, 0]  # [S, d]
        self.least_loss = self.loss(self.minimum)
        self.losable = self.loss(starts["zero"]) - self.least_loss
        self.scale = float(np.linalg.norm(X) * np.linalg.norm(y) / len(y))

    def loss(self, w: Floats) -> float:
        return float(((self.X @ w - self.y) ** 2).mean() / 2)

    def gradient(self, w: Floats) -> Floats:
        return np.asarray(self.X.T @ (self.X @ w - self.y) / len(self.y))

    def slope(self, start: str) -> float:
        return float(np.linalg.norm(self.gradient(self.starts[start])))

    def rows(self) -> list[tuple[str | float, ...]]:
        return [
            (
                name,
                float(np.linalg.norm(self.X @ w0)),
                self.slope(name),
                self.loss(w0),
                self.steps(w0),
                self.loss(end),
                float(np.linalg.norm(end - self.minimum)) / self.size,
            )
            for (name, w0), end in zip(self.starts.items(), self.ends, strict=True)
        ]

    def rows_wide(self) -> list[tuple[str | float, ...]]:
        least = float(np.linalg.norm(self.minimum))
        return [
            (name, self.steps(w0), self.loss(end), float(np.linalg.norm(end)), least, float(np.linalg.norm(unseen)))
            for (name, w0), end, unseen in zip(self.starts.items(), self.ends, self.unseen, strict=True)
        ]

    def steps(self, w0: Floats) -> int:
        """The first step at which the loss is within SHARE of what zero can lose: it falls at each, so bracket."""
        low, high = 0, self.end
        if self._excess(w0, np.array([0]))[0] <= SHARE:
            return 0
        while high - low > 1:
            inside = np.unique(np.geomspace(max(low, 1), high, 64).astype(np.float64))
            counts = np.unique(np.array([min(max(int(c), low + 1), high) for c in inside], dtype=np.int64))
            there = self._excess(w0, counts) <= SHARE
            if not there.any():
                return self.end
            first = int(there.argmax())
            low, high = (int(counts[first - 1]) if first else low), int(counts[first])
            if first == 0:
                return high
        return high

    def _excess(self, w0: Floats, counts: np.ndarray) -> Floats:
        W = descent.path(self.X, self.y, w0, self.eta, counts)[0, 0]  # [T, d]
        losses = ((W @ self.X.T - self.y) ** 2).mean(axis=1) / 2
        return np.asarray((losses - self.least_loss) / (self.losable or 1.0))

    def excess(self) -> float:
        """Largest loss left at the end, as a share of what zero can lose."""
        return max(self.loss(end) - self.least_loss for end in self.ends) / (self.losable or 1.0)

    def apart(self) -> float:
        """Largest distance of an end from where the theory says, of the largest weight involved."""
        off = np.linalg.norm(self.ends - (self.minimum + self.unseen), axis=1)
        return float((off / (np.linalg.norm(self.W0, axis=1) + self.size)).max())

    def closed_form_error(self) -> float:
        """`descent.path` against the loop, of the largest weight involved."""
        exact = descent.path(self.X, self.y, self.W0, self.eta, STEPPED)
        taken = descent.step_by_step(self.X, self.y, self.W0, self.eta, STEPPED)
        return float(
            np.abs(exact - taken).max() / max(float(np.abs(taken).max()), float(np.abs(self.W0).max()), 1e-300)
        )

    def norm_error(self, start: str) -> float:
        return abs(self.times_least(start) - 1)

    def times_least(self, start: str) -> float:
        end = self.ends[list(self.starts).index(start)]
        return float(np.linalg.norm(end) / (np.linalg.norm(self.minimum) or 1e-300))

    def formula_error(self) -> float:
        """The formula against central differences, at every start."""
        worst = 0.0
        for w0 in self.starts.values():
            step = 1e-4 * (1 + float(np.abs(w0).max()))
            measured = np.array(
                [(self.loss(w0 + step * axis) - self.loss(w0 - step * axis)) / (2 * step) for axis in np.eye(len(w0))]
            )
            worst = max(worst, float(np.linalg.norm(measured - self.gradient(w0)) / (np.linalg.norm(measured) or 1.0)))
        return worst

    def picture(self, name: str) -> Picture:
        furthest = max(10, 10 * max(self.steps(w0) for w0 in self.starts.values()))
        counts = np.unique(np.geomspace(1, min(furthest, 1e15), 120).astype(np.int64))
        lines = []
        for label, w0 in self.starts.items():
            left = self._excess(w0, counts)
            there = left > 1e-12
            lines.append(Line(label, tuple(map(float, counts[there])), tuple(map(float, left[there]))))
        return Picture(
            f"Linear regression on {name}: four starts, one minimum",
            "steps of gradient descent",
            "loss above the minimum, of what zero can lose",
            tuple(lines),
            x_log=True,
            y_log=True,
        )


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:
    problem = problem.quantity().standardised()
    X, y = _with_ones(problem.X), problem.y
    zero = np.zeros(X.shape[1])
    before = float((y**2).mean() / 2)
    eta = 1.05 * descent.largest_eta(X)
    after = descent.path(X, y, zero, eta, 2000)[0, 0, 0]
    noise = np.random.default_rng(seed).standard_normal(len(y))
    fitted = X @ np.linalg.lstsq(X, noise)[0]
    plain = np.abs(X.T @ (noise - fitted) / len(y)).max() / (np.linalg.norm(noise) / len(y) * np.linalg.norm(X))
    deep, single = _lost(X, y, layers=2), _lost(X, y, layers=1)
    return (
        Caveat(
            f"The learning rate is above 2 / (largest curvature), here {eta / 1.05:.4g}: then every start but a "
            "minimum itself diverges, zero like any other.",
            criteria=(
                Criterion(
                    "eta 5 % above it, 2000 steps from zero: loss, of the loss at zero",
                    float(((X @ after - y) ** 2).mean() / 2 / before),
                    ">",
                    1e3,
                ),
            ),
        ),
        Caveat(
            "Two linear layers in a row, both zero: the product is still linear in x, but each gradient has the other "
            "layer as a factor, and nothing moves. It is the single layer that makes zero harmless, not linearity.",
            often_said="a linear model may start from zero",
            criteria=(
                Criterion("100 steps of y = X w from zero: share of the loss that went", single, ">", 1e-3),
                Criterion("100 steps of y = X W1 w2 from zeros: share of the loss that went", deep, "==", 0),
            ),
        ),
        Caveat(
            "The features say nothing of the target (X^T y = 0): the gradient at zero is zero, and rightly so, because "
            "zero then is the minimum.",
            criteria=(
                Criterion(
                    "noise made orthogonal to every feature: gradient at zero, relative", float(plain), "<=", 1e-12
                ),
            ),
        ),
    )


def _lost(X: Floats, y: Floats, *, layers: int) -> float:
    """Descent from zeros with one or two linear layers: the share of the first loss that 100 steps take away."""
    eta = descent.largest_eta(X) / 2
    W1, w2 = np.zeros((X.shape[1], 1 if layers == 1 else 3)), np.full(1, 1.0) if layers == 1 else np.zeros(3)
    for _ in range(100):
        residual = X @ W1 @ w2 - y
        slope_1, slope_2 = X.T @ np.outer(residual, w2) / len(y), (X @ W1).T @ residual / len(y)
        W1 = W1 - eta * slope_1
        w2 = w2 if layers == 1 else w2 - eta * slope_2
    return float(1 - ((X @ W1 @ w2 - y) ** 2).mean() / (y**2).mean())


QUESTION = Question(
    name="linear-zero",
    asks="May a linear regression start from zero?",
    brief="yes: the first product is zero, the gradient is not, and all starts reach one minimum",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "Hastie, Tibshirani and Friedman 2009, The Elements of Statistical Learning, sections 3.2 and 3.4",
        "Engl, Hanke and Neubauer 1996, Regularization of Inverse Problems, section 6.1 (from zero: least norm)",
        "Gunasekar et al. 2018, Characterizing implicit bias in terms of optimization geometry, arXiv:1802.08246",
    ),
    default="diabetes",
)
