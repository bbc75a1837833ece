"""What to feed the model and what to ask of it: batch, loss, objective, or generic stand-ins for them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch import Tensor, nn

from symbreak.errors import BatchError, ForwardError, ModelError, SymbreakError

from .observe import Observer

Loss = Callable[[Any, Any], Tensor]
Objective = Callable[[nn.Module, Any], Tensor]
_REWEIGHT = 0.2  # the spread of the random factors on the loss gradient at each output
_IMAGE_SIZES = {1: (64, 256, 1024), 2: (32, 64, 224), 3: (16, 32)}


@dataclass(frozen=True)
class Draw:
    """One batch, ready to be fed."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any = None
    raw: Any = None


@dataclass(frozen=True)
class Outcome:
    """What one forward pass gave: its outputs, its loss where there is one, and how to run backward."""

    outputs: tuple[Tensor, ...]
    loss: Tensor | None
    backward: Callable[[], None]


class Task:
    """Draws batches and runs forward, loss and backward on them, in whatever precision the model now has."""

    def __init__(
        self, model: nn.Module, batch: Any, loss: Loss | None, objective: Objective | None, *, seed: int = 0
    ) -> None:
        if loss is not None and objective is not None:
            raise BatchError("check() got both loss= and objective=; pass either loss(output, target) or objective.")
        self.model, self.loss, self.objective, self.seed = model, loss, objective, seed
        self._batch = batch
        self._shape: tuple[int, ...] | None = None
        if batch is not None and not hasattr(batch, "draw"):
            _validate(batch, needs_tensor=objective is None)

    @property
    def inferred(self) -> bool:
        """True where symbreak makes up the inputs, so that every draw is fresh."""
        return self._batch is None and self.objective is None

    def draw(self, step: int, dtype: torch.dtype, *, varied: bool = False) -> Draw:
        """The batch of one step. `varied` jitters floats and shuffles integers, so that another sample is seen."""
        batch = self._batch
        if hasattr(batch, "draw"):
            batch = self._drawn(step)
            _validate(batch, needs_tensor=self.objective is None)
        elif self.inferred:
            batch = self._infer(step, dtype)
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        batch = _map(batch, lambda t: _fit(t, dtype, device))
        if varied:
            generator = torch.Generator("cpu").manual_seed(self.seed + 104729 * step)
            batch = _map(batch, lambda t: _vary(t, generator))
        if self.objective is not None:
            return Draw((), {}, raw=batch)
        return self._split(batch)

    def moved(self, step: int, dtype: torch.dtype, share: float) -> Draw | None:
        """The batch of one step with its floats moved a share of the way to another sample; None where it has none."""
        draw = self.draw(step, dtype)
        generator = torch.Generator("cpu").manual_seed(self.seed + 15485863 * step)
        found = False

        def move(t: Tensor) -> Tensor:
            nonlocal found
            if not t.is_floating_point() or t.layout != torch.strided or t.numel() == 0:
                return t
            found = True
            return t + share * (_vary(t, generator) - t)

        inputs = {part: _map(getattr(draw, part), move) for part in ("args", "kwargs", "raw")}
        return dataclasses.replace(draw, **inputs) if found else None

    def _drawn(self, step: int) -> Any:
        try:
            return self._batch.draw(step)
        except Exception as error:
            raise BatchError(f"draw({step}) of the batch raised {type(error).__name__}: {error}.") from error

    def _split(self, batch: Any) -> Draw:
        if isinstance(batch, Mapping):
            return Draw((), dict(batch), raw=batch)
        if isinstance(batch, tuple | list) and not isinstance(batch, nn.utils.rnn.PackedSequence):
            nested = len(batch) == 2 and isinstance(batch[0], tuple | list)
            pair = nested and (batch[1] is None or (isinstance(batch[0], tuple) and _wants(self.model, len(batch[0]))))
            if self.loss is None and len(batch) > 1 and not pair and _wants(self.model, len(batch)):
                return Draw(tuple(batch), {}, raw=batch)
            if len(batch) > 2:
                raise BatchError(
                    f"the batch is a tuple of {len(batch)}; expected (x, y). Where the model takes several inputs, "
                    "pass ((a, b, ...), y), or a dict of keyword arguments."
                )
            x, y = (batch[0], batch[1]) if len(batch) == 2 else (batch[0], None)
            if isinstance(x, Mapping):
                return Draw((), dict(x), y, batch)
            several = isinstance(x, tuple | list) and not isinstance(x, nn.utils.rnn.PackedSequence)
            return Draw(tuple(x) if several else (x,), {}, y, batch)
        return Draw((batch,), {}, raw=batch)

    def run(self, draw: Draw, generator_seed: int, *, plain: bool = False) -> Outcome:
        """Forward and loss; `Outcome.backward()` then fills the gradients.

        Args:
            plain: the gradients of the user's loss as training sees them, no sample weighted by chance.
        """
        if self.objective is not None:
            loss = _scalar(self.objective(self.model, draw.raw), "objective(model, batch)")
            return Outcome((), loss, loss.backward)
        output = self.model(*draw.args, **draw.kwargs)
        outputs = tuple(t for t in leaves(output) if t.is_floating_point() or t.is_complex())
        if self.loss is not None:
            loss = _scalar(self._ask(self.loss, output, draw.target), "loss(output, target)")
            if plain:
                return Outcome(outputs, loss, loss.backward)
            return Outcome(outputs, loss, lambda: _backward_reweighted(loss, outputs, _samples(draw), generator_seed))
        own = _own_loss(output)
        if own is not None:
            return Outcome(outputs, own, own.backward)
        return Outcome(outputs, None, lambda: _backward_generic(outputs, generator_seed))

    def _ask(self, loss: Loss, output: Any, target: Any) -> Any:
        try:
            return loss(output, target)
        except Exception as error:
            if target is not None:
                raise
            raise BatchError(
                f"loss(output, target) raised {type(error).__name__} because the batch has no target: {error}. Pass "
                "batch=(x, y), or ((a, b, ...), y) where the model takes several inputs, or leave loss= out."
            ) from error

    # ---- inputs made up where none are given -------------------------------------------------------------------

    def _infer(self, step: int, dtype: torch.dtype) -> Tensor:
        first = next((m for m in self.model.modules() if isinstance(m, _FIRST)), None)
        if first is None or next(iter(self.model.parameters()), None) is None:
            raise BatchError(
                f"cannot make up a batch for {type(self.model).__name__}: its first layer is none of Linear, Conv1d, "
                "Conv2d, Conv3d, Embedding. Pass batch=: a tensor, a tuple (x, y), or a dict of keyword arguments."
            )
        if self._shape is None:
            self._shape = self._find_shape(first, dtype)
        return _made_up(first, self._shape, self.seed + 31 * step, dtype)

    def _find_shape(self, first: nn.Module, dtype: torch.dtype) -> tuple[int, ...]:
        problem: Exception | None = None
        for shape in _candidates(first):
            try:
                with torch.no_grad(), Observer(self.model, dtype, step=0, measure=False) as observer:
                    observer.forward_is_over()  # nothing to record; inner float32 casts are lifted as in a pass
                    self.model(_made_up(first, shape, self.seed, dtype).to(next(self.model.parameters()).device))
            except Exception as error:  # noqa: BLE001 - the next size may fit; the last error is reported
                problem = error
            else:
                return shape
        raise BatchError(
            f"no made-up batch fits {type(self.model).__name__}; tried shapes {list(_candidates(first))} for its first "
            f"layer {first}. The last one raised {type(problem).__name__}: {problem}. Pass batch=: a tensor, a tuple "
            "(x, y), or a dict of keyword arguments."
        ) from problem


_FIRST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


def _candidates(first: nn.Module) -> tuple[tuple[int, ...], ...]:
    if isinstance(first, nn.Linear):
        return ((32, first.in_features), (8, 12, first.in_features))
    if isinstance(first, nn.Embedding):
        return ((16, 12), (16,))
    assert isinstance(first, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    n = len(first.kernel_size)
    return tuple((8, first.in_channels, *(size,) * n) for size in _IMAGE_SIZES[n])


def _made_up(first: nn.Module, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    if isinstance(first, nn.Embedding):
        return torch.randint(0, first.num_embeddings, shape, generator=generator, device="cpu")
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


# ---- losses ----------------------------------------------------------------------------------------------------


def _scalar(value: Any, who: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise BatchError(f"{who} returned {type(value).__name__}; expected a scalar tensor.")
    if value.numel() != 1:
        shape = tuple(value.shape)
        raise BatchError(f"{who} returned a tensor of shape {shape}; expected a scalar. Reduce it, as with .mean().")
    if not value.requires_grad:
        raise ModelError(
            f"{who} does not depend on any trainable parameter, so nothing can be said of its gradients. "
            "Look for a .detach(), .item(), argmax or no_grad between the parameters and the loss."
        )
    return value.reshape(())


def _own_loss(output: Any) -> Tensor | None:
    """The loss a model computes itself: a scalar output, or `output.loss` as transformers returns it."""
    if isinstance(output, Tensor):
        found = output if output.dim() == 0 else None
    else:
        found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    ok = isinstance(found, Tensor) and found.numel() == 1 and found.requires_grad
    return found.reshape(()) if ok and found is not None else None


def _factors(shape: torch.Size, seed: int, like: Tensor) -> Tensor:
    """Standard normal numbers that depend on shape and seed only: outputs of one shape (twin critics) get the same."""
    generator = torch.Generator("cpu").manual_seed(seed + 7 * sum((i + 1) * n for i, n in enumerate(shape)))
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(like.dtype).to(like.device)


def _samples(draw: Draw) -> int | None:
    """The batch size, as the first input tensor states it."""
    first = next((t for t in (*draw.args, *draw.kwargs.values()) if isinstance(t, Tensor) and t.dim()), None)
    return None if first is None else first.shape[0]


def _backward_reweighted(loss: Tensor, outputs: tuple[Tensor, ...], samples: int | None, seed: int) -> None:
    """Backward of the user's loss, each sample's gradient at the outputs times a random factor near one.

    A batch with exactly balanced classes cancels the gradient of an output bias; the factors do not. They leave zero
    what the loss does not depend on, and treat outputs of one sample alike, as the loss does.
    A hook at the output leaves the paths around it as they are: regularisers, and weights inside the loss.
    """
    with contextlib.ExitStack() as stack:
        for o in outputs:
            if o.grad_fn is not None and o is not loss:
                stack.enter_context(o.register_hook(_reweight(samples, seed)))  # type: ignore[no-untyped-call]
        torch.autograd.backward(loss)


def _reweight(samples: int | None, seed: int) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * _sample_factors(gradient, samples, seed)


def _sample_factors(gradient: Tensor, samples: int | None, seed: int) -> Tensor:
    """Numbers near one, along the first axis as long as the batch; ones where there is none."""
    axis = next((i for i, n in enumerate(gradient.shape) if n == samples), None)
    if axis is None:
        return torch.ones_like(gradient)
    shape = torch.Size(n if i == axis else 1 for i, n in enumerate(gradient.shape))
    return 1 + _REWEIGHT * _factors(shape, seed, gradient)


def _backward_generic(outputs: tuple[Tensor, ...], seed: int) -> None:
    """A loss that assumes nothing of the task: a random projection of every output, plus a quadratic."""
    wanted = [o for o in outputs if o.requires_grad and o.numel()]
    if not wanted:
        raise ModelError(
            "no output of the model depends on a trainable parameter. Look for no_grad, .detach() or an argmax in "
            "forward, or pass objective=lambda model, batch: ... with the loss you train."
        )
    gradients = [(_factors(o.shape, seed, o) + o.detach() / (1 + _rms(o))) / o.numel() ** 0.5 for o in wanted]
    torch.autograd.backward(wanted, gradients)


def _rms(tensor: Tensor) -> Tensor:
    return tensor.detach().abs().square().mean().sqrt()


# ---- nested inputs and outputs -------------------------------------------------------------------------------


def leaves(thing: Any, seen: set[int] | None = None) -> list[Tensor]:
    """Every tensor in tuples, lists, dicts, dataclasses and plain result objects, each once, in order."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, str | bytes | int | float | nn.Module) or thing is None:
        return []
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, Mapping):
        return [t for v in thing.values() for t in leaves(v, seen)]
    if isinstance(thing, tuple | list | set):
        return [t for v in thing for t in leaves(v, seen)]
    if dataclasses.is_dataclass(thing):
        return [t for f in dataclasses.fields(thing) for t in leaves(getattr(thing, f.name, None), seen)]
    return [t for v in getattr(thing, "__dict__", {}).values() for t in leaves(v, seen)]


def _map(thing: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(thing, Tensor):
        return change(thing)
    if isinstance(thing, Mapping):
        items = {k: _map(v, change) for k, v in thing.items()}
        try:
            return type(thing)(items)  # type: ignore[call-arg]
        except TypeError:
            return items
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*(_map(v, change) for v in thing))
    if isinstance(thing, tuple | list):
        return type(thing)(_map(v, change) for v in thing)
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = [f.name for f in dataclasses.fields(thing) if f.init]
        return dataclasses.replace(thing, **{name: _map(getattr(thing, name), change) for name in fields})
    if isinstance(thing, np.ndarray | np.generic):
        return change(_from_numpy(thing))
    attributes = getattr(thing, "__dict__", {})
    if not isinstance(thing, type | nn.Module) and any(isinstance(v, Tensor) for v in attributes.values()):
        clone = copy.copy(thing)
        vars(clone).update({k: _map(v, change) for k, v in attributes.items()})
        return clone
    return thing


def _from_numpy(array: Any) -> Tensor:
    try:
        return torch.as_tensor(array)
    except TypeError as error:
        raise BatchError(f"the batch holds a numpy array of {array.dtype}; encode it as numbers first.") from error


def _fit(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    wanted = tensor.dtype
    if tensor.is_floating_point():
        wanted = dtype
    elif tensor.is_complex():
        wanted = torch.complex128 if dtype == torch.float64 else torch.complex64
    return tensor.detach().to(device=device, dtype=wanted, copy=True)


def _vary(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.numel() == 0 or tensor.layout != torch.strided:
        return tensor
    if tensor.is_floating_point():
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu")
        return tensor + (tensor.std(unbiased=False) * noise.to(tensor.device)).to(tensor.dtype)
    if tensor.dtype == torch.bool or tensor.is_complex():
        return tensor
    order = torch.randperm(tensor.numel(), generator=generator, device="cpu")
    return tensor.reshape(-1)[order.to(tensor.device)].reshape(tensor.shape)


def _wants(model: nn.Module, n: int) -> bool:
    """True where forward needs exactly `n` positional arguments."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is p.empty for p in positional) == n


def _validate(batch: Any, *, needs_tensor: bool) -> None:
    if isinstance(batch, torch.utils.data.DataLoader | torch.utils.data.Dataset):
        raise BatchError(f"the batch is a {type(batch).__name__}; pass one batch of it: batch=next(iter(loader)).")
    tensors: list[Tensor] = []
    _map(batch, lambda t: tensors.append(t) or t)  # type: ignore[func-returns-value]
    if needs_tensor and not tensors:
        raise BatchError(
            f"the batch ({type(batch).__name__}) holds no tensor. Pass a tensor, a tuple (x, y), or a dict of keyword "
            "arguments."
        )
    for tensor in tensors:
        _validate_tensor(tensor)


def _validate_tensor(tensor: Tensor) -> None:
    if tensor.numel() == 0:
        shape = tuple(tensor.shape)
        raise BatchError(f"the batch is empty: it holds a tensor of shape {shape}. Pass at least two samples.")
    if tensor.layout != torch.strided or not (tensor.is_floating_point() or tensor.is_complex()):
        return
    bad = ~torch.isfinite(tensor)
    if bool(bad.any()):
        raise BatchError(
            f"the batch holds {int(bad.sum())} NaN or infinite values in a tensor of shape {tuple(tensor.shape)}, the "
            f"first at index {tuple(bad.nonzero()[0].tolist())}. Clean or impute them before checking."
        )


def explain_forward_error(error: BaseException, model: nn.Module) -> SymbreakError:
    """A ForwardError that names the innermost module that was running when the user's code raised."""
    if isinstance(error, SymbreakError):
        return error
    names = {id(m): (n or type(model).__name__, type(m).__name__) for n, m in model.named_modules()}
    place, trace = None, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            place = names[id(owner)]
        trace = trace.tb_next
    outside = "outside any module of the model (in the loss or objective)"
    where = f"in module {place[0]!r} ({place[1]})" if place else outside
    text = str(error).strip() or "no message"
    hint = ""
    if "more than 1 value per channel" in text:
        hint = " Batch norm in training mode needs at least two samples: pass a larger batch."
    elif "shapes cannot be multiplied" in text or "size mismatch" in text.lower() or "expected input" in text:
        hint = " The batch does not fit the model: compare its shape with what this layer expects."
    return ForwardError(f"{type(error).__name__} {where}: {text.removesuffix('.')}.{hint}")
