"""The engine under the multilayer perceptrons: gradients against autograd, steps against torch.optim, the loop."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from symbreak.errors import ModelError
from symbreak.nets.backprop import in_one_vector
from symbreak.nets.objectives import HALF_SQUARES, LOGISTIC, SOFTMAX
from symbreak.nets.sharpness import _gradient_at, safe_eta, sharpness
from symbreak.nets.solvers import SOLVERS, TORCH, Adam, FromTorch, Sgd, SolverError, solver
from symbreak.nets.training import Plan, order, quietly, train
from symbreak.schemes import ACTIVATIONS, activation

OBJECTIVES = {"softmax": SOFTMAX, "logistic": LOGISTIC, "half_squares": HALF_SQUARES}
SPELLINGS = [*ACTIVATIONS, "leaky_relu(0.2)", "gelu('tanh')", "sin(30)", "softshrink(0.1)", "prelu(0.1)"]


def chain(*widths: int, phi: str = "tanh", seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.utils.skip_init(nn.Linear, n_in, n_out), activation(phi).module()]
    net = nn.Sequential(*layers[:-1]).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in net:
            for weight in layer.parameters() if isinstance(layer, nn.Linear) else ():
                weight.normal_(0.0, 0.7, generator=generator)
    return net.eval()


def data(n: int, n_in: int, n_out: int, kind: str, seed: int = 1, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, n_in, generator=generator, dtype=dtype)
    if kind == "half_squares":
        return X, torch.randn(n, n_out, generator=generator, dtype=dtype)
    if kind == "logistic":
        return X, torch.randint(0, 2, (n, n_out), generator=generator).to(dtype)
    return X, nn.functional.one_hot(torch.randint(0, n_out, (n,), generator=generator), n_out).to(dtype)


def by_autograd(net: nn.Sequential, objective, X, Y, alpha: float = 0.0):
    loss = objective(net(X), Y)
    for layer in net:
        if isinstance(layer, nn.Linear):
            loss = loss + alpha / 2 * layer.weight.square().sum()
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    whole = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, net.parameters(), strict=True)]
    return loss.detach(), torch.cat([one.reshape(-1) for one in whole])


@pytest.mark.parametrize("phi", SPELLINGS)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_gradients_are_those_of_autograd(phi, kind):
    net = chain(5, 7, 6, 3, phi=phi)
    X, Y = data(11, 5, 3, kind)
    loss, gradient = by_autograd(net, OBJECTIVES[kind], X, Y, alpha=0.3)
    with in_one_vector(net, OBJECTIVES[kind], alpha=0.3) as backprop:
        ours = backprop(X, Y)
        torch.testing.assert_close(ours, loss, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            backprop.gradient, gradient, rtol=1e-10, atol=1e-12 * float(1 + gradient.abs().max())
        )


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    n=st.integers(1, 9),
    phi=st.sampled_from(["relu", "tanh", "sigmoid", "identity", "gelu", "prelu"]),
    kind=st.sampled_from(sorted(OBJECTIVES)),
    alpha=st.sampled_from([0.0, 0.5]),
)
def test_gradients_of_any_depth_width_and_batch(widths, n, phi, kind, alpha):
    net = chain(*widths, phi=phi)
    X, Y = data(n, widths[0], widths[-1], kind)
    loss, gradient = by_autograd(net, OBJECTIVES[kind], X, Y, alpha)
    with in_one_vector(net, OBJECTIVES[kind], alpha=alpha) as backprop:
        torch.testing.assert_close(backprop(X, Y), loss, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(backprop.gradient, gradient, rtol=1e-9, atol=1e-11)


def test_float32_goes_through_too():
    net = chain(4, 5, 2, phi="tanh", dtype=torch.float32)
    X, Y = data(8, 4, 2, "softmax", dtype=torch.float32)
    _, gradient = by_autograd(net, SOFTMAX, X, Y)
    with in_one_vector(net, SOFTMAX) as backprop:
        backprop(X, Y)
        torch.testing.assert_close(backprop.gradient, gradient)


def test_odd_activations_stay_exactly_odd():
    """The sign mirror is a symmetry of the net, and no faster tanh may break it in the last bit."""
    from symbreak.nets.backprop import KNOWN

    z = torch.randn(64, 64, dtype=torch.float64) * torch.logspace(-300, 2, 64, dtype=torch.float64)
    phi, _ = KNOWN[nn.Tanh]
    assert torch.equal(phi(-z), -phi(z))
    torch.testing.assert_close(phi(z), torch.tanh(z), rtol=1e-15, atol=0)


def test_a_step_function_gives_no_gradient_below():
    class Step(nn.Module):
        def forward(self, z):
            return (z.detach() >= 0).to(z.dtype)

    net = nn.Sequential(nn.Linear(3, 4), Step(), nn.Linear(4, 2)).double()
    X, Y = data(6, 3, 2, "softmax")
    with in_one_vector(net, SOFTMAX) as backprop:
        backprop(X, Y)
        below, above = backprop.gradient.split([16, 10])
        assert below.count_nonzero() == 0
        assert above.count_nonzero() > 0


def test_only_chains_of_linear_and_elementwise_are_taken():
    with (
        pytest.raises(ModelError, match="Sequential is no elementwise activation"),
        in_one_vector(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU())), SOFTMAX),
    ):
        pass


def test_afterwards_every_parameter_has_its_own_memory_and_no_gradient():
    net = chain(3, 4, 2)
    before = [p.detach().clone() for p in net.parameters()]
    with in_one_vector(net, SOFTMAX) as backprop:
        backprop.theta.add_(1)
    for parameter, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(parameter.detach(), old + 1)
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 8
        assert parameter.grad is None


# Solvers -------------------------------------------------------------------------------------------------------------


def walk(stepper, steps: int = 50):
    theta = torch.linspace(-1, 1, 7, dtype=torch.float64)
    curvature = torch.linspace(0.1, 3, 7, dtype=torch.float64)
    path = []
    for _ in range(steps):
        stepper.step(theta, curvature * theta)
        path.append(theta.clone())
    return torch.stack(path)


def walk_of_torch(make, steps: int = 50):
    theta = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    curvature = torch.linspace(0.1, 3, 7, dtype=torch.float64)
    optimizer, path = make([theta]), []
    for _ in range(steps):
        theta.grad = (curvature * theta).detach()
        optimizer.step()
        path.append(theta.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.0, True), (0.9, False), (0.9, True)])
def test_sgd_is_torchs_bit_for_bit(momentum, nesterov):
    theirs = walk_of_torch(
        functools.partial(torch.optim.SGD, lr=0.1, momentum=momentum, nesterov=nesterov and momentum > 0)
    )
    assert torch.equal(walk(Sgd(0.1, momentum=momentum, nesterov=nesterov)), theirs)


def test_adam_is_torchs_but_for_rounding():
    theirs = walk_of_torch(functools.partial(torch.optim.Adam, lr=0.1))
    torch.testing.assert_close(walk(Adam(0.1)), theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_trains(name):
    net = chain(4, 6, 3, phi="tanh")
    X, Y = data(30, 4, 3, "softmax")
    with in_one_vector(net, SOFTMAX) as backprop:
        stepper = solver(name, net.parameters(), 0.05, momentum=0.9, nesterov=True)
        course = train(backprop, stepper, X, Y, Plan(batch_size=10, max_epochs=40))
    assert course.losses[-1] < 0.5 * course.losses[0]


def test_a_torch_optimizer_sees_whole_matrices():
    net = chain(4, 6, 3)
    made = solver(torch.optim.Adadelta, net.parameters(), 0.1, momentum=0.0, nesterov=False)
    assert isinstance(made, FromTorch)
    assert [tuple(p.shape) for p in made.optimizer.param_groups[0]["params"]] == [(6, 4), (6,), (3, 6), (3,)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("adma", "no solver is called 'adma'. Nearest: adam"),
        (3, "solver=3: expected one of sgd, adam"),
        (torch.optim.LBFGS, "LBFGS asks for the loss several times a step"),
        (lambda parameters, lr: None, "made a NoneType; expected a torch.optim.Optimizer"),
        (lambda parameters: None, r"was called as factory\(parameters, lr=0.1\) and raised"),
    ],
)
def test_a_bad_solver_is_explained(given, message):
    with pytest.raises(SolverError, match=message) as caught:
        solver(given, [nn.Parameter(torch.ones(2, 2))], 0.1, momentum=0.0, nesterov=False)
    assert isinstance(caught.value, ValueError)


def test_names_of_solvers_are_unique():
    assert len(set(SOLVERS)) == len(SOLVERS) == 2 + len(TORCH)


# The loop ------------------------------------------------------------------------------------------------------------


def trained(plan: Plan, eta: float = 0.1, n: int = 23, phi: str = "tanh"):
    net = chain(4, 5, 3, phi=phi)
    X, Y = data(n, 4, 3, "softmax")
    with in_one_vector(net, SOFTMAX) as backprop:
        course = train(backprop, Sgd(eta), X, Y, plan)
        return course, backprop.theta.clone()


def test_every_sample_is_seen_once_an_epoch():
    rows = [order(17, seed=3, epoch=epoch) for epoch in range(4)]
    assert all(torch.equal(one.sort().values, torch.arange(17)) for one in rows)
    assert len({tuple(one.tolist()) for one in rows}) == 4
    assert not torch.equal(rows[0], order(17, seed=4, epoch=0))


def test_epochs_in_one_call_or_in_several_are_the_same_training():
    whole, theta = trained(Plan(batch_size=5, max_epochs=4, seed=9))
    net = chain(4, 5, 3)
    X, Y = data(23, 4, 3, "softmax")
    parts = []
    for epoch in range(4):
        with in_one_vector(net, SOFTMAX) as backprop:
            parts += train(backprop, Sgd(0.1), X, Y, Plan(5, 1, seed=9, epochs_before=epoch)).losses
            end = backprop.theta.clone()
    assert tuple(parts) == whole.losses
    assert torch.equal(end, theta)


def test_it_stops_where_the_loss_no_longer_falls():
    course, _ = trained(Plan(batch_size=23, max_epochs=1000, tol=1.0, patience=3))
    assert course.ended == "tol"
    assert course.steps == 5  # the first epoch improves on nothing; then patience + 1 quiet ones
    assert trained(Plan(batch_size=23, max_epochs=30, tol=None))[0].ended == "epochs"


def test_divergence_names_the_step_and_keeps_the_best_weights():
    net = nn.Sequential(nn.Linear(1, 1)).double()
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    X = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    with in_one_vector(net, HALF_SQUARES) as backprop:
        course = train(backprop, Sgd(1e100), X, 3 * X, Plan(batch_size=2, max_epochs=50))
        # the loss is quadratic with curvature 1: |error| x (1e100 - 1) a step, so its square overflows at step 3
        assert (course.ended, course.diverged_step) == ("diverged", 3)
        assert torch.equal(backprop.theta, torch.ones(2, dtype=torch.float64))
        assert all(map(math.isfinite, course.losses))


def test_divergence_is_found_within_an_epoch():
    net = nn.Sequential(nn.Linear(1, 1)).double()
    X = torch.ones(10, 1, dtype=torch.float64)
    with in_one_vector(net, HALF_SQUARES) as backprop:
        start = backprop.theta.clone()
        course = train(backprop, Sgd(1e100), X, 3 * X, Plan(batch_size=1, max_epochs=2))
        assert course.ended == "diverged"
        assert 2 <= course.diverged_step <= 5
        assert torch.equal(backprop.theta, start)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(limits=2, user_api="blas"):
        yield
    torch.set_num_threads(before)


def blas_threads():
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


@pytest.mark.usefixtures("two_threads")
def test_threads_modes_and_random_states_come_back():
    net, state, blas = chain(3, 4, 2), torch.random.get_rng_state(), blas_threads()

    def trains_and_raises():
        with quietly(net, 8):
            assert net.training
            assert torch.get_num_threads() == 1
            assert blas_threads() == {1}
            torch.rand(3)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        trains_and_raises()
    assert not net.training
    assert torch.get_num_threads() == 2
    assert blas_threads() == blas
    assert torch.equal(torch.random.get_rng_state(), state)


# Sharpness -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("widths", [(3, 2), (2, 2, 2), (6, 8, 3)])
def test_sharpness_is_the_largest_eigenvalue_of_the_whole_hessian(kind, widths):
    net = chain(*widths)
    X, Y = data(20, widths[0], widths[-1], kind)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    shapes = [p.shape for p in parameters.values()]

    def loss(theta):
        parts = theta.split([math.prod(shape) for shape in shapes])
        named = {name: part.view(s) for name, part, s in zip(parameters, parts, shapes, strict=True)}
        return OBJECTIVES[kind](torch.func.functional_call(net, named, X), Y)

    theta = torch.cat([p.reshape(-1) for p in parameters.values()])
    whole = torch.autograd.functional.hessian(loss, theta)
    largest = float(torch.linalg.eigvalsh(whole)[-1])
    with in_one_vector(net, OBJECTIVES[kind]) as backprop:
        assert sharpness(_gradient_at(backprop, X, Y), theta.numpy()) == pytest.approx(largest, rel=5e-3)


def test_sharpness_is_no_number_where_the_gradient_is_none():
    assert math.isnan(sharpness(lambda theta: theta * np.inf, np.ones(3)))


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_a_safe_eta_is_half_the_limit_of_a_quadratic(momentum, nesterov):
    net = chain(3, 1)
    X, Y = data(40, 3, 1, "half_squares")
    A = torch.hstack([X, torch.ones(40, 1)])
    largest = float(torch.linalg.eigvalsh(A.T @ A / 40)[-1])
    with in_one_vector(net, HALF_SQUARES) as backprop:
        before = backprop.theta.clone()
        whole = safe_eta(backprop, [(X, Y)], momentum=momentum, nesterov=nesterov, stochastic=False)
        parts = safe_eta(backprop, [(X, Y)], momentum=momentum, nesterov=nesterov, stochastic=True)
        assert torch.equal(backprop.theta, before)
    limit = 2 * (1 + momentum) / (1 + 2 * momentum if nesterov else 1) / largest
    assert whole == pytest.approx(limit / 2, rel=5e-3)
    assert parts == pytest.approx((1 - momentum) / largest, rel=5e-3)


def test_a_safe_eta_is_tried_out():
    """Targets a thousand times the outputs: the curvature at the start says nothing of where the first steps lead."""
    net, plan = chain(3, 8, 8, 8, 8, 1, phi="gelu"), Plan(40, 300)
    X, Y = data(40, 3, 1, "half_squares")
    Y = 1000 * Y
    with in_one_vector(net, HALF_SQUARES) as backprop:
        start = backprop.theta.clone()
        h = sharpness(_gradient_at(backprop, X, Y), start.numpy())
        backprop.theta.copy_(start)
        eta = safe_eta(backprop, [(X, Y)], momentum=0.0, nesterov=False, stochastic=False)
        assert eta < 1 / h
        tried = train(backprop, Sgd(eta), X, Y, plan)
        backprop.theta.copy_(start)
        untried = train(backprop, Sgd(1 / h), X, Y, plan)
    assert tried.losses[-1] < tried.losses[0]
    assert untried.ended == "diverged"


def test_numbers_of_objectives_agree_with_torchs():
    output, classes = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0])
    np.testing.assert_allclose(SOFTMAX(output, classes), nn.functional.cross_entropy(output, classes), rtol=1e-14)
    target = torch.tensor([0, 1, 1, 0, 1, 1])
    np.testing.assert_allclose(
        LOGISTIC(output[:, :1], target),
        nn.functional.binary_cross_entropy_with_logits(output[:, 0], target.double()),
        rtol=1e-14,
    )
    np.testing.assert_allclose(
        HALF_SQUARES(output[:, :1], target), nn.functional.mse_loss(output[:, 0], target.double()) / 2, rtol=1e-14
    )
