"""rows-or-columns: are equal rows of a weight matrix the trouble, or equal columns?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symbreak.explanations import lessons
from symbreak.explanations.derivation import Named, Step, define, derive
from symbreak.explanations.evidence import Caveat, Criterion, Experiment, Table
from symbreak.explanations.lessons import Lesson, OptimizerName, Training
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Problem
from symbreak.explanations.question import Question
from symbreak.explanations.two_units import TwoUnits, functions, slope_by

if TYPE_CHECKING:
    from torch import nn

WIDTH = 6  # units of each of the two hidden layers; the first two of a layer are the pair
STEPS = 100
ETAS: dict[OptimizerName, float] = {"sgd": 0.1, "adam": 0.01}
ONE = 1e-6  # of the largest output: two units that differ by less are one; rounding itself grows, at most to this
FLOOR = 1e-17  # what the picture draws for no difference at all

CLAIM = (
    "Neither alone: with W[o, i] as torch stores it, two units of a layer whose neighbours all differ are tied for "
    "ever where both their rows in the matrix in front (and their biases) and their columns in the matrix behind are "
    "equal; equal rows alone separate at the first step of gradient descent, and with equal columns alone the "
    "units differ from the start. "
    "And equal rows are not even needed: copies in two layers can hold each other, each row of the matrix between them "
    "being the other with two entries swapped, and a tanh unit is tied to its own negative."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    rows, columns, both, back = [], [], [], []
    for net in (TwoUnits(phi) for phi in functions("tanh", "sigmoid").values()):
        by_w, by_b, by_a = (net.by(one).doit() for one in (net.w, net.b, net.a))
        back += [(net.by(net.w), net.back * net.x), (net.by(net.a), net.delta * net.h)]
        row = net.equal(net.w, net.b)
        apart = (net.delta * (net.a[0] - net.a[1]) * net.slope[0]).subs(row)
        rows += [((by_b[0] - by_b[1]).subs(row), apart), ((by_w[0] - by_w[1]).subs(row), apart * net.x)]
        rows += [((by_a[0] - by_a[1]).subs(row), sp.Integer(0))]
        column = net.equal(net.a)
        columns += [((by_a[0] - by_a[1]).subs(column), (net.delta * (net.h[0] - net.h[1])).subs(column))]
        both += [((one[0] - one[1]).subs(row | column), sp.Integer(0)) for one in (by_w, by_b, by_a)]
    return (
        define(
            "Row o of W1 holds the weights into unit o, and column o of W2 the weights out of it. (Keras stores "
            "kernels the other way round: there rows and columns change places.)",
            Named("z_o", "z_o"),
            Named(
                "sum_i W1[o, i] x_i + b1[o],  f = sum_o W2[:, o] phi(z_o) + b2",
                r"\textstyle\sum_i W_1[o, i]\, x_i + b_1[o],\quad f = \sum_o W_2[:, o]\, \phi(z_o) + b_2",
            ),
        ),
        derive(
            "The gradients of a unit, w in and a out: its back-signal times the input, and delta times its output. "
            "(One sample, two units; tanh and sigmoid.)",
            slope_by("w_o", "a_o"),
            Named("delta a_o phi'(z_o) x, delta phi(z_o)", r"\delta\, a_o\, \phi'(z_o)\, x,\; \delta\, \phi(z_o)"),
            proof=back,
        ),
        derive(
            "Equal rows: the outputs are equal, so the a's move alike, but the rows move apart by the difference "
            "of the a's. After one step they are no longer equal.",
            Named(
                "dL/dw_1 - dL/dw_2 at equal rows",
                r"\left.\partial L / \partial w_1 - \partial L / \partial w_2\right|_{w_1 = w_2}",
            ),
            Named("delta (a_1 - a_2) phi'(z) x", r"\delta\, (a_1 - a_2)\, \phi'(z)\, x"),
            proof=rows,
        ),
        derive(
            "Equal columns: the outputs differ from the start, and so do the gradients of the columns.",
            Named(
                "dL/da_1 - dL/da_2 at equal columns",
                r"\left.\partial L / \partial a_1 - \partial L / \partial a_2\right|_{a_1 = a_2}",
            ),
            Named("delta (phi(z_1) - phi(z_2))", r"\delta\, (\phi(z_1) - \phi(z_2))"),
            proof=columns,
        ),
        derive(
            "Both equal: all differences are zero. What is equal gets equal gradients, and is equal at the next step.",
            Named("all differences at equal rows and columns", r"\text{all differences at equal rows and columns}"),
            sp.Integer(0),
            proof=both,
        ),
        derive(
            "Two layers can hold each other: with W2 = [p q; q p] between the pairs, the swap of both pairs at once "
            "leaves the network as it is, and each gradient has the same pattern. No two rows of W2 are equal. "
            "(1, 2, 2 and 1 units, tanh.)",
            slope_by("W2", at="the swap", latex_at=r"\text{the swap}"),
            Named("[g h; h g]", r"\begin{pmatrix} g & h \\ h & g \end{pmatrix}"),
            proof=_joint(),
        ),
        derive(
            "An odd activation ties a unit to its negative: with (w, b, a)_2 = -(w, b, a)_1 the gradients are each "
            "other's negative too. (tanh.)",
            Named("dL/d(w, b, a)_2", r"\partial L / \partial (w, b, a)_2"),
            Named("-dL/d(w, b, a)_1", r"-\partial L / \partial (w, b, a)_1"),
            proof=_mirrored(),
        ),
    )


def _joint() -> list[tuple[object, object]]:
    import sympy as sp

    x, y, w, b, p, q, c, a = sp.symbols("x y w b p q c a", real=True)
    W1, b1 = sp.Matrix(sp.symbols("w_0 w_1", real=True)), sp.Matrix(sp.symbols("b_0 b_1", real=True))
    W2 = sp.Matrix(2, 2, sp.symbols("p_00 p_01 p_10 p_11", real=True))
    b2, W3 = sp.Matrix(sp.symbols("c_0 c_1", real=True)), sp.Matrix([sp.symbols("a_0 a_1", real=True)])
    loss = ((W3 * (W2 * (W1 * x + b1).applyfunc(sp.tanh) + b2).applyfunc(sp.tanh))[0] - y) ** 2 / 2
    swap = dict(zip([*W1, *b1, *W2, *b2, *W3], [w, w, b, b, p, q, q, p, c, c, a, a], strict=True))

    def taken(entry: object) -> object:
        return sp.diff(loss, entry).subs(swap)

    pairs = [(W2[0, 0], W2[1, 1]), (W2[0, 1], W2[1, 0]), (W1[0], W1[1]), (b1[0], b1[1]), (b2[0], b2[1]), (W3[0], W3[1])]
    return [(taken(one), taken(other)) for one, other in pairs]


def _mirrored() -> list[tuple[object, object]]:
    import sympy as sp

    net = TwoUnits(sp.tanh)
    mirror = {group[1]: -group[0] for group in (net.w, net.b, net.a)}
    slopes = (net.by(group).doit().subs(mirror) for group in (net.w, net.b, net.a))
    return [(one[1], -one[0]) for one in slopes]


@dataclass(frozen=True, eq=False)
class _Case:
    """A way to tie the pair of a layer, and what theory says: "tied", "separates" at step 1, or "different" already."""

    name: str
    layer: int
    fate: str
    tie_: Callable[[nn.Sequential, int], None]


def tie_rows_(model: nn.Sequential, layer: int) -> None:
    """Give units 0 and 1 of a hidden layer (from 1) equal weights in and equal biases."""
    front = lessons.layers_of(model)[layer - 1]
    front.weight.data[1] = front.weight.data[0]
    front.bias.data[1] = front.bias.data[0]


def tie_columns_(model: nn.Sequential, layer: int) -> None:
    """Give them equal weights out."""
    behind = lessons.layers_of(model)[layer]
    behind.weight.data[:, 1] = behind.weight.data[:, 0]


def tie_both_(model: nn.Sequential, layer: int) -> None:
    tie_rows_(model, layer)
    tie_columns_(model, layer)


def tie_jointly_(model: nn.Sequential, layer: int) -> None:
    """Make the network the same when units 0 and 1 of both hidden layers change places at once."""
    del layer  # both
    between = lessons.layers_of(model)[1]
    p, q = between.weight.data[0, :2].tolist()
    tie_rows_(model, 1)
    tie_columns_(model, 2)
    tie_columns_(model, 1)  # seen from the other units, each pair is one
    tie_rows_(model, 2)
    between.weight.data[0, :2] = between.weight.data.new_tensor([p, q])
    between.weight.data[1, :2] = between.weight.data.new_tensor([q, p])


CASES = (
    _Case("rows", 1, "separates", tie_rows_),
    _Case("rows", 2, "separates", tie_rows_),
    _Case("columns", 1, "different", tie_columns_),
    _Case("columns", 2, "different", tie_columns_),
    _Case("both", 1, "tied", tie_both_),
    _Case("both", 2, "tied", tie_both_),
    _Case("joint swap", 1, "tied", tie_jointly_),
    _Case("joint swap", 2, "tied", tie_jointly_),
)


def build(case: _Case, taught: Lesson, seed: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    import torch

    model = lessons.mlp((taught.n_features, WIDTH, WIDTH, taught.n_outputs), activation)
    lessons.randomise_(model, torch.Generator().manual_seed(seed), biases=None)
    case.tie_(model, case.layer)
    return model


def spread(model: nn.Sequential, taught: Lesson, layer: int, *, sign: float = 1.0) -> float:
    """Largest difference of the outputs of units 0 and 1 on any sample, of the layer's largest output."""
    h = lessons.hidden(model, taught.x)[layer - 1]
    return float((h[:, 0] - sign * h[:, 1]).abs().max() / (h.abs().max() or 1.0))


def watched(
    model: nn.Sequential, taught: Lesson, layer: int, optimizer: OptimizerName, *, sign: float = 1.0
) -> Training:
    def watch() -> float:
        return spread(model, taught, layer, sign=sign)

    return lessons.train(model, taught, STEPS, optimizer=optimizer, eta=ETAS[optimizer], watch=watch)


def fate(path: tuple[float, ...], *, by: int = 1) -> str:
    """What became of the pair, from its spread at the start and after each step; `by`: when it must have separated."""
    if max(path) <= ONE:
        return "tied"
    return "different" if path[0] > ONE else "separates" if path[by] > ONE else "late"


def experiment(problem: Problem, seed: int) -> Experiment:
    from torch import nn

    from symbreak import check

    problem, taught = lessons.lesson(problem)
    rows, told, fates, drawn, equal_rows = [], 0, 0, {}, []
    for case in CASES:
        paths = {}
        for optimizer in ETAS:
            model = build(case, taught, seed, nn.Tanh)
            if case.name == "joint swap":
                between = lessons.layers_of(model)[1].weight.detach()
                equal_rows += [
                    float((between[0] - between[1]).abs().max()),
                    float((between[:, 0] - between[:, 1]).abs().max()),
                ]
            paths[optimizer] = watched(model, taught, case.layer, optimizer).watched
            # Adam sees little of the size of a gradient, and so of what tells the pair apart: see the conditions
            fates += fate(paths[optimizer], by=1 if optimizer == "sgd" else STEPS) != case.fate
        report = check(build(case, taught, seed, nn.Tanh), (taught.x, taught.y), taught.loss)
        units = report.width[f"fc{case.layer}"][0]
        told += units != (WIDTH - 1 if case.fate == "tied" else WIDTH)
        sgd, adam = paths["sgd"], paths["adam"]
        rows.append((case.name, case.layer, case.fate, sgd[0], sgd[1], sgd[-1], adam[1], adam[-1], units))
        drawn[f"{case.name}, layer {case.layer}"] = sgd
    tied = [row for row in rows if row[2] == "tied"]
    apart = [row for row in rows if row[2] == "separates"]
    table = Table(
        f"Two hidden layers of {WIDTH} tanh units, random but for the pair 0, 1. Spread: largest difference of the "
        f"pair's outputs on any sample, relative; at the start, after step 1 and after step {STEPS}. Last: different "
        "units of the layer by symbreak.check.",
        ("equal", "layer", "predicted", "start", "SGD 1", f"SGD {STEPS}", "Adam 1", f"Adam {STEPS}", "units"),
        tuple(rows),
    )
    criteria = (
        Criterion("runs (SGD and Adam) in which the pair's fate is not the predicted one", fates, "==", 0),
        Criterion("equal rows alone: largest spread at the start", max(row[3] for row in apart), "==", 0),
        Criterion("and smallest after one step of SGD", min(row[4] for row in apart), ">", 1e-6),
        Criterion(
            "both, or joint swap: largest spread after all steps of SGD and Adam",
            max(max(row[5], row[7]) for row in tied),
            "<=",
            ONE,
        ),
        Criterion(
            "joint swap: least difference of the pair's two rows and of its two columns in W2; they are not equal",
            min(equal_rows),
            ">",
            1e-3,
        ),
        Criterion("cases in which symbreak.check counts other units than derived", told, "==", 0),
    )
    how = (
        f"A network is started at random, one pair of units is tied in one of four ways, in the first or the second "
        f"hidden layer, and it is trained for {STEPS} full-batch steps (float64) of SGD (eta {ETAS['sgd']:g}) and "
        f"of Adam ({ETAS['adam']:g})."
    )
    return Experiment(how, (table,), criteria, _picture(problem.name, drawn))


def _picture(name: str, drawn: dict[str, tuple[float, ...]]) -> Picture:
    shown = ("rows, layer 1", "rows, layer 2", "columns, layer 1", "both, layer 1", "joint swap, layer 2")
    steps = tuple(map(float, range(STEPS + 1)))
    return Picture(
        f"Two units of a layer on {name}: what is equal at the start",
        "step of gradient descent",
        f"spread of the pair ({FLOOR:g}: none)",
        tuple(Line(label, steps, tuple(max(FLOOR, one) for one in drawn[label])) for label in shown),
        y_log=True,
    )


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:
    from torch import nn

    _, taught = lessons.lesson(problem)
    rows = CASES[0]
    frozen = build(rows, taught, seed, nn.Tanh)
    for p in lessons.layers_of(frozen)[0].parameters():
        p.requires_grad_(False)
    still = watched(frozen, taught, 1, "sgd").watched
    nearly = {size: _nearly(taught, seed, size) for size in (1e-6, 1e-4, 1e-2)}
    single = {optimizer: _one_output(problem, seed, optimizer) for optimizer in ETAS}
    mirrored = {name: _mirror(taught, seed, make) for name, make in (("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid))}
    return (
        Caveat(
            "What feeds the pair is frozen (a frozen backbone with equal channels): then equal rows alone tie it for "
            "ever, whatever the columns, since no gradient may move the rows.",
            often_said="equal rows separate as long as the next layer is random",
            criteria=(Criterion(f"W1 frozen: largest spread in {STEPS} steps", max(still), "==", 0),),
        ),
        Caveat(
            "The optimizer is Adam and there is one output: the gradients of two equal rows then differ by a factor "
            "only, the ratio of their weights out, which Adam divides away. Equal rows with weights out of one sign "
            "stay nearly equal at first, and separate slowly.",
            often_said="equal rows separate at the first step",
            tables=(
                Table(
                    "The last hidden layer's pair with equal rows, one output, weights out of one sign: spread.",
                    ("optimizer", "start", "step 1", "step 10", f"step {STEPS}"),
                    tuple((name, path[0], path[1], path[10], path[-1]) for name, path in single.items()),
                ),
            ),
            criteria=(
                Criterion("Adam's spread after step 1, of SGD's", single["adam"][1] / single["sgd"][1], "<=", 1e-2),
            ),
        ),
        Caveat(
            "The copies are not equal but nearly so: they do separate, and as slowly as small numbers grow. (Rounding "
            "is such a difference: under the joint swap sums are taken in another order, and 1e-16 grows too.)",
            often_said="a little noise breaks the symmetry",
            tables=(
                Table(
                    "Both equal in layer 1, but for normal noise on one row of W1, relative: spread of the pair, SGD.",
                    ("noise", "start", "step 10", f"step {STEPS}"),
                    tuple((size, path[0], path[10], path[-1]) for size, path in nearly.items()),
                ),
            ),
            criteria=(Criterion(f"noise 1e-6: spread after {STEPS} steps", nearly[1e-6][-1], "<=", 1e-2),),
        ),
        Caveat(
            "No two rows are equal, and yet a unit is worth nothing: with an odd activation (tanh) the pair (w, b, a), "
            "-(w, b, a) stays mirrored. With the sigmoid it does not.",
            often_said="look for equal rows",
            criteria=(
                Criterion("tanh: largest |h_0 + h_1| at any step, relative", max(mirrored["tanh"]), "<=", ONE),
                Criterion(
                    "sigmoid: |(h_0 - 1/2) + (h_1 - 1/2)| at the end, relative", mirrored["sigmoid"][-1], ">", 1e-6
                ),
            ),
        ),
        Caveat(
            "The matrix is stored the other way round (Keras kernels are [in, out]): there the columns are what comes "
            "in, and rows and columns change places in every sentence here.",
            often_said="equal columns are the trouble",
        ),
    )


def _one_output(problem: Problem, seed: int, optimizer: OptimizerName) -> tuple[float, ...]:
    """The target as one number, the pair of layer 2 with equal rows and weights out of one sign; the spread by step."""
    from torch import nn

    _, taught = lessons.lesson(problem.quantity())
    model = build(CASES[1], taught, seed, nn.Tanh)
    head = lessons.layers_of(model)[2].weight.data
    head[:, :2] = head[:, :2].abs() + 0.01
    return watched(model, taught, 2, optimizer).watched


def _nearly(taught: Lesson, seed: int, size: float) -> tuple[float, ...]:
    """Tie the pair of layer 1, put noise on one row, and train; the spread by step."""
    import torch
    from torch import nn

    model = build(CASES[4], taught, seed, nn.Tanh)
    row = lessons.layers_of(model)[0].weight.data[1]
    noise = torch.randn(row.shape, generator=torch.Generator().manual_seed(seed), dtype=row.dtype)
    row += size * row.square().mean().sqrt() * noise
    return watched(model, taught, 1, "sgd").watched


def _mirror(taught: Lesson, seed: int, activation: Callable[[], nn.Module]) -> tuple[float, ...]:
    """Train a network whose units 0 and 1 of layer 1 are each other's negative; how far they are from it, by step."""
    import torch

    model = lessons.mlp((taught.n_features, WIDTH, WIDTH, taught.n_outputs), activation)
    lessons.randomise_(model, torch.Generator().manual_seed(seed), biases=None)
    front, behind, _ = lessons.layers_of(model)
    front.weight.data[1], front.bias.data[1] = -front.weight.data[0], -front.bias.data[0]
    behind.weight.data[:, 1] = -behind.weight.data[:, 0]
    middle = float(activation()(torch.zeros(())))

    def watch() -> float:
        h = lessons.hidden(model, taught.x)[0] - middle
        return float((h[:, 0] + h[:, 1]).abs().max() / h.abs().max())

    return lessons.train(model, taught, STEPS, eta=ETAS["sgd"], watch=watch).watched


QUESTION = Question(
    name="rows-or-columns",
    asks="Are equal rows of a weight matrix the trouble, or equal columns?",
    brief="neither alone: only both tie two units for ever; and two layers can hold each other",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "Fukumizu and Amari 2000, Local minima and plateaus in hierarchical structures, Neural Networks 13:317",
        "Sussmann 1992, Uniqueness of the weights for minimal feedforward nets, Neural Networks 5:589 (sign flips)",
        "Velarde, Parra, Boldi and Makse 2024, The role of fibration symmetries in geometric deep learning, "
        "arXiv:2408.15894",
    ),
    default="digits",
    most=300,
)
