"""A plan as text: before and after side by side, one block a tensor (or many alike), and what is not healed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from symbreak.rules.grouping import called, listed, pattern, patterns

from .faults import faults

if TYPE_CHECKING:
    from symbreak.report import Report

    from .plan import Change, Plan

_FOLD = 3  # changes that are shown one by one
_SHOWN = 6  # numbers of a tensor in a diff
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def render(plan: Plan, *, width: int, diff: bool, then: str) -> str:
    """Before and after, the changes, what they do to the function, what is left."""
    lines = [*_verdicts(plan), ""]
    for group in _folded(plan.changes, most=len(plan.changes) if diff else _FOLD):
        lines += _block(group, width)
        if diff:
            lines += [line for change in group for line in _numbers(plan, change)]
    if not plan.changes:
        lines.append("nothing to change" if not plan.left else "no change of the weights heals this")
    for unhealed in plan.left:
        f = unhealed.finding
        lines.append(f"not healed: {f.code} {f.slug}  {called(plan.after.trace, f.where)}")
        lines += _wrapped(f"{unhealed.reason}.", width)
    alone: dict[str, list[str]] = {}
    for name, reason in plan.refusals.items():
        alone.setdefault(reason, []).append(name)
    for reason, names in alone.items():
        more = "" if len(names) == 1 else f", each of {len(names)} tensors"
        lines += _wrapped(f"left alone: {listed(patterns(names))} {reason}{more}.", width, "")
    return "\n".join([*lines, "", _tail(plan, then)])


def _verdicts(plan: Plan) -> Iterator[str]:
    yield f"{plan.before.trace.model}: {plan.before.verdict} -> {plan.after.verdict}"
    before, after = (_told(r) for r in (plan.before, plan.after))
    column = max(len("before"), *map(len, before)) if before else len("before")
    if before or after:
        yield f"  {'before':<{column}}   after"
    for i in range(max(len(before), len(after))):
        left, right = (side[i] if i < len(side) else "" for side in (before, after))
        yield f"  {left:<{column}}   {right or ('-' if i >= len(after) else '')}".rstrip()


def _told(report: Report) -> list[str]:
    counts: dict[str, int] = {}
    for f in faults(report):
        counts[f"{f.code} {f.slug}"] = counts.get(f"{f.code} {f.slug}", 0) + 1
    return [name if n == 1 else f"{name} x {n}" for name, n in counts.items()]


def _folded(changes: Sequence[Change], *, most: int) -> list[list[Change]]:
    """Changes of one kind and reason, up to its numbers, stand together where there are more of them than `most`."""
    groups: dict[tuple[object, ...], list[Change]] = {}
    for change in changes:
        reasons = tuple(_NUMBER.sub("#", pattern(why)) for why in change.why)
        groups.setdefault((change.actions, reasons, pattern(change.tensor)), []).append(change)
    return [part for group in groups.values() for part in ([group] if len(group) > most else [[c] for c in group])]


def _block(group: Sequence[Change], width: int) -> Iterator[str]:
    change = group[0]
    total = sum(c.value.numel() for c in group)
    shape = listed(list(dict.fromkeys("x".join(map(str, c.value.shape)) or "scalar" for c in group)))
    name = change.tensor if len(group) == 1 else f"{pattern(change.tensor)}  {len(group)} tensors"
    yield f"{name}  [{shape}]  {', '.join(change.actions)}"
    for reasons in zip(*(c.why for c in group), strict=True):
        yield from _wrapped(f"{_one_reason(reasons)}.", width)
    sizes = [c.relative_size for c in group if c.relative_size is not None]
    size = f", by {max(sizes):.2g} of its size" if sizes else ""
    moved = [c.function_change for c in group]
    function = None if None in moved else max(m for m in moved if m is not None)
    entries = sum(c.entries for c in group)
    yield from _wrapped(f"{entries} of {total} values change{size}; {_outputs(function)}.", width)


def _one_reason(reasons: Sequence[str]) -> str:
    """A sentence that differs only in its numbers, told once, with the range of each number."""
    if len(set(reasons)) == 1:
        return reasons[0]
    sentences = [pattern(reason) for reason in reasons]
    ranges = [sorted(set(numbers), key=float) for numbers in zip(*map(_NUMBER.findall, sentences), strict=True)]
    told = iter([n[0] if len(n) == 1 else f"{n[0]} to {n[-1]}" for n in ranges])
    return _NUMBER.sub(lambda _: next(told), sentences[0])


def _outputs(change: float | None) -> str:
    if change is None:
        return "what it does to the outputs could not be measured"
    return f"alone it changes outputs by {change:.1e} of their size" if change > 0 else "alone it changes no output"


def _numbers(plan: Plan, change: Change) -> Iterator[str]:
    old = plan._kept.get(change.tensor, dict(plan.model.named_parameters())[change.tensor].detach())
    yield f"  - {_some(old)}"
    yield f"  + {_some(change.value)}"


def _some(value: Tensor) -> str:
    flat = value.detach().double().reshape(-1)
    shown = " ".join(f"{x:.5g}" for x in flat[:_SHOWN].tolist())
    more = " ..." if flat.numel() > _SHOWN else ""
    rms = float(torch.linalg.vector_norm(flat)) / max(1, flat.numel()) ** 0.5
    return f"{shown}{more}  (mean {float(flat.mean()):.4g}, rms {rms:.4g})"


def _tail(plan: Plan, then: str) -> str:
    n = len(plan.changes)
    if not n:
        return "No tensor changes."
    if plan.function_change is None:
        function = "the change of the outputs could not be measured"
    elif plan.function_change == 0:
        function = "no output changes"
    else:
        function = f"outputs change by {plan.function_change:.1e} of their size"
    done = "applied" if plan.applied else f"not applied: {then}"
    return f"{n} of {len(plan.before.trace.tensors)} tensors change{'s' if n == 1 else ''}, {function}; {done}."


def _wrapped(text: str, width: int, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent or "  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
