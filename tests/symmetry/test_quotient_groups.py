"""Quotients of layers whose units lie in groups: norms, convolutions, heads of attention; and of weights g v / |v|.

Nets are drawn with classes that lie in groups alike, and trained side by side with their quotient, as plain torch.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import symbreak as sb
from symbreak.symmetry.quotient import Quotient

from .test_quotient import OPTIMIZERS, apart

Norm = Callable[[nn.Module], nn.Module]


def old_weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch would like the new one
        found: nn.Module = nn.utils.weight_norm(module)
    return found


class Draw:
    """Classes and the entries that they share."""

    def __init__(self, seed: int) -> None:
        self.g = torch.Generator().manual_seed(seed)

    def whole(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=self.g))

    def plain(self, n: int, classes: int) -> Tensor:
        """[n] the class of each unit, every class at least once."""
        at = torch.cat([torch.arange(classes), torch.randint(0, classes, (n - classes,), generator=self.g)])
        return at[torch.randperm(n, generator=self.g)]

    def grouped(self, groups: int, *sizes: int, even: bool = False) -> list[Tensor]:
        """[groups x size] classes along some axes: groups of one kind hold the same ones, in any order."""
        kinds = self.plain(groups, self.whole(1, groups - 1))
        found = []
        for size in sizes:
            patterns, start = [], 0
            both = self.whole(1, size)
            for _ in range(int(kinds.max()) + 1):
                classes = both if even else self.whole(1, size)
                patterns.append(start + self.plain(size, classes))
                start += classes
            rows = [patterns[k][torch.randperm(size, generator=self.g)] for k in kinds]
            found.append(torch.cat(rows))
        return found

    @torch.no_grad()
    def fill(self, tensor: Tensor, *axes: Tensor | None, scale: float = 1.0) -> None:
        """Random entries, equal where the classes along these axes are."""
        at = [torch.arange(n) if a is None else a for n, a in zip(tensor.shape, axes, strict=False)]
        rest = tensor.shape[len(at) :]
        table = torch.randn(*(int(a.max()) + 1 for a in at), *rest, generator=self.g, dtype=torch.float64) * scale
        for axis, a in enumerate(at):
            table = table.index_select(axis, a)
        tensor.copy_(table)

    def kernels(self, conv: nn.Conv2d, out: Tensor, into: Tensor) -> None:
        """Kernels of a convolution in groups, by the classes that they join."""
        read = into.reshape(conv.groups, -1).repeat_interleave(conv.out_channels // conv.groups, 0)
        size = int(out.max()) + 1, int(into.max()) + 1
        table = torch.randn(*size, *conv.kernel_size, generator=self.g, dtype=torch.float64) / 2
        with torch.no_grad():
            conv.weight.copy_(table[out[:, None], read])


def count(at: Tensor) -> tuple[int, int]:
    return len(at.unique()), len(at)


Drawn = tuple[nn.Module, Tensor, dict[str, tuple[int, int]]]


def group_norm(seed: int) -> Drawn:
    """Classes that lie in whole groups, or alike in several; no bias in front, as it may have no gradient."""
    d = Draw(seed)
    groups, size = d.whole(2, 4), d.whole(2, 3)
    (c,) = d.grouped(groups, size)
    net = nn.Sequential(
        nn.Conv1d(2, len(c), 2, bias=False), nn.GroupNorm(groups, len(c)), nn.Tanh(), nn.Conv1d(len(c), 2, 2),
        nn.Flatten(),
    ).double()  # fmt: skip
    for tensor, *axes in ((net[0].weight, c), (net[1].weight, c), (net[1].bias, c), (net[3].weight, None, c)):
        d.fill(tensor, *axes, scale=0.5)
    return net, torch.randn(8, 2, 5, generator=d.g, dtype=torch.float64), {"0": count(c), "3": (2, 2)}


def grouped(seed: int, *, even: bool = False) -> Drawn:
    """A convolution in groups, and one with one channel a group and several kernels for it."""
    d = Draw(seed)
    groups = d.whole(2, 4)
    a, b = d.grouped(groups, d.whole(1, 3), d.whole(1, 3), even=even)
    net = nn.Sequential(
        nn.Conv2d(2, len(a), 2), nn.Tanh(), nn.Conv2d(len(a), len(b), 2, groups=groups), nn.Tanh(),
        nn.Conv2d(len(b), 2 * len(b), 1, groups=len(b)), nn.Tanh(), nn.Conv2d(2 * len(b), 2, 1), nn.Flatten(),
    ).double()  # fmt: skip
    c = torch.stack([2 * b, 2 * b + 1], 1).flatten()
    for tensor, *axes in ((net[0].weight, a), (net[0].bias, a), (net[2].bias, b), (net[4].bias, c),
                          (net[6].weight, None, c)):  # fmt: skip
        d.fill(tensor, *axes, scale=0.5)
    d.kernels(net[2], b, a)
    d.kernels(net[4], c, b)
    x = torch.randn(6, 2, 3, 3, generator=d.g, dtype=torch.float64)
    return net, x, {"0": count(a), "2": count(b), "4": count(c), "6": (2, 2)}


class Attentive(nn.Module):
    """A stream that one attention layer reads and writes; without biases, as that of the keys has no gradient."""

    def __init__(self, width: int, heads: int, **knobs: bool) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(3, width), nn.Linear(width, 2)
        self.mix = nn.MultiheadAttention(width, heads, **{"batch_first": True, "bias": False, **knobs})
        self.knobs: dict[str, bool] = {"need_weights": False}

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.read(x))
        mixed, weights = self.mix(h, h, h, **self.knobs)
        found: Tensor = self.write(h + mixed)
        return found if weights is None else found + weights.square().mean()


def attentive(seed: int, **knobs: bool) -> Drawn:
    d = Draw(seed)
    heads, size = d.whole(2, 3), d.whole(2, 3)
    pairs, values = d.grouped(heads, size, size)
    e = d.plain(heads * size, 3)
    net = Attentive(heads * size, heads, **knobs).double()
    n = int(pairs.max()) + 1
    rows = torch.cat([pairs, pairs + n, values + 2 * n])
    filled = [(net.read.weight, e), (net.read.bias, e), (net.write.weight, None, e), (net.mix.in_proj_weight, rows, e),
              (net.mix.out_proj.weight, e, values)]  # fmt: skip
    if net.mix.in_proj_bias is not None:
        filled += [(net.mix.in_proj_bias, rows), (net.mix.out_proj.bias, e)]
    if net.mix.bias_k is not None:
        filled += [(net.mix.bias_k[0, 0], pairs), (net.mix.bias_v[0, 0], values)]
    for tensor, *axes in filled:
        d.fill(tensor, *axes, scale=0.5)
    x = torch.randn(4, 3, 3, generator=d.g, dtype=torch.float64)
    return net, x, {"read": count(e), "mix.out_proj": count(e), "write": (2, 2)}


def normed(seed: int, norm: Norm = parametrizations.weight_norm) -> Drawn:
    d = Draw(seed)
    a, b = (d.plain(d.whole(4, 8), d.whole(2, 3)) for _ in range(2))
    net = nn.Sequential(nn.Conv1d(2, len(a), 2), nn.Tanh(), norm(nn.Conv1d(len(a), len(b), 2)), nn.Tanh(),
                        nn.Flatten(), norm(nn.Linear(3 * len(b), 2))).double()  # fmt: skip
    g, v = (dict(net[2].named_parameters())[n] for n in names(norm))
    for tensor, *axes in ((net[0].weight, a), (net[0].bias, a), (net[2].bias, b), (v, b, a), (g, b)):
        d.fill(tensor, *axes, scale=0.5)
    last = dict(net[5].named_parameters())[names(norm)[1]]
    d.fill(last, None, torch.stack([3 * b + n for n in range(3)], 1).flatten(), scale=0.5)
    return net, torch.randn(6, 2, 5, generator=d.g, dtype=torch.float64), {"0": count(a), "2": count(b), "5": (2, 2)}


def names(norm: Norm) -> tuple[str, str]:
    if norm is old_weight_norm:
        return "weight_g", "weight_v"
    return "parametrizations.weight.original0", "parametrizations.weight.original1"


FAMILIES: dict[str, Callable[[int], Drawn]] = {
    "group norm": group_norm, "grouped": grouped, "attention": attentive, "weight norm": normed,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def side_by_side(net: nn.Module, q: Quotient, x: Tensor, optimizer: str, steps: int) -> None:
    """Losses and weights of both sides, trained on the same targets, with a little noise in the inputs."""
    g = torch.Generator().manual_seed(0)
    shape = net(x).shape
    assert q(x).shape == shape
    y = torch.randn(shape, generator=g, dtype=torch.float64)
    sides = [(m, OPTIMIZERS[optimizer](m.parameters())) for m in (net, q.model)]
    losses = []
    for _ in range(steps):
        seen = x + 0.1 * torch.randn(x.shape, generator=g, dtype=torch.float64)
        row = []
        for model, opt in sides:
            opt.zero_grad()
            loss = (model(seen) - y).square().mean()
            loss.backward()
            opt.step()
            row.append(loss.item())
        losses.append(row)
    full, small = torch.tensor(losses, dtype=torch.float64).T
    assert (full - small).abs().max() < 1e-12
    assert full[-1] < full[0]
    assert apart(net, q) < 1e-9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@settings(max_examples=2, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**20), family=st.sampled_from(list(FAMILIES)))
def test_the_same_run(optimizer: str, seed: int, family: str) -> None:
    torch.manual_seed(seed)
    net, x, widths = FAMILIES[family](seed)
    q = sb.quotient(net, batch=x)
    assert q.widths == widths
    assert not q.kept
    assert q.keeps(optimizer)
    side_by_side(net, q, x, optimizer, 200)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_single_precision_as_in_double(family: str) -> None:
    """Sizes of classes, thirds and roots among what is made of them, must not be rounded to it."""
    net, x, widths = FAMILIES[family](1)
    q = sb.quotient(net.float(), batch=x.float())
    assert q.widths == widths
    assert not q.kept
    assert {p.dtype for p in q.parameters()} == {torch.float32}
    assert torch.allclose(q(x.float()), net(x.float()), atol=1e-5)


@pytest.mark.parametrize("family", [partial(grouped, even=True), partial(normed, norm=old_weight_norm)])
@pytest.mark.parametrize("seed", range(2))
def test_groups_of_one_size_and_the_old_weight_norm(family: Callable[[int], Drawn], seed: int) -> None:
    net, x, widths = family(seed)
    q = sb.quotient(net, batch=x)
    assert q.widths == widths
    side_by_side(net, q, x, "adamw", 200)


def test_a_convolution_stays_one_in_groups_where_they_are_of_one_size() -> None:
    even, uneven = (sb.quotient(net, batch=x).model[2] for net, x, _ in (grouped(3, even=True), grouped(3)))
    assert (even.groups, even.weight.dim()) == (even.in_channels // even.weight.shape[1], 4)
    assert even.groups > 1
    assert uneven.groups == 1
    assert (uneven._parameters["weight"].dim(), uneven.weight.dim()) == (3, 4)  # kernels, and zeros between them
    assert (uneven.weight == 0).any()


def test_a_class_across_groups_is_none() -> None:
    """Equal channels in groups of other statistics part at the first step: they are not called one."""
    net, x, _ = group_norm(0)
    at = torch.tensor([0, 1, 2] * 4)
    d = Draw(0)
    for tensor, *axes in ((net[0].weight, at), (net[1].weight, at), (net[1].bias, at), (net[3].weight, None, at)):
        d.fill(tensor, *axes)
    assert sb.quotient(net, batch=x).widths["0"] == (3, 12)
    with torch.no_grad():
        net[0].weight[2] += 1.0  # one channel of the first group
    assert sb.quotient(net, batch=x).widths["0"] == (6, 12)
    with torch.no_grad():
        net[0].weight[5] += 0.5
        net[0].weight[8] += 0.3
        net[0].weight[11] += 0.2
    q = sb.quotient(net, batch=x)
    assert not q.merged
    y = net[1](net[0](x))
    assert not torch.allclose(y[:, 0], y[:, 3])


def test_running_statistics_and_modes_behind_a_convolution_in_groups() -> None:
    net, x, _ = grouped(2)
    _, b = net[0], net[2].out_channels
    net.insert(3, nn.BatchNorm2d(b).double())
    q = sb.quotient(net, batch=x)
    assert q.widths["2"][0] < b
    side_by_side(net, q, x, "momentum", 100)
    back = q.expand()
    assert torch.allclose(net[3].running_var, back["3.running_var"], atol=1e-9)
    assert back["3.num_batches_tracked"] == net[3].num_batches_tracked > 0
    for model in (net, q.model):
        model.eval()
    assert torch.allclose(net(x), q(x), atol=1e-10)


def test_a_weight_norm_survives_copies() -> None:
    net, x, _ = normed(1)
    q = sb.quotient(net, batch=x)
    assert torch.equal(copy.deepcopy(q.model)(x), q(x))
    old, x, _ = normed(1, old_weight_norm)
    q = sb.quotient(old, batch=x)
    again = sb.quotient(old, batch=x)
    again.model.load_state_dict(q.model.state_dict())
    assert torch.equal(again(x), q(x))


def whole(module: nn.Module) -> list[str]:
    """Why equal units around this module stay."""
    net = nn.Sequential(nn.Conv1d(2, 4, 1), module, nn.Flatten(), nn.Linear(24, 2))
    for p in net.parameters():
        nn.init.constant_(p, 0.1)
    q = sb.quotient(net, batch=torch.randn(3, 2, 6))
    assert net(torch.ones(1, 2, 6)).shape == q(torch.ones(1, 2, 6)).shape
    return [line for line in str(q).splitlines() if "kept whole" in line]


def test_what_stays_whole_is_named_with_the_reason() -> None:
    found = whole(nn.ConvTranspose1d(4, 4, 1, groups=2))
    assert any(
        "1: a transposed convolution in 2 groups, whose channels are not read as units" in line for line in found
    )
    found = whole(parametrizations.spectral_norm(nn.Conv1d(4, 4, 1)))
    assert any("spectral norm: the vectors of its power iteration start at random" in line for line in found)
    found = whole(parametrizations.orthogonal(nn.Conv1d(4, 4, 1)))  # torch draws what constant weights leave open
    assert any("linalg_householder_product in 1.parametrizations.weight.0 is not understood" in line for line in found)
