"""The report as text: the verdict first, findings as blocks, a table only for summaries, last a count and what to type."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..records import Finding, LayerTrace, Verdict

if TYPE_CHECKING:
    from .report import Report

_COLORS = {"error": "31", "warning": "33", "info": "36", "stuck": "31", "redundant": "31", "degraded": "33", "healthy": "32", "unknown": "35"}
_MOST_INFO = 6  # information findings shown without --verbose
_ASCII = str.maketrans({"×": "x", "→": "->", "≥": ">=", "≤": "<=", "–": "-", "…": "...", "·": "-"})


def render(report: Report, *, width: int, color: bool, verbose: bool, concise: bool, ascii_only: bool) -> str:
    """See `Report.to_text`."""
    paint = _Paint(color)
    lines = list(_concise(report, paint) if concise else _full(report, max(40, width), paint, verbose))
    text = "\n".join(lines)
    return text.translate(_ASCII).encode("ascii", "replace").decode() if ascii_only else text


class _Paint:
    def __init__(self, on: bool) -> None:
        self._on = on

    def __call__(self, text: str, kind: str) -> str:
        return f"\x1b[1;{_COLORS[kind]}m{text}\x1b[0m" if self._on else text


def _concise(report: Report, paint: _Paint) -> Iterator[str]:
    for f in report.findings:
        yield f"{report.trace.model}:{f.where}: {paint(f.severity, f.severity)} {f.code} {f.slug}: {f.because}"
    yield f"{report.trace.model}: {paint(report.verdict, report.verdict)}"


def _full(report: Report, width: int, paint: _Paint, verbose: bool) -> Iterator[str]:
    yield paint(report.verdict, report.verdict) + ": " + sentence(report)
    shown = _shown(report.findings, verbose)
    for f in shown:
        yield ""
        yield from _block(f, width, paint)
    if verbose:
        yield from _ladder(report)
        yield from _table(report.layers)
    yield ""
    yield from _wrapped(_tail(report, len(report.findings) - len(shown)), width, "")


def sentence(report: Report) -> str:
    """The verdict in one sentence."""
    trace, model = report.trace, report.trace.model
    trainable = [t for t in trace.tensors if t.status != "frozen"]
    total = sum(t.numel for t in trainable)
    verdict: Verdict = report.verdict
    if verdict == "stuck":
        asleep = [t for t in trainable if t.status == "asleep"]
        share = sum(t.numel for t in asleep) / max(1, total)
        if asleep:
            return f"{len(asleep)} of {len(trainable)} trainable tensors of {model} ({share:.0%} of the weights) never get a gradient from this start."
        return f"some units of {model} never get a gradient from this start."
    if verdict == "redundant":
        narrow = [(k, d, n) for k, (d, n) in report.width.items() if d < n]
        if narrow:
            name, distinct, units = min(narrow, key=lambda row: row[1] / row[2])
            return f"parts of {model} are copies that never separate; {name}, for one, has {units} units and {distinct} distinct."
        return f"parts of {model} are copies that never separate."
    if verdict == "degraded":
        return f"{model} learns and its units differ, but its start will slow or spoil training."
    if verdict == "unknown":
        return f"{model} could not be checked: {report.findings[0].because if report.findings else 'nothing could be measured'}."
    steps = max((t.wake or 1 for t in trainable), default=1)
    when = "at the first step" if steps == 1 else f"by step {steps}"
    return f"all {sum(t.status == 'live' for t in trainable)} tensors of {model} that can learn do so {when}, no unit is a copy of another, and the signal survives."


def _shown(findings: tuple[Finding, ...], verbose: bool) -> list[Finding]:
    loud = [f for f in findings if f.severity != "info"]
    quiet = [f for f in findings if f.severity == "info"]
    return [*loud, *(quiet if verbose else quiet[:_MOST_INFO])]


def _block(f: Finding, width: int, paint: _Paint) -> Iterator[str]:
    yield f"{paint(f.severity, f.severity)} {f.code} {f.slug}  {f.where}"
    yield from _wrapped(f.because[:1].upper() + f.because[1:] + ".", width, "  ")
    if f.remedy is not None and f.severity != "info":
        yield from _wrapped(f"fix: {f.remedy.action} {f.remedy.where}" + (f": {f.remedy.hint}" if f.remedy.hint else ""), width, "  ")


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _ladder(report: Report) -> Iterator[str]:
    yield ""
    yield "ladder: the optimizer step at which each tensor first gets a gradient"
    rungs: dict[str, list[str]] = {}
    for t in report.trace.tensors:
        key = str(t.wake) if t.wake is not None else {"frozen": "frozen"}.get(t.status, f"never ({t.status})")
        rungs.setdefault(key, []).append(t.name)
    for rung in sorted(rungs):
        yield f"  {rung}: {', '.join(rungs[rung])}"


_COLUMNS = ("layer", "shape", "scheme", "activation", "forward", "backward", "grad/weight", "linear", "saturated", "dead", "units")


def _table(layers: tuple[LayerTrace, ...]) -> Iterator[str]:
    rows = [_COLUMNS[:-1], *(_row(r) for r in layers)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    yield ""
    for row in rows:
        yield "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()


def _row(r: LayerTrace) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2g}"

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.0%}"

    shape = "x".join(map(str, r.shape))
    return (r.name, shape, r.scheme, r.activation or "-", number(r.forward_rms), number(r.backward_rms),
            number(r.gradient_to_weight), share(r.linear), share(r.saturated), share(r.dead))  # fmt: skip


def _tail(report: Report, hidden: int) -> str:
    trace = report.trace
    counts = Counter(f.severity for f in report.findings)
    told = ", ".join(f"{counts[s]} {s}{'s' if counts[s] != 1 and s != 'info' else ''}" for s in ("error", "warning", "info") if counts[s])
    more = f" ({hidden} not shown, see --verbose)" if hidden else ""
    ran = f"{trace.passes:g} passes in {trace.precision}, {trace.steps} steps, seed {trace.seed}"
    code = report.findings[0].code if report.findings else "SB101"
    return f"{told or 'no findings'}{more}; {ran}. Next: symbreak rule {code}"
