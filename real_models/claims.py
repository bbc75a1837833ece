"""The truth of one warning: train the model and look at the very units that the warning names.

The judge of an injection asks for whole tensors, and a dead unit or two put none to sleep. Here the resolution is that
of the claim. Training can say true and false; None where nothing here can tell. Nothing here imports symbreak.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from real_models import zoo
from real_models.couplings import gradient_of, units_first
from real_models.oracle import generic_loss, largest_gradients, lifted, train
from real_models.scales import KEPT, ends, measured

FLAT, MOST = 0.1, 0.5  # of the steepest slope; of samples x units: what SB205 says of an activation
GROWN = 1e3  # what SB203 says of the back-signal
GRID = torch.linspace(-8.0, 8.0, 4001, dtype=torch.float64)


def is_true(case: zoo.Case, finding: Any) -> bool | None:
    """What training the float64 model says of a finding. The model is changed."""
    judge = JUDGES.get(finding.code)
    return None if judge is None else judge(case, finding)


def units_are_dead(case: zoo.Case, finding: Any) -> bool | None:
    """SB102: no step and no fresh batch gives the weights into these units a gradient."""
    module = module_of(case.model, finding.remedy.where if finding.remedy else finding.where)
    weight = module._parameters.get("weight") if module is not None else None
    if module is None or weight is None or weight.dim() < 2:
        return None
    units = list(finding.units) or list(range(len(units_first(module))))
    if max(units) >= len(units_first(module)):
        return None
    return largest_gradients(case, lambda: {"units": gradient_of(module)[units]})["units"] == 0.0


def tensor_is_unused(case: zoo.Case, finding: Any) -> bool | None:
    """SB104: the loss of this batch has no graph that leads to the tensor. Another batch may: the rule says as much."""
    tensor = dict(case.model.named_parameters()).get(finding.where)
    if tensor is None:
        return None
    with lifted():
        generic_loss(case, case.batch, seed=0).backward()
    return tensor.grad is None


def back_signal_grows(case: zoo.Case, _finding: Any) -> bool | None:
    """SB203: the back-signal at the start of the depth over that at its end; a factor of 100 to 1000 is neither.

    Of all layers, also of those that all samples look alike behind: a zero in front of a chain of norms makes them so.
    """
    early, late = ends([layer.back for layer in measured(case) if layer.back > 0])
    return True if early >= GROWN * late else False if early < KEPT * late else None


def activation_is_saturated(case: zoo.Case, finding: Any) -> bool | None:
    """SB205: its slope, by autograd, is flat in most places at every step. Only where the activation is a module."""
    module = module_of(case.model, finding.where)
    if module is None or any(True for _ in module.parameters()) or any(True for _ in module.children()):
        return None
    steepest = float(slope(module, GRID).max())
    flat: list[float] = []

    def look(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        flat.append(float((slope(module, inputs[0]) <= FLAT * steepest).double().mean()))

    hook = module.register_forward_pre_hook(look)
    try:
        train(case)
    finally:
        hook.remove()
    return min(flat) > MOST if flat else None


def slope(activation: nn.Module, at: Tensor) -> Tensor:
    """The size of the derivative at each entry, past the hooks of the module."""
    with torch.enable_grad():
        point = at.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(activation.forward(point).sum(), point)
    return found.abs()


def module_of(model: nn.Module, name: str) -> nn.Module | None:
    return dict(model.named_modules()).get(name)


JUDGES: dict[str, Callable[[zoo.Case, Any], bool | None]] = {
    "SB102": units_are_dead,
    "SB104": tensor_is_unused,
    "SB203": back_signal_grows,
    "SB205": activation_is_saturated,
}
