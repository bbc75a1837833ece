"""One probe builds one Trace: borrow, climb, investigate, measure, give back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from symbreak.errors import ModelError
from symbreak.records import Never, SliceClasses, Status, TensorTrace, Trace, TwinModules, WrongFan

from . import signal
from .borrow import Borrowed, borrow, weights
from .copies import CopyLog, Slices, Twins, widths
from .fans import wrong_fans
from .graph import Blocked, Graph
from .linearity import departure
from .near import partings
from .observe import Site, layer_name
from .passes import Pass, Runner, UsersCodeError
from .project import slice_tops
from .sleepers import Sleepers, investigate, scale_gain, scale_moves
from .task import Task, explain_forward_error
from .updates import Update
from .wakeup import Ladder, climb, rms
from .zeros import Proof, prove, still_zero

Progress = Callable[[int, int | None, str], None]
ADAPTIVE = frozenset(
    {"adam", "adamw", "nadam", "radam", "adamax", "rmsprop", "adagrad", "adadelta", "lion", "rprop", "adafactor"}
)
Start = Literal["zero", "constant", "varied"]


def look(
    model: nn.Module,
    batch: Any = None,
    loss: Callable[..., Tensor] | None = None,
    objective: Callable[..., Tensor] | None = None,
    *,
    optimizer: tuple[str, float] = ("sgd", 1e-2),
    settings: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
    progress: Progress | None = None,
) -> Trace:
    """Probe `model` at step 0, in float64 where it allows that, else in float32, and give it back bit for bit.

    Args:
        optimizer: its name and learning rate; the ladder does not depend on them, the update ratio does.
        settings: its other options, as in torch's `param_groups`; what is absent is torch's default.
        progress: called as progress(passes done, total or None, what is being done).

    Raises:
        SymbreakError: a mistake of the caller, or the caller's forward raised.
    """
    model = unwrap(model)
    _refuse(model)
    broken = _nonfinite_parameters(model)
    if broken:
        return _unlooked(model, broken, optimizer, seed)
    failure: Exception | None = None
    for dtype in precisions(model):
        try:
            return _look(model, batch, loss, objective, dtype, optimizer, settings, seed, progress)
        except UsersCodeError as error:  # in float32 it may run
            failure = error.cause
    assert failure is not None
    raise explain_forward_error(failure, model) from failure


def _look(
    model: nn.Module,
    batch: Any,
    loss: Callable[..., Tensor] | None,
    objective: Callable[..., Tensor] | None,
    dtype: torch.dtype,
    optimizer: tuple[str, float],
    settings: Mapping[str, Any],
    seed: int,
    progress: Progress | None,
) -> Trace:
    extra = [f for f in (loss, objective) if f is not None]
    with borrow(model, extra, dtype) as held:
        runner = Runner(held, Task(model, batch, loss, objective, seed=seed), seed, progress)
        log, starts = CopyLog(dtype), {n: _start(p.data) for n, p in held.params.items()}
        with held.scratch():
            ladder = climb(runner, copies=log)
            log.keep(held, frozenset(n for n, s in starts.items() if s == "varied"))
            still = still_zero(runner, ladder)
        first = ladder.first
        assert first is not None
        found = Sleepers()
        if not ladder.nonfinite:
            found = investigate(
                runner,
                ladder,
                lookups=_with_role(first, "lookup"),
                tied=lambda: log.tied_names(model),
                touched=frozenset(first.seen.roles),
            )
        zero = frozenset(n for n, s in starts.items() if s == "zero")
        graph = Graph(first.roots, held.params, zero, signal.flat_nodes(first.seen), signal.off_nodes(first.seen))
        tensors = _tensors(held, ladder, found, first, starts, graph)
        proof = prove(runner, still) if any(map(_never, tensors)) and not ladder.nonfinite else None
        tensors = tuple(_proved(t, proof) for t in tensors) if proof is not None else tensors
        outputs = _output_parameters(first, graph)
        from_linear = None if ladder.nonfinite else departure(runner, first.seen)
        labelled = (
            outputs if first.draw.target is not None else frozenset[str]()
        )  # inside an objective a proof must say
        found_slices = log.slices(free_biases=_absorbed(tensors), outputs=labelled) if not ladder.nonfinite else ()
        ends = {(site.weight, site.out_axis) for site in first.seen.sites.values() if site.weight in outputs - labelled}
        slices = tuple(s for s in found_slices if (s.parameter, s.axis) not in ends)
        classes = tuple(
            _classes(s, held, first.seen.sites) for s in slices if s.tied or s.near or s.separated or s.multiples
        )
        unsure = [s for s in found_slices if s.tied and (s.parameter, s.axis) in ends]
        if first.loss is not None:
            classes = _followed(runner, classes, Update.of(*optimizer, settings))
        return Trace(
            model=type(model).__name__,
            precision=str(dtype).removeprefix("torch."),
            steps=ladder.steps,
            climbs=found.climbs,
            seed=seed,
            passes=round(runner.passes, 1),
            optimizer=optimizer[0],
            learning_rate=optimizer[1],
            loss=first.loss,
            batch=_describe(first, runner.task),
            tensors=tensors,
            layers=signal.layers(first, held.params, optimizer[1], optimizer[0] in ADAPTIVE),
            activations=signal.activations(first.seen, graph),
            slices=classes,
            outputs=tuple(dataclasses.replace(_classes(s, held, first.seen.sites), output=True) for s in unsure),
            twins=() if ladder.nonfinite else tuple(_twin(model, t) for t in log.twins(model)),
            equal_tensors=signal.equal_tensors(held.params),
            wrong_fans=_wrong_fans(runner, first) if not ladder.nonfinite else (),
            never=Never(proof.zeros, proof.rounds, proof.reads) if proof is not None else None,
            width=widths(slices, first.seen.sites, outputs),
            inputs=signal.inputs(first, runner.task.inferred),
            target=signal.target(first, loss),
            departure=from_linear,
            adaptive=optimizer[0] in ADAPTIVE,
            breakers=tuple(first.seen.breakers.values()),
            nonfinite=_where_nonfinite(first, ladder),
        )


# ---- before the probe ------------------------------------------------------------------------------------------


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module behind torch.compile, DataParallel and DistributedDataParallel."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrap(model.module)
    inner = getattr(model, "_orig_mod", None)
    return unwrap(inner) if isinstance(inner, nn.Module) else model


def _refuse(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"check() got {type(model).__name__}; expected a torch.nn.Module. "
            "Pass the model itself, not its class, its state_dict or its output."
        )
    parameters = list(model.named_parameters())
    name = type(model).__name__
    for key, p in parameters:
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ModelError(
                f"{key!r} of {name} is lazy and has no weights yet. Run one batch through the model first."
            )
        if p.is_meta:
            raise ModelError(f"{key!r} of {name} is on the meta device and has no values. Materialise it first.")
        if p.layout != torch.strided:
            raise ModelError(
                f"{key!r} of {name} is a sparse tensor ({str(p.layout).removeprefix('torch.')}), which check() cannot "
                "read. Check a model whose weights are dense (to_dense())."
            )
    if not parameters:
        raise ModelError(
            f"{name} has no parameters, so there is no start to check. (Quantised modules keep theirs packed, and do "
            "not train: check the model before quantising.)"
        )
    if not any(p.requires_grad for _, p in parameters):
        raise ModelError(
            f"all {len(parameters)} parameters of {name} are frozen (requires_grad=False), or quantised: nothing would "
            "train. Unfreeze what you train, or check the model before freezing."
        )


def _nonfinite_parameters(model: nn.Module) -> dict[str, int]:
    floats = [(n, p.detach()) for n, p in weights(model).items()]
    return {n: int((~torch.isfinite(_normed(p))).sum()) for n, p in floats if p.numel() and not math.isfinite(_top(p))}


def _top(p: Tensor) -> float:
    return float(torch.linalg.vector_norm(_normed(p), float("inf")))


def _normed(p: Tensor) -> Tensor:
    """In a precision in which torch can take its norm: not float16, not float8."""
    return p.float() if p.dtype == torch.float16 or p.element_size() == 1 else p


def _unlooked(model: nn.Module, broken: Mapping[str, int], optimizer: tuple[str, float], seed: int) -> Trace:
    """The Trace of a model whose weights are not numbers: nothing was run."""
    tensors = tuple(
        TensorTrace(
            name=n, layer=layer_name(n, type(model).__name__), shape=tuple(p.shape), start="varied",
            status="asleep" if p.requires_grad else "frozen", nonfinite=broken.get(n, 0),
        )
        for n, p in model.named_parameters()
    )  # fmt: skip
    return Trace(
        model=type(model).__name__, precision="none", steps=0, climbs=0, seed=seed, passes=0.0, optimizer=optimizer[0],
        learning_rate=optimizer[1], loss=None, batch="none", tensors=tensors, nonfinite=next(iter(broken)),
    )  # fmt: skip


def precisions(model: nn.Module) -> tuple[torch.dtype, ...]:
    scripted = any(isinstance(m, torch.jit.ScriptModule) for m in model.modules())
    on_mps = any(p.device.type == "mps" for p in model.parameters())
    return (torch.float32,) if scripted or on_mps else (torch.float64, torch.float32)


# ---- after the climb -------------------------------------------------------------------------------------------


def _with_role(first: Pass, *roles: str) -> frozenset[str]:
    return frozenset(n for n, has in first.seen.roles.items() if has & set(roles))


def _absorbed(tensors: tuple[TensorTrace, ...]) -> frozenset[str]:
    return frozenset(t.name for t in tensors if t.status == "absorbed")


def _output_parameters(first: Pass, graph: Graph) -> frozenset[str]:
    """Weights whose units are outputs, where the labels tell them apart.

    A class that is absent from the batch looks like a copy of every other absent one; it is not. Under the generic loss
    every output is told apart, and with real-valued targets equal outputs really are exchangeable.
    """
    if first.loss is None or (first.draw.target is not None and not signal.is_classes(first.draw.target)):
        return frozenset()
    return frozenset(site.weight for site in first.seen.sites.values() if graph.ends(site.weight))


def _start(p: Tensor) -> Start:
    if p.numel() == 0 or float(torch.linalg.vector_norm(p, float("inf"))) == 0:
        return "zero"
    flat = p.reshape(-1)
    same = p.numel() > 1 and bool((flat[:64] == flat[0]).all()) and bool((flat == flat[0]).all())
    return "constant" if same else "varied"


def _tensors(
    held: Borrowed, ladder: Ladder, found: Sleepers, first: Pass, starts: Mapping[str, Start], graph: Graph
) -> tuple[TensorTrace, ...]:
    late = {n for n, k in ladder.wake.items() if k != 1}
    rows = []
    for name, p in held.params.items():
        gradient = first.gradients.get(name)
        blocked = (graph.blocked(name) if name in late else None) or Blocked()
        roles = frozenset(first.seen.roles.get(name, ()))
        sleeping = (
            ~ladder.rows[name] if name in ladder.rows and name in ladder.path else torch.zeros(0, dtype=torch.bool)
        )
        absorbed = found.absorbed_rows.get(name, torch.zeros_like(sleeping))
        awoken = found.filled_rows.get(name, torch.zeros_like(sleeping))
        rows.append(
            TensorTrace(
                name=name,
                layer=layer_name(name, type(held.model).__name__),
                shape=tuple(p.shape),
                status=_status(name, p, roles, ladder, found, dead=bool(blocked.dead)),
                start=starts[name],
                roles=roles,
                wake=ladder.wake.get(name),
                weight_rms=rms(p.data),
                gradient_rms=rms(gradient) if gradient is not None else 0.0,
                input_zero=blocked.input_zero,
                back_zero=blocked.back_zero,
                dead=blocked.dead,
                cut_off=name in found.cut,
                wakes_when_filled=name in found.filled_wake,
                moves_output=name not in found.absorbed,
                sleeping_rows=_indices(sleeping),
                absorbed_rows=_indices(sleeping & absorbed),
                blocked_rows=_indices(sleeping & awoken & (slice_tops(p.data) == 0))
                if bool((sleeping & awoken).any())
                else (),
            )
        )
    return tuple(rows)


def _status(
    name: str, p: nn.Parameter, roles: frozenset[str], ladder: Ladder, found: Sleepers, *, dead: bool
) -> Status:
    if not p.requires_grad:
        return "frozen"
    if ladder.wake[name] is not None:
        return "live"
    if name in ladder.starved:
        return "starved"
    if name not in ladder.path:
        return "asleep" if name in found.cut else "unused"
    if name in found.freed:
        return "tied"
    # A position table that a normalisation erases was meant to do something; a bias it erases is only not needed.
    vector = sum(n > 1 for n in p.shape) <= 1 and "shift" not in roles
    absorbed = name in found.absorbed and name not in found.filled_wake and not dead
    return "absorbed" if vector and absorbed else "asleep"


def _never(t: TensorTrace) -> bool:
    """True for what SB101 speaks of."""
    return (t.status == "asleep" and not t.cut_off) or bool(t.blocked_rows)


def _proved(t: TensorTrace, proof: Proof) -> TensorTrace:
    still = proof.still.get(t.name)
    if still is None:
        return t
    rows = still.reshape(still.shape[0] if still.dim() else 1, -1).all(1)
    return dataclasses.replace(t, proved=int(still.sum()), proved_rows=_indices(rows))


def _indices(mask: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in mask.nonzero().reshape(-1))


def _classes(s: Slices, held: Borrowed, sites: Mapping[str, Site]) -> SliceClasses:
    site = next((one for one in sites.values() if one.weight == s.parameter), None)
    side: Literal["out", "in", "slice"] = "slice"
    if site is not None and s.axis in (site.out_axis, site.in_axis):
        side = "out" if s.axis == site.out_axis else "in"
    return SliceClasses(
        parameter=s.parameter,
        layer=site.layer if site is not None else layer_name(s.parameter, type(held.model).__name__),
        axis=s.axis,
        side=side,
        width=s.count,
        gates=site.gates if site is not None and side == "out" else 1,
        heads=(site.heads or _heads(held.model, s.parameter)) if site is not None else None,
        tied=() if side == "in" and site is not None and site.from_data else s.tied,
        mirrored=s.mirrored,
        by_function=s.by_function,
        near=() if side == "in" and site is not None and site.from_data else s.near,
        near_distance=s.near_distance,
        multiples=s.multiples,
        separated=s.separated,
        separated_at=s.separated_at,
        largest_difference=s.defect,
        live_steps=s.steps,
    )


def _followed(runner: Runner, classes: tuple[SliceClasses, ...], update: Update | None) -> tuple[SliceClasses, ...]:
    """The classes, those with near copies followed to where they part, where the update is one that can be."""
    near = [s for s in classes if s.near and s.side == "out"]
    if not near or update is None:
        return classes
    found = dict(zip(map(id, near), partings(runner, near, update), strict=True))
    return tuple(dataclasses.replace(s, parting=found.get(id(s))) for s in classes)


def _wrong_fans(runner: Runner, first: Pass) -> tuple[WrongFan, ...]:
    sites = {site.weight: site for site in first.seen.sites.values()}
    return wrong_fans(
        first.seen,
        runner.held.params,
        scale_moves(runner),
        scale_gain(runner),
        lambda weight: sites[weight].heads or _heads(runner.held.model, weight),
    )


def _heads(model: nn.Module, parameter: str) -> int | None:
    """The head count that the parameter's module, or one of the two around it, states of itself."""
    path = parameter.split(".")[:-1]
    for depth in range(len(path), max(-1, len(path) - 3), -1):
        module = model.get_submodule(".".join(path[:depth]))
        for key in ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads"):
            count = module.__dict__.get(key)
            if isinstance(count, int) and not isinstance(count, bool) and count > 1:
                return count
    return None


def _twin(model: nn.Module, t: Twins) -> TwinModules:
    """Experts are twins in one list behind a router: a weight beside them with one row each."""
    parent = t.modules[0].rpartition(".")[0]
    holder = parent.rpartition(".")[0]
    count = sum(1 for _ in model.get_submodule(parent).children())
    beside = model.get_submodule(holder).named_parameters()
    inside = parent + "."
    routed = any(
        p.dim() == 2 and count in p.shape and not n.startswith(inside[len(holder) + 1 if holder else 0 :])
        for n, p in beside
    )
    named = any("expert" in part.lower() for part in t.modules[0].split("."))
    return TwinModules(t.modules, t.kind, t.tied, t.steps, t.tensors, experts=bool(parent) and (routed or named))


def _where_nonfinite(first: Pass, ladder: Ladder) -> str | None:
    for name, site in first.seen.sites.items():
        if site.second_moment is not None and not bool(torch.isfinite(site.second_moment).all()):
            return f"the output of {name}"
    if first.loss is not None and first.loss != first.loss:
        return "the loss"
    return ladder.nonfinite[0] if ladder.nonfinite else None


def _describe(first: Pass, task: Task) -> str:
    if task.objective is not None:
        return "drawn by the objective"
    shapes = [str(tuple(t.shape)) for t in (*first.draw.args, *first.draw.kwargs.values()) if isinstance(t, Tensor)]
    return ("made up, fresh at every step: " if task.inferred else "") + ", ".join(shapes)
