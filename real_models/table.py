"""Rows for people: a line on the terminal, a table in the documentation."""

from collections import Counter
from itertools import groupby
from pathlib import Path

from real_models import zoo
from real_models.measure import Row

SIXTY = ("<!-- begin: written by real_models.run -->", "<!-- end -->")
ALL = ("<!-- begin: every architecture, written by real_models.run -->", "<!-- end: every architecture -->")
VERDICTS = ("healthy", "degraded", "redundant", "stuck", "unknown", "error")
SHOWN = 3


def as_text(row: Row, wrong: str) -> str:
    mark = "  <- " + wrong if wrong else ""
    return (
        f"{row.name:38} {outcome(row):10} {row.seconds:6.1f} s {row.passes:5.1f} passes"
        f" {row.tensors:5} tensors {row.parameters:9} weights {row.dtype:8} {row.peak_mb:5} MB{mark}"
    )


def as_markdown(rows: list[Row]) -> str:
    head = "| model | verdict | errors and warnings | weights | passes | seconds |\n|---|---|---|---|---|---|"
    return "\n".join([head, *(markdown_row(row) for row in rows)])


def by_library(rows: list[Row]) -> str:
    """How many models of each library got which verdict, and a row for each model that is not healthy."""
    head = f"| library | models | {' | '.join(VERDICTS)} |\n|{'---|' * (2 + len(VERDICTS))}"
    counts = [library_row(name, list(some)) for name, some in groupby(rows, lambda row: zoo.library(row.name))]
    others = [row for row in rows if outcome(row) != "healthy"]
    return "\n".join([head, *counts, library_row("**all**", rows), "", as_markdown(others)])


def library_row(name: str, rows: list[Row]) -> str:
    count = Counter(outcome(row) for row in rows)
    return f"| {name} | {len(rows)} | {' | '.join(str(count[verdict] or '') for verdict in VERDICTS)} |"


def outcome(row: Row) -> str:
    return "error" if row.error else row.verdict or "runs"


def markdown_row(row: Row) -> str:
    said = row.error or findings_in_words(row)
    cost = f"{row.parameters:,} | {row.passes:.1f} | {row.seconds:.1f}"
    return f"| `{row.name}` | {row.verdict or 'error'} | {said} | {cost} |"


def findings_in_words(row: Row) -> str:
    """The first places of each code, errors before warnings: `SB101 a.weight, b.weight and 7 more`."""
    grouped: dict[str, list[str]] = {}
    for severity in ("error", "warning"):
        for finding in row.findings:
            if finding["severity"] == severity:
                grouped.setdefault(finding["code"], []).append(f"`{finding['where']}`")
    return "; ".join(f"{code} {some_of(places)}" for code, places in grouped.items())


def some_of(places: list[str]) -> str:
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return ", ".join(places[:SHOWN]) + more


def put_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between the two markers, and nothing else."""
    before, _, rest = page.read_text().partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"{page} lacks {begin} or {end}"
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
