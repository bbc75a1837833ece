"""A compiled step against the plain one, and what becomes of it where it cannot be, or does not pay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import symbreak as sb
from children import hears_ctrl_c
from symbreak.races import Cell, RaceResult, batched, compiled, samples
from symbreak.races.compiled import Stepper
from symbreak.races.plan import prepared


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def noisy() -> nn.Module:
    """Buffers that move, and random masks."""
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 3)
    )


def draws() -> tuple[nn.Module, Any, Any]:
    """An objective that draws its own data."""
    return dense(), None, lambda model, batch: (model(torch.randn(16, 4)) - 1).square().mean()


def frozen() -> nn.Module:
    model = dense()
    model[0].weight.requires_grad_(False)
    return model


KNOBS: dict[str, Any] = {"schemes": ["as_built", "he"], "seeds": 10, "etas": [0.1], "steps": 30, "points": 5}


def near(one: RaceResult, other: RaceResult) -> None:
    assert [run.cell for run in one.runs] == [run.cell for run in other.runs]
    for name in ("loss", "held_loss", "held_metric", "grad_norm"):
        np.testing.assert_allclose(
            [getattr(run, name) for run in one.runs], [getattr(run, name) for run in other.runs], rtol=1e-4, atol=1e-6
        )


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """torch.compile without its C++: a step is traced and differentiated as for a real one, in a second. Its calls."""
    real, calls = torch.compile, list[Any]()

    def without_cpp(step: Any, **knobs: Any) -> Any:
        calls.append(step)
        return real(step, fullgraph=knobs["fullgraph"], dynamic=knobs["dynamic"], backend="aot_eager")

    monkeypatch.setattr(torch, "compile", without_cpp)
    monkeypatch.setattr(compiled, "FASTER", np.inf)  # it need not be
    return calls


# ---- the same curves -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "data"), [(noisy, "iris"), (draws, None), (frozen, "iris")])
def test_one_compiled_step_serves_all_chunks_and_gives_the_same(
    traced: list[Any], model: Any, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "FEWEST", 8)
    monkeypatch.setattr(batched, "CACHE", 0.0)
    knobs = {**KNOBS, "optimizer": "adam", "etas": [0.01]}
    plain = sb.race(model, data, compile=False, **knobs)
    assert (traced, plain.notes) == ([], ())
    done = sb.race(model, data, compile=True, **knobs)  # chunks of 8, 8 and 4 runs
    assert len(traced) == 1
    near(done, plain)
    assert {run.note.split(":")[0] for run in done.runs} == {"compiled"}
    (note,) = done.notes
    assert note.startswith("Runs whose steps were compiled: a step is ")
    assert note.endswith("their losses are those of plain steps to rounding, not to the bit.")


def test_the_diverged_are_dropped_and_copies_of_another_fill_their_rows(
    traced: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = {**KNOBS, "etas": [0.01, 1e9], "loss": "mse", "steps": 40, "points": 8}
    draw = np.random.default_rng(0)
    data = (draw.normal(size=(90, 4)).astype(np.float32), draw.normal(size=(90, 3)).astype(np.float32))
    plain = sb.race(dense, data, compile=False, **knobs)
    rows = []
    real = compiled.Stepper.rows_for

    def rows_for(self: Stepper, n: int) -> int:
        if self.fast is not None:
            self.share = 0.1
        rows.append((n, real(self, n)))
        return rows[-1][1]

    monkeypatch.setattr(compiled.Stepper, "rows_for", rows_for)
    done = sb.race(dense, data, compile=True, **knobs)
    assert (20, 40) in rows
    assert [run.diverged_at for run in done.runs] == [run.diverged_at for run in plain.runs]
    assert 0 < sum(run.diverged_at is not None for run in done.runs) == 20
    kept = [(one, other) for one, other in zip(done.runs, plain.runs, strict=True) if one.diverged_at is None]
    np.testing.assert_allclose([one.loss for one, _ in kept], [other.loss for _, other in kept], rtol=1e-4)


@pytest.mark.parametrize(("n", "rows"), [(16, 16), (9, 16), (8, 16), (7, 7), (17, 17)])
def test_fewer_models_fill_a_compiled_step_where_that_is_faster(n: int, rows: int) -> None:
    stepper = Stepper(lambda: None, None)  # type: ignore[arg-type,return-value]
    assert stepper.rows_for(n) == n
    stepper.rows, stepper.share = 16, 0.5
    assert stepper.rows_for(n) == rows


# ---- when ------------------------------------------------------------------------------------------------------------


def test_it_compiles_where_minutes_are_to_come(traced: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sb.race(noisy, "iris", **KNOBS)
    assert traced == []  # some seconds are not worth it
    work = prepared(noisy, "iris", steps=30, points=2)
    cells = [Cell("as_built", seed, 0.1) for seed in range(4)]
    batched.run(work, cells, later=10**6)  # but a race of a million such chunks is
    assert len(traced) == 1
    batched.run(prepared(noisy, "iris", steps=30, points=2, compile=False), cells, later=10**6)
    monkeypatch.setattr(compiled, "TIMED", 31)
    batched.run(prepared(noisy, "iris", steps=30, points=2), cells, later=10**6)
    assert len(traced) == 1


def test_what_is_no_faster_goes_on_plainly(traced: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "FASTER", 0.0)
    done = sb.race(dense, "iris", compile=True, memory_mb=0.05, **KNOBS)
    assert len(traced) == 1  # not tried again with every chunk
    assert "Runs whose steps were not compiled: it takes " in done.notes[0]
    near(done, sb.race(dense, "iris", compile=False, **KNOBS))


class Prints(nn.Module):
    """vmap runs it; torch.compile would have to break it in two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return self.layer(x)


class Counts(nn.Module):
    """What it does hangs on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return self.layer(x) / (1 if self.calls < 20 else 2)


@pytest.mark.parametrize(("model", "why"), [(Prints, "Unsupported: "), (Counts, "FailOnRecompileLimitHit")])
def test_what_cannot_be_compiled_goes_on_plainly_and_says_so(
    model: Callable[[], nn.Module], why: str, traced: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "FASTER", 0.5)
    knobs = {**KNOBS, "schemes": ["as_built"], "seeds": 4}
    done = sb.race(model, "iris", compile=True, **knobs)
    assert done.notes[0].startswith(f"Runs whose steps were not compiled: {why}")
    plain = sb.race(model, "iris", compile=False, **knobs)
    assert [run.loss for run in done.runs] == [run.loss for run in plain.runs]  # to the bit: trials leave no trace


def test_a_compiled_step_that_gives_other_gradients_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(step: Any, **_: Any) -> Any:
        return lambda *given: ({name: 1.01 * one for name, one in step(*given)[0].items()}, given[1])

    monkeypatch.setattr(torch, "compile", wrong)
    done = sb.race(dense, "iris", compile=True, **KNOBS)
    assert "not compiled: a compiled step and a plain one give different gradients" in done.notes[0]
    assert [run.loss for run in done.runs] == [run.loss for run in sb.race(dense, "iris", **KNOBS).runs]


def test_built_in_nets_are_not_compiled_and_say_so() -> None:
    done = sb.race("mlp:8:tanh", "iris", compile=True, schemes=["he"], seeds=2, steps=5)
    assert done.notes == (
        "Nothing was compiled: only the steps of modules that are batched can be; others are written out.",
    )


# ---- by the real compiler --------------------------------------------------------------------------------------------


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.2)
        self.second, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.first(x)))
        return self.last(self.drop((h + torch.tanh(self.second(h))).mean(dim=(2, 3))))


@pytest.mark.slow
def test_convolutions_by_the_real_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "FASTER", np.inf)
    table = samples.read("digits")
    images = (table.X[:200].reshape(-1, 1, 8, 8), table.y[:200])
    knobs = {**KNOBS, "optimizer": "momentum", "etas": [0.01], "seeds": 3}
    done = sb.race(Convolutional, images, compile=True, **knobs)
    assert done.notes[0].startswith("Runs whose steps were compiled")
    near(done, sb.race(Convolutional, images, compile=False, **knobs))


LONG = """
import sys
from symbreak.races import compiled
import symbreak as sb
from test_compiled import noisy
compiled.FASTER = float("inf")
compiled.WORTH = float(sys.argv[2])
done = sb.race(noisy, "iris", schemes=["as_built"], seeds=40, etas=[0.1], steps=200, points=2, memory_mb=0.2,
               store=sys.argv[1])
print(done.finished, done.n_trained, done.notes[0] if done.notes else "")
"""


def long_race(folder: Path, worth: float, **environment: str) -> subprocess.Popen[str]:
    script = folder / "long.py"
    script.write_text(LONG)
    places = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(script), str(folder / "runs.sqlite"), str(worth)], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hears_ctrl_c,
        env={**os.environ, "PYTHONPATH": places, "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"), **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_without_a_compiler(tmp_path: Path) -> None:
    out, err = long_race(tmp_path, 0.0, CXX=str(tmp_path / "none")).communicate(timeout=200)
    assert out.startswith("True 40 Runs whose steps were not compiled: ")
    assert err == ""


@pytest.mark.slow
def test_ctrl_c_while_it_compiles_and_a_resumed_race_that_does_not(tmp_path: Path) -> None:
    race = long_race(tmp_path, 0.0)
    cache, deadline = tmp_path / "cache", time.monotonic() + 120
    while not list(cache.rglob("*.cpp")) and race.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)  # until a compiler is at work
    race.send_signal(signal.SIGINT)
    out, err = race.communicate(timeout=60)
    assert out.startswith("False 0")
    assert err == ""
    out, err = long_race(tmp_path, 1e9).communicate(timeout=200)
    assert (out, err) == ("True 40 \n", "")
    assert {one.name for one in tmp_path.iterdir()} == {"long.py", "cache", "runs.sqlite"}  # nothing left in the folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # distributed's own
@pytest.mark.parametrize("kind", ["processes", "executor", "cluster"])
def test_workers_compile_for_themselves(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = {**KNOBS, "schemes": ["as_built"], "seeds": 8}
    plain = sb.race(noisy, "iris", compile=False, **knobs)
    if kind == "processes":
        done = sb.race(noisy, "iris", compile=True, workers=2, **knobs)
    elif kind == "executor":
        with ProcessPoolExecutor(1) as pool:  # forked, where that is what Python does
            done = sb.race(noisy, "iris", compile=True, workers=pool, **knobs)
    else:
        distributed = pytest.importorskip("distributed")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
            silence_logs=50, memory_limit=None,
        ) as found:  # fmt: skip
            address = str(found.scheduler_address).replace("tcp://", "dask://")
            done = sb.race(noisy, "iris", compile=True, workers=address, **knobs)
    near(done, plain)
    assert any("compiled: " in note for note in done.notes)
