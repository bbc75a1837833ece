"""`symbreak fix`: what it prints, what it writes, what it refuses, its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import load_file

from symbreak import cli

MODELS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
def batch(): return torch.randn(32, 6)
def good(): return net(), batch()
def tied():
    model = net()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[2].weight[:, 1] = model[2].weight[:, 0]
    return model, batch()
def frozen():
    model = net()
    for p in model.parameters(): nn.init.zeros_(p)
    model[0].requires_grad_(False)
    return model, batch()
def trained():
    model, x = tied()
    with torch.no_grad():
        model[2].weight.mul_(1.0)
    wide = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 8))
    with torch.no_grad():
        wide[2].weight.copy_(torch.randn(8, 1) @ torch.randn(1, 64) + 0.1 * torch.randn(8, 64) ** 3)
        wide[0].weight.copy_(torch.randn(64, 6) ** 3)
        for i in (1, 33):
            wide[0].weight[i], wide[0].bias[i] = wide[0].weight[0], wide[0].bias[0]
            wide[2].weight[:, i] = wide[2].weight[:, 0]
    return wide, x
def raises(): raise ValueError("width must be positive")
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "nets.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    return "nets.py"


def run(*args: str) -> Result:
    return CliRunner().invoke(cli.main, ["fix", *args])


def test_a_plan(models: str) -> None:
    done = run(f"{models}:tied")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Sequential: redundant -> healthy\n")
    assert "2.weight  [2x8]  redistribute" in done.stdout
    assert "\n  - " not in done.stdout
    assert done.stdout.rstrip().endswith("not applied: -o FILE writes the mended weights.")


def test_the_diff(models: str) -> None:
    done = run(f"{models}:tied", "--diff")
    assert "\n  - " in done.stdout
    assert "\n  + " in done.stdout
    assert "rms" in done.stdout


def test_nothing_to_do(models: str) -> None:
    done = run(f"{models}:good")
    assert done.exit_code == 0
    assert "nothing to change" in done.stdout


def test_what_is_left_is_exit_1(models: str) -> None:
    done = run(f"{models}:frozen")
    assert done.exit_code == 1
    assert "not healed: SB101" in done.stdout
    assert "left alone: 0.weight is frozen." in done.stdout


def test_unsafe(models: str) -> None:
    careful = run(f"{models}:trained", "--select", "SB00")
    assert careful.exit_code == 1
    assert "looks trained" in careful.stdout
    asked = run(f"{models}:trained", "--select", "SB00", "--unsafe")
    assert asked.exit_code == 0, asked.stdout
    assert "redistribute" in asked.stdout


def test_a_built_in_model() -> None:
    done = run("mlp:16:tanh", "--data", "iris", "--init", "zeros")
    assert done.exit_code == 0, done.output
    assert "fc1.weight  [16x4]  draw" in done.stdout
    assert "no output changes" in done.stdout


def test_weights_are_written(models: str, tmp_path: Path) -> None:
    done = run(f"{models}:tied", "-o", "mended.safetensors")
    assert done.exit_code == 0, done.output
    assert "written: mended.safetensors" in done.stderr
    state = load_file(tmp_path / "mended.safetensors")
    assert {n: tuple(t.shape) for n, t in state.items()} == {
        "0.weight": (8, 6), "0.bias": (8,), "2.weight": (2, 8), "2.bias": (2,),
    }  # fmt: skip
    assert not bool((state["2.weight"][:, 0] == state["2.weight"][:, 1]).any())
    with safe_open(tmp_path / "mended.safetensors", framework="pt") as file:
        assert file.metadata()["changed"] == "2.weight"


@pytest.mark.parametrize(
    ("output", "match"),
    [
        ("nets.py", "name it nets.safetensors"),
        ("taken.safetensors", "there is such a file, and fix never writes over one"),
        ("nowhere/w.safetensors", "there is no folder nowhere"),
    ],
)
def test_what_is_not_written_over(models: str, tmp_path: Path, output: str, match: str) -> None:
    (tmp_path / "taken.safetensors").write_bytes(b"mine")
    done = run(f"{models}:tied", "-o", output)
    assert done.exit_code == 2
    assert match in done.stderr
    assert done.stdout == ""
    assert (tmp_path / "taken.safetensors").read_bytes() == b"mine"
    assert (tmp_path / "nets.py").read_text() == MODELS


@pytest.mark.parametrize(
    ("target", "match"),
    [("nets.py:raises", "width must be positive"), ("nets.py:tide", "Nearest: tied"), ("mpl:4", "there is no target")],
)
def test_mistakes_are_one_sentence(models: str, target: str, match: str) -> None:
    done = run(target)
    assert done.exit_code == 2
    assert match in done.stderr
    assert done.stderr.count("\n") == 1


def test_unknown_codes(models: str) -> None:
    assert "no rule code starts with 'SB9X'" in run("nets.py:tied", "--select", "SB9X").stderr
