"""Many copies of any module: torch.func's vmap over stacked parameters and buffers, or one by one where it cannot.

The module itself is never trained nor copied: its code runs on tensors that are handed to it (`functional_call`).

Index letters: m models, n samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from symbreak import factories
from symbreak.errors import ForwardError, SymbreakError
from symbreak.races.brought import ONE_AT_A_TIME, Brought, Minimised, in_mode
from symbreak.races.compiled import Step, Stepper, agree
from symbreak.races.scores import Score
from symbreak.races.subjects import State

MEASURING = 2**31  # added to the seed where paths are measured: an objective that draws its data draws the same then


class Code:
    """What runs on the tensors that are handed to it: a module, with the loss of its output or its own objective.

    Args:
        brought: the module, and its objective where it has one.
        score: the loss, where there is no objective.
    """

    def __init__(self, brought: Brought, score: Score) -> None:
        self.module, self.score = brought.model, score
        self.minimised = Minimised(brought.model, brought.objective) if brought.objective is not None else None
        self.step = self._step()

    def _step(self) -> Step:
        """The gradients of all models at once."""

        def step(learned: State, fixed: State, x: Any, y: Tensor | None) -> tuple[State, State]:
            def loss(own: State, buffers: State) -> tuple[Tensor, State]:
                return self.loss(own, buffers, x, y), buffers

            slopes, (_, left) = vmap(grad_and_value(loss, has_aux=True), randomness="same")(learned, fixed)
            return slopes, left

        return step

    def mode(self, *, train: bool) -> contextlib.AbstractContextManager[None]:
        """Training or evaluation mode for a while."""
        return in_mode(self.module, train=train)

    def loss(self, learned: State, fixed: State, x: Any, y: Tensor | None) -> Tensor:
        """Of one model, a scalar.

        Raises:
            ForwardError: an objective that is none.
        """
        if self.minimised is None:
            assert y is not None
            return self.score.function(self.output(learned, fixed, x), y)
        tensors = {f"model.{name}": one for name, one in (*learned.items(), *fixed.items())}
        found: Any = functional_call(self.minimised, tensors, (x if y is None else (x, y),))
        if not isinstance(found, Tensor) or found.numel() != 1:
            shown = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ForwardError(f"{self.score.loss} returned {shown}; expected one number.")
        return found.reshape(())

    def output(self, learned: State, fixed: State, x: Tensor) -> Tensor:
        """Of one model.

        Raises:
            ForwardError: it is no tensor.
        """
        output: Any = functional_call(self.module, {**learned, **fixed}, (x,))
        if not isinstance(output, Tensor):
            raise ForwardError(
                f"{type(self.module).__name__} returned {type(output).__name__}; a race needs one tensor."
            )
        return output


class Models:
    """M sets of parameters and buffers of one module, trained side by side.

    A compiled step takes so many rows and no others: where fewer models are left, copies of the first fill them up.

    Args:
        brought: the module whose code runs, and its objective where it has one.
        states: tensors of each start.
        score: the loss, where there is no objective.
        seed: of dropout and the like; every run draws the same masks.
        batched: by vmap, or one by one.
        stepper: compiles the step where that pays.
        ahead: steps that this process is to make with these models and later ones.
    """

    def __init__(
        self,
        brought: Brought,
        states: Sequence[State],
        score: Score,
        *,
        seed: int,
        batched: bool,
        stepper: Stepper | None = None,
        ahead: int = 0,
    ) -> None:
        self.code, self.seed, self.batched, self.calls, self.ahead = Code(brought, score), seed, batched, 0, ahead
        self.stepper = stepper or Stepper(lambda: self.code, False)
        self.named = {name for name, _ in brought.model.named_parameters()}
        learn = [name for name, one in brought.model.named_parameters() if one.requires_grad]
        self.learned = {name: torch.stack([state[name] for state in states]) for name in learn}
        rest = [name for name in states[0] if name not in self.learned]
        self.fixed = {name: torch.stack([state[name] for state in states]) for name in rest}
        self.n = len(states)

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.learned.values())

    def counts(self) -> Sequence[int | Tensor]:
        """How many weights each number of a parameter stands for."""
        return [1] * len(self.learned)

    def keep(self, rows: Tensor) -> Tensor:
        """Go on with some of the models."""
        self.n = len(rows)
        rows = torch.cat((rows, rows[:1].expand(self.stepper.rows_for(self.n) - self.n)))
        self.learned = {name: one[rows] for name, one in self.learned.items()}
        self.fixed = {name: one[rows] for name, one in self.fixed.items()}
        return rows

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs [m, n, ...] of the module in evaluation mode."""
        return self._measured(lambda learned, fixed: self.code.output(learned, fixed, x))

    def objectives(self, x: Any, y: Tensor | None) -> Tensor:
        """The objective of every model [m], in evaluation mode."""
        return self._measured(lambda learned, fixed: self.code.loss(learned, fixed, x, y))

    def _measured(self, one: Callable[[State, State], Tensor]) -> Tensor:
        with self._running(train=False):
            if self.batched:
                learned, fixed = (
                    {name: t[: self.n] for name, t in some.items()} for some in (self.learned, self.fixed)
                )
                found: Tensor = vmap(one, randomness="same")(learned, fixed)
                return found.detach()
            rows = []
            for r in range(self.n):
                _seeded(self.seed + MEASURING)
                rows.append(one(self._row(self.learned, r), self._row(self.fixed, r)))
            return torch.stack(rows)

    def gradients(self, x: Any, y: Tensor | None) -> list[Tensor]:
        """The gradient of every parameter [m, ...]; buffers (running statistics) move on."""
        self.calls += 1
        if isinstance(self.stepper.code, Code):
            self.code = self.stepper.code
        with self._running(train=True):
            if not self.batched:
                return self._apart(x, y)
            slopes, self.fixed = self.stepper(self.code, self.learned, self.fixed, x, y, left=self.ahead - self.calls)
        return [slopes[name].detach() for name in self.learned]

    def _apart(self, x: Any, y: Tensor | None) -> list[Tensor]:
        found: list[list[Tensor]] = []
        for r in range(self.n):
            _seeded(self.seed + self.calls)
            learned = self._row(self.learned, r)
            with torch.enable_grad():
                loss = self.code.loss(learned, self._row(self.fixed, r), x, y)
                slopes = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
            pairs = zip(learned.values(), slopes, strict=True)
            found.append([torch.zeros_like(p) if g is None else g for p, g in pairs])
        return [torch.stack(column) for column in zip(*found, strict=True)]

    def _row(self, stacked: State, r: int) -> State:
        """One model's tensors, as views: a buffer written in place stays written.

        Parameters are such, for code that asks for them by `get_parameter`; under vmap they cannot be.
        """
        views = {name: one[r].detach() for name, one in stacked.items()}
        return {
            name: nn.Parameter(one, requires_grad=name in self.learned) if name in self.named else one
            for name, one in views.items()
        }

    @contextlib.contextmanager
    def _running(self, *, train: bool) -> Iterator[None]:
        with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]), self.code.mode(train=train):
            _seeded(self.seed + (self.calls if train else MEASURING))
            yield


def _seeded(seed: int) -> None:
    """As torch.manual_seed, of the CPU alone: that one notes a traceback for every other device, in milliseconds."""
    torch.default_generator.manual_seed(seed)


def why_not_batched(make: Callable[[bool], Models], x: Any, y: Tensor | None) -> str | None:
    """Why these models must run one by one, found by trying both ways on one batch; None: vmap gives the same.

    Args:
        make: fresh models, batched or not.
        x, y: a batch.
    Raises:
        ForwardError: the module or the loss raises when run plainly.
    """
    try:
        apart = make(False)
        expected, outputs = apart.gradients(x, y), _seen(apart, x, y)
    except SymbreakError:
        raise
    except Exception as err:  # the user's code may raise anything; it becomes the cause
        name = type(make(False).code.module).__name__
        shape = f" on a batch of shape {tuple(x.shape)}" if isinstance(x, Tensor) else ""
        raise ForwardError(f"{name} or its loss raised {factories.described(err)}{shape}.") from err
    try:
        together = make(True)
        found, seen = together.gradients(x, y), _seen(together, x, y)
    except Exception as err:  # noqa: BLE001 (whatever vmap cannot do; the plain way is known to work)
        return f"vmap refuses it ({type(err).__name__}: {(str(err).splitlines() or [''])[0][:100]})"
    if agree(found, expected, together=True) and agree([seen], [outputs], together=False):
        return None
    return "batched and single gradients differ on the first batch"


def _seen(models: Models, x: Any, y: Tensor | None) -> Tensor:
    return models.outputs(x) if models.code.minimised is None else models.objectives(x, y)


def floats_a_run(brought: Brought, state: State, score: Score, x: Any, y: Tensor | None) -> int:
    """Numbers that one run needs: tensors, gradients, and what autograd keeps for the backward pass."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    one = Models(brought, [state], score, seed=0, batched=False)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        one.gradients(x, y)
    return 2 * sum(tensor.numel() for tensor in state.values()) + 2 * kept
