"""What a repair is for, and what may stand after it."""

from __future__ import annotations

from symbreak.records import Finding
from symbreak.report import Report


def faults(report: Report) -> list[Finding]:
    """The findings that a repair is for: errors and warnings, and an output bias off its prior."""
    return [f for f in report.findings if f.severity != "info" or f.code == "SB303"]


def weight(f: Finding) -> float:
    """How much of the model a finding speaks of: its units, its tensors, or one place."""
    tensors = f.evidence.get("tensors", ())
    return float(max(1, len(f.units), len(tensors) if isinstance(tensors, list | tuple) else 0))
