"""The textbook models: what a spec builds, how it starts, and losses against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from symbreak.errors import BatchError, TargetError
from symbreak.nets import ACTIVATIONS, LOSSES, MLPRegressor, Spec, build, parse_spec
from symbreak.schemes import parse


def test_a_spec_is_read():
    assert parse_spec("linear") == Spec("linear")
    assert parse_spec("mlp:64-32:tanh") == Spec("mlp", (64, 32), "tanh")
    assert parse_spec("mlp:8").activation == "relu"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mpl:8", "no built-in model is called 'mpl'. Nearest: mlp"),
        ("linear:8", "takes nothing after its name"),
        ("mlp", "such as mlp:64-64:tanh"),
        ("mlp:", "such as mlp:64-64:tanh"),
        ("mlp:0-4", "positive whole numbers"),
        ("mlp:8--8:tanh", "positive whole numbers"),
        ("mlp:8:thanh", "Nearest: tanh"),
        ("mlp:8:tanh:relu", "no activation is called 'tanh:relu'"),
    ],
)
def test_a_malformed_spec_says_what_was_expected(text, message):
    with pytest.raises(TargetError, match=message):
        parse_spec(text)


def test_layers_have_clear_names():
    model = build("mlp:5-4:tanh", 3, 2, parse("kaiming"))
    assert [name for name, _ in model.named_parameters()] == [
        f"fc{number}.{part}" for number in (1, 2, 3) for part in ("weight", "bias")
    ]
    assert [tuple(layer.weight.shape) for layer in model if isinstance(layer, nn.Linear)] == [(5, 3), (4, 5), (2, 4)]
    assert isinstance(model.act2, nn.Tanh)
    assert [name for name, _ in build("linear", 3, 1, parse("zeros")).named_parameters()] == ["fc1.weight", "fc1.bias"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_runs(activation):
    model = build(f"mlp:4:{activation}", 3, 2, parse("kaiming"))
    assert model(torch.ones(5, 3)).shape == (5, 2)


def test_same_seed_same_weights_and_the_global_state_stays():
    before = torch.random.get_rng_state()
    one, two, other = (build("mlp:8:relu", 4, 2, parse("torch"), seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name])
        assert not torch.equal(weight, other.state_dict()[name])


def test_biases_are_zero_except_under_torchs_own_start():
    assert build("mlp:8:relu", 4, 2, parse("kaiming")).fc1.bias.count_nonzero() == 0
    assert build("mlp:8:relu", 4, 2, parse("constant(0.1)")).fc1.bias.count_nonzero() == 0
    bias = build("mlp:8:relu", 4, 2, parse("torch")).fc1.bias
    assert bias.count_nonzero() == 8
    assert bias.abs().max() <= 0.5


def test_the_perceptron_loss_gives_the_perceptron_update():
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0.3).long()
    model = build("perceptron", 4, 1, parse("normal(0.5)"))
    from symbreak.nets.losses import perceptron

    perceptron(model(x), y).backward()
    with torch.no_grad():
        weight, bias = model.fc1.weight[0], model.fc1.bias[0]
        update = torch.zeros(4)
        for features, label in zip(x, y, strict=True):  # Rosenblatt's rule, one sample at a time, from fixed weights
            fired = 1.0 if float(features @ weight + bias) >= 0 else 0.0
            update += (fired - float(label)) * features / 20
    torch.testing.assert_close(model.fc1.weight.grad[0], update)


def test_the_perceptron_at_zero_fires():
    from symbreak.nets.losses import perceptron

    z = torch.zeros(2, 1, requires_grad=True)
    perceptron(z, torch.tensor([0, 1])).backward()
    assert z.grad.flatten().tolist() == [0.5, 0.0]


def test_the_perceptron_of_several_classes_is_one_against_the_rest():
    from symbreak.nets.losses import perceptron

    z = torch.tensor([[1.0, -1.0, 1.0]], requires_grad=True)
    perceptron(z, torch.tensor([1])).backward()
    assert z.grad.tolist() == [[1.0, -1.0, 1.0]]


def test_losses_do_not_broadcast():
    output, target = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0])
    assert LOSSES["mse"](output, target).item() == 0.0
    assert LOSSES["l1"](output, target).item() == 0.0
    assert LOSSES["huber"](output, target).item() == 0.0


def test_class_numbers_become_columns():
    perfect = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert LOSSES["mse"](perfect, torch.tensor([0, 1])).item() == 0.0
    assert LOSSES["bce"](torch.zeros(2, 1), torch.tensor([0, 1])).item() == pytest.approx(0.6931, abs=1e-4)


def test_losses_complain_of_shapes_that_do_not_fit():
    with pytest.raises(BatchError, match=r"output has shape \(2, 3\), the target \(4,\)"):
        LOSSES["mse"](torch.zeros(2, 3), torch.zeros(4))
    with pytest.raises(BatchError, match="class number 7, but the model has 3 outputs"):
        LOSSES["bce"](torch.zeros(2, 3), torch.tensor([1, 7]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_estimators_wire_the_same_net_in_float64(activation):
    ours = build(f"mlp:5-4:{activation}", 3, 1, parse("kaiming"))
    theirs = MLPRegressor((5, 4), activation, random_state=0).build([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0]], [0.0, 1.0])
    assert str(theirs) == str(ours)
    assert {parameter.dtype for parameter in theirs.parameters()} == {torch.float64}
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
