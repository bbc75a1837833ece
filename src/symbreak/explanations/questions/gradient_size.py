"""gradient-size: why do small weights give small gradients, and how large must weights be?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from symbreak.explanations.derivation import Named, Step, define, derive
from symbreak.explanations.evidence import Caveat, Cell, Criterion, Experiment, Table
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Problem
from symbreak.explanations.question import Question

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WIDTH = 64
LAYERS = 6  # of the net whose layers are scaled one by one
DEEP = 20  # layers of the net that shows what an error in every layer comes to
SEEDS = 8
SCALED = 4  # the layer that is made larger or smaller, counted from 1
FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)
GAIN = math.sqrt(2)  # what keeps the signal, for ReLU; the claim's number

CLAIM = (
    "The signal that comes back to a layer is multiplied by every weight matrix behind it, so its gradient is "
    "proportional to the weights of the other layers and not to its own: with all of L layers c times as large (ReLU, "
    "no biases), the gradient is c^(L-1) and the gradient relative to the weight c^(L-2) times as large. "
    "The size that keeps the signal is a standard deviation of sqrt(2 / fan) for ReLU; f times that in every layer "
    "multiplies it by f^L, and zero behind gives exactly zero."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    c, fan, variance, z = sp.symbols("c fan sigma^2 z", positive=True)
    layers = sp.Symbol("L", positive=True, integer=True)
    x1, x2, delta = sp.symbols("x_1 x_2 delta", real=True)
    W = sp.Matrix(2, 2, sp.symbols("W_11 W_12 W_21 W_22", real=True))
    v = sp.Matrix(sp.symbols("v_1 v_2", real=True))
    x = sp.Matrix([x1, x2])
    output = delta * sum(v[o] * sp.tanh((W * x)[o]) for o in range(2))  # a loss with slope delta
    back = sp.Matrix([v[o] * delta * (1 - sp.tanh((W * x)[o]) ** 2) for o in range(2)])
    a = sp.symbols("a_1:4", positive=True)
    real = sp.Symbol("z", real=True)

    def relu(of: sp.Expr) -> sp.Expr:
        return (of + sp.Abs(of)) / 2

    chain = a[2] * relu(a[1] * relu(a[0] * x1))
    larger = {one: c * one for one in a}
    w1, w2, d1, d2 = sp.symbols("w_1 w_2 delta_1 delta_2", real=True)
    square = sp.expand((w1 * d1 + w2 * d2) ** 2)
    moments = square.subs({w1 * w2: 0}).subs({w1**2: variance, w2**2: variance})
    passing = sp.Integral(sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi), (z, 0, sp.oo))
    kept = sp.solve(sp.Eq(fan * variance / 2, 1), variance)
    return (
        define(
            "Call delta_l the slope of the loss by the sum z_l = W_l h_{l-1} of a layer: the signal that comes back "
            "to it.",
            Named("delta_l", r"\delta_l"),
            Named("dL / dz_l", r"\partial L / \partial z_l"),
        ),
        derive(
            "The gradient of a layer is that signal times its own input (checked entry by entry, two layers with "
            "tanh).",
            Named("dL / dW_l", r"\partial L / \partial W_l"),
            Named("delta_l h_{l-1}^T", r"\delta_l\, h_{l-1}^T"),
            proof=[(sp.Derivative(output, W[o, i]), back[o] * x[i]) for o in range(2) for i in range(2)],
        ),
        derive(
            "And the signal is the one of the layer behind, times the weights behind, times the slope of the "
            "activation: weights of zero behind give exactly zero.",
            Named("delta_{l-1}", r"\delta_{l-1}"),
            Named("phi'(z_{l-1}) * W_l^T delta_l", r"\phi'(z_{l-1}) \odot W_l^T \delta_l"),
            proof=[(back[o], (v * delta)[o] * sp.diff(sp.tanh(real), real).subs(real, (W * x)[o])) for o in range(2)],
        ),
        derive(
            "ReLU passes a factor c > 0 through unchanged ...",
            Named("relu(c z)", r"\operatorname{relu}(c z)"),
            Named("c relu(z)", r"c \operatorname{relu}(z)"),
            proof=[(relu(c * real), c * relu(real))],
        ),
        derive(
            "... so with every one of L layers c times as large the output is c^L times as large ...",
            Named("f(c W)", "f(c W)"),
            Named("c^L f(W)", "c^L f(W)"),
            proof=[(chain.subs(larger, simultaneous=True), c**3 * chain)],
        ),
        derive(
            "... and the gradient of each layer, which has all factors but its own, c^(L-1) times (checked for L = 3); "
            "relative to its weight that is c^(L-2), so two layers are the only depth at which the scale cancels.",
            Named("grad f(c W)", r"\nabla f(c W)"),
            Named("c^(L-1) grad f(W)", r"c^{L-1} \nabla f(W)"),
            proof=[(sp.diff(chain, one).subs(larger, simultaneous=True), c**2 * sp.diff(chain, one)) for one in a],
        ),
        derive(
            "How large? Random weights with variance sigma^2, independent: the mean square of what comes back through "
            "them is the sum over the fan of units behind (two of them here; products of different weights average "
            "out).",
            Named("E (sum_o W_oi delta_o)^2", r"\mathbb{E}\left(\textstyle\sum_o W_{oi}\delta_o\right)^2"),
            Named("sigma^2 sum_o delta_o^2", r"\sigma^2 \textstyle\sum_o \delta_o^2"),
            proof=[(moments, variance * (d1**2 + d2**2))],
        ),
        derive(
            "ReLU lets half of it through: a symmetric sum z is above zero half of the time.",
            passing,
            sp.Rational(1, 2),
        ),
        derive(
            "The signal keeps its size where fan times sigma^2 times one half is 1.",
            Named("fan sigma^2 / 2 = 1", r"\mathrm{fan}\,\sigma^2 / 2 = 1"),
            Named("sigma^2 = 2 / fan", r"\sigma^2 = 2 / \mathrm{fan}"),
            relation="->",
            proof=[(kept[0], 2 / fan)],
        ),
        derive(
            "Half of that standard deviation in every layer leaves 2^-L of it, and nothing at last.",
            sp.Limit(sp.Rational(1, 2) ** layers, layers, sp.oo),
            sp.Integer(0),
            proof=[(sp.limit(sp.Rational(1, 2) ** z, z, sp.oo), sp.Integer(0))],
        ),
    )


def experiment(problem: Problem, seed: int, *, gain: float = GAIN) -> Experiment:
    """`gain` times 1 / sqrt(fan) is taken for the size that keeps the signal; the claim's is sqrt(2)."""
    x = _inputs(problem)
    base = _Look(_net(x.shape[1], LAYERS, seed), x, seed)
    rows: list[tuple[Cell, ...]] = []
    looks = {c: _Look(_net(x.shape[1], LAYERS, seed), x, seed, scale={SCALED: c}) for c in (10.0, 0.1, 0.0)}
    off, own, dead = 0.0, 0.0, 0.0
    for number in range(1, LAYERS + 1):
        ratios = {c: look.gradients[number - 1] / base.gradients[number - 1] for c, look in looks.items()}
        for c in (10.0, 0.1):
            if number == SCALED:
                own = max(own, abs(ratios[c] - 1))
            else:
                off = max(off, abs(ratios[c] / c - 1))
        dead = dead if number == SCALED else max(dead, ratios[0.0])
        rows.append((number, base.gradients[number - 1], base.relative[number - 1], *ratios.values()))
    single = Table(
        f"{LAYERS} layers, {WIDTH} wide, ReLU, std sqrt(2 / fan_in); then layer {SCALED} alone is multiplied. The "
        "loss is linear in the output, so that nothing but the weights sizes the signal. Sizes are root mean squares.",
        ("layer", "|gradient|", "|gradient| / |weight|", "gradient, W4 x 10", "W4 x 0.1", "W4 x 0"),
        tuple(rows),
    )
    powers, power_rows = _powers(x, seed)
    deep = _deep(x, seed, gain)
    criteria = (
        Criterion(f"layer {SCALED} times c: gradients of the other layers, of c times before, off by", off, "<=", 1e-9),
        Criterion(f"layer {SCALED} times c: its own gradient, of that before, off by", own, "<=", 1e-9),
        Criterion(f"layer {SCALED} times 0: largest gradient of another layer", dead, "==", 0),
        Criterion("all layers times c: power of c in the gradient, less (L - 1)", powers["gradient"], "<=", 1e-6),
        Criterion("all layers times c: power of c in gradient / weight, less (L - 2)", powers["relative"], "<=", 1e-6),
        Criterion(
            f"{DEEP} layers, std as recommended: back-signal first over last, |log10|",
            abs(math.log10(max(deep.ratios[1.0], 1e-300))),
            "<=",
            0.7,
        ),
        Criterion(
            "half of it: less by, log10", -math.log10(max(deep.ratios[0.5] / deep.ratios[1.0], 1e-300)), ">=", 4.0
        ),
        Criterion("twice it: more by, log10", math.log10(max(deep.ratios[2.0] / deep.ratios[1.0], 1e-300)), ">=", 4.0),
    )
    how = (
        f"Backward passes of ReLU networks without biases in float64, on {len(x)} samples; the deep one is drawn with "
        f"{SEEDS} seeds, and the geometric mean is shown."
    )
    return Experiment(how, (single, power_rows, deep.table()), criteria, deep.picture(problem.name))


def _inputs(problem: Problem) -> Tensor:
    import torch

    return torch.from_numpy(problem.standardised().X[:256])


def _net(n_in: int, layers: int, seed: int) -> nn.Sequential:
    from symbreak.nets import Spec, build
    from symbreak.schemes import kaiming_normal

    return build(Spec("mlp", (WIDTH,) * (layers - 1), "relu"), n_in, 1, kaiming_normal(), seed).double()


def _linears(net: nn.Sequential) -> list[nn.Linear]:
    from torch import nn

    return [module for module in net if isinstance(module, nn.Linear)]


class _Look:
    """One backward pass: sizes (root mean square) of weights, gradients and back-signals, layer by layer."""

    def __init__(
        self, net: nn.Sequential, x: Tensor, seed: int, *, scale: dict[int, float] | None = None, all_by: float = 1.0
    ) -> None:
        import torch

        with torch.no_grad():
            for number, layer in enumerate(_linears(net), start=1):
                layer.weight.mul_((scale or {}).get(number, 1.0) * all_by)
        h, sums = x, []
        for module in net:
            h = module(h)
            if module in _linears(net):
                h.retain_grad()
                sums.append(h)
        (_probe(h, seed) * h).mean().backward()  # type: ignore[no-untyped-call]
        self.back = [_rms(z.grad) for z in sums]
        self.weights = [_rms(layer.weight) for layer in _linears(net)]
        self.gradients = [_rms(layer.weight.grad) for layer in _linears(net)]
        self.relative = [g / w if w else 0.0 for g, w in zip(self.gradients, self.weights, strict=True)]


def _probe(output: Tensor, seed: int) -> Tensor:
    """What each sample's output counts in the loss: random, so that no symmetry of the data cancels it."""
    import torch

    return torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=output.dtype)


def _rms(tensor: torch.Tensor | None) -> float:
    return 0.0 if tensor is None else float(tensor.detach().square().mean().sqrt())


def _powers(x: Tensor, seed: int) -> tuple[dict[str, float], Table]:
    """How many factors c the gradient of the first layer has, by depth: slopes of a log-log line."""
    cs = (0.25, 1.0, 4.0)
    worst, rows = {"gradient": 0.0, "relative": 0.0}, []
    for layers in (1, 2, 3, 6):
        looks = [_Look(_net(x.shape[1], layers, seed), x, seed, all_by=c) for c in cs]
        gradient = _slope(cs, [look.gradients[0] for look in looks])
        relative = _slope(cs, [look.relative[0] for look in looks])
        rows.append((layers, gradient, relative))
        worst["gradient"] = max(worst["gradient"], abs(gradient - (layers - 1)))
        worst["relative"] = max(worst["relative"], abs(relative - (layers - 2)))
    table = Table(
        "All layers times c: the gradient of the first goes as c to this power, measured between c = 1/4 and 4.",
        ("layers", "power in gradient", "power in gradient / weight"),
        tuple(rows),
    )
    return worst, table


def _slope(xs: tuple[float, ...], ys: list[float]) -> float:
    return float(np.polyfit(np.log(xs), np.log(np.maximum(ys, 1e-300)), 1)[0])


@dataclass(frozen=True)
class _Deep:
    """What a factor in every layer comes to in a deep net; geometric means over seeds."""

    back: dict[float, list[float]]  # by factor, then layer
    relative: dict[float, list[float]]

    @property
    def ratios(self) -> dict[float, float]:
        """Back-signal at the first hidden layer over that at the last."""
        return {factor: sizes[0] / max(sizes[-2], 1e-300) for factor, sizes in self.back.items()}

    def table(self) -> Table:
        rows = tuple(
            (factor, self.ratios[factor], factor ** (DEEP - 2), self.relative[factor][0], self.relative[factor][-2])
            for factor in self.back
        )
        return Table(
            f"{DEEP} layers; std is this factor times the recommended one in every layer.",
            ("factor", "back-signal first / last", "factor^(L-2)", "gradient / weight, first", "last hidden"),
            rows,
        )

    def picture(self, name: str) -> Picture:
        lines = tuple(
            Line(f"std x {factor:g}", tuple(float(n) for n in range(1, DEEP)), tuple(sizes[:-1]))
            for factor, sizes in self.back.items()
        )
        return Picture(
            f"ReLU, {DEEP} layers on {name}: what comes back through the weights behind",
            "layer, counted from the input",
            "back-signal, root mean square",
            lines,
            y_log=True,
        )


def _deep(x: Tensor, seed: int, gain: float) -> _Deep:
    back: dict[float, list[float]] = {}
    relative: dict[float, list[float]] = {}
    for factor in FACTORS:
        looks = [
            _Look(_net(x.shape[1], DEEP, seed + 1000 * k), x, seed, all_by=factor * gain / math.sqrt(2))
            for k in range(SEEDS)
        ]
        back[factor] = _geometric([look.back for look in looks])
        relative[factor] = _geometric([look.relative for look in looks])
    return _Deep(back, relative)


def _geometric(sizes: list[list[float]]) -> list[float]:
    return [float(mean) for mean in np.exp(np.log(np.maximum(sizes, 1e-300)).mean(axis=0))]


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:
    from torch import nn

    x = _inputs(problem)

    def normalised(c: float) -> list[float]:
        first, *rest = _net(x.shape[1], 3, seed).children()
        net = nn.Sequential(first, nn.LayerNorm(WIDTH, eps=1e-12).double(), *rest)
        return _Look(net, x, seed, scale={1: c}).gradients

    plain, large = normalised(1.0), normalised(10.0)
    saturated = [_first_gradient(nn.Tanh(), x, seed, c) for c in (1.0, 100.0)]
    skipped = _skip_gradient(x, seed)
    adam, sgd = _first_steps(x, seed)
    return (
        Caveat(
            "A normalisation follows the layer: then its weights times c change nothing in front and behind, and its "
            "own gradient is 1/c of what it was. Large weights there learn slowly.",
            criteria=(
                Criterion(
                    "layer norm behind layer 1, W1 x 10: gradient of layer 1, of a tenth, off by",
                    abs(large[0] / plain[0] * 10 - 1),
                    "<=",
                    1e-6,
                ),
                Criterion("the same: gradient of layer 2, off by", abs(large[1] / plain[1] - 1), "<=", 1e-6),
            ),
        ),
        Caveat(
            "A skip connection goes around the weights behind: the signal comes back with factor 1, even where they "
            "are zero. This is why zero-initialised branches train (zeros-that-work).",
            criteria=(
                Criterion(
                    "h + W2 relu(h), W2 = 0: gradient of the layer in front, of that with W2 random", skipped, ">", 0.1
                ),
            ),
        ),
        Caveat(
            "The activation saturates: larger weights of the layer itself then close the slope phi', and its gradient "
            "falls (linear-region).",
            criteria=(
                Criterion("tanh, W1 x 100: gradient of layer 1, of that before", saturated[1] / saturated[0], "<", 0.5),
            ),
        ),
        Caveat(
            "The optimizer divides by the size of the gradient. Adam's first step is the learning rate, however small "
            "the gradient is; what counts there is the learning rate relative to the weight.",
            often_said="small gradients mean slow learning",
            criteria=(
                Criterion(f"W{SCALED} x 0.001, first step of layer 1, of that before: SGD", sgd, "<=", 0.0011),
                Criterion("the same with Adam, off by", abs(adam - 1), "<=", 0.05),
            ),
        ),
    )


def _first_gradient(activation: nn.Module, x: Tensor, seed: int, c: float) -> float:
    from torch import nn

    first, last = _linears(_net(x.shape[1], 2, seed))
    return _Look(nn.Sequential(first, activation, last), x, seed, scale={1: c}).gradients[0]


def _skip_gradient(x: Tensor, seed: int) -> float:
    """The gradient in front of a branch of zeros, of that in front of a random one."""
    import torch

    sizes = []
    for c in (0.0, 1.0):
        first, branch, last = _linears(_net(x.shape[1], 3, seed))
        h = first(x)
        output = last(h + c * branch(torch.relu(h)))
        (_probe(output, seed) * output).mean().backward()
        sizes.append(_rms(first.weight.grad))
    return sizes[0] / sizes[1]


def _first_steps(x: Tensor, seed: int) -> tuple[float, float]:
    """How far layer 1 moves in the first step with a thousandth of the weights behind, of how far without."""
    import torch

    moved: dict[tuple[str, float], float] = {}
    for c in (1.0, 1e-3):
        for name in ("adam", "sgd"):
            net = _net(x.shape[1], LAYERS, seed)
            _Look(net, x, seed, scale={SCALED: c})
            weight = _linears(net)[0].weight
            before = weight.detach().clone()
            made = torch.optim.Adam([weight], eps=1e-16) if name == "adam" else torch.optim.SGD([weight], 1.0)
            made.step()
            moved[name, c] = _rms(weight.detach() - before)
    return moved["adam", 1e-3] / moved["adam", 1.0], moved["sgd", 1e-3] / moved["sgd", 1.0]


QUESTION = Question(
    name="gradient-size",
    asks="Why do small weights give small gradients, and how large must weights be?",
    brief="the back-signal is multiplied by every weight behind; std sqrt(2 / fan) keeps it for ReLU",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural networks",
        "He, Zhang, Ren and Sun 2015, Delving deep into rectifiers, arXiv:1502.01852, section 2.2",
        "Kingma and Ba 2015, Adam, arXiv:1412.6980, section 2.1 (steps are invariant to the scale of the gradient)",
    ),
    default="digits",
)
