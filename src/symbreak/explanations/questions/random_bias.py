"""random-bias-zero-weights: the other way round, zero weights and random biases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symbreak.explanations import lessons
from symbreak.explanations.derivation import Named, Step, derive
from symbreak.explanations.evidence import Caveat, Criterion, Experiment, Table
from symbreak.explanations.lessons import Lesson, Training, ladder
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Problem
from symbreak.explanations.question import Question
from symbreak.explanations.two_units import TwoUnits, functions, slope_by
from symbreak.explanations.zeros import chain_ladder

if TYPE_CHECKING:
    import torch
    from torch import nn

WIDTH = 16  # units of a hidden layer: so many that not all ReLU biases of one are negative
STEPS = 60
ETA = 0.1
DEEP = 4  # linear layers of the network whose first gradients are measured
ETAS = (1e-3, 1e-4)  # both small, so that the leading power of eta is what is seen

CLAIM = (
    "The units are not symmetric: their biases tell them apart, so with zero weights and random biases every tensor "
    "learns and every unit becomes another one. "
    "But the signal comes through one layer a step from the output back (tanh, one hidden layer: W2 at step 1, W1 at "
    "step 2), with first gradients that shrink as eta^1, eta^3, eta^7, ... by depth. A ReLU unit with a negative bias "
    "never learns, and those with positive ones stay multiples of one another under SGD, which `symbreak check` proves."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    nets = [TwoUnits(phi) for phi in functions().values()]
    eta = sp.Symbol("eta", positive=True)
    none = sp.zeros(2, 1)
    first, second, parallel = [], [], []
    for net in nets:
        blank = net.zeros(net.w, net.a)
        value, slope = net.h.subs(blank), net.slope.subs(blank)
        first += [(net.at(net.by(net.a), blank), (net.c - net.y) * value)]
        first += [(net.at(net.by(one), blank), none) for one in (net.w, net.b)]
        # one step later: W2 and c have moved; delta is the new residual
        stepped = net.zeros(net.w) | dict(zip(net.a, -eta * (net.c - net.y) * value, strict=True))
        delta = net.delta.subs(stepped)
        by_w = net.at(net.by(net.w), stepped)
        said = -eta * (net.c - net.y) * value.multiply_elementwise(slope) * delta * net.x
        second += [(by_w, said)]
        share = value.multiply_elementwise(slope)
        parallel += [(by_w[0] * share[1], by_w[1] * share[0])]
    p = sp.Symbol("p", positive=True)
    relu = TwoUnits(lambda z: sp.Max(0, z))
    negative = relu.zeros(relu.w) | {relu.b[0]: -p}
    asleep = [(relu.at(relu.by(one), negative)[0], sp.Integer(0)) for one in (relu.w, relu.b, relu.a)]
    i, j = sp.symbols("i j", integer=True, positive=True)
    powers = sp.summation(2**i, (i, 0, j - 1))
    return (
        derive(
            "At zero weights a unit puts out phi(b): one number for all samples, and another one for each unit. Only "
            "W2 (and the output bias) has a gradient, and units already differ in it.",
            slope_by("W2", "W1", "b1", at="step 1", latex_at=r"\text{step } 1"),
            Named("delta phi(b1)^T, 0, 0", r"\delta\, \phi(b_1)^T,\; 0,\; 0"),
            proof=first,
        ),
        derive(
            "After that step W2 = -eta delta phi(b1)^T, and W1 has a gradient, with the new residual delta'.",
            slope_by("W1", at="step 2", latex_at=r"\text{step } 2"),
            Named(
                "-eta delta (phi(b1) * phi'(b1)) delta' x^T",
                r"-\eta\, \delta\, (\phi(b_1) \odot \phi'(b_1))\, \delta' x^T",
            ),
            proof=second,
        ),
        derive(
            "Each row of it is one and the same vector times phi(b) phi'(b): W1 starts with rank one. The units "
            "differ, but all look the same way at first.",
            Named("row 1 / row 2", r"\text{row } 1 / \text{row } 2"),
            Named("phi(b_1) phi'(b_1) / phi(b_2) phi'(b_2)", r"\phi(b_1)\phi'(b_1) / \phi(b_2)\phi'(b_2)"),
            proof=parallel,
        ),
        derive(
            "A ReLU unit with bias -p < 0 puts out 0 with slope 0: its weights in, its bias and its weights out have "
            "gradient zero, and as none of them moves, for ever.",
            slope_by("(w, b, a)", at="b = -p"),
            sp.Integer(0),
            proof=asleep,
        ),
        derive(
            "In L layers W_{L-j} wakes at step j + 1, with the weights behind it as factors. These are of size eta, "
            "eta^2, eta^4, ...: its own first step has the power 1 + (1 + 2 + ... + 2^(j-1)) = 2^j of eta, its first "
            "gradient one less. Behind 5 layers that is eta^31.",
            Named("log|first step of W_{L-j}| / log(eta)", r"\log|\Delta W_{L-j}| / \log \eta"),
            Named("1 + sum_{i<j} 2^i = 2^j", r"1 + \sum_{i<j} 2^i = 2^j"),
            proof=[(1 + powers, 2**j)],
            relation="->",
        ),
    )


def build(taught: Lesson, layers: int, activation: Callable[[], nn.Module], seed: int) -> nn.Sequential:
    """All weights zero, all biases as torch draws them."""
    import torch

    model = lessons.mlp((taught.n_features, *[WIDTH] * (layers - 1), taught.n_outputs), activation)
    return lessons.randomise_(model, torch.Generator().manual_seed(seed), weights=(), biases=None)


@dataclass(frozen=True, eq=False)
class _Outcome:
    name: str
    layers: int
    predicted: lessons.Wake
    training: Training
    checked: lessons.Wake
    units: tuple[int, ...]
    born_dead: set[tuple[int, int]]  # (layer, unit) with a negative bias, for ReLU
    unmoved: set[tuple[int, int]]  # units none of whose weights in or bias ever moved


def from_random_biases(name: str, taught: Lesson, layers: int, seed: int) -> _Outcome:
    """Train, look at an equal network with `symbreak.check`, and say what the derivation says."""
    from symbreak import check
    from symbreak.nets import ACTIVATIONS

    make = ACTIVATIONS[name]
    model = build(taught, layers, make, seed)
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    report = check(model, (taught.x, taught.y), taught.loss)
    training = lessons.train(model, taught, STEPS, eta=ETA)
    hidden_layers = lessons.layers_of(model)[:-1]
    unmoved = {
        (number, unit)
        for number, layer in enumerate(hidden_layers, start=1)
        for unit in range(layer.out_features)
        if bool((layer.weight[unit] == start[f"fc{number}.weight"][unit]).all())
        and bool(layer.bias[unit] == start[f"fc{number}.bias"][unit])
    }
    born_dead = {
        (number, unit)
        for number in range(1, layers)
        for unit, bias in enumerate(start[f"fc{number}.bias"].tolist())
        if bias < 0
    }
    return _Outcome(
        name,
        layers,
        # a bias that is not zero makes z non-zero, so phi and its slope at 0 do not come in
        chain_ladder(layers, phi_0=0.0, slope_0=0.0, biases=[True] * layers),
        training,
        dict(report.wakeup),
        lessons.distinct(model, taught),
        born_dead if name == "relu" else set(),
        unmoved,
    )


def experiment(problem: Problem, seed: int) -> Experiment:
    problem, taught = lessons.lesson(problem)
    cases = [("tanh", 2), ("tanh", 3), ("tanh", 4), ("sigmoid", 2), ("sigmoid", 3), ("relu", 2), ("relu", 3)]
    outcomes = [from_random_biases(name, taught, layers, seed) for name, layers in cases]
    smooth = [one for one in outcomes if one.name != "relu"]
    relus = [one for one in outcomes if one.name == "relu"]
    first = Table(
        f"Zero weights, biases as torch draws them; hidden layers of {WIDTH} units. Learns: the first step with a "
        f"gradient that is not exactly zero, in plain training; units: different ones by layer after {STEPS} steps; "
        "asleep: units of which no weight in and no bias ever moved.",
        ("layers", "activation", "learns", "units", "asleep"),
        tuple(
            (one.layers, one.name, ladder(one.training.wake), " ".join(map(str, one.units)), len(one.unmoved))
            for one in outcomes
        ),
    )
    gradients = {eta: first_gradients(taught, eta, seed) for eta in ETAS}
    powers = [
        math.log10(g / other) / math.log10(ETAS[0] / ETAS[1]) for g, other in zip(*gradients.values(), strict=True)
    ]
    second = Table(
        f"tanh, {DEEP} layers: largest entry of the first gradient of each weight matrix, at two learning rates, and "
        "the power of eta it goes with.",
        ("matrix", "step", f"eta = {ETAS[0]:g}", f"eta = {ETAS[1]:g}", "power measured", "power derived"),
        tuple(
            (f"W{DEEP - j}", j + 1, gradients[ETAS[0]][j], gradients[ETAS[1]][j], powers[j], 2**j - 1)
            for j in range(DEEP)
        ),
    )
    criteria = (
        Criterion(
            "tensors whose first step in training is not the predicted one",
            sum(lessons.disagree(one.predicted, one.training.wake) for one in outcomes),
            "==",
            0,
        ),
        Criterion(
            "tensors whose first step in training and by symbreak.check differ",
            sum(lessons.disagree(one.checked, one.training.wake) for one in outcomes),
            "==",
            0,
        ),
        Criterion(
            f"tanh and sigmoid: units of a hidden layer, of {WIDTH}, that are different at the end: fewest",
            min(min(one.units) for one in smooth),
            "==",
            WIDTH,
        ),
        Criterion(
            "W1 after its first step has rank one: its second singular value, of the first",
            rank_one(taught, seed),
            "<=",
            1e-9,
        ),
        Criterion(
            "ReLU: units with a negative bias that moved, or with a positive one that did not",
            sum(len(one.born_dead ^ one.unmoved) for one in relus),
            "==",
            0,
        ),
        Criterion(
            "power of eta of the first gradients: largest distance from 2^j - 1",
            max(abs(power - (2**j - 1)) for j, power in enumerate(powers)),
            "<=",
            0.1,
        ),
    )
    how = (
        f"Networks are trained in plain torch (full batch, eta {ETA:g}, float64) for {STEPS} steps from zero weights "
        "and random biases, beside symbreak.check on equal ones."
    )
    return Experiment(how, (first, second), criteria, _picture(problem.name, taught, seed))


def first_gradients(
    taught: Lesson, eta: float, seed: int, *, layers: int = DEEP, dtype: torch.dtype | None = None
) -> list[float]:
    """Largest entry of the gradient of W_L at step 1, of W_{L-1} at step 2, and so on: what each wakes with."""
    import torch
    from torch import nn

    dtype = dtype or torch.float64
    model = build(taught, layers, nn.Tanh, seed).to(dtype)
    x, y = taught.x.to(dtype), taught.y.to(dtype) if taught.y.is_floating_point() else taught.y
    matrices = [layer.weight for layer in lessons.layers_of(model)][::-1]
    optimizer = torch.optim.SGD(model.parameters(), lr=eta)
    found = []
    for matrix in matrices:
        optimizer.zero_grad()
        taught.loss(model(x), y).backward()  # type: ignore[no-untyped-call]  # torch annotates no more
        assert matrix.grad is not None
        found.append(float(matrix.grad.abs().max()))
        optimizer.step()
    return found


def rank_one(taught: Lesson, seed: int) -> float:
    """Second singular value of W1 after it has moved once, of the first (tanh, one hidden layer)."""
    import torch
    from torch import nn

    model = build(taught, 2, nn.Tanh, seed)
    lessons.train(model, taught, 2, eta=ETA)
    sizes = torch.linalg.svdvals(lessons.layers_of(model)[0].weight.detach())
    return float(sizes[1] / sizes[0]) if len(sizes) > 1 else 0.0


def _picture(name: str, taught: Lesson, seed: int) -> Picture:
    import torch
    from torch import nn

    asleep = lessons.train(build(taught, DEEP, nn.Tanh, seed), taught, STEPS, eta=ETA)
    awake = lessons.mlp((taught.n_features, *[WIDTH] * (DEEP - 1), taught.n_outputs), nn.Tanh)
    lessons.randomise_(awake, torch.Generator().manual_seed(seed))
    usual = lessons.train(awake, taught, STEPS, eta=ETA)
    lines = [_moved(f"W{number}", asleep, number) for number in range(DEEP, 0, -1)]
    return Picture(
        f"Zero weights, random biases on {name}: {DEEP} tanh layers",
        "step of gradient descent",
        "distance from the start (rms)",
        (*lines, _moved("W1, random weights", usual, 1)),
        y_log=True,
    )


def _moved(label: str, training: Training, number: int) -> Line:
    there = [(float(step), moved) for step, moved in enumerate(training.moved[f"fc{number}.weight"]) if moved > 0]
    return Line(label, tuple(step for step, _ in there), tuple(moved for _, moved in there))


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:
    import torch
    from torch import nn

    _, taught = lessons.lesson(problem)
    tanh = from_random_biases("tanh", taught, 2, seed)
    relu = build(taught, 2, nn.ReLU, seed)
    bias = lessons.layers_of(relu)[0].bias
    bias.data = -bias.data.abs() - 0.01
    below = lessons.train(relu, taught, STEPS, eta=ETA)
    shared = build(taught, 2, nn.Tanh, seed)
    lessons.layers_of(shared)[0].bias.data.fill_(0.3)
    lessons.train(shared, taught, STEPS, eta=ETA)
    deep = {
        dtype: first_gradients(taught, 0.01, seed, layers=7, dtype=dtype) for dtype in (torch.float64, torch.float32)
    }
    return (
        Caveat(
            "The weights are zero and yet nothing is symmetric: random biases are enough to tell the units apart.",
            often_said="zero weights make all neurons compute the same",
            criteria=(
                Criterion(f"tanh: different units of {WIDTH} after {STEPS} steps", tanh.units[0], "==", WIDTH),
                Criterion("first step of W1", tanh.training.wake["fc1.weight"] or 0, "==", 2),
            ),
        ),
        Caveat(
            "ReLU, and all biases of the layer are negative: no unit of it ever learns, and the network is stuck.",
            criteria=(
                Criterion(
                    "all biases below zero: tensors beside the output bias that ever learn",
                    sum(step is not None for step in below.wake.values()) - 1,
                    "==",
                    0,
                ),
            ),
        ),
        Caveat(
            "The biases are not random but one number: then the units are one again (see constant-hidden).",
            criteria=(Criterion("biases all 0.3: different units", lessons.distinct(shared, taught)[0], "==", 1),),
        ),
        Caveat(
            "The network is deep and the arithmetic float32: the first gradients shrink doubly exponentially and "
            "underflow to zero. A layer that learns in theory then does not for a long time. (tanh, 7 layers.)",
            tables=(
                Table(
                    "Largest entry of the first gradient, from the last layer to the first; eta 0.01.",
                    ("precision", *(f"W{number}" for number in range(7, 0, -1))),
                    tuple((str(dtype).removeprefix("torch."), *sizes) for dtype, sizes in deep.items()),
                ),
            ),
            criteria=(
                Criterion("float64: largest entry of W1's gradient at step 7", deep[torch.float64][-1], ">", 0),
                Criterion("float32: the same", deep[torch.float32][-1], "==", 0),
            ),
        ),
    )


QUESTION = Question(
    name="random-bias-zero-weights",
    asks="What if the weights are zero and the biases random?",
    brief="not symmetric, but it wakes one layer a step; ReLU units with a negative bias never do",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "Goodfellow, Bengio and Courville 2016, Deep Learning, section 8.4",
        "Saxe, McClelland and Ganguli 2014, Exact solutions to the nonlinear dynamics of learning in deep linear "
        "networks, arXiv:1312.6120 (the plateau near zero weights)",
        "Lu et al. 2020, Dying ReLU and initialization, arXiv:1903.06733",
    ),
    default="digits",
    most=300,
)
