"""The real libraries: transformers (its loader works in threads), peft and timm, from files of their own making."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from real_models.shim import stand_in_for_torchvision

import symbreak as sb

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the libraries warn of their own past


@pytest.fixture(autouse=True)
def _libraries() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("transformers", "peft", "timm")):
        pytest.skip("needs transformers, peft and timm")
    stand_in_for_torchvision()


def names(rows: tuple[sb.origins.Row, ...]) -> set[str]:
    return {row.tensor for row in rows}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_the_checkpoint_lacks(tmp_path: Path, dtype: torch.dtype) -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=99)
    BertModel(config).save_pretrained(tmp_path)
    with sb.provenance() as origin:
        net = BertForSequenceClassification.from_pretrained(tmp_path, dtype=dtype)
    report = origin.report(net)
    parameters = {name for name, _ in net.named_parameters()}
    assert names(report.new) == {"classifier.weight", "classifier.bias"}
    assert names(report.of_kind("loaded")) == parameters - names(report.new)
    assert report.overwritten == report.never_written == report.of_kind("unknown") == ()
    head = report["classifier.weight"].writer
    assert (head.by, head.place and head.place.through) == ("normal_", "PreTrainedModel._init_weights")
    assert {row.writer.place.file for row in report.of_kind("loaded") if row.writer.place} == {__file__}
    start = sb.init_(net, "xavier_uniform", keep=origin)
    assert {step.tensor for step in start.changed} == {"classifier.weight", "classifier.bias"}


def test_weights_that_are_initialised_after_loading(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=99)).save_pretrained(tmp_path)
    with sb.provenance() as origin:
        net = GPT2LMHeadModel.from_pretrained(tmp_path)
        for module in net.transformer.h[1].modules():
            if hasattr(module, "nf"):
                torch.nn.init.normal_(module.weight, std=0.02)
    report = origin.report(net)
    assert len(report.overwritten) == 4
    assert all(row.tensor.startswith("transformer.h.1.") for row in report.overwritten)
    assert report["lm_head.weight"] is report["transformer.wte.weight"]


def test_adapters_are_new_and_the_base_is_loaded(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=99)).save_pretrained(tmp_path)
    with sb.provenance() as origin:
        net = get_peft_model(GPT2LMHeadModel.from_pretrained(tmp_path), LoraConfig(target_modules=["c_attn"]))
    report = origin.report(net)
    assert all("lora_" in name for name in names(report.new))
    assert len(report.new) == 4
    kinds = (
        {row.kind for row in report.rows if "lora_A" in row.tensor},
        {row.kind for row in report.rows if "lora_B" in row.tensor},
    )
    assert kinds == ({"drawn"}, {"constant"})
    assert len(report.of_kind("loaded")) == len(report) - 4


def test_timm_with_a_checkpoint_and_a_new_head(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("vit_tiny_patch16_224", depth=1).state_dict(), tmp_path / "vit.pth")
    with sb.provenance() as origin:
        net = timm.create_model("vit_tiny_patch16_224", depth=1, checkpoint_path=str(tmp_path / "vit.pth"))
        net.reset_classifier(7)
    report = origin.report(net)
    assert names(report.new) == {"head.weight", "head.bias"}
    assert len(report.of_kind("loaded")) == len(report) - 2
