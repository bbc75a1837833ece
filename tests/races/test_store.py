"""The store: each run once, whatever happens to whoever trains it."""

from __future__ import annotations

import dataclasses
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import symbreak as sb
from symbreak.races import Cell, StoreError
from symbreak.races._race import prepared
from symbreak.races.result import from_json
from symbreak.races.store import Store

KNOBS: dict[str, Any] = {"schemes": ["he", "zeros"], "etas": [0.1], "steps": 20, "memory_mb": 0.04}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


def rows(path: Path) -> int:
    with sqlite3.connect(path) as base:
        (count,) = base.execute("SELECT count(*) FROM runs").fetchone()
    base.close()
    return int(count)


def test_the_same_command_runs_nothing_twice_and_more_seeds_add(path: Path) -> None:
    first = sb.race("mlp:8:tanh", "iris", seeds=6, store=path, **KNOBS)
    again = sb.race("mlp:8:tanh", "iris", seeds=6, store=path, **KNOBS)
    more = sb.race("mlp:8:tanh", "iris", seeds=9, store=path, **KNOBS)
    assert (first.n_trained, again.n_trained, more.n_trained) == (7, 0, 3)  # zeros is one run
    assert [dataclasses.astuple(run) for run in again.runs] == [dataclasses.astuple(run) for run in first.runs]
    assert rows(path) == 18
    alone = sb.race("mlp:8:tanh", "iris", seeds=9, **KNOBS)
    np.testing.assert_allclose([r.loss for r in more.runs], [r.loss for r in alone.runs], rtol=1e-4)


@pytest.mark.usefixtures("ctrl_c_in_the_third_chunk")
def test_an_interrupted_race_goes_on_where_it_was(path: Path) -> None:
    part = sb.race("mlp:8:tanh", "iris", seeds=9, store=path, **KNOBS)
    assert rows(path) == len(part.runs) < 18
    rest = sb.race("mlp:8:tanh", "iris", seeds=9, store=path, **KNOBS)
    assert part.n_trained + rest.n_trained == 10
    assert rest.finished


RACER = """
import sys
import symbreak as sb
from symbreak.races.store import Store
commit = Store.commit
def committed(self, runs):
    commit(self, runs)
    with open(sys.argv[2], "a") as log:
        log.write("".join(f"{run.cell}\\n" for run in runs))
Store.commit = committed
done = sb.race("mlp:8:tanh", "iris", seeds=40, schemes=["he"], etas=[0.1], steps=400, points=2, memory_mb=0.04,
               store=sys.argv[1], threads=1)
print(done.finished, done.n_trained)
"""


@pytest.mark.slow
def test_kill_9_in_a_loop_loses_no_committed_run_and_repeats_none(path: Path, tmp_path: Path) -> None:
    log, script = tmp_path / "log", tmp_path / "racer.py"
    script.write_text(RACER)
    command, counts = [sys.executable, str(script), str(path), str(log)], [0]
    for wait in (0.02, 0.11, 0.05):
        racer = subprocess.Popen(command, stdout=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while racer.poll() is None and time.monotonic() < deadline and (not log.exists() or len(log.read_text()) == 0):
            time.sleep(0.01)  # until the first chunk is committed; later rounds are killed at any moment
        before = len(log.read_text().splitlines())
        while racer.poll() is None and len(log.read_text().splitlines()) <= before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait)
        racer.send_signal(signal.SIGKILL)
        racer.communicate()
        counts.append(rows(path))
    assert counts == sorted(counts)  # nothing committed was lost
    assert 0 < counts[1] < 40  # killed in the middle
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert done[0] == "True"
    assert rows(path) == 40
    written = log.read_text().splitlines()
    assert len(written) == len(set(written)) <= 40  # no committed run was trained again
    with sqlite3.connect(path) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    base.close()


@pytest.mark.slow
def test_two_processes_on_one_store_share_the_work(path: Path, tmp_path: Path) -> None:
    log, script = tmp_path / "log", tmp_path / "racer.py"
    script.write_text(RACER)
    pair = [
        subprocess.Popen([sys.executable, str(script), str(path), str(log)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [one.communicate(timeout=120)[0].split() for one in pair]
    assert [finished for finished, _ in said] == ["True", "True"]
    assert sum(int(n_trained) for _, n_trained in said) == 40
    written = log.read_text().splitlines()
    assert len(written) == len(set(written)) == rows(path) == 40


def test_two_races_on_one_store_share_the_work(path: Path) -> None:
    found: list[Any] = []

    def go() -> None:
        found.append(sb.race("mlp:8:tanh", "iris", seeds=24, store=path, **KNOBS))

    pair = [threading.Thread(target=go) for _ in range(2)]
    for one in pair:
        one.start()
    for one in pair:
        one.join()
    assert all(done.finished and len(done.runs) == 48 for done in found)
    assert sum(done.n_trained for done in found) == 25
    assert rows(path) == 48


def test_claims_of_the_dead_lapse(path: Path) -> None:
    setup = prepared("mlp:8:tanh", "iris", steps=20).setup
    cell = Cell("kaiming_normal", 0, 0.1)
    with Store(path, setup) as one, Store(path, setup) as other:
        assert one.claim([cell]) == ([cell], [])
        assert other.claim([cell]) == ([], [cell])
        with sqlite3.connect(path) as base:  # a process that is gone
            base.execute("UPDATE owners SET pid = ? WHERE owner = ?", (2**22 + 1, one.owner))
        base.close()
        assert other.claim([cell]) == ([cell], [])
    with Store(path, setup) as one, Store(path, setup) as other:
        one.claim([cell])
        with sqlite3.connect(path) as base:  # another machine that has not been heard of
            base.execute("UPDATE owners SET host = 'far', beat = 0 WHERE owner = ?", (one.owner,))
        base.close()
        assert other.claim([cell]) == ([cell], [])


@pytest.mark.parametrize(
    ("target", "data", "knobs", "match"),
    [
        ("mlp:8:tanh", "iris", {"steps": 21}, "belongs to another race: steps 20 there, 21 here"),
        ("mlp:9:tanh", "iris", {}, "target 'mlp:8:tanh' there, 'mlp:9:tanh' here"),
        ("mlp:8:tanh", "wine", {}, "data 'iris' there, 'wine' here"),
        ("mlp:8:tanh", "iris", {"optimizer": "adam"}, "optimizer 'sgd' there, 'adam' here"),
        ("mlp:8:tanh", "iris", {"data_seed": 1}, "data_seed 0 there, 1 here"),
    ],
)
def test_a_store_of_another_setup_is_refused(
    path: Path, target: str, data: str, knobs: dict[str, Any], match: str
) -> None:
    Store(path, prepared("mlp:8:tanh", "iris", steps=20).setup).__exit__()
    with pytest.raises(StoreError, match=match):
        sb.race(target, data, store=path, **{**KNOBS, "seeds": 1, **knobs})
    assert rows(path) == 0


def test_a_store_of_another_version_is_refused(path: Path) -> None:
    setup = prepared("mlp:8:tanh", "iris", steps=20).setup
    Store(path, dataclasses.replace(setup, symbreak="0.0.1")).__exit__()
    with pytest.raises(StoreError, match=r"symbreak '0\.0\.1' there"):
        sb.race("mlp:8:tanh", "iris", store=path, seeds=1, **KNOBS)
    for statement, match in (
        ("UPDATE about SET value = '{}' WHERE name = 'setup'", "written by another version"),
        ("UPDATE about SET value = '99' WHERE name = 'format'", "is a store of format 99, not 1"),
    ):
        with sqlite3.connect(path) as base:
            base.execute(statement)
        base.close()
        with pytest.raises(StoreError, match=match):
            Store(path, setup)


def test_what_is_no_store(path: Path, tmp_path: Path) -> None:
    setup = prepared("mlp:8:tanh", "iris", steps=20).setup
    with pytest.raises(StoreError, match="there is no store"):
        Store(path, None)
    path.write_text("a text, and more than a header's length of it, so that nobody takes it for an empty file " * 9)
    with pytest.raises(StoreError, match=r"is no store of races: file is not a database"):
        Store(path, setup)
    with pytest.raises(StoreError, match="cannot be used: unable to open database file"):
        Store(tmp_path / "no" / "such" / "folder.sqlite", setup)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as base:
        base.execute("CREATE TABLE cats (name TEXT)")
    base.close()
    with pytest.raises(StoreError, match="is a database, but no store of races"):
        Store(other, None)


def test_no_room_keeps_what_was_committed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.commit

    def cramped(self: Store, runs: Any) -> None:
        (pages,) = self.base.execute("PRAGMA page_count").fetchone()
        limit = pages + 1 if rows(path) < 4 else pages
        self.base.execute(f"PRAGMA max_page_count = {limit}")
        real(self, runs)

    monkeypatch.setattr(Store, "commit", cramped)
    with pytest.raises(StoreError, match=r"database or disk is full\. Every committed run is kept"):
        sb.race("mlp:8:tanh", "iris", seeds=30, store=path, **KNOBS)
    kept = rows(path)
    assert 0 < kept < 30
    monkeypatch.setattr(Store, "commit", real)
    done = sb.race("mlp:8:tanh", "iris", seeds=30, store=path, **KNOBS)
    assert done.finished
    assert done.n_trained == 31 - kept  # those of he, and the one of zeros


LIMITED = """
import resource, sys
import symbreak as sb
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    sb.race("mlp:8:tanh", "iris", seeds=300, schemes=["he"], etas=[0.1], steps=20, memory_mb=0.04, threads=1,
            store=sys.argv[1])
except sb.SymbreakError as err:
    sys.stderr.write(f"{type(err).__name__}: {err}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2_000, 30_000, 60_000, 150_000])
def test_a_limit_on_file_sizes_loses_nothing_that_was_committed(path: Path, tmp_path: Path, limit: int) -> None:
    """The operating system refuses to write: at the first table, at the first commit, in the middle."""
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)
    done = subprocess.run([sys.executable, str(script), str(path), str(limit)], capture_output=True, text=True)
    assert done.stderr.startswith("StoreError: ")
    assert "Every committed run is kept. Make room" in done.stderr
    kept = rows(path) if limit > 60_000 else 0
    assert kept < 300
    assert kept > 0 or limit <= 60_000
    rest = sb.race("mlp:8:tanh", "iris", seeds=300, store=path, **{**KNOBS, "schemes": ["he"], "memory_mb": 64})
    assert rest.finished
    assert rest.n_trained <= 300 - kept


def test_a_result_comes_back_from_json(path: Path) -> None:
    done = sb.race("mlp:8:relu", "diabetes", schemes=["he"], seeds=3, etas=[1e-5, 1e3], steps=20)
    text = done.to_json()
    again = from_json(text)
    assert again.to_json() == text
    assert again.verdict == done.verdict
    assert "NaN" not in text
    assert json.loads(text)["summaries"][1]["diverged"] == 1.0
    with pytest.raises(sb.SymbreakError, match="this is no race result"):
        from_json("{}")
