"""The report: golden texts, one JSON schema, and sentences that claim nothing that was not measured."""

from __future__ import annotations

import functools
import json
import os
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest
import torch
from torch import nn

import symbreak as sb
from symbreak.records import Finding
from symbreak.report import Report
from symbreak.rules.examples import EXAMPLES

GOLDENS = Path(__file__).parent / "goldens"
UPDATE = (
    "SYMBREAK_UPDATE_GOLDENS"  # set it to write the goldens anew: SYMBREAK_UPDATE_GOLDENS=1 pytest tests/test_report.py
)


@functools.cache
def reported(code: str, which: int) -> Report:
    model, batch, loss = EXAMPLES[code][which]()
    return sb.check(model, batch, loss)


def deep(layers: int, value: float) -> nn.Sequential:
    net = nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(6, 6), nn.Tanh())), nn.Linear(6, 2))
    for p in net.parameters():
        nn.init.constant_(p, value)
    return net


def sample(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# ---- goldens ---------------------------------------------------------------------------------------------------


def gated() -> Report:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer, self.gate = nn.Linear(6, 6), nn.Linear(6, 6), nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = x + self.gate * self.outer(self.inner(x).relu())
            return out

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return sb.check(nn.Sequential(*(Block() for _ in range(4)), nn.Linear(6, 2)), sample(16, 6))


STARTS = {
    "stuck": lambda: reported("SB101", 0).to_text(),
    "stuck_deep": lambda: sb.check(deep(8, 0.0), sample(16, 6)).to_text(),
    "redundant": lambda: reported("SB001", 0).to_text(verbose=True),
    "redundant_deep": lambda: sb.check(deep(8, 0.5), sample(16, 6)).to_text(),
    "degraded": lambda: reported("SB201", 0).to_text(),
    "healthy_ladder": lambda: gated().to_text(verbose=True),
    "dead": lambda: reported("SB102", 0).to_text(),
    "unknown": lambda: reported("SB404", 0).to_text(verbose=True),
    "concise": lambda: reported("SB102", 0).to_text(concise=True),
}


@pytest.mark.parametrize("name", STARTS)
def test_text_is_the_golden(name: str) -> None:
    path, text = GOLDENS / f"{name}.txt", STARTS[name]() + "\n"
    if os.environ.get(UPDATE):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"set {UPDATE}=1 to write {path} anew, then read the difference"


def test_no_golden_is_left_over() -> None:
    assert {p.stem for p in GOLDENS.glob("*.txt")} == set(STARTS)


# ---- JSON ------------------------------------------------------------------------------------------------------


def schema() -> jsonschema.Draft202012Validator:
    text = resources.files("symbreak.report").joinpath("schema.json").read_text(encoding="utf-8")
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    return jsonschema.Draft202012Validator(json.loads(text))


@pytest.mark.parametrize("which", [0, 1], ids=["fires", "silent"])
@pytest.mark.parametrize("code", EXAMPLES)
def test_json_follows_the_schema(code: str, which: int) -> None:
    report = reported(code, which)
    found = json.loads(report.to_json())
    schema().validate(found)
    assert found["verdict"] == report.verdict
    assert [f["code"] for f in found["findings"]] == [f.code for f in report.findings]
    assert found["wakeup"] == dict(report.wakeup)


def test_the_schema_refuses_what_it_does_not_know() -> None:
    found = json.loads(reported("SB001", 0).to_json())
    for wrong in ({"verdict": "fine"}, {"extra": 1}, {"schema_version": 2}, {"findings": [{"code": "SB001"}]}):
        assert not schema().is_valid({**found, **wrong})


def test_numbers_that_json_does_not_know_become_null() -> None:
    report = reported("SB001", 0)
    report = replace(report, trace=replace(report.trace, loss=float("nan"), learning_rate=0.1))
    text = report.to_json()
    assert "NaN" not in text
    assert json.loads(text)["probe"]["first_loss"] is None


def test_json_is_written_where_asked(tmp_path: Path) -> None:
    text = reported("SB001", 0).to_json(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text(encoding="utf-8") == text


# ---- sentences -------------------------------------------------------------------------------------------------

EVERY = [(code, which) for code in EXAMPLES for which in (0, 1)]


@pytest.mark.parametrize(("code", "which"), EVERY)
def test_the_text_reads_as_english(code: str, which: int) -> None:
    text = reported(code, which).to_text(verbose=True)
    for wrong in (
        "None",
        "nan ",
        " ,",
        "  .",
        "..",
        "1 units",
        "1 layers",
        "1 steps",
        "1 tensors",
        "all 1 ",
        "passs",
        "()",
    ):
        assert wrong not in text, wrong
    for line in text.splitlines():
        assert line == line.rstrip()


@pytest.mark.parametrize(("code", "which"), EVERY)
def test_no_text_is_told_twice(code: str, which: int) -> None:
    blocks = reported(code, which).to_text(verbose=True).split("\n\n")
    assert len(blocks) == len(set(blocks))
    told = [f.because for f in reported(code, which).findings]
    assert len(told) == len(set(told))


BARE = re.compile(r"(?:units|inputs|activation|moves)(?: \([^)]*\))?(?: of)? \d+\b")


@pytest.mark.parametrize(("code", "which"), EVERY)
def test_a_bare_number_is_called_a_layer(code: str, which: int) -> None:
    assert BARE.search("16 of 16 units (0-15) of 0 share weights")
    for f in reported(code, which).findings:
        assert not BARE.search(f.because), f.because
        assert "layer" not in f.where  # the place itself stays the plain name


def test_healthy_counts_only_what_learns() -> None:
    first = reported("SB104", 0).to_text().splitlines()[0]
    assert first.startswith("healthy: 4 of 6 trainable tensors of TwoHeads get a gradient at the first step (2 unused)")
    assert "1 shadowed" in reported("SB105", 0).to_text()


def test_one_tensor_is_one_tensor() -> None:
    assert "the only trainable tensor of Linear gets a gradient" in str(
        sb.check(nn.Linear(3, 2, bias=False), sample(8, 3))
    )


def test_stuck_by_units_alone_says_units() -> None:
    report = reported("SB102", 0)
    live = tuple(replace(t, status="live", wake=1) for t in report.trace.tensors)
    found = tuple(f for f in report.findings if f.code == "SB102")
    from symbreak.report.terminal import _stuck

    said = _stuck(Report("stuck", found, replace(report.trace, tensors=live)))
    assert said == "units of layer 1 (relu) in Sequential never get a gradient from this start"


def test_a_verdict_of_some_rules_says_so() -> None:
    model, batch, loss = EXAMPLES["SB101"][0]()
    report = sb.check(model, batch, loss, ignore=["SB1"])
    assert report.verdict == "healthy"
    assert "with all of them it is stuck" in report.to_text(width=400)
    assert "gradient" not in report.to_text()


def test_a_hundred_layers_do_not_fill_the_screen() -> None:
    report = sb.check(deep(40, 0.5), sample(16, 6))
    tied = [f for f in report.findings if f.code == "SB001"]
    assert len(tied) == 40
    assert {f.where for f in tied} <= set(report.width)
    assert len(report.to_text().splitlines()) < 40
    everything = report.to_text(verbose=True)
    assert all(f" {f.where}," in everything or f" {f.where} " in everything for f in tied)


def test_information_is_cut_only_without_verbose() -> None:
    report = reported("SB001", 1)
    many = tuple(
        Finding("SB103", "late-waker", "info", f"t{i}", f"{'x' * i} first learns at step 2") for i in range(1, 12)
    )
    report = replace(report, findings=many)
    assert "(5 not shown, see --verbose)" in report.to_text()
    assert "not shown" not in report.to_text(verbose=True)


def test_ascii_is_ascii_and_colour_is_off_by_default() -> None:
    report = reported("SB002", 0)
    plain = report.to_text(verbose=True)
    assert "±" in plain
    assert "\x1b" not in plain
    ascii_only = report.to_text(verbose=True, ascii_only=True)
    assert ascii_only.isascii()
    assert "+-1/sqrt(fan_in)" in ascii_only
    assert "?" not in ascii_only
    coloured = report.to_text(verbose=True, color=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_nothing_is_cut() -> None:
    report = reported("SB301", 0)
    narrow, wide = report.to_text(width=40, verbose=True), report.to_text(width=400, verbose=True)
    assert "…" not in narrow
    assert narrow.split() == wide.split()


def test_the_table_shows_distinct_units() -> None:
    text = reported("SB001", 0).to_text(verbose=True)
    assert re.search(r"^  0 +linear +4x3 +1/4 ", text, re.MULTILINE)


def test_nothing_is_claimed_of_what_was_not_run() -> None:
    report = reported("SB404", 0)
    assert report.wakeup == {}
    assert [f.code for f in report.findings] == ["SB404"]
    assert "ladder" not in report.to_text(verbose=True)
    assert "nothing was run" in report.to_text()
