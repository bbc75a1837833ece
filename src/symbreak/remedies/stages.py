"""The story of a repair: one kind of fault after the other, each by the smallest set of parts that heals it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from symbreak.errors import RemedyError
from symbreak.probe import fingerprint, unwrap
from symbreak.records import Asked, Finding, Verdict
from symbreak.report import Report
from symbreak.rules import judge

from . import nonfinite, prior, refan, rescale, shift, split, wake
from .bench import Bench, Progress
from .faults import faults, weight
from .part import Part
from .plan import Plan
from .smallest import Heals, fewer, smallest

Propose = Callable[[Bench, Sequence[Finding]], Iterable[Part]]
Place = tuple[str, str]


@dataclass(frozen=True)
class Stage:
    """One kind of fault.

    Attributes:
        takes: which findings tell of it.
        propose: parts of a repair, of which the smallest set that heals is taken.
        alternatives: whether they are whole repairs, of which one is taken.
        instead: whole repairs to try where no set of parts heals, or only one that brings new findings or takes noise.
    """

    takes: Callable[[Finding], bool]
    propose: Propose
    alternatives: bool = False
    instead: Propose = field(default=lambda bench, findings: ())  # noqa: ARG005 (one signature)


STAGES = (
    Stage(nonfinite.takes, nonfinite.propose),
    Stage(refan.takes, refan.propose),
    Stage(shift.takes, shift.propose),
    Stage(rescale.takes, rescale.propose, alternatives=True),
    Stage(wake.takes, wake.propose),
    Stage(split.takes, split.propose, instead=split.anew),
    Stage(prior.takes, prior.propose, alternatives=True),
)
"""In the order of treatment: what hides other faults comes first."""
SEVERITY: tuple[Verdict, ...] = ("unknown", "stuck", "redundant", "degraded", "healthy")
ROUNDS = 3  # a repair may bring to light what was hidden: zeros hide copies
TRIES = 24  # checks that the search for the smallest set may cost, a stage
FEWER_TRIES = 12  # checks that leaving draws out of a part may cost
DEEP = 4  # layers that hide one another, each treated once the one before it is healed


@dataclass
class _State:
    """What is still open, and why some of it stays so."""

    bench: Bench
    unasked: frozenset[Place] = frozenset()  # of rules that the user left out; what a repair brings to light is asked
    given_up: dict[Place, str] = field(default_factory=dict)
    tried: set[tuple[Propose, Place]] = field(default_factory=set)  # a fault may be taken by two kinds of repair

    def open(self, report: Report, stage: Stage) -> list[Finding]:
        """What a stage has to heal: its findings in this report, less those it gave up."""
        return [f for f in faults(report) if stage.takes(f) and self._is_open((f.code, f.where), stage)]

    def _is_open(self, place: Place, stage: Stage) -> bool:
        return place not in self.unasked and (stage.propose, place) not in self.tried


def repair(model: nn.Module, report: Report, *, unsafe: bool = False, progress: Progress | None = None) -> Plan:
    """Find the smallest change that heals what the report found. The model is only borrowed.

    Raises:
        RemedyError: the report is of another model or of other weights, or does not know what check was given.
    """
    model = unwrap(model)
    asked = _asked(model, report)
    before = _whole(report)
    bench = Bench(model, asked, before, unsafe=unsafe, progress=progress)
    state = _State(bench, _places(before) - _places(report))
    for _ in range(ROUNDS):
        state.tried.clear()  # what one kind of repair could not heal may give way after another
        treated = [_treat(state, stage) for stage in STAGES]
        if not any(treated):
            break
    return Plan.of(bench, report=report, before=before, given_up=state.given_up)


def _places(report: Report) -> frozenset[Place]:
    return frozenset((f.code, f.where) for f in faults(report))


def _asked(model: nn.Module, report: Report) -> Asked:
    if not isinstance(model, nn.Module):
        raise RemedyError(f"fix() got {type(model).__name__}; expected the torch.nn.Module that the report is of.")
    if not isinstance(report, Report):
        raise RemedyError(
            f"fix() got {type(report).__name__} as report; expected what symbreak.check(model, ...) returned."
        )
    asked = report._asked
    if asked is None:
        raise RemedyError(
            f"the report of {report.trace.model} does not know what check was given (it was copied or unpickled). "
            "Run symbreak.check(model, batch, loss) here and pass its report."
        )
    empty = next((n for n, p in model.named_parameters() if p.is_meta), None)
    if empty is not None:
        raise RemedyError(f"{empty!r} of {type(model).__name__} is on the meta device and has no values to repair.")
    lazy = next((n for n, p in model.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)), None)
    if lazy is not None:
        raise RemedyError(
            f"{lazy!r} of {type(model).__name__} is lazy and has no weights to repair. Run one batch through the "
            "model, check it and pass its report."
        )
    now = fingerprint(model)
    shapes, known = ({n: f[:2] for n, f in prints.items()} for prints in (now, asked.fingerprint))
    if shapes != known:
        odd = next(n for n in (*shapes, *known) if shapes.get(n) != known.get(n))
        raise RemedyError(
            f"the report is of another model: a {report.trace.model} with {len(known)} tensors, not this "
            f"{type(model).__name__} with {len(shapes)}; {odd!r} is the first that differs. Check this model and pass "
            "its report."
        )
    changed = [n for n in now if now[n] != asked.fingerprint[n]]
    if changed:
        raise RemedyError(
            f"{changed[0]!r} of {type(model).__name__} has changed since the report was made (and "
            f"{len(changed) - 1} more). Check the model again and pass the new report."
        )
    return asked


def _whole(report: Report) -> Report:
    """The report with every rule's findings, also where the user selected some: a repair must not break the others."""
    findings, verdict = judge(report.trace)
    return replace(report, verdict=verdict, findings=findings)


def _treat(state: _State, stage: Stage) -> bool:
    """Heal what this stage can; True where something was chosen."""
    bench, chosen = state.bench, False
    for _ in range(DEEP):
        findings = state.open(bench.report, stage)
        if not findings:
            break
        parts = list(stage.propose(bench, findings))
        found = _chosen(state, stage, findings, parts) if parts else None
        if found is None:
            reason = _why_not(bench, findings, parts)
            state.given_up.update({(f.code, f.where): reason for f in findings})
            state.tried.update((stage.propose, (f.code, f.where)) for f in findings)
            break
        some, bench.report = found
        bench.choose(some)
        chosen = True
    return chosen


@dataclass(frozen=True)
class _Trial:
    """What a new check said of a set of parts."""

    report: Report
    left: float  # what the stage has to heal and did not
    new: int  # findings that were not there


def _chosen(
    state: _State, stage: Stage, findings: Sequence[Finding], parts: Sequence[Part]
) -> tuple[list[Part], Report] | None:
    """The smallest set that leaves nothing open and breaks nothing; else the set that leaves the least."""
    bench = state.bench
    open_now = sum(map(weight, state.open(bench.report, stage)))
    known = _places(bench.report)
    trials: dict[frozenset[int], _Trial] = {}

    def heals(some: Sequence[Part]) -> bool:
        report = bench.report_with(some)
        if report is None or _worse(report, bench.report, stage):
            return False
        left = sum(map(weight, state.open(report, stage)))
        trials[_key(some)] = _Trial(report, left, len(_places(report) - known))
        return not left

    if stage.alternatives:
        found = next(([part] for part in parts[:TRIES] if heals([part])), None)
    else:
        found = smallest(parts, heals, clean=lambda some: not trials[_key(some)].new, tries=TRIES)
    if found is None or trials[_key(found)].new or any(part.action == "jitter" for part in found):
        whole = ([part] for part in stage.instead(bench, findings))
        found = next((some for some in whole if heals(some) and not trials[_key(some)].new), found)
    if found is None:
        best = min(trials, key=lambda key: (trials[key].left, len(key)), default=None)
        if best is None or trials[best].left >= open_now:
            return None
        found = [p for p in parts if id(p) in best]
    left = _places(trials[_key(found)].report)  # also of what other stages heal
    found = _fewer_draws(found, lambda some: heals(some) and _places(trials[_key(some)].report) <= left)
    return found, trials[_key(found)].report


def _fewer_draws(some: Sequence[Part], heals: Heals[Part]) -> list[Part]:
    """The same parts without the draws that it takes not: what is drawn anew forgets what it was."""
    pieces = [piece for part in some for piece in _singly(part)]
    drawn = [piece for piece in pieces if piece.action == "draw"]

    def with_these(kept: Sequence[Part]) -> list[Part]:
        chosen = _key(kept)
        return [piece for piece in pieces if piece.action != "draw" or id(piece) in chosen]

    kept = fewer(drawn, lambda these: heals(with_these(these)), tries=FEWER_TRIES) if len(drawn) > 1 else drawn
    return with_these(kept) if len(kept) < len(drawn) else list(some)


def _singly(part: Part) -> list[Part]:
    """A part that draws several tensors, in one part a tensor; any other as it is."""
    return [replace(part, edits=(edit,)) for edit in part.edits] if part.action == "draw" else [part]


def _key(parts: Sequence[Part]) -> frozenset[int]:
    return frozenset(map(id, parts))


def _worse(report: Report, before: Report, stage: Stage) -> bool:
    """Whether a repair brings errors that were not there, unless it takes more of them away.

    What was hidden behind the fault may come to light: copies behind zeros, everything behind numbers that are none.
    """
    if SEVERITY.index(report.verdict) < SEVERITY.index(before.verdict):
        return True
    if before.verdict == "unknown":
        return False
    errors, known = _errors(report), _places(before)
    shown = frozenset() if stage.propose is split.propose else split.CODES
    new = [f for f in errors if (f.code, f.where) not in known and not stage.takes(f) and f.code not in shown]
    return bool(new) and len(errors) >= len(_errors(before))


def _errors(report: Report) -> list[Finding]:
    return [f for f in report.findings if f.severity == "error"]


def _why_not(bench: Bench, findings: Sequence[Finding], parts: Sequence[Part]) -> str:
    more = f" (and {len(bench.refusals) - 1} more)" if len(bench.refusals) > 1 else ""
    alone = [f"{name} {reason}{more}" for name, reason in list(bench.refusals.items())[:1]]
    if alone and not parts:
        return alone[0]
    hint = [findings[0].remedy.hint] if findings[0].remedy is not None else []
    return "; ".join(["no change of the weights that was tried heals it", *alone, *hint])
