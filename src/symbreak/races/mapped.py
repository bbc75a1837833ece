"""Many copies of any module: torch.func's vmap over stacked parameters and buffers, or one by one where it cannot.

The module itself is never trained nor copied: its code runs on tensors that are handed to it (`functional_call`).
The step is not compiled: torch.compile made it 1.6 to 2.8 times as fast, and took 19 to 88 seconds on a busy machine,
which 4,400 steps and more pay for (`python benchmarks/race.py compiled`); a race has some hundred.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from symbreak import factories
from symbreak.errors import ForwardError, SymbreakError
from symbreak.races.brought import ONE_AT_A_TIME, Brought, Minimised
from symbreak.races.scores import Score
from symbreak.races.subjects import State

CLOSE = 1e-3  # of a gradient's size: more than float32 rounding in another order, less than any wrong statistic
MEASURING = (
    2**31
)  # added to the seed where paths are measured: an objective that draws its data draws the same each time


class Models:
    """M sets of parameters and buffers of one module, trained side by side.

    Args:
        brought: the module whose code runs, and its objective where it has one.
        states: tensors of each start.
        score: the loss, where there is no objective.
        seed: of dropout and the like; every run draws the same masks.
        batched: by vmap, or one by one.
    """

    def __init__(self, brought: Brought, states: Sequence[State], score: Score, *, seed: int, batched: bool) -> None:
        self.module, self.score, self.seed, self.batched, self.calls = brought.model, score, seed, batched, 0
        self.minimised = Minimised(brought.model, brought.objective) if brought.objective is not None else None
        learn = [name for name, one in self.module.named_parameters() if one.requires_grad]
        self.learned = {name: torch.stack([state[name] for state in states]) for name in learn}
        rest = [name for name in states[0] if name not in self.learned]
        self.fixed = {name: torch.stack([state[name] for state in states]) for name in rest}

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.learned.values())

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the models."""
        self.learned = {name: one[rows] for name, one in self.learned.items()}
        self.fixed = {name: one[rows] for name, one in self.fixed.items()}

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs [m, n, ...] of the module in evaluation mode."""
        return self._measured(lambda learned, fixed: self._call(learned, fixed, x))

    def objectives(self, x: Any, y: Tensor | None) -> Tensor:
        """The objective of every model [m], in evaluation mode."""
        return self._measured(lambda learned, fixed: self._loss(learned, fixed, x, y))

    def _measured(self, one: Callable[[State, State], Tensor]) -> Tensor:
        with self._running(train=False):
            if self.batched:
                found: Tensor = vmap(one, randomness="same")(self.learned, self.fixed)
                return found.detach()
            rows = []
            for r in self._all():
                torch.manual_seed(self.seed + MEASURING)
                rows.append(one(self._row(self.learned, r), self._row(self.fixed, r)))
            return torch.stack(rows)

    def gradients(self, x: Any, y: Tensor | None) -> list[Tensor]:
        """The gradient of every parameter [m, ...]; buffers (running statistics) move on."""
        self.calls += 1
        with self._running(train=True):
            return self._together(x, y) if self.batched else self._apart(x, y)

    def _together(self, x: Any, y: Tensor | None) -> list[Tensor]:
        def loss(learned: State, fixed: State) -> tuple[Tensor, State]:
            return self._loss(learned, fixed, x, y), fixed

        slopes, (_, self.fixed) = vmap(grad_and_value(loss, has_aux=True), randomness="same")(self.learned, self.fixed)
        return [slopes[name].detach() for name in self.learned]

    def _apart(self, x: Any, y: Tensor | None) -> list[Tensor]:
        found: list[list[Tensor]] = []
        for r in self._all():
            torch.manual_seed(self.seed + self.calls)
            learned = {name: one.requires_grad_() for name, one in self._row(self.learned, r).items()}
            with torch.enable_grad():
                loss = self._loss(learned, self._row(self.fixed, r), x, y)
                slopes = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
            pairs = zip(learned.values(), slopes, strict=True)
            found.append([torch.zeros_like(p) if g is None else g for p, g in pairs])
        return [torch.stack(column) for column in zip(*found, strict=True)]

    def _loss(self, learned: State, fixed: State, x: Any, y: Tensor | None) -> Tensor:
        if self.minimised is None:
            assert y is not None
            return self.score.function(self._call(learned, fixed, x), y)
        tensors = {f"model.{name}": one for name, one in (*learned.items(), *fixed.items())}
        found: Any = functional_call(self.minimised, tensors, (x if y is None else (x, y),))
        if not isinstance(found, Tensor) or found.numel() != 1:
            shown = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ForwardError(f"{self.score.loss} returned {shown}; expected one number.")
        return found.reshape(())

    def _call(self, learned: State, fixed: State, x: Tensor) -> Tensor:
        output: Any = functional_call(self.module, {**learned, **fixed}, (x,))
        if not isinstance(output, Tensor):
            raise ForwardError(
                f"{type(self.module).__name__} returned {type(output).__name__}; a race needs one tensor."
            )
        return output

    def _all(self) -> range:
        return range(len(next(iter(self.learned.values()))))

    @staticmethod
    def _row(stacked: State, r: int) -> State:
        return {
            name: one[r].detach() for name, one in stacked.items()
        }  # views: a buffer written in place stays written

    @contextlib.contextmanager
    def _running(self, *, train: bool) -> Iterator[None]:
        with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + (self.calls if train else MEASURING))
            modes = [(one, one.training) for one in self.module.modules()]
            for one, _ in modes:
                one.training = train
            try:
                yield
            finally:
                for one, mode in modes:
                    one.training = mode


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
        name = type(make(False).module).__name__
        shape = f" on a batch of shape {tuple(x.shape)}" if isinstance(x, Tensor) else ""
        raise ForwardError(f"{name} or its loss raised {factories.described(err)}{shape}.") from err
    try:
        together = make(True)
        found, seen = together.gradients(x, y), _seen(together, x, y)
    except Exception as err:  # noqa: BLE001 (whatever vmap cannot do; the plain way is known to work)
        return f"vmap refuses it ({type(err).__name__}: {(str(err).splitlines() or [''])[0][:100]})"
    size = max(float(one.abs().max()) for one in expected)  # a bias before a norm has a gradient of noise alone
    sizes = [*[size] * len(expected), float(outputs.abs().max())]
    for ours, alone, scale in zip((*found, seen), (*expected, outputs), sizes, strict=True):
        atol = CLOSE * scale if math.isfinite(scale) else 0.0
        if not torch.allclose(ours, alone, rtol=CLOSE, atol=atol, equal_nan=True):
            return "batched and single gradients differ on the first batch"
    return None


def _seen(models: Models, x: Any, y: Tensor | None) -> Tensor:
    return models.outputs(x) if models.minimised is None else models.objectives(x, y)


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
