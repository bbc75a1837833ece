"""constant-hidden: is a network with constant weights really one neuron in every layer?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from symbreak.explanations import lessons
from symbreak.explanations.derivation import Named, Step, define, derive
from symbreak.explanations.evidence import Caveat, Criterion, Experiment, Table
from symbreak.explanations.lessons import Lesson, OptimizerName, Training
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Problem
from symbreak.explanations.question import Question
from symbreak.explanations.two_units import slope_by

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

HIDDEN = (8, 6)  # units of the hidden layers; different, so that |C| and |D| cannot be mixed up
STEPS = 100
SAME = 1e-12  # of the first loss: how far two loss paths may lie apart and still be one
ADAPTIVE_SAME = 1e-9  # Adam divides by the size of the gradient, and so passes rounding noise on
ETAS: dict[OptimizerName, float] = {"sgd": 0.05, "momentum": 0.01, "adam": 0.01, "adamw": 0.01}

CLAIM = (
    "Yes, exactly, where within each layer all weights are one number and all biases one number: such a network "
    "trains, loss by loss, like one with a single unit in every hidden layer, whose weights are sums over the "
    "equal ones, whose gradients are divided by the number of units it stands for and whose steps are "
    "multiplied by the number it sums. "
    "It takes equality in front and behind: a random head, a random first layer or random biases set units free, and "
    "constant weights with torch's default biases have no copies at all."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    net = _Algebra()
    C, D, eta, W, g, epsilon = sp.symbols("C D eta W g epsilon", positive=True)
    alike = [(one, entries[0]) for entries in net.slopes for one in entries[1:]]
    gathered = [
        (sp.diff(net.narrow, symbol).subs(net.summed), size * entries[0])
        for symbol, size, entries in zip(net.symbols, (2, 3, 1, 2, 3), net.slopes, strict=True)
    ]
    return (
        define(
            "Let layers consist of classes of equal units: |C| units, fed by |D| equal units, every weight between "
            "them one number W. What such a unit sums is one product.",
            Named("sum over j in D of W h_j", r"\sum_{j \in D} W h_j"),
            Named("|D| W h, call it R h", r"|D|\, W h =: R\, h"),
        ),
        derive(
            "So the network with one unit a layer, weights R = |D| W and the same biases, has the same output and the "
            "same loss. (Here and below: tanh, 1 input, 2 and 3 hidden units, 1 output.)",
            Named("L(wide)", r"L(\text{wide})"),
            Named("L(one unit a layer)", r"L(\text{one unit a layer})"),
            proof=[(net.loss.subs(net.constant), net.narrow.subs(net.summed))],
        ),
        derive(
            "All entries between two classes get one and the same gradient g, whatever the target, so a constant block "
            "stays constant.",
            slope_by("W[u,j]"),
            Named("g for all u in C, j in D", r"g \quad \forall u \in C, j \in D"),
            proof=alike,
        ),
        derive(
            "The one unit's weight gathers the gradients of the |C| units it stands for, and so does its bias.",
            slope_by("R"),
            Named("|C| g", r"|C|\, g"),
            proof=gathered,
        ),
        derive(
            "A step moves W by -eta g, and so R = |D| W by |D| times that: the one unit divides its gradient by |C| "
            "and multiplies its step by |D| (1 for a bias). Then R = |D| W again, and so on at every step.",
            D * (W - eta * g),
            D * W - (eta * D / C) * (C * g),
        ),
        derive(
            "Adam's step is a function of g / (|g| + eps) and its averages: dividing the gradient by |C| and "
            "multiplying eps by |C| is one thing.",
            (C * g) / (C * g + C * epsilon),
            g / (g + epsilon),
        ),
    )


class _Algebra:
    """A tanh network of 1, 2, 3 and 1 units with a symbol in every entry, and the one of one unit a layer.

    Attributes:
        loss, narrow: of the two, half the squared error of one sample.
        constant: every entry -> the constant of its tensor; summed: R -> |D| times the constant.
        symbols: the narrow network's R_1, R_2, R_3 and biases; slopes: the wide one's gradients at the constants, in
            the same order.
    """

    def __init__(self) -> None:
        import sympy as sp

        x, y, w, v, a, b, c = sp.symbols("x y w v a b c", real=True)
        R1, R2, R3 = sp.symbols("R_1 R_2 R_3", real=True)
        W1, W2, W3 = _entries("W1", 2, 1), _entries("W2", 3, 2), _entries("W3", 1, 3)
        b1, b2 = _entries("b1", 2, 1), _entries("b2", 3, 1)
        out = (W3 * (W2 * (W1 * x + b1).applyfunc(sp.tanh) + b2).applyfunc(sp.tanh))[0]
        tensors = {W1: w, W2: v, W3: a, b1: b, b2: c}
        self.loss = (out - y) ** 2 / 2
        self.narrow = (R3 * sp.tanh(R2 * sp.tanh(R1 * x + b) + c) - y) ** 2 / 2
        self.constant = {entry: number for tensor, number in tensors.items() for entry in tensor}
        self.summed = {R1: w, R2: 2 * v, R3: 3 * a}
        self.symbols = (R1, R2, R3, b, c)
        self.slopes = [[sp.diff(self.loss, entry).subs(self.constant) for entry in tensor] for tensor in tensors]


def _entries(name: str, rows: int, columns: int) -> Any:
    import sympy as sp

    return sp.ImmutableMatrix(rows, columns, lambda i, j: sp.Symbol(f"{name}_{i}{j}", real=True))


@dataclass(frozen=True, eq=False)
class _Pair:
    """A wide constant network and the one with one unit a layer, trained side by side."""

    wide: Training
    one: Training
    drift: float  # largest difference between units of a layer of the wide one at the end

    @property
    def apart(self) -> float:
        """Largest difference of the two losses at any step, of the first loss."""
        return max(abs(a - b) for a, b in zip(self.wide.losses, self.one.losses, strict=True)) / self.wide.losses[0]


def side_by_side(
    taught: Lesson,
    activation: Callable[[], nn.Module],
    *,
    constant: float,
    bias: float = 0.0,
    optimizer: OptimizerName = "sgd",
    scaled: bool = True,
) -> _Pair:
    """Train both; `scaled`: the one-unit network with the steps the theory prescribes, else with the same as the wide.

    Only the learning rate of each tensor differs (for Adam its eps too, for AdamW the decay), so that torch's own
    optimizers train both.
    """
    wide = lessons.mlp((taught.n_features, *HIDDEN, taught.n_outputs), activation)
    one = lessons.mlp((taught.n_features, *[1] * len(HIDDEN), taught.n_outputs), activation)
    sums, stands_for = (1, *HIDDEN), (*HIDDEN, 1)
    for layer in lessons.layers_of(wide):
        _constant_(layer, constant, bias)
    groups = []
    for layer, D, C in zip(lessons.layers_of(one), sums, stands_for, strict=True):
        _constant_(layer, D * constant, bias)
        groups += [(layer.weight, D, C), (layer.bias, 1, C)]
    eta = ETAS[optimizer]
    prescribed = _prescribed(groups, optimizer, eta) if scaled else optimizer
    return _Pair(
        lessons.train(wide, taught, STEPS, optimizer=optimizer, eta=eta),
        lessons.train(one, taught, STEPS, optimizer=prescribed, eta=eta),
        max(map(lessons.apart, lessons.hidden(wide, taught.x))),
    )


def _constant_(layer: nn.Linear, weight: float, bias: float) -> None:
    layer.weight.data.fill_(weight)
    layer.bias.data.fill_(bias)


def _prescribed(groups: Sequence[tuple[Tensor, int, int]], optimizer: OptimizerName, eta: float) -> Optimizer:
    """torch's optimizer with the quotient's steps: parameter, |D| that it sums, |C| that it stands for."""
    from torch import optim

    if optimizer == "adam":
        return optim.Adam([{"params": [p], "lr": eta * D, "eps": 1e-8 * C} for p, D, C in groups])
    if optimizer == "adamw":
        return optim.AdamW(
            [{"params": [p], "lr": eta * D, "eps": 1e-8 * C, "weight_decay": 1e-2 / D} for p, D, C in groups]
        )
    momentum = 0.9 if optimizer == "momentum" else 0.0
    return optim.SGD([{"params": [p], "lr": eta * D / C} for p, D, C in groups], lr=eta, momentum=momentum)


PAIRS: tuple[tuple[str, float, float, OptimizerName], ...] = (
    ("tanh", 0.1, 0.0, "sgd"),
    ("tanh", -0.3, 0.2, "sgd"),
    ("relu", 0.1, 0.1, "sgd"),
    ("sigmoid", 0.5, 0.0, "sgd"),
    ("gelu", 0.1, 0.0, "sgd"),
    ("tanh", 0.1, 0.0, "momentum"),
    ("tanh", 0.1, 0.0, "adam"),
    ("tanh", 0.1, 0.0, "adamw"),
)
"""activation, constant of the weights, constant of the biases, optimizer."""

DRAWN = 6  # Adam: the pair that learns most in as many steps


@dataclass(frozen=True)
class _Variant:
    """A start that is constant but for some tensors, and how many units of each hidden layer theory says differ."""

    name: str
    units: tuple[int, int]
    weights: tuple[int, ...] = ()
    biases: tuple[int, ...] | None = ()
    one_bias: bool = False


VARIANTS = (
    _Variant("all constant", (1, 1)),
    _Variant("random head W3", (1, HIDDEN[1]), weights=(3,)),
    _Variant("random first layer W1", (HIDDEN[0], 1), weights=(1,)),
    _Variant("random middle layer W2", HIDDEN, weights=(2,)),
    _Variant("one bias of layer 1 moved", (2, 1), one_bias=True),
    _Variant("biases random (torch's default)", HIDDEN, biases=None),
)


def start(variant: _Variant, taught: Lesson, seed: int) -> nn.Sequential:
    """Every weight 0.1 and every bias 0, but for what the variant draws anew."""
    import torch
    from torch import nn

    model = lessons.mlp((taught.n_features, *HIDDEN, taught.n_outputs), nn.Tanh)
    for layer in lessons.layers_of(model):
        _constant_(layer, 0.1, 0.0)
    generator = torch.Generator().manual_seed(seed)
    lessons.randomise_(model, generator, weights=variant.weights, biases=variant.biases)
    if variant.one_bias:
        lessons.layers_of(model)[0].bias.data[0] = 0.5
    return model


def experiment(problem: Problem, seed: int) -> Experiment:
    import torch

    from symbreak import check
    from symbreak.nets import ACTIVATIONS

    problem, taught = lessons.lesson(problem)
    pairs = [
        side_by_side(taught, ACTIVATIONS[name], constant=constant, bias=bias, optimizer=optimizer)
        for name, constant, bias, optimizer in PAIRS
    ]
    ends = torch.Generator().manual_seed(seed)
    free = lessons.randomise_(lessons.mlp((taught.n_features, *HIDDEN, taught.n_outputs), torch.nn.Tanh), ends)
    random = lessons.train(free, taught, STEPS, optimizer="adam", eta=ETAS["adam"])
    first = Table(
        f"Hidden layers of {HIDDEN[0]} and {HIDDEN[1]} equal units, and one unit a layer: {STEPS} steps each. Apart: "
        "largest difference of the two losses at any step, of the first. "
        f"(From a random start Adam reaches {random.losses[-1]:.4g}.)",
        ("activation", "weights", "biases", "optimizer", "first loss", "last, wide", "last, one unit", "apart"),
        tuple(
            (*case, pair.wide.losses[0], pair.wide.losses[-1], pair.one.losses[-1], pair.apart)
            for case, pair in zip(PAIRS, pairs, strict=True)
        ),
    )
    seen = []
    for variant in VARIANTS:
        model = start(variant, taught, seed)
        report = check(model, (taught.x, taught.y), taught.loss)
        told = tuple(report.width[f"fc{number}"][0] for number in range(1, len(HIDDEN) + 1))
        lessons.train(model, taught, STEPS, eta=ETAS["sgd"])
        seen.append((variant, lessons.distinct(model, taught), told, report.verdict))
    second = Table(
        f"Different units in the two hidden layers ({HIDDEN[0]} and {HIDDEN[1]} units; tanh, every other weight 0.1): "
        f"predicted, after {STEPS} steps of plain training, and by symbreak.check.",
        ("start", "predicted", "plain training", "symbreak.check", "verdict"),
        tuple((v.name, _listed(v.units), _listed(units), _listed(told), verdict) for v, units, told, verdict in seen),
    )
    steady = [pair.apart for case, pair in zip(PAIRS, pairs, strict=True) if case[3] in ("sgd", "momentum")]
    adaptive = [pair.apart for case, pair in zip(PAIRS, pairs, strict=True) if case[3] not in ("sgd", "momentum")]
    criteria = (
        Criterion(
            "SGD and momentum: largest difference of the two losses at any step, of the first loss",
            max(steady),
            "<=",
            SAME,
        ),
        Criterion("Adam and AdamW: the same", max(adaptive), "<=", ADAPTIVE_SAME),
        Criterion("and the losses did move: least share of the first loss that went", _least_moved(pairs), ">", 1e-6),
        Criterion(
            f"copies are copies after {STEPS} steps: largest difference of two units of a layer, relative",
            max(pair.drift for pair in pairs),
            "<=",
            1e-6,
        ),
        Criterion(
            "starts whose number of different units after training is not the predicted one",
            sum(units != variant.units for variant, units, _, _ in seen),
            "==",
            0,
        ),
        Criterion(
            "starts where symbreak.check counts other units than training shows",
            sum(units != told for _, units, told, _ in seen),
            "==",
            0,
        ),
    )
    how = (
        "A wide network of constants and a network with one unit in each hidden layer are trained side by side (full "
        "batch, float64): its weights are |D| times the constants, its learning rate is |D| / |C| times the wide one's "
        "(Adam: |D| times, and eps |C| times; AdamW: decay 1 / |D| times)."
    )
    naive = side_by_side(taught, ACTIVATIONS["tanh"], constant=0.1, optimizer="adam", scaled=False)
    return Experiment(how, (first, second), criteria, _picture(problem.name, pairs[DRAWN], naive, random))


def _least_moved(pairs: Sequence[_Pair]) -> float:
    return min(max(abs(loss - p.wide.losses[0]) for loss in p.wide.losses) / p.wide.losses[0] for p in pairs)


def _listed(units: Sequence[int]) -> str:
    return " ".join(map(str, units))


def _picture(name: str, pair: _Pair, naive: _Pair, random: Training) -> Picture:
    steps = tuple(map(float, range(STEPS + 1)))
    return Picture(
        f"Constant weights on {name}: one unit in every layer",
        "step of Adam",
        "loss",
        (
            Line(f"{' and '.join(map(str, HIDDEN))} equal units", steps, pair.wide.losses),
            Line("one unit a layer, with the steps prescribed", steps[::5], pair.one.losses[::5], draw="points"),
            Line("one unit a layer, same learning rate", steps, naive.one.losses),
            Line("random start", steps, random.losses),
        ),
    )


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:
    from torch import nn

    _, taught = lessons.lesson(problem)
    wide, last = HIDDEN
    naive = side_by_side(taught, nn.Tanh, constant=0.1, scaled=False)
    counts = {}
    for variant in VARIANTS:
        model = start(variant, taught, seed)
        lessons.train(model, taught, STEPS, eta=ETAS["sgd"])
        counts[variant.name] = lessons.distinct(model, taught)
    dropped = _with_dropout(taught, seed)
    return (
        Caveat(
            "The biases are torch's default, which are random: nn.init.constant_ on the weights leaves them alone, and "
            "every unit is another one from the start.",
            often_said="constant weights make all neurons of a layer the same",
            criteria=tuple(
                Criterion(f"layer {n}: different units", counts["biases random (torch's default)"][n - 1], "==", units)
                for n, units in enumerate(HIDDEN, start=1)
            ),
        ),
        Caveat(
            "Only the weights behind a layer are random: it separates, and every layer in front of it stays one unit.",
            often_said="a random output layer is enough",
            criteria=(
                Criterion("random head: units of the last hidden layer", counts["random head W3"][1], "==", last),
                Criterion("units of the layer in front of it", counts["random head W3"][0], "==", 1),
            ),
        ),
        Caveat(
            "Only the first layer is random: it keeps its units, and the layers behind it stay one unit each.",
            often_said="breaking the symmetry in the first layer is enough",
            criteria=(
                Criterion("random W1: units of layer 1", counts["random first layer W1"][0], "==", wide),
                Criterion("units of layer 2", counts["random first layer W1"][1], "==", 1),
            ),
        ),
        Caveat(
            "The one-unit network is trained with the same learning rate as the wide one: it starts at the same loss "
            "and takes another path. The width of equal units is not nothing; it is a learning rate.",
            criteria=(
                Criterion(
                    "same learning rate: largest difference of the losses, of the first", naive.apart, ">", 1e3 * SAME
                ),
            ),
        ),
        Caveat(
            "Each unit has noise of its own, such as dropout: copies then separate. So do ties in round-off under "
            "optimizers that amplify it (Muon).",
            criteria=(Criterion("dropout 0.5: largest difference of two units, relative", dropped, ">", 1e-3),),
        ),
    )


def _with_dropout(taught: Lesson, seed: int) -> float:
    """Train the constant network with half of the units of each layer left out at random, and compare its units."""
    import torch
    from torch import nn

    from symbreak.explanations.blocks import Dropout

    noise = torch.Generator().manual_seed(seed)
    model = lessons.mlp(
        (taught.n_features, *HIDDEN, taught.n_outputs), lambda: nn.Sequential(nn.Tanh(), Dropout(noise))
    )
    for layer in lessons.layers_of(model):
        _constant_(layer, 0.1, 0.0)
    lessons.train(model, taught, STEPS, eta=ETAS["sgd"])
    return max(map(lessons.apart, lessons.hidden(model.eval(), taught.x)))


QUESTION = Question(
    name="constant-hidden",
    asks="Is a network with constant weights really one neuron in every layer?",
    brief="yes, step by step, once its steps are scaled; unless biases, head or first layer differ",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "Fukumizu and Amari 2000, Local minima and plateaus in hierarchical structures, Neural Networks 13:317",
        "Chen, Kunin, Yamamura and Ganguli 2023, Stochastic collapse, arXiv:2306.04251 (permutation-invariant sets)",
        "Prabhakar 2022, Bisimulations for neural network reduction, arXiv:2110.03726 (the forward half)",
    ),
    default="digits",
    most=300,
)
