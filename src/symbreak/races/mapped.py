"""Many copies of any module: torch.func's vmap over stacked parameters and buffers, or one by one where it cannot.

The module itself is never trained nor copied: its code runs on tensors that are handed to it (`functional_call`).
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
from symbreak.races.scores import Score
from symbreak.races.subjects import ONE_AT_A_TIME, State

CLOSE = 1e-3  # of a gradient's size: more than float32 rounding in another order, less than any wrong statistic


class Models:
    """M sets of parameters and buffers of one module, trained side by side.

    Args:
        module: whose code runs.
        states: tensors of each start.
        score: the loss.
        seed: of dropout and the like; every run draws the same masks.
        batched: by vmap, or one by one.
    """

    def __init__(self, module: nn.Module, states: Sequence[State], score: Score, *, seed: int, batched: bool) -> None:
        self.module, self.score, self.seed, self.batched, self.calls = module, score, seed, batched, 0
        learn = [name for name, one in module.named_parameters() if one.requires_grad]
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
        with self._running(train=False):
            if self.batched:
                call = vmap(lambda p, f: self._call(p, f, x), randomness="same")
                found: Tensor = call(self.learned, self.fixed)
                return found.detach()
            return torch.stack(
                [self._call(self._row(self.learned, r), self._row(self.fixed, r), x) for r in self._all()]
            )

    def gradients(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """The gradient of every parameter [m, ...]; buffers (running statistics) move on."""
        self.calls += 1
        with self._running(train=True):
            return self._together(x, y) if self.batched else self._apart(x, y)

    def _together(self, x: Tensor, y: Tensor) -> list[Tensor]:
        def loss(learned: State, fixed: State) -> tuple[Tensor, State]:
            return self.score.function(self._call(learned, fixed, x), y), fixed

        slopes, (_, self.fixed) = vmap(grad_and_value(loss, has_aux=True), randomness="same")(self.learned, self.fixed)
        return [slopes[name].detach() for name in self.learned]

    def _apart(self, x: Tensor, y: Tensor) -> list[Tensor]:
        found: list[list[Tensor]] = []
        for r in self._all():
            torch.manual_seed(self.seed + self.calls)
            learned = {name: one.requires_grad_() for name, one in self._row(self.learned, r).items()}
            with torch.enable_grad():
                loss = self.score.function(self._call(learned, self._row(self.fixed, r), x), y)
                slopes = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
            pairs = zip(learned.values(), slopes, strict=True)
            found.append([torch.zeros_like(p) if g is None else g for p, g in pairs])
        return [torch.stack(column) for column in zip(*found, strict=True)]

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
            torch.manual_seed(self.seed + self.calls)
            modes = [(one, one.training) for one in self.module.modules()]
            for one, _ in modes:
                one.training = train
            try:
                yield
            finally:
                for one, mode in modes:
                    one.training = mode


def why_not_batched(make: Callable[[bool], Models], x: Tensor, y: Tensor) -> str | None:
    """Why these models must run one by one, found by trying both ways on one batch; None: vmap gives the same.

    Args:
        make: fresh models, batched or not.
        x, y: a batch.
    Raises:
        ForwardError: the module or the loss raises when run plainly.
    """
    try:
        apart = make(False)
        expected, outputs = apart.gradients(x, y), apart.outputs(x)
    except SymbreakError:
        raise
    except Exception as err:  # the user's code may raise anything; it becomes the cause
        name = type(make(False).module).__name__
        raise ForwardError(
            f"{name} or its loss raised {factories.described(err)} on a batch of shape {tuple(x.shape)}."
        ) from err
    try:
        together = make(True)
        found, seen = together.gradients(x, y), together.outputs(x)
    except Exception as err:  # noqa: BLE001 (whatever vmap cannot do; the plain way is known to work)
        return f"vmap refuses it ({type(err).__name__}: {(str(err).splitlines() or [''])[0][:100]})"
    size = max(float(one.abs().max()) for one in expected)  # a bias before a norm has a gradient of noise alone
    sizes = [*[size] * len(expected), float(outputs.abs().max())]
    for ours, alone, scale in zip((*found, seen), (*expected, outputs), sizes, strict=True):
        if not torch.allclose(ours, alone, rtol=CLOSE, atol=CLOSE * scale, equal_nan=True):
            return "batched and single gradients differ on the first batch"
    return None


def floats_a_run(module: nn.Module, state: State, score: Score, x: Tensor, y: Tensor) -> int:
    """Numbers that one run needs: tensors, gradients, and what autograd keeps for the backward pass."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    one = Models(module, [state], score, seed=0, batched=False)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        one.gradients(x, y)
    return 2 * sum(tensor.numel() for tensor in state.values()) + 2 * kept
