"""`symbreak rule`."""

from __future__ import annotations

import click

from symbreak.cli.outcome import CLEAN, told
from symbreak.cli.terminal import say


@click.command(short_help="The page of a rule, or the list of rules.")
@click.argument("code", required=False)
@told
def rule(code: str | None) -> int:
    """The page of a rule, by its code or its name; without one, the list of rules."""
    from symbreak import rules

    if code is not None:
        say(rules.find(code).page)
        return CLEAN
    widest = max(len(row.slug) for row in rules.RULES)
    for row in rules.RULES:
        say(f"{row.code}  {row.slug:<{widest}}  {row.severity}")
    say("\nsymbreak rule CODE shows its page.")
    return CLEAN
