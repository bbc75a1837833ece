"""Small networks in float64 and the plain loop that trains them: what the questions about layers measure with.

The loop is torch and nothing else, so that it can stand beside `symbreak.check` as a second witness. torch is imported
by the functions, never by this file. Layers are called fc1, act1, fc2, ...; W1 and b1 in a table are those of fc1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from symbreak.explanations.problem import Problem, QuestionError

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer

OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]
Wake = Mapping[str, int | None]

FEWEST = 4  # samples: with fewer, leaving one out leaves one class
APART = 1e-6  # of the largest activation: units that differ by less, on every sample, are one


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a network is taught: inputs x[b, i] in float64, targets y, and the loss between output and target."""

    x: Tensor
    y: Tensor
    n_outputs: int
    loss: Callable[[Tensor, Tensor], Tensor] = field(repr=False)

    @property
    def n_features(self) -> int:
        return int(self.x.shape[1])

    def loss_of(self, model: nn.Module) -> Tensor:
        return self.loss(model(self.x), self.y)


def lesson(problem: Problem) -> tuple[Problem, Lesson]:
    """Classes are learnt with cross entropy, a quantity with the mean squared error; and what was done to the data.

    An all-zero network predicts equal shares of the classes, or zero. Where that is exactly right on average the very
    first gradient is zero for no reason of symmetry, so one sample of balanced classes is left out, and a target is
    moved off its mean; both are said.

    Raises:
        QuestionError: fewer than four samples; or every feature is constant, so that no network can learn from them.
    Example:
        >>> from symbreak.explanations.problem import read
        >>> problem, taught = lesson(read("iris"))
        >>> tuple(taught.x.shape), taught.n_outputs
        ((149, 4), 3)

    Source: THEORY.md section 5, on balanced batches.
    """
    import torch
    import torch.nn.functional as F

    problem = problem.standardised()
    if len(problem.X) < FEWEST:
        raise QuestionError(f"{problem.name}: {len(problem.X)} samples; a network is taught from {FEWEST} on.")
    if not problem.X.any():
        raise QuestionError(f"{problem.name}: every feature is constant; no network can learn from it.")
    if problem.task == "classification":
        problem = _lopsided(problem)
        y = torch.from_numpy(np.asarray(problem.y, dtype=np.int64))
        return problem, Lesson(torch.from_numpy(problem.X), y, problem.n_classes, F.cross_entropy)
    target = np.asarray(problem.y, dtype=np.float64)
    target = (target - target.mean()) / (target.std() or 1.0) + 1.0
    problem = problem.noted("target standardised, then 1 added, so that zero is not its mean")
    return problem, Lesson(torch.from_numpy(problem.X), torch.from_numpy(target[:, None]), 1, F.mse_loss)


def _lopsided(problem: Problem) -> Problem:
    counts = np.bincount(problem.y, minlength=problem.n_classes)
    if counts.min() < counts.max():
        return problem
    kept = np.arange(len(problem.y) - 1)
    return problem.rows(kept).noted("last sample left out, so that the classes are not exactly balanced")


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """A network of these widths, input and output included, in float64 and all zero.

    Example:
        >>> from torch import nn
        >>> [name for name, _ in mlp((2, 8, 1), nn.Tanh).named_parameters()]
        ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']

    Source: any textbook.
    """
    from collections import OrderedDict

    import torch
    from torch import nn
    from torch.nn.utils import skip_init

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, len(widths)):
        layer = skip_init(nn.Linear, widths[number - 1], widths[number], dtype=torch.float64)  # type: ignore[no-untyped-call]  # torch annotates no more
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        layers[f"fc{number}"] = layer
        if number < len(widths) - 1:
            layers[f"act{number}"] = activation()
    return nn.Sequential(layers).double()


def layers_of(model: nn.Sequential) -> list[nn.Linear]:
    from torch import nn

    return [layer for layer in model if isinstance(layer, nn.Linear)]


def randomise_(
    model: nn.Sequential,
    generator: Generator,
    *,
    weights: Sequence[int] | None = None,
    biases: Sequence[int] | None = (),
) -> nn.Sequential:
    """Draw the weights and biases of the layers with these numbers, from 1; None is all of them.

    Weights are N(0, 1 / fan_in) (LeCun), biases U(-1, 1) / sqrt(fan_in) (torch's default).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = randomise_(mlp((2, 8, 1), nn.Tanh), torch.Generator().manual_seed(0), weights=(1,))
        >>> bool(net.fc1.weight.any()), bool(net.fc2.weight.any())
        (True, False)

    Source: LeCun et al. 1998, Efficient BackProp; torch.nn.Linear.reset_parameters.
    """
    for number, layer in enumerate(layers_of(model), start=1):
        scale = layer.in_features**-0.5
        if weights is None or number in weights:
            layer.weight.data.normal_(0.0, scale, generator=generator)
        if biases is None or number in biases:
            layer.bias.data.uniform_(-scale, scale, generator=generator)
    return model


@dataclass(frozen=True, eq=False)
class Training:
    """What a run of full-batch steps showed.

    Attributes:
        wake: parameter -> first step, from 1, at which any entry of its gradient is not exactly zero; None: never.
        losses: before the first step, after it, ... and after the last.
        moved: parameter -> root mean square distance from its start, in the same order as losses.
        watched: what `watch` said of the model, in the same order; empty without one.
    """

    wake: Wake
    losses: tuple[float, ...] = field(repr=False)
    moved: Mapping[str, tuple[float, ...]] = field(repr=False)
    watched: tuple[float, ...] = field(default=(), repr=False)

    @property
    def gained(self) -> float:
        """Share of the first loss that went."""
        return 1.0 - self.losses[-1] / self.losses[0]


def train(
    model: nn.Module,
    taught: Lesson,
    steps: int,
    *,
    optimizer: OptimizerName | Optimizer = "sgd",
    eta: float = 0.1,
    watch: Callable[[], float] | None = None,
) -> Training:
    """Full-batch steps of a plain torch optimizer, a name or one that is made; the model is trained in place.

    Args:
        model: what is trained.
        taught: on what.
        steps: how many.
        optimizer: a name, or an optimizer of the model's parameters, which brings its own learning rates.
        eta: learning rate, where it is a name.
        watch: asked before the first step and after each.
    Example:
        >>> from torch import nn
        >>> from symbreak.explanations.problem import read
        >>> _, taught = lesson(read("iris"))
        >>> train(mlp((4, 8, 3), nn.Tanh), taught, 5).wake["fc1.weight"] is None
        True

    Source: torch.optim.
    """
    optim = make_optimizer(model, optimizer, eta) if isinstance(optimizer, str) else optimizer
    names = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    starts = {name: p.detach().clone() for name, p in names}
    wake: dict[str, int | None] = {name: None for name, _ in names}
    moved: dict[str, list[float]] = {name: [0.0] for name, _ in names}
    losses, watched = [], [watch()] if watch else []
    for step in range(1, steps + 1):
        optim.zero_grad()
        loss = taught.loss_of(model)
        loss.backward()  # type: ignore[no-untyped-call]  # torch annotates no more
        losses.append(float(loss.detach()))
        for name, p in names:
            if wake[name] is None and p.grad is not None and bool(p.grad.any()):
                wake[name] = step
        optim.step()
        watched += [watch()] if watch else []
        for name, p in names:
            moved[name].append(float((p.detach() - starts[name]).square().mean().sqrt()))
    losses.append(float(taught.loss_of(model).detach()))
    return Training(wake, tuple(losses), {name: tuple(path) for name, path in moved.items()}, tuple(watched))


def make_optimizer(model: nn.Module, name: OptimizerName, eta: float) -> Optimizer:
    from torch import optim

    parameters = [p for p in model.parameters() if p.requires_grad]
    if name == "adam":
        return optim.Adam(parameters, lr=eta)
    if name == "adamw":
        return optim.AdamW(parameters, lr=eta)
    return optim.SGD(parameters, lr=eta, momentum=0.9 if name == "momentum" else 0.0)


def hidden(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    """What every hidden layer gives out, [b, units] each."""
    import torch

    given = []
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x)
            if name.startswith("act"):
                given.append(x)
    return given


def distinct(model: nn.Sequential, taught: Lesson) -> tuple[int, ...]:
    """Units of every hidden layer that do something of their own: copies count as one.

    Example:
        >>> from torch import nn
        >>> from symbreak.explanations.problem import read
        >>> distinct(mlp((4, 8, 3), nn.Tanh), lesson(read("iris"))[1])
        (1,)

    Source: two units are one where their outputs agree on every sample.
    """
    return tuple(_classes(h) for h in hidden(model, taught.x))


def _classes(h: Tensor) -> int:
    limit = APART * float(h.abs().max())
    found: list[Tensor] = []
    for unit in h.T:
        if not any(float((unit - other).abs().max()) <= limit for other in found):
            found.append(unit)
    return len(found)


def apart(h: Tensor) -> float:
    """Largest difference between two units [b, units] on any sample, as a share of the largest output.

    Example:
        >>> import torch
        >>> apart(torch.tensor([[1.0, 1.0], [2.0, 1.0]]))
        0.5
    """
    largest = float(h.abs().max())
    return float((h.amax(dim=1) - h.amin(dim=1)).max()) / largest if largest else 0.0


def letter(name: str) -> str:
    """W2 for fc2.weight, b2 for fc2.bias, any other name as it is.

    Example:
        >>> letter("fc2.weight"), letter("alpha")
        ('W2', 'alpha')
    """
    layer = re.fullmatch(r"fc(\d+)\.(weight|bias)", name)
    return f"{'W' if layer[2] == 'weight' else 'b'}{layer[1]}" if layer else name.removesuffix(".weight")


def ladder(wake: Wake) -> str:
    """Who learns when, in one line.

    Example:
        >>> ladder({"fc1.weight": 2, "fc2.weight": 1, "fc2.bias": 1, "gate": None})
        '1: W2 b2; 2: W1; never: gate'

    Source: GROUND_TRUTH.md.
    """
    steps = sorted({step for step in wake.values() if step is not None})
    named = [(f"{step}", [letter(n) for n, s in wake.items() if s == step]) for step in steps]
    asleep = [letter(n) for n, s in wake.items() if s is None]
    return "; ".join(f"{when}: {' '.join(who)}" for when, who in [*named, ("never", asleep)] if who)


def disagree(one: Wake, other: Wake) -> int:
    """Tensors whose first step differs between two ladders, or that stand in one only."""
    return sum(one.get(name, 0) != other.get(name, 0) for name in {*one, *other})
