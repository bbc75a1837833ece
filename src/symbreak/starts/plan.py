"""What `init_` did, tensor by tensor, with reasons; and the way back."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from symbreak.errors import SchemeError
from symbreak.rules.grouping import pattern
from symbreak.schemes import Scheme
from symbreak.schemes.place import Role

from .tensors import numbers

Cells = tuple[str, str, str, str]
_FOLD = 3  # tensors from which on they share a line
Action = Literal["drawn", "scaled", "set", "kept"]
"""drawn: filled by a scheme; scaled: drawn, then sized by data; set: given numbers; kept: untouched."""


@dataclass(frozen=True)
class Step:
    """What was done to one tensor.

    Attributes:
        tensor: its first name.
        action: see `Action`.
        scheme: what it was filled with; None where it was kept or set.
        because: the reason, one clause.
        role: its part in the model, as far as that is known.
        rms: root mean square, before and after.
        also: other names of the same tensor.
    """

    tensor: str
    shape: tuple[int, ...]
    action: Action
    scheme: Scheme | None
    because: str
    role: Role
    rms: tuple[float, float]
    also: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values; the scheme in its own notation, which `symbreak.schemes.parse` reads."""
        return {
            "tensor": self.tensor,
            "shape": list(self.shape),
            "role": self.role,
            "action": self.action,
            "scheme": repr(self.scheme) if self.scheme is not None else None,
            "because": self.because,
            "rms_before": _finite(self.rms[0]),
            "rms_after": _finite(self.rms[1]),
            "also": list(self.also),
        }


class Start:
    """The plan that `init_` carried out.

    Attributes:
        steps: one a tensor, in the model's order.
        scheme: what was asked for, in the notation of schemes.
        notes: what holds for the model as a whole.

    Example:
        >>> import torch, symbreak as sb
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> start = sb.init_(net, "kaiming_normal")
        >>> [(step.tensor, step.action) for step in start.steps][:2]
        [('0.weight', 'drawn'), ('0.bias', 'drawn')]
        >>> start["0.weight"].scheme
        kaiming_normal
        >>> start.undo()
    """

    def __init__(
        self,
        model: nn.Module,
        scheme: str,
        steps: tuple[Step, ...],
        before: Mapping[nn.Parameter, Tensor],
        notes: tuple[str, ...] = (),
    ) -> None:
        self.steps, self.scheme, self.notes = steps, scheme, notes
        self._model = type(model).__name__
        self._before: dict[nn.Parameter, Tensor] | None = dict(before)
        self._versions = {p: p._version for p in before if not p.is_inference()}

    def __getitem__(self, tensor: str) -> Step:
        """The step of a tensor, by any of its names."""
        for step in self.steps:
            if tensor == step.tensor or tensor in step.also:
                return step
        raise KeyError(tensor)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def changed(self) -> tuple[Step, ...]:
        """The steps that wrote something."""
        return tuple(step for step in self.steps if step.action != "kept")

    def undo(self) -> None:
        """Put the weights of before back, bit for bit. They are held as long as this object lives.

        Raises:
            SchemeError: undone already, or the weights have been written to since.
        """
        if self._before is None:
            raise SchemeError("this start is undone already.")
        moved = [step.tensor for step, p in self._written() if self._versions.get(p, 0) != _version(p)]
        if moved:
            raise SchemeError(
                f"{moved[0]!r} of {self._model} has been written to since init_, so nothing was undone: the result "
                "would be a mixture."
            )
        put_back(self._before)
        self._before = None

    def _written(self) -> list[tuple[Step, nn.Parameter]]:
        return list(zip(self.changed, self._before or (), strict=True))

    # ---- show ----------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The plan as JSON text: `scheme`, `notes` and one entry a tensor."""
        content = {
            "model": self._model,
            "scheme": self.scheme,
            "notes": list(self.notes),
            "steps": [step.as_json() for step in self.steps],
        }
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)

    def to_text(self, *, width: int = 120) -> str:
        """A table: tensor, shape, what was done, why. Three layers or more with the same story share a line."""
        kept = len(self.steps) - len(self.changed)
        lines = [f"{self._model}: {self.scheme}; {len(self.changed)} tensors written, {kept} kept."]
        rows = _folded([_cells(step) for step in self.steps])
        columns = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        indent = sum(columns) + 6
        for row in rows:
            start = "  ".join(cell.ljust(column) for cell, column in zip(row, columns, strict=False))
            room = max(30, width - indent)
            first, *rest = textwrap.wrap(row[3], room) or [""]
            lines.append(f"{start}  {first}".rstrip())
            lines += [" " * indent + line for line in rest]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def __str__(self) -> str:
        return self.to_text(width=shutil.get_terminal_size((120, 24)).columns)

    def __repr__(self) -> str:
        return f"<Start of {self._model}: {self.scheme}, {len(self.changed)} of {len(self.steps)} tensors written>"


def put_back(before: Mapping[nn.Parameter, Tensor]) -> None:
    """Write old values into their parameters."""
    for p, value in before.items():
        write(p, value)


def write(p: nn.Parameter, value: Tensor) -> None:
    """Copy values into a parameter, also into one that was made in inference mode."""
    with torch.inference_mode() if p.is_inference() else torch.no_grad():
        p.copy_(value)


def rms(tensor: Tensor) -> float:
    """Root mean square; 0 of an empty tensor."""
    if tensor.numel() == 0:
        return 0.0
    half = tensor.dtype in (torch.float16, torch.bfloat16) and tensor.layout == torch.strided  # needs no copy
    norm = torch.linalg.vector_norm(tensor.detach(), dtype=torch.float32) if half else numbers(tensor).norm()
    return float(norm) / math.sqrt(tensor.numel())


def _version(p: nn.Parameter) -> int:
    return 0 if p.is_inference() else p._version


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _cells(step: Step) -> Cells:
    shape = "x".join(map(str, step.shape)) or "scalar"
    done = repr(step.scheme) if step.scheme is not None else step.action
    if step.action == "scaled":
        done += ", scaled"
    because = step.because + (f"; also {', '.join(step.also)}" if step.also else "")
    return step.tensor, shape, done, because


def _folded(rows: Sequence[Cells]) -> list[Cells]:
    """Rows that differ only in a layer's number as one, where there are three or more."""
    groups: dict[Cells, list[Cells]] = {}
    for row in rows:
        tensor, shape, done, because = row
        groups.setdefault((pattern(tensor), shape, done, pattern(because)), []).append(row)
    parts = (
        [(f"{key[0]} ({len(group)})", *key[1:])] if len(group) >= _FOLD else group for key, group in groups.items()
    )
    return [row for part in parts for row in part]
