"""A rule: a stable code, a slug, a severity, the verdict it leads to, and the function that decides and explains."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from symbreak.records import Claim, Finding, Severity, Trace, Verdict

Decide = Callable[[Trace], Iterator[Claim]]


@dataclass(frozen=True)
class Rule:
    """One row of the rule list.

    Attributes:
        verdict: what a finding at the rule's own severity makes of the model; None where it changes nothing.
    """

    code: str
    slug: str
    severity: Severity
    verdict: Verdict | None
    decide: Decide

    def findings(self, trace: Trace) -> Iterator[Finding]:
        """Every place where the rule fires."""
        for claim in self.decide(trace):
            yield Finding(
                code=self.code,
                slug=self.slug,
                severity=claim.severity or self.severity,
                where=claim.where,
                because=claim.because,
                units=claim.units,
                evidence=claim.evidence,
                standing=claim.standing,
                remedy=claim.remedy,
                decisive=claim.decisive,
            )

    @property
    def page(self) -> str:
        """The rule's page: what it says, why it matters, the smallest model where it fires, and a silent twin."""
        from .examples import EXAMPLES

        title = f"{self.code} {self.slug} ({self.severity})"
        parts = [title, "=" * len(title), "", inspect.getdoc(self.decide) or ""]
        fires, silent = EXAMPLES.get(self.code, (None, None))
        for heading, twin in (("Fires on", fires), ("Silent on", silent)):
            if twin is not None:
                body = inspect.cleandoc("\n" + inspect.getsource(twin).partition("def ")[2].partition("\n")[2])
                parts += [
                    "",
                    f"{heading}: {inspect.getdoc(twin) or ''}",
                    "",
                    *("    " + line if line else "" for line in _code(body)),
                ]
        return "\n".join(parts)


def _code(body: str) -> list[str]:
    """The lines of a twin below its docstring."""
    lines = body.splitlines()
    end = next((i for i, line in enumerate(lines) if line.rstrip().endswith('"""')), -1)
    return lines[end + 1 :]


def rule(code: str, slug: str, severity: Severity, verdict: Verdict | None = None) -> Callable[[Decide], Rule]:
    """Make a rule of a function that yields claims."""

    def make(decide: Decide) -> Rule:
        return Rule(code, slug, severity, verdict, decide)

    return make
