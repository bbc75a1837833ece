"""zero-hidden, constant-hidden, zero-bias, random-bias-zero-weights, rows-or-columns, zeros-that-work, and what they
measure with: laws on drawn networks, other data, each claim made false."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from symbreak.explanations import QUESTIONS, Criterion, explain, lessons
from symbreak.explanations.lessons import Lesson, OptimizerName
from symbreak.explanations.problem import QuestionError, read
from symbreak.explanations.questions import (
    constant_hidden,
    random_bias,
    rows_or_columns,
    zero_bias,
    zero_hidden,
    zeros_that_work,
)
from symbreak.explanations.zeros import chain_ladder, product_ladder

CATALOGUE = zero_hidden.catalogue()
MINE = ("zero-hidden", "constant-hidden", "zero-bias", "random-bias-zero-weights", "rows-or-columns", "zeros-that-work")
ACTIVATIONS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "gaussian": CATALOGUE["gaussian"]}


def unmet(criteria: tuple[Criterion, ...]) -> list[str]:
    return [one.states for one in criteria if not one.met]


def drawn_lesson(seed: int, *, n: int = 12, n_features: int = 3, n_outputs: int = 2) -> Lesson:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_features, generator=generator, dtype=torch.float64)
    y = torch.randn(n, n_outputs, generator=generator, dtype=torch.float64) + 1
    return Lesson(x, y, n_outputs, nn.functional.mse_loss)


# ---- zeros in booleans, against training ----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    layers=st.integers(1, 4),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    masks=st.tuples(*[st.lists(st.booleans(), min_size=4, max_size=4)] * 2),
    seed=st.integers(0, 10**6),
)
def test_the_chain_rule_of_zeros_is_what_training_does(
    layers: int, activation: str, masks: tuple[list[bool], list[bool]], seed: int
) -> None:
    """Any set of zero tensors in an MLP: first non-zero gradients of plain torch, step by step."""
    weights, biases = (mask[:layers] for mask in masks)
    taught = drawn_lesson(seed)
    model = lessons.mlp((3, *[4] * (layers - 1), 2), ACTIVATIONS[activation])
    numbers = [[n for n, one in enumerate(mask, start=1) if one] for mask in (weights, biases)]
    lessons.randomise_(model, torch.Generator().manual_seed(seed), weights=numbers[0], biases=numbers[1])
    phi_0, slope_0 = zero_hidden.at_zero(ACTIVATIONS[activation]())
    said = chain_ladder(layers, phi_0=phi_0, slope_0=slope_0, weights=weights, biases=biases)
    assert lessons.train(model, taught, 2 * layers + 2, eta=0.05).wake == said


@settings(max_examples=40, deadline=None)
@given(
    paths=st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True), min_size=1, max_size=3),
    zero=st.sets(st.sampled_from("abcdef")),
    seed=st.integers(0, 10**6),
)
def test_the_ladder_of_a_sum_of_products_is_what_descent_does(
    paths: list[list[str]], zero: set[str], seed: int
) -> None:
    """Scalars, each path with a random coefficient of its own, so that nothing cancels by chance."""
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(itertools.chain(*paths)))
    value = {name: torch.tensor(0.0 if name in zero else rng.uniform(0.3, 1), dtype=torch.float64) for name in names}
    weights, target = rng.uniform(0.5, 1, len(paths)), rng.uniform(3, 4)
    wake: dict[str, int | None] = dict.fromkeys(names)
    for step in range(1, len(names) + 2):
        leaves = {name: one.clone().requires_grad_() for name, one in value.items()}
        terms = [
            w * torch.stack([leaves[name] for name in path]).prod() for w, path in zip(weights, paths, strict=True)
        ]
        (torch.stack(terms).sum() - target).square().backward()
        for name, leaf in leaves.items():
            assert leaf.grad is not None
            wake[name] = wake[name] or (step if float(leaf.grad) != 0 else None)
            value[name] = (leaf - 0.01 * leaf.grad).detach()
    assert product_ladder(paths, tuple(zero)) == wake


def test_known_ladders() -> None:
    assert lessons.ladder(chain_ladder(4, phi_0=0.5, slope_0=0.25)) == "1: W4 b4; 2: W3 b3; 3: W2 b2; 4: W1 b1"
    assert lessons.ladder(chain_ladder(3, phi_0=0.0, slope_0=1.0)) == "1: b3; never: W1 b1 W2 b2 W3"
    assert product_ladder([["head", "stem"], ["head", "gate", "branch", "stem"]], ["head", "gate"]) == {
        "head": 1, "stem": 2, "gate": 2, "branch": 3,
    }  # fmt: skip


def test_the_table_of_measured_ladders() -> None:
    """The oracle measured before this code was written; its steps count from 0."""
    table = Path(__file__).with_name("wake_mlp.csv")
    made = CATALOGUE | {"lrelu": nn.LeakyReLU}
    rows = [row for row in csv.reader(table.read_text().splitlines()) if row[0] in made]
    assert len(rows) > 60
    for activation, depth, biases, measured, _ in rows:
        phi_0, slope_0 = zero_hidden.at_zero(made[activation]())
        layers = int(depth)
        said = chain_ladder(layers, phi_0=phi_0, slope_0=slope_0, biases=[biases == "random"] * layers)
        steps = dict(pair.split(":") for pair in measured.replace(",", " ").split())
        for name, step in said.items():
            assert steps[lessons.letter(name)] == ("never" if step is None else str(step - 1)), (
                activation,
                depth,
                name,
            )


# ---- the loop and what it measures ----------------------------------------------------------------------------------


def test_training_is_the_hand_written_step() -> None:
    taught = drawn_lesson(0)
    model = lessons.randomise_(lessons.mlp((3, 4, 2), nn.Tanh), torch.Generator().manual_seed(0), biases=None)
    weights = [p.detach().numpy().copy() for p in model.parameters()]
    found = lessons.train(model, taught, 3, eta=0.1)
    x, y = taught.x.numpy(), taught.y.numpy()
    W1, b1, W2, b2 = weights
    for step in range(3):
        h = np.tanh(x @ W1.T + b1)
        residual = h @ W2.T + b2 - y
        assert found.losses[step] == pytest.approx((residual**2).mean(), rel=1e-12)
        delta = 2 * residual / residual.size
        back = (delta @ W2) * (1 - h**2)
        W2, b2 = W2 - 0.1 * delta.T @ h, b2 - 0.1 * delta.sum(axis=0)
        W1, b1 = W1 - 0.1 * back.T @ x, b1 - 0.1 * back.sum(axis=0)
    for p, w in zip(model.parameters(), (W1, b1, W2, b2), strict=True):
        assert np.allclose(p.detach().numpy(), w, rtol=1e-12, atol=1e-14)


def test_copies_count_as_one_unit() -> None:
    taught = drawn_lesson(1)
    model = lessons.randomise_(lessons.mlp((3, 5, 2), nn.Tanh), torch.Generator().manual_seed(0))
    assert lessons.distinct(model, taught) == (5,)
    rows_or_columns.tie_rows_(model, 1)
    assert lessons.distinct(model, taught) == (4,)


@pytest.mark.parametrize(("rows", "says"), [(3, "3 samples; a network is taught from 4 on"), (8, "every feature is")])
def test_data_no_network_learns_from(rows: int, says: str) -> None:
    X = np.ones((rows, 2)) if rows == 8 else np.eye(3, 2)
    with pytest.raises(QuestionError, match=says):
        explain("zero-hidden", (X, np.arange(rows) % 2))


def test_balanced_classes_lose_a_sample_and_a_quantity_its_mean_and_both_are_said() -> None:
    iris, taught = lessons.lesson(read("iris"))
    assert len(taught.x) == 149
    assert "last sample left out" in iris.about
    diabetes, taught = lessons.lesson(read("diabetes"))
    assert float(taught.y.mean()) == pytest.approx(1)
    assert "1 added" in diabetes.about
    assert len(lessons.lesson(read("wine"))[1].x) == 178


# ---- every question -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", MINE)
@pytest.mark.parametrize("data", ["diabetes", "xor"])
def test_it_settles_on_a_quantity_and_on_four_samples(question: str, data: str) -> None:
    asked = QUESTIONS[question]
    found = asked.experiment(read(data, most=100), 1)
    assert found.settled, unmet(found.criteria)


def test_nothing_is_drawn_from_the_global_random_state() -> None:
    before = torch.get_rng_state()
    first = explain("zero-bias", "xor", seed=3)
    zeros_that_work.run(zeros_that_work.designs()[1], (), drawn_lesson(0), 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert explain("zero-bias", "xor", seed=3).to_json() == first.to_json()


def test_a_wrong_prediction_is_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if phi(0) did not matter: 'zero weights, so nothing learns'."""

    def popular(layers: int, **_: float) -> dict[str, int | None]:
        return chain_ladder(layers, phi_0=0.0, slope_0=1.0)

    monkeypatch.setattr(zero_hidden, "chain_ladder", popular)
    found = zero_hidden.experiment(read("xor"), 0)
    assert unmet(found.criteria) == [
        "tensors whose first step in training is not the one predicted from phi(0) and phi'(0)"
    ]


# ---- constant-hidden ------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    constant=st.floats(-0.6, 0.6).filter(lambda c: abs(c) > 0.05),
    bias=st.floats(-0.5, 0.5),
    activation=st.sampled_from(["tanh", "sigmoid", "gelu"]),
    optimizer=st.sampled_from(["sgd", "momentum", "adam", "adamw"]),
    seed=st.integers(0, 100),
)
def test_one_unit_with_the_prescribed_steps_is_the_constant_network(
    constant: float, bias: float, activation: str, optimizer: OptimizerName, seed: int
) -> None:
    taught = drawn_lesson(seed)
    pair = constant_hidden.side_by_side(
        taught, ACTIVATIONS[activation], constant=constant, bias=bias, optimizer=optimizer
    )
    assert pair.apart <= 1e-9
    assert pair.drift <= 1e-9


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_with_the_same_learning_rate_it_is_not(optimizer: OptimizerName) -> None:
    taught = drawn_lesson(0)
    pair = constant_hidden.side_by_side(taught, nn.Tanh, constant=0.3, optimizer=optimizer, scaled=False)
    assert pair.apart > 1e-3


# ---- zero-bias ------------------------------------------------------------------------------------------------------


def test_centred_features_leave_no_relu_unit_dead_and_a_large_negative_bias_all() -> None:
    x = drawn_lesson(0, n=60).x
    assert zero_bias._dead(x - x.mean(dim=0), 0.0, 0) == 0
    assert zero_bias._dead(x, -100.0, 0) == 1
    assert zero_bias._dead(x, 100.0, 0) == 0


def test_the_rarest_class_is_thinned_out_whichever_it_is() -> None:
    entropy, with_prior, with_zero = zero_bias._rare(np.repeat([0, 1, 2], [50, 20, 40]))
    p = np.array([50, 2, 40]) / 92
    assert entropy == pytest.approx(-(p * np.log(p)).sum())
    assert with_prior == pytest.approx(entropy)
    assert with_zero == pytest.approx(np.log(3))


def test_the_forget_bias_goes_to_the_forget_gate() -> None:
    """Were it another gate, the kept gradient would not move by many orders."""
    taught = drawn_lesson(0)
    kept = [zero_bias._kept(taught, bias, 0) for bias in (0.0, 1.0, 3.0)]
    assert kept[1] / kept[0] > 1e4
    assert kept[2] > 0.05


# ---- random-bias-zero-weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_first_gradients_go_with_powers_of_eta(seed: int) -> None:
    taught = drawn_lesson(seed)
    small, smaller = (random_bias.first_gradients(taught, eta, seed) for eta in (1e-3, 1e-4))
    powers = np.log10(np.array(small) / np.array(smaller))
    assert powers == pytest.approx([0, 1, 3, 7], abs=0.1)


def test_w1_wakes_with_rank_one_and_random_weights_do_not() -> None:
    taught = drawn_lesson(0)
    assert random_bias.rank_one(taught, 0) < 1e-9
    model = lessons.randomise_(lessons.mlp((3, 16, 2), nn.Tanh), torch.Generator().manual_seed(0))
    before = lessons.layers_of(model)[0].weight.detach().clone()
    lessons.train(model, taught, 2)
    sizes = torch.linalg.svdvals(lessons.layers_of(model)[0].weight.detach() - before)
    assert float(sizes[1] / sizes[0]) > 1e-3


# ---- rows-or-columns ------------------------------------------------------------------------------------------------


def test_the_joint_swap_is_a_symmetry_and_no_pair_of_rows_or_columns_is_equal() -> None:
    """Every tensor is the same when units 0 and 1 of both layers change places at once, and not when of one alone."""
    case = next(one for one in rows_or_columns.CASES if one.name == "joint swap")
    first, between, last = lessons.layers_of(rows_or_columns.build(case, drawn_lesson(0), 0, nn.Tanh))
    swap = torch.tensor([1, 0, 2, 3, 4, 5])
    for layer in (first, between):
        assert torch.equal(layer.bias[swap], layer.bias)
    assert torch.equal(first.weight[swap], first.weight)
    assert torch.equal(between.weight[swap][:, swap], between.weight)
    assert torch.equal(last.weight[:, swap], last.weight)
    assert not torch.equal(between.weight[swap], between.weight)
    assert not torch.equal(between.weight[:, swap], between.weight)
    W = between.weight.detach()
    rows = [float((a - b).abs().max()) for a, b in itertools.combinations(W, 2)]
    columns = [float((a - b).abs().max()) for a, b in itertools.combinations(W.T, 2)]
    assert min(rows + columns) > 1e-3


def test_fates() -> None:
    assert rows_or_columns.fate((0.0, 1e-9, 1e-8)) == "tied"
    assert rows_or_columns.fate((0.0, 1e-2, 1.0)) == "separates"
    assert rows_or_columns.fate((0.0, 0.0, 1.0)) == "late"
    assert rows_or_columns.fate((0.5, 0.4, 0.0)) == "different"


# ---- zeros-that-work ------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(which=st.integers(0, 5), data=st.data(), seed=st.integers(0, 100))
def test_any_set_of_zeros_wakes_as_the_products_say(which: int, data: st.DataObject, seed: int) -> None:
    """Not the published zeros alone: every subset of the factors, in plain training."""
    design = zeros_that_work.designs()[which]
    factors = list(dict.fromkeys(itertools.chain(*design.paths)))
    zero = tuple(data.draw(st.lists(st.sampled_from(factors), unique=True)))
    taught = drawn_lesson(seed)
    model = design.make(3, 2, torch.Generator().manual_seed(seed))
    for name, p in model.named_parameters():
        if name.removesuffix(".weight") in zero:
            p.data.zero_()
    found = lessons.train(model, taught, len(factors) + 1, eta=0.05)
    assert {name.removesuffix(".weight"): step for name, step in found.wake.items()} == product_ladder(
        design.paths, zero
    ), (design.name, zero)


def test_what_is_added_changes_nothing_only_while_its_zero_stands() -> None:
    lora = zeros_that_work.designs()[0]
    taught = drawn_lesson(0)
    assert zeros_that_work.run(lora, ("B",), taught, 0).added == 0
    assert zeros_that_work.run(lora, (), taught, 0).added > 0
