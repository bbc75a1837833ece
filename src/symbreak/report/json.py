"""The report as JSON, by schema.json beside this file."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from symbreak._version import __version__

if TYPE_CHECKING:
    from .report import Report

SCHEMA_VERSION = 1


def dump(report: Report) -> str:
    """The JSON text. Numbers that JSON does not know (NaN, infinity) become null."""
    return json.dumps(as_dict(report), indent=2, allow_nan=False, ensure_ascii=False)


def as_dict(report: Report) -> dict[str, Any]:
    """The report as plain dicts, lists, strings and finite numbers."""
    trace = report.trace
    plain: dict[str, Any] = _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "symbreak": __version__,
            "versions": {"python": platform.python_version(), "torch": _version("torch"), "numpy": _version("numpy")},
            "model": trace.model,
            "batch": trace.batch,
            "verdict": report.verdict,
            "findings": report.findings,
            "wakeup": report.wakeup,
            "width": {k: {"distinct": d, "units": n} for k, (d, n) in report.width.items()},
            "layers": report.layers,
            "probe": {
                "precision": trace.precision,
                "steps": trace.steps,
                "climbs": trace.climbs,
                "passes": trace.passes,
                "seed": trace.seed,
                "seconds": round(report.seconds, 3),
                "optimizer": trace.optimizer,
                "learning_rate": trace.learning_rate,
                "first_loss": trace.loss,
                "breakers": trace.breakers,
            },
        }
    )
    return plain


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(v) for v in value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
