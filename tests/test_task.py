"""What is fed to the model and what is asked of it: every form of batch, loss and objective."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import symbreak
from symbreak.errors import BatchError
from symbreak.probe.task import Task, _map, leaves

Point = namedtuple("Point", "x y")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@dataclass
class Batch:
    x: Tensor
    n: int = 3


@dataclass(frozen=True)
class Frozen:
    inner: Any
    name: str = "kept"


class Net(nn.Module):
    """Takes whatever `take` makes of its arguments."""

    def __init__(self, take: Callable[..., Tensor]) -> None:
        super().__init__()
        self.net, self.take = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), take

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = self.net(self.take(*args, **kwargs))
        return out


X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


class Draws:
    def __init__(self, batch: Any) -> None:
        self.batch, self.steps = batch, []

    def draw(self, step: int) -> Any:
        self.steps.append(step)
        return self.batch


# ---- batches ---------------------------------------------------------------------------------------------------------

UNLABELLED = {
    "tensor": (lambda x: x, X),
    "integers": (lambda x: F.one_hot(x % 4, 4).double(), torch.arange(12)),
    "numpy": (lambda x: x, X.numpy()),
    "dict": (lambda *, a, b: a * b, {"a": X, "b": X}),
    "dict with numpy and plain values": (lambda *, a, n: a * n, {"a": X.numpy(), "n": 2}),
    "dataclass": (lambda b: b.x / b.n, Batch(X)),
    "nested dataclass": (lambda b: b.inner["a"][0], Frozen({"a": [X, "word"]})),
    "object": (lambda b: b.x, SimpleNamespace(x=X, note="kept")),
    "tuple of one": (lambda x: x, (X,)),
    "draws": (lambda x: x, Draws(X)),
    "packed sequence": (lambda p: p.data, nn.utils.rnn.pack_sequence([X[:5], X[5:8]])),
}
LABELLED = {
    "(x, y)": (lambda x: x, (X, Y)),
    "[x, y]": (lambda x: x, [X, Y]),
    "named tuple": (lambda x: x, Point(X, Y)),
    "numpy (x, y)": (lambda x: x, (X.numpy(), Y.numpy())),
    "((a, b), y)": (lambda a, b: a + b, ((X, X), Y)),
    "([a, {b}], y)": (lambda a, b: a + b["b"], ([X, {"b": X}], Y)),
    "(dict, y)": (lambda *, a: a, ({"a": X}, Y)),
    "draws": (lambda x: x, Draws((X, Y))),
}


@pytest.mark.parametrize("form", UNLABELLED)
def test_batch_without_labels(form: str) -> None:
    take, batch = UNLABELLED[form]
    report = symbreak.check(Net(take), batch)
    assert (report.verdict, report.dtype) == ("healthy", "float64")


@pytest.mark.parametrize("form", LABELLED)
def test_batch_with_labels(form: str) -> None:
    take, batch = LABELLED[form]
    report = symbreak.check(Net(take), batch, F.cross_entropy)
    assert (report.verdict, report.dtype) == ("healthy", "float64")


def test_two_inputs_and_a_target_without_loss() -> None:
    """As the docs ask for it, though the forward needs as many arguments as the batch has members."""
    both = lambda a, b: a + b
    assert symbreak.check(Net(both), ((X, X), Y)).verdict == "healthy"


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(("layers", "dropout"), [(1, 0.0), (2, 0.0), (2, 0.1)])
def test_recurrent_layers_over_packed_sequences(kind: type[nn.LSTM], layers: int, dropout: float) -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(4, 8, layers, batch_first=True, bidirectional=True, dropout=dropout)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            out: Tensor = self.head(nn.utils.rnn.pad_packed_sequence(self.cell(packed)[0], batch_first=True)[0])
            return out

    torch.manual_seed(0)
    net = Packed()
    batch = ((torch.randn(4, 6, 4), torch.tensor([6, 5, 4, 2])), torch.randn(4, 6, 3))
    report = symbreak.check(net, batch, F.mse_loss)
    assert (report.verdict, any("recurrent" in b for b in report.trace.breakers)) == ("healthy", dropout > 0)
    for p in (*net.cell.parameters(), net.head.weight):
        nn.init.constant_(p, 0.1)
    assert symbreak.check(net, batch, F.mse_loss).verdict == "redundant"


def test_a_tuple_without_loss_feeds_a_forward_that_needs_it_all() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bilinear = nn.Bilinear(4, 4, 3)

        def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
            out: Tensor = self.bilinear(a, b) * scale
            return out

    assert symbreak.check(Two(), (X, X)).verdict == "healthy"


def test_draws_are_asked_for_the_step() -> None:
    draws = Draws((X, Y))
    symbreak.check(Net(lambda x: x), draws, F.cross_entropy)
    assert draws.steps[:3] == [1, 2, 3]


def test_the_batch_is_not_changed_by_an_in_place_forward() -> None:
    batch, before = {"a": X.clone(), "b": [X.clone().numpy()]}, X.clone()
    symbreak.check(Net(lambda *, a, b: a.add_(1) + b[0].mul_(2)), batch)
    assert torch.equal(batch["a"], before)
    assert np.array_equal(batch["b"][0], before.numpy())


# ---- batches made up -------------------------------------------------------------------------------------------------

INFERRED = {
    "Linear": lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)),
    "Conv1d": lambda: nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(8, 3)
    ),
    "Conv2d": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ),
    "Conv3d": lambda: nn.Sequential(
        nn.Conv3d(2, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
    ),
    "Embedding": lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)),
    "Conv2d of 64 pixels": lambda: nn.Sequential(nn.Conv2d(2, 2, 5), nn.Flatten(), nn.Linear(2 * 60 * 60, 3)),
    "Linear over time": lambda: nn.Sequential(nn.Linear(4, 8), nn.LSTM(8, 8, batch_first=True)),
    "Linear after a cast": lambda: Net(lambda x: x.float() @ torch.eye(4, dtype=torch.float32)),
}


@pytest.mark.parametrize("first", INFERRED)
def test_a_batch_is_made_up(first: str) -> None:
    torch.manual_seed(0)
    report = symbreak.check(INFERRED[first]())
    assert (report.verdict, report.dtype) == ("healthy", "float64")
    assert report.trace.batch.startswith("made up")


def test_no_batch_can_be_made_up() -> None:
    with pytest.raises(BatchError, match=r"cannot make up a batch for LSTM.*Pass batch=: a tensor, a tuple \(x, y\)"):
        symbreak.check(nn.LSTM(3, 3))


def test_no_made_up_batch_fits() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Flatten(0), nn.Linear(5, 3))
    with pytest.raises(BatchError, match=r"no made-up batch fits Sequential; tried shapes .*Pass batch=") as caught:
        symbreak.check(net)
    assert isinstance(caught.value.__cause__, RuntimeError)


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_objective_may_draw_its_own_data() -> None:
    model = INFERRED["Linear"]()
    report = symbreak.check(model, objective=lambda m, b: m(torch.randn(16, 4)).square().mean())
    assert (report.verdict, report.dtype) == ("healthy", "float64")


def test_objective_gets_the_batch_as_it_is() -> None:
    seen = []

    def objective(model: nn.Module, batch: Any) -> Tensor:
        seen.append(batch)
        return F.cross_entropy(model(batch["x"]), batch["y"])

    assert symbreak.check(INFERRED["Linear"](), {"x": X, "y": Y, "name": "a"}, objective=objective).verdict == "healthy"
    assert seen[0]["name"] == "a"
    assert seen[0]["x"].dtype == torch.float64


def test_objective_needs_no_tensor_in_its_batch() -> None:
    model = INFERRED["Linear"]()
    assert symbreak.check(model, ["a", 3], objective=lambda m, b: m(X.double()).square().mean()).verdict == "healthy"


OWN_LOSS = {
    "scalar": lambda out, loss: loss,
    "attribute": lambda out, loss: SimpleNamespace(logits=out, loss=loss),
    "key": lambda out, loss: {"logits": out, "loss": loss},
}


@pytest.mark.parametrize("form", OWN_LOSS)
def test_a_model_that_returns_its_loss_is_asked_for_that(form: str) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Any:
            return OWN_LOSS[form](self.net(x) + 0 * self.unused(x), F.cross_entropy(self.net(x), Y))

    report = symbreak.check(Own(), X)
    assert report.wakeup == {"net.weight": 1, "net.bias": 1, "unused.weight": None, "unused.bias": None}
    assert report.trace.loss == pytest.approx(1.1, abs=0.5)


@pytest.mark.parametrize("classes", [2, 3])
def test_balanced_classes_at_a_zero_start_wake_the_output_bias(classes: int) -> None:
    model = nn.Linear(4, classes)
    for p in model.parameters():
        nn.init.zeros_(p)
    report = symbreak.check(model, (X, torch.arange(12) % classes), nn.CrossEntropyLoss())
    assert report.wakeup == {"weight": 1, "bias": 1}


def test_reweighting_leaves_zero_what_the_loss_does_not_see() -> None:
    model = nn.Linear(4, 3)
    report = symbreak.check(model, (X, Y), lambda out, y: out[:, :2].square().mean())
    bias = next(t for t in report.trace.tensors if t.name == "bias")
    assert bias.sleeping_rows == (2,)


def test_reweighted_gradient_has_one_factor_a_sample() -> None:
    model = nn.Linear(12, 3).double()
    task = Task(model, (torch.eye(12), Y), F.cross_entropy, None)
    outcome = task.run(task.draw(1, torch.float64), 7)
    (plain,) = torch.autograd.grad(outcome.loss, outcome.outputs, retain_graph=True)  # [b, o]
    outcome.backward()
    assert model.weight.grad is not None
    factors = model.weight.grad.T / plain  # [b, o]: each sample lights one column
    assert torch.allclose(factors, factors[:, :1].expand(12, 3))
    assert 0.1 < float(factors.std()) < 0.4
    assert float(factors.mean()) == pytest.approx(1, abs=0.3)


def test_paths_around_the_output_are_kept() -> None:
    """A penalty in the loss, and weights of the loss module, reach the parameters beside the output."""
    model = Net(lambda x: x)
    model.extra = nn.Parameter(torch.randn(3))
    report = symbreak.check(model, (X, Y), lambda out, y: F.cross_entropy(out, y) + model.extra.square().sum())
    assert report.wakeup["extra"] == 1


def test_absent_classes_are_no_alarm() -> None:
    report = symbreak.check(INFERRED["Linear"](), (X, torch.zeros(12, dtype=torch.long)), F.cross_entropy)
    assert report.verdict == "healthy"


def test_a_loss_module_with_float32_weights_runs_in_float64() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    assert symbreak.check(INFERRED["Linear"](), (X, Y), loss).dtype == "float64"
    assert loss.weight.dtype == torch.float32


def test_loss_without_a_target() -> None:
    with pytest.raises(BatchError, match=r"the batch has no target.*Pass batch=\(x, y\)"):
        symbreak.check(INFERRED["Linear"](), X, F.cross_entropy)
    assert symbreak.check(INFERRED["Linear"](), X, lambda out, _: out.square().mean()).verdict == "healthy"


# ---- nesting ---------------------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.integers(0, 9), st.none(), st.text(max_size=2), st.booleans(),
    st.lists(st.integers(1, 3), min_size=0, max_size=3).map(lambda shape: torch.ones(shape)),
)  # fmt: skip
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        st.dictionaries(st.text(max_size=2), inner, max_size=3).map(OrderedDict),
        st.dictionaries(st.text(max_size=2), inner, max_size=3).map(UserDict),
        st.builds(Point, inner, inner),
        st.builds(Frozen, inner),
        inner.map(lambda b: SimpleNamespace(a=torch.ones(2), b=b)),
    ),
    max_leaves=8,
)


def shape_of(thing: Any) -> Any:
    """The structure with every tensor replaced by its sum."""
    if isinstance(thing, Tensor):
        return float(thing.sum())
    if isinstance(thing, dict | UserDict):
        return type(thing), [(k, shape_of(v)) for k, v in thing.items()]
    if isinstance(thing, list | tuple):
        return type(thing), [shape_of(v) for v in thing]
    if isinstance(thing, Frozen | SimpleNamespace):
        return type(thing), [(k, shape_of(v)) for k, v in vars(thing).items()]
    return thing


@settings(max_examples=150, deadline=None, derandomize=True)
@given(NESTED)
def test_mapping_keeps_any_structure_and_touches_nothing(thing: Any) -> None:
    before, tensors = shape_of(thing), leaves(thing)
    assert shape_of(_map(thing, lambda t: t)) == before
    doubled = _map(thing, lambda t: t * 2)
    assert [float(t.sum()) for t in leaves(doubled)] == [2 * float(t.sum()) for t in tensors]
    assert shape_of(thing) == before
    assert [a is b for a, b in zip(leaves(thing), tensors, strict=True)] == [True] * len(tensors)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(NESTED, NESTED)
def test_any_structure_in_and_out(given_in: Any, given_out: Any) -> None:
    torch.manual_seed(0)
    model = Net(lambda *, x, other: x + 0 * sum(t.sum() for t in leaves(other)))
    plain = model.net
    model.net = nn.Sequential(*plain)
    model.forward = lambda **kwargs: {"first": plain(model.take(**kwargs)), "rest": given_out}  # type: ignore[method-assign]
    assert symbreak.check(model, {"x": X, "other": given_in}).verdict == "healthy"
