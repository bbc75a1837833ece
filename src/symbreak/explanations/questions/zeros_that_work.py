"""zeros-that-work: why do LoRA, zero convolutions, ReZero and adaLN-Zero train from zeros?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symbreak.explanations import lessons
from symbreak.explanations.derivation import Expr, Named, Step, define, derive, gradient
from symbreak.explanations.evidence import Caveat, Criterion, Experiment, Table
from symbreak.explanations.lessons import Lesson, Training, ladder
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Problem
from symbreak.explanations.question import Question
from symbreak.explanations.two_units import slope_by
from symbreak.explanations.zeros import product_ladder

if TYPE_CHECKING:
    from symbreak.explanations.blocks import Block

STEPS = 60
ETA = 0.05

CLAIM = (
    "Because each has one zero factor on its way: the gradient of a factor is the product of the others, so the zero "
    "one moves at the first step and sets the rest free at the second, and until then the network is as it was before. "
    "With two zero factors in one product (A = B = 0, alpha = 0 and a zero last layer) every gradient has a zero left, "
    "for ever, unless another path without them wakes one of the two."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    x, y, eta = sp.symbols("x y eta", real=True)
    a = sp.Matrix(sp.symbols("a_1 a_2 a_3", real=True))
    product = a[0] * a[1] * a[2] * x
    others = sp.Matrix([a[1] * a[2], a[0] * a[2], a[0] * a[1]]) * x
    loss = (product - y) ** 2 / 2
    slopes = gradient(loss, a).doit()
    one, two = {a[1]: 0}, {a[1]: 0, a[2]: 0}
    stepped = {a[1]: eta * y * a[0] * a[2] * x}  # delta = -y at the start
    second = -y * (1 - eta * (a[0] * a[2] * x) ** 2) * eta * y * a[0] * (a[2] * x) ** 2
    A, B = _entries("A", 2, 2), _entries("B", 2, 2)
    W, v, t = (
        _entries("W", 2, 2),
        sp.Matrix(sp.symbols("x_1 x_2", real=True)),
        sp.Matrix(sp.symbols("y_1 y_2", real=True)),
    )
    delta = W * v + B * A * v - t
    adapted = (delta.T * delta)[0] / 2
    h, alpha, w = sp.symbols("h alpha w", real=True)
    both = sp.Matrix([h, alpha, w])
    residual = (h * (1 + alpha * w) * x - y) ** 2 / 2
    start = {h: 0, alpha: 0}
    return (
        define(
            "One path from input to output is a product of factors; take three. Activations between them with phi(0) = "
            "0 and a slope there change nothing below.",
            Named("f(x)", "f(x)"),
            product,
        ),
        derive(
            "The gradient of a factor is delta times the product of all the others.",
            slope_by("a_j"),
            Named("delta x prod_{k != j} a_k", r"\delta\, x \prod_{k \ne j} a_k"),
            proof=[(gradient(loss, a), (product - y) * others)],
        ),
        derive(
            "One zero, a_2: it alone has a gradient, and f = 0 adds nothing to the network yet.",
            slope_by("a_1", "a_2", "a_3", at="a_2 = 0"),
            Named("0, -y a_1 a_3 x, 0", r"0,\; -y\, a_1 a_3 x,\; 0"),
            proof=[(slopes.subs(one), sp.Matrix([0, -y * a[0] * a[2] * x, 0])), (product.subs(one), sp.Integer(0))],
        ),
        derive(
            "After its first step the others have gradients too: all learn from step 2 on.",
            slope_by("a_1", at="step 2", latex_at=r"\text{step } 2"),
            second,
            proof=[(slopes.subs(stepped)[0], second)],
        ),
        derive(
            "Two zeros, a_2 and a_3: each gradient keeps one of them as a factor. Nothing moves, so nothing ever will.",
            slope_by("a_1", "a_2", "a_3", at="a_2 = a_3 = 0"),
            sp.Integer(0),
            proof=[(slopes.subs(two), sp.zeros(3, 1))],
        ),
        derive(
            "LoRA is this with matrices, W frozen: at B = 0 it is A that waits; at A = B = 0 both gradients are zero.",
            slope_by("B", "A"),
            Named("delta (A x)^T, B^T delta x^T", r"\delta\, (A x)^T,\; B^T \delta\, x^T"),
            proof=[
                (gradient(adapted, B), delta * (A * v).T),
                (gradient(adapted, A), B.T * delta * v.T),
            ],
        ),
        derive(
            "Paths add. With a skip, f = head (1 + alpha w) x: head and alpha both zero, two zeros on one path, and "
            "head has a gradient through the other path. It wakes alpha, and alpha wakes w.",
            slope_by("head", "alpha", "w", at="head = alpha = 0", latex_at=r"\text{head} = \alpha = 0"),
            Named("-y x, 0, 0", r"-y x,\; 0,\; 0"),
            proof=[(gradient(residual, both).doit().subs(start), sp.Matrix([-y * x, 0, 0]))],
        ),
    )


def _entries(name: str, rows: int, columns: int) -> Expr:
    import sympy as sp

    return sp.ImmutableMatrix(rows, columns, lambda i, j: sp.Symbol(f"{name}_{i + 1}{j + 1}", real=True))


@dataclass(frozen=True, eq=False)
class Design:
    """A network with zeros in it on purpose, and its fatal twin.

    Attributes:
        make: (n_in, n_out, generator) -> the network with every factor random.
        paths: its trainable factors, path by path, for the rule.
        zero: factors that start at zero, as published; fatal: the twin's.
    """

    name: str
    make: Callable[..., Block]
    paths: tuple[tuple[str, ...], ...]
    zero: tuple[str, ...]
    fatal: tuple[str, ...]


def designs() -> tuple[Design, ...]:
    from functools import partial

    from symbreak.explanations.blocks import LowRank, Plain, Residual, SideBranch

    skip, branch = ("head", "stem"), ("w2", "w1", "stem")
    rezero, ada = partial(Residual, gate="scalar"), partial(Residual, gate="conditioned")
    return (
        Design("LoRA", LowRank, (("B", "A"),), ("B",), ("A", "B")),
        Design("zero conv (ControlNet)", SideBranch, (("zero_conv", "copy"),), ("zero_conv",), ("zero_conv", "copy")),
        Design("zero head", Plain, (("head", "w1"),), ("head",), ("head", "w1")),
        Design("zero last layer of a branch", Residual, (skip, ("head", *branch)), ("w2",), ("w2", "w1")),
        Design("ReZero", rezero, (skip, ("head", "alpha", *branch)), ("alpha",), ("alpha", "w2")),
        Design("adaLN-Zero (DiT)", ada, (skip, ("head", "gate", *branch)), ("gate", "head"), ("gate", "w2", "head")),
    )


@dataclass(frozen=True, eq=False)
class Outcome:
    """One design from one set of zeros."""

    predicted: lessons.Wake
    wake: lessons.Wake
    checked: lessons.Wake
    training: Training
    verdict: str
    added: float  # largest difference of the output at the start from the network without the addition

    @property
    def never(self) -> int:
        """Factors without a gradient in any step that was trained."""
        return sum(step is None for step in self.wake.values())

    @property
    def asleep(self) -> tuple[str, ...]:
        """Factors that by the products never get one."""
        return tuple(name for name, step in self.predicted.items() if step is None)

    def moved(self, names: tuple[str, ...]) -> float:
        """Largest distance from the start, root mean square, that any of these factors was seen at."""
        return max((max(path) for name, path in self.training.moved.items() if _factor(name) in names), default=0.0)


def run(design: Design, zero: tuple[str, ...], taught: Lesson, seed: int) -> Outcome:
    """Start with these factors at zero, look with `symbreak.check`, train in plain torch."""
    import torch

    from symbreak import check

    model = design.make(taught.n_features, taught.n_outputs, torch.Generator().manual_seed(seed))
    for name, p in model.named_parameters():
        if _factor(name) in zero:
            p.data.zero_()
    with torch.no_grad():
        added = float((model(taught.x) - model.without(taught.x)).abs().max())
    report = check(model, (taught.x, taught.y), taught.loss)
    training = lessons.train(model, taught, STEPS, eta=ETA)
    return Outcome(
        product_ladder(design.paths, zero),
        {_factor(name): step for name, step in training.wake.items()},
        {_factor(name): step for name, step in report.wakeup.items()},
        training,
        report.verdict,
        added,
    )


def _factor(name: str) -> str:
    return name.removesuffix(".weight")


def experiment(problem: Problem, seed: int) -> Experiment:
    problem, taught = lessons.lesson(problem)
    made = designs()
    works = [run(design, design.zero, taught, seed) for design in made]
    fatal = [run(design, design.fatal, taught, seed) for design in made]

    def table(caption: str, outcomes: list[Outcome], zeros: list[tuple[str, ...]]) -> Table:
        return Table(
            caption,
            ("network", "zero", "learns", "symbreak.check", "loss gone"),
            tuple(
                (design.name, " ".join(zero), ladder(one.wake), one.verdict, one.training.gained)
                for design, zero, one in zip(made, zeros, outcomes, strict=True)
            ),
        )

    every = [*works, *fatal]
    criteria = (
        Criterion(
            "factors whose first step in training is not the one the products say",
            sum(lessons.disagree(one.predicted, one.wake) for one in every),
            "==",
            0,
        ),
        Criterion(
            "factors whose first step in training and by symbreak.check differ",
            sum(lessons.disagree(one.checked, one.wake) for one in every),
            "==",
            0,
        ),
        Criterion("as published: factors that never learn", sum(len(one.asleep) for one in works), "==", 0),
        Criterion(
            "as published: largest change of the output by what was added, at the start",
            max(one.added for one in works),
            "==",
            0,
        ),
        Criterion("fatal twins: fewest factors that never learn", min(len(one.asleep) for one in fatal), ">=", 2),
        Criterion(
            f"fatal twins: how far any of those moved in {STEPS} steps",
            max(one.moved(one.asleep) for one in fatal),
            "==",
            0,
        ),
        Criterion(
            "as published, the same factors: least distance moved",
            min(one.moved(twin.asleep) for one, twin in zip(works, fatal, strict=True)),
            ">",
            0,
        ),
    )
    how = (
        f"Small replicas on the data, {STEPS} full-batch steps of gradient descent (eta {ETA:g}, float64, no biases, "
        "tanh), once with the published zeros and once with one zero too many, beside symbreak.check. What is "
        "predicted comes from the lists of factors on each path alone."
    )
    caption = "As published. Learns: the first step with a gradient that is not exactly zero; loss gone: of the first."
    tables = (
        table(caption, works, [design.zero for design in made]),
        table("One zero too many on a path.", fatal, [design.fatal for design in made]),
    )
    return Experiment(how, tables, criteria, _picture(problem.name, made, works, fatal))


def _picture(name: str, made: tuple[Design, ...], works: list[Outcome], fatal: list[Outcome]) -> Picture:
    at = tuple(map(float, range(len(made))))
    return Picture(
        f"Zeros that work and their twins on {name}",
        "where the zero stands",
        f"distance moved in {STEPS} steps (rms)",
        (
            Line(
                "as published", at, tuple(one.moved(f.asleep) for one, f in zip(works, fatal, strict=True)), draw="bars"
            ),
            Line("one zero more: 0", at, tuple(one.moved(one.asleep) for one in fatal), draw="bars"),
        ),
        x_ticks=("LoRA", "zero conv", "zero head", "last layer", "ReZero", "adaLN-Zero"),
    )


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:
    from functools import partial

    import torch

    from symbreak.explanations.blocks import Residual

    _, taught = lessons.lesson(problem)
    lora, *_, rezero, ada = designs()
    twin, other = run(lora, ("A", "B"), taught, seed), run(lora, ("A",), taught, seed)
    dit = run(ada, ada.zero, taught, seed)
    gates = {}
    for name, through in (("tanh(alpha)", torch.tanh), ("relu(alpha)", torch.relu), ("alpha^2", torch.square)):
        gated = Design(name, partial(Residual, gate="scalar", through=through), rezero.paths, (), ())
        gates[name] = run(gated, ("alpha",), taught, seed)
    shut = max(gates[name].moved(("alpha",)) for name in ("relu(alpha)", "alpha^2"))
    return (
        Caveat(
            "Both of LoRA's matrices are zero: it is zero in one of them, and which one does not matter for whether "
            "it learns.",
            often_said="LoRA is initialised with zeros",
            criteria=(
                Criterion("A = B = 0: factors that ever learn", 2 - twin.never, "==", 0),
                Criterion("A = 0, B random: factors that never learn", other.never, "==", 0),
            ),
        ),
        Caveat(
            "One zero a path is too strict where paths add up: DiT starts with a zero gate and a zero head on one "
            "path. The skip wakes the head first, the head the gate, the gate the branch.",
            often_said="never two zeros in one product",
            criteria=(
                Criterion("zero gate and zero head: factors that never learn", dit.never, "==", 0),
                Criterion("step at which the last of them wakes", max(s or 0 for s in dit.wake.values()), "==", 3),
            ),
        ),
        Caveat(
            "And too lax where the zero goes through a function with slope 0 at 0: a gate relu(alpha) or alpha^2 at "
            "alpha = 0 is the only zero on its path, and never opens; tanh(alpha) does.",
            often_said="one zero is always harmless",
            tables=(
                Table(
                    "ReZero with alpha = 0 behind a function.",
                    ("gate", "learns", "symbreak.check"),
                    tuple((name, ladder(one.wake), one.verdict) for name, one in gates.items()),
                ),
            ),
            criteria=(
                Criterion("tanh(alpha): first step of alpha", gates["tanh(alpha)"].wake["alpha"] or 0, "==", 1),
                Criterion("relu(alpha), alpha^2: how far alpha moved", shut, "==", 0),
            ),
        ),
    )


QUESTION = Question(
    name="zeros-that-work",
    asks="Why do LoRA, zero convolutions, ReZero and adaLN-Zero train from zeros?",
    brief="one zero factor in a product moves first and frees the rest; two never move",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.1",
        "Zhang, Rao and Agrawala 2023, Adding conditional control (ControlNet), arXiv:2302.05543, section 3.1",
        "Bachlechner et al. 2020, ReZero is all you need, arXiv:2003.04887",
        "Peebles and Xie 2022, Scalable diffusion models with transformers (adaLN-Zero), arXiv:2212.09748, section 3.2",
        "Goyal et al. 2017, Accurate, large minibatch SGD, arXiv:1706.02677, section 5.1 (zero last norm of a branch)",
    ),
    default="digits",
    most=300,
)
