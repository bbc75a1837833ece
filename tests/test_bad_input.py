"""Every mistake a user can make has its own sentence, and leaves the model as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symbreak
from symbreak.errors import BatchError, ConfigError, ForwardError, ModelError, SymbreakError
from test_borrow import Kept

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


@contextmanager
def refused(error: type[SymbreakError], match: str, model: nn.Module, *more: Any) -> Iterator[None]:
    with Kept(model, *more), pytest.raises(error, match=match) as caught:
        yield
    assert type(caught.value) is error


# ---- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [nn.Linear, net().state_dict(), torch.zeros(3), None, "model.pt", lambda x: x])
def test_not_a_module(thing: Any) -> None:
    name = type(thing).__name__
    with pytest.raises(ModelError, match=f"check\\(\\) got {name}; expected a torch.nn.Module"):
        symbreak.check(thing, X)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: nn.Sequential(nn.ReLU()), "Sequential has no parameters"),
        (lambda: net().requires_grad_(False), r"all 4 parameters of Sequential are frozen \(requires_grad=False\)"),
        (lambda: nn.Sequential(nn.Linear(4, 8, device="meta")), "'0.weight' of Sequential is on the meta device"),
    ],
    ids=["no parameters", "frozen", "meta"],
)
def test_nothing_to_look_at(build: Callable[[], nn.Module], match: str) -> None:
    model = build()
    with pytest.raises(ModelError, match=match):
        symbreak.check(model, X)


def test_lazy() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ModelError, match=r"'0.weight' of Sequential is lazy and has no weights yet. Run one batch"):
        symbreak.check(model, X)
    assert isinstance(model[0], nn.LazyLinear)


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr"])
@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")  # torch: its CSR is in beta
def test_sparse_weights(layout: str, trains: bool) -> None:
    model = net()
    dense = model[0].weight.detach()
    sparse = dense.to_sparse() if layout == "sparse_coo" else dense.to_sparse_csr()
    model[0].weight = nn.Parameter(sparse, requires_grad=trains)
    with pytest.raises(ModelError, match=rf"'0.weight' of Sequential is a sparse tensor \({layout}\).*to_dense"):
        symbreak.check(model, X)


class Tables(nn.Module):
    """Integers that the forward reads and nothing trains: a packed weight, an order, a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = nn.Parameter(torch.randint(-9, 9, (4, 4), dtype=torch.int8), requires_grad=False)
        self.order = nn.Parameter(torch.arange(4).flip(0), requires_grad=False)
        self.mask = nn.Parameter(torch.tensor([True, False, True, True]), requires_grad=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head((x @ self.packed.to(x.dtype))[:, self.order] * self.mask)
        return out


def test_integer_parameters_are_looked_past() -> None:
    model = Tables()
    with Kept(model):
        report = symbreak.check(model, X)
    assert report.verdict == "healthy"
    assert [t.name for t in report.trace.tensors] == ["head.weight", "head.bias"]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_weights_are_read(dtype: torch.dtype) -> None:
    model = net()
    model[0].weight = nn.Parameter(model[0].weight.detach().to(dtype))
    report = symbreak.check(model, X)
    assert report.verdict == "healthy"
    assert report.wakeup["0.weight"] == 1
    model[0].weight.data.view(torch.uint8)[0, 1] = 0x7F  # NaN in both
    (finding,) = [f for f in symbreak.check(model, X).findings if f.code == "SB404"]
    assert "1 of 32 values of 0.weight" in finding.because


def test_nearest_does_not_ask_for_case_and_a_message_does_not_repeat_a_whole_page() -> None:
    from symbreak.errors import nearest

    assert nearest("ORTHOGONAL", ["ZerO", "orthogonal", "He"]).startswith("Nearest: orthogonal, ")
    assert nearest("zero", ["ZerO", "orthogonal", "He"]).startswith("Nearest: ZerO, ")
    assert nearest("he", []) == "None is known."
    long = "n" * 3000
    with pytest.raises(ConfigError, match=r"no optimizer 'n+\.\.\. \(300[0-9] characters\)") as caught:
        symbreak.check(net(), X, optimizer=long)
    assert len(str(caught.value)) < 300
    assert "Nearest: " in str(caught.value)


def test_quantised() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization moves to torchao
        model = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ModelError, match=r"has no parameters|quantised"):
        symbreak.check(model, X)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_weights(bad: float) -> None:
    model = net()
    model[2].weight.data[0, 1] = bad
    with Kept(model):
        report = symbreak.check(model, X)
    assert report.verdict == "unknown"
    (finding,) = [f for f in report.findings if f.code == "SB404"]
    assert finding.where == "2.weight"
    assert "1 of 24 values of 2.weight" in finding.because


# ---- forward, loss, objective ----------------------------------------------------------------------------------------


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("the projector is off")


def test_forward_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Tanh(), Raises()))
    with refused(ForwardError, r"RuntimeError in module '1\.1' \(Raises\): the projector is off", model):
        symbreak.check(model, X)


def test_shape_mismatch() -> None:
    model = net()
    with refused(ForwardError, r"in module '0' \(Linear\): .*shapes cannot be multiplied.*does not fit", model):
        symbreak.check(model, torch.ones(12, 5))


def test_mismatch_inside_the_model() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 3))
    with refused(ForwardError, r"in module '1' \(Linear\): ", model):
        symbreak.check(model, X)


def test_wrong_arguments() -> None:
    model = nn.Bilinear(4, 4, 2)
    with refused(ForwardError, r"TypeError .*missing 1 required positional argument: 'input2'", model):
        symbreak.check(model, X)


def test_labels_out_of_range() -> None:
    model = net()
    with refused(ForwardError, r"outside any module of the model \(in the loss or objective\)", model):
        symbreak.check(model, (X, Y + 5), F.cross_entropy)


def test_batch_of_one_with_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    with refused(
        ForwardError, r"in module '1' \(BatchNorm1d\).*needs at least two samples: pass a larger batch", model
    ):
        symbreak.check(model, X[:1])


def test_no_output_depends_on_parameters() -> None:
    model = nn.Sequential(net(), nn.Sequential())
    model[1].forward = lambda x: x.detach()  # type: ignore[method-assign]
    with refused(ModelError, "no output of the model depends on a trainable parameter", model):
        symbreak.check(model, X)


@pytest.mark.parametrize(
    ("loss", "error", "match"),
    [
        (lambda out, y: out.detach().mean(), ModelError, "does not depend on any trainable parameter"),
        (lambda out, y: (out.argmax(1) == y).double().mean(), ModelError, "Look for a .detach"),
        (lambda out, y: torch.tensor(1.0), ModelError, "does not depend on any trainable parameter"),
        (
            lambda out, y: out.square(),
            BatchError,
            r"returned a tensor of shape \(12, 3\); expected a scalar. Reduce it",
        ),
        (nn.CrossEntropyLoss(reduction="none"), BatchError, r"returned a tensor of shape \(12,\)"),
        (lambda out, y: 1.0, BatchError, "returned float; expected a scalar tensor"),
        (lambda out, y: None, BatchError, "returned NoneType; expected a scalar tensor"),
        (lambda out, y: {"loss": out.mean()}, BatchError, "returned dict; expected a scalar tensor"),
    ],
    ids=["detached", "argmax", "constant", "not reduced", "reduction none", "float", "nothing", "dict"],
)
def test_losses(loss: Any, error: type[SymbreakError], match: str) -> None:
    model = net()
    with (
        refused(error, r"loss\(output, target\) .*" + match, model)
        if "Look" not in match
        else refused(error, match, model)
    ):
        symbreak.check(model, (X, Y), loss)
    with refused(error, match, model):
        symbreak.check(model, (X, Y), objective=lambda m, b: loss(m(b[0]), b[1]))


def test_loss_and_objective() -> None:
    model = net()
    with refused(BatchError, "got both loss= and objective=", model):
        symbreak.check(model, (X, Y), F.cross_entropy, objective=lambda m, b: m(b[0]).sum())


def test_loss_without_target() -> None:
    model = net()
    with refused(BatchError, r"the batch has no target: .*Pass batch=\(x, y\)", model):
        symbreak.check(model, loss=F.cross_entropy)


# ---- the batch -------------------------------------------------------------------------------------------------------


def spoiled(value: float) -> Tensor:
    x = X.clone()
    x[3, 2] = value
    return x


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        (torch.zeros(0, 4), r"the batch is empty: it holds a tensor of shape \(0, 4\)"),
        ((torch.zeros(0, 4), torch.zeros(0)), "the batch is empty"),
        (
            spoiled(float("nan")),
            r"1 NaN or infinite values in a tensor of shape \(12, 4\), the first at index \(3, 2\)",
        ),
        ((spoiled(float("inf")), Y), "the batch holds 1 NaN or infinite"),
        ((X, torch.full((12,), float("nan"))), "the batch holds 12 NaN or infinite"),
        ({"input": spoiled(float("nan")).numpy()}, "the batch holds 1 NaN or infinite"),
        ((X, Y, Y), r"the batch is a tuple of 3; expected \(x, y\).*pass \(\(a, b, \.\.\.\), y\)"),
        ([], r"the batch \(list\) holds no tensor"),
        ({"text": "hello"}, r"the batch \(dict\) holds no tensor"),
        ("digits", r"the batch \(str\) holds no tensor"),
        (np.array(["a", "b"]), "the batch holds a numpy array of <U1; encode it as numbers"),
        (torch.utils.data.DataLoader([1, 2]), r"the batch is a DataLoader; pass one batch of it: batch=next\(iter"),
        (torch.utils.data.TensorDataset(X), "the batch is a TensorDataset"),
    ],
    ids=lambda thing: thing[:24] if isinstance(thing, str) else type(thing).__name__,
)
def test_batches(batch: Any, match: str) -> None:
    model = net()
    with refused(BatchError, match, model):
        symbreak.check(model, batch, F.cross_entropy if isinstance(batch, tuple) and len(batch) == 2 else None)


def test_a_draw_that_is_not_finite() -> None:
    class Draws:
        def draw(self, step: int) -> Tensor:
            return X if step < 3 else spoiled(float("nan"))

    model = net()
    with refused(BatchError, "the batch holds 1 NaN or infinite", model):
        symbreak.check(model, Draws())


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"optimizer": "adamm"}, r"no optimizer 'adamm'\. Nearest: adam"),
        ({"optimizer": 3}, "optimizer=3; expected a name such as 'adam', or a torch optimizer"),
        ({"select": ["SB109"]}, "SB109.*Nearest: "),
        ({"ignore": ["XY1"]}, "XY1"),
    ],
    ids=repr,
)
def test_settings(setting: dict[str, Any], match: str) -> None:
    model = net()
    with refused(ConfigError, match, model):
        symbreak.check(model, X, **setting)


def test_interrupt() -> None:
    class Stops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    model = nn.Sequential(nn.Linear(4, 3), Stops())
    with Kept(model), pytest.raises(KeyboardInterrupt):
        symbreak.check(model, X)
