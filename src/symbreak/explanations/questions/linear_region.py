"""linear-region: what is too small, right and too large for the weights in front of tanh and sigmoid?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from symbreak.explanations import many
from symbreak.explanations.derivation import Named, Step, define, derive
from symbreak.explanations.evidence import Caveat, Cell, Criterion, Experiment, Table
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Problem
from symbreak.explanations.question import Question

if TYPE_CHECKING:
    from torch import Tensor

FACTORS = (0.01, 0.1, 1.0, 4.0, 10.0, 100.0)  # times the recommended standard deviation, 1 / sqrt(fan_in)
SMALL, LARGE = FACTORS[0], FACTORS[-1]
RIGHT = {"tanh": 1.0, "sigmoid": 4.0}
ETAS = (0.03, 0.3, 3.0)  # each factor may take the one that suits it best
STEPS = 150
SEEDS = 2
WIDTH = 24
HIDDEN = 2
ROWS = 200
STRAIGHT = {"tanh": 0.5, "sigmoid": 1.0}  # |z| below: tanh is within 8 % of a line; sigmoid(z) = (1 + tanh(z / 2)) / 2
FLAT = 0.05  # of the largest slope: below it a unit counts as saturated

CLAIM = (
    "With standardised inputs a standard deviation of 1 / sqrt(fan_in) puts the sums at about 1, where tanh begins to "
    "bend: far below it every unit is a line, the whole net is one linear map and its gradients are small; far above "
    "it the units are saturated, their slope is nearly zero, and learning is slow or stops. "
    "For the sigmoid, which is half a tanh of half its argument, the same point is at four times that (twice in the "
    "first and last layer)."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    z = sp.Symbol("z", real=True)
    s, a, fan, b = sp.symbols("s a m b", positive=True)
    w1, w2, x1, x2 = sp.symbols("w_1 w_2 x_1 x_2", real=True)
    variance = sp.Symbol("sigma^2", positive=True)
    sigmoid = 1 / (1 + sp.exp(-z))
    square = sp.expand((w1 * x1 + w2 * x2) ** 2).subs({w1 * w2: 0}).subs({w1**2: variance, w2**2: variance})
    g = sp.Function("g")(z)
    lecun = sp.tanh(b * z)
    third = b**3 * (1 - lecun**2) * (6 * lecun**2 - 2)
    return (
        derive(
            "Near zero tanh is a line of slope 1 ...",
            sp.Limit(sp.tanh(z) / z, z, 0),
            sp.Integer(1),
        ),
        derive(
            "... and bends with the cube: at |z| = 1/2 the next term is 8 % of the line.",
            sp.Limit((z - sp.tanh(z)) / z**3, z, 0),
            sp.Rational(1, 3),
            proof=[(sp.limit((z - sp.tanh(z)) / z**3, z, 0), sp.Rational(1, 3))],
        ),
        derive(
            "Its slope is 1 at zero and falls to nothing where the output is near 1 or -1.",
            Named("tanh'(z)", r"\tanh'(z)"),
            1 - sp.tanh(z) ** 2,
            proof=[(sp.Derivative(sp.tanh(z), z), 1 - sp.tanh(z) ** 2)],
        ),
        derive(
            "The back-signal is multiplied by that slope in every layer (gradient-size). The sum of it is finite, so "
            "for sums z of standard deviation s, large, the mean slope falls as 1 / s.",
            sp.Integral(1 - sp.tanh(z) ** 2, (z, -sp.oo, sp.oo)),
            sp.Integer(2),
            proof=[(sp.limit(sp.tanh(z), z, sp.oo) - sp.limit(sp.tanh(z), z, -sp.oo), sp.Integer(2))],
        ),
        derive(
            "The share of normal sums that lie within a of zero, where the unit still is a line, falls alike: times s "
            "it tends to a constant.",
            sp.Limit(s * sp.erf(a / (s * sp.sqrt(2))), s, sp.oo),
            a * sp.sqrt(2 / sp.pi),
            proof=[(sp.limit(s * sp.erf(a / (s * sp.sqrt(2))), s, sp.oo), a * sp.sqrt(2 / sp.pi))],
        ),
        derive(
            "How large are the sums? Independent weights of variance sigma^2 give a sum whose variance is sigma^2 "
            "times the squares of the inputs (two of them here) ...",
            Named("E (sum_i w_i x_i)^2", r"\mathbb{E}\left(\textstyle\sum_i w_i x_i\right)^2"),
            Named("sigma^2 sum_i x_i^2", r"\sigma^2 \textstyle\sum_i x_i^2"),
            proof=[(square, variance * (x1**2 + x2**2))],
        ),
        derive(
            "... which is m sigma^2 for m standardised inputs: 1, where the bend begins, for LeCun's standard "
            "deviation.",
            Named("m sigma^2 = 1", r"m \sigma^2 = 1"),
            Named("sigma = m^(-1/2)", r"\sigma = m^{-1/2}"),
            relation="->",
            proof=[(sp.solve(sp.Eq(fan * b**2, 1), b)[0], 1 / sp.sqrt(fan))],
        ),
        derive(
            "A sigmoid is a tanh of half the argument, of half the height, moved up: so it needs weights twice as "
            "large in front of it and twice as large behind it, four times as large between two of them.",
            Named("tanh(z)", r"\tanh(z)"),
            Named("2 sigma(2 z) - 1", r"2\,\sigma(2 z) - 1"),
            proof=[((2 * sigmoid.subs(z, 2 * z) - 1), sp.tanh(z).rewrite(sp.exp))],
        ),
        derive(
            "And its slope is at most 1/4, so a net of sigmoids with weights made for tanh loses that much a layer.",
            Named("sigma'(0)", r"\sigma'(0)"),
            sp.Rational(1, 4),
            proof=[(sp.diff(sigmoid, z).subs(z, 0), sp.Rational(1, 4))],
        ),
        define(
            "LeCun's own activation is a tanh that is stretched so that it is 1 at 1 and -1 at -1.",
            Named("f(z)", "f(z)"),
            Named("1.7159 tanh(2 z / 3)", r"1.7159 \tanh(\tfrac{2}{3} z)"),
        ),
        derive(
            "The second derivative of g = tanh(b z) is largest where the third is zero: where g^2 = 1/3.",
            sp.Derivative(g, (z, 3)),
            Named("b^3 (1 - g^2) (6 g^2 - 2)", "b^3 (1 - g^2)(6 g^2 - 2)"),
            proof=[(sp.Derivative(sp.diff(lecun, z, 2), z), third)],
        ),
    )


@dataclass(frozen=True)
class _State:
    """How the hidden units of a net stand at step 0, and how fast it then learns."""

    z_std: float
    straight: float  # share of (unit, sample) where the activation is nearly a line
    flat: float  # share where it is saturated
    slope: float  # mean slope, of the largest
    affine: float  # share of the last hidden layer's variance that a linear map of the inputs explains
    relative: float  # gradient / weight of the first layer, root mean squares
    eta: float  # best of ETAS
    losses: tuple[float, ...]  # with it; mean over seeds


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    import torch

    return torch.tanh if name == "tanh" else torch.sigmoid


def _slope(name: str, z: Tensor) -> Tensor:
    """phi'(z) over its largest value."""
    import torch

    return 1 - torch.tanh(z if name == "tanh" else z / 2) ** 2


def _scaled(base: many.Many, factor: float) -> many.Many:
    return many.Many(tuple(factor * W for W in base.weights), base.biases, base.activation)


def _together(nets: list[many.Many]) -> many.Many:
    import torch

    first = nets[0]
    weights = tuple(torch.cat([one.weights[layer] for one in nets]) for layer in range(len(first.weights)))
    biases = tuple(torch.cat([one.biases[layer] for one in nets]) for layer in range(len(first.biases)))
    return many.Many(weights, biases, first.activation)


def _states(problem: Problem, name: str, seed: int) -> dict[float, _State]:
    import torch

    from symbreak.schemes import lecun_normal

    x, loss, n_out = many.tensors(problem)
    widths = (x.shape[1], *(WIDTH,) * HIDDEN, n_out)
    stds = [lecun_normal().moments(fan_in=i).std for i in widths[:-1]]
    base = many.draw(widths, stds, SEEDS, _activation(name), seed=seed)
    nets = _together([_scaled(base, factor) for factor in FACTORS for _ in ETAS])
    etas = torch.tensor(ETAS).repeat_interleave(SEEDS).repeat(len(FACTORS))
    _, losses = many.train(nets, x, loss, etas, STEPS)
    path = losses.nan_to_num(torch.inf, torch.inf).reshape(STEPS + 1, len(FACTORS), len(ETAS), SEEDS).mean(dim=-1)
    best = path[-1].argmin(dim=-1)  # [factors]
    return {
        factor: _state(_scaled(base, factor), name, x, loss, ETAS[int(best[f])], path[:, f, int(best[f])])
        for f, factor in enumerate(FACTORS)
    }


def _state(nets: many.Many, name: str, x: Tensor, loss: many.Loss, eta: float, path: Tensor) -> _State:
    import torch

    hidden = nets.sums(x)[:-1]
    z = torch.stack(hidden)
    slopes = _slope(name, z)
    _, found = many.gradients(nets, x, loss)
    first = float(found[0].square().mean().sqrt() / nets.weights[0].square().mean().sqrt())
    return _State(
        z_std=float(z.square().mean().sqrt()),
        straight=float((z.abs() < STRAIGHT[name]).float().mean()),
        flat=float((slopes < FLAT).float().mean()),
        slope=float(slopes.mean()),
        affine=_affine(x, nets.activation(hidden[-1])),
        relative=first,
        eta=eta,
        losses=tuple(map(float, path)),
    )


def _affine(x: Tensor, h: Tensor) -> float:
    """The share of the variance of h [m, n, o] that the best affine map of x explains; 1 for a linear net."""
    X = np.hstack([x.numpy().astype(np.float64), np.ones((len(x), 1))])
    H = h.permute(1, 0, 2).reshape(len(x), -1).numpy().astype(np.float64)  # [n, m o]
    H = H - H.mean(axis=0)
    left = H - X @ np.linalg.lstsq(X, H)[0]
    return float(1 - (left**2).sum() / max((H**2).sum(), 1e-300))


def _prepared(problem: Problem, seed: int) -> Problem:
    problem = problem.standardised()
    if problem.task == "regression":
        y = np.asarray(problem.y, dtype=np.float64)
        problem = replace(problem, y=(y - y.mean()) / (float(y.std()) or 1.0)).noted("target standardised")
    if len(problem.X) > ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(problem.X), ROWS, replace=False))
        problem = problem.rows(chosen)
    return problem


def _prior(problem: Problem) -> float:
    """The loss of the best constant output."""
    if problem.task == "regression":
        return float(np.var(problem.y)) / 2
    shares = np.bincount(problem.y) / len(problem.y)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def experiment(problem: Problem, seed: int, *, right: dict[str, float] | None = None) -> Experiment:
    """`right` is the factor that is taken for the right one; the claim's is RIGHT."""
    right = RIGHT if right is None else right
    problem = _prepared(problem, seed)
    prior = _prior(problem)
    found = {name: _states(problem, name, seed) for name in RIGHT}
    criteria: list[Criterion] = []
    for name, states in found.items():
        small, large, middle = states[SMALL], states[LARGE], states[right[name]]
        criteria += [
            Criterion(
                f"{name}, std x {SMALL:g}: what no linear map explains of the hidden units",
                1 - small.affine,
                "<=",
                1e-3,
            ),
            Criterion(f"{name}, std x {LARGE:g}: share of saturated units", large.flat, ">=", 0.7),
            Criterion(f"{name}, std x {right[name]:g}: share of saturated units", middle.flat, "<=", 0.35),
            Criterion(f"{name}, std x {right[name]:g}: share of units that are a line", middle.straight, "<=", 0.75),
            Criterion(
                f"{name}: loss after {STEPS} steps at the best eta, of that from x {SMALL:g}",
                middle.losses[-1] / small.losses[-1],
                "<",
                1,
            ),
            Criterion(f"{name}: the same, of that from x {LARGE:g}", middle.losses[-1] / large.losses[-1], "<", 1),
        ]
    criteria.append(
        Criterion(
            "a tanh net written as a sigmoid net, weights x 2, x 4, x 2: outputs differ by",
            _rewritten(problem, seed),
            "<=",
            1e-9,
        )
    )
    how = (
        f"Networks with {HIDDEN} hidden layers of {WIDTH}, {SEEDS} seeds, biases zero, on {len(problem.X)} "
        f"standardised samples: every weight drawn with a factor times 1 / sqrt(fan_in) (lecun_normal); then {STEPS} "
        f"steps of gradient descent, for each factor with the best of eta = {', '.join(f'{eta:g}' for eta in ETAS)}."
    )
    tables = tuple(_table(name, states, prior) for name, states in found.items())
    return Experiment(how, tables, tuple(criteria), _picture(problem, found["tanh"]))


def _table(name: str, states: dict[float, _State], prior: float) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for factor, state in states.items():
        half = next((t for t, loss in enumerate(state.losses) if loss <= prior / 2), None)
        rows.append(
            (
                factor,
                state.z_std,
                state.straight,
                state.flat,
                state.slope,
                state.affine,
                state.relative,
                state.eta,
                half,
                state.losses[-1],
            )
        )
    return Table(
        f"{name}. Hidden units at step 0: size of z; shares that are a line (|z| < {STRAIGHT[name]:g}) and saturated "
        f"(slope below {FLAT:.0%} of the largest); mean slope; share explained by a linear map; gradient / weight of "
        f"the first layer. Then training: best eta, steps to half of the loss of a constant output ({prior:.3g}), "
        "loss.",
        ("std x", "z", "line", "saturated", "slope", "linear", "grad/weight", "eta", "steps to half", "loss"),
        tuple(rows),
    )


def _picture(problem: Problem, states: dict[float, _State]) -> Picture:
    lines = tuple(
        Line(f"std x {factor:g}", tuple(map(float, range(STEPS + 1))), state.losses) for factor, state in states.items()
    )
    return Picture(
        f"tanh on {problem.name}, each at its best learning rate", "step", "training loss", lines, y_log=True
    )


def _rewritten(problem: Problem, seed: int) -> float:
    """tanh(z) = 2 sigma(2 z) - 1, put in layer by layer: the largest difference of the outputs, in float64."""
    import torch

    x, _, n_out = many.tensors(problem)
    widths = (x.shape[1], *(WIDTH,) * HIDDEN, n_out)
    drawn = many.draw(widths, [i**-0.5 for i in widths[:-1]], 1, torch.tanh, seed=seed)
    tanh = drawn.of([p.double() for p in drawn.parameters()])
    weights, biases = [], []
    last = len(tanh.weights) - 1
    for number, (W, b) in enumerate(zip(tanh.weights, tanh.biases, strict=True)):
        behind = 1.0 if number == last else 2.0  # the sum is doubled for the sigmoid that follows
        before = 1.0 if number == 0 else 2.0  # h = 2 sigma - 1
        weights.append(behind * before * W)
        biases.append(behind * (b if number == 0 else b - W.sum(dim=-1)))
    sigmoid = many.Many(tuple(weights), tuple(biases), torch.sigmoid)
    expected = tanh.outputs(x.double())
    return float((sigmoid.outputs(x.double()) - expected).abs().max() / expected.abs().max())


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:
    import torch

    problem = _prepared(problem, seed)
    x, _, n_out = many.tensors(problem)
    widths = (x.shape[1], *(WIDTH,) * HIDDEN, n_out)
    base = many.draw(widths, [i**-0.5 for i in widths[:-1]], SEEDS, torch.tanh, seed=seed)
    raw = base.sums(100 * x)[0]
    relu = many.Many(base.weights, base.biases, torch.relu)
    on = [torch.stack(_scaled(relu, factor).sums(x)[:-1]) > 0 for factor in (1.0, 100.0)]
    changed = float((on[0] != on[1]).float().mean())
    bend = 1.5 * math.atanh(math.sqrt(1 / 3))
    at = 1.7159 * math.tanh(2 / 3)
    return (
        Caveat(
            "The inputs are not standardised: then the first sums are not at 1, and the recommended weights saturate.",
            criteria=(
                Criterion(
                    "inputs x 100, tanh, std as recommended: share of saturated units in layer 1",
                    float((_slope("tanh", raw) < FLAT).float().mean()),
                    ">=",
                    0.7,
                ),
            ),
        ),
        Caveat(
            "The activation is ReLU (or any that is positively homogeneous): its bend is at zero at every scale, so no "
            "factor makes it more linear or saturated; what the factor does there is gradient-size.",
            often_said="small weights keep every network in its linear region",
            criteria=(
                Criterion("ReLU, std x 100 without biases: share of units that switch on or off", changed, "<=", 1e-3),
            ),
        ),
        Caveat(
            "A normalisation follows each layer: it sets the size of the sums, and the factor is undone.",
        ),
        Caveat(
            "LeCun's activation is nearly, not exactly, what it is said to be: f(1) = 1 holds to five digits, but the "
            "second derivative is largest at z = (3/2) artanh(1/sqrt 3), not at 1.",
            often_said="1.7159 tanh(2z/3) has its largest second derivative at z = 1",
            criteria=(
                Criterion("f(1), less 1", abs(at - 1), "<=", 1e-4),
                Criterion("where the second derivative is largest, less 1", abs(bend - 1), ">", 0.01),
            ),
        ),
    )


QUESTION = Question(
    name="linear-region",
    asks="What is too small, right and too large for the weights in front of tanh and sigmoid?",
    brief="std 1 / sqrt(fan_in) puts sums where tanh begins to bend; far less is linear, far more saturated",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "LeCun, Bottou, Orr and Mueller 1998, Efficient BackProp, sections 4.4 (the sigmoid) and 4.6 (the weights)",
        "Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural networks",
    ),
    default="digits",
)
