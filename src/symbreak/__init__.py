"""Know what your initial weights will do before you train.

>>> import symbreak as sb
>>> report = sb.check(model, batch)          # doctest: +SKIP
>>> report.verdict, report.findings          # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import SymbreakError

if TYPE_CHECKING:
    from . import nets, schemes
    from ._check import check
    from ._fix import fix
    from ._init import init_
    from .explanations import Explanation, explain
    from .origins import Origin, OriginReport, provenance
    from .races import RaceResult, race
    from .records import Finding
    from .remedies import Plan
    from .report import Report
    from .symmetry.quotient import Quotient, quotient

__all__ = [
    "Explanation",
    "Finding",
    "Origin",
    "OriginReport",
    "Plan",
    "Quotient",
    "RaceResult",
    "Report",
    "SymbreakError",
    "__version__",
    "check",
    "explain",
    "fix",
    "init_",
    "nets",
    "provenance",
    "quotient",
    "race",
    "schemes",
]

_WHERE = {
    "check": "._check",
    "explain": ".explanations",
    "Explanation": ".explanations",
    "Finding": ".records",
    "fix": "._fix",
    "init_": "._init",
    "RaceResult": ".races",
    "race": ".races",
    "nets": ".nets",
    "Origin": ".origins",
    "OriginReport": ".origins",
    "provenance": ".origins",
    "Plan": ".remedies",
    "Report": ".report",
    "quotient": ".symmetry.quotient",
    "Quotient": ".symmetry.quotient",
    "schemes": ".schemes",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: `symbreak --help` must not wait for torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'symbreak' has no attribute {name!r}")
    module = import_module(_WHERE[name], __name__)
    return module if name in ("nets", "schemes") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
