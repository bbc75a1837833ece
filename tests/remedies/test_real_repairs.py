"""Adapters and faults in real models, repaired. Slow: they need the libraries of real_models/requirements.txt."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import symbreak as sb

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the libraries warn of their own past


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_lora_with_both_factors_zero_gets_its_a_back() -> None:
    if importlib.util.find_spec("peft") is None:
        pytest.skip("peft is not installed")
    from real_models import zoo

    case = zoo.build("peft.lora")
    factors = {n: p for n, p in case.model.named_parameters() if "lora_A" in n}
    with torch.no_grad():
        for p in factors.values():
            p.zero_()
    plan = sb.fix(case.model, sb.check(case.model, case.batch))
    assert (plan.before.verdict, plan.after.verdict) == ("stuck", "healthy")
    assert {c.tensor for c in plan.changes} == set(factors)
    assert plan.function_change == 0.0
    plan.apply()
    assert not any(bool(p.any()) for n, p in case.model.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize(
    "name", ["torch.MLP-tanh", "torch.MLP-relu", "torch.DCGAN-G", "hf.llama.CausalLM", "hf.bert", "hf.wav2vec2"]
)
def test_injected_faults_are_healed(name: str) -> None:
    if name.startswith("hf") and importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    from real_models.repairs import faults_of

    repairs = list(faults_of(name))
    assert len(repairs) >= 4
    assert [r for r in repairs if not r.healed] == []
    assert sum(r.zeros_touched for r in repairs) == 0


def test_constant_experts_are_drawn_anew() -> None:
    """Unequal shares part the units, but leave one direction of the signal: experts that no token is sent to."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    from real_models.repairs import faults_of

    constant = [r for r in faults_of("hf.switch_transformers.Seq2SeqLM") if r.fault == "every layer constant"]
    assert [(r.healed, r.judged, r.left) for r in constant] == [(True, "harmless", "")]
