"""The truth about an injected fault, from training the model: nothing here imports symbreak.

Float64, a fresh batch a step, gradient descent with one step size a tensor (a hundredth of the tensor's size over the
size of its gradient: a plain step shrinks with depth, and a slow tensor would look like a dead one).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from real_models import zoo
from real_models.measure import plain, tree_leaves

STEPS = 6
STEP_SIZE = 0.01
NOISE = 1e-13  # a gradient this much smaller than the model's largest one is rounding, and is not followed


def quiet(model: nn.Module) -> None:
    """Switch dropout and layer drop off: units that are alike only until a coin is tossed are another question."""
    for module in model.modules():
        for name, number in list(vars(module).items()):
            if isinstance(number, float) and ("drop" in name or (name == "p" and "Drop" in type(module).__name__)):
                setattr(module, name, 0.0)


def fresh(name: str) -> zoo.Case:
    """The model of that name at its own start, without chance in its forward pass."""
    case = zoo.build(name)
    quiet(case.model)
    return case


def in_float64(case: zoo.Case) -> None:
    case.model.double()
    one_expert_at_a_time = getattr(case.model, "set_experts_implementation", None)  # transformers
    if one_expert_at_a_time is not None:
        one_expert_at_a_time("eager")  # torch's grouped product has no float64


class Lift(TorchFunctionMode):
    """Norms, routers and softmaxes that ask for float32 by name get float64: equal experts would part by rounding."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.float:
            function = Tensor.double
        args, kwargs = ([*map(self.lift, args)], {key: self.lift(arg) for key, arg in (kwargs or {}).items()})
        return function(*args, **kwargs)

    @staticmethod
    def lift(arg: Any) -> Any:
        return torch.float64 if arg is torch.float32 else arg


@contextmanager
def lifted() -> Iterator[None]:
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Lift():
            yield
    finally:
        torch.set_default_dtype(kept)


def double(batch: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, batch
    )


def outputs_of(case: zoo.Case, batch: Any) -> list[Tensor]:
    """Every floating-point output, under one seed; running statistics stay as they were."""
    kept = {name: buffer.clone() for name, buffer in case.model.named_buffers()}
    torch.manual_seed(0)
    with lifted():
        output = case.objective(case.model, double(batch)) if case.objective else case.forward(double(batch))
    for name, buffer in case.model.named_buffers():
        buffer.copy_(kept[name])
    return [leaf for leaf in tree_leaves(plain(output)) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def generic_loss(case: zoo.Case, batch: Any, seed: int) -> Tensor:
    """A random projection of every output, and a little of its square, so that nothing is at a minimum."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    if case.objective is not None:
        return case.objective(case.model, double(batch))
    leaves = tree_leaves(plain(case.forward(double(batch))))
    total = torch.zeros((), dtype=torch.float64)
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.grad_fn is not None and leaf.is_floating_point():
            weights = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            total = total + (weights * leaf).mean() + 0.1 * leaf.pow(2).mean()
    return total


@dataclass(frozen=True)
class Alike(zoo.Case):
    """The same model under a loss that treats all its outputs alike: one target a sample, for each of its outputs.

    `batch` is (inputs, targets), as `symbreak.check` takes it together with a loss.
    """

    loss: Callable[[Any, Tensor], Tensor]
    samples: int

    def draw(self, seed: int) -> Any:
        return super().draw(seed), torch.randn(self.samples, generator=torch.Generator().manual_seed(seed))


def outputs_alike(case: zoo.Case) -> Alike:
    outputs = [x for x in tree_leaves(plain(case.forward(case.batch))) if isinstance(x, Tensor)]
    samples = len(next(x for x in outputs if x.is_floating_point() and x.dim()))
    targets = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    inputs = case.batch[0] if isinstance(case.batch, tuple) else case.batch

    def objective(_model: nn.Module, batch: Any) -> Tensor:
        return to_one_target(case.forward(batch[0]), batch[1])

    return Alike(case.name, case.model, (inputs, targets), objective, case.entry, to_one_target, samples)


def to_one_target(output: Any, target: Tensor) -> Tensor:
    leaves = [x for x in tree_leaves(plain(output)) if isinstance(x, Tensor) and x.grad_fn is not None]
    errors = [x.movedim(0, -1) - target.to(x.dtype) for x in leaves if x.dim() and len(x) == len(target)]
    return torch.stack([error.square().mean() for error in errors]).sum()


def train(case: zoo.Case, after_backward: Callable[[], None] = lambda: None, steps: int = STEPS) -> None:
    """Take the steps; `after_backward()` looks at the gradients of each."""
    parameters = [p for p in case.model.parameters() if p.requires_grad]
    for step in range(steps):
        case.model.zero_grad(set_to_none=True)
        with lifted():
            generic_loss(case, case.draw(1000 + step), seed=step).backward()
        after_backward()
        descend(parameters)


@torch.no_grad()
def descend(parameters: list[nn.Parameter]) -> None:
    sizes = {p: float(p.grad.square().mean().sqrt()) for p in parameters if p.grad is not None}
    floor = NOISE * max(sizes.values(), default=0.0)
    for parameter, size in sizes.items():
        if size > floor:
            scale = float(parameter.square().mean().sqrt()) or 1.0
            parameter -= STEP_SIZE * scale / size * parameter.grad


def moves(case: zoo.Case, weights: Callable[[], list[Tensor]], steps: int = STEPS) -> list[Tensor]:
    """Train, and say how far each weight went."""
    start = [weight.clone() for weight in weights()]
    train(case, steps=steps)
    return [end - begin for end, begin in zip(weights(), start, strict=True)]


def gap(first: Tensor, second: Tensor) -> float:
    """How far two tensors differ, over the larger one; 0 where both are zero, 1 and more where one is."""
    size = max(float(first.abs().max()), float(second.abs().max()))
    return float((first - second).abs().max()) / size if size else 0.0


def largest_gradients(case: zoo.Case, gradients: Callable[[], dict[str, Tensor]]) -> dict[str, float]:
    """The largest entry that each gradient has at any step, over the largest of the model's at that step."""
    seen: dict[str, float] = {}

    def look() -> None:
        largest = max(float(p.grad.abs().max()) for p in case.model.parameters() if p.grad is not None)
        for name, gradient in gradients().items():
            share = float(gradient.abs().max()) / largest if largest and gradient.numel() else 0.0
            seen[name] = max(seen.get(name, 0.0), share)

    train(case, look)
    return seen


def all_gradients(case: zoo.Case) -> dict[str, float]:
    """The same for every trainable tensor; 0 for one that the loss does not reach."""
    named = {name: p for name, p in case.model.named_parameters() if p.requires_grad}
    return largest_gradients(
        case, lambda: {name: torch.zeros(1) if p.grad is None else p.grad for name, p in named.items()}
    )
