"""What the check must say of each model: the true findings of `expected.toml`, and nothing of the kind elsewhere."""

import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from real_models.measure import Row

BROKEN = frozenset({"stuck", "redundant", "unknown"})


@cache
def true_findings() -> dict[str, dict[str, object]]:
    return tomllib.loads((Path(__file__).parent / "expected.toml").read_text())


def disagreement(row: Row) -> str:
    """What is wrong with a verdict, in words; empty where it is as it should be."""
    if row.error:
        return row.error
    truth = true_findings().get(row.name)
    if row.published and truth is not None:
        truth = {**truth, "verdict": truth["published"], "where": []} if "published" in truth else None
    if truth is None:
        return f"{row.verdict}, but nothing is known to be wrong with it" if row.verdict in BROKEN else ""
    if row.verdict not in strings(truth["verdict"]):
        return f"{row.verdict}, but {truth['reason']}"
    named = [f"{finding['where']} {finding['because']}" for finding in row.findings]
    missing = [place for place in strings(truth.get("where", [])) if not any(place in text for text in named)]
    return f"the verdict is right, but no finding names {', '.join(missing)}" if missing else ""


def strings(entry: object) -> list[str]:
    assert isinstance(entry, Iterable), entry
    return [str(part) for part in entry]
