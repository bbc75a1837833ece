"""A network and a smaller one, on the same batch: where do outputs or gradients differ?

They are compared in float64, at the start and at random points with the same classes: a start of zeros hides much.
Dropout is run as a generic factor an element, which no two units share, so that units behind it are found different.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symbreak.errors import SymbreakError
from symbreak.probe.borrow import borrow, swapped
from symbreak.probe.observe import Observer
from symbreak.probe.task import Task, explain_forward_error

from .attempt import Attempt
from .fold import Fold

TOLERANCE = 1e-8  # relative; a wrong class size is an error of a few percent at least
FLOOR = 1e-6  # outputs below it are compared as if they were of this size: a norm of equal units gives rounding alone
_NOISE = 0.1  # of a tensor's root mean square: how far away the random points are
_NONE = torch.zeros(1, dtype=torch.float64)


class Comparison:
    """The full network's side: what it computes at some points of its weights, each asked once."""

    def __init__(
        self, model: nn.Module, batch: Any, loss: Callable[..., Tensor] | None,
        objective: Callable[..., Tensor] | None, seed: int,
    ) -> None:  # fmt: skip
        self.model, self._batch, self._loss, self._objective, self._seed = model, batch, loss, objective, seed
        self._dropout = model.training
        self._values = {name: p.detach().double() for name, p in model.named_parameters()}
        self._first: _Point | None = (
            None  # random, with the classes of the first attempt, so that all attempts have them
        )

    def difference(self, attempt: Attempt, *, quick: bool = False) -> str | None:
        """None where outputs and gradients agree at the start and at random points with the same classes.

        Args:
            quick: at one random point alone, which is the same for all attempts.
        """
        if self._first is None:
            self._first = self._moved(attempt)
        problem = self._at(self._first, attempt)
        if problem is not None or quick:
            return problem
        return self._at(self._start, attempt) or self._at(self._moved(attempt), attempt)

    @functools.cached_property
    def _start(self) -> _Point:
        return self._point({})

    def _moved(self, attempt: Attempt) -> _Point:
        """Every entry of the small network moved by a random part of its tensor's size."""
        generator = torch.Generator().manual_seed(self._seed + 1)
        moves = {}
        for name, value in self._values.items():
            start = attempt.starts.get(name, value)
            size = float(start.square().mean().sqrt()) if start.numel() else 0.0
            noise = torch.randn(start.shape, generator=generator, dtype=torch.float64).to(start.device)
            move = noise * _NOISE * (size or 1.0)
            moves[name] = attempt.folds[name].spread(move) if name in attempt.folds else move
        return self._point(moves)

    def _point(self, moves: Mapping[str, Tensor]) -> _Point:
        values = {name: v + moves[name] if name in moves else v for name, v in self._values.items()}
        found = self._run(self.model, values)
        if isinstance(found, Exception):
            raise explain_forward_error(found, self.model) from found
        return _Point(moves, found)

    def _at(self, point: _Point, attempt: Attempt) -> str | None:
        values = {name: attempt.starts.get(name, value) for name, value in self._values.items()}
        for name, move in point.moves.items():
            values[name] = values[name] + (attempt.folds[name].first(move) if name in attempt.folds else move)
        found = self._run(attempt.small, values)
        if isinstance(found, Exception):
            text = str(found).strip().split("\n")[0]
            return f"with fewer units the forward raises {type(found).__name__}: {text[:120]}"
        return _compare(point.found, found, attempt.folds)

    def _run(self, model: nn.Module, values: Mapping[str, Tensor]) -> _Found | Exception:
        """Outputs, loss and gradients with these weights, or what the model's code raised."""
        with borrow(model, (self._loss, self._objective), torch.float64) as held:
            task = Task(held.model, self._batch, self._loss, self._objective, seed=self._seed)
            draw = task.draw(1, held.dtype)
            watcher = (_Generic if self._dropout else Observer)(held.model, held.dtype, step=1, measure=False)
            watcher.forward_is_over()  # nothing is recorded; inner float32 casts are lifted
            held.seed(self._seed)
            try:
                with swapped([(held.params[n], v) for n, v in values.items()]), held.users_device(), watcher:
                    outcome = task.run(draw, self._seed)
                    outcome.backward()
                    gradients = {name: held.params[name].grad for name in held.trainable}
            except SymbreakError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the user's code raises is told by the caller
                return error
            outputs = outcome.outputs if outcome.loss is None else (*outcome.outputs, outcome.loss)
            return _Found(
                tuple(o.detach() for o in outputs),
                {n: None if g is None else g.detach().to_dense() for n, g in gradients.items()},
            )


class _Generic(Observer):
    """Dropout as a random factor near one for every element: units behind it are no more alike than behind dropout."""

    def _without_dropout(self, args: Any, kwargs: Any) -> Any:
        x = args[0] if args else kwargs["input"]
        p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
        training = args[2] if len(args) > 2 else kwargs.get("training", True)
        return x * (1 + 0.1 * torch.randn(x.shape, dtype=x.dtype, device=x.device)) if p and training else x


@dataclass(frozen=True, eq=False)
class _Found:
    outputs: tuple[Tensor, ...]
    gradients: Mapping[str, Tensor | None]


@dataclass(frozen=True, eq=False)
class _Point:
    """A point of the full network's weights: how far from the start, and what the full network computes there."""

    moves: Mapping[str, Tensor]
    found: _Found


def _compare(full: _Found, small: _Found, folds: Mapping[str, Fold]) -> str | None:
    if [o.shape for o in full.outputs] != [o.shape for o in small.outputs]:
        return "with fewer units its output has another shape"
    if not all(
        _close(one, other, max(_largest(one), FLOOR)) for one, other in zip(full.outputs, small.outputs, strict=True)
    ):
        return "with fewer units it computes something else"
    largest = max((_largest(g) for g in full.gradients.values() if g is not None), default=0.0)
    for name, g in full.gradients.items():
        other = small.gradients.get(name)
        if other is not None and name in folds:
            other = folds[name].spread(other)
        one, two = (_NONE if t is None else t for t in (g, other))
        if not _close(one, two, max(_largest(one), 1e-4 * largest)):
            return f"the gradient of {name} is not that of equal units"
    return None


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _close(one: Tensor, other: Tensor, scale: float) -> bool:
    if one.shape != other.shape and 1 not in (one.numel(), other.numel()):
        return False
    return not one.numel() or bool(((one - other.to(one)).abs() <= TOLERANCE * scale + 1e-300).all())
