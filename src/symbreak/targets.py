"""What is checked: the four textbook models, or whatever a factory of the user's builds."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from symbreak import data as tables
from symbreak import factories
from symbreak.errors import DataError, TargetError, nearest
from symbreak.schemes import parse

if TYPE_CHECKING:
    from torch import nn

    from symbreak.data import Data, Source
    from symbreak.nets import Spec

GRAMMAR = "linear, logistic, perceptron, mlp:64-64:tanh, file.py:factory or package.module:factory"
WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
USUAL_DATA = {"linear": "diabetes", "logistic": "digits", "perceptron": "digits", "mlp": "digits"}
ONE_COLUMN_A_CLASS = ("ce", "cross_entropy", "nll")
CLASSES_ONLY = (*ONE_COLUMN_A_CLASS, "bce", "perceptron")


@dataclass(frozen=True, eq=False)
class Job:
    """Everything `symbreak.check` is called with, and how to call it in a sentence."""

    model: nn.Module
    batch: Any
    loss: Callable[..., Any] | None
    objective: Callable[..., Any] | None
    name: str
    note: str = ""


def build(
    target: str, *, data: str | None = None, loss: str | None = None, init: str | None = None, seed: int = 0
) -> Job:
    """Build the job a TARGET names.

    Args:
        target: linear, logistic, perceptron, mlp:64-64:tanh, file.py:factory or package.module:factory.
        data: a DATA argument; a built-in model without one takes digits (linear: diabetes).
        loss: mse, ce, bce, l1, huber, nll or file.py:callable; by default what the data asks for.
        init: scheme of a built-in model.
        seed: of the weights, and of the random state a factory sees; the caller's own random state is put back.
    Example:
        >>> build("mlp:8:tanh", data="xor", init="zeros").name
        'mlp:8:tanh, init zeros, on xor'

    Source: the TARGET grammar, `symbreak check --help`.
    """
    kind = target.partition(":")[0]
    if kind in USUAL_DATA:
        return _textbook(target, data or USUAL_DATA[kind], loss, init or "torch_default", seed)
    if init is not None:
        raise TargetError(f"--init starts the built-in models ({', '.join(USUAL_DATA)}); {target} starts itself.")
    if Path(target).suffix.lower() in WEIGHTS:
        raise TargetError(
            f"{target}: a file of weights cannot be checked yet. "
            "Write a factory that builds the model and loads it, and pass file.py:factory."
        )
    if target.endswith(".py"):
        raise TargetError(f"{target!r} needs the name of a factory. {factories.which(Path(target))}")
    if not factories.is_factory(target):
        raise TargetError(f"there is no target {target!r}. {nearest(target, USUAL_DATA)} Expected {GRAMMAR}.")
    return _made(target, data, loss, seed)


# The textbook ----------------------------------------------------------------------------------------------------


def _textbook(target: str, data: str, loss: str | None, init: str, seed: int) -> Job:
    from symbreak import nets

    spec, scheme = nets.parse_spec(target), parse(init)
    table = tables.as_table(tables.load(data))
    loss_name = _textbook_loss(spec, table, loss)
    model = nets.build(spec, table.n_features, _n_outputs(table, loss_name), scheme, seed)
    name = f"{target}, init {scheme!r}, on {table.name}"
    return Job(model, table, _loss(loss_name), None, name, _about(table))


def _textbook_loss(spec: Spec, table: Data, loss: str | None) -> str:
    if spec.kind == "perceptron" and loss is not None:
        raise TargetError(f"perceptron has its own loss, {loss!r} is not used. Leave --loss out, or take logistic.")
    if table.task == "regression" and (spec.kind in ("logistic", "perceptron") or loss in CLASSES_ONLY):
        who = f"loss {loss!r}" if loss in CLASSES_ONLY else spec.kind
        raise DataError(f"{who} needs classes, but {table.name} has a quantity to predict. Take linear or mlp and mse.")
    if loss is not None:
        return loss
    if spec.kind == "perceptron":
        return "perceptron"
    if spec.kind == "linear" or table.task == "regression":
        return "mse"
    return "bce" if spec.kind == "logistic" and table.n_classes == 2 else "ce"


def _n_outputs(table: Data, loss: str) -> int:
    if table.task == "regression":
        return int(table.y.shape[1]) if table.y.ndim == 2 else 1
    one_column = table.n_classes == 2 and loss not in ONE_COLUMN_A_CLASS and ":" not in loss
    return 1 if one_column else table.n_classes


def _about(table: Data) -> str:
    goal = f"{table.n_classes} classes" if table.task == "classification" else "a quantity to predict"
    size = f"{table.name}: {len(table.X)} samples, {table.n_features} features, {goal}"
    return f"{size}; {table.note}" if table.note else size


# The user's own --------------------------------------------------------------------------------------------------


def _made(target: str, data: str | None, loss: str | None, seed: int) -> Job:
    model, batch, objective = _unpacked(_called(target, seed), target)
    with _seeded(seed):
        source = tables.load(data) if data is not None else None
    chosen = _loss(loss) if loss is not None else None
    if objective is not None and chosen is not None:
        raise TargetError(f"{target} brings its own objective, so --loss {loss} has no place. Leave one of them out.")
    if source is None:
        return Job(model, batch, chosen, objective, target)
    if objective is None and chosen is None:
        chosen = _loss_for(source)
    note = _about(source) if isinstance(source, tables.Data) and source.X.ndim == 2 else ""
    return Job(model, source, chosen, objective, f"{target}, on {source.name}", note)


def _called(target: str, seed: int) -> Any:
    from torch import nn

    with _seeded(seed):
        found = factories.load(target, TargetError)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise TargetError(f"{target} is {_kind(found)}; expected a factory, or a torch.nn.Module itself.")
    with _seeded(seed):  # anew, because an import happens only once and may draw
        return factories.call(found, target, TargetError)


def _unpacked(made: Any, target: str) -> tuple[nn.Module, Any, Callable[..., Any] | None]:
    from torch import nn

    parts = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(parts) <= 3:
        raise TargetError(
            f"{target} returned a tuple of {len(parts)}; expected model, (model, batch) or (model, batch, objective)."
        )
    model, batch, objective = (*parts, None, None)[:3]
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TargetError(f"{target} returned the class {model.__name__}; expected an instance: {model.__name__}().")
    if not isinstance(model, nn.Module):
        hint = " Is a return missing?" if model is None else ""
        raise TargetError(f"{target} returned {_kind(model)}; expected a torch.nn.Module.{hint}")
    if objective is not None and not callable(objective):
        raise TargetError(f"{target} returned {_kind(objective)} as objective; expected objective(model, batch).")
    return model, batch, objective


def _kind(thing: Any) -> str:
    return "None" if thing is None else f"a value of type {type(thing).__name__}"


def _loss_for(source: Source) -> Callable[..., Any] | None:
    names = {"classification": "ce", "regression": "mse"}
    return _loss(names[source.task]) if source.task is not None else None


def _loss(text: str) -> Callable[..., Any]:
    from symbreak.nets import LOSSES

    if text in LOSSES:
        return LOSSES[text]
    if not factories.is_factory(text):
        raise TargetError(f"no loss is called {text!r}. {nearest(text, LOSSES)} Or file.py:callable.")
    found = factories.load(text, TargetError)
    if not callable(found):
        raise TargetError(f"{text} is {_kind(found)}; expected a callable loss(output, target).")
    loss: Callable[..., Any] = found
    return loss


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The user's factory draws from the global random states: set them, and put them back."""
    import torch

    plain, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(legacy)
