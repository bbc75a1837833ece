"""An explanation for a notebook, with what an untrusted one keeps: tables, <details>, data-URI image, inline styles."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from symbreak.explanations import picture
from symbreak.explanations.evidence import Caveat, Criterion, Table
from symbreak.explanations.text import judged, shown

if TYPE_CHECKING:
    from symbreak.explanations.explanation import Explanation

_CELL = 'style="text-align:right;padding:2px 10px"'
_QUIET = 'style="color:#666;font-size:90%"'


def render(explanation: Explanation) -> str:
    """See `Explanation._repr_html_`. Formulas are LaTeX between dollars, which a notebook typesets, and plain text."""
    return "\n".join(_parts(explanation))


def _parts(e: Explanation) -> Iterator[str]:
    yield '<div style="max-width:60em">'
    yield f"<h3>{escape(e.asks)}</h3>"
    yield f"<p>{escape(e.claim)}</p>"
    color, verdict = ("#00684a", "Settled") if e.settled else ("#a32a00", "Not settled")
    yield f'<p><b style="color:{color}">{verdict}</b> on {escape(e.data)} (seed {e.seed}).</p>'
    yield _image(e)
    yield "<details><summary>Derivation</summary><ol>"
    for step in e.derivation:
        standing = f"{step.standing}: {step.source}" if step.source else step.standing
        yield f"<li>{escape(step.sentence)} <span {_QUIET}>[{escape(standing)}]</span>"
        yield f"<div>${escape(step.formula.latex)}$</div><code {_QUIET}>{escape(step.formula.plain)}</code></li>"
    yield "</ol></details>"
    yield "<details open><summary>Experiment</summary>"
    yield f"<p>{escape(e.experiment.how)}</p>"
    yield from map(_table, e.experiment.tables)
    yield _criteria(e.experiment.criteria)
    yield "</details><details><summary>It fails when</summary><ul>"
    yield from map(_caveat, e.fails_when)
    yield "</ul></details><details><summary>Sources</summary><ul>"
    yield from (f"<li>{escape(source)}</li>" for source in e.sources)
    yield "</ul></details></div>"


def _image(e: Explanation) -> str:
    try:
        drawn = picture.png(e.experiment.picture, dpi=96)
    except picture.PictureError as err:
        return f"<p {_QUIET}>{escape(str(err))}</p>"
    encoded, alt = base64.b64encode(drawn).decode(), escape(e.experiment.picture.title, quote=True)
    return f'<img alt="{alt}" src="data:image/png;base64,{encoded}">'


def _table(table: Table) -> str:
    head = "".join(f"<th {_CELL}>{escape(column)}</th>" for column in table.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td {_CELL}>{escape(shown(cell))}</td>' for cell in row)}</tr>" for row in table.rows
    )
    return f"<p>{escape(table.caption)}</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _criteria(criteria: tuple[Criterion, ...]) -> str:
    if not criteria:
        return ""
    lines = (f"<li>{'✓' if one.met else '✗'} {escape(judged(one))}</li>" for one in criteria)
    return f'<ul style="list-style:none">{"".join(lines)}</ul>'


def _caveat(caveat: Caveat) -> str:
    said = f"<br><i>Often said: “{escape(caveat.often_said)}”</i>" if caveat.often_said else ""
    return f"<li>{escape(caveat.when)}{said}{''.join(map(_table, caveat.tables))}{_criteria(caveat.criteria)}</li>"
