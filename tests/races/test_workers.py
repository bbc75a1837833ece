"""Workers: the same results wherever they are trained, and nothing lost when one of them dies."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import symbreak as sb
from children import hears_ctrl_c
from symbreak.races import RaceResult, WorkersError
from symbreak.races.store import Store

KNOBS: dict[str, Any] = {"schemes": ["he", "normal(0.3)"], "seeds": 8, "etas": [0.1], "steps": 30}

FACTORY = """
import os, signal, time
from pathlib import Path
from torch import nn

MARK = Path(__file__).with_name("killed")

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x):
        time.sleep(0.0005)
        return self.layer(x)

class Deadly(Slow):
    # The first process that trains it and is not the parent dies, as if for lack of memory.
    def forward(self, x):
        if os.getpid() != int(MARK.with_name("parent").read_text()) and self.training:
            try:
                MARK.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.layer(x)
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    file = tmp_path / "slow_models.py"
    file.write_text(FACTORY)
    (tmp_path / "parent").write_text(str(os.getpid()))
    return file


def same(one: RaceResult, other: RaceResult) -> None:
    assert [run.cell for run in one.runs] == [run.cell for run in other.runs]
    np.testing.assert_allclose([r.loss for r in one.runs], [r.loss for r in other.runs], rtol=1e-4)
    np.testing.assert_allclose([r.held_metric for r in one.runs], [r.held_metric for r in other.runs], rtol=1e-4)


def test_any_executor_gives_the_same() -> None:
    with ThreadPoolExecutor(2) as pool:
        spread = sb.race("mlp:8:tanh", "iris", workers=pool, **KNOBS)
        assert pool.submit(int, 3).result() == 3  # it is the caller's, and stays open
    same(spread, sb.race("mlp:8:tanh", "iris", **KNOBS))


@pytest.mark.slow
def test_processes_give_the_same_and_a_killed_one_is_made_up_for(models: Path, tmp_path: Path) -> None:
    target = f"{models}:Deadly"
    knobs = {**KNOBS, "schemes": ["as_built", "he"], "seeds": 4}
    spread = sb.race(target, "iris", workers=2, store=tmp_path / "runs.sqlite", **knobs)
    assert (tmp_path / "killed").exists()
    assert spread.finished
    assert spread.n_trained == 8
    same(spread, sb.race(target, "iris", **knobs))


def test_what_cannot_be_sent_is_refused() -> None:
    def build() -> nn.Module:
        return nn.Linear(4, 3)

    with pytest.raises(
        WorkersError, match=r"the race cannot be sent to workers.* Name the factory as file\.py:factory"
    ):
        sb.race(build, "iris", workers=1, **KNOBS)


def fails(output: Tensor, target: Tensor) -> float:
    raise ValueError("no labels")


def test_a_mistake_in_a_worker_is_told_as_one_at_home() -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(sb.SymbreakError, match="metric fails raised ValueError: no labels"),
    ):
        sb.race("mlp:8", "iris", metric=fails, workers=pool, **KNOBS)


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


def interrupted(
    command: list[str], store: Path, ready: Callable[[Path], int], after: float = 0.0
) -> tuple[int, str, str]:
    """Exit code, output and errors of a race that gets SIGINT as from a terminal's Ctrl-C."""
    race = subprocess.Popen(
        [sys.executable, "-m", "symbreak", "race", *command, "--store", str(store)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=hears_ctrl_c,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while race.poll() is None and time.monotonic() < deadline and not ready(store):
            time.sleep(0.02)
        time.sleep(after)
        os.killpg(race.pid, signal.SIGINT)
        out, err = race.communicate(timeout=60)
        return race.returncode, out, err
    finally:
        race.kill()


def stopped_and_resumed(models: Path, store: Path, *more: str) -> None:
    command = [f"{models}:Slow", "--data", "iris", "--init", "as_built", "--seeds", "0-59", "--steps", "300"]
    code, out, err = interrupted([*command, "--memory-mb", "0.05", *more], store, committed)
    assert code == 130
    assert "Traceback" not in err
    kept = committed(store)
    assert 0 < kept < 60
    assert f"Interrupted: {kept} of 60 runs are here. The same command with the same store" in out
    rest = sb.race(f"{models}:Slow", "iris", schemes=["as_built"], seeds=60, steps=300, store=store, workers=None)
    assert (rest.finished, rest.n_trained) == (True, 60 - kept)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_ctrl_c_keeps_what_is_done(models: Path, tmp_path: Path, workers: tuple[str, ...]) -> None:
    stopped_and_resumed(models, tmp_path / "runs.sqlite", *workers)


def handed_out(store: Path) -> int:
    if not store.exists():
        return 0
    with contextlib.closing(sqlite3.connect(store)) as base:
        try:
            (count,) = base.execute("SELECT count(*) FROM claims").fetchone()
        except sqlite3.OperationalError:  # being made
            return 0
    return int(count)


@pytest.mark.slow
def test_ctrl_c_while_the_workers_are_being_born(models: Path, tmp_path: Path) -> None:
    """They import torch for a second, and each would show its own traceback."""
    command = [f"{models}:Slow", "--data", "iris", "--init", "as_built", "--steps", "300", "--workers", "2"]
    code, out, err = interrupted(command, tmp_path / "runs.sqlite", handed_out, after=0.3)
    assert (code, err) == (130, "")
    assert "Interrupted: 0 of 16 runs are here" in out


# ---- a Dask cluster --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cluster(n_workers: int) -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=n_workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
        silence_logs=50, memory_limit=None,
    ) as found:  # fmt: skip
        yield found


def address(found: Any) -> str:
    return str(found.scheduler_address).replace("tcp://", "dask://")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # distributed's own: ports in use, garbage collection, sockets at the end
def test_a_dask_cluster_gives_the_same_and_a_killed_worker_is_made_up_for(models: Path, tmp_path: Path) -> None:
    with cluster(2) as found:
        same(sb.race("mlp:8:tanh", "iris", workers=address(found), **KNOBS), sb.race("mlp:8:tanh", "iris", **KNOBS))
        knobs = {**KNOBS, "schemes": ["as_built", "he"], "seeds": 4}
        spread = sb.race(f"{models}:Deadly", "iris", workers=address(found), **knobs)
        assert (tmp_path / "killed").exists()
        same(spread, sb.race(f"{models}:Deadly", "iris", **knobs))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ctrl_c_leaves_the_cluster_as_it_was(models: Path, tmp_path: Path) -> None:
    with cluster(2) as found:
        stopped_and_resumed(models, tmp_path / "runs.sqlite", "--workers", address(found))
        again = sb.race("mlp:8:tanh", "iris", workers=address(found), **KNOBS)  # its workers are there, and free
        assert again.finished


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_that_goes_away_leaves_what_was_done(models: Path, tmp_path: Path) -> None:
    port, path = 18786 + os.getpid() % 1000, tmp_path / "runs.sqlite"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    scheduler = subprocess.Popen([*command, "--no-dashboard"], stderr=subprocess.DEVNULL)
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1",
         "--no-dashboard", "--nworkers", "1"], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    knobs = {**KNOBS, "schemes": ["as_built"], "seeds": 60, "steps": 60}

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (path.exists() and committed(path)):
            time.sleep(0.02)
        scheduler.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    try:
        wait_for(port)
        killer.start()
        with pytest.raises(WorkersError, match=r"(went away|gave up).*finished is kept"):
            sb.race(f"{models}:Slow", "iris", workers=f"dask://127.0.0.1:{port}", store=path, memory_mb=0.1, **knobs)
    finally:
        scheduler.kill()
        worker.kill()
        scheduler.wait()
        worker.wait()
        killer.join()
    kept = committed(path)
    assert 0 < kept < 60
    rest = sb.race(f"{models}:Slow", "iris", store=path, **knobs)
    assert rest.n_trained == 60 - kept


def committed(path: Path) -> int:
    try:
        with Store(path, None) as store:
            return len(store.runs())
    except sb.SymbreakError:  # not made yet
        return 0


def wait_for(port: int) -> None:
    import distributed

    deadline = time.monotonic() + 40
    while True:
        try:
            with distributed.Client(f"tcp://127.0.0.1:{port}", timeout=2, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=30)
                return
        except OSError:
            if time.monotonic() > deadline:
                raise


def test_no_scheduler() -> None:
    pytest.importorskip("distributed")
    from symbreak.races import workers

    patience, workers.UNANSWERED = workers.UNANSWERED, 1
    try:
        with pytest.raises(WorkersError, match=r"no Dask scheduler answers at dask://127\.0\.0\.1:9"):
            sb.race("mlp:8", "iris", workers="dask://127.0.0.1:9", **KNOBS)
    finally:
        workers.UNANSWERED = patience
