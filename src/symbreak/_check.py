"""THE CONDUCTOR: task -> borrow -> Trace (-> Certificate) -> rules -> Report. The function that all drivers call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, nearest
from .records import Asked, Trace
from .report import Report
from .rules import judge, validate_codes

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

LEARNING_RATES = {
    "sgd": 1e-2, "momentum": 1e-2, "nesterov": 1e-2, "adam": 1e-3, "adamw": 1e-3, "nadam": 1e-3, "radam": 1e-3,
    "adamax": 1e-3, "rmsprop": 1e-3, "adagrad": 1e-2, "adadelta": 1.0, "lion": 1e-4, "rprop": 1e-2, "adafactor": 1e-2,
    "muon": 2e-2, "lbfgs": 1.0,
}  # fmt: skip
"""The usual learning rate of each optimizer, for the update ratio (SB207) where only a name is given."""


def check(
    model: nn.Module,
    batch: Any = None,
    loss: Callable[..., Tensor] | None = None,
    *,
    objective: Callable[..., Tensor] | None = None,
    optimizer: str | Optimizer = "sgd",
    seed: int = 0,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Report:
    """Look at a model at step 0 and say, with evidence, what its start will do to training.

    The model comes back bit for bit as it was, also when its forward raises. Its code is run.

    Args:
        model: any torch.nn.Module.
        batch: a tensor; a tuple (x, y); a dict of keyword arguments; an object with `draw(step) -> batch`; or None
            where the first layer is Linear, Conv1d-3d or Embedding, and inputs can be made up. Where the model takes
            several inputs pass ((a, b), y).
        loss: loss(output, target) -> scalar, as torch's losses. Without it a generic loss, a random projection of every
            output plus a quadratic, assumes nothing of the task; a model that returns its own loss is asked for that.
        objective: objective(model, batch) -> scalar, for anything else; `batch` may then be None.
        optimizer: a name or a torch optimizer; its learning rate is used for the update ratio.
        seed: of every random number the probe draws.
        select: rule codes or prefixes to run ("SB1"); empty means all.
        ignore: rule codes or prefixes to leave out.
        progress: called as progress(passes done, total or None, what is being done).

    Returns:
        A Report: verdict, findings, wake-up ladder, widths, layers.

    Raises:
        SymbreakError: a mistake in what was given, or the model's forward raised. The message names the module.

    Example:
        >>> import torch, symbreak as sb
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> _ = [torch.nn.init.zeros_(p) for p in net.parameters()]
        >>> report = sb.check(net, torch.randn(16, 4))
        >>> report.verdict, report.wakeup["2.bias"], report.wakeup["0.weight"]
        ('stuck', 1, None)
    """
    return examine(model, batch, loss, objective, optimizer, seed, select, ignore, progress, proofs=True)


def examine(
    model: nn.Module,
    batch: Any,
    loss: Callable[..., Tensor] | None,
    objective: Callable[..., Tensor] | None,
    optimizer: str | Optimizer,
    seed: int,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    progress: Callable[[int, int | None, str], None] | None = None,
    *,
    proofs: bool,
) -> Report:
    """`check`; without `proofs` of copies, which need the model's graph, for those who ask again and again."""
    from .probe import fingerprint, look, unwrap

    validate_codes(select, ignore)
    started = time.perf_counter()
    trace = look(
        model, batch, loss, objective, optimizer=_optimizer(optimizer), settings=_settings(optimizer), seed=seed,
        progress=progress,
    )  # fmt: skip
    trace = replace(trace, rate_given=not isinstance(optimizer, str))
    certificate = None
    units = proofs and _worth_a_proof(trace)
    networks = proofs and any(twin.tied for twin in trace.twins) and _one_group(optimizer, model)
    if units or networks:
        from .symmetry import prove, prove_networks, unit_graph

        groups = [twin.modules for twin in trace.twins] if networks else []
        graph = unit_graph(model, batch, loss, objective, seed=seed, networks=groups)
        trace, certificate = prove(trace, graph) if units else (trace, None)
        trace, certificate = prove_networks(trace, graph, certificate) if networks else (trace, certificate)
    findings, verdict = judge(trace, select=select, ignore=ignore)
    asked = Asked(batch, loss, objective, optimizer, seed, fingerprint(unwrap(model)))
    return Report(verdict, findings, trace, time.perf_counter() - started, certificate, asked)


def _one_group(optimizer: str | Optimizer, model: nn.Module) -> bool:
    """Whether every tensor is trained, and by the same rates; equal networks in different groups part."""
    if isinstance(optimizer, str):
        return True
    first, *others = optimizer.param_groups
    return not others and {id(p) for p in model.parameters() if p.requires_grad} <= {id(p) for p in first["params"]}


def _worth_a_proof(trace: Trace) -> bool:
    """Whether the probe saw copies, or equal slices of one layer of which it cannot say what they do.

    Reading the graph takes longer than the whole probe of a small model, and a random start has neither. Slices that
    start equal and get no gradient, by which to tell whether they stay so, are what published starts pad layers with
    (identity); a layer that is one constant throughout has nothing left to prove.
    """
    copies = bool(trace.outputs) or any(s.tied or s.multiples for s in trace.slices)
    return copies or any(1 < distinct < units for distinct, units in trace.width.values())


def _optimizer(optimizer: str | Optimizer) -> tuple[str, float]:
    if isinstance(optimizer, str):
        name = optimizer.lower()
        if name not in LEARNING_RATES:
            raise ConfigError(f"no optimizer {optimizer!r}. {nearest(name, LEARNING_RATES)} Or pass a torch optimizer.")
        return name, LEARNING_RATES[name]
    groups = getattr(optimizer, "param_groups", None)
    if not groups:
        raise ConfigError(f"optimizer={optimizer!r}; expected a name such as 'adam', or a torch optimizer.")
    return type(optimizer).__name__.lower(), float(groups[0].get("lr", 1e-3))


def _settings(optimizer: str | Optimizer) -> dict[str, Any]:
    """What a torch optimizer says of itself besides its learning rate; nothing where only its name is known."""
    if isinstance(optimizer, str):
        return {}
    return {key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "lr")}
