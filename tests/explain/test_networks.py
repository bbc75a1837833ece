"""gradient-size, linear-region, pretrained: other data, each claim made false, and the batched networks they train."""

from __future__ import annotations

import pytest
import torch

from symbreak.explanations import Criterion, many
from symbreak.explanations.problem import read
from symbreak.explanations.questions import gradient_size, linear_region, pretrained


def unmet(criteria: tuple[Criterion, ...]) -> list[str]:
    return [one.states for one in criteria if not one.met]


@pytest.mark.parametrize("data", ["diabetes", "xor"])
def test_gradient_size_on_a_quantity_and_on_four_samples(data: str) -> None:
    found = gradient_size.experiment(read(data), 0)
    assert found.settled, unmet(found.criteria)


def test_gradient_size_with_another_number_than_sqrt_2_is_not_settled() -> None:
    found = gradient_size.experiment(read("iris"), 0, gain=1.0)
    assert [one for one in unmet(found.criteria) if "std as recommended" in one]


@pytest.mark.parametrize("data", ["diabetes", "moons"])
def test_linear_region_on_a_quantity_and_on_two_features(data: str) -> None:
    found = linear_region.experiment(read(data), 0)
    assert found.settled, unmet(found.criteria)


@pytest.mark.parametrize("right", [{"tanh": 0.01, "sigmoid": 0.01}, {"tanh": 100.0, "sigmoid": 100.0}])
def test_linear_region_with_another_size_called_right_is_not_settled(right: dict[str, float]) -> None:
    found = linear_region.experiment(read("iris"), 0, right=right)
    assert len(unmet(found.criteria)) >= 4


@pytest.mark.parametrize("data", ["breast_cancer", "wine"])
def test_pretrained_on_two_classes_and_on_three(data: str) -> None:
    found = pretrained.experiment(read(data), 0)
    assert found.settled, unmet(found.criteria)


def test_pretrained_without_shrinking_is_not_settled() -> None:
    found = pretrained.experiment(read("wine"), 0, shrink=1.0)
    assert unmet(found.criteria) == ["new classes: first loss of shrink and perturb, of that of keep"]


@pytest.mark.parametrize("data", ["iris", "diabetes"])
def test_networks_trained_together_are_those_trained_alone_by_torch(data: str) -> None:
    problem = linear_region._prepared(read(data), 0)
    x, loss, n_out = many.tensors(problem)
    nets = many.draw((x.shape[1], 5, n_out), (0.5, 0.5), 3, torch.tanh, seed=1)
    etas = torch.tensor([0.01, 0.05, 0.002])
    _, found = many.train(nets, x, loss, etas, 20, momentum=0.5)
    assert found.shape == (21, 3)
    y = torch.from_numpy(problem.y)
    for m in range(3):
        model = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 5), torch.nn.Tanh(), torch.nn.Linear(5, n_out))
        with torch.no_grad():
            for p, q in zip(model.parameters(), _in_order(nets, m), strict=True):
                p.copy_(q)
        optimizer = torch.optim.SGD(model.parameters(), lr=float(etas[m]), momentum=0.5)
        for step in range(20):
            optimizer.zero_grad()
            if problem.task == "classification":
                value = torch.nn.functional.cross_entropy(model(x), y)
            else:
                value = torch.nn.functional.mse_loss(model(x)[:, 0], y.float()) / 2
            assert float(value.detach()) == pytest.approx(float(found[step, m]), rel=2e-4)
            value.backward()
            optimizer.step()


def _in_order(nets: many.Many, m: int) -> list[torch.Tensor]:
    return [part[m] for pair in zip(nets.weights, nets.biases, strict=True) for part in pair]
