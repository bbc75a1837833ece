"""Find the layer whose output is the model's, in a model nobody annotated, by scaling it and looking.

A layer is last where some output of the model is an affine function of its weight and bias and none that runs later is:
scaled by 0, -1, 1 and 2 it gives outputs on one straight line. An activation or a normalisation behind it would bend
that line, and a layer in front of an activation would fail at -1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from real_models import zoo
from real_models.couplings import order_of_execution, wake_every_branch
from real_models.oracle import outputs_of

TRIED = 12  # of the layers that ran last
STRAIGHT, MOVED = 1e-9, 1e-9  # of the largest entry


@dataclass(frozen=True)
class LastLayers:
    """One layer for each output that has one, and the layers that make its input zero when they are zero."""

    names: tuple[str, ...]
    feeders: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.names)

    @property
    def layers(self) -> tuple[str, ...]:
        return self.names + self.feeders


def find_last_layers(case: zoo.Case, _wanted: int, _seed: int) -> list[LastLayers]:
    """One place at most: all last layers together. The model must be float64 and is changed."""
    wake_every_branch(case.model)
    candidates = [name for name in order_of_execution(case) if "weight" in own(case.model, name)][-TRIED:]
    names: dict[int, str] = {}  # by output; what runs later writes over what ran before
    for name in candidates:
        for output in straight_outputs(case, name):
            names[output] = name
    if not names:
        return []
    last = tuple(dict.fromkeys(names.values()))
    feeders = [feeder_of(case, name, candidates) for name in last]
    return [LastLayers(last, tuple(dict.fromkeys(name for name in feeders if name is not None)))]


def own(model: nn.Module, name: str) -> dict[str, Tensor]:
    """A module's own parameters, without those of its children."""
    return {key: p.detach() for key, p in model.get_submodule(name).named_parameters(recurse=False)}


@torch.no_grad()
def straight_outputs(case: zoo.Case, name: str) -> list[int]:
    """Which outputs move, and on a straight line, as the layer is scaled."""
    at = {factor: scaled(case, name, factor) for factor in (0.0, -1.0, 1.0, 2.0)}
    straight = []
    for output, (zero, minus, one, two) in enumerate(zip(*at.values(), strict=True)):
        size, move = float(two.abs().max()), one - zero
        bend = max(float((zero - move - minus).abs().max()), float((one + move - two).abs().max()))
        if float(move.abs().max()) > MOVED * size and bend <= STRAIGHT * size:
            straight.append(output)
    return straight


@torch.no_grad()
def scaled(case: zoo.Case, name: str, factor: float) -> list[Tensor]:
    parameters = own(case.model, name)
    kept = {key: p.clone() for key, p in parameters.items()}
    for p in parameters.values():
        p.mul_(factor)
    outputs = outputs_of(case, case.batch)
    for key, p in parameters.items():
        p.copy_(kept[key])
    return outputs


@torch.no_grad()
def feeder_of(case: zoo.Case, last: str, candidates: list[str]) -> str | None:
    """The nearest layer whose zeros make the last layer's input zero: no skip leads around it."""
    seen: list[Tensor] = []
    hook = case.model.get_submodule(last).register_forward_pre_hook(
        lambda _, inputs: seen.extend(x.detach() for x in inputs[:1] if isinstance(x, Tensor))
    )
    try:
        for name in reversed(candidates[: candidates.index(last)]):
            seen.clear()
            scaled(case, name, 0.0)
            if seen and not any(bool(x.any()) for x in seen):
                return name
    finally:
        hook.remove()
    return None
