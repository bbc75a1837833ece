"""Two couplings in a row: A's units are read by B alone, and B's units by C alone. The place for a joint swap."""

import random
from dataclasses import dataclass

from torch import Tensor, nn

from real_models import zoo
from real_models.couplings import Coupling, proposals, survives_a_swap, wake_every_branch


@dataclass(frozen=True)
class Chain:
    """`first` ends at the layer where `second` begins."""

    first: Coupling
    second: Coupling

    def __str__(self) -> str:
        return f"{self.first} -> {self.second.consumer}"

    @property
    def layers(self) -> tuple[str, ...]:
        return (*self.first.layers, *self.second.layers)

    def middle(self, model: nn.Module) -> Tensor:
        """The weight of the layer in the middle as [unit of A, entry of its block, unit of B, ...]."""
        return self.first.readers(model)


def find_chains(case: zoo.Case, wanted: int, seed: int) -> list[Chain]:
    """Up to `wanted` chains whose couplings both passed the swap. The model must be float64 and is changed."""
    wake_every_branch(case.model)
    candidates = list(proposals(case))
    pairs = [(a, b) for a in candidates for b in candidates if a.consumer == b.producer]
    random.Random(f"{case.name}{seed}").shuffle(pairs)
    passed: dict[Coupling, bool] = {}
    found: list[Chain] = []
    for pair in pairs:
        if len(found) == wanted:
            break
        for coupling in pair:
            if coupling not in passed:
                passed[coupling] = survives_a_swap(case, coupling)
            if not passed[coupling]:
                break
        else:
            found.append(Chain(*pair))
    return found
