"""Classes read off a graph against training: what is proved stays, over small models and symmetric starts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symbreak.symmetry import Network, UnitGraph, algebra, certify, coarsest, unit_graph
from symbreak.symmetry.units import Partition

from .forwards import SMALL, Small

STEPS, RATE = 20, 0.01


@pytest.fixture(autouse=True)
def every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes as numbers, so that they can be compared after training up to round-off."""
    monkeypatch.setattr(algebra, "WIDE", 10**9)


def batch(case: Small, seed: int) -> Tensor:
    return torch.randn(case.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def start(model: nn.Module, kind: str, seed: int) -> None:
    """A start with much symmetry: constants, a few values, or a few rows and columns repeated."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    for p in model.parameters():
        if kind == "constant":
            p.fill_(0.3 if p.dim() > 1 else 0.1)
        elif kind == "constant tensors":
            p.copy_(draw(1).expand_as(p) * 0.5)
        else:  # copies: two kinds of rows and columns
            for k in range(min(p.dim(), 2)):
                kinds = torch.randint(0, 2, (p.shape[k],), generator=generator)
                p.copy_(p.index_select(k, kinds.clamp(max=p.shape[k] - 1)))


def trained(model: nn.Module, case: Small, *, adam: bool = False) -> None:
    generator = torch.Generator().manual_seed(9)
    kind = torch.optim.Adam if adam else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=RATE if not adam else 0.01)
    for step in range(STEPS):
        out = model(batch(case, step))
        target = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        (out - target).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # one number for all: it keeps every class
        optimizer.step()


def defect(network: Network, classes: Partition) -> float:
    """How far the classes are from holding: the largest difference of class sums or attributes within a class."""
    found = 0.0
    for space, table in network.attributes.items():
        found = max(found, spread(table, classes[space]))
    for b in network.blocks:
        taps = b.weight if b.weight.ndim == 3 else b.weight[..., None]
        for k in range(taps.shape[2]):
            w = taps[..., k]
            found = max(found, spread(w @ one_hot(classes[b.source]), classes[b.target]))
            found = max(found, spread(w.T @ one_hot(classes[b.target]), classes[b.source]))
    return found


def one_hot(classes: np.ndarray) -> np.ndarray:
    return (classes[:, None] == np.arange(classes.max(initial=0) + 1)).astype(float)


def spread(table: np.ndarray, classes: np.ndarray) -> float:
    return max(
        (float(np.ptp(table[classes == c], axis=0).max(initial=0.0)) for c in set(classes.tolist())), default=0.0
    )


def merged(classes: Partition) -> int:
    return sum(len(c) - len(set(c.tolist())) for c in classes.values())


def read(model: nn.Module, case: Small) -> tuple[UnitGraph, Partition]:
    graph = unit_graph(model, batch(case, 0))
    classes = coarsest(graph.network)
    certify(graph.network, classes)
    return graph, classes


@pytest.mark.parametrize("kind", ["constant", "constant tensors", "copies"])
@pytest.mark.parametrize("case", SMALL, ids=repr)
def test_what_is_proved_stays_in_training(case: Small, kind: str) -> None:
    model = case.build()
    start(model, kind, seed=len(case.name))
    graph, classes = read(model, case)
    trained(model, case)
    again = unit_graph(model, batch(case, 0)).network
    assert again.sizes == graph.network.sizes
    assert defect(again, classes) < 1e-10


def test_the_measure_of_a_defect_sees_one() -> None:
    case = SMALL[0]
    model = case.build()
    start(model, "constant", 0)
    graph, _ = read(model, case)
    trained(model, case)
    wrong: Mapping[str, np.ndarray] = {s: np.zeros(n, np.int64) for s, n in graph.network.sizes.items()}
    assert defect(unit_graph(model, batch(case, 0)).network, wrong) > 1e-3
