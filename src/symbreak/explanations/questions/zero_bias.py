"""zero-bias: why may all biases start at zero, and weight matrices not?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from symbreak.explanations import lessons
from symbreak.explanations.derivation import Expr, Named, Step, derive
from symbreak.explanations.evidence import Caveat, Criterion, Experiment, Table
from symbreak.explanations.lessons import Lesson, Training, ladder
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Problem
from symbreak.explanations.question import Question
from symbreak.explanations.two_units import TwoUnits, functions, slope_by

if TYPE_CHECKING:
    from torch import Tensor, nn

WIDTH = 8  # units of the hidden layer
STEPS = 100
SEEDS = 7  # random starts the final losses are compared over
LENGTH = 40  # steps of the LSTM
RARE = 10  # how many times rarer the rare class is made

CLAIM = (
    "Biases may start at zero because a bias is multiplied by nothing: its gradient is the sum of the back-signals of "
    "its unit, which needs no input and which the weights behind it make different from unit to unit. "
    "A weight's gradient is that back-signal times an input, and both go through other weights: W2 is a factor of "
    "W1's gradient, so zero biases delay nothing, one zero matrix costs a step, and two in a row stop a tanh or ReLU "
    "network."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    nets = [TwoUnits(phi) for phi in functions("tanh", "sigmoid").values()]
    tanh = nets[0]
    chain, no_input, at_zero, no_weight, alike = [], [], [], [], []
    for net in nets:
        chain += [(net.by(net.c), net.delta), (net.by(net.b), net.back)]
        chain += [(net.by(net.w), net.back * net.x)]
        blank = {net.x: 0}
        no_input += [(net.at(net.by(net.w), blank), sp.zeros(2, 1))]
        no_input += [(net.at(net.by(net.b), blank | net.zeros(net.b)), net.a * net.slope_0 * _blank_delta(net))]
        free = net.zeros(net.b)
        at_zero += [(net.at(net.by(net.b), free), net.back.subs(free))]
        no_weight += [(net.at(net.by(one), net.zeros(net.a)), sp.zeros(2, 1)) for one in (net.w, net.b)]
        same = net.equal(net.w, net.a) | free
        alike += [(net.at(net.by(one), same)[1], net.at(net.by(one), same)[0]) for one in (net.w, net.b)]
    both = tanh.zeros(tanh.w, tanh.a, tanh.b)
    dead = [(tanh.at(tanh.by(one), both), sp.zeros(2, 1)) for one in (tanh.w, tanh.a, tanh.b)]
    f, i, cell, T = sp.symbols("f i c_0 T", positive=True)
    p = sp.symbols("p_1 p_2 p_3", positive=True)
    prior = [sp.exp(sp.log(one)) / sum(sp.exp(sp.log(other)) for other in p) for one in p]
    c3 = f * (f * (f * cell + i) + i) + i
    return (
        derive(
            "With delta the derivative of the loss by the output: a bias gets the back-signal of its unit itself, a "
            "weight gets it times the input. (One sample, two units; tanh and sigmoid.)",
            slope_by("b2", "b1", "W1"),
            Named(
                "delta, W2^T delta * phi'(z), (W2^T delta * phi'(z)) x^T",
                r"\delta,\; W_2^T \delta \odot \phi'(z),\; (W_2^T \delta \odot \phi'(z))\, x^T",
            ),
            proof=chain,
        ),
        derive(
            "No input is needed: at x = 0 the weights in front get no gradient, and the biases do.",
            slope_by("W1", "b1", at="x = 0, b1 = 0"),
            Named("0, phi'(0) W2^T delta", r"0,\; \phi'(0)\, W_2^T \delta"),
            proof=no_input,
        ),
        derive(
            "At zero biases the formula is the same with z = W1 x: the gradients of two biases differ as soon as "
            "the weights in or out of the two units do.",
            slope_by("b1", at="b1 = 0"),
            Named("W2^T delta * phi'(W1 x)", r"W_2^T \delta \odot \phi'(W_1 x)"),
            proof=at_zero,
        ),
        derive(
            "Zero biases tell no units apart either: where the weights are equal too, all gradients are.",
            slope_by("(unit 1)"),
            slope_by("(unit 2)"),
            proof=alike,
        ),
        derive(
            "Weights do couple: at W2 = 0 neither the weights nor the biases in front of it get a gradient.",
            slope_by("W1", "b1", at="W2 = 0"),
            sp.Integer(0),
            proof=no_weight,
        ),
        derive(
            "And where W1 is zero too, with phi(0) = 0, W2's own factor is gone: nothing but the output bias moves.",
            slope_by("W1", "b1", "W2", at="0"),
            sp.Integer(0),
            proof=dead,
        ),
        derive(
            "A case for a bias that is not zero: an LSTM's cell keeps f = sigma(b_f + ...) of itself a step, and so "
            "does the gradient on its way back; f = 1/2 at b_f = 0. (Here three steps; T steps give f^T.)",
            Named("d c_T / d c_0", r"\partial c_T / \partial c_0"),
            f**T,
            proof=[(sp.Derivative(c3, cell, evaluate=False), f**3)],
        ),
        derive(
            "Another: with logits b = log p the softmax is the prior p (which sums to 1), and the first loss is its "
            "entropy, the least that a constant prediction can have.",
            Named("softmax(log p)_k", r"\operatorname{softmax}(\log p)_k"),
            Named("p_k / sum p", r"p_k / \sum_j p_j"),
            proof=[(one, q / sum(p)) for one, q in zip(prior, p, strict=True)],
        ),
    )


def _blank_delta(net: TwoUnits) -> Expr:
    """The residual at x = 0 and b1 = 0."""
    return net.delta.subs({net.x: 0} | net.zeros(net.b))


@dataclass(frozen=True)
class _Start:
    """Which tensors of a network with one hidden layer are random; the others are zero."""

    name: str
    weights: tuple[int, ...]
    random_biases: bool
    learns: str  # the ladder that the derivation says, for tanh


STARTS = (
    _Start("weights random, biases zero", (1, 2), False, "1: W1 b1 W2 b2"),
    _Start("weights and biases random", (1, 2), True, "1: W1 b1 W2 b2"),
    _Start("W2 and biases zero", (1,), False, "1: W2 b2; 2: W1 b1"),
    _Start("W1 and biases zero", (2,), False, "1: W1 b1 b2; 2: W2"),
    _Start("all zero", (), False, "1: b2; never: W1 b1 W2"),
)


def build(start: _Start, taught: Lesson, seed: int) -> nn.Sequential:
    import torch
    from torch import nn

    model = lessons.mlp((taught.n_features, WIDTH, taught.n_outputs), nn.Tanh)
    generator = torch.Generator().manual_seed(seed)
    lessons.randomise_(model, generator, weights=start.weights)
    return lessons.randomise_(model, generator, weights=(), biases=None if start.random_biases else ())


def experiment(problem: Problem, seed: int) -> Experiment:
    from symbreak import check

    problem, taught = lessons.lesson(problem)
    rows, runs, wrong, disagree = [], {}, 0, 0
    for start in STARTS:
        model = build(start, taught, seed)
        report = check(model, (taught.x, taught.y), taught.loss)
        run = lessons.train(model, taught, STEPS)
        units = lessons.distinct(model, taught)[0]
        runs[start.name] = run
        wrong += ladder(run.wake) != start.learns
        disagree += lessons.disagree(run.wake, report.wakeup)
        rows.append((start.name, ladder(run.wake), report.verdict, units, run.losses[0], run.losses[-1]))
    zero, random, *_ = STARTS
    ratios = []
    for k in range(SEEDS):  # the same weights twice: biases are drawn after them
        one, other = (lessons.train(build(start, taught, seed + k), taught, STEPS) for start in (zero, random))
        ratios.append(one.gained / other.gained)
    anatomy = _Anatomy(build(zero, taught, seed), taught)
    table = Table(
        f"tanh network with one hidden layer of {WIDTH} units, {STEPS} steps of gradient descent. Learns: the first "
        "step with a gradient that is not exactly zero; units: different ones at the end.",
        ("start", "learns", "symbreak.check", "units", "first loss", "last loss"),
        tuple(rows),
    )
    criteria = (
        Criterion("starts whose tensors learn at another step than derived", wrong, "==", 0),
        Criterion("tensors whose first step in training and by symbreak.check differ", disagree, "==", 0),
        Criterion(
            "bias gradients against the back-signals by hand, summed over samples: largest difference, relative",
            anatomy.sum_error,
            "<=",
            1e-12,
        ),
        Criterion("all inputs replaced by zero: largest gradient in W1", anatomy.blank_weight, "==", 0),
        Criterion("and the largest gradient in b1, which is not zero", anatomy.blank_bias, ">", 0),
        Criterion(
            "zero biases: nearest two of the b1 gradients, of the largest; they differ", anatomy.nearest, ">", 1e-9
        ),
        Criterion(f"random weights, zero biases: different units of {WIDTH} at the end", rows[0][3], "==", WIDTH),
        Criterion(
            f"zero biases cost little: share of the loss gone, of that with random biases, median of {SEEDS} seeds",
            float(np.median(ratios)),
            ">=",
            0.8,
        ),
    )
    how = (
        "One network is started five ways and trained in plain torch (full batch, eta 0.1, float64), beside "
        "symbreak.check; then its bias gradients are taken apart."
    )
    return Experiment(how, (table,), criteria, _picture(problem.name, runs))


class _Anatomy:
    """The gradients of a network with one hidden layer at its start, taken apart."""

    def __init__(self, model: nn.Sequential, taught: Lesson) -> None:
        import torch

        layer, head = lessons.layers_of(model)
        weight, bias = layer.parameters()
        h = torch.tanh(layer(taught.x))
        output = head(h)
        by_bias, delta = torch.autograd.grad(taught.loss(output, taught.y), (bias, output))
        by_hand = ((delta @ head.weight) * (1 - h.square())).detach()  # [b, units], tanh' = 1 - tanh^2
        largest = float(by_bias.abs().max())
        self.sum_error = float((by_bias - by_hand.sum(dim=0)).abs().max()) / largest
        self.nearest = float(by_bias.sort().values.diff().min()) / largest
        blank = taught.loss(model(torch.zeros_like(taught.x)), taught.y)
        by_weight, by_bias = torch.autograd.grad(blank, (weight, bias))
        self.blank_weight, self.blank_bias = float(by_weight.abs().max()), float(by_bias.abs().max())


def _picture(data: str, runs: dict[str, Training]) -> Picture:
    steps = tuple(map(float, range(STEPS + 1)))
    return Picture(
        f"Zero biases, zero weights on {data}",
        "step of gradient descent",
        "loss",
        tuple(Line(name, steps, run.losses) for name, run in runs.items()),
    )


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:
    problem, taught = lessons.lesson(problem)
    blocked = lessons.train(build(STARTS[-1], taught, seed), taught, 20)
    x = taught.x
    dead = {bias: _dead(x - x.mean(dim=0), bias, seed) for bias in (-2.0, 0.0, 2.0)}
    raw_dead = {bias: _dead(x - x.amin(dim=0), bias, seed) for bias in (-2.0, 0.0, 2.0)}  # as pixels: none below 0
    kept = {bias: _kept(taught, bias, seed) for bias in (0.0, 1.0, 3.0)}
    labels = problem.y if problem.task == "classification" else problem.y > np.median(problem.y)
    entropy, with_prior, with_zero = _rare(np.asarray(labels, dtype=np.int64))
    return (
        Caveat(
            "A bias needs no input, but it needs weights behind it: in an all-zero tanh network no hidden bias "
            "ever learns.",
            often_said="biases always learn, because nothing multiplies them",
            criteria=(
                Criterion(
                    "W1 = W2 = 0: first step at which b1 has a gradient in 20 (0: none)",
                    blocked.wake["fc1.bias"] or 0,
                    "==",
                    0,
                ),
            ),
        ),
        Caveat(
            "ReLU units can be born dead, at z <= 0 on every sample, and a bias shifts how many. With features of mean "
            "zero a first layer with zero biases has none (z has mean zero too); with features that are never negative "
            "it may.",
            often_said="give ReLU units a small positive bias",
            tables=(
                Table(
                    "Share of 256 ReLU units of a first layer (LeCun normal) without gradient on any sample.",
                    ("bias", "features of mean zero", "features from zero up"),
                    tuple((bias, dead[bias], raw_dead[bias]) for bias in dead),
                ),
            ),
            criteria=(
                Criterion("mean zero, zero biases: dead units", dead[0.0], "==", 0),
                Criterion(
                    "features from zero up: dead units at bias -2, over those at +2",
                    raw_dead[-2.0] - raw_dead[2.0],
                    ">",
                    0,
                ),
            ),
        ),
        Caveat(
            f"The forget gate of an LSTM: over {LENGTH} steps the cell's gradient is multiplied by sigma(b_f) each. "
            "A bias of 1 keeps far more of it. (torch adds two biases, bias_ih and bias_hh: setting both to 1 is a "
            "bias of 2.)",
            tables=(
                Table(
                    f"nn.LSTM with small weights on rows of the data: gradient of the last cell by the first, {LENGTH} "
                    "steps apart (rms over units).",
                    ("forget bias", "measured", "sigma(b_f)^T"),
                    tuple((bias, size, _sigmoid(bias) ** LENGTH) for bias, size in kept.items()),
                ),
            ),
            criteria=(
                Criterion(
                    "gradient kept at forget bias 1 over that at 0, of (sigma(1) / sigma(0))^T, in logarithms",
                    math.log(kept[1.0] / kept[0.0]) / (LENGTH * math.log(_sigmoid(1.0) / _sigmoid(0.0))),
                    ">",
                    0.5,
                ),
            ),
        ),
        Caveat(
            f"The output layer, where classes are not equally frequent (here the rarest is made {RARE} times rarer "
            "than it was): with b = log p the first loss is the entropy of the labels, with b = 0 the logarithm of the "
            "number of classes, and the first steps only repair that.",
            criteria=(
                Criterion("first loss with b = log p, less the entropy", with_prior - entropy, "<=", 1e-12),
                Criterion("first loss with b = 0, less the entropy", with_zero - entropy, ">", 1e-3),
            ),
        ),
    )


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def _dead(x: Tensor, bias: float, seed: int) -> float:
    """Share of 256 ReLU units of a first layer that no sample switches on."""
    import torch
    from torch import nn

    model = lessons.mlp((x.shape[1], 256, 1), nn.ReLU)
    lessons.randomise_(model, torch.Generator().manual_seed(seed))
    lessons.layers_of(model)[0].bias.data.fill_(bias)
    on = lessons.hidden(model, x)[0] > 0
    return 1.0 - float(on.any(dim=0).double().mean())


def _kept(taught: Lesson, bias: float, seed: int) -> float:
    """Gradient of an LSTM's last cell by its first, root mean square over units."""
    import torch
    from torch import nn

    units = 8
    # made on meta and emptied here, so that nothing is drawn from the global random state
    lstm = nn.LSTM(taught.n_features, units, dtype=torch.float64, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, p in lstm.named_parameters():
        p.data.normal_(0.0, 0.1 * p.shape[-1] ** -0.5, generator=generator) if p.ndim == 2 else p.data.zero_()
        if name == "bias_ih_l0":
            p.data[units : 2 * units] = bias  # torch's order: input, forget, cell, output
    rows = torch.arange(LENGTH) % len(taught.x)
    cell = torch.zeros(1, units, dtype=torch.float64, requires_grad=True)
    _, (_, last) = lstm(taught.x[rows], (torch.zeros_like(cell), cell))
    (slope,) = torch.autograd.grad(last.sum(), cell)
    return float(slope.square().mean().sqrt())


def _rare(labels: np.ndarray) -> tuple[float, float, float]:
    """Entropy of the labels, the rarest class thinned out, and the cross entropy of constant logits log p and 0."""
    import torch
    import torch.nn.functional as F

    counts = np.bincount(labels)
    counts = counts[counts > 0]
    counts[counts.argmin()] = max(1, counts.min() // RARE)
    y = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    prior = torch.from_numpy(counts / counts.sum())
    entropy = float(-(prior * prior.log()).sum())
    with_prior, with_zero = (
        float(F.cross_entropy(logits.expand(len(y), -1), y)) for logits in (prior.log(), torch.zeros_like(prior))
    )
    return entropy, with_prior, with_zero


QUESTION = Question(
    name="zero-bias",
    asks="Why may all biases start at zero, and weight matrices not?",
    brief="a bias's gradient has no input as a factor; a weight's has other weights",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "Goodfellow, Bengio and Courville 2016, Deep Learning, section 8.4 (biases: output prior, ReLU, gates)",
        "Jozefowicz, Zaremba and Sutskever 2015, An empirical exploration of recurrent network architectures, ICML "
        "(forget bias 1)",
        "Lin et al. 2017, Focal loss for dense object detection, arXiv:1708.02002, section 4.1 (prior bias)",
    ),
    default="digits",
    most=300,
)
