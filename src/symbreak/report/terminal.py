"""The report as text: the verdict first, findings as blocks, tables only for summaries, last a count and what next."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from symbreak.records import Finding, LayerTrace, TensorTrace, Trace
from symbreak.rules import find, judge
from symbreak.rules.grouping import called, layers, listed, patterns

if TYPE_CHECKING:
    from .report import Report

_COLORS = {
    "error": "31",
    "warning": "33",
    "info": "36",
    "stuck": "31",
    "redundant": "31",
    "degraded": "33",
    "healthy": "32",
    "unknown": "35",
}
_MOST_INFO = 6  # blocks of information shown without --verbose
_PROVED = {
    "SB0": " Proved for every batch and every later step.",
    "SB1": " Proved for every batch and every value of the other weights.",
}  # the kind of rule -> what is said of a proof
_FOLD = 3  # this many findings that differ only in the place are told in one block
_ASCII = str.maketrans({"×": "x", "→": "->", "≥": ">=", "≤": "<=", "–": "-", "…": "...", "·": "-", "±": "+-"})
_WORD = re.compile(r"[\w.*]*[\w*]")
_SAME = re.compile(r"([@#])(?:(?:, | and |-)\1)+")


def render(report: Report, *, width: int, color: bool, verbose: bool, concise: bool, ascii_only: bool) -> str:
    """See `Report.to_text`."""
    paint = _Paint(color)
    text = "\n".join(_concise(report, paint) if concise else _full(report, max(40, width), paint, verbose))
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
    first, *rest = _wrapped(f"{report.verdict}: {sentence(report)}", width, "")
    yield paint(report.verdict, report.verdict) + first.removeprefix(report.verdict)
    yield from rest
    folded = _folded(report)
    shown = _shown(folded, verbose)
    for group in shown:
        yield ""
        yield from _block(report.trace, group, width, paint, verbose)
    for assumption in dict.fromkeys(str(f.evidence["assumes"]) for f in report.findings if "assumes" in f.evidence):
        yield ""
        yield from _wrapped(f"What is proved assumes {assumption}.", width, "")
    if verbose:
        yield from _ladder(report.trace, width)
        yield from _table(report)
    yield ""
    yield from _wrapped(_tail(report, sum(map(len, folded)) - sum(map(len, shown))), width, "")


# ---- the verdict -----------------------------------------------------------------------------------------------


def sentence(report: Report) -> str:
    """The verdict in one sentence, which claims nothing that was not measured."""
    trace = report.trace
    everything, verdict = judge(trace)
    if report.verdict != verdict:  # rules were left out
        silent = sum(f.severity != "info" for f in everything) - sum(f.severity != "info" for f in report.findings)
        return (
            f"by the chosen rules alone; those left out find {_count(silent, 'more fault')} in "
            f"{trace.model}, with all of them it is {verdict}."
        )
    said = {"stuck": _stuck, "redundant": _redundant, "degraded": _degraded, "healthy": _healthy, "unknown": _unknown}
    return f"{said[verdict](report)}."


def _stuck(report: Report) -> str:
    trace, trainable = report.trace, _trainable(report.trace)
    asleep = [t for t in trainable if t.status == "asleep"]
    share = sum(t.numel for t in asleep) / max(1, sum(t.numel for t in trainable))
    if len(asleep) == len(trainable) > 1:
        return f"none of the {len(trainable)} trainable tensors of {trace.model} ever gets a gradient from this start"
    if asleep:
        percent = f"{share:.0%}" if 0.005 <= share <= 0.995 or share == 1 else "over 99%" if share > 0.5 else "under 1%"
        verb = "gets" if len(asleep) == 1 else "get"
        return (
            f"{len(asleep)} of {_count(len(trainable), 'trainable tensor')} of {trace.model} "
            f"({percent} of the weights) never {verb} a gradient from this start"
        )
    places = layers(trace, list(dict.fromkeys(f.where for f in _errors(report, "SB1"))))
    return f"units of {places} in {trace.model} never get a gradient from this start"


def _redundant(report: Report) -> str:
    trace = report.trace
    layers = list(dict.fromkeys(f.where for f in _errors(report, "SB001") if _is_narrow(report, f.where)))
    if layers:
        worst = min(layers, key=lambda name: report.width[name][0] / report.width[name][1])
        distinct, units = report.width[worst]
        many = f"{len(layers)} layers of {trace.model} hold" if len(layers) > 1 else f"a layer of {trace.model} holds"
        return (
            f"{many} units that stay copies of one another; {called(trace, worst)} has "
            f"{_count(units, 'unit')}, of which {distinct} {'is' if distinct == 1 else 'are'} distinct"
        )
    found = list(dict.fromkeys(f.slug.removeprefix("tied-") for f in _errors(report, "SB00")))
    return f"{trace.model} holds {listed(found)} that stay copies of one another"


def _degraded(report: Report) -> str:
    codes = list(dict.fromkeys(f"{f.slug} ({f.code})" for f in report.findings if _spoils(f)))
    return f"{' and '.join(_learns(report))}, but the start will slow or spoil training: {listed(codes)}"


def _spoils(f: Finding) -> bool:
    return f.severity == "warning" and f.decisive and find(f.code).verdict is not None


def _healthy(report: Report) -> str:
    trace = report.trace
    measured = [r for r in trace.layers if r.forward_rms is not None and r.backward_rms is not None]
    parts = [*_learns(report), *(["the signal survives"] if len(measured) > 2 else [])]
    return ", and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _unknown(report: Report) -> str:
    why = next((f.because for f in report.findings if f.severity == "error"), "nothing could be measured")
    return f"{report.trace.model} could not be judged: {why}"


def _learns(report: Report) -> list[str]:
    """How many tensors get a gradient, from when on, what is true of the others, and whether units are copies."""
    trainable = _trainable(report.trace)
    live = [t for t in trainable if t.status == "live"]
    steps = max((t.wake or 1 for t in live), default=1)
    when = "at the first step" if steps == 1 else f"by step {steps}"
    words = {
        "unused": "unused",
        "starved": "without data",
        "absorbed": "shadowed",
        "tied": "behind copies",
        "asleep": "asleep",
    }
    others = Counter(words[t.status] for t in trainable if t.status != "live")
    who = (
        f"{'both' if len(live) == 2 else f'all {len(live)}'} trainable tensors"
        if len(live) > 1
        else "the only trainable tensor"
    )
    if others:
        who = f"{len(live)} of {_count(len(trainable), 'trainable tensor')}"
    rest = f" ({', '.join(f'{n} {word}' for word, n in others.items())})" if others else ""
    verb = "gets" if len(live) == 1 else "get"
    copies = [] if any(_is_narrow(report, name) for name in report.width) else ["no unit stays a copy of another"]
    return [f"{who} of {report.trace.model} {verb} a gradient {when}{rest}", *copies]


def _trainable(trace: Trace) -> list[TensorTrace]:
    return [t for t in trace.tensors if t.status != "frozen"]


def _errors(report: Report, prefix: str) -> list[Finding]:
    return [f for f in report.findings if f.severity == "error" and f.decisive and f.code.startswith(prefix)]


def _is_narrow(report: Report, layer: str) -> bool:
    distinct, units = report.width.get(layer, (0, 0))
    return distinct < units


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


# ---- findings --------------------------------------------------------------------------------------------------


def _folded(report: Report) -> list[list[Finding]]:
    """Findings that say the same of many places stand together, so that a hundred layers do not fill the screen."""
    names = _names(report.trace)
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for f in report.findings:
        groups.setdefault((f.code, f.severity, f.standing, _skeleton(f.because, names)), []).append(f)
    return [part for group in groups.values() for part in ([group] if len(group) >= _FOLD else [[f] for f in group])]


def _names(trace: Trace) -> set[str]:
    names = {n for t in trace.tensors for n in (t.name, t.layer)} | {m for t in trace.twins for m in t.modules}
    return names | {r.name for r in trace.layers} | {a.where for a in trace.activations}


def _skeleton(text: str, names: set[str]) -> str:
    """The sentence without its names and numbers."""

    def mark(match: re.Match[str]) -> str:
        word = match.group()
        if word in names or "*" in word:
            return "@"
        return "#" if word[0].isdigit() else word

    return _SAME.sub(r"\1", _WORD.sub(mark, re.sub(r"layer (\d+) \(\w+\)", r"\1", text)))


def _shown(folded: Sequence[list[Finding]], verbose: bool) -> list[list[Finding]]:
    loud = [g for g in folded if g[0].severity != "info"]
    quiet = [g for g in folded if g[0].severity == "info"]
    return [*loud, *(quiet if verbose else quiet[:_MOST_INFO])]


def _block(trace: Trace, group: list[Finding], width: int, paint: _Paint, verbose: bool) -> Iterator[str]:
    f = group[0]
    yield f"{paint(f.severity, f.severity)} {f.code} {f.slug}  {called(trace, f.where)}"
    yield from _wrapped(
        _capital(f.because, _names(trace)) + f".{_PROVED[f.code[:3]] if f.standing == 'proved' else ''}", width, "  "
    )
    if len(group) > 1:
        yield from _wrapped(
            f"Likewise {len(group) - 1} more: {_places(trace, [g.where for g in group[1:]], verbose)}.", width, "  "
        )
    if f.remedy is not None and f.severity != "info":
        yield from _wrapped(f"fix: {f.remedy.hint or f'{f.remedy.action} {f.remedy.where}'}", width, "  ")


def _places(trace: Trace, names: list[str], verbose: bool) -> str:
    return layers(trace, names, len(names)) if verbose else layers(trace, patterns(names), 6)


def _capital(text: str, names: set[str]) -> str:
    """A sentence starts with a capital letter, unless it starts with a name."""
    first = text.partition(" ")[0].strip(",:")
    return text if first in names or "." in first or "*" in first else text[:1].upper() + text[1:]


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


# ---- the summaries of --verbose --------------------------------------------------------------------------------


def _ladder(trace: Trace, width: int) -> Iterator[str]:
    if not trace.steps:
        return
    yield ""
    yield "ladder: the optimizer step at which each tensor first gets a gradient"
    rungs: dict[tuple[int, str], list[str]] = {}
    for t in trace.tensors:
        never = "frozen" if t.status == "frozen" else f"never ({t.status})"
        rungs.setdefault((t.wake, str(t.wake)) if t.wake is not None else (10**9, never), []).append(t.name)
    for (_, rung), names in sorted(rungs.items()):
        yield from textwrap.wrap(f"{rung}: {', '.join(names)}", width, initial_indent="  ", subsequent_indent="     ",
                                 break_long_words=False, break_on_hyphens=False)  # fmt: skip


_Column = tuple[str, str, Callable[[LayerTrace], str]]  # heading, "<" or ">", cell


def _table(report: Report) -> Iterator[str]:
    """One row a layer; columns that are empty everywhere are left out. The scheme, which may be long, stands last."""
    if not report.layers:
        return
    columns: tuple[_Column, ...] = (
        ("layer", "<", lambda r: r.name),
        ("kind", "<", lambda r: r.kind),
        ("shape", "<", lambda r: "x".join(map(str, r.shape))),
        ("distinct", ">", lambda r: _of(report.width.get(r.name))),
        ("forward", ">", lambda r: _number(r.forward_rms)),
        ("backward", ">", lambda r: _number(r.backward_rms)),
        ("grad/weight", ">", lambda r: _number(r.gradient_to_weight)),
        ("activation", "<", lambda r: r.activation or "-"),
        ("linear", ">", lambda r: _share(r.linear)),
        ("saturated", ">", lambda r: _share(r.saturated)),
        ("dead", ">", lambda r: _share(r.dead)),
        ("scheme", "<", lambda r: r.scheme),
    )
    yield ""
    yield "layers: distinct units of all, root mean squares forward and backward, shares of samples in each activation"
    cells = [[heading, *(cell(r) for r in report.layers)] for heading, _, cell in columns]
    kept = [(column, side) for column, (_, side, _) in zip(cells, columns, strict=True) if set(column[1:]) != {"-"}]
    widths = [max(map(len, column)) for column, _ in kept]
    for row in zip(*(column for column, _ in kept), strict=True):
        yield "  " + "  ".join(f"{c:{side}{w}}" for c, (_, side), w in zip(row, kept, widths, strict=True)).rstrip()


def _of(width: tuple[int, int] | None) -> str:
    return "-" if width is None else f"{width[0]}/{width[1]}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.{3 if 99.5 <= abs(value) < 999.5 else 2}g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


# ---- the end ---------------------------------------------------------------------------------------------------


def _tail(report: Report, hidden: int) -> str:
    trace = report.trace
    more = f" ({hidden} not shown, see --verbose)" if hidden else ""
    ran = "nothing was run"
    if trace.steps:
        ran = (
            f"{_count_of(trace.passes, 'pass', 'passes')} in {trace.precision}, "
            f"{_count(trace.steps, 'step')}, seed {trace.seed}"
        )
    then = f"symbreak rule {report.findings[0].code}" if report.findings else "--verbose for every layer"
    return f"{_told(report.findings) or 'no findings'}{more}; {ran}. Next: {then}"


def _count_of(n: float, one: str, many: str) -> str:
    return f"{n:g} {one if n == 1 else many}"


def _told(findings: Iterable[Finding]) -> str:
    counts: Counter[str] = Counter(f.severity for f in findings)
    words = [_count(counts["error"], "error"), _count(counts["warning"], "warning"), f"{counts['info']} info"]
    return ", ".join(w for w, s in zip(words, ("error", "warning", "info"), strict=True) if counts[s])
