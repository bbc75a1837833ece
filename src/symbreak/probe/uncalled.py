"""Members of a list that were not called because the data chose others: experts that wait for their tokens.

A member that the loss has no path to may be forgotten by the forward (a layer list with a skipped layer), or not have
been chosen this time. Other weights tell: with every matrix shuffled a router chooses others, and a forgotten layer
stays forgotten. Random numbers are drawn as before, so that what differs was not left out by chance.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from symbreak.errors import BatchError

from .passes import Runner, UsersCodeError

_TRIES = 4


def uncalled(runner: Runner, unused: Iterable[str], touched: frozenset[str]) -> set[str]:
    """Those of the unused parameters that lie in a list of which the forward calls some members by the data.

    Args:
        unused: parameters that the loss has no path to and the forward pass did not touch.
        touched: those that it did.
    """
    model = runner.held.model
    homes = {n: home for n in unused if (home := _home(model, n)) is not None}
    lists = {parent for parent, _ in homes.values() if _called(touched, parent)}
    if not lists:
        return set()
    runner.what = "looking whether the data chose what is called"
    chosen: set[str] = set()
    for attempt in range(_TRIES):
        now = _touched_when_shuffled(runner, attempt)
        chosen |= {one for one in lists if now and _called(now, one) != _called(touched, one)}
        if chosen == lists:
            break
    return {n for n, (parent, kind) in homes.items() if parent in chosen and kind in _kinds(model, parent, touched)}


def _home(model: nn.Module, parameter: str) -> tuple[str, type[nn.Module]] | None:
    """The innermost list that holds the parameter, by name, and the class of its member there."""
    path = parameter.split(".")
    for depth in range(len(path) - 2, 0, -1):
        parent = ".".join(path[:depth])
        module = model.get_submodule(parent)
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            return parent, type(module.get_submodule(path[depth]))
    return None


def _called(touched: Iterable[str], parent: str) -> frozenset[str]:
    """The members of a list of which the forward touched a parameter."""
    prefix = parent + "."
    return frozenset(n[len(prefix) :].partition(".")[0] for n in touched if n.startswith(prefix))


def _kinds(model: nn.Module, parent: str, touched: frozenset[str]) -> set[type[nn.Module]]:
    return {type(model.get_submodule(f"{parent}.{member}")) for member in _called(touched, parent)}


def _touched_when_shuffled(runner: Runner, attempt: int) -> frozenset[str]:
    """What the forward touches with the entries of every matrix in another order; empty where it fails on them."""
    generator = torch.Generator().manual_seed(runner.seed + 7000 + attempt)
    with runner.held.scratch():
        for p in runner.held.params.values():
            if p.dim() >= 2:
                order = torch.randperm(p.numel(), generator=generator).to(p.device)
                p.data.copy_(p.data.reshape(-1)[order].view(p.shape))
        try:
            return frozenset(runner.watch(runner.task.draw(1, runner.held.dtype)).roles)
        except (UsersCodeError, BatchError):
            return frozenset()
