"""An explanation as plain text: no colour, no cut lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from symbreak.explanations.evidence import Caveat, Cell, Criterion, Table

if TYPE_CHECKING:
    from symbreak.explanations.explanation import Explanation

_ASCII = str.maketrans({"—": "-", "–": "-", "’": "'", "“": '"', "”": '"', "×": "x", "≤": "<=", "≥": ">=", "…": "..."})
_ASCII |= str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "é": "e", "è": "e", "ś": "s", "ó": "o"})
_STANDING = {"definition": "definition", "algebra": "checked by sympy", "cited": "cited"}


def render(explanation: Explanation, *, width: int, ascii_only: bool) -> str:
    """See `Explanation.to_text`."""
    text = "\n".join(_lines(explanation, max(40, width))) + "\n"
    return text.translate(_ASCII).encode("ascii", "replace").decode() if ascii_only else text


def _lines(e: Explanation, width: int) -> Iterator[str]:
    yield from _wrapped(f"{e.question}: {e.asks}", width, "")
    yield ""
    yield from _wrapped(e.claim, width, "  ")
    yield ""
    verdict = "Settled" if e.settled else "NOT SETTLED"
    yield from _wrapped(f"{verdict} on {e.data} (seed {e.seed}).", width, "  ")
    yield ""
    yield "Derivation"
    for number, step in enumerate(e.derivation, start=1):
        source = f": {step.source}" if step.source else ""
        yield from _wrapped(f"{number}. {step.sentence} [{_STANDING[step.standing]}{source}]", width, "  ", hang=3)
        yield from _wrapped(step.formula.plain, width, " " * 9, hang=4)
    yield ""
    yield "Experiment"
    yield from _wrapped(e.experiment.how, width, "  ")
    for table in e.experiment.tables:
        yield ""
        yield from _table(table, width)
    yield ""
    for criterion in e.experiment.criteria:
        yield from _criterion(criterion, width)
    yield ""
    yield "It fails when"
    for caveat in e.fails_when:
        yield from _caveat(caveat, width)
    yield ""
    yield "Sources"
    for source in e.sources:
        yield from _wrapped(f"- {source}", width, "  ", hang=2)


def _wrapped(text: str, width: int, indent: str, hang: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent + " " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(table: Table, width: int) -> Iterator[str]:
    yield from _wrapped(table.caption, width, "  ")
    rows = [table.columns, *(tuple(map(shown, row)) for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    numeric = [all(not isinstance(row[c], str) for row in table.rows) for c in range(len(table.columns))]
    for row in rows:
        cells = (
            cell.rjust(size) if right else cell.ljust(size)
            for cell, size, right in zip(row, widths, numeric, strict=True)
        )
        yield f"    {'  '.join(cells)}".rstrip()


def _criterion(criterion: Criterion, width: int, indent: str = "  ") -> list[str]:
    mark = "yes" if criterion.met else "NO "
    return _wrapped(f"{mark}  {judged(criterion)}", width, indent, hang=5)


def judged(criterion: Criterion) -> str:
    """The criterion with its number and bound, in one line."""
    return f"{criterion.states}: {shown(criterion.value)} {criterion.relation} {shown(criterion.bound)}"


def _caveat(caveat: Caveat, width: int) -> Iterator[str]:
    yield from _wrapped(f"- {caveat.when}", width, "  ", hang=2)
    if caveat.often_said:
        yield from _wrapped(f'Often said: "{caveat.often_said}"', width, "    ")
    for table in caveat.tables:
        yield from _table(table, width)
    for criterion in caveat.criteria:
        yield from _criterion(criterion, width, "    ")
    if caveat.shown is False:
        yield from _wrapped("The counterexample did not show it on this data.", width, "    ")


def shown(cell: Cell) -> str:
    """A number to four digits; whole numbers up to a million as they are.

    Example:
        >>> shown(0.123456), shown(3), shown(True), shown(None), shown(1e18)
        ('0.1235', '3', 'yes', '-', '1e+18')
    """
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, str):
        return cell
    if float(cell) == 0:
        return "0"
    return str(int(cell)) if float(cell).is_integer() and abs(cell) < 1e7 else f"{float(cell):.4g}"
