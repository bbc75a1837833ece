"""Find a mixture of experts in a model nobody annotated: a router, and experts that it chooses from.

A router is proposed by its shape, a row an expert, beside stacked experts or a list of like modules. It is believed
only if swapping two experts together with their rows leaves the model's output as it was, and swapping the experts
alone does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from real_models import zoo
from real_models.couplings import largest_move, wake_every_branch
from real_models.oracle import outputs_of

UNMOVED, MOVED = 1e-11, 1e-9  # of the largest output
CHOSEN = {"top_k": None, "num_experts_per_tok": None, "topk_group": "num_group"}  # attribute -> what it is out of


@dataclass(frozen=True)
class Router:
    """Names of modules; `block` holds both the router and the experts."""

    block: str
    router: str
    experts: str
    count: int

    def __str__(self) -> str:
        return f"{self.router} over {self.experts}"

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.router, self.experts)

    def rows(self, model: nn.Module) -> list[Tensor]:
        """Every tensor of the router with an entry an expert, buffers that balance the load among them."""
        module = model.get_submodule(self.router)
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        return [tensor.detach() for tensor in tensors if tensor.dim() >= 1 and len(tensor) == self.count]

    def expert(self, model: nn.Module, number: int) -> list[Tensor]:
        """The weights of one expert."""
        module = model.get_submodule(self.experts)
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            children = list(module.children())
            return [p.detach() for p in children[number].parameters()]
        return [p.detach()[number] for p in module.parameters(recurse=False)]


def find_routers(case: zoo.Case, wanted: int, _seed: int) -> list[Router]:
    """Up to `wanted` routers, in order of depth. The model must be float64 and is changed."""
    wake_every_branch(case.model)
    found: list[Router] = []
    for router in routers_proposed(case.model):
        if len(found) == wanted:
            break
        if is_a_router(case, router):
            found.append(router)
    return found


def routers_proposed(model: nn.Module) -> Iterator[Router]:
    for experts, module in model.named_modules():
        count = number_of_experts(module)
        if count < 2:
            continue
        block = experts.rpartition(".")[0]
        for name, other in model.get_submodule(block).named_modules(prefix=block):
            weight = other._parameters.get("weight")
            inside = name == experts or name.startswith(f"{experts}.")
            if not inside and weight is not None and weight.dim() == 2 and len(weight) == count:
                yield Router(block, name, experts, count)


def number_of_experts(module: nn.Module) -> int:
    """Of like children in a list, or of like slices along the first axis of stacked weights; 0 where it is neither."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        shapes = {tuple(tuple(p.shape) for p in child.parameters()) for child in module.children()}
        return len(module) if len(shapes) == 1 and () not in shapes else 0
    parameters = list(module.parameters(recurse=False))
    counts = {len(p) for p in parameters if p.dim() >= 2}
    stacked = any(p.dim() >= 3 for p in parameters) and len(counts) == 1
    return counts.pop() if stacked and all(p.dim() >= 2 for p in parameters) else 0


@torch.no_grad()
def is_a_router(case: zoo.Case, router: Router) -> bool:
    before = outputs_of(case, case.batch)
    swap_experts(case.model, router)
    alone = outputs_of(case, case.batch)
    swap_rows(case.model, router)
    together = outputs_of(case, case.batch)
    swap_rows(case.model, router)
    swap_experts(case.model, router)
    return largest_move(together, before) <= UNMOVED and largest_move(alone, before) > MOVED


@torch.no_grad()
def swap_experts(model: nn.Module, router: Router) -> None:
    for first, second in zip(router.expert(model, 0), router.expert(model, 1), strict=True):
        kept = first.clone()
        first.copy_(second)
        second.copy_(kept)


@torch.no_grad()
def swap_rows(model: nn.Module, router: Router) -> None:
    for tensor in router.rows(model):
        tensor[[0, 1]] = tensor[[1, 0]].clone()


def choose_every_expert(model: nn.Module, router: Router) -> bool:
    """Turn a choice of the best few into soft gates over all. False where the number chosen is no attribute."""
    changed = False
    for module in model.get_submodule(router.block).modules():
        for name, total in CHOSEN.items():
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, getattr(module, total) if total else router.count)
                changed = True
    return changed
