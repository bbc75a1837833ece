"""Models of every odd kind: `init_` ends in a clear error and nothing has changed, or in what `undo` reverts."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import symbreak as sb
from symbreak.errors import BatchError, ModelError, SymbreakError
from symbreak.schemes.survey import survey

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
LOSS = nn.CrossEntropyLoss()
FILES = Path()  # where a test may write; set by a fixture


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    global FILES  # factories take no arguments, so that the table reads as one
    FILES = tmp_path


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def holding(weight: Tensor, *, grad: bool = True) -> nn.Sequential:
    """The net with another first weight."""
    model = net()
    model[0].weight = nn.Parameter(weight, requires_grad=grad)
    return model


def mapped(mode: Any, *, grad: bool = True) -> nn.Sequential:
    file = FILES / "weights"
    np.ones((8, 4), dtype=np.float32).tofile(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it cannot be written to
        return holding(torch.from_numpy(np.memmap(file, dtype=np.float32, mode=mode, shape=(8, 4))), grad=grad)


def from_safetensors() -> nn.Sequential:
    model = net()
    save_file(model.state_dict(), FILES / "m.safetensors")
    model.load_state_dict(load_file(FILES / "m.safetensors"), assign=True)
    return model


def from_mapped_checkpoint() -> nn.Sequential:
    model = net()
    torch.save(model.state_dict(), FILES / "m.pt")
    model.load_state_dict(torch.load(FILES / "m.pt", mmap=True), assign=True)
    return model


def in_inference_mode() -> nn.Sequential:
    with torch.inference_mode():
        return net()


def one_layer_in_inference_mode() -> nn.Sequential:
    model = net()
    with torch.inference_mode():
        model[2] = nn.Linear(8, 8)
    return model


def with_integers_beside() -> nn.Sequential:
    model = net()
    model.register_parameter("table", nn.Parameter(torch.arange(4), requires_grad=False))
    return model


def over_one_memory() -> nn.Sequential:
    model = net()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    at = 0
    for p in model.parameters():
        p.data = flat[at : at + p.numel()].view_as(p)
        at += p.numel()
    return model


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    return model


def changed(do: Callable[[nn.Sequential], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = net()
        found = do(model)
        return found if isinstance(found, nn.Module) else model

    return make


class Own(Tensor):
    """A subclass whose operations are its own business."""


class Silent(nn.Module):
    """Finite in every layer, nothing but NaN at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.tanh(self.a(x))) * float("nan")
        return out


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("boom")


def empty() -> nn.Sequential:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: a no-op
        return nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3))


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)
    return made


def scripted(how: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return how(net())

    return make


@dataclass(frozen=True)
class Kind:
    """A model; what every call says (None: all of the model is started); what stays where it is not refused."""

    make: Callable[[], nn.Module]
    refused: str | None = None
    left: tuple[str, str] | None = None  # name and reason of a tensor that is kept


KINDS: dict[str, Kind] = {
    "plain": Kind(net),
    "frozen": Kind(changed(lambda m: m.requires_grad_(False)), left=("0.weight", r"frozen \(requires_grad=False\)")),
    "one frozen": Kind(changed(lambda m: m[0].requires_grad_(False) and None), left=("0.weight", "frozen")),
    "read-only map": Kind(lambda: mapped("r"), refused=r"'0.weight' lies in read-only memory.*p.data = p.data.clone"),
    "read-only map, frozen": Kind(lambda: mapped("r", grad=False), left=("0.weight", "frozen")),
    "writable map": Kind(lambda: mapped("r+")),
    "copy-on-write map": Kind(lambda: mapped("c")),
    "safetensors": Kind(from_safetensors),
    "mapped checkpoint": Kind(from_mapped_checkpoint),
    "inference mode": Kind(in_inference_mode),
    "one layer of inference mode": Kind(one_layer_in_inference_mode),
    "quantised": Kind(quantised, refused=r"Sequential has no parameters, so there is nothing to start"),
    "integers beside": Kind(with_integers_beside, left=("table", "frozen|bare parameter")),
    "int8 weight": Kind(lambda: holding(torch.ones(8, 4, dtype=torch.int8), grad=False), left=("0.weight", "frozen")),
    "quantised weight": Kind(
        lambda: holding(torch.quantize_per_tensor(torch.ones(8, 4), 0.1, 0, torch.qint8), grad=False),
        left=("0.weight", "frozen"),
    ),
    "float8": Kind(lambda: holding(torch.randn(8, 4).to(torch.float8_e4m3fn))),
    "complex": Kind(
        lambda: nn.Sequential(nn.Linear(4, 8, dtype=torch.complex64), nn.Linear(8, 3, dtype=torch.complex64)),
        left=("0.weight", "holds complex64 numbers"),
    ),
    "sparse": Kind(
        lambda: holding(torch.eye(8)[:, :4].to_sparse()),
        left=("0.weight", r"no plain dense tensor \(Parameter, torch.sparse_coo\)"),
    ),
    "a subclass": Kind(
        lambda: holding(torch.ones(8, 4).as_subclass(Own)), left=("0.weight", r"no plain dense tensor \(Own")
    ),
    "expanded": Kind(lambda: holding(torch.randn(1, 4).expand(8, 4)), left=("0.weight", "share memory")),
    "transposed": Kind(lambda: holding(torch.randn(4, 8).t())),
    "over one memory": Kind(over_one_memory),
    "tied": Kind(tied),
    "lazy": Kind(
        lambda: nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 3)),
        refused=r"'0.weight' of Sequential is lazy and has no weights yet. Run one batch",
    ),
    "meta": Kind(
        lambda: nn.Sequential(nn.Linear(4, 8, device="meta"), nn.Linear(8, 3)),
        refused=r"'0.weight' of Sequential is on the meta device.*to_empty",
    ),
    "weight norm": Kind(changed(lambda m: parametrizations.weight_norm(m[2]) and None)),
    "spectral norm": Kind(changed(lambda m: parametrizations.spectral_norm(m[2]) and None)),
    "orthogonal": Kind(changed(lambda m: parametrizations.orthogonal(m[2]) and None)),
    "pruned": Kind(changed(lambda m: prune.ln_structured(m[2], "weight", 0.5, n=2, dim=0) and None)),
    "DataParallel": Kind(changed(nn.DataParallel)),
    "compiled": Kind(changed(lambda m: torch.compile(m, backend="eager"))),
    "half": Kind(changed(lambda m: m.half())),
    "bfloat16": Kind(changed(lambda m: m.bfloat16())),
    "double": Kind(changed(lambda m: m.double())),
    "fx": Kind(changed(torch.fx.symbolic_trace)),
    "scripted": Kind(scripted(torch.jit.script)),
    "traced": Kind(scripted(lambda m: torch.jit.trace(m, X))),
    "NaN weight": Kind(lambda: holding(torch.full((8, 4), float("nan")))),
    "no units": Kind(empty),
    "no parameters": Kind(nn.ReLU, refused="ReLU has no parameters"),
    "no forward": Kind(lambda: nn.Module(), refused="Module has no parameters"),
    "a class": Kind(lambda: nn.Linear, refused=r"init_\(\) got type; expected a torch.nn.Module"),  # type: ignore[arg-type, return-value]
    "a state_dict": Kind(lambda: net().state_dict(), refused=r"init_\(\) got OrderedDict"),  # type: ignore[arg-type, return-value]
    "silent": Kind(Silent),
    "raises": Kind(Raises),
}
CALLS: dict[str, tuple[str, Any]] = {
    "kaiming_normal": ("kaiming_normal", None), "auto": ("auto", None), "auto, batch": ("auto", X),
    "auto, labels": ("auto", (X, Y)), "lsuv": ("lsuv", X), "krahenbuhl": ("krahenbuhl(rounds=2)", (X, Y)),
    "analytic": ("analytic", X), "metainit": ("metainit(steps=1)", (X, Y)), "gradinit": ("gradinit(steps=1)", (X, Y)),
}  # fmt: skip


def print_of(model: Any) -> dict[str, Any]:
    """All that must stay: every tensor's identity and bytes, flags, modes, hooks, and the state of the generators."""
    found: dict[str, Any] = {
        "rng": torch.get_rng_state().numpy().tobytes(),
        "random": (random.getstate(), str(np.random.get_state())),
    }
    if isinstance(model, nn.Module):
        found["modes"] = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        for name, t in (*model.named_parameters(), *model.named_buffers()):
            found[name] = (id(t), t.requires_grad, t.grad is None, _bytes(t))
    return found


def _bytes(t: Tensor) -> object:
    if isinstance(t, nn.parameter.UninitializedParameter) or t.is_meta:
        return None
    t = t.detach().to_dense() if t.layout != torch.strided else t.detach()
    t = t.int_repr() if t.is_quantized else t
    return t.dtype, tuple(t.shape), t.as_subclass(Tensor).contiguous().flatten().view(torch.uint8).numpy().tobytes()


def start(model: Any, call: str) -> Any:
    scheme, batch = CALLS[call]
    loss = LOSS if isinstance(batch, tuple) else None
    return sb.init_(model, scheme, batch, loss=loss, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore")  # of torch.jit, of quantisation
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_done_or_clearly_refused_and_nothing_else_moves(kind: str, call: str) -> None:
    model = KINDS[kind].make()
    before = print_of(model)
    try:
        done = start(model, call)
    except SymbreakError:
        assert print_of(model) == before
        model_is_wrong = bool(KINDS[kind].refused) or kind in ("scripted", "traced")
        assert model_is_wrong or CALLS[call][1] is not None  # without a batch there is nothing else to be wrong
        return
    assert KINDS[kind].refused is None
    around = ("rng", "random", "modes")
    after = print_of(model)
    assert {key: after[key] for key in around} == {key: before[key] for key in around}
    kept = {name for step in done.steps if step.action == "kept" for name in (step.tensor, *step.also)}
    named = dict(model.named_parameters(remove_duplicate=False))
    inner = {name: named.get(name, named.get(f"module.{name}", named.get(f"_orig_mod.{name}"))) for name in kept}
    assert all(before[n] == after[n] for n, p in model.named_parameters() if any(p is q for q in inner.values()))
    done.undo()
    assert print_of(model) == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.refused])
def test_what_is_refused_says_who_and_what_to_do(kind: str) -> None:
    model = KINDS[kind].make()
    with pytest.raises(ModelError, match=rf"(?s){KINDS[kind].refused}"):
        start(model, "auto")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.left])
def test_what_is_left_has_its_reason_in_the_plan(kind: str) -> None:
    name, reason = KINDS[kind].left or ("", "")
    done = start(KINDS[kind].make(), "kaiming_normal")
    assert done[name].action == "kept"
    assert re.search(reason, done[name].because), done[name].because


@pytest.mark.parametrize("scheme", ["lsuv", "krahenbuhl(between=False)", "weight_norm_data"])
def test_layers_are_not_sized_by_a_batch_of_which_nothing_comes_out(scheme: str) -> None:
    with pytest.raises(BatchError, match=r"the model's output has no finite entry on this batch \(shape \(6, 3\)\)"):
        sb.init_(Silent(), scheme, X)


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_module_is_started_where_its_tensors_are_named() -> None:
    model = torch.jit.script(net())
    done = sb.init_(model, {"0.weight": "kaiming_normal"}, generator=torch.Generator().manual_seed(2))
    assert [step.tensor for step in done.changed] == ["0.weight"]
    said = r'RecursiveScriptModule is scripted or traced.*Start the module it was made from.*{"pattern": scheme}'
    with pytest.raises(ModelError, match=said):
        sb.init_(model, "kaiming_normal")
    left = sb.init_(model, "auto", X)
    assert not left.changed
    assert re.match(said, left.notes[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if name not in ("a class", "a state_dict")])
def test_a_survey_reads_every_kind(kind: str) -> None:
    model = KINDS[kind].make()
    before = print_of(model)
    if kind == "lazy":
        with pytest.raises(ModelError, match=r"'0.weight' of Sequential is lazy and has no shape yet"):
            survey(model)
    else:
        assert all(row.has.text for row in survey(model))
    assert print_of(model) == before


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_a_size_is_true_of_numbers_of_every_form() -> None:
    """The plan's rms against NumPy's, of what has no norm of its own in torch."""
    dense = torch.tensor([[3.0, 0.0], [0.0, -4.0]])
    model = nn.ParameterDict({
        "whole": nn.Parameter(torch.tensor([3, 0, 0, -4]), requires_grad=False),
        "sparse": nn.Parameter(dense.to_sparse()),
        "csr": nn.Parameter(dense.to_sparse_csr()),
        "narrow": nn.Parameter(dense.to(torch.float8_e5m2)),
        "brain": nn.Parameter(dense.bfloat16()),
        "turned": nn.Parameter(dense.to(torch.complex64) * 1j),
        "flags": nn.Parameter(torch.tensor([True, False]), requires_grad=False),
        "quantised": nn.Parameter(torch.quantize_per_tensor(dense, 0.5, 0, torch.qint8), requires_grad=False),
    })  # fmt: skip
    sizes = {step.tensor: step.rms for step in sb.init_(model, {"*": None}).steps}
    for name, (before, after) in sizes.items():
        assert before == after == pytest.approx(0.5**0.5 if name == "flags" else 2.5), name
