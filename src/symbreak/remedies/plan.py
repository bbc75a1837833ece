"""A plan: what would change, why, what it keeps; carried out all or nothing, undone bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from symbreak._version import __version__
from symbreak.errors import RemedyError
from symbreak.probe import fingerprint
from symbreak.records import Finding
from symbreak.report import Report

from .faults import faults
from .memory import is_writable
from .part import Action

if TYPE_CHECKING:
    from .bench import Bench

State = Literal["planned", "applied"]


@dataclass(frozen=True, eq=False)
class Change:
    """What a plan does to one parameter.

    Attributes:
        actions: what is done, in order: redistribute, jitter, draw, shift, rescale or set.
        why: a sentence for each action.
        value: the new value, in the parameter's own dtype.
        entries: how many numbers change.
        relative_size: root mean square of the change over that of the tensor; None where the tensor was zero.
        function_change: the largest change of any output over its root mean square if only this tensor changes; None
            where it could not be measured.
    """

    tensor: str
    actions: tuple[Action, ...]
    why: tuple[str, ...]
    value: Tensor
    entries: int
    relative_size: float | None
    function_change: float | None


@dataclass(frozen=True)
class Unhealed:
    """A finding that the plan leaves, and why."""

    finding: Finding
    reason: str


class Plan:
    """What `fix` returns. Nothing has happened to the model yet.

    Attributes:
        changes: one a parameter, in the model's order.
        before: the report the plan was made for.
        after: the report of a new check with the new values in place.
        healed: findings (errors and warnings) of `before` that `after` no longer has.
        left: what remains, each with the reason.
        function_change: of all changes together, as in `Change`.
        refusals: parameter -> why it was left alone, of those that a repair would have changed.

    Example:
        >>> import torch, symbreak as sb
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> _ = [torch.nn.init.constant_(p, 0.5) for p in net.parameters()]
        >>> plan = sb.fix(net, sb.check(net, torch.randn(16, 4)))
        >>> [(c.tensor, c.actions) for c in plan.changes], plan.before.verdict, plan.after.verdict
        ([('2.weight', ('redistribute',))], 'redundant', 'healthy')
        >>> plan.apply()
        >>> plan.undo()
    """

    def __init__(
        self,
        model: nn.Module,
        changes: Sequence[Change],
        *,
        before: Report,
        after: Report,
        left: Sequence[Unhealed],
        function_change: float | None,
        refusals: Mapping[str, str],
    ) -> None:
        self.model, self.changes = model, tuple(changes)
        self.before, self.after, self.left = before, after, tuple(left)
        self.function_change, self.refusals = function_change, dict(refusals)
        asked = before._asked
        assert asked is not None
        self._planned_for = asked.fingerprint
        self._kept: dict[str, Tensor] = {}
        self._state: State = "planned"

    @classmethod
    def of(cls, bench: Bench, *, report: Report, before: Report, given_up: Mapping[tuple[str, str], str]) -> Plan:
        """Read the plan off the bench: merge the parts by parameter and measure each change."""
        values = bench.values()
        changes = [_change(bench, name, values[name]) for name in bench.params if name in values]
        after = bench.report
        unasked = {(f.code, f.where) for f in before.findings} - {(f.code, f.where) for f in report.findings}
        if unasked:  # the user selected rules: what he left out is not shown afterwards either
            shown = tuple(f for f in after.findings if (f.code, f.where) not in unasked)
            after = replace(after, findings=shown)
        reasons = [(f, given_up.get((f.code, f.where))) for f in faults(after)]
        left = [Unhealed(f, reason or _by_hand(f)) for f, reason in reasons]
        total = bench.function_change(values) if values else 0.0
        return cls(
            bench.model, changes, before=report, after=after, left=left, function_change=total, refusals=bench.refusals
        )

    @property
    def healed(self) -> tuple[Finding, ...]:
        still = {(f.code, f.where) for f in faults(self.after)}
        return tuple(f for f in faults(self.before) if (f.code, f.where) not in still)

    @property
    def applied(self) -> bool:
        """Whether the changes are in the model now."""
        return self._state == "applied"

    # ---- do and undo ---------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Write the new values into the model's tensors, in place: all of them, or none where one cannot be written.

        Raises:
            RemedyError: already applied; the weights are no longer those the plan was made for; a tensor lies in
                read-only memory.
        """
        if self.applied:
            raise RemedyError("the plan is applied already. undo() takes it back.")
        params = self._params(self._planned_for, "the plan was made")
        self._kept = {c.tensor: params[c.tensor].detach().clone() for c in self.changes}
        self._write(params, {c.tensor: c.value for c in self.changes})
        self._state = "applied"
        self._applied_as = fingerprint(self.model)

    def undo(self) -> None:
        """Put the old values back, bit for bit.

        Raises:
            RemedyError: not applied; or the weights have moved since, so that undoing would leave a mixture.
        """
        if not self.applied:
            raise RemedyError("the plan is not applied, so there is nothing to undo.")
        params = self._params(self._applied_as, "the plan was applied")
        self._write(params, self._kept)
        self._state, self._kept = "planned", {}

    def _params(self, expected: Mapping[str, tuple[object, ...]], since: str) -> dict[str, nn.Parameter]:
        now = fingerprint(self.model)
        for name in (*expected, *now):
            if now.get(name) != expected.get(name):
                raise RemedyError(
                    f"{name!r} of {type(self.model).__name__} has changed since {since}, so nothing was written. "
                    "Check the model again and make a new plan."
                )
        params = dict(self.model.named_parameters())
        for change in self.changes:
            if not is_writable(params[change.tensor]):
                raise RemedyError(
                    f"{change.tensor!r} lies in read-only memory (a memory map), so nothing was written. Load it "
                    f"writable, or give it memory of its own: p.data = p.data.clone()."
                )
        return params

    def _write(self, params: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        old = {name: params[name].detach().clone() for name in values}
        try:
            for name, value in values.items():
                _copy(params[name], value)
        except BaseException:
            for name, value in old.items():
                _copy(params[name], value)
            raise

    # ---- show ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state with the new values in it: copies, dense, none sharing memory with another."""
        state = {name: value.detach() for name, value in self.model.state_dict().items() if isinstance(value, Tensor)}
        new = {} if self.applied else {c.tensor: c.value for c in self.changes}
        params = dict(self.model.named_parameters(remove_duplicate=False))
        first = {id(p): name for name, p in self.model.named_parameters()}
        for name in state:
            own = first.get(id(params[name])) if name in params else None
            state[name] = (new[own] if own in new else state[name]).clone().contiguous()
        return state

    def save(self, path: str | Path) -> None:
        """Write `state_dict()` as safetensors: to a new file only, and whole or not at all.

        Raises:
            RemedyError: there is such a file, or it cannot be written.
        """
        from safetensors.torch import save

        path = Path(path)
        metadata = {"symbreak": __version__, "changed": ", ".join(c.tensor for c in self.changes)}
        try:
            with path.open("xb") as file:  # x: never over a file that is there
                try:
                    file.write(save(self.state_dict(), metadata=metadata))
                except BaseException:
                    path.unlink()
                    raise
        except FileExistsError as err:
            raise RemedyError(
                f"there is a file {path}, and a plan never writes over one. Choose another name."
            ) from err
        except OSError as err:
            raise RemedyError(f"{path} cannot be written: {err.strerror}.") from err

    def to_text(self, *, width: int = 100, diff: bool = False, then: str = "plan.apply(), plan.undo()") -> str:
        """The plan as text; `diff` adds the old and new values of each tensor, `then` says how it is carried out."""
        from .text import render

        return render(self, width=width, diff=diff, then=then)

    def __str__(self) -> str:
        return self.to_text(width=shutil.get_terminal_size((100, 24)).columns)

    def __repr__(self) -> str:
        n = len(self.changes)
        return (
            f"<Plan for {self.before.trace.model}: {n} tensor{'' if n == 1 else 's'}, {self.before.verdict} -> "
            f"{self.after.verdict}{', applied' if self.applied else ''}>"
        )


def _change(bench: Bench, name: str, value: Tensor) -> Change:
    parts = [p for p in bench.chosen if name in p.tensors]
    old, new = bench.params[name].detach().double(), value.double()
    size, moved = float(old.square().mean().sqrt()), float((new - old).square().mean().sqrt())
    return Change(
        tensor=name,
        actions=tuple(dict.fromkeys(p.action for p in parts)),
        why=tuple(dict.fromkeys(p.each.get(name, p.why) for p in parts)),
        value=value,
        entries=int((bench.params[name].detach() != value).sum()),
        relative_size=moved / size if 0 < size < float("inf") else None,
        function_change=bench.function_change({name: value}),
    )


def _by_hand(f: Finding) -> str:
    hint = f.remedy.hint if f.remedy is not None else ""
    return f"no repair of weights is known for {f.slug}" + (f": {hint}" if hint else "")


def _copy(p: nn.Parameter, value: Tensor) -> None:
    with torch.inference_mode() if p.is_inference() else torch.no_grad():
        p.copy_(value)
