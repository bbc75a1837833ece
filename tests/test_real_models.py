"""The models of real_models/public.txt get the verdict they should, and faults put into some of them are caught."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PUBLIC = (ROOT / "real_models" / "public.txt").read_text().split()
LIBRARIES = {
    "torch": "torch",
    "tv": "torchvision",
    "timm": "timm",
    "cv": "pytorchcv",
    "hf": "transformers",
    "diff": "diffusers",
    "peft": "peft",
    "smp": "segmentation_models_pytorch",
    "pyg": "torch_geometric",
    "monai": "monai",
    "luci": "local_attention",
    "vitp": "vit_pytorch",
    "ultra": "ultralytics",
}
INJECTED = ["torch.MLP-relu", "torch.MLP-tanh", "hf.llama.CausalLM"]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the libraries warn of their own past


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def needs(name: str) -> None:
    library = LIBRARIES[name.split(".", 1)[0]]
    if library not in sys.modules and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed; real_models/install.sh makes an environment that has it")


@pytest.mark.parametrize("name", PUBLIC)
def test_verdict(name: str) -> None:
    needs(name)
    from real_models.expected import disagreement
    from real_models.measure import measure

    row = measure(name)
    assert not disagreement(row), [
        (f["code"], f["where"], f["because"]) for f in row.findings if f["severity"] != "info"
    ]


def test_every_true_finding_is_on_the_list() -> None:
    from real_models import zoo
    from real_models.expected import true_findings

    assert set(true_findings()) <= set(zoo.names())
    assert set(PUBLIC) <= set(zoo.names())


@pytest.mark.parametrize("name", INJECTED)
def test_faults_are_caught_and_harmless_changes_are_not(name: str) -> None:
    needs(name)
    from real_models.faults import results_of

    results = list(results_of(name))
    assert {result.truth for result in results} >= {"fatal", "harmless"}
    wrong = [result for result in results if result.outcome in ("missed", "false alarm", "error")]
    assert not wrong


def test_the_oracle_tells_a_tie_from_none() -> None:
    """The judge of the faults can say both: a duplicate stays one, a copy that is read differently does not."""
    from real_models.couplings import find_couplings
    from real_models.faults import fresh
    from real_models.injections import duplicate, tie_incoming, units_stay_tied
    from real_models.oracle import in_float64

    said = []
    for inject in (duplicate, tie_incoming):
        case = fresh("torch.MLP-tanh")
        in_float64(case)
        coupling = find_couplings(case, 1, seed=0)[0]
        inject(case.model, coupling)
        said.append(units_stay_tied(case, coupling))
    assert said == ["fatal", "harmless"]
