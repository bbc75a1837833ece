"""keep=origin: what was loaded last stays, whatever its name; what was written over does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import symbreak as sb
from symbreak.errors import SchemeError

from .test_recorder import model


def test_what_was_loaded_stays_and_the_rest_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({k: v for k, v in model().state_dict().items() if "head" not in k}, path)
    with sb.provenance() as origin:
        net = model()
        net.load_state_dict(torch.load(path), strict=False)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    start = sb.init_(net, "xavier_uniform", keep=origin)
    assert {step.tensor for step in start.changed} == {"head.weight", "head.bias"}
    assert torch.equal(net.table.weight, before["table.weight"])
    assert start["table.weight"].because.startswith("it was loaded by load_state_dict")
    assert start.notes == ()


def test_a_load_that_was_written_over_is_told_and_drawn_anew(tmp_path: Path) -> None:
    torch.save(model().state_dict(), tmp_path / "weights.pt")
    with sb.provenance() as origin:
        net = model()
        net.load_state_dict(torch.load(tmp_path / "weights.pt"))
        nn.init.zeros_(net.head.weight)
    start = sb.init_(net, "xavier_uniform", keep=[origin, "head.bias"])
    assert {step.tensor for step in start.changed} == {"head.weight"}
    assert start.notes == ("keep=: written over since it was loaded, so no reason to keep it: head.weight",)


def test_what_is_not_known_stays_and_is_told(tmp_path: Path) -> None:
    body = nn.Linear(4, 4)
    torch.save(nn.Linear(4, 4).state_dict(), tmp_path / "weights.pt")
    with sb.provenance() as origin:
        net = nn.Sequential(body, nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].load_state_dict(torch.load(tmp_path / "weights.pt"))
    start = sb.init_(net, "xavier_uniform", keep=origin)
    assert {step.tensor for step in start.changed} == {"2.weight", "2.bias"}
    assert start.notes == ("keep=: not known to be loaded, and kept: 0.weight and 1 more",)


def test_nothing_loaded_is_a_mistake() -> None:
    with sb.provenance() as origin:
        net = nn.Linear(3, 3)
    with pytest.raises(SchemeError, match=r"nothing of this model was loaded inside the block of provenance\(\)"):
        sb.init_(net, "xavier_uniform", keep=origin)
