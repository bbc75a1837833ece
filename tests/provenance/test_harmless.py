"""The block changes nothing: values, random numbers, exceptions, threads; it holds no tensor, and no address lies."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules import module as torch_module

import symbreak as sb


def built() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.TransformerEncoderLayer(8, 2, batch_first=True))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(2, 3, 4)).sum().backward()
    optimizer.step()
    return net.eval()


def test_values_and_random_numbers_are_those_of_the_plain_program() -> None:
    x = torch.randn(2, 3, 4)
    plain = built()
    after, outputs = torch.get_rng_state(), plain(x)
    with sb.provenance():
        watched = built()
        state, seen = torch.get_rng_state(), watched(x)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert torch.equal(after, state)
    assert torch.equal(outputs, seen)
    assert [p._version for p in plain.parameters()] == [p._version for p in watched.parameters()]


def test_exceptions_pass_and_everything_is_taken_down() -> None:
    hooks = len(torch_module._global_parameter_registration_hooks)
    profile = threading.getprofile()
    with pytest.raises(RuntimeError, match="size mismatch"), sb.provenance() as origin:
        nn.Linear(3, 3).load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(3)})
    assert not origin.open
    assert len(torch_module._global_parameter_registration_hooks) == hooks
    assert threading.getprofile() is profile
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), sb.provenance():
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_blocks_inside_blocks_each_see_what_is_theirs() -> None:
    with sb.provenance() as outer:
        first = nn.Linear(2, 2)
        with sb.provenance() as inner:
            second = nn.Linear(2, 2)
        third = nn.Linear(2, 2)
        assert outer.report(third)["weight"].kind == "drawn"
    assert [outer.report(n)["weight"].kind for n in (first, second, third)] == ["drawn", "drawn", "drawn"]
    assert [inner.report(n)["weight"].kind for n in (first, second)] == ["unknown", "drawn"]


def test_threads_that_start_inside_are_followed_and_those_from_before_are_found_out() -> None:
    net = nn.ModuleDict({"inside": nn.Linear(3, 3), "before": nn.Linear(3, 3)})
    with ThreadPoolExecutor(1) as old:
        old.submit(int).result()
        with sb.provenance() as origin:
            net = nn.ModuleDict({"inside": nn.Linear(3, 3), "before": nn.Linear(3, 3)})
            with ThreadPoolExecutor(1) as new:
                new.submit(nn.init.zeros_, net["inside"].weight).result()
            old.submit(nn.init.zeros_, net["before"].weight).result()
    report = origin.report(net)
    assert (report["inside.weight"].kind, report["inside.weight"].writer.by) == ("constant", "zeros_")
    assert report["before.weight"].kind == "unknown"


LIVE_ON = """
import gc, threading, torch
import symbreak as sb
go, up = threading.Event(), [threading.Event(), threading.Event()]
def work(i):
    torch.zeros(3)
    up[i].set()
    go.wait()
    torch.zeros(3)
threads = [threading.Thread(target=work, args=(i,), daemon={daemon}) for i in range(2)]
with sb.provenance() as origin:
    with sb.provenance():
        for thread in threads: thread.start()
        for event in up: event.wait()
del origin
gc.collect()
torch.ones(2)
if not {daemon}:
    go.set()
    for thread in threads: thread.join()
print("done")
"""


@pytest.mark.parametrize("daemon", [True, False])
def test_threads_that_outlive_the_block_end_in_peace(daemon: bool) -> None:
    code = LIVE_ON.replace("{daemon}", str(daemon))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_profiler_of_threads_goes_on() -> None:
    seen: list[str] = []

    def profile(frame: object, event: str, arg: object) -> None:
        seen.append(event)

    threading.setprofile(profile)
    try:
        with sb.provenance() as origin:
            made: list[nn.Module] = []
            thread = threading.Thread(target=lambda: made.append(nn.Linear(2, 2)))
            thread.start()
            thread.join()
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]
    assert len(seen) > 2
    assert sys.getprofile() is None
    assert origin.report(made[0])["weight"].kind == "drawn"


def test_no_tensor_is_kept_and_an_address_that_is_used_again_does_not_lie() -> None:
    with sb.provenance() as origin:
        net = nn.Linear(64, 64)
        gone = weakref.ref(net.weight)
        pointer = weakref.ref(net)
        del net
        gc.collect()
        assert gone() is None
        assert pointer() is None
        for _ in range(3000):
            torch.randn(8)
        assert len(origin._storages) < 3000
        bare = [nn.Parameter(torch.empty(8)) for _ in range(50)]
    assert {origin.report(nn.ParameterList([p]))["0"].kind for p in bare} == {"never-written"}


class Logged(Tensor):
    """A subclass whose operations come apart on their own."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        with torch._C._DisableTorchDispatch():
            return func(*args, **(kwargs or {}))


def test_subclasses_transforms_and_other_modes_run_as_they_do() -> None:
    with sb.provenance() as origin:
        odd = torch.ones(3).as_subclass(Logged)
        assert float((odd + 1).sum()) == 6.0
        x = torch.arange(6.0).reshape(3, 2)
        assert torch.equal(torch.vmap(lambda row: row.sum())(x), x.sum(1))
        assert torch.equal(torch.func.grad(lambda row: (row**2).sum())(x), 2 * x)
        with FakeTensorMode():
            fake = nn.Linear(2, 2)
            assert fake(torch.ones(3, 2)).shape == (3, 2)
        exported = torch.export.export(nn.Linear(2, 2), (torch.ones(3, 2),))
        assert exported.module()(torch.ones(3, 2)).shape == (3, 2)
        with torch.inference_mode():
            frozen = nn.Linear(2, 2)
    assert origin.report(frozen)["weight"].kind == "drawn"
    assert "not followed" in origin.report(fake)["weight"].because
