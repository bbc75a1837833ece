"""TARGET: the built-ins, factories in files and packages, and every way they can be wrong."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from symbreak.errors import DataError, SchemeError, TargetError
from symbreak.nets import LOSSES
from symbreak.targets import CLASSES_ONLY, build

MODELS = """
import random
import numpy
import torch
from torch import nn
import helper

class Net(nn.Module):
    def __init__(self, wide=4):
        super().__init__()
        self.fc = nn.Linear(3, wide)
    def forward(self, x):
        return self.fc(x)

class Needs(Net):
    def __init__(self, wide):
        super().__init__(wide)

instance = Net()
number = 3
def plain(): return Net(helper.WIDE)
def pair(): return Net(), torch.zeros(2, 3)
def triple(): return Net(), None, objective
def objective(model, batch): return model(torch.ones(2, 3)).sum()
def many(): return 1, 2, 3, 4
def wrong(): return {"model": Net()}
def forgot(): Net()
def the_class(): return Net
def bad_objective(): return Net(), None, 3
def lazy():
    import late
    return late.Net()
def chance(): return Net(), (random.random(), numpy.random.rand(), torch.rand(1).item())
def raises():
    width = -1
    raise ValueError("width must be positive")
def deep(): return nn.Linear("a", 3)
def leaves(): raise SystemExit(3)
def absent():
    import surely_not_installed
def my_loss(output, target): return output.sum()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "helper.py").write_text("WIDE = 5\n")
    (tmp_path / "late.py").write_text("from models import Net\n")
    before = dict(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def weights(job):
    return [p.detach().flatten() for p in job.model.parameters()]


@pytest.mark.parametrize(
    ("target", "data", "loss", "n_outputs"),
    [
        ("linear", "diabetes", "mse", 1),
        ("linear", "iris", "mse", 3),
        ("linear", "breast_cancer", "mse", 1),
        ("logistic", "digits", "ce", 10),
        ("logistic", "breast_cancer", "bce", 1),
        ("mlp:8:tanh", "wine", "ce", 3),
        ("mlp:8:tanh", "xor", "ce", 2),
        ("mlp:8:tanh", "diabetes", "mse", 1),
    ],
)
def test_built_ins_choose_loss_and_width_by_the_data(target, data, loss, n_outputs):
    job = build(target, data=data)
    assert job.loss is LOSSES[loss]
    x, y = job.batch.draw(0)
    output = job.model(x)
    assert output.shape[1] == n_outputs
    job.loss(output, y).backward()
    assert all(p.grad is not None for p in job.model.parameters())


@pytest.mark.parametrize(("data", "n_outputs"), [("iris", 3), ("breast_cancer", 1)])
def test_the_perceptron_brings_its_loss(data, n_outputs):
    job = build("perceptron", data=data, init="zeros")
    x, y = job.batch.draw(0)
    assert job.model(x).shape[1] == n_outputs
    job.loss(job.model(x), y).backward()
    assert job.model[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_runs_on_a_built_in(loss):
    for data in ("iris", "breast_cancer", "diabetes"):
        if data == "diabetes" and loss in CLASSES_ONLY:
            continue
        job = build("mlp:4:tanh", data=data, loss=loss)
        x, y = job.batch.draw(0)
        assert job.loss(job.model(x), y).isfinite()


def test_built_ins_have_data_of_their_own():
    assert build("linear").batch.name == "diabetes"
    job = build("mlp:4:tanh", init="normal(0.02)")
    assert job.name == "mlp:4:tanh, init normal(std=0.02), on digits"
    assert job.note.startswith("digits: 1797 samples, 64 features, 10 classes; features standardised")


def test_the_seed_makes_the_start():
    one, same, other = (weights(build("mlp:4:tanh", data="xor", seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": "logstic"}, TargetError, "no target 'logstic'. Nearest: logistic, .*Expected linear, logistic"),
        ({"target": "mlp:4:thanh"}, TargetError, "Nearest: tanh"),
        ({"target": "linear", "init": "zeroes"}, SchemeError, "Nearest: zeros"),
        ({"target": "linear", "data": "digit"}, DataError, "Nearest: digits"),
        ({"target": "linear", "data": "xor", "loss": "mes"}, TargetError, "Nearest: mse, .*Or file.py:callable"),
        ({"target": "perceptron", "data": "xor", "loss": "mse"}, TargetError, "perceptron has its own loss"),
        ({"target": "logistic", "data": "diabetes"}, DataError, "logistic needs classes, but diabetes"),
        ({"target": "linear", "data": "diabetes", "loss": "ce"}, DataError, "loss 'ce' needs classes"),
        ({"target": "model.safetensors"}, TargetError, "a file of weights cannot be checked yet"),
        ({"target": "model.pt"}, TargetError, "a file of weights cannot be checked yet"),
    ],
)
def test_mistakes_with_built_ins(arguments, error, message):
    with pytest.raises(error, match=message):
        build(**arguments)


def test_factories(folder):
    assert build("models.py:plain").model.fc.out_features == 5
    assert build("models:plain").model.fc.out_features == 5
    assert build("models.py:Net").model.fc.out_features == 4
    assert build("models.py:instance").model.fc.in_features == 3
    assert build("models.py:lazy").model.fc.in_features == 3
    job = build("models.py:pair")
    assert job.batch.shape == (2, 3)
    assert job.loss is None
    job = build("models.py:triple")
    assert job.batch is None
    assert job.objective(job.model, None).ndim == 0


def test_loading_leaves_sys_path(folder):
    before = list(sys.path)
    build("models.py:plain")
    assert sys.path == before
    with pytest.raises(TargetError):
        build("models.py:raises")
    assert sys.path == before


def test_two_files_of_one_name_do_not_hide_each_other(folder):
    (folder / "other").mkdir()
    (folder / "other" / "models.py").write_text("from torch import nn\ndef plain(): return nn.Linear(7, 7)\n")
    assert build("models.py:plain").model.fc.in_features == 3
    assert build("other/models.py:plain").model.in_features == 7
    (folder / "torch.py").write_text("from torch import nn\ndef plain(): return nn.Linear(8, 8)\n")
    assert build("torch.py:plain").model.in_features == 8
    assert sys.modules["torch"] is torch


def test_factories_see_the_seed_and_the_caller_keeps_its_state(folder):
    states = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    one, same, other = (build("models.py:chance", seed=seed) for seed in (1, 1, 2))
    assert one.batch == same.batch
    assert all(mine != theirs for mine, theirs in zip(one.batch, other.batch, strict=True))
    assert torch.equal(weights(one)[0], weights(same)[0])
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.random.get_rng_state(), states[2])


def test_data_and_loss_beside_a_factory(folder):
    (folder / "t.csv").write_text("a,b,c,y\n1,2,3,0\n4,5,6,1\n7,8,8,0\n4,2,6,1\n")
    job = build("models.py:plain", data="t.csv")
    assert job.loss is LOSSES["ce"]
    assert job.batch.draw(0)[0].shape == (4, 3)
    assert job.name == "models.py:plain, on t.csv"
    assert build("models.py:plain", data="t.csv", loss="models.py:my_loss").loss.__name__ == "my_loss"
    assert build("models.py:plain", data="t.csv:a").loss is LOSSES["mse"]
    assert build("models.py:triple", data="t.csv").loss is None


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("model.py:plain", r"there is no file 'model.py'. Nearest: models.py"),
        ("nowhere/model.py:plain", "there is no file 'nowhere/model.py'"),
        ("models.py", "needs the name of a factory. It defines Net, Needs, plain, .*: write models.py:Net"),
        ("missing.py", "There is no such file"),
        ("models.py:plane", "models.py has no 'plane'. Nearest: plain"),
        ("models:plane", "models has no 'plane'. Nearest: plain"),
        ("no_such_package.mod:f", "there is no module 'no_such_package.mod'"),
        ("models.py:number", "is a value of type int; expected a factory"),
        ("models.py:Needs", "models.py:Needs needs wide; a factory is called without arguments"),
        ("models.py:many", "returned a tuple of 4; expected model"),
        ("models.py:wrong", "returned a value of type dict; expected a torch.nn.Module"),
        ("models.py:forgot", "returned None; expected a torch.nn.Module. Is a return missing?"),
        ("models.py:the_class", r"returned the class Net; expected an instance: Net\(\)"),
        ("models.py:bad_objective", "a value of type int as objective"),
        ("models.py:raises", r"models.py:raises raised ValueError: width must be positive \(models.py:36\)"),
        ("models.py:deep", r"models.py:deep raised TypeError: .* \(models.py:37\)"),
        ("models.py:leaves", r"SystemExit: it ends the program \(models.py:38\)"),
        (
            "models.py:absent",
            r"models.py:40\); it needs 'surely_not_installed', which this Python \(.*\) does not have",
        ),
    ],
)
def test_mistakes_with_factories(folder, target, message):
    with pytest.raises(TargetError, match=message) as caught:
        build(target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import surely_not_installed\n", r"ModuleNotFoundError: .*bad.py:1\); it needs 'surely_not_installed'"),
        ("raise ModuleNotFoundError('no part of it')\n", r"ModuleNotFoundError: no part of it \(.*bad.py:1\)\W*$"),
        ("x = 1\nraise RuntimeError('no')\n", r"cannot be imported: RuntimeError: no \(bad.py:2\)"),
        ("def f(:\n", r"cannot be imported: SyntaxError: invalid syntax \(bad.py:1\)"),
        ("import sys\nsys.exit()\n", "SystemExit: it ends the program"),
    ],
)
@pytest.mark.parametrize("target", ["bad.py:f", "bad:f"])
def test_files_that_cannot_be_imported(folder, source, message, target):
    (folder / "bad.py").write_text(source)
    with pytest.raises(TargetError, match=message):
        build(target)
    assert "bad" not in sys.modules


def test_a_missing_dependency_of_a_package_is_not_a_missing_package(folder):
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__init__.py").write_text("import surely_not_installed\n")
    (folder / "pkg" / "mod.py").write_text("")
    with pytest.raises(TargetError, match="it needs 'surely_not_installed'"):
        build("pkg.mod:f")


def test_an_interrupt_goes_through(folder):
    (folder / "slow.py").write_text("def f(): raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        build("slow.py:f")


def test_options_that_do_not_go_together(folder):
    with pytest.raises(TargetError, match="--init starts the built-in models"):
        build("models.py:plain", init="zeros")
    with pytest.raises(TargetError, match="brings its own objective, so --loss mse has no place"):
        build("models.py:triple", loss="mse")
    with pytest.raises(TargetError, match="expected a callable loss"):
        build("models.py:plain", loss="models.py:number")


def test_a_module_is_returned_untouched(folder):
    job = build("models.py:instance")
    assert isinstance(job.model, nn.Module)
    assert job.model is build("models.py:instance").model
