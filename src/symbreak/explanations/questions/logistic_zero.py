"""logistic-zero: may a logistic regression start from zero?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from symbreak.explanations.derivation import Named, Sized, Step, cite, define, derive, gradient
from symbreak.explanations.evidence import Caveat, Cell, Criterion, Experiment, Table
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Floats, Problem
from symbreak.explanations.question import Question

ALPHA = 0.05  # L2 penalty, per squared weight: small, and one minimum is reached in some hundred steps
STEPS = 4000  # of gradient descent with the penalty
FEW = 20  # separable samples: tried first; halved until a plane divides them
ELSEWHERE = ("zero", "small random", "large")  # starts that are not at the largest margin
DESCENT = 2000  # steps that are taken one by one, to check the flow against
TIMES = np.geomspace(1.0, 1e12, 49)  # of the flow, four a decade

CLAIM = (
    "Yes: at w = 0 every sample is given probability 1/2, and the first step is eta times the mean of (y - 1/2) x, "
    "which is not zero unless the classes have one mean; where the loss has a minimum (L2 penalty, or classes that "
    "overlap) every start descends to the same one. "
    "Where a plane divides the classes there is no minimum: the weights grow for ever and their direction goes to the "
    "one of largest margin from every start, but only at the rate 1 / log t, at which the part of the start fades "
    "that no support vector sees."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    z, y1, w0 = sp.symbols("z y w_0", real=True)
    c, m, t, k0 = sp.symbols("c m t k", positive=True)
    n, d, classes = sp.symbols("n d K", positive=True, integer=True)
    X, w, y = sp.MatrixSymbol("X", n, d), sp.MatrixSymbol("w", d, 1), sp.MatrixSymbol("y", n, 1)
    eta = sp.Symbol("eta", positive=True)
    at = Sized({n: 3, d: 2})
    X3, w3, y3 = at(X), at(w), at(y)

    def sigma(of: Any) -> Any:
        return 1 / (1 + sp.exp(-of))

    def loss(of: Any, target: Any) -> Any:
        return sp.log(1 + sp.exp(of)) - target * of

    Z = X3 * w3
    whole = sum(loss(Z[b], y3[b]) for b in range(3)) / 3
    slope = X3.T * sp.Matrix([sigma(Z[b]) - y3[b] for b in range(3)]) / 3
    zero = dict.fromkeys(w3, 0)
    mean = sum(
        (sp.Matrix([(y3[b] - sp.Rational(1, 2)) * X3[b, i] for i in range(2)]) for b in range(3)), sp.zeros(2, 1)
    )
    logits = sp.symbols("z_1:4", real=True)
    softmax = [sp.exp(one) / sum(map(sp.exp, logits)) for one in logits]
    target = sp.symbols("y_1:3", real=True)
    one_hot = (*target, 1 - sum(target))
    entropy = sp.log(sum(map(sp.exp, logits))) - sum(a * b for a, b in zip(one_hot, logits, strict=True))
    return (
        define(
            "The loss of a sample with target y in {0, 1} is the cross entropy of the probability sigma(z), z = w x, "
            "written without the division.",
            Named("l(z)", r"\ell(z)"),
            loss(z, y1),
        ),
        derive(
            "Its slope in z is the probability less the target.",
            Named("l'(z)", r"\ell'(z)"),
            sigma(z) - y1,
            proof=[(sp.Derivative(loss(z, y1), z), sigma(z) - y1)],
        ),
        derive(
            "So the gradient in w is that of linear regression with sigma(X w) in the place of X w.",
            Named("grad L(w)", r"\nabla L(w)"),
            Named("X^T (sigma(X w) - y) / n", r"\tfrac{1}{n} X^T(\sigma(X w) - y)"),
            proof=[(gradient(whole, w3), slope)],
        ),
        derive(
            "At zero every probability is one half.",
            Named("sigma(0)", r"\sigma(0)"),
            sp.Rational(1, 2),
            proof=[(sigma(z).subs(z, 0), sp.Rational(1, 2))],
        ),
        derive(
            "And the first step from zero points along the mean of (y - 1/2) x: from the mean of one class to that of "
            "the other.",
            Named("w_1", "w_1"),
            Named("eta mean((y - 1/2) x)", r"\eta\,\operatorname{mean}\left((y - \tfrac12)\,x\right)"),
            proof=[(-eta * slope.subs(zero), eta * mean / 3)],
        ),
        derive(
            "The curvature in z is above zero everywhere, so the loss is convex; with an L2 penalty it is strongly "
            "so, and has one minimum that every start descends to.",
            Named("l''(z)", r"\ell''(z)"),
            Named("sigma(z) (1 - sigma(z)) > 0", r"\sigma(z)(1 - \sigma(z)) > 0"),
            proof=[(sp.Derivative(sigma(z) - y1, z), sigma(z) * (1 - sigma(z)))],
        ),
        derive(
            "Where a plane divides the classes, every sample has a margin m > 0 (y = 1, z = m); making the weights c "
            "times as long makes its loss smaller for every c, so there is no minimum.",
            Named("d/dc log(1 + exp(-c m))", r"\frac{d}{dc} \log(1 + e^{-c m})"),
            -m / (1 + sp.exp(c * m)),
            proof=[(sp.Derivative(sp.log(1 + sp.exp(-c * m)), c), -m / (1 + sp.exp(c * m)))],
        ),
        derive("Only at infinity it would be zero.", sp.Limit(sp.log(1 + sp.exp(-c * m)), c, sp.oo), sp.Integer(0)),
        derive(
            "Late, the slope of a sample is exp(-z), and a weight of one sample at x = 1 follows dz/dt = exp(-z): it "
            "grows as a logarithm, k = exp(z_0) being all that is left of the start.",
            Named("dz/dt = exp(-z), z(t)", r"\dot z = e^{-z},\quad z(t)"),
            sp.log(t + k0),
            proof=[(sp.Derivative(sp.log(t + k0), t), sp.exp(-sp.log(t + k0)))],
        ),
        derive(
            "So a part of the start that no support vector sees (no late gradient corrects it) is a share w_0 / log t "
            "of the weights: it goes to zero, and slowly.",
            sp.Limit(w0 / sp.log(t), t, sp.oo),
            sp.Integer(0),
            proof=[(sp.limit(w0 / sp.log(t), t, sp.oo), sp.Integer(0))],
        ),
        cite(
            "With many samples the direction goes to that of largest margin, from every start and with every safe "
            "learning rate.",
            Named("|w_t / |w_t| - w* / |w*||", r"\left| \tfrac{w_t}{|w_t|} - \tfrac{w^*}{|w^*|} \right|"),
            Named("O(1 / log t)", r"O(1 / \log t)"),
            source="Soudry et al. 2018, theorem 3",
        ),
        derive(
            "Softmax, K = 3 classes: the slope in the logits is again probability less target ...",
            Named("dl/dz_k", r"\partial \ell / \partial z_k"),
            Named("p_k - y_k", "p_k - y_k"),
            proof=[(sp.Derivative(entropy, logits[k]), softmax[k] - one_hot[k]) for k in range(3)],
        ),
        derive(
            "... which from zero is 1/K less the target: different for every class, so no two classes stay alike.",
            Named("p_k at 0", "p_k|_{W=0}"),
            1 / classes,
            proof=[(softmax[k].subs(dict.fromkeys(logits, 0)), sp.Rational(1, 3)) for k in range(3)],
        ),
        derive(
            "The slopes of all classes add up to zero, so the sum of the class weights is conserved: zero if it "
            "starts so.",
            Named("sum_k (p_k - y_k)", r"\textstyle\sum_k (p_k - y_k)"),
            sp.Integer(0),
            proof=[(sum(p - q for p, q in zip(softmax, one_hot, strict=True)), sp.Integer(0))],
        ),
    )


def experiment(problem: Problem, seed: int, *, alpha: float = ALPHA) -> Experiment:
    """With an L2 penalty, which the claim of one minimum wants (or classes that overlap)."""
    classes = problem
    problem = problem.signs().standardised()
    X, s = with_ones(problem.X), problem.y
    starts = _starts(X, s, seed)
    first = _first_step(X, s)
    by_hand = X.T @ (s / 2) / len(s)
    ends = descend(X, s, np.array(list(starts.values())), alpha, STEPS)
    judge = _judge(X, s, alpha)
    size = float(np.linalg.norm(judge)) or 1.0
    apart = max(float(np.linalg.norm(end - judge)) for end in ends) / size
    table = Table(
        f"All {len(X)} samples with L2 penalty {alpha:g}: {STEPS} steps of gradient descent. The judge is "
        "scikit-learn's LogisticRegression (Newton).",
        ("start", "|w0|", "loss at first", "loss at the end", "|w| at the end", "from the judge"),
        tuple(
            (
                name,
                float(np.linalg.norm(w0)),
                _loss(X, s, w0, alpha),
                _loss(X, s, end, alpha),
                float(np.linalg.norm(end)),
                float(np.linalg.norm(end - judge)) / size,
            )
            for (name, w0), end in zip(starts.items(), ends, strict=True)
        ),
    )
    race = _Separable(X, s, seed)
    soft = _Softmax(classes.standardised())
    zero_length = float(np.linalg.norm(by_hand))
    criteria = (
        Criterion(
            "first step by torch's autograd and SGD against eta mean((y - 1/2) x), relative",
            float(np.linalg.norm(first - by_hand)) / (zero_length or 1.0),
            "<=",
            1e-9,
        ),
        Criterion("and it is not zero: its length at eta = 1", zero_length, ">", 1e-8),
        Criterion("L2: largest distance of an end from the judge's minimum, relative", apart, "<=", 1e-4),
        Criterion(
            "separable: angle to the largest margin at t = 10^12, of that at t = 10^4, largest over the starts",
            race.left(1e4, 1e12),
            "<=",
            0.75,
        ),
        Criterion("but slowly: least angle of a start at t = 10^6, in radians", race.least(1e6), ">", 1e-4),
        Criterion("and |w| grows for ever: at t = 10^12, of that at t = 10^6, at least", race.growth(), ">", 1.2),
        Criterion("flow against gradient descent step by step, relative", race.flow_error, "<=", 0.02),
        Criterion(
            f"softmax from zero, {soft.n_classes} classes: sum of the class weights after 200 steps, relative",
            soft.total,
            "<=",
            1e-9,
        ),
        Criterion("softmax: share of the first loss that went", soft.lost, ">", 0.01),
    )
    how = (
        "One step in torch, against the formula. Then gradient descent from four starts: with a penalty, to its end; "
        f"and on {race.n_samples} samples that a plane divides, as the flow dw/dt = -grad L up to t = 10^12 (descent "
        "with eta = 1 is at step t where the flow is at time t; checked). The largest margin is computed by least "
        "distance programming."
    )
    return Experiment(how, (table, race.table()), criteria, race.picture(problem.name))


def with_ones(X: Floats) -> Floats:
    return np.hstack([X, np.ones((len(X), 1))])


def _sigmoid(z: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))  # no overflow


def _loss(X: Floats, s: Floats, w: Floats, alpha: float) -> float:
    return float(np.logaddexp(0, -s * (X @ w)).mean() + alpha * (w @ w) / 2)


def _starts(X: Floats, s: Floats, seed: int) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    half = rng.permutation(len(X))[: -(-len(X) // 2)]
    return {
        "zero": np.zeros(X.shape[1]),
        "small random": 0.01 * rng.standard_normal(X.shape[1]),
        "pretrained on half": descend(X[half], s[half], np.zeros((1, X.shape[1])), ALPHA, 200)[0],
        "large": 3 * rng.standard_normal(X.shape[1]),
    }


def descend(X: Floats, s: Floats, W: Floats, alpha: float, steps: int) -> Floats:
    """Gradient descent of several starts W [S, d] at once, at the largest rate that is safe."""
    A = s[:, None] * X
    eta = 1 / (np.linalg.norm(X, 2) ** 2 / (4 * len(X)) + alpha)
    for _ in range(steps):
        moved = eta * (-_sigmoid(-(W @ A.T)) @ A / len(A) + alpha * W)
        W = W - moved
        if float(np.abs(moved).max()) <= 1e-12 * max(1.0, float(np.abs(W).max())):
            break
    return W


def _judge(X: Floats, s: Floats, alpha: float) -> Floats:
    """The minimum by code that is not ours; the intercept is a column of X, so it is penalised like the rest."""
    from sklearn.linear_model import LogisticRegression

    strength = 1e12 if alpha == 0 else 1 / (alpha * len(X))
    fitted = LogisticRegression(C=strength, fit_intercept=False, solver="newton-cholesky", tol=1e-10, max_iter=200)
    return np.asarray(fitted.fit(X, s).coef_[0], dtype=np.float64)


def _first_step(X: Floats, s: Floats) -> Floats:
    """torch's module, autograd and SGD take one step from zeros with eta = 1; the bias is the last weight."""
    import torch

    from symbreak.nets import LOSSES, build
    from symbreak.schemes import zeros

    model = build("logistic", X.shape[1] - 1, 1, zeros()).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    LOSSES["bce"](model(torch.from_numpy(X[:, :-1])), torch.from_numpy((s > 0).astype(np.int64))).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


def largest_margin(A: Floats) -> Floats | None:
    """The shortest w with A w >= 1 in every row, or None where there is none: least distance programming.

    Example:
        >>> largest_margin(np.array([[2.0, 0.0], [0.0, 4.0]])).round(9).tolist()
        [0.5, 0.25]

    Source: Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23.
    """
    from scipy.optimize import nnls

    scale = float(np.abs(A).max()) or 1.0
    E = np.vstack([A.T / scale, np.ones(len(A))])
    f = np.zeros(len(E))
    f[-1] = 1
    u, left = nnls(E, f, maxiter=50 * len(E))
    r = E @ u - f
    if left < 1e-9 or r[-1] >= 0:
        return None
    w = -r[:-1] / r[-1] / scale
    return np.asarray(w) if bool((A @ w >= 1 - 1e-6).all()) else None


class _Separable:
    """Samples that a plane divides, and where the directions of several starts go."""

    def __init__(self, X: Floats, s: Floats, seed: int) -> None:
        rows = _divisible(X, s, seed)
        self.n_samples = len(rows)
        self.A = s[rows, None] * X[rows]
        best = largest_margin(self.A)
        assert best is not None
        self.best = best / np.linalg.norm(best)
        rng = np.random.default_rng(seed)
        w0 = rng.standard_normal(X.shape[1])
        starts: dict[str, Any] = {
            "zero": np.zeros(X.shape[1]),
            "small random": 0.01 * w0,
            "large": 5 * w0 / np.linalg.norm(w0),
            "largest margin": 5 * self.best,
        }
        # A part of w0 that no sample sees stays for ever (linear-zero), and is left out here.
        seen = np.linalg.pinv(self.A) @ self.A
        self.starts = {name: np.asarray(seen @ start, dtype=np.float64) for name, start in starts.items()}
        self.paths = {name: self._flow(start) for name, start in self.starts.items()}  # each [T, d]
        self.flow_error = self._flow_error()

    def _flow(self, start: Floats) -> Floats:
        """dw/dt = -grad L, in the time log t, in which it is a matter of some hundred steps."""
        from scipy.integrate import solve_ivp

        def slope(_: float, w: Floats) -> Floats:
            return np.asarray(_sigmoid(-(self.A @ w)) @ self.A / len(self.A))

        def slope_in_log(tau: float, w: Floats) -> Floats:
            return np.asarray(np.exp(tau) * slope(tau, w))

        taus, how = np.log(TIMES), {"method": "LSODA", "rtol": 1e-8, "atol": 1e-10}
        early = solve_ivp(slope, (0.0, 1.0), start, **how)
        late = solve_ivp(slope_in_log, (0.0, float(taus[-1])), early.y[:, -1], t_eval=taus, **how)
        return np.asarray(late.y.T)

    def _flow_error(self) -> float:
        """Gradient descent, small steps, against the flow at the same time t."""
        eta = min(1.0, 2 * len(self.A) / float(np.linalg.norm(self.A, 2)) ** 2)
        W = np.array(list(self.starts.values()))
        for _ in range(DESCENT):
            W = W + eta * _sigmoid(-(W @ self.A.T)) @ self.A / len(self.A)
        errors = []
        for w, path in zip(W, self.paths.values(), strict=True):
            there = np.array([np.interp(np.log(DESCENT * eta), np.log(TIMES), column) for column in path.T])
            errors.append(float(np.linalg.norm(w - there) / np.linalg.norm(there)))
        return max(errors)

    def angles(self, name: str) -> Floats:
        path = self.paths[name]
        along = path @ self.best
        across = np.linalg.norm(path - along[:, None] * self.best, axis=1)
        return np.asarray(np.arctan2(across, along))

    def _angle(self, name: str, t: float) -> float:
        return float(np.interp(np.log(t), np.log(TIMES), self.angles(name)))

    def left(self, early: float, late: float) -> float:
        """The largest ratio of the angle late to the angle early. (A start at the largest margin first leaves it.)"""
        return max(self._angle(name, late) / max(self._angle(name, early), 1e-300) for name in ELSEWHERE)

    def least(self, t: float) -> float:
        return min(self._angle(name, t) for name in ELSEWHERE)

    def growth(self) -> float:
        middle = int(np.argmin(np.abs(TIMES - 1e6)))
        lengths = {name: np.linalg.norm(path, axis=1) for name, path in self.paths.items()}
        return min(float(length[-1] / length[middle]) for length in lengths.values())

    def table(self) -> Table:
        times = (1e2, 1e4, 1e6, 1e8, 1e12)
        rows: list[tuple[Cell, ...]] = []
        for name, path in self.paths.items():
            scaled = self._angle(name, 1e12) * float(np.log(1e12))
            rows.append((name, *(self._angle(name, t) for t in times), scaled, float(np.linalg.norm(path[-1]))))
        return Table(
            f"{self.n_samples} samples that a plane divides, no penalty: angle between w and the direction of largest "
            "margin, in radians. Times log t it tends to a constant.",
            ("start", *(f"t = {t:.0e}".replace("e+", "e") for t in times), "angle x log t", "|w| at last"),
            tuple(rows),
        )

    def picture(self, name: str) -> Picture:
        lines = tuple(
            Line(f"from {start}", tuple(map(float, TIMES)), tuple(map(float, self.angles(start))))
            for start in self.starts
        )
        return Picture(
            f"Logistic regression on {self.n_samples} separable samples of {name}",
            "time t (steps at eta = 1)",
            "angle to the largest margin [rad]",
            lines,
            x_log=True,
            y_log=True,
        )


def _divisible(X: Floats, s: Floats, seed: int) -> NDArray[np.int64]:
    """Some rows of both classes that a plane divides."""
    rng = np.random.default_rng(seed)
    groups = [rng.permutation(np.flatnonzero(s == sign)) for sign in (-1, 1)]
    n_rows = min(FEW, 2 * min(map(len, groups)))
    while n_rows >= 2:
        rows = np.sort(np.concatenate([group[: max(1, n_rows // 2)] for group in groups]))
        if largest_margin(s[rows, None] * X[rows]) is not None:
            return rows
        n_rows //= 2
    raise AssertionError("two different samples of two classes are always divided by a plane")


class _Softmax:
    """Softmax regression from zero, by hand."""

    def __init__(self, problem: Problem) -> None:
        X, y = with_ones(problem.X), np.eye(problem.n_classes)[problem.y]  # [n, d], [n, K]
        self.n_classes = problem.n_classes
        eta = 1 / (np.linalg.norm(X, 2) ** 2 / (2 * len(X)))
        W = np.zeros((self.n_classes, X.shape[1]))
        for _ in range(200):
            W -= eta * (self._probabilities(X, W) - y).T @ X / len(X)
        self.total = float(np.abs(W.sum(axis=0)).max() / (np.abs(W).max() or 1.0))
        loss = -float(np.log((self._probabilities(X, W) * y).sum(axis=1)).mean())
        self.lost = 1 - loss / float(np.log(self.n_classes))

    @staticmethod
    def _probabilities(X: Floats, W: Floats) -> Floats:
        z = X @ W.T
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(p / p.sum(axis=1, keepdims=True))


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:
    problem = problem.signs().standardised()
    X, s = with_ones(problem.X), problem.y
    corners = np.array([[0.0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]) - [0.5, 0.5, 0]
    xor = np.array([-1.0, 1, 1, -1])
    still = float(np.abs(corners.T @ (xor / 2) / 4).max())
    race = _Separable(X, s, seed)
    then = int(np.argmin(np.abs(TIMES - 1e4)))
    after = {name: path[then] for name, path in race.paths.items()}
    apart = float(np.linalg.norm(after["zero"] - after["large"]) / np.linalg.norm(after["zero"]))
    few = np.sort(np.random.default_rng(seed).permutation(len(X))[: max(1, X.shape[1] // 2)])
    w0 = np.random.default_rng(seed + 1).standard_normal((1, X.shape[1]))[0]
    unseen = np.eye(X.shape[1]) - np.linalg.pinv(X[few]) @ X[few]
    kept = descend(X[few], s[few], w0.reshape(1, -1), 0.0, 500)[0]
    stayed = float(np.linalg.norm(unseen @ (kept - w0)) / (np.linalg.norm(unseen @ w0) or 1.0))
    return (
        Caveat(
            "A plane divides the classes and there is no penalty: no minimum, so no start reaches it. Where the "
            "support vectors are fewer than the weights, two starts stay apart for ever by their parts that no "
            "support vector sees; where they are not (many samples of few features), the starts do come together.",
            often_said="the loss is convex, so every start gives the same weights",
            criteria=(Criterion("zero and large start at t = 10^4: distance, of |w|", apart, ">", 0.05),),
        ),
        Caveat(
            "The classes have the same mean, as in XOR: the gradient at zero is zero and zero is the minimum, since no "
            "plane does better than guessing.",
            criteria=(Criterion("XOR, corners at +-1/2: largest gradient at zero", still, "<=", 1e-15),),
        ),
        Caveat(
            "More features than samples and no penalty: the part of the start that no sample sees stays for ever, as "
            "in linear regression. A penalty takes it away.",
            criteria=(
                Criterion(
                    f"{len(few)} samples, {X.shape[1]} weights, 500 steps: change of the unseen part, relative",
                    stayed,
                    "<=",
                    1e-9,
                ),
            ),
        ),
        Caveat(
            "A hidden layer stands in front, and it is zero too: then this layer's inputs are all alike, and the "
            "answer is another one (zero-hidden).",
        ),
    )


QUESTION = Question(
    name="logistic-zero",
    asks="May a logistic regression start from zero?",
    brief="yes: w_1 = eta mean((y - 1/2) x); one minimum with L2 or overlap, else largest margin at 1 / log t",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "Soudry, Hoffer, Nacson, Gunasekar and Srebro 2018, The implicit bias of gradient descent on separable data, "
        "arXiv:1710.10345",
        "Hastie, Tibshirani and Friedman 2009, The Elements of Statistical Learning, section 4.4",
        "Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23 (the largest margin)",
    ),
    default="breast_cancer",
    needs="classes",
    most=1000,
)
