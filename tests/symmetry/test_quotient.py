"""The quotient and the full network, trained side by side; hand-made unit graphs, plain torch on both sides."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from symbreak.symmetry.quotient import ALIKE, Quotient, quotient_of
from symbreak.symmetry.units import SymmetryError

from .hand_made import layered

Params = Iterable[nn.Parameter]


class Lion(Optimizer):
    """Chen et al. 2023, arXiv:2302.06675, with decoupled decay."""

    def __init__(self, params: Params, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * (0.9 * m + 0.1 * p.grad).sign())
                m.mul_(0.99).add_(p.grad, alpha=0.01)


o = torch.optim
OPTIMIZERS: dict[str, Callable[[Params], Optimizer]] = {
    "sgd": lambda p: o.SGD(p, 0.05),
    "momentum": lambda p: o.SGD(p, 0.02, momentum=0.9),
    "nesterov": lambda p: o.SGD(p, 0.02, momentum=0.9, nesterov=True),
    "l2": lambda p: o.SGD(p, 0.02, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: o.Adam(p, 0.01),
    "amsgrad": lambda p: o.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: o.AdamW(p, 0.01, weight_decay=0.2),
    "nadam": lambda p: o.NAdam(p, 0.01),
    "radam": lambda p: o.RAdam(p, 0.01, weight_decay=0.2, decoupled_weight_decay=True),
    "adamax": lambda p: o.Adamax(p, 0.01),
    "rmsprop": lambda p: o.RMSprop(p, 0.005, momentum=0.5, centered=True),
    "adagrad": lambda p: o.Adagrad(p, 0.05),
    "adadelta": lambda p: o.Adadelta(p, 1.0),
    "asgd": lambda p: o.ASGD(p, 0.05, lambd=0.1, t0=20),
    "rprop": lambda p: o.Rprop(p, 0.01),
    "lion": lambda p: Lion(p, 0.003, weight_decay=0.2),
}
NONLINEAR: dict[str, Callable[[Params], Optimizer]] = {
    "adam+l2": lambda p: o.Adam(p, 0.01, weight_decay=0.1),
    "rmsprop+l2": lambda p: o.RMSprop(p, 0.005, weight_decay=0.1),
}
ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.Sigmoid, nn.GELU)


def symmetric(seed: int, *, uneven: bool) -> nn.Sequential:
    """A net whose hidden units are copies of a few, shuffled; uneven: equal sums, and no two equal units in the middle.

    Entries are multiples of 1/64, so that sums are exact.
    """
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randint(-40, 41, shape, generator=g, dtype=torch.float64) / 64
    act = ACTIVATIONS[seed % len(ACTIVATIONS)]
    one, two = (torch.randint(2, 5, (n,), generator=g) for n in (3, 2))
    at, to = (torch.repeat_interleave(torch.arange(len(c)), c)[torch.randperm(int(c.sum()), generator=g)]
              for c in (one, two))  # fmt: skip
    net = nn.Sequential(nn.Linear(4, len(at)), act(), nn.Linear(len(at), len(to)), act(), nn.Linear(len(to), 3))
    net = net.double()
    middle = draw(len(two), len(one))[to][:, at] / 2
    for c in range(len(two) * uneven):
        for d in range(len(one)):
            rows, columns = (to == c).nonzero()[:2, 0], (at == d).nonzero()[:2, 0]
            middle[rows[:, None], columns] += torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) * draw(1)
    with torch.no_grad():
        net[0].weight.copy_(draw(3, 4)[at])
        net[0].bias.copy_(draw(3)[at])
        net[2].weight.copy_(middle)
        net[2].bias.copy_(draw(2)[to])
        net[4].weight.copy_(draw(3, 2)[:, to] / 2)
        net[4].bias.copy_(draw(3))
    return net


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(16, 4, generator=g, dtype=torch.float64)
        yield x, torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin(), x.sum(1)], 1)


def trained(model: nn.Module, optimizer: Optimizer, steps: int, clip: Callable[[], Tensor] | None = None) -> Tensor:
    """The loss before each step."""
    found = []
    for x, y in batches(steps):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        if clip is not None:
            clip()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found)


def apart(model: nn.Module, q: Quotient) -> float:
    """The largest difference between the full weights and the expanded ones."""
    other = q.expand()
    return max(float((v - other[n]).abs().max()) for n, v in model.state_dict().items())


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), uneven=st.booleans())
def test_the_same_run(name: str, seed: int, uneven: bool) -> None:
    net = symmetric(seed, uneven=uneven)
    q = quotient_of(net, layered(net))
    assert q.merged
    assert q.keeps(name)
    small = trained(q.model, OPTIMIZERS[name](q.parameters()), 200)
    full = trained(net, OPTIMIZERS[name](net.parameters()), 200)
    assert (small - full).abs().max() < 1e-12
    assert full[-1] < 0.9 * full[0]
    assert apart(net, q) < 1e-9


@pytest.mark.parametrize("name", NONLINEAR)
def test_what_is_not_linear_in_the_weights_needs_equal_weights(name: str) -> None:
    net = symmetric(3, uneven=True)
    coarse, fine = quotient_of(net, layered(net)), quotient_of(net, layered(net), level="block-constant")
    assert not coarse.keeps(name)
    assert fine.keeps(name)
    assert coarse.size < fine.size
    runs = [trained(q.model, NONLINEAR[name](q.parameters()), 60) for q in (coarse, fine)]
    full = trained(net, NONLINEAR[name](net.parameters()), 60)
    assert (runs[0] - full).abs().max() > 1e-4
    assert (runs[1] - full).abs().max() < 1e-12
    even = symmetric(3, uneven=False)
    assert quotient_of(even, layered(even)).keeps(name)


def test_the_part_without_a_gradient_decays_along() -> None:
    """Its decay is told by one number that the same optimizer decays; without it the full weights come back wrong."""
    net = symmetric(5, uneven=True)
    q = quotient_of(net, layered(net))
    assert apart(net, q) == 0.0
    trained(q.model, OPTIMIZERS["adamw"](q.parameters()), 100)
    trained(net, OPTIMIZERS["adamw"](net.parameters()), 100)
    rest = q.model.get_parameter("2.weight_rest")
    assert rest.item() == pytest.approx((1 - 0.01 * 0.2) ** 100)
    assert apart(net, q) < 1e-12
    with torch.no_grad():
        rest.fill_(1.0)
    assert apart(net, q) > 1e-3


@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
def test_clipping_by_the_norm_of_the_full_gradient(norm_type: float) -> None:
    net = symmetric(2, uneven=True)
    q = quotient_of(net, layered(net))
    small = trained(q.model, o.SGD(q.parameters(), 0.5), 50, lambda: q.clip_grad_norm_(0.1, norm_type))
    clip = lambda: nn.utils.clip_grad_norm_(net.parameters(), 0.1, norm_type)
    full = trained(net, o.SGD(net.parameters(), 0.5), 50, clip)
    assert (small - full).abs().max() < 1e-12
    plain = quotient_of(symmetric(2, uneven=True), layered(symmetric(2, uneven=True)))
    wrong = trained(plain.model, o.SGD(plain.parameters(), 0.5), 50,
                    lambda: nn.utils.clip_grad_norm_(plain.parameters(), 0.1, norm_type))  # fmt: skip
    if norm_type < 3:
        assert (wrong - full).abs().max() > 1e-3


@pytest.mark.parametrize("penalty", [Tensor.square, Tensor.abs], ids=["l2", "l1"])
def test_a_penalty_on_the_weights_is_written_as_ever(penalty: Callable[[Tensor], Tensor]) -> None:
    """Its gradient is that of one full entry; its value counts a block once, and `multiplicity` has the full count."""
    net = symmetric(1, uneven=False)
    q = quotient_of(net, layered(net))
    assert q.keeps("l1", "l2")
    x, y = next(batches(1))
    full = sum(penalty(p).sum() for p in net.parameters())
    ((net(x) - y).square().mean() + full).backward()
    ((q(x) - y).square().mean() + sum(penalty(p).sum() for p in q.parameters())).backward()
    for (n, p), (_, small) in zip(net.named_parameters(), q.model.named_parameters(), strict=True):
        assert torch.allclose(p.grad, q._folds[n].spread(small.grad) if n in q._folds else small.grad, atol=1e-12)
    counted = sum((q.multiplicity[n] * penalty(p)).sum() for n, p in q.model.named_parameters())
    assert torch.allclose(counted, full)


def widened(net: nn.Sequential, copies: int) -> nn.Sequential:
    """Net2Wider (Chen et al. 2016): hidden units copied, what leaves them divided; the function is the same."""
    one, act, two = net
    wide = nn.Sequential(nn.Linear(one.in_features, one.out_features * copies), act,
                         nn.Linear(one.out_features * copies, two.out_features))  # fmt: skip
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(wide[0], name).copy_(getattr(one, name).repeat_interleave(copies, 0))
        wide[2].weight.copy_(two.weight.repeat_interleave(copies, 1) / copies)
        wide[2].bias.copy_(two.bias)
    return wide


@pytest.mark.parametrize("copies", [2, 3])
def test_a_widened_network_is_compressed_without_loss(copies: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    trained(net, o.Adam(net.parameters(), 0.01), 100)
    wide = widened(net.float(), copies)
    q = quotient_of(wide, layered(wide))
    assert q.size == (sum(p.numel() for p in net.parameters()), sum(p.numel() for p in wide.parameters()))
    assert q.widths == {"0": (12, 12 * copies), "2": (3, 3)}
    back = q.expand()
    assert all(torch.equal(v, back[n]) for n, v in wide.state_dict().items())
    x = torch.randn(50, 4)
    assert torch.allclose(q(x), net(x), atol=1e-5)


def test_the_full_model_stays_and_the_small_one_stands_alone() -> None:
    net = symmetric(4, uneven=True)
    before = copy.deepcopy(net.state_dict())
    q = quotient_of(net, layered(net))
    trained(q.model, OPTIMIZERS["sgd"](q.parameters()), 5)
    after = net.state_dict()
    assert all(torch.equal(v, after[n]) for n, v in before.items())
    assert all(p.grad is None for p in net.parameters())
    assert type(net[0]) is nn.Linear
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in q.parameters()}


def test_copies_pickles_and_state_dicts() -> None:
    net = symmetric(4, uneven=True)
    q = quotient_of(net, layered(net))
    x, _ = next(batches(1))
    for other in (copy.deepcopy(q.model), pickle.loads(pickle.dumps(q.model))):
        assert torch.equal(other(x), q(x))
        other(x).sum().backward()
        q.model.zero_grad()
        q(x).sum().backward()
        pairs = zip(other.parameters(), q.parameters(), strict=True)
        assert all(torch.equal(p.grad, mine.grad) for p, mine in pairs)
    stored = io.BytesIO()
    torch.save(q.model.state_dict(), stored)
    stored.seek(0)
    with torch.no_grad():
        for p in q.parameters():
            p.add_(1.0)
    q.model.load_state_dict(torch.load(stored))
    assert apart(net, q) == 0.0


def test_it_moves_and_runs_as_any_module_does() -> None:
    net = symmetric(4, uneven=True)
    q = quotient_of(net, layered(net))
    x, _ = next(batches(1))
    wanted = q(x)
    q.model.float()
    assert q(x.float()).dtype == torch.float32
    assert torch.allclose(q(x.float()).double(), wanted, atol=1e-5)
    assert torch.allclose(q.expand()["2.weight"].double(), net[2].weight, atol=1e-6)
    shifted = {n: p + 1 for n, p in q.model.named_parameters()}
    other = torch.func.functional_call(q.model, shifted, (x.float(),))
    assert not torch.allclose(other, q(x.float()))
    each = torch.func.vmap(
        torch.func.grad(lambda p, row: torch.func.functional_call(q.model, p, (row,)).sum()), (None, 0)
    )
    grads = each(dict(q.model.named_parameters()), x.float())
    q(x.float()).sum().backward()
    mine = {n: p.grad for n, p in q.model.named_parameters()}
    assert all(torch.allclose(g.sum(0), mine[n], atol=1e-5) for n, g in grads.items())


def test_no_two_units_alike() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    q = quotient_of(net, layered(net))
    assert not q.merged
    assert "no two units are one" in str(q)
    assert q.keeps("muon", "dropout")  # it is the network itself
    assert q.size[0] == q.size[1]
    assert apart(net, q) == 0.0


def test_what_is_said_of_updates() -> None:
    net = symmetric(4, uneven=False)
    q = quotient_of(net, layered(net))
    assert not q.keeps("muon")  # the classes stay, yet singular values of the small matrix are others
    assert q.certificate.keeps("muon")
    assert not q.keeps("adam", "dropout")
    with pytest.raises(SymmetryError, match="nothing is proved of the update 'adamm'"):
        q.keeps("adamm")
    assert set(OPTIMIZERS) | set(NONLINEAR) <= ALIKE  # every name that is claimed here was run above
    assert str(q).startswith("Sequential: ")
