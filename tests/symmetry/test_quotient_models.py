"""`sb.quotient` on modules as users write them: the graph is read off the model, the report brings the batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak.errors import BatchError, ModelError, RemedyError
from symbreak.symmetry import verify
from symbreak.symmetry.graph import unit_graph
from symbreak.symmetry.quotient import QuotientError, quotient_of
from symbreak.symmetry.units import SymmetryError

from .test_quotient_layers import ConvNet, Recurrent, Stream, check_training, classes, tie


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def constant(model: nn.Module, value: float = 0.1) -> nn.Module:
    for p in model.parameters():
        nn.init.constant_(p, value)
    return model


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "convolutions": (lambda: ConvNet().tied(), lambda: torch.randn(6, 2, 4, 4)),
    "layer norms": (lambda: Stream(nn.LayerNorm).tied(), lambda: torch.randint(0, 7, (16, 5))),
    "gru": (lambda: Recurrent(nn.GRU).tied(), lambda: torch.randn(8, 6, 3)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_read_off_the_model_gives_what_the_hand_made_one_gives(name: str) -> None:
    make, inputs = MODELS[name]
    net, x = make(), inputs()
    q = sb.quotient(net, batch=x)
    by_hand = quotient_of(net, net.graph(), batch=x)  # type: ignore[operator]
    assert q.merged
    assert (q.widths, q.size) == (by_hand.widths, by_hand.size)
    assert not q.kept
    assert torch.allclose(q(x), net(x), atol=1e-4)


def test_one_neuron_in_every_layer() -> None:
    net = constant(mlp())
    q = sb.quotient(net)
    assert q.widths == {"0": (1, 32), "2": (1, 32), "4": (10, 10)}
    assert q.size == (87, 3466)
    assert q.certificate.level == "block-constant"
    assert str(q).splitlines() == ["Sequential: 87 of 3,466 parameters", "  0: 1 of 32 units", "  2: 1 of 32 units"]
    assert all(torch.equal(v, q.expand()[n]) for n, v in net.state_dict().items())


def test_its_certificate_is_proved_again_on_the_graph() -> None:
    net, x = Blocks(2, Attention).tied(), torch.randn(4, 5, 4)
    constant(net.blocks, 0.05)
    q = sb.quotient(net, batch=x)
    assert q.kept
    network = unit_graph(net, x).network
    assert verify(q.certificate.to_json(), network) == q.certificate
    nn.init.normal_(net.downs[1].weight)
    with pytest.raises(SymmetryError, match="made for other weights"):
        verify(q.certificate.to_json(), unit_graph(net, x).network)


def test_a_quotient_has_a_quotient_which_is_itself() -> None:
    q = sb.quotient(constant(mlp()))
    again = sb.quotient(q.model)
    assert again.size == (87, 87)
    x = torch.randn(5, 64)
    assert torch.equal(again(x), q(x))


def test_frozen_tensors_stay_frozen() -> None:
    net = constant(mlp())
    net[0].requires_grad_(False)
    q = sb.quotient(net)
    assert [n for n, p in q.model.named_parameters() if not p.requires_grad] == ["0.weight", "0.bias"]


def test_a_report_brings_batch_and_loss() -> None:
    net = nn.Sequential(nn.Flatten(0, 1), *constant(mlp()))
    batch = torch.randn(3, 5, 64), torch.randint(0, 10, (15,))
    report = sb.check(net, batch, nn.CrossEntropyLoss())
    assert report.verdict == "redundant"
    assert sb.quotient(net, report).widths["1"] == (1, 32)
    with pytest.raises(RemedyError, match="weights of Sequential have changed since"):
        sb.quotient(constant(net, 0.2), report)


def test_the_model_comes_back_as_it_was() -> None:
    net, x = ConvNet().tied(), torch.randn(6, 2, 4, 4)
    net.one.weight.grad = torch.ones_like(net.one.weight)
    net.eval()
    before = {n: v.clone() for n, v in net.state_dict().items()}
    state, ids = torch.get_rng_state(), [id(p) for p in net.parameters()]
    q = sb.quotient(net, batch=x)
    assert torch.equal(torch.get_rng_state(), state)
    assert [id(p) for p in net.parameters()] == ids
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())
    assert (net.one.weight.grad == 1).all()
    assert net.one.bias.grad is None
    assert not net.training
    assert not q.model.training
    assert {type(m) for m in net.modules()} == {ConvNet, nn.Conv2d, nn.BatchNorm2d, nn.ConvTranspose2d, nn.Linear}


class Attention(nn.Module):
    """Heads of a size that the code holds, between streams that may shrink."""

    def __init__(self, width: int = 12, heads: int = 2) -> None:
        super().__init__()
        self.qkv, self.out, self.heads, self.size = nn.Linear(width, 3 * width), nn.Linear(width, width), heads, 6

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(mixed.reshape(*x.shape[:2], self.heads * self.size))


class Blocks(nn.Module):
    def __init__(self, depth: int, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(4, 12), nn.Linear(12, 3)
        self.blocks = nn.ModuleList(attention() for _ in range(depth))
        self.ups = nn.ModuleList(nn.Linear(12, 16) for _ in range(depth))
        self.downs = nn.ModuleList(nn.Linear(16, 12) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        h = self.read(x)
        for block, up, down in zip(self.blocks, self.ups, self.downs, strict=True):
            h = h + block(h)
            h = h + down(torch.relu(up(h)))
        return self.write(h)

    def tied(self) -> Blocks:
        e, f = classes(12, 3), classes(16, 4)
        tie(self.read.weight, e)
        tie(self.read.bias, e)
        tie(self.write.weight, None, e)
        for block, up, down in zip(self.blocks, self.ups, self.downs, strict=True):
            if isinstance(block, Attention):
                for p, *axes in ((block.qkv.weight, None, e), (block.out.weight, e), (block.out.bias, e)):
                    tie(p, *axes)
            for p, *axes in ((up.weight, f, e), (up.bias, f), (down.weight, e, f), (down.bias, e)):
                tie(p, *axes)
        return self


def test_heads_stay_whole_and_what_is_between_them_shrinks() -> None:
    net, x = Blocks(3, Attention).double().tied(), torch.randn(4, 5, 4).double()
    q = sb.quotient(net, batch=x)
    assert q.widths == {
        "read": (4, 12), "write": (3, 3),
        **{f"blocks.{n}.qkv": (36, 36) for n in range(3)}, **{f"blocks.{n}.out": (4, 12) for n in range(3)},
        **{f"ups.{n}": (4, 16) for n in range(3)}, **{f"downs.{n}": (4, 12) for n in range(3)},
    }  # fmt: skip
    check_training(net, q, x, torch.randint(0, 3, (4, 5)))


def test_equal_heads_are_kept_whole_and_said_so() -> None:
    net, x = Blocks(3, Attention).double(), torch.randn(4, 5, 4).double()
    constant(net, 0.05)
    for p in (net.read.weight, net.write.weight):
        nn.init.normal_(p)
    q = sb.quotient(net, batch=x)
    assert q.widths["blocks.1.qkv"] == (36, 36)
    assert q.widths["ups.1"] == (1, 16)
    assert len(q.kept) == 6  # queries and keys, and values: found in one block, and known for the others
    assert all("the forward raises RuntimeError: shape" in why for why in q.kept.values())
    check_training(net, q, x, torch.randint(0, 3, (4, 5)), steps=10)


class Conv1D(nn.Module):
    """A Linear with its weight transposed and its width beside it, as transformers has it."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


def test_a_weight_that_is_summed_over_along_its_first_axis() -> None:
    f = classes(16, 4)
    net = nn.Sequential(Conv1D(16, 4), nn.Tanh(), Conv1D(3, 16)).double()
    for p, *axes in ((net[0].weight, None, f), (net[0].bias, f), (net[2].weight, f)):
        tie(p, *axes)
    x = torch.randn(4, 5, 4).double()
    q = sb.quotient(net, batch=x)
    shapes = {n: tuple(p.shape) for n, p in q.model.named_parameters()}
    assert shapes == {"0.weight": (4, 4), "0.bias": (4,), "2.weight": (4, 3), "2.bias": (3,)}
    check_training(net, q, x, torch.randint(0, 3, (4, 5)), steps=10)


def test_an_encoder_layer_of_torch_keeps_its_stream() -> None:
    layer = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)
    f = classes(16, 4)
    tie(layer.linear1.weight, f)
    tie(layer.linear1.bias, f)
    tie(layer.linear2.weight, None, f)
    net, x = nn.Sequential(nn.Linear(4, 12), layer, nn.Linear(12, 3)).double(), torch.randn(4, 5, 4).double()
    q = sb.quotient(net, batch=x)
    assert q.widths["1.linear1"] == (4, 16)
    assert q.widths["0"] == (12, 12)
    assert set(q.kept.values()) <= {"1.self_attn: 2 heads of 6 units"}
    check_training(net, q, x, torch.randint(0, 3, (4, 5)), steps=10)
    with torch.no_grad():
        net.eval()
        q.model.eval()
        assert torch.allclose(net(x), q(x))  # the fast path of evaluation


def test_units_behind_dropout_stay_in_training_mode() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
    constant(net.double())
    q = sb.quotient(net)
    assert q.widths == {"0": (8, 8), "3": (1, 6), "5": (2, 2)}
    assert q.keeps("adamw")
    runs = []
    for model in (net, q.model):
        torch.manual_seed(3)
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        for _ in range(30):
            optimizer.zero_grad()
            loss = (model(torch.randn(8, 4).double()) - 1).square().mean()
            loss.backward()
            optimizer.step()
        runs.append(loss.item())
    assert runs[0] == pytest.approx(runs[1], abs=1e-12)
    evaluated = sb.quotient(constant(net, 0.3).eval())
    assert evaluated.widths["0"] == (1, 8)
    assert evaluated.breakers == ("dropout",)
    assert not evaluated.keeps("sgd")


def test_a_quotient_learns_in_place_of_the_network() -> None:
    net = constant(mlp()).double()
    q = sb.quotient(net)
    x, y = torch.randn(128, 64).double(), torch.randint(0, 10, (128,))
    for model in (net, q.model):
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    back = q.expand()
    assert all(torch.allclose(v, back[n], atol=1e-10) for n, v in net.state_dict().items())


def test_mistakes() -> None:
    with pytest.raises(ModelError, match=r"quotient\(\) got type; expected a torch.nn.Module"):
        sb.quotient(nn.Linear)  # type: ignore[arg-type]
    with pytest.raises(BatchError, match="cannot make up a batch"):
        sb.quotient(nn.Sequential(nn.Bilinear(3, 3, 2)))
    assert issubclass(QuotientError, SymmetryError)
    net = nn.Linear(4, 2)
    with pytest.raises(QuotientError, match="a plain copy of Linear does not compute"):
        sb.quotient(net, objective=lambda model, batch: net(torch.ones(1, 4)).sum())
