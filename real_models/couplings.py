"""Find hidden units that can be duplicated, silenced or mirrored in a model nobody annotated, and prove it.

A coupling is a layer that makes units (the producer), the layer that reads them (the consumer) and what has one entry a
unit in between: norms, depthwise convolutions, the other branch of a gate. It is proposed from the order of execution
and believed only if swapping two units in all of them leaves the model's output as it was: a residual sum, a
concatenation or a second reader would show.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from real_models import zoo
from real_models.oracle import outputs_of

TRIED = 24
NEAREST = 3
UNMOVED, MOVED = 1e-11, 1e-9  # of the largest output; a layer scale of 1e-6 still shows


@dataclass(frozen=True)
class Coupling:
    """Names of modules; `block` columns of the consumer belong to one unit (a flattened map has several)."""

    producer: str
    between: tuple[str, ...]
    consumer: str
    width: int
    block: int

    def __str__(self) -> str:
        return f"{self.producer} -> {self.consumer}"

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.producer, *self.between, self.consumer)

    def makers(self, model: nn.Module) -> Iterator[Tensor]:
        """Every tensor with an entry a unit on the making side, units first."""
        for name in (self.producer, *self.between):
            module = model.get_submodule(name)
            for tensor_name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if tensor_name == "weight" and tensor.dim() > 1:
                    yield units_first(module)
                elif tensor.dim() >= 1 and len(tensor) == self.width:
                    yield tensor

    def readers(self, model: nn.Module) -> Tensor:
        """The consumer's weight as [unit, entry of its block, output, ...]."""
        weight = inputs_first(model.get_submodule(self.consumer))
        return weight.unflatten(0, (self.width, self.block))

    def weights(self, model: nn.Module) -> list[Tensor]:
        """The weights of every dense layer on the making side: a gate has two."""
        modules = [model.get_submodule(name) for name in (self.producer, *self.between)]
        return [units_first(module) for module in modules if is_dense(module)]

    def weight(self, model: nn.Module) -> Tensor:
        """The producer's weight, units first."""
        return units_first(model.get_submodule(self.producer))


def units_first(module: nn.Module) -> Tensor:
    weight = module.weight
    return weight.detach().transpose(0, 1) if is_transposed(module) else weight.detach()


def gradient_of(module: nn.Module) -> Tensor:
    """The gradient of a module's weight, units first; zero where it has none."""
    gradient = module.weight.grad
    if gradient is None:
        return torch.zeros_like(units_first(module))
    return gradient.transpose(0, 1) if is_transposed(module) else gradient


def inputs_first(module: nn.Module) -> Tensor:
    weight = module.weight
    return weight.detach() if is_transposed(module) else weight.detach().transpose(0, 1)


def is_transposed(module: nn.Module) -> bool:
    """Weights stored as (in, out): transposed convolutions, and the Conv1D of GPT-2."""
    return "Transpose" in type(module).__name__ or type(module).__name__ == "Conv1D"


def is_dense(module: nn.Module) -> bool:
    """A plain layer with one weight from every input to every unit."""
    weight = module._parameters.get("weight")
    if weight is None or weight.dim() < 2 or isinstance(module, nn.Embedding) or getattr(module, "groups", 1) != 1:
        return False
    return type(module).__name__.startswith(("Linear", "Conv", "NonDynamicallyQuantizableLinear"))


def find_couplings(case: zoo.Case, wanted: int, seed: int) -> list[Coupling]:
    """Up to `wanted` couplings that passed the swap, in an order drawn from the seed.

    The model must be float64 and is changed: build another one for what comes next.
    """
    wake_every_branch(case.model)
    candidates = list(proposals(case))
    random.Random(f"{case.name}{seed}").shuffle(candidates)
    found: list[Coupling] = []
    for coupling in candidates[:TRIED]:
        if len(found) == wanted:
            break
        if survives_a_swap(case, coupling):
            found.append(coupling)
    return found


@torch.no_grad()
def wake_every_branch(model: nn.Module) -> None:
    """Fill what starts at zero: behind a zero gate, a second reader of the units would stay unseen."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def proposals(case: zoo.Case) -> Iterator[Coupling]:
    order = order_of_execution(case)
    modules = {name: case.model.get_submodule(name) for name in order}
    for position, consumer in enumerate(order):
        if not is_dense(modules[consumer]):
            continue
        fan_in = len(inputs_first(modules[consumer]))
        nearer = 0
        for start in range(position - 1, -1, -1):
            producer = modules[order[start]]
            if not is_dense(producer) or nearer == NEAREST:
                continue
            width = len(units_first(producer))
            if width < 4 or fan_in % width or (fan_in != width and not isinstance(modules[consumer], nn.Linear)):
                continue
            nearer += 1
            between = [name for name in order[start + 1 : position] if has_an_entry_a_unit(modules[name], width)]
            yield Coupling(order[start], tuple(between), consumer, width, fan_in // width)


def has_an_entry_a_unit(module: nn.Module, width: int) -> bool:
    tensors = list(module._parameters.values())
    return any(tensor is not None and tensor.dim() >= 1 and len(tensor) == width for tensor in tensors)


def order_of_execution(case: zoo.Case) -> list[str]:
    """Modules with parameters of their own, in the order they ran, without those that ran twice or share a tensor."""
    ran: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in case.model.named_modules()
        if module._parameters
    ]
    try:
        outputs_of(case, case.batch)
    finally:
        for hook in hooks:
            hook.remove()
    owners: dict[int, int] = {}
    for _, parameter in case.model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return [
        name
        for name in dict.fromkeys(ran)
        if ran.count(name) == 1
        and all(p is None or owners[id(p)] == 1 for p in case.model.get_submodule(name)._parameters.values())
    ]


@torch.no_grad()
def survives_a_swap(case: zoo.Case, coupling: Coupling) -> bool:
    before = outputs_of(case, case.batch)
    swap(case.model, coupling)
    after = outputs_of(case, case.batch)
    swap(case.model, coupling)
    return largest_move(after, before) <= UNMOVED and matters(case, coupling, before)


def largest_move(after: list[Tensor], before: list[Tensor]) -> float:
    """The largest change of any output, over the largest output."""
    moved = max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))
    return moved / max(float(b.abs().max()) for b in before)


@torch.no_grad()
def swap(model: nn.Module, coupling: Coupling) -> None:
    for tensor in (*coupling.makers(model), coupling.readers(model)):
        tensor[[0, 1]] = tensor[[1, 0]].clone()


@torch.no_grad()
def matters(case: zoo.Case, coupling: Coupling, before: list[Tensor]) -> bool:
    """Swapping on the making side alone must be seen, or the swap proved nothing."""
    weight = coupling.weight(case.model)
    kept = weight[:2].clone()
    weight[:2] *= 3.0
    weight[0] += 0.5 * kept[1]
    after = outputs_of(case, case.batch)
    weight[:2] = kept
    return largest_move(after, before) > MOVED
