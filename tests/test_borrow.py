"""A check leaves the model and the world as it found them, bit for bit, also when something raises."""

from __future__ import annotations

import gc
import itertools
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symbreak
from probe_models import CASES, Case, conv, labelled, mlp, rows
from symbreak.errors import BatchError, ForwardError
from symbreak.probe.borrow import borrow

# ---- the fingerprint -------------------------------------------------------------------------------------------------


def bits(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    if tensor.layout != torch.strided:
        return id(tensor), str(tensor.detach().coalesce())
    plain = tensor.detach().resolve_conj().cpu().clone(memory_format=torch.contiguous_format).reshape(-1)
    place = (tensor.data_ptr(), tuple(tensor.stride()), tensor.storage_offset())
    return id(tensor), str(tensor.dtype), tuple(tensor.shape), *place, plain.view(torch.uint8).numpy().tobytes()


def contents(thing: Any, seen: set[int]) -> Any:
    """Identity of everything, and the values of what can be changed in place."""
    if isinstance(thing, Tensor):
        return bits(thing)
    if isinstance(thing, np.ndarray):
        return id(thing), thing.tobytes()
    if isinstance(thing, torch.Generator):
        return thing.get_state().numpy().tobytes()
    if isinstance(thing, np.random.Generator):
        return repr(thing.bit_generator.state)
    if isinstance(thing, np.random.RandomState):
        return repr(thing.get_state())
    if isinstance(thing, random.Random):
        return hash(thing.getstate())
    if id(thing) in seen or isinstance(thing, type):
        return id(thing)
    seen.add(id(thing))
    if isinstance(thing, dict):
        return id(thing), [(repr(k), contents(v, seen)) for k, v in thing.items()]
    if isinstance(thing, list | tuple | set):
        return id(thing), [contents(v, seen) for v in thing]
    if isinstance(thing, int | float | str | bool | None):
        return thing
    return id(thing), contents(getattr(thing, "__dict__", None), seen)


def fingerprint(model: nn.Module) -> dict[str, Any]:
    seen: set[int] = set()
    print_ = {}
    for name, module in model.named_modules(remove_duplicate=False):
        print_[f"{name} training"] = module.training
        print_[f"{name} buffers"] = [(k, bits(b)) for k, b in module.named_buffers(recurse=False)]
        if isinstance(module, torch.jit.ScriptModule):
            print_[f"{name} calls"] = module._c.getattr("calls") if module._c.hasattr("calls") else None
        else:
            print_[f"{name} dict"] = contents(vars(module), seen)
    for name, p in model.named_parameters(remove_duplicate=False):
        hooks = [list((h or {}).items()) for h in (p._backward_hooks, p._post_accumulate_grad_hooks)]
        print_[f"{name} data"] = (bits(p), p.requires_grad, p.is_leaf, p._version, list(vars(p)))
        print_[f"{name} grad"] = (bits(p.grad), hooks)
    print_["state_dict"] = list(model.state_dict())
    return print_


def world() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),
        "python": hash(random.getstate()),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic),
        "threads": torch.get_num_threads(),
        "warnings": list(warnings.filters),
    }


def difference(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


class Kept:
    """Asserts at the end that nothing of the model, the batch or the world has changed."""

    def __init__(self, model: nn.Module, *more: Any) -> None:
        self.model, self.more = model, more

    def now(self) -> tuple[dict[str, Any], dict[str, Any], Any]:
        return fingerprint(self.model), world(), contents(list(self.more), set())[1]

    def __enter__(self) -> None:
        self.before = self.now()

    def __exit__(self, *error: object) -> None:
        after = self.now()
        assert difference(self.before[0], after[0]) == []
        assert difference(self.before[1], after[1]) == []
        assert self.before[2] == after[2]


def built(case: Case) -> nn.Module:
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old torch interfaces say that they are old
        return case.build()


# ---- nothing goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_model_and_world_are_untouched(case: Case) -> None:
    model, batch = built(case), case.batch()
    with Kept(model, batch, case.loss):
        symbreak.check(model, batch, case.loss, objective=case.objective)


def test_the_fingerprint_can_fail() -> None:
    def changes(model: nn.Sequential) -> Iterator[Callable[[], Any]]:
        weight, norm = model[0].weight, model[1]
        yield lambda: weight.data[0, 0].add_(1)
        yield lambda: setattr(weight, "data", weight.data.clone())
        yield lambda: setattr(weight, "grad", torch.zeros_like(weight))
        yield lambda: weight.requires_grad_(False)
        yield lambda: setattr(model[0], "weight", nn.Parameter(weight.data))
        yield lambda: norm.running_mean.add_(1)
        yield lambda: norm.eval()
        yield lambda: model.register_forward_hook(print)
        yield lambda: weight.register_hook(print)
        yield lambda: setattr(model, "extra", 1)

    model = conv()
    assert fingerprint(model) == fingerprint(model)
    for index in range(10):
        model = conv()
        before = fingerprint(model)
        list(changes(model))[index]()
        assert difference(before, fingerprint(model)), index


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_under_the_users_modes(mode: Callable[[], Any]) -> None:
    model, batch = conv(), torch.randn(4, 3, 8, 8)
    with mode(), Kept(model, batch):
        assert symbreak.check(model, batch).dtype == "float64"


def test_default_dtype_and_deterministic_flags() -> None:
    model = mlp()
    torch.set_default_dtype(torch.bfloat16)
    torch.use_deterministic_algorithms(True)
    try:
        with Kept(model):
            symbreak.check(model, rows()().float())
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)


def test_default_device() -> None:
    """A user's default device must not reach the probe's own random numbers."""
    model, batch = mlp(), labelled()
    torch.set_default_device("meta")
    try:
        with Kept(model):
            assert symbreak.check(model, batch, F.cross_entropy).verdict == "healthy"
            assert symbreak.check(model).verdict == "healthy"
    finally:
        torch.set_default_device(None)


def test_the_users_code_sees_the_users_default_device() -> None:
    model, seen = mlp(), set()

    def objective(model: nn.Module, batch: Any) -> Tensor:
        seen.add(torch.empty(0).device.type)
        return F.cross_entropy(model(batch[0]), batch[1])

    torch.set_default_device("meta")
    try:
        symbreak.check(model, (torch.ones(4, 6, device="cpu"), torch.arange(4, device="cpu") % 3), objective=objective)
    finally:
        torch.set_default_device(None)
    assert seen == {"meta"}


def test_a_module_that_only_the_objective_knows_is_untouched() -> None:
    teacher, student, x = mlp(), mlp(), rows()()
    with Kept(teacher), Kept(student):
        report = symbreak.check(student, objective=lambda m, b: (m(x) - teacher(x)).square().mean())
    assert report.dtype == "float64"


def test_numpy_noise_in_forward_is_repeated() -> None:
    """A shift is judged by whether the output moves: noise that is not repeated would move it."""
    shadowed = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    shadowed.register_forward_hook(lambda m, args, out: out * (1 + 0.1 * np.random.rand() + 0.1 * random.random()))
    assert symbreak.check(shadowed, rows()()).verdict == "healthy"


def test_the_users_generators_give_the_same_numbers_after() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(), nn.Linear(4, 2))
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(3).tolist(), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    symbreak.check(model)
    assert (torch.rand(3).tolist(), np.random.rand(), random.random()) == expected


def test_hooks_run_on_gradients_but_optimizers_in_hooks_do_not() -> None:
    model, log = mlp(), []
    model[0].weight.register_hook(lambda g: log.append("gradient"))
    model[0].weight.register_post_accumulate_grad_hook(lambda p: fired.append(p))
    fired: list[Any] = []
    seen: list[str] = []
    model.register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyError) if log else seen.append("forward"))
    with Kept(model), pytest.raises(symbreak.SymbreakError, match="KeyError"):
        symbreak.check(model, rows()())
    assert (log, fired, seen) == ([], [], [])  # the hook saw its own log, and the log is given back empty


def test_a_masking_hook_is_part_of_the_model() -> None:
    model = mlp()
    model[0].weight.register_hook(lambda g: g * 0)
    assert symbreak.check(model, rows()()).wakeup["0.weight"] is None


def test_gradient_accumulators_survive() -> None:
    """DistributedDataParallel hooks the accumulators; a new one would train each rank alone."""
    model, fired = mlp(), []
    node = model[0].weight.expand_as(model[0].weight).grad_fn.next_functions[0][0]
    node.register_hook(lambda *_: fired.append(1))
    symbreak.check(model, rows()())
    assert not fired
    model(rows()()).sum().backward()
    assert fired == [1]


def test_a_pending_graph_still_runs_backward() -> None:
    model = mlp()
    loss = model(rows()()).square().sum()
    expected = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    symbreak.check(model, rows()())
    loss.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))


def test_training_after_a_check_is_the_same_as_without() -> None:
    def train(checked: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = conv()
        model.insert(3, nn.Dropout(0.1))
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            if checked:
                symbreak.check(model, torch.ones(4, 3, 8, 8) + torch.arange(4).reshape(4, 1, 1, 1))
            optimizer.zero_grad()
            model(torch.randn(4, 3, 8, 8)).square().mean().backward()
            optimizer.step()
        return [t.clone() for t in model.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(train(True), train(False), strict=True))


# ---- something goes wrong --------------------------------------------------------------------------------------------


class Trap(nn.Module):
    """Raises, or makes a NaN, from its k-th call on, forward or backward."""

    def __init__(self, k: int, action: Callable[[Tensor], Tensor], *, backward: bool = False) -> None:
        super().__init__()
        self.k, self.action, self.backward = k, action, backward
        self.left = itertools.repeat(0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.backward:
            return self.spring(x)
        if x.requires_grad:
            x.register_hook(self.spring)
        return x

    def spring(self, x: Tensor) -> Tensor:
        return self.action(x) if next(self.left) >= self.k else x


def stop(error: type[BaseException]) -> Callable[[Tensor], Tensor]:
    def action(x: Tensor) -> Tensor:
        raise error("sprung")

    return action


def trapped(trap: Trap) -> nn.Module:
    model = conv()
    model.insert(3, trap)
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    model.cache = [torch.ones(2)]
    trap.left = itertools.count(1)
    return model


CALLS = [1, 2, 3, 4, 5]


@pytest.mark.parametrize("k", CALLS)
@pytest.mark.parametrize("backward", [False, True])
def test_forward_and_backward_that_raise(k: int, backward: bool) -> None:
    model, batch = trapped(Trap(k, stop(ZeroDivisionError), backward=backward)), torch.randn(4, 3, 8, 8)
    with Kept(model, batch), pytest.raises(symbreak.SymbreakError, match=r"ZeroDivisionError.*sprung") as caught:
        symbreak.check(model, batch)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("k", CALLS)
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass_through(k: int, backward: bool, error: type[BaseException]) -> None:
    model, batch = trapped(Trap(k, stop(error), backward=backward)), torch.randn(4, 3, 8, 8)
    with Kept(model, batch), pytest.raises(error):
        symbreak.check(model, batch)


@pytest.mark.parametrize("k", CALLS)
@pytest.mark.parametrize("backward", [False, True])
def test_nan_at_the_kth_call(k: int, backward: bool) -> None:
    model, batch = trapped(Trap(k, lambda x: x * torch.nan, backward=backward)), torch.randn(4, 3, 8, 8)
    with Kept(model, batch):
        symbreak.check(model, batch)


def asleep() -> nn.Module:
    """Needs more than five passes."""
    model = mlp()
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


@pytest.mark.parametrize("k", CALLS)
def test_a_loss_that_raises(k: int) -> None:
    left = itertools.count(1)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if next(left) >= k:
            raise ValueError("no such class")
        return F.cross_entropy(output, target)

    model, batch = asleep(), labelled()
    with Kept(model, batch), pytest.raises(ForwardError, match=r"loss or objective.*no such class"):
        symbreak.check(model, batch, loss)


@pytest.mark.parametrize("k", CALLS)
def test_a_draw_that_raises(k: int) -> None:
    class Draws:
        left = itertools.count(1)

        def draw(self, step: int) -> Any:
            if next(self.left) >= k:
                raise OSError("disk is gone")
            return labelled()

    model = asleep()
    with Kept(model), pytest.raises(BatchError, match=r"draw\(\d+\) of the batch raised OSError: disk is gone"):
        symbreak.check(model, Draws(), F.cross_entropy)


def test_memory_that_runs_out_while_lending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the model is lent when a copy fails."""
    from symbreak.probe import borrow as room

    plain, model, calls = room.cast, conv(), []

    def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        calls.append(1)
        if len(calls) > 4:
            raise MemoryError
        return plain(tensor, dtype)

    monkeypatch.setattr(room, "cast", cast)
    with Kept(model), pytest.raises(MemoryError), borrow(model, (), torch.float64):
        pass
    assert len(calls) > 4


# ---- scratch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scratch_gives_working_values_back(dtype: torch.dtype) -> None:
    model = conv()
    with Kept(model), borrow(model, (), torch.float64) as held:
        model[0].weight.data.add_(1)
        before = fingerprint(model)
        with held.at(dtype):
            assert {p.dtype for p in model.parameters()} == {dtype} == {held.dtype, torch.get_default_dtype()}
            model(torch.randn(4, 3, 8, 8)).sum().backward()
            for p in model.parameters():
                p.data.zero_()
        ignored = {key for key in before if key.endswith((" data", " grad"))}
        after = fingerprint(model)
        assert {key: after[key] for key in after.keys() - ignored} == {k: before[k] for k in before.keys() - ignored}
        assert all(before[key][0] == after[key][0] for key in ignored)


def test_seed_reaches_every_generator() -> None:
    case = next(case for case in CASES if case.name == "own generators")
    model = built(case)
    with Kept(model), borrow(model, (), torch.float64) as held:

        def draw() -> Any:
            held.seed(5)
            return model(rows()().double()).tolist(), torch.rand(2).tolist(), np.random.rand(), random.random()

        assert draw() == draw()


def test_two_names_over_one_memory_stay_one() -> None:
    model = nn.Module()
    model.a = nn.Parameter(torch.randn(3))
    model.b = nn.Parameter(model.a.data)
    model.register_buffer("c", model.a.data)
    with Kept(model), borrow(model, (), torch.float64):
        model.a.data.add_(1)
        assert torch.equal(model.a, model.b)
        assert torch.equal(model.a, model.c)


def test_a_script_climbs_as_its_module_does() -> None:
    """The probe's steps must reach the parameters that C++ runs with."""
    model = mlp()
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    nn.init.zeros_(model[2].weight)
    model[2].weight.data[0] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(model)
    assert symbreak.check(script, rows()()).wakeup == symbreak.check(model, rows()()).wakeup


def test_a_check_leaves_nothing_alive() -> None:
    """A graph holds its hooks, and the collector does not see through it: a hook must not hold the graph."""
    net, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(8, 6)

    def alive() -> int:
        symbreak.check(net, x)
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    alive()  # fills the caches
    assert alive() == alive()


def test_everything_is_put_back_although_one_step_of_it_raises() -> None:
    from symbreak.probe.borrow import _undo_all

    done: list[int] = []

    def fails() -> None:
        raise RuntimeError("cannot be put back")

    with pytest.raises(RuntimeError, match="cannot be put back"):
        _undo_all([lambda: done.append(0), fails, lambda: done.append(2)])
    assert done == [2, 0]
