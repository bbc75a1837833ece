"""`symbreak explain`."""

from __future__ import annotations

from pathlib import Path

import click

from symbreak.cli import options
from symbreak.cli.outcome import CLEAN, FINDINGS, told
from symbreak.cli.terminal import is_unicode, must_be_png, printable, say, working, write_bytes


@click.command(short_help="The answer to a question, measured; or the list.")
@click.argument("question", required=False)
@click.option("--data", metavar="DATA", help="What to measure on, as for check.  [default: the question's own]")
@click.option("--seed", type=options.SEED, default=0, show_default=True, help="Of all that is drawn.")
@options.formats("full", "json")
@options.plot
@told
def explain(question: str | None, data: str | None, seed: int, format_: str, plot: Path | None) -> int:
    """Answer QUESTION: the claim, its derivation, an experiment on DATA, and when the claim fails.

    Without QUESTION: the list of questions. DATA as for `symbreak check`, where it is a table.

    Exit code: 0 the numbers settle the claim, 1 they do not, 2 it could not be run.
    """
    from symbreak import explanations

    if question is None:
        return _list()
    explanations.find(question)
    must_be_png(plot)
    with working(f"measuring {question}"):
        answer = explanations.explain(question, data, seed=seed)
        drawn = answer.to_png() if plot is not None else b""
    if plot is not None:
        write_bytes(drawn, plot)
    say(printable(answer.to_json()) if format_ == "json" else answer.to_text(ascii_only=not is_unicode()))
    return CLEAN if answer.settled else FINDINGS


def _list() -> int:
    from symbreak.explanations import QUESTIONS

    widest = max(map(len, QUESTIONS))
    for name, one in QUESTIONS.items():
        say(f"{name:<{widest}}  {one.brief}")
    say("\nsymbreak explain QUESTION answers one; --data takes your own numbers.")
    return CLEAN
