"""A plan is carried out all or nothing, undone bit for bit, and refuses what it should not do."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import symbreak as sb
from symbreak.errors import RemedyError
from symbreak.remedies import plan as plan_module
from test_borrow import Kept

X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def net(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3))


def tied(width: int = 8) -> nn.Sequential:
    model = net(width)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[2].weight[:, 1] = model[2].weight[:, 0]
    return model


def asleep() -> nn.Sequential:
    model = net()
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


def planned(model: nn.Module, *, unsafe: bool = False, x: Tensor = X) -> sb.Plan:
    return sb.fix(model, sb.check(model, x), unsafe=unsafe)


def bits(model: nn.Module) -> dict[str, bytes]:
    return {n: t.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
            for n, t in model.state_dict().items()}  # fmt: skip


# ---- apply and undo --------------------------------------------------------------------------------------------------


def test_apply_then_undo_then_apply() -> None:
    model = tied()
    plan, before = planned(model), bits(model)
    plan.apply()
    assert plan.applied
    applied = bits(model)
    assert {n for n in before if before[n] != applied[n]} == {"2.weight"}
    plan.undo()
    assert not plan.applied
    assert bits(model) == before
    plan.apply()
    assert bits(model) == applied


def test_twice_is_a_mistake_and_so_is_undoing_nothing() -> None:
    plan = planned(tied())
    with pytest.raises(RemedyError, match="not applied, so there is nothing to undo"):
        plan.undo()
    plan.apply()
    with pytest.raises(RemedyError, match=r"applied already. undo\(\) takes it back"):
        plan.apply()


def test_weights_that_moved_are_not_written_over() -> None:
    model = tied()
    plan = planned(model)
    with torch.no_grad():
        model[0].bias[3] += 1e-6
    moved = bits(model)
    with pytest.raises(
        RemedyError, match=r"'0.bias' of Sequential has changed since the plan was made, so nothing was wr"
    ):
        plan.apply()
    assert bits(model) == moved


def test_undo_refuses_after_training() -> None:
    model = tied()
    plan = planned(model)
    plan.apply()
    with torch.no_grad():
        model[0].weight.mul_(0.9)
    with pytest.raises(RemedyError, match=r"'0.weight' of Sequential has changed since the plan was applied"):
        plan.undo()


@pytest.mark.parametrize("stop", [RuntimeError("disk on fire"), KeyboardInterrupt()])
def test_all_or_nothing(monkeypatch: pytest.MonkeyPatch, stop: BaseException) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    for p in model.parameters():
        nn.init.zeros_(p)
    plan, before = planned(model), bits(model)
    assert len(plan.changes) == 2
    write, calls = plan_module._copy, 0

    def breaks(p: nn.Parameter, value: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise stop
        write(p, value)

    monkeypatch.setattr(plan_module, "_copy", breaks)
    with pytest.raises(type(stop)):
        plan.apply()
    assert calls == 4  # one written, one failed, two put back
    assert bits(model) == before
    assert not plan.applied


def test_undo_keeps_what_a_nan_was_made_of() -> None:
    model = net()
    model[0].weight.data.view(torch.int32)[0, 0] = 0x7FC0BEEF  # a NaN with a payload
    plan, before = planned(model), bits(model)
    plan.apply()
    assert bool(torch.isfinite(model[0].weight).all())
    plan.undo()
    assert bits(model) == before


def test_autograd_hears_of_the_change() -> None:
    model = tied()
    plan = planned(model)
    loss = model(X).square().sum()
    plan.apply()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- which model, which report ---------------------------------------------------------------------------------------


def test_another_model() -> None:
    report = sb.check(tied(), X)
    with pytest.raises(RemedyError, match=r"another model: a Sequential with 4 tensors, not this Sequential with 2;"):
        sb.fix(nn.Sequential(nn.Linear(6, 3)), report)
    with pytest.raises(RemedyError, match=r"another model.*'0.weight' is the first that differs"):
        sb.fix(net(9), report)


def test_a_lazy_model_has_no_report_yet() -> None:
    report = sb.check(tied(), X)
    with pytest.raises(RemedyError, match=r"'0.weight' of Sequential is lazy and has no weights to repair. Run one"):
        sb.fix(nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.Linear(4, 3)), report)


def test_weights_changed_since_the_report() -> None:
    model = tied()
    report = sb.check(model, X)
    with torch.no_grad():
        model[2].bias += 1
    with pytest.raises(RemedyError, match=r"'2.bias' of Sequential has changed since the report.*new report"):
        sb.fix(model, report)


def test_a_copy_with_the_same_weights_will_do() -> None:
    model = tied()
    report = sb.check(model, X)
    assert [c.tensor for c in sb.fix(copy.deepcopy(model), report).changes] == ["2.weight"]


def test_a_model_without_values() -> None:
    report = sb.check(tied(), X)
    with pytest.raises(RemedyError, match=r"'0.weight' of Sequential is on the meta device"):
        sb.fix(tied().to("meta"), report)


def test_progress() -> None:
    told: list[tuple[int, int | None, str]] = []
    model = tied()
    sb.fix(model, sb.check(model, X), progress=lambda *what: told.append(what))
    assert told == [(1, None, "trying repairs")]


@pytest.mark.parametrize("again", [lambda r: pickle.loads(pickle.dumps(r)), copy.deepcopy, copy.copy])
def test_a_report_that_travelled_does_not_know_the_question(again: Callable[[sb.Report], sb.Report]) -> None:
    model = tied()
    report = again(sb.check(model, (X, Y), lambda out, y: nn.functional.cross_entropy(out, y)))
    assert report.verdict == "redundant"
    with pytest.raises(RemedyError, match=r"does not know what check was given \(it was copied or unpickled\)"):
        sb.fix(model, report)


@pytest.mark.parametrize(("thing", "match"), [(None, "fix.. got NoneType as report"), ("r.json", "fix.. got str as")])
def test_not_a_report(thing: object, match: str) -> None:
    with pytest.raises(RemedyError, match=match):
        sb.fix(net(), thing)  # type: ignore[arg-type]


def test_not_a_module() -> None:
    with pytest.raises(RemedyError, match=r"fix\(\) got OrderedDict; expected the torch.nn.Module"):
        sb.fix(net().state_dict(), sb.check(net(), X))  # type: ignore[arg-type]


def test_the_json_of_a_report_knows_nothing_of_the_question() -> None:
    assert "asked" not in sb.check(tied(), X).to_json()


def test_data_parallel_is_seen_through() -> None:
    model = nn.DataParallel(tied())
    plan = sb.fix(model, sb.check(model, X))
    assert [c.tensor for c in plan.changes] == ["2.weight"]
    plan.apply()
    assert sb.check(model, X).verdict == "healthy"


# ---- what is left alone ----------------------------------------------------------------------------------------------


def test_frozen_tensors_stay() -> None:
    model = tied()
    model[2].weight.requires_grad_(False)
    plan = planned(model)
    assert plan.refusals["2.weight"] == "is frozen"
    assert "2.weight" not in {c.tensor for c in plan.changes}
    assert plan.after.verdict == "healthy"
    assert [c.actions for c in plan.changes] == [("jitter",)]


def test_everything_that_could_help_is_frozen() -> None:
    model = asleep()
    model[0].requires_grad_(False)
    plan = planned(model)
    assert plan.changes == ()
    (left,) = [u for u in plan.left if u.finding.code == "SB101"]
    assert "is frozen" in left.reason
    assert "not healed: SB101" in str(plan)


def test_benign_zeros_stay() -> None:
    model = tied()
    with torch.no_grad():
        model[2].weight.zero_()  # a zero head in front of copies: only the copies are parted
    plan = planned(model)
    assert {c.tensor for c in plan.changes} <= {"0.weight", "0.bias"}
    assert plan.function_change == 0.0


def test_tied_weights_are_one_tensor() -> None:
    class Auto(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.decoder.weight = self.encoder.weight
            nn.init.constant_(self.encoder.weight, 0.3)

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.encoder(x).tanh())

    model = Auto()
    plan = planned(model)
    plan.apply()
    assert model.decoder.weight is model.encoder.weight
    saved = plan.state_dict()
    assert torch.equal(saved["decoder.weight"], saved["encoder.weight"])
    assert saved["decoder.weight"].data_ptr() != saved["encoder.weight"].data_ptr()


def test_parameters_over_one_memory_change_together() -> None:
    model = asleep()
    model.register_parameter("alias", nn.Parameter(model[0].weight.detach()))
    model[0].weight.data = model.alias.data
    report = sb.check(model, X)
    plan = sb.fix(model, report)
    plan.apply()
    assert torch.equal(model.alias, model[0].weight)
    assert sb.check(model, X).verdict == plan.after.verdict


def test_a_part_of_anothers_memory_is_left_alone() -> None:
    flat = torch.zeros(48 + 24)
    model = asleep()
    model[0].weight = nn.Parameter(flat[:48].view(8, 6))
    model.flat = nn.Parameter(flat, requires_grad=False)
    plan = planned(model)
    assert plan.refusals["0.weight"] == "shares a part of its memory with flat"
    assert "0.weight" not in {c.tensor for c in plan.changes}


def test_read_only_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.zeros((8, 6), dtype=np.float32))
    model = asleep()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of memory that cannot be written, which is the point here
        model[0].weight = nn.Parameter(torch.from_numpy(np.load(tmp_path / "w.npy", mmap_mode="r")))
    plan, before = planned(model), bits(model)
    assert [c.tensor for c in plan.changes] == ["0.weight"]
    with pytest.raises(RemedyError, match=r"'0.weight' lies in read-only memory.*p.data = p.data.clone\(\)"):
        plan.apply()
    assert bits(model) == before
    assert bool(plan.state_dict()["0.weight"].any())  # and can be written to a file all the same


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = tied(16).to(dtype)
    plan = sb.fix(model, sb.check(model, X.to(dtype)))
    assert [(c.tensor, c.actions, c.value.dtype) for c in plan.changes] == [("2.weight", ("redistribute",), dtype)]
    assert plan.function_change is not None
    assert plan.function_change < {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-12}[dtype]


def test_inference_tensors() -> None:
    with torch.inference_mode():
        model = tied()
    plan = sb.fix(model, sb.check(model, X))
    plan.apply()
    assert plan.applied


def test_buffers_and_modes_stay() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    nn.init.constant_(model[1].bias, -50.0)
    report = sb.check(model, X)
    with Kept(model, X):
        plan = sb.fix(model, report)
    plan.apply()
    assert [c.tensor for c in plan.changes] == ["1.bias"]
    assert not model.training
    assert float(model[1].running_mean.abs().sum()) == 0


def test_selected_rules_alone_are_healed() -> None:
    model = tied()
    with torch.no_grad():
        model[0].bias += 20.0  # saturated as well
    report = sb.check(model, X, select=["SB001"])
    plan = sb.fix(model, report)
    assert {c.actions for c in plan.changes} == {("redistribute",)}
    assert {f.code for f in plan.before.findings} == {"SB001"}
    assert {f.code for f in plan.after.findings} <= {"SB007"}


def test_healthy_needs_nothing() -> None:
    plan = planned(net())
    assert (plan.changes, plan.left, plan.healed, plan.function_change) == ((), (), (), 0.0)
    assert "nothing to change" in str(plan)


def test_what_weights_cannot_heal_is_said() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).round())

    plan = planned(Cut())
    assert plan.changes == ()
    (left,) = [u for u in plan.left if u.finding.code == "SB101"]
    assert left.reason.startswith("no change of the weights that was tried heals it")


# ---- text and files --------------------------------------------------------------------------------------------------


def test_text() -> None:
    model = tied()
    plan = planned(model)
    text = plan.to_text(width=88, diff=True)
    assert text.splitlines()[:4] == [
        "Sequential: redundant -> healthy",
        "  before             after",
        "  SB001 tied-units   -",
        "",
    ]
    assert "2.weight  [3x8]  redistribute" in text
    assert "6 of 24 values change" in text
    assert "\n1 of 4 tensors changes, " in text
    assert text.endswith("not applied: plan.apply(), plan.undo().")
    old, new = (line for line in text.splitlines() if line.startswith(("  - ", "  + ")))
    plan.apply()
    assert {old, new} <= set(plan.to_text(width=88, diff=True).splitlines())
    assert repr(plan) == "<Plan for Sequential: 1 tensor, redundant -> healthy, applied>"


def test_many_alike_are_told_once() -> None:
    model = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(6, 6), nn.ReLU())), nn.Linear(6, 3))
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(500.0)
    plan = planned(model)
    names = [c.tensor for c in plan.changes if c.actions == ("rescale",)]
    assert len(names) >= 5
    text = plan.to_text(width=88)
    factors = sorted(float(why.split()[2]) for c in plan.changes if c.actions == ("rescale",) for why in c.why)
    assert f"[6x6 and 3x6]  rescale\n  scaled by {factors[0]:.3g} to {factors[-1]:.3g} to the size" in text
    assert plan.to_text(width=88, diff=True).count("\n  + ") == len(plan.changes)


def test_save(tmp_path: Path) -> None:
    model = tied()
    plan = planned(model)
    plan.save(tmp_path / "w.safetensors")
    fresh = net()
    fresh.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert sb.check(fresh, X).verdict == "healthy"
    written = (tmp_path / "w.safetensors").read_bytes()
    with pytest.raises(RemedyError, match="never writes over one"):
        plan.save(tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == written
    with pytest.raises(RemedyError, match=r"nowhere.*cannot be written: No such file or directory"):
        plan.save(tmp_path / "nowhere" / "w.safetensors")


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tied())
    monkeypatch.setattr(plan, "state_dict", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plan.save(tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()
