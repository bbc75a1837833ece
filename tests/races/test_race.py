"""A race against plain loops, one run at a time, that share no code with it; and the answers it must give."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symbreak as sb
from races.singly import OPTIMIZERS
from symbreak import nets
from symbreak.errors import DataError, ForwardError, ModelError, SchemeError, TargetError
from symbreak.races import Cell, Race, RaceError, batched, samples
from symbreak.races._race import prepared
from symbreak.races.subjects import own
from symbreak.races.work import Work
from symbreak.schemes import parse

race = Race()


# ---- the same curves as single runs ----------------------------------------------------------------------------------


def single(
    work: Work, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], eta: float
) -> tuple[list[float], float]:
    """Losses at the points, and the norm of the first gradient, of one model trained alone by torch.optim."""
    optimizer = OPTIMIZERS[work.setup.optimizer](model.parameters(), eta)
    found, norm = [], 0.0

    def measure() -> None:
        model.eval()
        with torch.no_grad():
            x, y = work.split.seen()
            found.append(float(loss(model(x), y)))
        model.train()

    measure()
    for step, (x, y) in enumerate(work.split.batches(work.setup.steps)):
        for group in optimizer.param_groups:
            group["lr"] = eta * work.schedule(step / work.setup.steps)
        optimizer.zero_grad()
        loss(model(x), y).backward()
        if not step:
            norm = float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())
        optimizer.step()
        if step + 1 in work.setup.points:
            measure()
    return found, norm


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("target", "data", "loss"),
    [
        ("mlp:8-6:tanh", "iris", F.cross_entropy),
        ("mlp:8:relu", "diabetes", lambda z, y: F.mse_loss(z[:, 0], y / 1.0)),
        ("logistic", "breast_cancer", lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.float())),
        ("mlp:6:gelu", "xor", F.cross_entropy),
        ("mlp:6:prelu", "iris", F.cross_entropy),
    ],
)
def test_same_curves_as_single_runs(target: str, data: str, loss: Any, optimizer: str) -> None:
    etas = {"sgd": [0.05, 0.01], "momentum": [0.01, 0.003]}.get(optimizer, [0.01, 0.003])
    if data == "diabetes":
        etas = [eta / 1000 for eta in etas] if optimizer in ("sgd", "momentum") else etas
    knobs: dict[str, Any] = {"steps": 40, "points": 5, "batch_size": 16, "optimizer": optimizer, "schedule": "cosine"}
    done = sb.race(target, data, schemes=["torch_default", "orthogonal"], seeds=[3, 5], etas=etas, **knobs)
    work = prepared(target, data, **knobs)
    assert len(done.runs) == 8
    for run in done.runs:
        subject = work.subject
        assert subject.spec is not None
        model = nets.build(subject.spec, subject.n_features, subject.n_outputs, parse(run.cell.scheme), run.cell.seed)
        losses, norm = single(work, model, loss, run.cell.eta)
        np.testing.assert_allclose(run.loss, losses, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(run.grad_norm, norm, rtol=1e-4)


class Convolutional(nn.Module):
    """Batch norm, dropout and a residual sum: buffers that move, and random masks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.drop, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.0), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.first(x)))
        h = h + torch.tanh(self.second(h))
        return self.last(self.drop(h.mean(dim=(2, 3))))


def images() -> tuple[Tensor, Tensor]:
    table = samples.read("digits")
    return table.X[:200].reshape(-1, 1, 8, 8), table.y[:200]


def test_any_module_by_vmap_as_single_runs() -> None:
    knobs: dict[str, Any] = {"steps": 12, "points": 3, "optimizer": "adam"}
    done = sb.race(Convolutional, images(), schemes=["as_built", "he"], seeds=[0, 1], etas=[0.01], **knobs)
    assert {run.engine for run in done.runs} == {"batched"}
    work = prepared(Convolutional, images(), **knobs)
    for run in done.runs:
        model = Convolutional()
        model.load_state_dict(work.subject.state(run.cell))
        losses, norm = single(work, model, F.cross_entropy, run.cell.eta)
        np.testing.assert_allclose(run.loss, losses, rtol=1e-3)
        np.testing.assert_allclose(run.grad_norm, norm, rtol=1e-3)


class Undecided(nn.Module):
    """A forward that branches on its data: vmap cannot, so it goes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return 2 * z if z.sum() > 0 else z


def test_what_cannot_be_batched_runs_one_by_one_and_says_so() -> None:
    knobs: dict[str, Any] = {"steps": 20, "points": 4}
    done = sb.race(Undecided, "iris", schemes=["as_built"], seeds=3, etas=[0.05], **knobs)
    assert {run.engine for run in done.runs} == {"one by one"}
    assert any("one by one: vmap refuses it" in note for note in done.notes)
    work = prepared(Undecided, "iris", **knobs)
    model = Undecided()
    model.load_state_dict(work.subject.state(done.runs[1].cell))
    np.testing.assert_allclose(done.runs[1].loss, single(work, model, F.cross_entropy, 0.05)[0], rtol=1e-4)


def dropped() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3))


def test_dropout_draws_the_same_masks_for_every_run_batched_or_not() -> None:
    work = prepared(dropped, "iris", steps=15, points=3)
    chosen = [Cell("as_built", 0, 0.1), Cell("as_built", 0, 0.1), Cell("he", 1, 0.1)]
    assert batched.why_plain(work, chosen[0]) is None
    together, apart = batched.run(work, chosen), batched.run(work, chosen, plain="to compare")
    np.testing.assert_allclose([r.loss for r in together], [r.loss for r in apart], rtol=1e-4)
    assert together[0].loss == pytest.approx(together[1].loss, rel=1e-6)
    alone = batched.run(work, chosen[2:])
    assert alone[0].loss == pytest.approx(together[2].loss, rel=1e-4)


def test_a_module_that_is_passed_stays_as_it_is() -> None:
    model = Convolutional().eval()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    state = torch.get_rng_state()
    sb.race(model, images(), schemes=["as_built", "orthogonal"], seeds=2, etas=[0.1], steps=3)
    assert not model.training
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_chunks_change_nothing() -> None:
    knobs: dict[str, Any] = {"schemes": ["he", "normal(0.5)"], "seeds": 5, "etas": [0.1], "steps": 30}
    whole = sb.race("mlp:8:tanh", "iris", **knobs)
    parts = sb.race("mlp:8:tanh", "iris", **knobs, memory_mb=0.04)
    work = prepared("mlp:8:tanh", "iris", steps=30)
    assert batched.chunk_size(work, whole.runs[0].cell, 0.04) < 4
    np.testing.assert_allclose([r.loss for r in whole.runs], [r.loss for r in parts.runs], rtol=1e-4)


def test_linear_takes_the_closed_form_and_it_is_what_stepping_gives() -> None:
    knobs: dict[str, Any] = {"schemes": ["zeros", "normal(3.0)"], "seeds": 3, "etas": [0.01, 0.2], "steps": 60}
    for optimizer in ("sgd", "momentum"):
        exact = sb.race("linear", "diabetes", batch_size=None, optimizer=optimizer, **knobs)
        stepped = sb.race("linear", "diabetes", batch_size=None, optimizer=optimizer, schedule=lambda t: 1.0, **knobs)
        assert {run.engine for run in exact.runs} == {"exact"}
        assert {run.engine for run in stepped.runs} == {"batched"}
        for one, other in zip(exact.runs, stepped.runs, strict=True):
            assert one.diverged_at == other.diverged_at
            shown = np.isfinite(other.loss)
            np.testing.assert_allclose(np.array(one.loss)[shown], np.array(other.loss)[shown], rtol=2e-3)
            np.testing.assert_allclose(one.grad_norm, other.grad_norm, rtol=1e-4)


def test_the_diverged_are_dropped_and_the_rest_run_on() -> None:
    done = sb.race("mlp:8:relu", "diabetes", schemes=["he"], seeds=3, etas=[1e-5, 1e3], steps=50, points=10)
    frame = done.to_frame()
    assert frame.groupby("eta")["diverged"].mean().to_dict() == {1e-5: 0.0, 1e3: 1.0}
    alone = sb.race("mlp:8:relu", "diabetes", schemes=["he"], seeds=3, etas=[1e-5], steps=50, points=10)
    kept = [run.loss for run in done.runs if run.cell.eta == 1e-5]
    np.testing.assert_allclose(kept, [run.loss for run in alone.runs], rtol=1e-4)
    lost = [run for run in done.runs if run.cell.eta == 1e3]
    assert all(run.diverged_at == 5 and np.isnan(run.loss[-1]) for run in lost)


class NotANumber(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * float("nan")


def test_what_is_not_a_number_from_the_start_is_lost_at_step_0() -> None:
    done = sb.race(NotANumber, "iris", schemes=["as_built"], seeds=2, etas=[0.1], steps=10)
    assert [run.diverged_at for run in done.runs] == [0, 0]
    assert "as_built is lost at step 0: before any step its loss is not finite, in 2 of 2 runs." in str(done)
    assert done.summaries[0].diverged == 1.0
    assert "inf" in str(done)
    assert "NaN" not in done.to_json()


def test_one_lost_from_the_start_leaves_the_others_as_they_are_alone() -> None:
    knobs: dict[str, Any] = {"seeds": 3, "etas": [0.1], "steps": 20, "points": 4, "optimizer": "momentum"}
    done = sb.race("mlp:8:relu", "iris", schemes=["he", "constant(1e30)", "normal(1e30)"], **knobs)
    lost = [run for run in done.runs if run.cell.scheme != "kaiming_normal"]
    assert {run.diverged_at for run in lost if run.engine == "batched"} == {0}
    assert all(np.isnan(run.loss[1:]).all() and np.isnan(run.grad_norm) for run in lost if run.engine == "batched")
    alone = sb.race("mlp:8:relu", "iris", schemes=["he"], **knobs)
    np.testing.assert_allclose([run.loss for run in done.runs[:3]], [run.loss for run in alone.runs], rtol=1e-5)
    assert "kaiming_normal is lost" not in str(done)


# ---- known answers ---------------------------------------------------------------------------------------------------


def test_an_all_zero_tanh_net_is_stuck_at_every_seed() -> None:
    done = sb.race("mlp:16:tanh", "digits", schemes=["zeros", "xavier"], seeds=6, etas=[0.5], steps=150)
    zero, xavier = sorted(done.summaries, key=lambda one: one.scheme != "zeros")
    assert (zero.converged, xavier.converged) == (0.0, 1.0)
    assert abs(zero.final_loss - np.log(10)) < 0.02
    assert done.n_trained == 7
    assert sum("same start as" in run.note for run in done.runs) == 5


def test_a_constant_start_equals_the_one_unit_net() -> None:
    """Five equal units are one unit, heard five times."""
    knobs: dict[str, Any] = {"steps": 30, "points": 6, "batch_size": None, "held_out": 0}
    done = sb.race("mlp:5:tanh", "diabetes", schemes=["constant(0.1)"], seeds=1, etas=[1e-5], **knobs)
    X, y = (part.double() for part in prepared("mlp:5:tanh", "diabetes", **knobs).split.train)
    w, b, a, c = (
        torch.full((10,), 0.1).double(),
        torch.zeros(()).double(),
        torch.tensor(0.1).double(),
        torch.tensor(0.0),
    )
    losses = []
    for step in range(31):
        leaves = [one.detach().clone().double().requires_grad_() for one in (w, b, a, c)]
        loss = ((5 * leaves[2] * torch.tanh(X @ leaves[0] + leaves[1]) + leaves[3] - y) ** 2).mean()
        if step % 5 == 0:
            losses.append(float(loss.detach()))
        g = torch.autograd.grad(loss, leaves)
        w, b, a, c = w - 1e-5 * g[0] / 5, b - 1e-5 * g[1] / 5, a - 1e-5 * g[2] / 5, c - 1e-5 * g[3]
    np.testing.assert_allclose(done.runs[0].loss, losses, rtol=1e-4)


def test_he_beats_glorot_at_depth_30_with_relu_and_no_norm() -> None:
    deep = "mlp:" + "-".join(["24"] * 30) + ":relu"
    schemes = ["kaiming_normal", "xavier_normal"]
    done = sb.race(deep, "digits", schemes=schemes, seeds=8, etas=[0.02], steps=250, points=5, optimizer="sgd")
    frame = done.to_frame().groupby("scheme")["final_loss"].median()
    assert frame["kaiming_normal"] < frame["xavier_normal"] - 0.2
    assert abs(frame["xavier_normal"] - np.log(10)) < 0.05
    norms = done.to_frame().groupby("scheme")["grad_norm"].median()
    assert norms["xavier_normal"] < norms["kaiming_normal"] / 5  # and that is the output bias alone
    (one,) = done.comparisons
    assert one.seen
    assert one.difference < 0


def test_orthogonal_and_lsuv_at_depth_30_with_tanh() -> None:
    """Saxe 2014, Mishkin 2016: to keep every direction's length trains better than to keep the mean length."""
    deep = "mlp:" + "-".join(["24"] * 30) + ":tanh"
    schemes = ["xavier_normal", "orthogonal", "lsuv"]
    done = sb.race(deep, "digits", schemes=schemes, seeds=7, etas=[0.05], steps=250, points=5)
    median = done.to_frame().groupby("scheme")["final_loss"].median()
    assert median["orthogonal"] < median["xavier_normal"] / 2
    assert median["lsuv"] < median["xavier_normal"] / 2
    against = [one for one in done.comparisons if "xavier_normal" in (one.first, one.second)]
    assert len(against) == 2
    assert all(one.seen for one in against)


def test_linear_regression_is_indifferent_to_its_start_except_in_the_null_space() -> None:
    draw = np.random.default_rng(0)
    X, y = draw.normal(size=(6, 9)), draw.normal(size=6)
    done = sb.race(
        "linear", (X, y), schemes=["zeros", "normal"], seeds=4, etas=[0.05], steps=100_000, batch_size=None, held_out=0
    )
    assert max(run.loss[-1] for run in done.runs) < 1e-8  # fewer samples than weights: every start fits them
    wide = sb.race(
        "linear", "diabetes", schemes=["zeros", "normal(100.0)"], seeds=4, etas=[0.1], steps=10**6, batch_size=None
    )
    losses = [run.loss[-1] for run in wide.runs]
    assert max(losses) - min(losses) < 1e-6 * min(losses)  # no null space: one end
    knobs: dict[str, Any] = {"etas": [0.05], "steps": 100_000, "batch_size": None, "held_out": 0.34}
    open_ended = sb.race("linear", (X, y), schemes=["zeros", "normal"], seeds=4, **knobs)
    held = [run.held_loss[-1] for run in open_ended.runs]
    assert np.std(held) > 0.01  # what no sample sees is kept, and shows on new ones


def test_a_perceptron_is_indifferent_to_eta_at_zero() -> None:
    done = sb.race(
        "perceptron", "breast_cancer", schemes=["zeros", "normal"], seeds=3, etas=[0.125, 1.0, 8.0], steps=3000
    )
    frame = done.to_frame()
    spread = frame[frame.seed == 1].groupby("scheme")["final_loss"].nunique()
    assert spread["zeros"] == 1
    assert spread["normal"] > 1
    assert done.setup.steps % 427 == 0


# ---- what is given back ----------------------------------------------------------------------------------------------


def test_the_map_shows_what_trains() -> None:
    done = sb.race.map("mlp:16-16:tanh", "iris", scales=[0.01, 1.0], etas=[1e-4, 0.3], seeds=2, steps=100)
    assert done.theory == 1.0  # LeCun's scale is tanh's edge of chaos at zero biases
    frame = done.to_frame().groupby(["eta", "scale"])["final_loss"].median()
    assert frame[(0.3, 1.0)] < 0.2 < 1.0 < frame[(1e-4, 1.0)]


def test_points_order_and_pairing() -> None:
    work = prepared("mlp:4", "iris", steps=7, points=3, batch_size=50)
    assert work.setup.points == (0, 2, 5, 7)
    first = [x.clone() for x, _ in work.split.batches(7)]
    assert all(torch.equal(a, b) for (a, _), b in zip(work.split.batches(7), first, strict=True))
    seen = torch.cat(first[:2])
    assert len(torch.unique(seen, dim=0)) > 90  # an epoch visits each sample once (iris has equal rows)
    assert not torch.equal(first[0], next(prepared("mlp:4", "iris", data_seed=1, batch_size=50).split.batches(1))[0])


@pytest.mark.usefixtures("ctrl_c_in_the_third_chunk")
def test_interrupted() -> None:
    done = sb.race("mlp:8:tanh", "iris", schemes=["he"], seeds=9, etas=[0.1], steps=10, memory_mb=0.04)
    assert 0 < len(done.runs) < 9
    assert not done.finished
    assert any("Interrupted" in note for note in done.notes)


def test_progress() -> None:
    told: list[tuple[int, int | None, str]] = []
    sb.race(
        "mlp:8",
        "iris",
        schemes=["he"],
        seeds=6,
        etas=[0.1],
        steps=10,
        memory_mb=0.04,
        progress=lambda *a: told.append(a),
    )
    assert (told[0][:2], told[-1][:2]) == ((0, 6), (6, 6))
    assert "a second, 0 s left" in told[-1][2]


# ---- mistakes --------------------------------------------------------------------------------------------------------


def raises(x: Tensor, y: Tensor) -> float:
    raise ValueError("no labels")


def no_number(x: Tensor, y: Tensor) -> object:
    return {"f1": 0.5}


def no_module() -> int:
    return 3


@pytest.mark.parametrize(
    ("target", "data", "knobs", "error", "match"),
    [
        ("mlp:8", "iris", {"schemes": []}, RaceError, "schemes is empty"),
        ("mlp:8", "iris", {"schemes": ["kaimin"]}, SchemeError, "no scheme is called 'kaimin'"),
        ("mlp:8", "iris", {"schemes": ["as_built"]}, SchemeError, "as_built is the start of a factory's own model"),
        ("mlp:8", "iris", {"schemes": ["dirac"]}, SchemeError, "dirac cannot start mlp:8"),
        (Undecided, "iris", {"schemes": ["dirac"]}, SchemeError, "dirac cannot start Undecided: 'layer.weight'"),
        ("mlp:8", "iris", {"seeds": []}, RaceError, "seeds is empty"),
        ("mlp:8", "iris", {"seeds": [-1]}, RaceError, "seeds=-1: expected a whole number"),
        ("mlp:8", "iris", {"etas": [0.1, -1]}, RaceError, "etas holds -1"),
        ("mlp:8", "iris", {"etas": "fast"}, RaceError, "etas='fast'"),
        ("mlp:8", "iris", {"steps": 0}, RaceError, "steps=0"),
        ("mlp:8", "iris", {"batch_size": 1.5}, RaceError, "batch_size=1.5"),
        ("mlp:8", "iris", {"optimizer": "adm"}, RaceError, "no optimizer 'adm' can be raced. Nearest: "),
        ("mlp:8", "iris", {"schedule": "cosin"}, RaceError, "no schedule is called 'cosin'"),
        ("mlp:8", "iris", {"loss": "cee"}, RaceError, "no loss is called 'cee'"),
        ("mlp:8", "iris", {"metric": "f1"}, RaceError, "no metric is called 'f1'"),
        ("mlp:8", "iris", {"metric": raises}, RaceError, r"metric raises raised ValueError: no labels"),
        ("mlp:8", "iris", {"held_out": 1.0}, DataError, "held_out=1.0"),
        ("mlp:8", "iris", {"memory_mb": 0}, RaceError, "memory_mb=0"),
        ("mlp:8", "irsi", {}, DataError, "there is no data 'irsi'"),
        ("mlp:8", 7, {}, DataError, "data is int"),
        ("mlp:8", ([[1.0], [np.inf]], [0, 1]), {}, DataError, "row 2, feature 1 is inf"),
        ("mlp:8", (torch.zeros(3, 1), torch.tensor([0.0, torch.nan, 1.0])), {}, DataError, "sample 2 has targets that"),
        ("mlp:8", "iris", {"metric": no_number}, RaceError, "metric no_number raised TypeError"),
        ("mlp:8", "iris", {"metric": 3}, RaceError, "metric=3: expected accuracy, r2"),
        ("mlp:8", "iris", {"schemes": ["chrono(10)"]}, SchemeError, "chrono.* cannot start mlp:8"),
        ("mlp:8", "iris", {"schemes": ["gradinit(steps=-1)"]}, SchemeError, "gradinit"),
        ("mlp:8", ([[1.0], [np.nan]], [0, 1]), {}, DataError, "row 2, feature 1 is nan"),
        ("mlp:8", (torch.tensor([[1.0], [torch.nan]]), torch.tensor([0, 1])), {}, DataError, "sample 2 has inp"),
        ("mlp:8", (torch.zeros(4, 2, 2), torch.tensor([0, 1, 0, 1])), {}, DataError, r"needs X\[samples, features\]"),
        ("mlp8", "iris", {}, TargetError, "there is no target 'mlp8'"),
        (no_module, "iris", {}, TargetError, "no_module returned int"),
        (7, "iris", {}, TargetError, "target is 7"),
        (nn.ReLU(), "iris", {}, ModelError, "ReLU has no parameter to train"),
        (lambda: nn.Linear(5, 3), "iris", {}, ForwardError, "Linear or its loss raised RuntimeError"),
        ("logistic", "diabetes", {}, DataError, "logistic needs classes"),
        ("mlp:8", "diabetes", {"loss": "ce"}, DataError, "loss 'ce' needs classes"),
        ("perceptron", "iris", {"optimizer": "adam"}, RaceError, "a perceptron learns by its own rule"),
        ("mlp:8", "iris", {"loss": "perceptron"}, RaceError, "belongs to the target perceptron"),
        ("mlp:8", "iris", {"workers": 0}, RaceError, "workers=0"),
        ("mlp:8", "iris", {"workers": "cluster"}, sb.SymbreakError, "workers='cluster': expected a number"),
    ],
)  # fmt: skip
def test_mistakes(target: Any, data: Any, knobs: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sb.race(target, data, **{"schemes": ["he"], "seeds": 2, "steps": 2, **knobs})


def test_a_race_and_its_plan_have_the_same_knobs() -> None:
    """race() spells them out for whoever reads its signature; a default that is changed in one place is red here."""
    theirs = inspect.signature(prepared).parameters
    ours = {name: one for name, one in inspect.signature(Race.__call__).parameters.items() if name in theirs}
    assert {name: (one.default, one.annotation) for name, one in ours.items()} == {
        name: (one.default, one.annotation) for name, one in theirs.items()
    }


def test_a_cell_is_a_value() -> None:
    assert Cell("zeros", 0, 0.1) == Cell("zeros", 0, 0.1, 1.0)


def test_a_scheme_starts_a_module_as_init_does() -> None:
    """Norms stay as built, also under a scheme that speaks of biases."""
    build = lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    subject, _ = own(build)
    for scheme in ("torch_default", "kaiming_normal"):
        model = subject.build(3)
        sb.init_(model, scheme, generator=torch.Generator().manual_seed(3))
        state = subject.state(Cell(scheme, 3, 0.1))
        assert all(torch.equal(state[name], one) for name, one in model.state_dict().items())
