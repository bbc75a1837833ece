"""`symbreak race` and `symbreak report`, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from symbreak import cli

RACE = ("race", "mlp:8:tanh", "--data", "iris", "--init", "zeros", "--init", "xavier", "--seeds", "0-7", "--eta", "0.3",
        "--steps", "60")  # fmt: skip


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(one) for one in arguments])


def test_race_and_report_say_the_same(tmp_path: Path) -> None:
    store, file, picture = tmp_path / "runs.sqlite", tmp_path / "race.json", tmp_path / "race.png"
    done = run(*RACE, "--store", store, "--plot", picture)
    assert done.exit_code == 0, done.output
    assert "xavier_uniform ends lower than zeros" in done.stdout
    assert "mlp:8:tanh on iris: 16 of 16 runs, sgd, 60 steps of 32 samples" in done.stdout
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert run(*RACE, "--store", store, "--resume", "--format", "json", "-o", file).exit_code == 0
    assert json.loads(file.read_text())["n_trained"] == 0
    again = run("report", file)
    assert again.exit_code == 0
    assert again.stdout.splitlines()[:5] == done.stdout.splitlines()[:5]
    stored = run("report", store)
    assert stored.stdout.splitlines()[:5] == done.stdout.splitlines()[:5]
    table = run("report", file, "--format", "csv").stdout.splitlines()
    assert table[0].startswith("scheme,seed,eta,scale,final_loss")
    assert len(table) == 17


def test_a_factory_races_its_own_start_too(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))\n"
    )
    done = run(
        "race", f"{tmp_path}/net.py:net", "--data", "iris", "--seeds", "2", "--steps", "5", "--batch-size", "full"
    )
    assert done.exit_code == 0, done.output
    assert "as_built" in done.stdout


def test_a_factory_that_brings_batch_and_objective_needs_no_data(tmp_path: Path) -> None:
    (tmp_path / "brings.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def all():\n"
        "    x = torch.randn(40, 3)\n"
        "    return nn.Linear(3, 1), (x, x[:, :1]), lambda m, b: (m(b[0]) - b[1]).abs().mean()\n"
    )
    done = run("race", f"{tmp_path}/brings.py:all", "--seeds", "3", "--steps", "20", "--look")
    assert done.exit_code == 0, done.output
    assert "loss objective all.<locals>.<lambda>" in done.stdout
    assert "as_built" in done.stdout


def test_json_on_a_stdout_that_is_not_unicode_is_json_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "größe.py").write_text("from torch import nn\ndef netz(): return nn.Linear(4, 3)\n", encoding="utf-8")
    store, command = tmp_path / "runs.sqlite", [sys.executable, "-m", "symbreak"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"}
    target = [f"{tmp_path}/größe.py:netz", "--data", "iris", "--init", "he", "--seeds", "0", "--steps", "2"]
    for arguments in (["race", *target, "--store", str(store)], ["report", str(store)]):
        done = subprocess.run([*command, *arguments, "--format", "json"], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.decode("ascii"))["setup"]["target"].endswith("größe.py:netz")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("race", "mlp:8"), "mlp:8 needs --data DATA to train on"),
        (("race", "mlp:8", "--data", "iris", "--seeds", "5-2"), "--seeds 5-2: expected ranges and numbers"),
        (("race", "mlp:8", "--data", "iris", "--batch-size", "many"), "--batch-size many: expected a number"),
        (("race", "mlp:8", "--data", "iris", "--plot", "a.svg"), "name it a.png"),
        (("race", "mlp:8", "--data", "iris", "--resume"), "--resume needs --store FILE"),
        (("race", "mlp:8", "--data", "iris", "--init", "kaimin"), "no scheme is called 'kaimin'"),
        (("race", "mlp:8", "--data", "iris", "--workers", "two"), "workers='two': expected a number"),
        (("report", "no.sqlite"), "no.sqlite cannot be read as a race result"),
        (("report", __file__), "this is no race result"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], match: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert match in done.stderr
    assert "Traceback" not in done.stderr
