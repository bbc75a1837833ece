"""The judge of the catalogue: a naive float64 loop that shares no code with symbreak.

Fresh random data every step; every tensor that has a gradient moves by a step of a generic size. The size is a
continuous function of the tensor's own values and gradient, so that equal tensors make equal steps, and its rms is of
order 0.02 whatever the gradient, so that nothing underflows with depth.
"""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ground_truth.case import Batch, Case

Optimizer: TypeAlias = type[torch.optim.SGD] | type[torch.optim.Adam]

SEEDS = (0, 1, 2)  # a ReLU may be off by bad luck; one gradient in any seed is a proof that there is one


def fresh(value: Tensor, generator: torch.Generator) -> Tensor:
    """New data of the same kind: normal numbers, or draws from the integers (or 0/1 targets) that the batch holds."""
    values = value.unique()
    if not value.is_floating_point() or len(values) <= 2:
        drawn = torch.randint(value.numel(), value.shape, generator=generator)
        drawn = value.flatten()[drawn]
        return drawn.double() if value.is_floating_point() else drawn
    return (
        torch.randn(value.shape, generator=generator, dtype=torch.float64) * value.double().std()
        + value.double().mean()
    )


def fresh_batch(batch: Batch, generator: torch.Generator) -> Batch:
    if isinstance(batch, dict):
        return {name: fresh(value, generator) for name, value in batch.items()}
    if isinstance(batch, tuple):
        return fresh(batch[0], generator), fresh(batch[1], generator)
    return fresh(batch, generator)


def forward(model: nn.Module, case: Case, batch: Batch) -> Tensor:
    if isinstance(batch, dict):
        output: Any = model(**batch)
    else:
        output = model(batch[0] if isinstance(batch, tuple) else batch)
    if case.loss is not None and isinstance(batch, tuple):
        return case.loss(output, batch[1])
    direction = torch.randn(output.shape[1:], generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return (output * direction).sum(tuple(range(1, output.ndim))).mean() + output.square().mean()


def gradients(model: nn.Module, case: Case, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    forward(model, case, batch).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def generic_step(model: nn.Module, grads: dict[str, Tensor], noise: float) -> None:
    parameters = dict(model.named_parameters())
    for name, grad in grads.items():
        if grad.abs().max() > noise:
            weight = parameters[name]
            factor = 0.5 + (17.0 * grad.norm() / (1.0 + grad.norm()) + 29.0 * weight.norm()) % 1.0
            weight -= 0.02 * factor * grad / grad.square().mean().sqrt()


def ladder(case: Case, steps: int = 6) -> dict[str, int | None]:
    """Parameter -> first step, counted from 1, with a gradient above the noise; None where no step had one."""
    start = case.model().double()
    first: dict[str, int | None] = {name: None for name, _ in start.named_parameters()}
    for seed in SEEDS:
        model = copy.deepcopy(start)
        generator = torch.Generator().manual_seed(1000 + seed)
        torch.manual_seed(seed)
        for step in range(1, steps + 1):
            grads = gradients(model, case, fresh_batch(case.batch, generator))
            noise = case.floor * max((float(g.abs().max()) for g in grads.values()), default=0.0)
            for name, grad in grads.items():
                known = first[name]
                if grad.abs().max() > noise and (known is None or step < known):
                    first[name] = step
            generic_step(model, grads, noise)
    return first


def unit_signals(model: nn.Module, case: Case, layer: str, batch: Batch) -> Tensor:
    """The layer's outputs [unit, everything else]."""
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        forward(model, case, batch)
    handle.remove()
    unit_axis = 1 if seen[0].ndim == 4 else -1
    return seen[0].movedim(unit_axis, 0).flatten(1)


def distinct_rows(rows: Tensor) -> int:
    """How many rows are further than rounding from every row before them."""
    scale = rows.abs().max().clamp_min(1e-300)
    apart = (rows[:, None, :] - rows[None, :, :]).abs().amax(-1) > 1e-7 * scale
    return sum(bool(apart[u, :u].all()) for u in range(len(rows)))


def distinct_units(case: Case, layer: str, optimizer: Optimizer, lr: float, steps: int = 10) -> int:
    """Units of a layer that differ after a few steps of an ordinary optimizer: by their signal on data never seen."""
    model = case.model().double()
    stepper = optimizer([p for p in model.parameters() if p.requires_grad], lr=lr)
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        stepper.zero_grad()
        forward(model, case, fresh_batch(case.batch, generator)).backward()
        stepper.step()
    return distinct_rows(unit_signals(model, case, layer, fresh_batch(case.batch, generator)))


def compared(model: nn.Module, pattern: str) -> Tensor:
    """The tensors that fit the pattern, one a row; where one fits, its own rows."""
    fitting = [p.detach() for name, p in model.named_parameters() if fnmatchcase(name, pattern)]
    return fitting[0].flatten(1) if len(fitting) == 1 else torch.stack(fitting).flatten(1)


def tied(case: Case, pattern: str, optimizer: Optimizer, lr: float, steps: int = 10) -> int:
    """How many rows equal another row at the start and after every step."""
    model, generator = case.model().double(), torch.Generator().manual_seed(7)
    stepper = optimizer([p for p in model.parameters() if p.requires_grad], lr=lr)
    together = torch.ones(())
    for _ in range(steps + 1):
        rows = compared(model, pattern)
        distance = (rows[:, None, :] - rows[None, :, :]).abs().amax(-1)
        together = together * (distance <= 1e-7 * rows.abs().max())
        stepper.zero_grad()
        forward(model, case, fresh_batch(case.batch, generator)).backward()
        stepper.step()
    return int((together.sum(1) > 1).sum())
