"""The Report: what `check` returns."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symbreak.records import Asked, Finding, LayerTrace, Trace, Verdict

if TYPE_CHECKING:
    from symbreak.symmetry import Certificate


@dataclass(frozen=True)
class Report:
    """The answer of one check: a verdict, the findings behind it, and everything that was measured.

    Attributes:
        verdict: "healthy", "degraded", "redundant", "stuck" or "unknown".
        findings: worst first; each with its code, place, sentence, numbers and standing.
        trace: all that the probe saw.
        seconds: wall time of the check.
        certificate: where copies were found, the proof of those that are `proved`, in JSON by its `to_json()`; None
            where nothing is tied or the model's graph is not understood whole.

    Example:
        >>> import torch, symbreak as sb
        >>> sb.check(torch.nn.Linear(4, 2), torch.randn(8, 4)).verdict
        'healthy'
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    trace: Trace
    seconds: float = 0.0
    certificate: Certificate | None = field(default=None, repr=False)
    _asked: Asked | None = field(default=None, repr=False, compare=False)  # for `fix`, which asks again

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle is the answer alone: a loss may be a lambda, and a batch is large."""
        return {name: value for name, value in vars(self).items() if name != "_asked"}

    @property
    def wakeup(self) -> Mapping[str, int | None]:
        """Trainable tensor -> the first optimizer step (from 1) at which it has a gradient; None is never.

        Empty where nothing could be run.
        """
        measured = self.trace.steps > 0
        return {t.name: t.wake for t in self.trace.tensors if measured and t.status != "frozen"}

    @property
    def width(self) -> Mapping[str, tuple[int, int]]:
        """Layer -> (distinct units, units)."""
        return self.trace.width

    @property
    def layers(self) -> tuple[LayerTrace, ...]:
        """One row a layer, in the order of execution."""
        return self.trace.layers

    @property
    def passes(self) -> float:
        """Forward and backward passes the check ran; a forward alone counts a third."""
        return self.trace.passes

    @property
    def dtype(self) -> str:
        """The precision the probe worked in: "float64", or "float32" where the model allows no more."""
        return self.trace.precision

    def to_text(
        self,
        *,
        width: int = 100,
        color: bool = False,
        verbose: bool = False,
        concise: bool = False,
        ascii_only: bool = False,
    ) -> str:
        """The report as text. `verbose` adds every information, the ladder and the table of layers."""
        from .terminal import render

        return render(self, width=width, color=color, verbose=verbose, concise=concise, ascii_only=ascii_only)

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON by the schema beside this file; also written to `path` where one is given."""
        from .json import dump

        text = dump(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def __str__(self) -> str:
        return self.to_text(width=shutil.get_terminal_size((100, 24)).columns)

    def __repr__(self) -> str:
        return f"<Report {self.trace.model}: {self.verdict}, {len(self.findings)} findings>"
