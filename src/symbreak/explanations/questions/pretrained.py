"""pretrained: keep the weights, start again, or shrink and perturb?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from symbreak.explanations import many
from symbreak.explanations.derivation import Named, Step, cite, define, derive
from symbreak.explanations.evidence import Caveat, Cell, Criterion, Experiment, Table
from symbreak.explanations.picture import Line, Picture
from symbreak.explanations.problem import Problem, QuestionError
from symbreak.explanations.question import Question
from symbreak.explanations.questions.logistic_zero import ALPHA, descend, with_ones

SEEDS = 8
WINS = 7  # of SEEDS: by luck alone 7 or more come with probability 9 / 256
WIDTH = 32
HIDDEN = 2
BEFORE = 200  # steps of pretraining
AFTER = 150
ETA, MOMENTUM = 0.1, 0.9
SHARE = 0.1  # of the loss of a constant output: what is to be reached
SHRINK, NOISE = 0.5, 0.1  # weights and biases x 0.5, plus 0.1 of a fresh start
FEWEST = 24  # samples

CLAIM = (
    "Where the loss has one minimum the start decides only how long it takes, by the logarithm of its distance. "
    "In a network with hidden layers, on more data of the same kind, pretrained weights need fewer steps than a fresh "
    "start; on classes they never saw that saving is gone, and of many classes it turns into a loss, because they are "
    "confidently wrong; to shrink and perturb lowers that confidence and keeps most of what is known."
)


def derivation() -> tuple[Step, ...]:
    import sympy as sp

    e0, tolerance, rate, shrink, m = sp.symbols("e_0 epsilon r lambda m", positive=True)
    t = sp.Symbol("t", positive=True)
    x, w1, w2, b1, b2, v1, v2, c = sp.symbols("x w_1 w_2 b_1 b_2 v_1 v_2 c", real=True)
    gap = sp.Symbol("g", real=True)

    def relu(of: sp.Expr) -> sp.Expr:
        return (of + sp.Abs(of)) / 2

    net = v1 * relu(w1 * x + b1) + v2 * relu(w2 * x + b2) + c
    shrunk = net.subs(
        {w1: shrink * w1, w2: shrink * w2, v1: shrink * v1, v2: shrink * v2}
        | {b1: shrink * b1, b2: shrink * b2, c: shrink**2 * c},
        simultaneous=True,
    )
    needed = sp.log(e0 / tolerance) / rate
    return (
        define(
            "With one minimum, the distance to it shrinks by a factor a step (linear-zero); r is its logarithm.",
            Named("e_t", "e_t"),
            e0 * sp.exp(-rate * t),
        ),
        derive(
            "So the steps to a tolerance grow with the logarithm of the distance at the start: ten times nearer saves "
            "the same number of steps every time, and nothing is left of the start at the end.",
            Named("t", "t"),
            needed,
            proof=[(e0 * sp.exp(-rate * needed), tolerance)],
        ),
        define(
            "Shrink and perturb: all weights lambda times as large, plus a little of a fresh start.",
            Named("theta", r"\theta"),
            Named("lambda theta + nu theta_fresh", r"\lambda\,\theta + \nu\,\theta_{\mathrm{fresh}}"),
        ),
        derive(
            "Shrinking alone (biases of layer l by lambda^l) multiplies the output of L layers of ReLU by lambda^L ...",
            Named("f(lambda theta)", r"f(\lambda\theta)"),
            Named("lambda^L f(theta)", r"\lambda^L f(\theta)"),
            proof=[(shrunk, shrink**2 * net)],
        ),
        derive(
            "... which leaves the sign of every difference g of two outputs, and so every prediction, as it is.",
            Named("sign(lambda^L g)", r"\operatorname{sign}(\lambda^L g)"),
            Named("sign(g)", r"\operatorname{sign}(g)"),
            proof=[(sp.sign(shrink**3 * gap, evaluate=False), sp.sign(gap))],
        ),
        derive(
            "What changes is the confidence. A sample that is right by a margin m pulls with 1 / (1 + e^m): hardly at "
            "all once m is large, so old samples no longer hold what new ones overwrite.",
            Named("-d/dm log(1 + e^-m)", r"-\frac{d}{dm} \log(1 + e^{-m})"),
            1 / (1 + sp.exp(m)),
            proof=[(-sp.Derivative(sp.log(1 + sp.exp(-m)), m), 1 / (1 + sp.exp(m)))],
        ),
        derive(
            "One that is wrong by m costs about m: the loss of the confidently wrong grows with the size of the "
            "outputs, and lambda^L is what it is divided by.",
            sp.Limit(sp.log(1 + sp.exp(m)) / m, m, sp.oo),
            sp.Integer(1),
            proof=[(sp.limit(sp.log(1 + sp.exp(m)) / m, m, sp.oo), sp.Integer(1))],
        ),
        cite(
            "On image sets and larger networks, kept weights also end at a lower test accuracy than a restart at the "
            "same training loss, and shrink and perturb closes most of that gap.",
            Named("accuracy(keep)", r"\mathrm{acc}_{\mathrm{keep}}"),
            Named("accuracy(restart)", r"\mathrm{acc}_{\mathrm{restart}}"),
            relation="<",
            source="Ash and Adams 2020",
        ),
    )


STARTS = ("keep", "restart", "shrink and perturb")


@dataclass(frozen=True, eq=False)
class _Split:
    train: Problem
    test: Problem


@dataclass(frozen=True)
class _Race:
    """The three starts on all training data, after pretraining on `old`; each with the same SEEDS."""

    shift: str
    first: dict[str, list[float]]  # loss before the first step, a number for each seed
    steps: dict[str, list[int]]  # to SHARE of the prior; AFTER + 1 where it was not reached
    accuracy: dict[str, list[float]]  # on held-out samples, at the end
    test_loss: dict[str, list[float]]
    agree: float  # share of predictions that shrink and perturb leaves as they are
    shrunk_agree: float  # the same for shrinking alone, biases of layer l by lambda^l
    path: dict[str, tuple[float, ...]]  # training loss, geometric mean over seeds

    def wins(self, a: str, b: str) -> int:
        return sum(p < q for p, q in zip(self.steps[a], self.steps[b], strict=True))


def _split(problem: Problem, seed: int) -> _Split:
    if len(problem.X) < FEWEST:
        raise QuestionError(
            f"pretrained needs at least {FEWEST} samples to hold some out; {problem.name} has {len(problem.X)}."
        )
    problem = problem.standardised()
    order = np.random.default_rng(seed).permutation(len(problem.X))
    held_out = len(order) // 4
    return _Split(problem.rows(order[held_out:]), problem.rows(order[:held_out]))


def _draw(problem: Problem, seed: int) -> many.Many:
    import torch

    from symbreak.schemes import kaiming_normal

    widths = (problem.X.shape[1], *(WIDTH,) * HIDDEN, problem.n_classes)
    stds = [kaiming_normal().moments(fan_in=i).std for i in widths[:-1]]
    return many.draw(widths, stds, SEEDS, torch.relu, seed=seed)


def _prior(problem: Problem) -> float:
    shares = np.bincount(problem.y, minlength=problem.n_classes) / len(problem.y)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def _race(split: _Split, shift: str, old: Problem, seed: int, *, shrink: float = SHRINK, noise: float = NOISE) -> _Race:
    import torch

    x_old, old_loss, _ = many.tensors(old)
    x, loss, _ = many.tensors(split.train)
    x_test, test_loss, _ = many.tensors(split.test)
    labels = torch.from_numpy(split.test.y)
    etas = torch.full((SEEDS,), ETA)
    kept, _ = many.train(_draw(old, 3 * seed), x_old, old_loss, etas, BEFORE, momentum=MOMENTUM)
    fresh = _draw(old, 3 * seed + 1)
    perturbed = kept.of(
        [shrink * p + noise * q for p, q in zip(kept.parameters(), _draw(old, 3 * seed + 2).parameters(), strict=True)]
    )
    first, steps, accuracy, losses, path = {}, {}, {}, {}, {}
    for name, nets in zip(STARTS, (kept, fresh, perturbed), strict=True):
        ends, found = many.train(nets, x, loss, etas, AFTER, momentum=MOMENTUM)
        outputs = ends.outputs(x_test)
        first[name] = found[0].tolist()
        steps[name] = [_reached(one, SHARE * _prior(split.train)) for one in found.T.tolist()]
        accuracy[name] = (outputs.argmax(-1) == labels).float().mean(dim=1).tolist()
        losses[name] = test_loss(outputs).tolist()
        path[name] = tuple(found.clamp_min(1e-12).log().mean(dim=1).exp().tolist())
    before = kept.outputs(x_test).argmax(-1)
    return _Race(
        shift,
        first,
        steps,
        accuracy,
        losses,
        float((perturbed.outputs(x_test).argmax(-1) == before).float().mean()),
        float((_shrunk(kept, shrink).outputs(x_test).argmax(-1) == before).float().mean()),
        path,
    )


def _reached(losses: list[float], bound: float) -> int:
    return next((step for step, loss in enumerate(losses) if loss <= bound), AFTER + 1)


def _shrunk(nets: many.Many, by: float) -> many.Many:
    biases = tuple(by**layer * b for layer, b in enumerate(nets.biases, start=1))
    return many.Many(tuple(by * W for W in nets.weights), biases, nets.activation)


def experiment(problem: Problem, seed: int, *, shrink: float = SHRINK) -> Experiment:
    """With weights times `shrink`, which the claim wants to be below 1."""
    split = _split(problem, seed)
    train = split.train
    half = train.rows(np.arange(len(train.X) // 2))
    seen = train.n_classes - train.n_classes // 2
    alike = _race(split, "half of the samples, then all", half, seed, shrink=shrink)
    new = _race(
        split,
        f"classes 0 to {seen - 1} of {train.n_classes}, then all",
        train.rows(np.flatnonzero(train.y < seen)),
        seed,
        shrink=shrink,
    )
    convex = _Convex(problem, seed)
    keep, restart, perturb = STARTS
    wrong = float(np.median(new.first[keep]))
    criteria = (
        Criterion("L2 logistic regression: the three ends differ by, relative", convex.apart, "<=", 1e-6),
        Criterion(
            f"more samples alike: seeds of {SEEDS} in which keep needs fewer steps than restart",
            alike.wins(keep, restart),
            ">=",
            WINS,
        ),
        Criterion(
            f"new classes: seeds of {SEEDS} in which keep still needs fewer",
            new.wins(keep, restart),
            "<",
            WINS,
        ),
        Criterion(
            "new classes: first loss of keep, of that of restart",
            wrong / float(np.median(new.first[restart])),
            ">",
            1.5,
        ),
        Criterion(
            "new classes: first loss of shrink and perturb, of that of keep",
            float(np.median(new.first[perturb])) / wrong,
            "<=",
            0.5,
        ),
        Criterion(
            "share of predictions that shrinking alone leaves as they are",
            min(alike.shrunk_agree, new.shrunk_agree),
            ">=",
            0.995,
        ),
        Criterion("share that shrink and perturb leaves", min(alike.agree, new.agree), ">=", 0.7),
    )
    how = (
        f"{SEEDS} ReLU networks with {HIDDEN} hidden layers of {WIDTH}, trained for {BEFORE} steps (full batch, eta "
        f"{ETA:g}, momentum {MOMENTUM:g}) on a part of {len(train.X)} samples, then for {AFTER} on all, from three "
        f"starts; {len(split.test.X)} samples are held out. Shrink and perturb: {shrink:g} times the weights plus "
        f"{NOISE:g} times a fresh start."
    )
    return Experiment(how, (_table(alike), _table(new), convex.table), criteria, _picture(problem, alike, new))


def _table(race: _Race) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in STARTS:
        steps = sorted(race.steps[name])
        accuracy, loss = np.array(race.accuracy[name]), np.array(race.test_loss[name])
        rows.append(
            (
                name,
                float(np.median(race.first[name])),
                float(np.median(steps)),
                f"{steps[0]} to {steps[-1]}",
                f"{accuracy.mean():.3f} +- {_interval(accuracy):.3f}",
                f"{loss.mean():.3f} +- {_interval(loss):.3f}",
            )
        )
    return Table(
        f"{race.shift}; medians over {SEEDS} seeds, steps to a training loss of {SHARE:.0%} of a constant output's "
        f"({AFTER + 1}: not reached), means with 95 % intervals on held-out samples.",
        ("start", "first loss", "steps", "range", "held-out accuracy", "held-out loss"),
        tuple(rows),
    )


def _interval(numbers: np.ndarray) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / np.sqrt(len(numbers)))


class _Convex:
    """L2 logistic regression, class 0 against the rest: the same three starts, to the end."""

    def __init__(self, problem: Problem, seed: int) -> None:
        problem = problem.signs().standardised()
        X, s = with_ones(problem.X), problem.y
        rng = np.random.default_rng(seed)
        half = rng.permutation(len(X))[: -(-len(X) // 2)]
        kept = descend(X[half], s[half], np.zeros((1, X.shape[1])), ALPHA, 2000)[0]
        fresh = rng.standard_normal(X.shape[1]) / np.sqrt(X.shape[1])
        perturbed = SHRINK * kept + NOISE * rng.standard_normal(X.shape[1]) / np.sqrt(X.shape[1])
        starts = np.array([kept, fresh, perturbed])
        ends = descend(X, s, starts, ALPHA, 20_000)
        size = float(np.linalg.norm(ends[0])) or 1.0
        self.apart = max(float(np.linalg.norm(end - ends[0])) / size for end in ends)
        rows = tuple(
            (name, float(np.linalg.norm(start - ends[0])) / size, float(np.linalg.norm(end - ends[0])) / size)
            for name, start, end in zip(STARTS, starts, ends, strict=True)
        )
        self.table = Table(
            "Logistic regression with a penalty, which has one minimum: distance from where keep ends, relative.",
            ("start", "at first", "at the end"),
            rows,
        )


def _picture(problem: Problem, alike: _Race, new: _Race) -> Picture:
    steps = tuple(map(float, range(AFTER + 1)))
    keep, restart, perturb = STARTS
    lines = [Line(restart, steps, alike.path[restart])]
    for what, race in (("alike", alike), ("new classes", new)):
        lines += [Line(f"{name}, {what}", steps, race.path[name]) for name in (keep, perturb)]
    return Picture(
        f"Pretrained on a part of {problem.name}, then trained on all",
        "step on all samples",
        "training loss",
        tuple(lines),
        y_log=True,
    )


def fails_when(problem: Problem, seed: int) -> tuple[Caveat, ...]:
    split = _split(problem, seed)
    half = split.train.rows(np.arange(len(split.train.X) // 2))
    labels = np.random.default_rng(seed).permutation(half.y)
    wrong = _race(
        split, "half of the samples with shuffled labels, then all", Problem(**{**vars(half), "y": labels}), seed
    )
    keep, restart, _ = STARTS
    return (
        Caveat(
            "Steps are not quality. Pretrained on shuffled labels, weights may fit the true ones in fewer steps than "
            "fresh weights, being larger; but what they end in is worse on samples they have not seen.",
            often_said="a pretrained start that learns faster was a good one",
            criteria=(
                Criterion(
                    f"shuffled labels first: seeds of {SEEDS} in which keep ends at a larger held-out loss than "
                    "restart",
                    sum(p > q for p, q in zip(wrong.test_loss[keep], wrong.test_loss[restart], strict=True)),
                    ">=",
                    WINS,
                ),
            ),
            tables=(_table(wrong),),
        ),
        Caveat(
            "Ash and Adams found restarts better than kept weights at the same training loss, on image sets and larger "
            "networks. No criterion here rests on that: on sets this small the intervals in the tables often overlap.",
            often_said="a warm start ends where a fresh one does, only sooner",
        ),
        Caveat(
            "The learning rate is so large, or training so long, that the start is forgotten in a network too; or so "
            "small that no start gets far.",
        ),
    )


QUESTION = Question(
    name="pretrained",
    asks="Keep pretrained weights, start again, or shrink and perturb?",
    brief="keep when the data is alike; confidently wrong weights are slower than fresh ones; shrink helps then",
    claim=CLAIM,
    derivation=derivation,
    experiment=experiment,
    fails_when=fails_when,
    sources=(
        "Ash and Adams 2020, On warm-starting neural network training, arXiv:1910.08475",
        "Zhang et al. 2017, Understanding deep learning requires rethinking generalization, arXiv:1611.03530 (shuffled "
        "labels)",
    ),
    default="digits",
    needs="classes",
    most=800,
)
