"""`fix`: the smallest repair of what a report found. The one function that API and CLI call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from .remedies import Plan
    from .report import Report


def fix(
    model: nn.Module,
    report: Report,
    *,
    unsafe: bool = False,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Plan:
    """Plan the smallest repair of what `report` found. Nothing is changed until `plan.apply()`.

    Copies are split without changing the function where their readers allow it; of several zero factors as few as wake
    everything are drawn anew; dead and saturated units are moved back to the data; scale is mended a layer at a time.
    Only what the findings name is touched: harmless zeros, frozen tensors and buffers stay. The plan is verified by
    new checks with its values swapped in, and says what it does not heal.

    Args:
        model: the module the report is of, with the weights it had then.
        report: what `check(model, ...)` returned; its batch, loss and seed are asked again.
        unsafe: also change tensors that look trained: values that fit no law that weights are drawn from, or singular
            values beyond those of independent draws. Careful: an unusual fresh start is taken for a trained one.
        progress: called as progress(checks done, None, what is being done).

    Returns:
        A Plan: changes, before, after, healed, left, function_change; apply() and undo().

    Raises:
        RemedyError: the report is of another model, of weights that have changed since, or was copied or unpickled.

    Example:
        >>> import torch, symbreak as sb
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> _ = [torch.nn.init.zeros_(p) for p in net.parameters()]
        >>> plan = sb.fix(net, sb.check(net, torch.randn(16, 4)))
        >>> [c.tensor for c in plan.changes], plan.function_change, plan.after.verdict
        (['0.weight'], 0.0, 'healthy')
    """
    from .remedies import repair

    return repair(model, report, unsafe=unsafe, progress=progress)
