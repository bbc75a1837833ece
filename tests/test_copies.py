"""Units of every kind: copies put in by hand are found, under the right code, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import symbreak as sb


def codes(report: sb.Report) -> set[str]:
    return {f.code for f in report.findings if f.severity == "error"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def copy_unit(weight: nn.Parameter, axis: int, source: int, target: int) -> None:
    with torch.no_grad():
        weight.select(axis, target).copy_(weight.select(axis, source))


class TestLayers:
    def test_linear_pair(self) -> None:
        net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        for p, axis in ((net[0].weight, 0), (net[0].bias, 0), (net[2].weight, 1)):
            copy_unit(p, axis, 2, 6)
        report = sb.check(net)
        assert codes(report) == {"SB001"}
        assert report.width == {"0": (7, 8), "2": (3, 3)}
        assert report.findings[0].units == (2, 6)

    def test_convolution_pair(self) -> None:
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.LazyLinear(2)
        )
        net(torch.randn(2, 3, 8, 8))
        for p, axis in ((net[0].weight, 0), (net[0].bias, 0), (net[3].weight, 1)):
            copy_unit(p, axis, 0, 5)
        report = sb.check(net, torch.randn(8, 3, 8, 8))
        assert codes(report) == {"SB001"}
        assert report.width["0"] == (5, 6)

    def test_transposed_convolution_pair(self) -> None:
        net = nn.Sequential(nn.ConvTranspose2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
        for p, axis in ((net[0].weight, 1), (net[0].bias, 0), (net[2].weight, 1)):
            copy_unit(p, axis, 1, 4)
        report = sb.check(net, torch.randn(4, 3, 6, 6))
        assert codes(report) == {"SB001"}
        assert report.width["0"] == (5, 6)

    def test_grouped_twins_are_copies_only_with_equal_inputs(self) -> None:
        net = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 3))
        nn.init.constant_(net[0].weight, 0.1)
        nn.init.zeros_(net[0].bias)
        nn.init.constant_(net[2].weight, 0.1)
        report = sb.check(net, torch.randn(4, 2, 8, 8))
        assert report.width["0"] == (2, 4)  # one distinct unit a group: the groups see different channels

    def test_constant_depthwise_kernels_see_different_channels(self) -> None:
        net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1))
        nn.init.constant_(net[0].weight, 0.1)
        assert not codes(sb.check(net, torch.randn(4, 4, 8, 8)))

    @pytest.mark.parametrize(("cell", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
    def test_constant_recurrent_layer_is_one_unit(self, cell: type[nn.RNNBase], gates: int) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell, self.head = cell(3, 5, batch_first=True), nn.Linear(5, 2)
                for p in self.parameters():
                    nn.init.constant_(p, 0.2)

            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = self.head(self.cell(x)[0])
                return out

        report = sb.check(Net(), torch.randn(6, 4, 3))
        assert codes(report) == {"SB001"}
        assert report.width["cell.weight_ih_l0"] == (1, 5)
        assert report.width["cell.weight_hh_l0"] == (1, 5)

    def test_embedding_columns(self) -> None:
        net = nn.Sequential(nn.Embedding(11, 6), nn.Tanh(), nn.Linear(6, 3))
        copy_unit(net[0].weight, 1, 0, 3)
        copy_unit(net[2].weight, 1, 0, 3)
        report = sb.check(net)
        assert codes(report) == {"SB001"}
        assert report.width["0"] == (5, 6)


class TestOneSided:
    @pytest.mark.parametrize("side", ["in", "out"])
    def test_equal_on_one_side_separates(self, side: str) -> None:
        net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        if side == "in":
            copy_unit(net[0].weight, 0, 1, 2)
            copy_unit(net[0].bias, 0, 1, 2)
        else:
            copy_unit(net[2].weight, 1, 1, 2)
        report = sb.check(net)
        assert report.verdict == "healthy"
        assert ("SB007" in {f.code for f in report.findings}) == (side == "in")

    @pytest.mark.parametrize(("activation", "tied"), [(nn.Tanh, True), (nn.Softsign, True), (nn.GELU, False)])
    def test_sign_mirror(self, activation: type[nn.Module], tied: bool) -> None:
        net = nn.Sequential(nn.Linear(5, 8), activation(), nn.Linear(8, 3))
        with torch.no_grad():
            net[0].weight[1], net[0].bias[1], net[2].weight[:, 1] = (
                -net[0].weight[0],
                -net[0].bias[0],
                -net[2].weight[:, 0],
            )
        assert (codes(sb.check(net)) == {"SB001"}) == tied

    def test_joint_swap_over_two_layers(self) -> None:
        net = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 3))
        with torch.no_grad():
            net[0].weight[1], net[0].bias[1] = net[0].weight[0], net[0].bias[0]
            net[2].weight.copy_(torch.tensor([[0.3, -0.8], [-0.8, 0.3]]))
            net[2].bias.fill_(0.1)
            net[4].weight[:, 1] = net[4].weight[:, 0]
        report = sb.check(net)
        assert report.width == {"0": (1, 2), "2": (1, 2), "4": (3, 3)}
        with torch.no_grad():
            net[2].weight[0, 0] += 0.05
        assert sb.check(net).verdict == "healthy"


class TestLarger:
    @pytest.mark.parametrize("random_output", [False, True])
    def test_attention_heads(self, random_output: bool) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)
                with torch.no_grad():
                    for part in range(3):
                        rows = self.attention.in_proj_weight[8 * part : 8 * part + 8]
                        rows[4:] = rows[:4]
                    if not random_output:
                        self.attention.out_proj.weight[:, 4:] = self.attention.out_proj.weight[:, :4]

            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = self.head(self.attention(x, x, x, need_weights=False)[0])
                return out

        assert codes(sb.check(Net(), torch.randn(4, 5, 8))) == (set() if random_output else {"SB002"})

    @pytest.mark.parametrize("random_router", [False, True])
    def test_stacked_experts(self, random_router: bool) -> None:
        class Mixture(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.router = nn.Linear(5, 3)
                self.experts = nn.Parameter(torch.randn(1, 5, 4).repeat(3, 1, 1))
                self.head = nn.Linear(4, 2)
                if not random_router:
                    nn.init.zeros_(self.router.weight)
                    nn.init.zeros_(self.router.bias)

            def forward(self, x: Tensor) -> Tensor:
                each = torch.tanh(torch.einsum("bi,eio->beo", x, self.experts))
                out: Tensor = self.head((self.router(x).softmax(-1).unsqueeze(-1) * each).sum(1))
                return out

        report = sb.check(Mixture(), torch.randn(16, 5))
        assert codes(report) == (set() if random_router else {"SB003"})

    @pytest.mark.parametrize("equal", [False, True])
    def test_learned_queries(self, equal: bool) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.query = nn.Parameter(torch.zeros(1, 3, 8) if equal else torch.randn(1, 3, 8))
                self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
                self.head = nn.Linear(8, 1)

            def forward(self, x: Tensor) -> Tensor:
                query = self.query.expand(x.shape[0], -1, -1)
                out: Tensor = self.head(self.attention(query, x, x, need_weights=False)[0].mean(1))
                return out

        assert codes(sb.check(Net(), torch.randn(4, 5, 8))) == ({"SB004"} if equal else set())

    @pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
    @pytest.mark.parametrize("join", [torch.stack, lambda outs: torch.cat(outs, 1), tuple])
    def test_twin_critics(self, seeds: tuple[int, int], join: object) -> None:
        class Twins(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.q1, self.q2 = (self.critic(seed) for seed in seeds)

            def critic(self, seed: int) -> nn.Module:
                torch.manual_seed(seed)
                return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

            def forward(self, x: Tensor) -> object:
                return join([self.q1(x), self.q2(x)])  # type: ignore[operator]

        def loss(output: object, target: Tensor) -> Tensor:
            outs = output if isinstance(output, tuple) else (output,)
            return sum(((o - o.detach().mean() - 1) ** 2).mean() for o in outs)  # type: ignore[return-value, union-attr]

        report = sb.check(Twins(), (torch.randn(16, 6), torch.randn(16, 1)), loss)
        assert codes(report) == ({"SB005"} if seeds == (0, 0) else set())


def test_absent_classes_are_no_copies() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 10))
    nn.init.zeros_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    batch = torch.randn(12, 5), torch.randint(0, 2, (12,))
    assert sb.check(net, batch, nn.functional.cross_entropy).verdict == "healthy"


@pytest.mark.parametrize(("distance", "near"), [(1e-6, True), (1e-4, True), (1e-2, False)])
def test_near_copies(distance: float, near: bool) -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    for p, axis in ((net[0].weight, 0), (net[0].bias, 0), (net[2].weight, 1)):
        copy_unit(p, axis, 2, 6)
    with torch.no_grad():
        net[0].weight[6] += distance * torch.randn(5)
    report = sb.check(net)
    assert ("SB006" in {f.code for f in report.findings}) == near
    assert not codes(report)


class Crowded(nn.Module):
    """Equal experts: the first always gets the samples, the second from the second call on, the third none."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(3))
        for expert in self.experts:
            expert.load_state_dict(self.experts[0].state_dict())
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.experts[0](x)
        return out + 0.5 * self.experts[1](x) if self.calls > 1 else out


def test_an_expert_without_samples_so_far_is_no_copy_of_one_that_moves() -> None:
    assert not codes(sb.check(Crowded(), torch.randn(64, 5)))


class StackedTopTwo(nn.Module):
    """Two of four stacked experts through torch's grouped product, which knows no float64, as transformers has it."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 4, bias=False)
        self.up = nn.Parameter(0.1 * torch.randn(1, 16, 16).repeat(4, 1, 1))
        nn.init.zeros_(self.router.weight)

    def forward(self, x: Tensor) -> Tensor:
        gates, chosen = self.router(x).softmax(-1).topk(2)
        gates = gates / gates.sum(-1, keepdim=True)
        order = chosen.reshape(-1).argsort(stable=True)
        ends = torch.bincount(chosen.reshape(-1), minlength=4).cumsum(0).to(torch.int32)
        each = torch.nn.functional.grouped_mm(x[order // 2], self.up, offs=ends).tanh()
        return torch.zeros_like(x).index_add(0, order // 2, each * gates.reshape(-1)[order, None])


@pytest.mark.skipif(not hasattr(nn.functional, "grouped_mm"), reason="this torch has no grouped product")
def test_stacked_experts_behind_a_grouped_product_are_seen_in_float64() -> None:
    """In float32 the router's rounding looks like a gradient, and would part the experts."""
    report = sb.check(StackedTopTwo(), torch.randn(32, 16))
    assert "SB901" not in {f.code for f in report.findings}
    assert codes(report) == {"SB003"}


def test_a_penalty_of_the_weights_makes_no_hidden_unit_an_output() -> None:
    """It leads from every weight straight to the loss, as only an output's weight does otherwise."""
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    for p in net.parameters():
        nn.init.zeros_(p)
    x, y = torch.randn(32, 4), torch.randn(32, 3)

    def penalised(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        squares = torch.stack([p.square().sum() for p in model.parameters()]).sum()
        return nn.functional.mse_loss(model(batch[0]), batch[1]) + 0.01 * squares

    report = sb.check(net, (x, y), objective=penalised)
    assert report.width == {"0": (1, 8), "2": (1, 8), "4": (3, 3)}
