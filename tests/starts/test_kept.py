"""What stays: by pattern, by a checkpoint in memory or in a file, by names."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import symbreak as sb
from symbreak.errors import SchemeError


def model() -> nn.Module:
    """A backbone with a norm and its buffers, and a head on top."""
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
    return nn.Sequential(OrderedDict(backbone=backbone, head=nn.Linear(8, 3)))


def pretrained() -> tuple[nn.Module, dict[str, Tensor]]:
    """A model into which a checkpoint without a head was loaded, and the checkpoint."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = model()
        state = {k: v.clone() for k, v in model().state_dict().items() if k.startswith("backbone")}
    net.load_state_dict(state, strict=False)
    return net, state


def started(net: nn.Module, keep: Any) -> sb.starts.Start:
    return sb.init_(net, "xavier_uniform", keep=keep, generator=torch.Generator().manual_seed(1))


def test_what_a_state_dict_holds_is_kept() -> None:
    net, state = pretrained()
    start = started(net, state)
    assert {step.tensor for step in start.changed} == {"head.weight", "head.bias"}
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert start["backbone.0.weight"].because == "the checkpoint holds it"
    assert start.notes == ()


def test_a_file_and_names_do_the_same(tmp_path: Path) -> None:
    net, state = pretrained()
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    plans = []
    for keep in (path, str(path), [str(path)], set(state), frozenset(state), state.keys(), [state, "backbone.1.*"]):
        start = started(net, keep)
        plans.append({step.tensor for step in start.changed})
        start.undo()
    assert plans == [{"head.weight", "head.bias"}] * len(plans)


def test_other_values_and_other_shapes_are_told() -> None:
    net, state = pretrained()
    state["head.weight"], state["extra"] = torch.zeros(5, 8), torch.zeros(2)
    with torch.no_grad():
        net.get_parameter("backbone.0.weight").add_(1)
    start = started(net, state)
    assert start["backbone.0.weight"].because == "the checkpoint holds it, with other values than it has now"
    assert start["head.weight"].action == "drawn"
    assert start.notes == (
        "keep=: the checkpoint's head.weight has shape (5, 8), not (3, 8), so it is not kept",
        "keep=: not in the model: extra",
    )


def test_tied_tensors_are_kept_by_either_name_and_half_precision_is_no_other_value() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
            self.head.weight = self.table.weight
            self.body = nn.Linear(4, 4)

    net = Tied().to(torch.bfloat16)
    start = started(net, {"head.weight": net.head.weight.detach().float()})
    assert (start["table.weight"].action, start["table.weight"].because) == ("kept", "the checkpoint holds it")


def test_a_set_may_hold_patterns_and_tells_what_it_does_not_know() -> None:
    net, _ = pretrained()
    start = started(net, {"backbone.*", "head.bias", "gone.weight"})
    assert {step.tensor for step in start.changed} == {"head.weight"}
    assert start.notes == ("keep=: not in the model: gone.weight",)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"model.head.weight": torch.zeros(3, 8)}, r"such as 'model.head.weight'. Nearest: head.weight.*A prefix"),
        ({"state_dict": {"head.weight": 1}}, r"mapping without tensors.*checkpoint\['state_dict'\]"),
        ({"hed.weight"}, r"no tensor of the model goes by one of these 1 names.*Nearest: head.weight"),
        ({"hed.*"}, r"no tensor matches 'hed.\*'"),
        ({3}, r"keep= has 3 among its names"),
        ([4], r"keep= has 4; expected a pattern, a state_dict, the path"),
        (Path("weights.pt"), r"a path has to be of a .safetensors file.*torch.load\('weights.pt', weights_only=True\)"),
        ("nowhere.safetensors", r"keep='nowhere.safetensors' cannot be read"),
        (7, r"keep=7; expected patterns of tensors"),
    ],
)
def test_what_cannot_be_kept(keep: Any, message: str) -> None:
    net, _ = pretrained()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(SchemeError, match=message):
        started(net, keep)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"no header")
    with pytest.raises(SchemeError, match="cannot be read"):
        started(pretrained()[0], path)
