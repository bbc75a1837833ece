"""What is raced: a built-in model by its spec, or any module, and the tensors that each start gives it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from symbreak import factories, nets
from symbreak.errors import DataError, ModelError, SchemeError, SymbreakError, TargetError
from symbreak.nets import Spec
from symbreak.races.brought import ONE_AT_A_TIME, Brought, bring, seeded
from symbreak.races.grid import AS_BUILT, AUTO, Cell
from symbreak.races.samples import Samples
from symbreak.races.scores import Score
from symbreak.schemes import Fans, Scheme, parse, zeros
from symbreak.starts import start
from symbreak.starts.start import BY_DATA, READS_PLACES

State = dict[str, Tensor]
LOOKS_AT_DATA = frozenset((*BY_DATA, "analytic"))
"""Schemes that run the model before they are done, as `symbreak.init_` does."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to start in many ways.

    Args:
        name: as the user wrote it.
        spec: of a built-in model, else None.
        n_features, n_outputs: of a built-in model.
        factory: text of a factory, a callable without arguments, or a module; None for a built-in model.
        batch, loss: what schemes that look at data see: the training rows that paths are measured on.
    """

    name: str
    spec: Spec | None = None
    n_features: int = 0
    n_outputs: int = 0
    factory: Any = field(default=None, repr=False)
    batch: Any = field(default=None, repr=False)
    loss: Callable[..., Tensor] | None = field(default=None, repr=False)

    def build(self, seed: int = 0, scheme: str = "torch_default") -> nn.Module:
        """The model with its own start, or a built-in model started by a scheme."""
        if self.spec is not None:
            return nets.build(self.spec, self.n_features, self.n_outputs, parse(scheme), seed)
        return self.brought(seed).model

    def brought(self, seed: int = 0) -> Brought:
        """What the factory brings: the model, and its objective where it has one."""
        if self.spec is not None:
            return Brought(self.build(seed))
        return bring(self.factory, self.name, seed)

    def state(self, cell: Cell) -> State:
        """Every parameter and buffer of one start: copies, so that nothing of the user's is trained.

        Raises:
            SchemeError: the scheme does not fit a tensor; the message names scheme, tensor and model.
        """
        if self.spec is not None and cell.scheme == AS_BUILT:
            raise SchemeError(f"{AS_BUILT} is the start of a factory's own model; {self.name} takes torch_default.")
        try:
            state = self._started(cell.scheme, cell.seed)
        except SymbreakError as err:
            raise SchemeError(f"{cell.scheme} cannot start {self.name}: {err}") from err
        if cell.scale != 1.0:
            for tensor in state.values():
                if tensor.ndim > 1 and tensor.is_floating_point():
                    tensor.mul_(cell.scale)
        return state

    def _started(self, scheme: str, seed: int) -> State:
        """As `symbreak.init_` starts it; where that looks at data, at the rows that all runs of the race see."""
        if scheme == AS_BUILT:
            return _tensors(self.build(seed))
        looks = self._looks(scheme)
        if self.spec is not None and not looks:
            return self._drawn(parse(scheme), seed)
        batch, generator = self.batch if looks else None, torch.Generator().manual_seed(seed)
        with ONE_AT_A_TIME, torch.enable_grad():
            model = self.build(seed)
            done = start(model, scheme, batch, generator=generator, loss=self.loss if looks else None)
            state = _tensors(model)
            if model is self.factory:  # the user's own
                done.undo()
        return state

    def _looks(self, scheme: str) -> bool:
        name = scheme if scheme == AUTO else parse(scheme).name
        return name == AUTO or name in LOOKS_AT_DATA or (self.spec is None and name in READS_PLACES)

    def _drawn(self, scheme: Scheme, seed: int) -> State:
        """What `nets.build` draws, without its modules, which cost five times as much as the numbers in them."""
        assert self.spec is not None
        if self.spec.activation == "prelu":
            return _tensors(nets.build(self.spec, self.n_features, self.n_outputs, scheme, seed))
        generator = torch.Generator().manual_seed(seed)
        bias, state = (scheme if scheme.name == "torch_default" else zeros()), {}
        widths = (self.n_features, *self.spec.hidden, self.n_outputs)
        for k, (i, o) in enumerate(itertools.pairwise(widths), start=1):
            state[f"fc{k}.weight"] = scheme.draw((o, i), fans=Fans(i, o), generator=generator)
            state[f"fc{k}.bias"] = bias.draw((o,), fans=Fans(i, o), generator=generator)
        return state

    @property
    def fingerprint(self) -> str:
        """What tells this model from another one: its modules, and its tensors at seed 0."""
        if self.spec is not None:
            return f"{self.spec!r}, {self.n_features} features, {self.n_outputs} outputs"
        model = self.build(0)
        return hashlib.sha256((repr(model) + digest(_tensors(model))).encode()).hexdigest()


def digest(state: State) -> str:
    """SHA-256 of names, shapes and values of floating point tensors.

    Example:
        >>> digest({"w": torch.zeros(2)}) == digest({"w": torch.zeros(2)}) != digest({"w": torch.ones(2)})
        True
    """
    found = hashlib.sha256()
    for name, tensor in state.items():
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        # + 0: minus zero is zero
        found.update((tensor + 0 if tensor.is_floating_point() else tensor).contiguous().cpu().numpy().tobytes())
    return found.hexdigest()


def _tensors(model: nn.Module) -> State:
    return {name: one.detach().clone() for name, one in (*model.named_parameters(), *model.named_buffers())}


@contextlib.contextmanager
def wearing(model: nn.Module, state: State) -> Iterator[None]:
    """The tensors of a start in the module for a while."""
    held: dict[str, Any] = dict((*model.named_parameters(), *model.named_buffers()))
    before = {name: one.detach().clone() for name, one in held.items()}
    try:
        with torch.no_grad():
            for name, one in held.items():
                one.copy_(state[name])
        yield
    finally:
        with torch.no_grad():
            for name, one in held.items():
                one.copy_(before[name])


def textbook(target: Any, spec: Spec, samples: Samples, score: Score) -> Subject:
    """A built-in model, wide enough for the samples.

    Args:
        target: a spec such as "mlp:16-16:tanh".
        samples: for its widths.
        score: its loss says how many outputs there are.
    Raises:
        DataError: samples that are no table.
    Example:
        >>> from symbreak.races.samples import read
        >>> from symbreak.races.scores import score_for
        >>> iris = read("iris")
        >>> textbook("mlp:8", nets.parse_spec("mlp:8"), iris, score_for(iris, None, None, kind="mlp")).n_outputs
        3

    Source: the TARGET grammar, `symbreak race --help`.
    """
    if samples.X.ndim != 2:
        raise DataError(f"{samples.name}: X has shape {tuple(samples.X.shape)}; {target} needs X[samples, features].")
    return Subject(str(target), spec, samples.X.shape[1], _n_outputs(samples, score))


def own(target: Any) -> tuple[Subject, Brought]:
    """A model of the user's, and what its factory brings beside it.

    Args:
        target: file.py:factory, package.module:factory, a callable that builds a module, or a module.
    Raises:
        TargetError: none of these.
        ModelError: a model without trainable parameters.
    Example:
        >>> own(nn.Linear(2, 1))[0].name
        'Linear'

    Source: the TARGET grammar, `symbreak race --help`.
    """
    if isinstance(target, str) and not factories.is_factory(target):
        raise TargetError(
            f"there is no target {target!r}. Expected linear, logistic, perceptron, mlp:64-64:tanh, "
            "file.py:factory or package.module:factory."
        )
    stray = isinstance(target, type) and not issubclass(target, nn.Module)
    if stray or not (isinstance(target, str | nn.Module) or callable(target)):
        raise TargetError(f"target is {target!r}; expected a spec, a torch.nn.Module, or a function that builds one.")
    name = target if isinstance(target, str) else getattr(target, "__qualname__", type(target).__name__)
    subject = Subject(name, factory=target)
    brought = subject.brought(0)
    if not any(parameter.requires_grad for parameter in brought.model.parameters()):
        raise ModelError(f"{name} has no parameter to train.")
    if any(parameter.is_meta for parameter in brought.model.parameters()):
        raise ModelError(f"{name} has parameters on the meta device, which hold no values. Build it on the CPU.")
    return subject, brought


def spec_of(target: Any) -> Spec | None:
    """The spec of a built-in model, or None where the target is something else."""
    if isinstance(target, Spec):
        return target
    known = isinstance(target, str) and target.partition(":")[0] in ("linear", "logistic", "perceptron", "mlp")
    return nets.parse_spec(target) if known else None


def _n_outputs(samples: Samples, score: Score) -> int:
    if samples.task != "classification":
        return 1 if samples.y.ndim == 1 else int(samples.y.shape[1])
    one_column = samples.n_classes == 2 and score.loss in ("bce", "mse", "perceptron", "l1", "huber")
    return 1 if one_column else samples.n_classes


__all__ = ["ONE_AT_A_TIME", "Subject", "digest", "own", "seeded", "spec_of", "textbook", "wearing"]
