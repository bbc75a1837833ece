"""The frozen values that cross rooms. Nothing here computes; everything else reads these.

Index letters, used everywhere: b batch, o out units, i in units, s seeds, t steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
Verdict = Literal["stuck", "redundant", "degraded", "healthy", "unknown"]
Standing = Literal["proved", "measured", "heuristic"]


@dataclass(frozen=True)
class Remedy:
    """What would heal a finding: a verb, the tensor or layer it acts on, and the sentence a person reads."""

    action: str
    where: str
    hint: str = ""


@dataclass(frozen=True)
class Claim:
    """What a rule says of one place. The rule that yields it adds its code, slug and default severity."""

    where: str
    because: str
    units: tuple[int, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    standing: Standing = "measured"
    remedy: Remedy | None = None
    severity: Severity | None = None


@dataclass(frozen=True)
class Finding:
    """One thing the check found: a code, a place, a sentence that says why, and the numbers behind it."""

    code: str
    slug: str
    severity: Severity
    where: str
    because: str
    units: tuple[int, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    standing: Standing = "measured"
    remedy: Remedy | None = None
