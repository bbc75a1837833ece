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
INJECTED = ["torch.MLP-relu", "torch.MLP-tanh", "hf.llama.CausalLM", "hf.mixtral.CausalLM"]

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
    assert set(zoo.PUBLISHED) <= set(zoo.names())


def test_a_finding_of_the_small_size_alone_is_none_as_published() -> None:
    from real_models.expected import disagreement
    from real_models.measure import Row

    assert not disagreement(Row("vitp.RegionViT", verdict="healthy", published=True))
    assert disagreement(Row("vitp.RegionViT", verdict="stuck", published=True))
    assert disagreement(Row("vitp.CrossFormer", verdict="healthy", published=True))


@pytest.mark.parametrize("name", INJECTED)
def test_faults_are_caught_and_harmless_changes_are_not(name: str) -> None:
    needs(name)
    from real_models.faults import results_of

    results = list(results_of(name))
    assert {result.truth for result in results} >= {"fatal", "harmless"}
    wrong = [result for result in results if result.outcome in ("missed", "false alarm", "error")]
    assert not wrong


def test_the_faults_go_into_most_of_the_sixty() -> None:
    from real_models.faults import BESIDES, MODELS

    assert len(set(MODELS.split()) & set(PUBLIC)) == len(MODELS.split()) >= 25
    assert not set(BESIDES.split()) & set(PUBLIC)


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


def test_a_joint_swap_is_a_symmetry_that_no_two_rows_of_the_second_layer_show() -> None:
    from real_models.chains import find_chains
    from real_models.injections import gap, joint_swap, joint_swap_stays
    from real_models.oracle import fresh, in_float64

    case = fresh("torch.MLP-tanh")
    in_float64(case)
    (chain,) = find_chains(case, 1, seed=0)
    assert str(chain) == "0 -> 2 -> 4"
    joint_swap(case.model, chain)
    middle = chain.middle(case.model)  # [unit of A, entry, unit of B]
    swapped = middle.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    swapped[:, :, [0, 1]] = swapped[:, :, [1, 0]]
    assert middle.equal(swapped)
    assert gap(middle[:, :, 0], middle[:, :, 1]) > 0.01  # the rows of B
    assert gap(middle[0], middle[1]) > 0.01  # what reads A
    assert joint_swap_stays(case, chain) == "fatal"


@pytest.mark.parametrize(
    ("name", "last", "feeders"),
    [
        ("torch.MLP-relu", ("4",), ("2",)),
        ("torch.DCGAN-G", None, None),  # a tanh bends the line
        ("hf.gpt2.CausalLM", ("transformer.ln_f",), ()),  # the head is the embedding; skips lead around blocks
        ("hf.llama.CausalLM", ("lm_head",), ("model.norm",)),
    ],
)
def test_last_layers_are_found_by_scaling(
    name: str, last: tuple[str, ...] | None, feeders: tuple[str, ...] | None
) -> None:
    needs(name)
    from real_models.last_layers import find_last_layers
    from real_models.oracle import fresh, in_float64

    case = fresh(name)
    in_float64(case)
    found = find_last_layers(case, 1, 0)
    assert [(place.names, place.feeders) for place in found] == ([] if last is None else [(last, feeders)])


def test_routers_are_found_by_swapping_experts() -> None:
    needs("hf.mixtral.CausalLM")
    from real_models.oracle import fresh, in_float64
    from real_models.routers import find_routers

    case = fresh("hf.mixtral.CausalLM")
    in_float64(case)
    assert [place.router for place in find_routers(case, 9, 0)] == [f"model.layers.{k}.mlp.gate" for k in range(2)]


@pytest.mark.parametrize(("scale", "truth"), [(1.0, "harmless"), (0.01, "fatal"), (100.0, "fatal")])
def test_the_scale_oracle_tells_a_lost_signal(scale: float, truth: str) -> None:
    import torch
    from real_models.injections import Whole, signal_is_lost
    from real_models.oracle import fresh, in_float64

    case = fresh("torch.MLP-relu")
    in_float64(case)
    with torch.no_grad():
        for layer in (case.model[0], case.model[2], case.model[4]):
            layer.weight *= scale
            layer.bias *= 0.0
    assert signal_is_lost(case, Whole()) == truth


def test_rounding_shrinks_with_the_gradients() -> None:
    """A zero layer in a chain of batch norms: the first gradients are 1e38 of nothing, the next ones ordinary."""
    needs("ultra.yolov8n")
    import torch
    from real_models.oracle import fresh

    import symbreak

    case = fresh("ultra.yolov8n")
    torch.nn.init.zeros_(case.model.get_submodule("model.1.conv").weight)
    assert "SB101" not in {finding.code for finding in symbreak.check(case.model, case.batch).findings}
