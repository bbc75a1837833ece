"""The truth about an injected fault, from training the model: nothing here imports symbreak.

Float64, a fresh batch a step, gradient descent with one step size a tensor (a hundredth of the tensor's size over the
size of its gradient: a plain step shrinks with depth, and a slow tensor would look like a dead one).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

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


def in_float64(case: zoo.Case) -> None:
    case.model.double()


def double(batch: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, batch
    )


def outputs_of(case: zoo.Case, batch: Any) -> list[Tensor]:
    """Every floating-point output, under one seed; running statistics stay as they were."""
    kept = {name: buffer.clone() for name, buffer in case.model.named_buffers()}
    torch.manual_seed(0)
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


def train(case: zoo.Case, after_backward: Callable[[], None]) -> None:
    """Take the steps; `after_backward()` looks at the gradients of each."""
    parameters = [p for p in case.model.parameters() if p.requires_grad]
    for step in range(STEPS):
        case.model.zero_grad(set_to_none=True)
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


def parted(case: zoo.Case, weights: Callable[[], list[Tensor]]) -> list[float]:
    """How far the moves of units 0 and 1 differ, as a share of the move, for each weight; nothing where one rests."""
    start = [weight.clone() for weight in weights()]
    train(case, lambda: None)
    end = weights()
    moved = [float((b[0] - a[0]).abs().max()) for a, b in zip(start, end, strict=True)]
    apart = [float(((b[0] - b[1]) - (a[0] - a[1])).abs().max()) for a, b in zip(start, end, strict=True)]
    return [gap / move for gap, move in zip(apart, moved, strict=True)] if all(moved) else []


def largest_gradients(case: zoo.Case, gradient: Callable[[], Tensor]) -> list[float]:
    """The largest entry of one tensor's gradient at each step, over the largest of the model's."""
    seen: list[float] = []

    def look() -> None:
        largest = max(float(p.grad.abs().max()) for p in case.model.parameters() if p.grad is not None)
        seen.append(float(gradient().abs().max()) / largest if largest else 0.0)

    train(case, look)
    return seen
