"""zero-hidden: what does a network with hidden layers learn from an all-zero start?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symbreak.explanations import lessons
from symbreak.explanations.derivation import Named, Step, define, derive
from symbreak.explanations.evidence import Caveat, Cell, Criterion, Experiment, Table
from symbreak.explanations.lessons import Lesson, Training, ladder
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Problem
from symbreak.explanations.question import Question
from symbreak.explanations.two_units import TwoUnits, functions, slope_by
from symbreak.explanations.zeros import chain_ladder

if TYPE_CHECKING:
    from torch import nn

WIDTH = 8  # units of a hidden layer
STEPS = 40
SAME = 1e-9  # of the largest activation: how far the copies may drift by rounding

CLAIM = (
    "It depends on phi(0): where phi(0) = 0 (tanh, ReLU, GELU) only the output bias ever gets a gradient and the "
    "network is stuck, and where phi(0) and its slope are not 0 (sigmoid, softplus) every tensor learns, one layer a "
    "step from the output back. "
    "Even then each hidden layer is one unit for ever, because equal units get equal gradients; an all-zero start is "
    "never a good one for a network with hidden layers, but for two different reasons."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    nets = {name: TwoUnits(phi) for name, phi in functions().items()}
    eta, H = sp.symbols("eta H", positive=True)
    x, y, c = sp.symbols("x y c", real=True)
    phi_0, slope_0 = sp.symbols("phi_0 phi'_0", real=True)
    said = eta * phi_0 * slope_0 * x * y**2 * (eta * (1 + H * phi_0**2) - 1)
    ones, none = sp.ones(2, 1), sp.zeros(2, 1)
    chain, at_zero, stuck, second, equal = [], [], [], [], []
    for name, net in nets.items():
        chain += [(net.by(net.a), net.delta * net.h), (net.by(net.w), net.back * net.x)]
        zero = net.zeros(net.w, net.b, net.a)  # the output bias c may be anything
        first = [net.at(net.by(one), zero) for one in (net.w, net.b, net.a)]
        at_zero += [(first[2], (c - y) * net.phi_0 * ones), (first[0], none)]
        if net.phi_0 == 0:
            stuck += [(one, none) for one in first]
        if name in ("sigmoid", "softplus"):
            moved = net.zeros(net.w, net.b) | dict.fromkeys(net.a, eta * net.phi_0 * y) | {net.c: eta * y}
            numbers = {phi_0: net.phi_0, slope_0: net.slope_0, H: 2}
            second += [(net.at(net.by(net.w), moved), said.subs(numbers) * ones)]
        same = net.equal(net.w, net.b, net.a)
        equal += [tuple(net.at(net.by(one), same)[::-1]) for one in (net.w, net.a)]
    w1, w2, w3, b1, b2 = sp.symbols("w_1 w_2 w_3 b_1 b_2", real=True)
    h1 = sp.tanh(w1 * x + b1)
    h2 = sp.tanh(w2 * h1 + b2)
    deep = w3 * h2 - y
    return (
        define(
            "A network with one hidden layer; more outputs, samples and layers add sums and factors, and nothing new.",
            Named("f(x)", "f(x)"),
            Named("W2 phi(W1 x + b1) + b2", r"W_2\, \phi(W_1 x + b_1) + b_2"),
        ),
        derive(
            "The chain rule, with delta the derivative of the loss by the output. W2's gradient has the hidden units' "
            "output as a factor; W1's has W2 and the slope phi'. (Checked with two units for tanh, GELU, sigmoid and "
            "softplus.)",
            slope_by("W2", "W1"),
            Named(
                "delta phi(z)^T, (W2^T delta * phi'(z)) x^T", r"\delta\, \phi(z)^T, (W_2^T \delta \odot \phi'(z)) x^T"
            ),
            proof=chain,
        ),
        derive(
            "At zero weights, whatever the output bias: W2's gradient is phi(0) times delta, the same for all units; "
            "W1's is zero, because W2 is.",
            Named(
                "dL/dW2, dL/dW1 at 0",
                r"\left.\frac{\partial L}{\partial W_2}, \frac{\partial L}{\partial W_1}\right|_0",
            ),
            Named("phi(0) delta 1^T, 0", r"\phi(0)\, \delta\, \mathbf{1}^T, 0"),
            proof=at_zero,
        ),
        derive(
            "So for phi(0) = 0 all three are zero for every value c of the output bias. It alone moves, the state "
            "stays of this kind, and the same holds at the next step: for ever.",
            Named(
                "dL/d(W1, b1, W2) at (0, 0, 0, c)",
                r"\left.\frac{\partial L}{\partial (W_1, b_1, W_2)}\right|_{(0, 0, 0, c)}",
            ),
            sp.Integer(0),
            proof=stuck,
        ),
        derive(
            "For phi(0) != 0 the first step makes every entry of W2 equal to -eta phi(0) delta, and W1's second "
            "gradient is not zero any more (one sample (x, y), H units; checked for sigmoid and softplus, H = 2).",
            slope_by("W1", at="step 2", latex_at=r"\text{step } 2"),
            said,
            proof=second,
        ),
        derive(
            "But units that are equal (weights in, bias, weights out) get equal gradients, for every activation and "
            "target: they stay equal, and the layer is worth one unit.",
            Named("dL/d(unit 1)", r"\frac{\partial L}{\partial(\text{unit } 1)}"),
            Named("dL/d(unit 2)", r"\frac{\partial L}{\partial(\text{unit } 2)}"),
            proof=equal,
        ),
        derive(
            "In a deeper network the gradient of a layer has all weights behind it as factors, so each layer waits for "
            "the one behind it: layer l of L learns from step L - l + 1 on. (Three tanh layers of one unit.)",
            slope_by("w1"),
            Named("delta w3 phi'(z2) w2 phi'(z1) x", r"\delta\, w_3\, \phi'(z_2)\, w_2\, \phi'(z_1)\, x"),
            proof=[(sp.Derivative(deep**2 / 2, w1, evaluate=False), deep * w3 * (1 - h2**2) * w2 * (1 - h1**2) * x)],
        ),
    )


@dataclass(frozen=True, eq=False)
class _Outcome:
    """One activation from zero: what theory says, what training did, what the check says."""

    name: str
    phi_0: float
    slope_0: float
    predicted: lessons.Wake
    training: Training
    checked: lessons.Wake
    verdict: str
    units: tuple[int, ...]
    first_hidden: float  # smallest |output| of a hidden unit at the start
    drift: float

    @property
    def asleep(self) -> float:
        """Largest distance that anything but the output bias has moved."""
        *_, output_bias = self.training.moved
        return max(max(path) for name, path in self.training.moved.items() if name != output_bias)

    def row(self) -> tuple[Cell, ...]:
        short = " ".join(map(str, self.units))
        return (
            self.name,
            self.phi_0,
            self.slope_0,
            ladder(self.training.wake),
            ladder(self.checked),
            self.verdict,
            short,
        )


def catalogue() -> dict[str, Callable[[], nn.Module]]:
    """Every activation of the catalogue that has no parameters of its own."""
    from symbreak.nets import ACTIVATIONS

    return {name: make for name, make in ACTIVATIONS.items() if not list(make().parameters())}


def from_zero(name: str, activation: Callable[[], nn.Module], taught: Lesson, *, layers: int = 3) -> _Outcome:
    """Train an all-zero network, look at an equal one with `symbreak.check`, and say what theory says."""
    from symbreak import check

    widths = (taught.n_features, *[WIDTH] * (layers - 1), taught.n_outputs)
    model = lessons.mlp(widths, activation)
    phi_0, slope_0 = at_zero(activation())
    first = min((float(h.abs().min()) for h in lessons.hidden(model, taught.x)), default=0.0)
    report = check(model, (taught.x, taught.y), taught.loss)
    training = lessons.train(model, taught, STEPS)
    return _Outcome(
        name,
        phi_0,
        slope_0,
        chain_ladder(layers, phi_0=phi_0, slope_0=slope_0),
        training,
        dict(report.wakeup),
        report.verdict,
        lessons.distinct(model, taught),
        first,
        max(map(lessons.apart, lessons.hidden(model, taught.x)), default=0.0),
    )


def at_zero(activation: nn.Module) -> tuple[float, float]:
    """phi(0), and the slope that torch takes there."""
    import torch

    z = torch.zeros((), dtype=torch.float64, requires_grad=True)
    h = activation(z)
    (slope,) = torch.autograd.grad(h, z)
    return float(h.detach()), float(slope)


def experiment(problem: Problem, seed: int) -> Experiment:
    del seed  # nothing is drawn: the start is zero and the batch is full
    problem, taught = lessons.lesson(problem)
    made = catalogue()
    outcomes = [from_zero(name, make, taught) for name, make in made.items()]
    asleep = [one for one in outcomes if one.phi_0 == 0]
    awake = [one for one in outcomes if one.phi_0 != 0 and one.slope_0 != 0]
    depths = [
        from_zero(name, made[name], taught, layers=layers) for layers in (1, 2, 3, 4) for name in ("tanh", "sigmoid")
    ]
    tables = (
        Table(
            f"Two hidden layers of {WIDTH} units, all weights and biases zero. Step: the first with a gradient that is "
            f"not exactly zero, in plain training and by symbreak.check; units: different ones after {STEPS} steps.",
            ("activation", "phi(0)", "phi'(0)", "plain training", "symbreak.check", "verdict", "units"),
            tuple(one.row() for one in outcomes),
        ),
        Table(
            "By depth (linear layers, the output included).",
            ("layers", "activation", "plain training", "symbreak.check", "verdict"),
            tuple(
                (len(one.training.wake) // 2, one.name, ladder(one.training.wake), ladder(one.checked), one.verdict)
                for one in depths
            ),
        ),
    )
    every = [*outcomes, *depths]
    criteria = (
        Criterion(
            "tensors whose first step in training is not the one predicted from phi(0) and phi'(0)",
            sum(lessons.disagree(one.predicted, one.training.wake) for one in every),
            "==",
            0,
        ),
        Criterion(
            "tensors whose first step in training and by symbreak.check differ",
            sum(lessons.disagree(one.checked, one.training.wake) for one in every),
            "==",
            0,
        ),
        Criterion(
            f"phi(0) = 0: how far anything but the output bias moved in {STEPS} steps",
            max(one.asleep for one in asleep),
            "==",
            0,
        ),
        Criterion(
            "phi(0), phi'(0) != 0: smallest output of a hidden unit at the start, which is not zero",
            min(one.first_hidden for one in awake),
            ">",
            0.1,
        ),
        Criterion(
            "phi(0), phi'(0) != 0: tensors that never learn",
            sum(step is None for one in awake for step in one.training.wake.values()),
            "==",
            0,
        ),
        Criterion(
            f"and yet all units of a layer are one after {STEPS} steps: their largest difference, relative",
            max(one.drift for one in awake),
            "<=",
            SAME,
        ),
    )
    how = (
        f"{STEPS} full-batch steps of gradient descent (eta 0.1, float64) from zero for each activation, beside "
        "symbreak.check on an equal network."
    )
    shown = {one.name: one.training for one in outcomes if one.name in ("sigmoid", "tanh")}
    return Experiment(how, tables, criteria, _picture(problem.name, shown))


def _picture(name: str, shown: dict[str, Training]) -> Picture:
    lines = []
    for activation, training in shown.items():
        for tensor, path in training.moved.items():
            there = [(float(step), moved) for step, moved in enumerate(path) if moved > 0]
            if there and (tensor.endswith("weight") or activation == "tanh"):
                steps, moved = zip(*there, strict=True)
                lines.append(Line(f"{activation} {lessons.letter(tensor)}", tuple(steps), tuple(moved)))
    return Picture(
        f"All-zero networks on {name}: what moves, and when",
        "step",
        "distance from zero (rms)",
        tuple(sorted(lines, key=lambda line: line.label)),
        y_log=True,
    )


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:
    import torch
    from torch import nn

    from symbreak.nets import ACTIVATIONS

    _, taught = lessons.lesson(problem)
    sigmoid, bump = (
        from_zero("sigmoid", nn.Sigmoid, taught, layers=2),
        from_zero("gaussian", ACTIVATIONS["gaussian"], taught, layers=2),
    )
    balanced = _balanced(problem)
    even = lessons.mlp((balanced.n_features, WIDTH, balanced.n_outputs), nn.Sigmoid)
    balanced.loss_of(even).backward()  # type: ignore[no-untyped-call]  # torch annotates no more
    largest = max(float(p.grad.abs().max()) for p in even.parameters() if p.grad is not None)
    generator = torch.Generator().manual_seed(seed)
    biased = lessons.randomise_(
        lessons.mlp((taught.n_features, WIDTH, taught.n_outputs), nn.Tanh), generator, biases=None
    )
    with_biases = lessons.train(biased, taught, 10)
    return (
        Caveat(
            "phi(0) is not zero: the hidden units of an all-zero sigmoid network put out 0.5, so W2 has a gradient at "
            "the first step and W1 at the second.",
            often_said="with zero weights the hidden units output zero, so nothing learns",
            criteria=(
                Criterion("sigmoid: smallest output of a hidden unit at zero", sigmoid.first_hidden, ">=", 0.5),
                Criterion("first step at which W1 has a gradient", sigmoid.training.wake["fc1.weight"] or 0, "==", 2),
            ),
        ),
        Caveat(
            "Nor is it the symmetry that stops tanh or ReLU: there the gradients of the weights are not equal and "
            "growing, but zero, and the output bias learns all the same.",
            often_said="from zero all neurons learn the same thing",
        ),
        Caveat(
            "phi(0) != 0 is not enough: exp(-z^2) is 1 at 0, with slope 0. Its output layer learns, and the hidden "
            "layer never does, since the slope is a factor of every gradient in front of it.",
            criteria=(
                Criterion("exp(-z^2): first step of W2", bump.training.wake["fc2.weight"] or 0, "==", 1),
                Criterion(
                    "exp(-z^2): tensors of the hidden layer that ever learn",
                    sum(bump.training.wake[f"fc1.{kind}"] is not None for kind in ("weight", "bias")),
                    "==",
                    0,
                ),
            ),
            tables=(
                Table(
                    "One hidden layer, from zero.",
                    ("activation", "phi(0)", "phi'(0)", "plain training", "symbreak.check", "verdict"),
                    tuple(one.row()[:6] for one in (sigmoid, bump)),
                ),
            ),
        ),
        Caveat(
            "The output is right on average from the start (exactly balanced classes, or a target of mean zero): then "
            "delta sums to zero, and from zero not even the output bias of any network moves.",
            criteria=(
                Criterion("sigmoid, balanced target: largest entry of any gradient at zero", largest, "<=", 1e-12),
            ),
        ),
        Caveat(
            "The biases are random: see random-bias-zero-weights. The tanh network then learns, layer after layer.",
            criteria=(
                Criterion(
                    "tanh, zero weights, random biases: tensors that never learn",
                    sum(step is None for step in with_biases.wake.values()),
                    "==",
                    0,
                ),
            ),
        ),
    )


def _balanced(problem: Problem) -> Lesson:
    """The same data with as many samples of each class, or with a target of mean zero."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    problem = problem.standardised()
    if problem.task == "regression":
        target = torch.from_numpy(np.asarray(problem.y, dtype=np.float64))[:, None]
        return Lesson(torch.from_numpy(problem.X), (target - target.mean()) / target.std(), 1, F.mse_loss)
    each = int(np.bincount(problem.y, minlength=problem.n_classes).min())
    rows = np.concatenate([np.flatnonzero(problem.y == k)[:each] for k in range(problem.n_classes)])
    even = problem.rows(rows)
    return Lesson(torch.from_numpy(even.X), torch.from_numpy(even.y), problem.n_classes, F.cross_entropy)


QUESTION = Question(
    name="zero-hidden",
    asks="What does a network with hidden layers learn from an all-zero start?",
    brief="tanh, ReLU: the output bias, nothing else; sigmoid: every layer, as one unit for ever",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "Rumelhart, Hinton and Williams 1986, Learning internal representations by error propagation",
        "Goodfellow, Bengio and Courville 2016, Deep Learning, section 8.4",
        "Fukumizu and Amari 2000, Local minima and plateaus in hierarchical structures, Neural Networks 13:317",
    ),
    default="digits",
    most=300,
)
