"""What is raced: a built-in model by its spec, or any module, and the tensors that each start gives it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from symbreak import factories, nets
from symbreak.errors import DataError, ModelError, SchemeError, TargetError
from symbreak.nets import Spec
from symbreak.races.grid import AS_BUILT, Cell
from symbreak.races.samples import Samples
from symbreak.races.scores import Score
from symbreak.schemes import Fans, Scheme, parse, zeros
from symbreak.schemes.places import places_of

State = dict[str, Tensor]
ONE_AT_A_TIME = threading.RLock()
"""Held by whoever sets the global random state or a module's mode: chunks may run in threads."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to start in many ways.

    Args:
        name: as the user wrote it.
        spec: of a built-in model, else None.
        n_features, n_outputs: of a built-in model.
        factory: text of a factory, a callable without arguments, or a module; None for a built-in model.
    """

    name: str
    spec: Spec | None = None
    n_features: int = 0
    n_outputs: int = 0
    factory: Any = field(default=None, repr=False)

    def build(self, seed: int = 0, scheme: str = "torch_default") -> nn.Module:
        """The model with its own start, or a built-in model started by a scheme."""
        if self.spec is not None:
            return nets.build(self.spec, self.n_features, self.n_outputs, parse(scheme), seed)
        if isinstance(self.factory, nn.Module):
            return self.factory
        with seeded(seed):
            found = self.factory
            if isinstance(found, str):
                found = factories.load(found, TargetError)
                if isinstance(found, nn.Module):
                    return found
            made = factories.call(found, self.name, TargetError)
        made = made[0] if isinstance(made, tuple) and made else made
        if not isinstance(made, nn.Module):
            raise TargetError(f"{self.name} returned {type(made).__name__}; expected a torch.nn.Module.")
        return made

    def state(self, cell: Cell) -> State:
        """Every parameter and buffer of one start: copies, so that nothing of the user's is trained.

        Raises:
            SchemeError: the scheme does not fit a tensor; the message names scheme, tensor and model.
        """
        if self.spec is not None and cell.scheme == AS_BUILT:
            raise SchemeError(f"{AS_BUILT} is the start of a factory's own model; {self.name} takes torch_default.")
        if self.spec is not None:
            try:
                state = self._drawn(parse(cell.scheme), cell.seed)
            except SchemeError as err:
                raise SchemeError(f"{cell.scheme} cannot start {self.name}: {err}") from err
        else:
            model = self.build(cell.seed)
            state = _tensors(model)
            if cell.scheme != AS_BUILT:
                self._start(model, state, parse(cell.scheme), cell.seed)
        if cell.scale != 1.0:
            for tensor in state.values():
                if tensor.ndim > 1 and tensor.is_floating_point():
                    tensor.mul_(cell.scale)
        return state

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

    def _start(self, model: nn.Module, state: State, scheme: Scheme, seed: int) -> None:
        """Weights by the scheme, biases zero (torch_default draws them too); gains and the rest stay as built."""
        generator = torch.Generator().manual_seed(seed)
        for name, place in places_of(model).items():
            tensor = state[name]
            if not tensor.is_floating_point():
                continue
            rule = scheme if tensor.ndim > 1 or scheme.name == "torch_default" else zeros()
            if tensor.ndim > 1 or place.is_bias:
                try:
                    rule.fill_(tensor, generator=generator, place=place)
                except SchemeError as err:
                    raise SchemeError(f"{scheme!r} cannot start {name!r} of {self.name}: {err}") from err

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


def subject_of(target: Any, samples: Samples, score: Score) -> Subject:
    """The subject a target names, wide enough for the samples.

    Args:
        target: a spec such as "mlp:16-16:tanh", file.py:factory, a callable that builds a module, or a module.
        samples: for the widths of a built-in model.
        score: its loss says how many outputs there are.
    Raises:
        TargetError: none of these.
        ModelError: a model without trainable parameters.
    Example:
        >>> from symbreak.races.samples import read
        >>> from symbreak.races.scores import score_for
        >>> iris = read("iris")
        >>> subject_of("mlp:8", iris, score_for(iris, None, None, kind="mlp")).n_outputs
        3

    Source: the TARGET grammar, `symbreak race --help`.
    """
    spec = spec_of(target)
    if spec is not None:
        if samples.X.ndim != 2:
            raise DataError(
                f"{samples.name}: X has shape {tuple(samples.X.shape)}; {target} needs X[samples, features]."
            )
        return Subject(str(target), spec, samples.X.shape[1], _n_outputs(samples, score))
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
    model = subject.build(0)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"{name} has no parameter to train.")
    if isinstance(target, nn.Module) and any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError(f"{name} has parameters on the meta device, which hold no values. Build it on the CPU.")
    return subject


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


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A factory draws from the global random states: set them, and put them back."""
    plain, legacy = random.getstate(), np.random.get_state()
    with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(legacy)


__all__ = ["Subject", "digest", "seeded", "spec_of", "subject_of"]
