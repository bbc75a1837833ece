"""Classes read off a graph against training: what is proved stays, over small models and symmetric starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from symbreak.errors import SymbreakError
from symbreak.probe import fingerprint
from symbreak.symmetry import Axis, Network, SymmetryError, UnitGraph, algebra, certify, coarsest, unit_graph
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


QUICK = ("half of the units through another function", "conv, batch norm, flatten", "experts in a stack", "attention")


@pytest.mark.parametrize("kind", ["constant", "constant tensors", "copies"])
@pytest.mark.parametrize(
    "case", [c if c.name in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in SMALL], ids=repr
)
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


ONE_CLASS = {  # a constant start: model -> classes of its first layer, that of the inputs and outputs apart
    "mlp": 1,
    "half of the units through another function": 2,
    "units against their mirror": 1,
    "a fixed table over units": 2,
    "softmax over units": 1,
    "sums running over units": 6,
    "mean of some units": 2,
    "padded with constants": 1,
    "flatten with channels last": 1,
    "group norm": 1,
    "picked by data": 6,
}


@pytest.mark.parametrize("name", ONE_CLASS)
def test_how_many_classes_a_constant_start_has(name: str) -> None:
    case = next(c for c in SMALL if c.name == name)
    model = case.build()
    start(model, "constant", 0)
    graph, classes = read(model, case)
    first = "parts.c" if "parts.c" in graph.network.sizes else "parts.a"
    assert len(set(classes[first].tolist())) == ONE_CLASS[name]
    assert graph.whole


# ---- classes that were put in are found ---------------------------------------------------------------------------


@torch.no_grad()
def copied(tensor: Tensor, axis: int, rows: list[tuple[int, int]]) -> None:
    for u, v in rows:
        tensor.select(axis, v).copy_(tensor.select(axis, u))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), copies=st.integers(1, 3))
def test_units_copied_into_a_network_are_found(seed: int, copies: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(),
                        nn.Linear(5, 2)).double()  # fmt: skip
    pairs = [(0, k) for k in range(1, copies + 1)]
    taps = [(u * 3 + t, v * 3 + t) for u, v in pairs for t in range(3)]
    for tensor, axis, rows in ((net[0].weight, 0, pairs), (net[0].bias, 0, pairs), (net[4].weight, 1, taps)):
        copied(tensor, axis, rows)
    graph = unit_graph(net, torch.randn(4, 2, 5, dtype=torch.float64))
    classes = coarsest(graph.network)
    assert classes["0"].tolist() == [0] * (copies + 1) + list(range(1, 4 - copies))
    assert len(set(classes["4"].tolist())) == 5
    assert graph.axes["4.weight"][1] == Axis(("0",), 3)


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 6, dropout=0.0, batch_first=True).double()


class Behind(nn.Module):
    """A linear layer in front, so that the stream is made of units, and one behind."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.front, self.inner, self.back = nn.Linear(3, width), inner, nn.Linear(width, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(self.front(x))
        return self.back(out[0] if isinstance(out, tuple) else out)


def test_equal_heads_are_found_with_their_units() -> None:
    model = Behind(encoder(), 8)
    attention = model.inner.self_attn
    heads = [(u, u + 4) for u in range(4)]
    for start in (0, 8, 16):
        for tensor in (attention.in_proj_weight, attention.in_proj_bias):
            copied(tensor, 0, [(start + u, start + v) for u, v in heads])
    copied(attention.out_proj.weight, 1, heads)
    graph = unit_graph(model, torch.randn(2, 5, 3, dtype=torch.float64))
    classes = coarsest(graph.network)
    qkv = classes["inner.self_attn.in_proj_weight"]
    assert graph.whole
    assert len(set(qkv.tolist())) == 12
    assert all(qkv[start + u] == qkv[start + v] for start in (0, 8, 16) for u, v in heads)
    with torch.no_grad():
        attention.out_proj.weight[0, 0] += 1e-9
    again = coarsest(unit_graph(model, torch.randn(2, 5, 3, dtype=torch.float64)).network)
    assert len(set(again["inner.self_attn.in_proj_weight"].tolist())) == 24


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_copied_recurrent_unit_is_found_and_stays(kind: Callable[..., nn.Module]) -> None:
    model = Behind(kind(4, 4, batch_first=True), 4)
    gates = model.inner.weight_hh_l0.shape[0] // 4
    rows = [(4 * g, 4 * g + 2) for g in range(gates)]
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        copied(getattr(model.inner, name), 0, rows)
    copied(model.inner.weight_hh_l0, 1, [(0, 2)])
    copied(model.back.weight, 1, [(0, 2)])
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    graph = unit_graph(model, x)
    assert coarsest(graph.network)["inner"].tolist() == [0, 1, 0, 2]
    assert graph.axes["inner.weight_ih_l0"][0] == Axis(("inner",) * gates)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        sgd.zero_grad()
        model(x).square().sum().backward()
        sgd.step()
    w = model.inner.weight_ih_l0.detach()
    assert max(float((w[u] - w[v]).abs().max()) for u, v in rows) < 1e-12


def test_equal_experts_in_a_stack_are_found() -> None:
    case = next(c for c in SMALL if c.name == "experts in a stack")
    model = case.build()
    for name, axis in (("u", 0), ("d", 0)):
        copied(model.parts[name].weight, axis, [(0, 2)])
    copied(model.parts["r"].weight, 0, [(0, 2)])
    copied(model.parts["r"].bias, 0, [(0, 2)])
    graph, classes = read(model, case)
    assert classes["parts.r"].tolist() == [0, 1, 0]
    assert graph.whole


def test_a_tied_head_is_one_tensor() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mix = nn.Embedding(7, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 7, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(x) + torch.tanh(self.mix(self.table(x))))

    model = Tied().double()
    copied(model.table.weight, 1, [(1, 4)])
    for axis in (0, 1):
        copied(model.mix.weight, axis, [(1, 4)])
    copied(model.mix.bias, 0, [(1, 4)])
    graph = unit_graph(model, torch.arange(7)[None])
    classes = coarsest(graph.network)
    (stream,) = graph.axes["table.weight"][1].spaces
    assert graph.axes["mix.weight"] == (Axis((stream,)), Axis((stream,)))
    assert classes[stream].tolist() == [0, 1, 2, 3, 1, 4]
    assert graph.axes["table.weight"][0].spaces[0] in graph.network.told_apart


# ---- what is not understood, and what is wrong --------------------------------------------------------------------


class Plain(nn.Module):
    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.z = nn.Linear(3, 6), nn.Linear(6, 2)
        for layer in (self.a, self.z):
            nn.init.constant_(layer.weight, 0.5)
            nn.init.zeros_(layer.bias)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def test_an_operation_without_a_rule_is_cut_out_and_said_to_be() -> None:
    model = Plain(lambda m, x: m.z(torch.fft.fft(m.a(x), dim=1).real))
    graph = unit_graph(model, torch.randn(4, 3))
    assert not graph.whole
    assert list(graph.cut) == ["a"]
    assert "fft" in graph.cut["a"]
    assert "is not understood" in graph.cut["a"]
    assert len(set(coarsest(graph.network)["a"].tolist())) == 6


def test_a_way_that_depends_on_the_data_is_no_proof() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = torch.tanh(m.a(x))
        return m.z(h * torch.arange(6.0)) if x.sum() > 0 else m.z(h)

    graph = unit_graph(Plain(forward), -torch.ones(4, 3))
    assert not graph.whole
    assert "could not be exported" in graph.cut["model"]
    assert "another batch may go another way" in graph.cut["model"]


def test_dropout_tells_units_apart_or_is_a_breaker() -> None:
    model = Plain(lambda m, x: m.z(nn.functional.dropout(m.a(x), 0.5, m.training)))
    for p in model.parameters():
        nn.init.constant_(p, 0.1)
    heeded = unit_graph(model, torch.randn(4, 3))
    assert heeded.breakers == ()
    assert len(set(coarsest(heeded.network)["a"].tolist())) == heeded.network.sizes["a"] > 1
    graph = unit_graph(model, torch.randn(4, 3), heed_dropout=False)
    classes = coarsest(graph.network)
    assert graph.breakers == ("dropout",)
    assert set(classes["a"].tolist()) == {0}
    assert certify(graph.network, classes).breakers(graph.breakers) == ("dropout",)


def test_weights_that_are_not_finite_are_refused() -> None:
    model = Plain(lambda m, x: m.z(m.a(x)))
    with torch.no_grad():
        model.a.weight[0, 0] = float("nan")
    with pytest.raises(SymmetryError, match=r"'a.weight' holds NaN or infinite values. Nothing can be proved"):
        unit_graph(model, torch.randn(4, 3))


def test_the_users_mistake_is_the_users() -> None:
    with pytest.raises(SymbreakError, match="mat1 and mat2 shapes cannot be multiplied"):
        unit_graph(Plain(lambda m, x: m.z(m.a(x))), torch.randn(4, 5))


def test_the_model_comes_back_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    before = fingerprint(model)
    unit_graph(model, torch.randn(4, 3))
    assert fingerprint(model) == before
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert type(model[1].running_mean) is Tensor


def test_an_objective_tells_apart_only_what_it_does() -> None:
    model = Plain(lambda m, x: m.z(torch.tanh(m.a(x))))
    graph = unit_graph(model, torch.randn(4, 3), objective=lambda m, x: m(x).square().sum())
    assert set(coarsest(graph.network)["z"].tolist()) == {0}
    assert graph.axes["z.weight"] == (Axis(("z",)), Axis(("a",)))


def test_labels_tell_outputs_apart() -> None:
    model, y = Plain(lambda m, x: m.z(torch.tanh(m.a(x)))), torch.tensor([0, 1, 1, 0])
    graph = unit_graph(model, torch.randn(4, 3), objective=lambda m, x: nn.functional.cross_entropy(m(x), y))
    assert coarsest(graph.network)["z"].tolist() == [0, 1]
    assert graph.whole


def test_a_weight_that_is_trained_elsewhere_is_not_taken_for_a_constant() -> None:
    model, outside = Plain(lambda m, x: m.z(torch.tanh(m.a(x)))), torch.ones(6, requires_grad=True)
    kept = torch.ones(6)
    for scale, classes in ((outside, 6), (kept, 1)):
        graph = unit_graph(
            model, torch.randn(4, 3), objective=lambda m, x, s=scale: (torch.tanh(m.a(x)) * s).square().sum()
        )
        assert len(set(coarsest(graph.network)["a"].tolist())) == classes


def test_an_export_that_fails_is_told_by_the_graph_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """torch logs it and prints the whole graph to stderr."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h: Tensor = m.a(x)
        return m.z(h * 2 if not bool((h > -100).all()) else h)

    graph = unit_graph(Plain(forward), torch.randn(4, 3))
    assert "model" in graph.cut
    assert capfd.readouterr() == ("", "")


class Pooled(nn.Module):
    """Learned queries that differ in nothing; their answers are averaged over one window, or over two."""

    def __init__(self, windows: int) -> None:
        super().__init__()
        self.queries, self.look, self.windows = nn.Parameter(torch.zeros(4, 8)), nn.MultiheadAttention(8, 2), windows

    def forward(self, x: Tensor) -> Tensor:
        seen = self.look(self.queries[:, None].expand(-1, x.shape[1], -1), x, x)[0]
        return nn.functional.adaptive_avg_pool1d(seen.permute(1, 2, 0), self.windows)


@pytest.mark.parametrize(("windows", "distinct"), [(1, 1), (2, 4)])
def test_a_mean_over_one_window_treats_all_positions_alike(windows: int, distinct: int) -> None:
    torch.manual_seed(0)
    graph = unit_graph(Pooled(windows), torch.randn(5, 3, 8))
    (space,) = graph.axes["queries"][0].spaces
    assert graph.whole
    assert len(set(coarsest(graph.network)[space])) == distinct
