"""How a model's signal grows or shrinks with depth, by forward hooks alone: nothing here imports symbreak.

A layer is a module with a weight of two or more axes of its own. Three factors over the depth: the largest output
over the input (rms), what varies between samples near the input over what varies at the end, and the back-signal's norm
at one end of the depth over that at the other.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from real_models import zoo
from real_models.oracle import generic_loss, lifted

LOST, KEPT = 1e4, 1e2  # a signal that is a hundred times larger or smaller is within what a norm-free start may do


@dataclass
class Layer:
    """One layer's output at the start, and the signal that came back to it."""

    name: str
    rms: float
    varying: float  # rms about the mean over samples
    back: float = 0.0  # l2 norm


@dataclass(frozen=True)
class Factors:
    """Growth and decay over the depth; 1 means none."""

    grown: float
    shrunk: float
    back_grown: float
    back_shrunk: float

    @property
    def worst(self) -> float:
        return max(self.grown, self.shrunk, self.back_grown, self.back_shrunk)


def factors(case: zoo.Case) -> Factors:
    """Over the layers that are not zero on purpose; the back-signal over those it reaches."""
    layers = [layer for layer in measured(case) if layer.varying > 0]
    reached = [layer for layer in layers if layer.back > 0]
    at_input = size_of_inputs(case)
    grown = max((x.rms for x in layers), default=at_input) / at_input
    near, far = ends([x.varying for x in layers])
    early, late = ends([x.back for x in reached])
    return Factors(grown, max(at_input, near) / far if len(layers) > 2 else 1.0, early / late, late / early)


def ends(sizes: list[float]) -> tuple[float, float]:
    """The largest in the first third of the depth and in the last."""
    third = max(1, len(sizes) // 3)
    return (max(sizes[:third]), max(sizes[-third:])) if len(sizes) > 2 else (1.0, 1.0)


def measured(case: zoo.Case) -> list[Layer]:
    """Every layer that ran, in order of execution, after one forward and backward pass."""
    seen: list[Layer] = []

    def look(output: object, name: str) -> None:
        if not isinstance(output, Tensor) or not output.requires_grad or not output.is_floating_point():
            return
        values = output.detach()
        about = values - values.mean(0, keepdim=True)
        layer = Layer(name, float(values.square().mean().sqrt()), float(about.square().mean().sqrt()))
        seen.append(layer)
        output.register_hook(lambda back: setattr(layer, "back", float(back.norm())))

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: look(output, name))
        for name, module in case.model.named_modules()
        if is_layer(module)
    ]
    try:
        with lifted():
            generic_loss(case, case.batch, seed=0).backward()
    finally:
        for hook in hooks:
            hook.remove()
        case.model.zero_grad(set_to_none=True)
    return seen


def is_layer(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() >= 2 and not isinstance(module, nn.Embedding) and bool(weight.any())


def size_of_inputs(case: zoo.Case) -> float:
    """The largest rms among the floating-point inputs; 1 where all are tokens."""
    leaves = [x for x in tree_leaves(case.batch) if isinstance(x, Tensor) and x.is_floating_point()]
    return max((float(x.double().square().mean().sqrt()) for x in leaves), default=1.0)
