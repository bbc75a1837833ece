"""Losses and metrics of many models at once. Index letters: m models, n samples, o outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from symbreak import factories
from symbreak.errors import DataError, nearest
from symbreak.nets import LOSSES
from symbreak.nets.losses import like
from symbreak.races.errors import RaceError
from symbreak.races.samples import Samples

WRITTEN_OUT = ("ce", "mse", "bce")
METRICS = ("accuracy", "r2")


@dataclass(frozen=True)
class Score:
    """What is minimised, and what is watched.

    Example:
        >>> score = Score("ce", LOSSES["ce"], "accuracy", None)
        >>> score.losses(torch.zeros(3, 5, 2), torch.zeros(5, dtype=torch.long))
        tensor([0.6931, 0.6931, 0.6931])

    Source: `symbreak.nets.LOSSES`.
    """

    loss: str
    function: Callable[..., Tensor]
    metric: str
    measure: Callable[..., Any] | None
    by_objective: bool = False  # the model's own objective(model, batch) is minimised, not a loss of its output

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Loss of every model [m] from outputs [m, n, ...]."""
        if self.loss == "ce" and outputs.ndim == 3 and y.ndim == 1:
            expected = y.long().expand(len(outputs), -1)
            return F.cross_entropy(outputs.transpose(1, 2), expected, reduction="none").mean(dim=1)
        if self.loss in ("mse", "bce"):
            target = like(y, outputs[0]).expand_as(outputs)
            each = F.mse_loss if self.loss == "mse" else F.binary_cross_entropy_with_logits
            return each(outputs, target, reduction="none").flatten(1).mean(dim=1)
        return torch.stack([self.function(one, y) for one in outputs])

    def metrics(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Metric of every model [m]."""
        if self.measure is not None:
            return torch.tensor([self._measured(one, y) for one in outputs])
        if self.metric == "accuracy":
            # Not argmax: where the outputs are no last axis in memory it took five times as long.
            guess = outputs.max(dim=-1).indices if outputs.shape[-1] > 1 else (outputs[..., 0] > 0).long()
            return (guess == y).float().flatten(1).mean(dim=1)
        target = like(y, outputs[0])
        left = (outputs - target).square().flatten(1).mean(dim=1)
        return 1 - left / target.var(correction=0).clamp_min(1e-30)

    def _measured(self, output: Tensor, y: Tensor) -> float:
        assert self.measure is not None
        try:
            return float(self.measure(output, y))
        except Exception as err:  # the user's code may raise anything; it becomes the cause
            raise RaceError(
                f"metric {self.metric} raised {factories.described(err)} on an output of shape {tuple(output.shape)}; "
                "expected metric(output, target) -> a number."
            ) from err


def score_by(objective: Callable[..., Tensor], metric: Any) -> Score:
    """An objective(model, batch), and a metric only where one is asked for: what the model gives back is not known.

    Raises:
        RaceError: a metric that is none.
    Example:
        >>> score_by(torch.mean, None).metric
        'none'

    Source: `symbreak check` takes the same objectives.
    """
    name = f"objective {getattr(objective, '__qualname__', type(objective).__name__)}"
    if metric is None:
        return Score(name, _unused, "none", None, by_objective=True)
    watched, measure = _metric(metric)
    return Score(name, _unused, watched, measure, by_objective=True)


def _unused(*_: Tensor) -> Tensor:
    raise AssertionError("an objective is minimised, not a loss of the output")


def score_for(samples: Samples, loss: Any, metric: Any, *, kind: str | None) -> Score:
    """The loss and the metric by name or as given; without, those the data asks for.

    Args:
        samples: what is predicted.
        loss: a name of `symbreak.nets.LOSSES`, or loss(output, target) -> scalar tensor.
        metric: accuracy, r2, or metric(output, target) -> number.
        kind: of the built-in model, or None.
    Raises:
        RaceError: an unknown name, or neither given nor to be told from the data.
        DataError: classes are needed, and the data has a quantity.
    Example:
        >>> from symbreak.races.samples import read
        >>> score_for(read("iris"), None, None, kind="mlp").loss
        'ce'

    Source: as `symbreak check` chooses.
    """
    name, function = _loss(samples, loss, kind)
    if metric is None:
        metric = "accuracy" if samples.task == "classification" else "r2"
    return Score(name, function, *_metric(metric))


def _metric(given: Any) -> tuple[str, Callable[..., Any] | None]:
    if isinstance(given, str):
        if given not in METRICS:
            raise RaceError(f"no metric is called {given!r}. {nearest(given, METRICS)} Or metric(output, target).")
        return given, None
    if not callable(given):
        raise RaceError(f"metric={given!r}: expected accuracy, r2 or metric(output, target).")
    return getattr(given, "__qualname__", repr(given)), given


def _loss(samples: Samples, loss: Any, kind: str | None) -> tuple[str, Callable[..., Tensor]]:
    if loss is None:
        loss = _usual(samples, kind)
    if callable(loss):
        return getattr(loss, "__qualname__", repr(loss)), loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise RaceError(f"no loss is called {loss!r}. {nearest(str(loss), LOSSES)} Or loss(output, target).")
    if samples.task == "regression" and loss in ("ce", "cross_entropy", "bce", "nll", "perceptron"):
        raise DataError(f"loss {loss!r} needs classes, but {samples.name} has a quantity to predict. Take mse.")
    name = "ce" if loss == "cross_entropy" else loss
    return name, LOSSES[name]


def _usual(samples: Samples, kind: str | None) -> str:
    if samples.task is None and samples.y.ndim > 1 and samples.y.is_floating_point():
        return "mse"
    if samples.task is None:
        raise RaceError(f"{samples.name}: the targets do not say what the loss is. Pass loss=.")
    if kind in ("logistic", "perceptron") and samples.task == "regression":
        raise DataError(f"{kind} needs classes, but {samples.name} has a quantity to predict. Take linear or mlp.")
    if kind == "perceptron":
        return "perceptron"
    if samples.task == "regression" or kind == "linear":
        return "mse"
    return "bce" if kind == "logistic" and samples.n_classes == 2 else "ce"


def chance(samples: Samples, score: Score) -> float | None:
    """Loss of the best output that ignores the input, or None where it is not written out.

    Example:
        >>> from symbreak.races.samples import read
        >>> data = read("xor")
        >>> round(chance(data, score_for(data, None, None, kind="mlp")), 4)
        0.6931

    Source: entropy of the class shares; variance of the target.
    """
    y = samples.y
    if score.by_objective:
        return None
    if score.loss in ("ce", "bce") and samples.task == "classification":
        shares = torch.bincount(y.long()).double() / len(y)
        if score.loss == "bce" and samples.n_classes > 2:
            return float((-shares * shares.log() - (1 - shares) * (-shares).log1p()).mean())
        shares = shares[shares > 0]
        return float(-(shares * shares.log()).sum())
    if score.loss == "mse":
        target = F.one_hot(y.long()).double() if samples.n_classes > 2 else y.double()
        return float(target.var(dim=0, correction=0).mean())
    return None


__all__ = ["METRICS", "WRITTEN_OUT", "Score", "chance", "score_for"]
