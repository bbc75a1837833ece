"""One forward and backward pass on borrowed weights: the unit in which a check's work is counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from symbreak.errors import SymbreakError

from .borrow import Borrowed
from .observe import Observer, Seen
from .task import Draw, Outcome, Task


class UsersCodeError(Exception):
    """The user's forward, loss or backward raised `cause`; an error of symbreak's own is never wrapped in this."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextlib.contextmanager
def _users_code() -> Iterator[None]:
    try:
        yield
    except SymbreakError:
        raise
    except Exception as error:
        raise UsersCodeError(error) from error


@dataclass
class Pass:
    """What one pass gave. Gradients are None where the loss has no path to the parameter."""

    gradients: dict[str, Tensor | None]
    seen: Seen
    loss: float | None
    draw: Draw
    roots: tuple[Any, ...]
    end: str | None  # the bounded activation that the output ends in


@dataclass
class Runner:
    """Runs passes of one task on one borrowed model, and counts them."""

    held: Borrowed
    task: Task
    seed: int
    progress: Callable[[int, int | None, str], None] | None = None
    passes: float = 0.0
    what: str = field(default="waking up", repr=False)

    def run(
        self,
        step: int,
        *,
        measure: bool = False,
        varied: bool = False,
        record: bool = True,
        plain: bool = False,
        around: contextlib.AbstractContextManager[Any] | None = None,
        hooked: Callable[[tuple[Any, ...]], None] | None = None,
    ) -> Pass:
        """Forward and backward of step `step`. All random numbers come from (seed, step): a pass can be repeated.

        Args:
            record: note who uses which parameter, and what passes.
            plain: the gradients as training sees them (`Task.run`).
            around: entered around forward, loss and backward, and not around the drawing of the batch.
            hooked: given the nodes that backward starts from, before it does.
        """
        held, task = self.held, self.task
        self._count(1.0)
        draw = task.draw(step, held.dtype, varied=varied)
        observer = Observer(held.model, held.dtype, step=step, measure=measure)
        if not record:
            observer.forward_is_over()
        held.seed(self.seed * 1_000_003 + step)
        _clear(held)
        with _users_code(), held.users_device(), around or contextlib.nullcontext(), observer:
            outcome = task.run(draw, self.seed * 1_000_003 + step, plain=plain)
            observer.forward_is_over()
            roots = (outcome.loss.grad_fn,) if outcome.loss is not None else tuple(o.grad_fn for o in outcome.outputs)
            if hooked is not None:
                hooked(roots)
            outcome.backward()
        gradients = {name: held.params[name].grad for name in held.trainable}
        gradients = {name: None if g is None else _dense(g) for name, g in gradients.items()}
        _clear(held)
        loss = float(outcome.loss.detach()) if outcome.loss is not None else None
        end = next((name for o in outcome.outputs if (name := observer.activation_of(o)) is not None), None)
        return Pass(gradients, observer.seen, loss, draw, roots, end)

    def outputs(self, step: int, *, felt: bool = False) -> tuple[Tensor, ...]:
        """Forward only: every output, or the loss where there is nothing else to look at.

        Args:
            felt: only what training feels: the loss where there is one, else the outputs that carry a gradient.
        """
        outcome = self._forward(self.task.draw(step, self.held.dtype), step, record=False)[0]
        if outcome.loss is not None and (felt or not outcome.outputs):
            return (outcome.loss.detach().reshape(1),)
        return tuple(o.detach() for o in outcome.outputs if o.requires_grad or not felt)

    def watch(self, draw: Draw) -> Seen:
        """Forward only, on a batch of one's own: what went through each layer."""
        return self._forward(draw, 1, record=True)[1]

    def _forward(self, draw: Draw, step: int, *, record: bool) -> tuple[Outcome, Seen]:
        held = self.held
        self._count(1 / 3)
        held.seed(self.seed * 1_000_003 + step)
        observer = Observer(held.model, held.dtype, step=step, measure=False)
        if not record:
            observer.forward_is_over()
        with _users_code(), held.users_device(), observer:
            outcome = self.task.run(draw, self.seed)
        return outcome, observer.seen

    def _count(self, amount: float) -> None:
        self.passes += amount
        if self.progress is not None:
            self.progress(round(self.passes), None, self.what)


def _clear(held: Borrowed) -> None:
    for p in held.params.values():
        p.grad = None


def _dense(gradient: Tensor) -> Tensor:
    return gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
