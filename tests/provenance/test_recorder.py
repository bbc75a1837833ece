"""Who wrote what: constructors, initializers, loaders, copies, regions; and what the recorder cannot know."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak.errors import ModelError

HERE = __file__


def model() -> nn.Module:
    return nn.Sequential(
        OrderedDict(table=nn.Embedding(10, 4, padding_idx=0), norm=nn.BatchNorm1d(4), head=nn.Linear(4, 3))
    )


def kinds(report: sb.OriginReport) -> dict[str, str]:
    return {row.tensor: row.kind for row in report.rows}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    state = model().state_dict()
    torch.save(state, tmp_path / "weights.pt")
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    return tmp_path


# ---- made anew -------------------------------------------------------------------------------------------------------


def test_constructors_are_told_by_function_layer_and_line() -> None:
    with sb.provenance() as origin:
        net = model()
    report = origin.report(net)
    table = report["table.weight"]
    assert (table.kind, table.writer.by) == ("drawn", "normal_")
    assert [(w.kind, w.by, share) for w, share in table.parts] == [
        ("drawn", "normal_", 0.9),
        ("constant", "fill_", 0.1),
    ]
    head = report["head.weight"].writer
    assert (head.by, head.place and head.place.through) == ("kaiming_uniform_", "Linear.reset_parameters")
    assert head.place is not None
    assert (head.place.file, head.place.line) == (HERE, model.__code__.co_firstlineno + 2)
    assert {name: kind for name, kind in kinds(report).items() if name.startswith("norm")} == {
        "norm.weight": "constant", "norm.bias": "constant", "norm.running_mean": "constant",
        "norm.running_var": "constant", "norm.num_batches_tracked": "constant",
    }  # fmt: skip
    assert report["norm.running_var"].role == "buffer"


INITIALIZERS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "uniform_": (nn.init.uniform_, "drawn"),
    "normal_": (nn.init.normal_, "drawn"),
    "trunc_normal_": (nn.init.trunc_normal_, "drawn"),
    "xavier_uniform_": (nn.init.xavier_uniform_, "drawn"),
    "kaiming_normal_": (nn.init.kaiming_normal_, "drawn"),
    "orthogonal_": (nn.init.orthogonal_, "drawn"),
    "sparse_": (lambda w: nn.init.sparse_(w, 0.5), "drawn"),
    "constant_": (lambda w: nn.init.constant_(w, 2.0), "constant"),
    "eye_": (nn.init.eye_, "constant"),
    "zeros_": (nn.init.zeros_, "constant"),
    "dirac_": (nn.init.dirac_, "constant"),
    "fill_": (lambda w: w.data.fill_(3), "constant"),
    "exponential_": (lambda w: w.data.exponential_(), "drawn"),
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializers_go_by_their_names(name: str) -> None:
    fill, kind = INITIALIZERS[name]
    with sb.provenance() as origin:
        layer: nn.Module = nn.Conv1d(4, 4, 3) if name == "dirac_" else nn.Linear(4, 6)
        fill(layer.weight)
    row = origin.report(layer)["weight"]
    assert (row.kind, row.writer.by, row.writer.then, len(row.parts)) == (kind, name, (), 1)
    assert row.writer.place is not None
    assert row.writer.place.file == HERE


def test_factories_and_arithmetic() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drawn = nn.Parameter(torch.randn(3, 3) * 0.02)
            self.range = nn.Parameter(torch.arange(1.0, 5).log())
            self.given = nn.Parameter(torch.tensor([1.0, 2.0]))
            self.numpy = nn.Parameter(torch.from_numpy(np.ones(3)))
            self.mixed = nn.Parameter(torch.zeros(3) + torch.rand(3))
            self.joined = nn.Parameter(torch.cat([torch.zeros(2), torch.ones(2)]))

    with sb.provenance() as origin:
        net = Bare()
    report = origin.report(net)
    assert kinds(report) == {
        "drawn": "drawn", "range": "constant", "given": "given", "numpy": "given", "mixed": "drawn",
        "joined": "constant",
    }  # fmt: skip
    assert (report["drawn"].writer.by, report["drawn"].writer.then) == ("randn", ("mul",))


def test_changes_in_place_keep_the_writer() -> None:
    with sb.provenance() as origin:
        layer = nn.Linear(3, 3)
        layer.weight.data.mul_(2).clamp_(-1, 1)
        optimizer = torch.optim.Adam(layer.parameters())
        layer(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    writer = origin.report(layer)["weight"].writer
    assert (writer.kind, writer.by, writer.then[:2]) == ("drawn", "kaiming_uniform_", ("mul_", "clamp_"))
    assert len(writer.then) > 2


# ---- never written ---------------------------------------------------------------------------------------------------


def test_memory_as_it_was_found() -> None:
    class Forgot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = nn.Parameter(torch.empty(4, 3))
            self.upper = nn.Parameter(torch.Tensor(4, 3))
            self.pieces = nn.Parameter(torch.empty(4, 3))
            self.columns = nn.Parameter(torch.empty(4, 3))
            self.entries = nn.Parameter(torch.empty(4, 3))
            with torch.no_grad():
                self.upper[:2].normal_()
                self.pieces[:2].normal_()
                self.pieces[2:] = 0
                for i in range(3):
                    self.columns[:, i].normal_()
                self.entries[torch.tensor([0, 1]), torch.tensor([0, 1])] = 1.0

    with sb.provenance() as origin:
        net = Forgot()
        cast = copy.deepcopy(net).half()
    for report in (origin.report(net), origin.report(cast)):
        assert {row.tensor for row in report.never_written} == {"whole", "upper"}
        assert report["whole"].writer.by in ("empty", "empty_like")
        assert {w.kind: share for w, share in report["upper"].parts}["never-written"] == 0.5
        assert report["entries"].kind == "unknown"  # at places that are data


def test_skipped_initialisation_and_meta() -> None:
    with sb.provenance() as origin:
        skipped = nn.utils.skip_init(nn.Linear, 3, 2)
        with torch.device("meta"):
            bare = nn.Linear(3, 2)
            moved = nn.Linear(3, 2).to_empty(device="cpu")
        nn.init.zeros_(moved.bias)
        lazy = nn.LazyLinear(2)
        met = nn.LazyLinear(2)
        met(torch.ones(1, 3))
    assert kinds(origin.report(skipped)) == {"weight": "never-written", "bias": "never-written"}
    assert kinds(origin.report(moved)) == {"weight": "never-written", "bias": "constant"}
    assert "meta" in origin.report(bare)["weight"].because
    assert "lazy" in origin.report(lazy)["weight"].because
    assert kinds(origin.report(met)) == {"weight": "drawn", "bias": "drawn"}


# ---- loaded ----------------------------------------------------------------------------------------------------------


def by_state(net: nn.Module, files: Path) -> None:
    net.load_state_dict(torch.load(files / "weights.pt"))


def by_assigning(net: nn.Module, files: Path) -> None:
    net.load_state_dict(torch.load(files / "weights.pt", mmap=True), assign=True)


def by_safetensors(net: nn.Module, files: Path) -> None:
    safetensors.torch.load_model(net, files / "weights.safetensors")


def by_bytes(net: nn.Module, files: Path) -> None:
    net.load_state_dict(safetensors.torch.load((files / "weights.safetensors").read_bytes()))


def by_hand(net: nn.Module, files: Path) -> None:
    with safetensors.safe_open(files / "weights.safetensors", "pt") as file, torch.no_grad():
        for name, tensor in net.state_dict().items():
            tensor.copy_(file.get_tensor(name))


def by_slices(net: nn.Module, files: Path) -> None:
    with safetensors.safe_open(files / "weights.safetensors", "pt") as file:
        for name, p in [*net.named_parameters(), *net.named_buffers()]:
            p.data = file.get_slice(name)[...]


@pytest.mark.parametrize(
    ("load", "device"),
    [(by_state, "cpu"), (by_assigning, "cpu"), (by_assigning, "meta"), (by_safetensors, "cpu"), (by_bytes, "cpu"),
     (by_hand, "cpu"), (by_slices, "cpu")],
)  # fmt: skip
def test_every_way_of_loading(load: Callable[[nn.Module, Path], None], device: str, files: Path) -> None:
    with sb.provenance() as origin:
        with torch.device(device):
            net = model()
        load(net, files)
    report = origin.report(net)
    assert set(kinds(report).values()) == {"loaded"}, str(report)
    assert report.overwritten == report.new == report.never_written == ()
    place = report["head.weight"].writer.place
    assert place is not None
    assert place.file == HERE


def test_a_state_that_was_read_before_the_block_is_loaded_and_another_models_is_copied(files: Path) -> None:
    state = torch.load(files / "weights.pt")
    with sb.provenance() as origin:
        net, assigned, copied, twin = model(), model(), model(), model()
        net.load_state_dict(state)
        assigned.load_state_dict(state, assign=True)
        twin.load_state_dict(copied.state_dict())
        deep = copy.deepcopy(copied)
    assert set(kinds(origin.report(net)).values()) == set(kinds(origin.report(assigned)).values()) == {"loaded"}
    assert set(kinds(origin.report(twin)).values()) == {"copied"}
    row = origin.report(deep)["head.weight"]
    assert (row.kind, row.writer.by, row.writer.source.by) == ("copied", "deepcopy", "kaiming_uniform_")


def test_what_is_new_and_what_was_written_over(files: Path) -> None:
    with sb.provenance() as origin:
        net = model()
        by_state(net, files)
        net.head.reset_parameters()
        net.table.weight.data = torch.randn(10, 4)
        net.norm.weight = nn.Parameter(torch.ones(4))
        net.extra = nn.Linear(3, 2)
        with torch.no_grad():
            net.norm.bias[1:2] = 0
    report = origin.report(net)
    assert {row.tensor for row in report.overwritten} == {
        "head.weight", "head.bias", "table.weight", "norm.weight", "norm.bias",
    }  # fmt: skip
    assert report["norm.bias"].overwritten_share == 0.25
    assert report["norm.bias"].kind == "loaded"
    assert {row.tensor for row in report.new} == {"extra.weight", "extra.bias"}
    loaded = report["head.weight"].overwritten
    assert loaded is not None
    assert (loaded.by, loaded.source.by) == ("load_state_dict", "torch.load")
    assert "written over what had been loaded by load_state_dict" in " ".join(str(report).split())


def test_casting_scaling_and_moving_what_was_loaded_is_no_writing_over(files: Path) -> None:
    with sb.provenance() as origin:
        net = model()
        by_state(net, files)
        net.half().to(memory_format=torch.channels_last).float()
        net.head.weight.data.mul_(2)
        net.head.bias.data = net.head.bias.data + 1
        by_state(net, files)
        net.share_memory()
    report = origin.report(net)
    assert set(kinds(report).values()) == {"loaded"}
    assert report.overwritten == ()


def test_a_grown_table_is_loaded_in_part(files: Path) -> None:
    with sb.provenance() as origin:
        old = model()
        by_state(old, files)
        net = nn.Embedding(16, 4)
        net.weight.data[:10] = old.table.weight.data
    row = origin.report(net)["weight"]
    assert [(w.kind, round(share, 3)) for w, share in row.parts] == [("loaded", 0.625), ("drawn", 0.375)]
    assert row.holds_load
    assert row.overwritten is None


# ---- one memory, many names ------------------------------------------------------------------------------------------


def test_ties_views_and_data_are_one_memory(files: Path) -> None:
    with sb.provenance() as origin:
        net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4)})
        net["b"].weight = net["a"].weight
        net["c"].weight.data = net["a"].weight.data.t()
        nn.init.ones_(net["b"].weight)
    report = origin.report(net)
    assert report["a.weight"] is report["b.weight"]
    assert report["a.weight"].also == ("b.weight",)
    assert report["c.weight"].writer.by == report["a.weight"].writer.by == "ones_"


# ---- what it cannot see ----------------------------------------------------------------------------------------------


def test_writes_that_are_not_seen_make_a_tensor_unknown() -> None:
    with sb.provenance() as origin:
        net, trained = nn.Linear(3, 3), nn.Linear(3, 3)
        net.weight.data.numpy()[:] = 1
    assert kinds(origin.report(net)) == {"weight": "unknown", "bias": "drawn"}
    with torch.no_grad():
        trained.weight.add_(1)
    assert kinds(origin.report(trained)) == {"weight": "unknown", "bias": "drawn"}
    assert "not those last seen" in origin.report(trained)["weight"].because


def test_what_was_there_before_is_unknown() -> None:
    net = nn.Linear(3, 3)
    with sb.provenance() as origin:
        nn.init.zeros_(net.bias)
    assert kinds(origin.report(net)) == {"weight": "unknown", "bias": "constant"}
    with pytest.raises(ModelError, match=r"origin.report\(\) got dict; expected a torch.nn.Module"):
        origin.report({})  # type: ignore[arg-type]


def test_running_statistics_are_followed_though_their_operation_does_not_declare_them() -> None:
    with sb.provenance() as origin:
        norm = nn.BatchNorm1d(4)
        norm(torch.randn(8, 4))
    row = origin.report(norm)["running_mean"]
    assert (row.kind, row.writer.then) == ("constant", ("native_batch_norm",))


def test_other_layouts_are_not_followed_and_do_no_harm() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sparse", torch.eye(3).to_sparse())
            self.register_buffer("empty", torch.zeros(0))
            self.register_buffer("none", None)
            self.plain = nn.Parameter(torch.zeros(2))

    with sb.provenance() as origin:
        net = Odd()
    assert kinds(origin.report(net)) == {"plain": "constant", "sparse": "unknown", "empty": "constant"}
