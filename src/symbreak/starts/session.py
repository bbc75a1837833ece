"""Run the user's model without leaving a trace: borrowed, in float64 where it allows that, else in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from symbreak.errors import SymbreakError
from symbreak.probe.borrow import Borrowed, borrow
from symbreak.probe.look import precisions, unwrap
from symbreak.probe.observe import Observer
from symbreak.probe.passes import UsersCodeError
from symbreak.probe.task import Draw, Outcome, Task, explain_forward_error

Answer = TypeVar("Answer")
Watch = Callable[["Session"], Observer]


class Session:
    """A borrowed model and what to ask of it. Every random number in a pass comes from `seed` and the step."""

    def __init__(self, held: Borrowed, task: Task, seed: int) -> None:
        self.held, self.task, self.seed = held, task, seed

    @property
    def model(self) -> nn.Module:
        return self.held.model

    def observer(self) -> Observer:
        """Watches nothing; dropout is off, and inner casts are lifted to the working precision."""
        observer = Observer(self.model, self.held.dtype, step=1, measure=False)
        observer.forward_is_over()
        return observer

    def run(self, observer: Observer | None = None, *, step: int = 1, draw: Draw | None = None) -> Outcome:
        """One forward pass, and the loss where there is one."""
        draw = self.task.draw(step, self.held.dtype) if draw is None else draw
        self.held.seed(self.seed * 1_000_003 + step)
        try:
            with self.held.users_device(), observer or self.observer():
                return self.task.run(draw, self.seed * 1_000_003 + step)
        except SymbreakError:
            raise
        except Exception as error:
            raise UsersCodeError(error) from error


def within(
    model: nn.Module,
    batch: Any,
    loss: Callable[..., Tensor] | None,
    ask: Callable[[Session], Answer],
    *,
    seed: int = 0,
    only: torch.dtype | None = None,
) -> Answer:
    """What `ask` answers on the borrowed model, which is itself again afterwards.

    Raises:
        SymbreakError: a mistake in what was given, or the user's code raised; the message names the module.
    """
    inner = unwrap(model)
    failure: Exception | None = None
    for dtype in (only,) if only is not None else precisions(inner):
        try:
            with borrow(inner, [loss] if loss is not None else [], dtype) as held:
                return ask(Session(held, Task(inner, batch, loss, None, seed=seed), seed))
        except UsersCodeError as error:  # in float32 it may run
            failure = error.cause
    assert failure is not None
    raise explain_forward_error(failure, inner) from failure
