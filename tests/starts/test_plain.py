"""One scheme, or a mapping: who takes it, what stays, and what a mistake is answered."""

from __future__ import annotations

import json
import random
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak import schemes
from symbreak.errors import BatchError, ForwardError, ModelError, SchemeError
from symbreak.starts import desk as desk_room


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """A table, a norm, a tied head, a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.scale = nn.Parameter(torch.full((6,), 0.5))
        self.norm = nn.LayerNorm(6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.hidden(self.norm(self.table(tokens) * self.scale))))
        return out


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[n], b[n]) for n in a)


# ---- who takes a scheme ----------------------------------------------------------------------------------------------


def test_a_scheme_is_for_weights_biases_get_zero_and_norms_stay() -> None:
    model = mlp()
    start = sb.init_(model, schemes.orthogonal(), generator=generator())
    taken = {step.tensor: repr(step.scheme) for step in start.changed}
    assert taken == {
        "0.weight": "orthogonal", "0.bias": "zeros", "3.weight": "orthogonal", "3.bias": "zeros",
        "5.weight": "orthogonal", "5.bias": "zeros",
    }  # fmt: skip
    assert torch.allclose(model[3].weight @ model[3].weight.T, torch.eye(8), atol=1e-5)
    assert not model[0].bias.any()
    assert torch.equal(model[2].weight, torch.ones(8))


def test_biases_get_what_the_scheme_says_of_them() -> None:
    model = mlp()
    start = sb.init_(model, "torch_default", generator=generator())
    assert repr(start["0.bias"].scheme) == "torch_default"
    assert 0 < float(model[0].bias.detach().abs().max()) <= 0.5


def test_the_draw_is_that_of_the_scheme_itself() -> None:
    model = mlp()
    sb.init_(model, {"3.weight": "normal(0.02)"}, generator=generator(5))
    assert torch.equal(model[3].weight, schemes.normal(0.02).draw((8, 8), generator=generator(5)))


def test_tables_bare_parameters_and_tied_tensors() -> None:
    model = Net()
    start = sb.init_(model, "kaiming_normal", generator=generator())
    assert start["table.weight"].action == "kept"
    assert start["head.weight"] is start["table.weight"]
    assert "name it in a mapping" in start["scale"].because
    start = sb.init_(model, "normal(0.02)", generator=generator())
    assert start["table.weight"].action == "drawn"
    assert start["table.weight"].also == ("head.weight",)
    assert model.head.weight is model.table.weight


@pytest.mark.parametrize(
    ("scheme", "taken"),
    [("zero_gamma", {"norm.weight"}), ("embedding_normal", {"table.weight"}), ("prior_bias(0.1)", {"head.bias"})],
)
def test_a_scheme_about_one_part_goes_there_alone(scheme: str, taken: set[str]) -> None:
    start = sb.init_(Net(), scheme, torch.arange(11)[None], generator=generator())
    assert {step.tensor for step in start.changed} == taken


def test_a_scheme_that_nothing_takes_is_told() -> None:
    with pytest.raises(SchemeError, match=r"rezero is for a gate, and no tensor of Sequential is known to be one"):
        sb.init_(mlp(), "rezero")


def test_frozen_tensors_stay_and_the_plan_says_so() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    before = values(model)
    start = sb.init_(model, "xavier_uniform", generator=generator())
    assert start["0.weight"].because == "frozen (requires_grad=False)"
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[3].weight, before["3.weight"])


def test_depth_aware_schemes_read_the_branches_where_a_batch_is_given() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.b(torch.relu(self.a(x)))
            return out

    model = nn.Sequential(nn.Linear(4, 8), *(Block() for _ in range(4)), nn.Linear(8, 3))
    sb.init_(model, "gpt2_residual(1.0)", torch.randn(5, 4), generator=generator())
    inner = torch.cat([m.a.weight.flatten() for m in model.children() if isinstance(m, Block)])
    ends = torch.cat([m.b.weight.flatten() for m in model.children() if isinstance(m, Block)])
    assert float((ends.std() / inner.std()).detach()) == pytest.approx(0.5, rel=0.2)
    with pytest.raises(SchemeError, match=r"'1.a.weight'|'0.weight'"):  # without a batch nobody knows L
        sb.init_(model, "ds_init")


# ---- mappings --------------------------------------------------------------------------------------------------------


def test_the_first_pattern_decides_none_keeps_and_the_rest_stays() -> None:
    model = mlp()
    before = values(model)
    start = sb.init_(model, {"0.weight": None, "0.*": "zeros", "5.bias": "constant(3.0)"}, generator=generator())
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not model[0].bias.any()
    assert torch.equal(model[5].bias, torch.full((3,), 3.0))
    assert torch.equal(model[3].weight, before["3.weight"])
    assert start["3.weight"].because == "not asked for"


def test_a_pattern_that_catches_weights_treats_what_stands_beside_them_as_ever() -> None:
    model = mlp()
    sb.init_(model, {"*": "kaiming_normal"}, generator=generator())
    assert not model[3].bias.any()
    assert torch.equal(model[2].weight, torch.ones(8))
    sb.init_(model, {"*.bias": "normal(0.5)"}, generator=generator())
    assert model[3].bias.any()
    assert model[2].bias.any()


def test_a_pattern_means_a_shared_tensor_by_any_of_its_names() -> None:
    model = Net()
    start = sb.init_(model, {"head.weight": "zeros"})
    assert not model.table.weight.any()
    assert start.changed[0].tensor == "table.weight"


def test_auto_may_stand_in_a_mapping() -> None:
    model = mlp()
    start = sb.init_(model, {"5.*": "zeros", "*": "auto"}, torch.randn(9, 4), generator=generator())
    assert repr(start["0.weight"].scheme) == "kaiming_normal"
    assert not model[5].weight.any()


def test_keep_is_by_pattern() -> None:
    model = mlp()
    before = values(model)
    start = sb.init_(model, "xavier_uniform", keep=["0.*"], generator=generator())
    assert torch.equal(model[0].weight, before["0.weight"])
    assert start["0.weight"].because == "asked for with keep="
    before = values(model)
    start = sb.init_(model, "xavier_uniform", keep="3.weight", generator=generator(1))
    assert torch.equal(model[3].weight, before["3.weight"])
    assert start["3.bias"].because == "3.weight is kept, so its bias is"
    assert not torch.equal(model[0].weight, before["0.weight"])


# ---- all or nothing --------------------------------------------------------------------------------------------------


def test_an_error_midway_brings_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    before, around = values(model), torch.get_rng_state()
    real: Callable[..., None] = desk_room.Desk.draw
    calls = []

    def breaks(self: desk_room.Desk, *args: object) -> None:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(self, *args)

    monkeypatch.setattr(desk_room.Desk, "draw", breaks)
    with pytest.raises(KeyboardInterrupt):
        sb.init_(model, "xavier_uniform")
    assert same(before, values(model))
    assert torch.equal(around, torch.get_rng_state())


def test_a_shape_that_a_scheme_cannot_take_names_the_tensor_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (8, 1, 1)), nn.Conv2d(8, 4, 1))
    before = values(model)
    with pytest.raises(SchemeError, match=r"'2.weight': delta_orthogonal.*keep=\['2.weight'\]"):
        sb.init_(model, {"0.weight": "normal(1.0)", "2.weight": "delta_orthogonal"})
    assert same(before, values(model))


def test_the_same_generator_draws_the_same_weights_and_the_world_stands_still() -> None:
    a, b = mlp(), mlp()
    state = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    sb.init_(a, "auto", torch.randn(9, 4, generator=generator()), generator=generator(3))
    sb.init_(b, "auto", torch.randn(9, 4, generator=generator()), generator=generator(3))
    assert same(values(a), values(b))
    assert torch.equal(state[0], torch.get_rng_state())
    assert (random.getstate(), str(np.random.get_state())) == state[1:]
    sb.init_(b, "auto", torch.randn(9, 4, generator=generator()), generator=generator(4))
    assert not same(values(a), values(b))


def test_without_a_generator_the_global_seed_decides() -> None:
    a, b = mlp(), mlp()
    torch.manual_seed(7)
    sb.init_(a, "lecun_normal")
    sb.init_(b, "lecun_normal")
    assert same(values(a), values(b))
    torch.manual_seed(8)
    sb.init_(b, "lecun_normal")
    assert not same(values(a), values(b))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_get_the_same_weights_rounded(dtype: torch.dtype) -> None:
    wide, narrow = mlp(), mlp().to(dtype)
    sb.init_(wide, "xavier_uniform", generator=generator())
    sb.init_(narrow, "xavier_uniform", generator=generator())
    assert torch.equal(wide[0].weight.to(dtype), narrow[0].weight)


def test_undo_once_and_not_over_other_writes() -> None:
    model = mlp()
    before = values(model)
    start = sb.init_(model, "xavier_uniform")
    start.undo()
    assert same(before, values(model))
    with pytest.raises(SchemeError, match="undone already"):
        start.undo()
    start = sb.init_(model, "xavier_uniform")
    with torch.no_grad():
        model[3].weight.add_(1)
    with pytest.raises(SchemeError, match=r"'3.weight' of Sequential has been written to since"):
        start.undo()


def test_large_models_have_their_old_values_kept_in_a_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symbreak.starts.desk._LARGE", 1)
    monkeypatch.setattr("symbreak.starts.desk._SMALL", 0)
    names: list[str] = []
    keep = desk_room._kept
    monkeypatch.setattr(
        "symbreak.starts.desk._kept", lambda p: (names.append(threading.current_thread().name), keep(p))[1]
    )
    model, plain = mlp(), mlp()
    before = values(model)
    start = sb.init_(model, "xavier_uniform", generator=generator())
    assert names
    assert all(name.startswith("symbreak-copies") for name in names)
    assert not [t for t in threading.enumerate() if t.name.startswith("symbreak-copies")]
    monkeypatch.setattr("symbreak.starts.desk._LARGE", 1 << 40)
    sb.init_(plain, "xavier_uniform", generator=generator())
    assert same(values(model), values(plain))
    start.undo()
    assert same(before, values(model))
    monkeypatch.setattr("symbreak.starts.desk._LARGE", 1)
    with pytest.raises(SchemeError):
        sb.init_(model, {"0.weight": "lecun_normal", "*.weight": "dirac"})
    assert same(before, values(model))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_tensors_over_a_part_of_the_same_memory_stay(order: tuple[int, int]) -> None:
    memory = torch.randn(30)
    parts = [memory[:20].view(4, 5), memory[15:30].view(3, 5)]
    model = nn.Module()
    for n, i in enumerate(order):
        model.register_parameter(f"w{n}", nn.Parameter(parts[i]))
    model.register_parameter("free", nn.Parameter(torch.randn(3, 3)))
    start = sb.init_(model, {"*": "zeros"})
    assert {s.tensor: s.because for s in start.steps if s.action == "kept"} == {
        "w0": "shares a part of its memory with w1", "w1": "shares a part of its memory with w0",
    }  # fmt: skip


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = mlp()
    start = sb.init_(model, "zeros")
    assert not model[0].weight.any()
    start.undo()
    assert model[0].weight.any()


# ---- the plan --------------------------------------------------------------------------------------------------------


def test_the_plan_as_json_and_as_a_table() -> None:
    start = sb.init_(Net(), {"hidden.*": "orthogonal"}, generator=generator())
    read = json.loads(start.to_json())
    assert read["model"] == "Net"
    assert [row["tensor"] for row in read["steps"]] == [step.tensor for step in start.steps]
    row = next(r for r in read["steps"] if r["tensor"] == "hidden.weight")
    assert schemes.parse(row["scheme"]) == schemes.orthogonal()
    assert row["rms_after"] == pytest.approx(6**-0.5, rel=1e-5)
    text = start.to_text(width=90)
    assert text.startswith("Net: {'hidden.*': orthogonal}; 2 tensors written, 5 kept.")
    assert all(len(line) <= 90 for line in text.splitlines()[1:])
    assert repr(start) == "<Start of Net: {'hidden.*': orthogonal}, 2 of 7 tensors written>"
    assert len(start) == 7
    with pytest.raises(KeyError):
        start["nothing"]


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("kaimin_normal", r"no scheme is called 'kaimin_normal'. Nearest: kaiming_normal, kaiming_uniform"),
        (None, r'scheme=None; expected "auto"'),
        (3, r"3 is no scheme; expected"),
        (schemes.orthogonal, r"orthogonal is a function; pass the scheme it makes: orthogonal\(...\)"),
        ({}, r"the mapping is empty"),
        ({"5.weigth": "zeros"}, r"no tensor matches '5.weigth'. Nearest: 5.weight, 3.weight, 2.weight."),
        ({"3": "zeros"}, r"Patterns name tensors, not modules: write '3.\*'"),
        ({5: "zeros"}, r"5 is no pattern"),
        ("pissa", r"pissa is a function on tensors"),
    ],
)
def test_schemes_and_patterns_that_are_wrong(scheme: object, message: str) -> None:
    model = mlp()
    before = values(model)
    with pytest.raises(SchemeError, match=message):
        sb.init_(model, scheme)  # type: ignore[arg-type]
    assert same(before, values(model))


def test_keep_and_generator_that_are_wrong() -> None:
    with pytest.raises(SchemeError, match=r"no tensor matches 'hed.\*'"):
        sb.init_(Net(), "zeros", keep=["hed.*"])
    with pytest.raises(SchemeError, match=r"keep=3; expected patterns"):
        sb.init_(Net(), "zeros", keep=3)  # type: ignore[arg-type]
    with pytest.raises(SchemeError, match=r"generator=0; expected a torch.Generator"):
        sb.init_(Net(), "zeros", generator=0)  # type: ignore[arg-type]


def test_models_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"got type; expected a torch.nn.Module"):
        sb.init_(Net, "zeros")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"has no parameters"):
        sb.init_(nn.ReLU(), "zeros")
    with pytest.raises(ModelError, match=r"'weight' of Linear is on the meta device and has no memory"):
        sb.init_(nn.Linear(2, 2, device="meta"), "zeros")
    with pytest.raises(ModelError, match=r"'weight' of LazyLinear is lazy"):
        sb.init_(nn.LazyLinear(2), "zeros")
    file = tmp_path / "weights"
    np.ones((8, 4), dtype=np.float32).tofile(file)
    model = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it cannot be written to
        mapped = torch.from_numpy(np.memmap(file, dtype=np.float32, mode="r", shape=(8, 4)))
    model[0].weight = nn.Parameter(mapped)
    before = values(model)
    with pytest.raises(ModelError, match=r"'0.weight' lies in read-only memory"):
        sb.init_(model, "zeros")
    assert same(before, values(model))


@pytest.mark.parametrize("scheme", ["auto", "lsuv", "analytic", "metainit(steps=1)"])
def test_batches_that_do_not_fit(scheme: str) -> None:
    model = mlp()
    before = values(model)
    with pytest.raises(BatchError, match="NaN or infinite"):
        sb.init_(model, scheme, torch.full((3, 4), float("nan")))
    with pytest.raises(BatchError, match="is empty"):
        sb.init_(model, scheme, torch.zeros(0, 4))
    with pytest.raises(ForwardError, match=r"in module '0' \(Linear\)"):
        sb.init_(model, scheme, torch.randn(3, 5))
    assert same(before, values(model))


@pytest.mark.parametrize("scheme", ["lsuv", "krahenbuhl", "weight_norm_data", "metainit", "gradinit"])
def test_schemes_that_look_at_data_need_some(scheme: str) -> None:
    with pytest.raises(BatchError, match=rf"{scheme} looks at data: pass batch="):
        sb.init_(mlp(), scheme)


def test_overlapping_expanded_and_complex_tensors_are_left() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            flat = torch.randn(40)
            self.a = nn.Linear(4, 8, bias=False)
            self.b = nn.Linear(4, 8, bias=False)
            self.a.weight = nn.Parameter(flat[:32].view(8, 4))
            self.b.weight = nn.Parameter(flat[8:].view(8, 4))
            self.c = nn.Linear(4, 4, dtype=torch.complex64)
            self.d = nn.Linear(4, 4, bias=False)
            self.d.weight = nn.Parameter(torch.randn(1, 4).expand(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.a(x) + self.b(x)
            return out

    start = sb.init_(Odd(), {"*": "normal(1.0)"})
    assert start["a.weight"].because == "shares a part of its memory with b.weight"
    assert "complex64" in start["c.weight"].because
    assert "expanded" in start["d.weight"].because
    assert start.changed == ()


def test_layers_with_one_story_share_a_line() -> None:
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)), nn.Linear(4, 2))
    rows = sb.init_(net, "orthogonal").to_text(width=200).splitlines()[1:]
    assert [row.split("  ")[0] for row in rows] == ["*.weight (5)", "*.bias (5)", "5.weight", "5.bias"]
