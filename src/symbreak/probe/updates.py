"""How an optimizer moves weights over many steps at once, where the gradient is known at their ends.

Small steps of gradient descent are stretches of gradient flow: only their total length matters. Momentum remembers ten
steps, and at the start of training, or where copies part fast, that is not short. Adam, AdamW and RMSprop divide the
mean gradient by the root of its mean square, so that each weight moves by about the learning rate whatever the
gradient's size, and remember a thousand. One long step is then not many short ones; but where the gradient changes
linearly in time, both means after n steps are a closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BLOCKS = 4  # parts of a stretch between whose ends the step is taken as linear in time


@dataclass(frozen=True)
class Update:
    """What one step of an optimizer does, each entry by itself.

    Attributes:
        name: of the optimizer.
        rate: learning rate.
        first: decay of the mean gradient a step: Adam's beta1; SGD's momentum, whose buffer is the mean over 1 - first.
        second: decay of the mean square (Adam's beta2, RMSprop's alpha); None where nothing is divided by it.
        unbiased: the means are divided by their total weight so far.
        eps: added to the root mean square.
        nesterov: the step is the buffer as it will be once more.
        decay: of the weights, added to the gradient, or times the rate of the weights where `decoupled`.
    """

    name: str
    rate: float
    first: float = 0.0
    second: float | None = None
    unbiased: bool = False
    eps: float = 1e-8
    nesterov: bool = False
    decay: float = 0.0
    decoupled: bool = False

    @classmethod
    def of(cls, name: str, rate: float, settings: Mapping[str, Any]) -> Update | None:
        """The update of an optimizer by its name, with torch's defaults, or with the settings of the user's own.

        None where it is none of these, or has an option that changes what a step is.

        Example:
            >>> Update.of("momentum", 0.1, {}).first, Update.of("adamw", 1e-3, {}).decay, Update.of("lion", 1e-4, {})
            (0.9, 0.01, None)
        """
        if any(settings.get(key) for key in ("amsgrad", "maximize", "centered", "dampening")):
            return None
        decay, eps = float(settings.get("weight_decay", 0.01 if name == "adamw" else 0.0)), settings.get("eps", 1e-8)
        if name in ("sgd", "momentum", "nesterov"):
            momentum = float(settings.get("momentum", 0.0 if name == "sgd" else 0.9))
            nesterov = bool(settings.get("nesterov", name == "nesterov"))
            return cls(name, rate, momentum, nesterov=nesterov, decay=decay)
        if name in ("adam", "adamw"):
            first, second = settings.get("betas", (0.9, 0.999))
            decoupled = bool(settings.get("decoupled_weight_decay", name == "adamw"))
            return cls(name, rate, float(first), float(second), True, float(eps), False, decay, decoupled)
        if name == "rmsprop" and not settings.get("momentum"):
            return cls(name, rate, 0.0, float(settings.get("alpha", 0.99)), eps=float(eps), decay=decay)
        return None

    def __str__(self) -> str:
        extra = [f"momentum {self.first:g}"] if self.first and self.second is None else []
        extra += [f"weight decay {self.decay:g}"] if self.decay else []
        return f"{self.name} at {self.rate:g}" + (f" with {' and '.join(extra)}" if extra else "")

    @property
    def remembers(self) -> bool:
        """Whether a step depends on the gradients before it."""
        return self.first > 0 or self.second is not None

    def pulled(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """The gradient, with the decay that is added to it."""
        return gradient if self.decoupled or not self.decay else gradient + self.decay * weight


@dataclass(frozen=True, eq=False)
class Moments:
    """A weight and the two means that its optimizer keeps of its gradient, after some steps."""

    weight: Tensor
    mean: Tensor
    square: Tensor
    steps: int

    @classmethod
    def fresh(cls, weight: Tensor) -> Moments:
        """Before the first step."""
        return cls(weight.clone(), torch.zeros_like(weight), torch.zeros_like(weight), 0)

    def after(self, update: Update, gradient: Tensor, slope: Tensor, steps: int) -> Moments:
        """After `steps` more, of which the first has this gradient and each one after it `slope` more.

        A single step is exact. Over more of them the means are, and the step divided by them is linear in time within
        each of a few blocks.

        Example:
            >>> adam = Update.of("adam", 0.1, {})
            >>> one, still = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
            >>> Moments.fresh(one).after(adam, one, still, 5).weight  # a constant gradient: five steps of the rate
            tensor([0.5000], dtype=torch.float64)
        """
        now, done = self, 0
        for n in _blocks(steps):
            now = now._block(update, gradient + (done - 1) * slope, slope, n)
            done += n
        return now

    def _block(self, update: Update, start: Tensor, slope: Tensor, n: int) -> Moments:
        """After n steps with the gradients start + k slope, k = 1..n."""
        end = start + n * slope
        kept, (a, b, _) = _decayed(update.first, n)
        mean = kept * self.mean + a * start + b * slope
        square = self.square
        if update.second is not None:
            kept, (a, b, c) = _decayed(update.second, n)
            square = kept * square + a * start**2 + 2 * b * start * slope + c * slope**2
        last = Moments(self.weight, mean, square, self.steps + n)._step(update, end)
        moved = n * last
        if n > 1 and self.steps:
            first = self._step(update, start)
            moved = n * (last + first) / 2 + (last - first) / 2  # the sum of a line from behind `first` to `last`
        shrunk = (1 - update.rate * update.decay) ** n if update.decoupled else 1.0
        return Moments(shrunk * self.weight - update.rate * moved, mean, square, self.steps + n)

    def _step(self, update: Update, gradient: Tensor) -> Tensor:
        """What the rate is multiplied by, the last gradient being this one."""
        mean, square = self.mean, self.square
        if update.second is None:
            buffer = mean / (1 - update.first)
            return gradient + update.first * buffer if update.nesterov else buffer
        if update.unbiased:
            mean, square = mean / (1 - update.first**self.steps), square / (1 - update.second**self.steps)
        return mean / (square.clamp_min(0.0).sqrt() + update.eps)


def _blocks(steps: int) -> list[int]:
    """Lengths of a few blocks; the very first step of a run must stand alone, and does: a look begins with one step."""
    count = min(_BLOCKS, steps)
    return [steps // count + (i < steps % count) for i in range(count)]


def _decayed(beta: float, n: int) -> tuple[float, tuple[float, float, float]]:
    """What is left of a mean after n steps, and the weights in it of 1, k and k^2 at each step k = 1..n."""
    k = np.arange(1, n + 1, dtype=np.float64)
    weights = (1 - beta) * beta ** (n - k)
    return beta**n, (float(weights.sum()), float((weights * k).sum()), float((weights * k * k).sum()))
