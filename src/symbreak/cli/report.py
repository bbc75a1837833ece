"""`symbreak report`."""

from __future__ import annotations

from pathlib import Path

import click

from symbreak.cli import options
from symbreak.cli.outcome import CLEAN, told
from symbreak.cli.race import show
from symbreak.cli.terminal import must_be_png


@click.command(short_help="What a race came to, from its store or its JSON.")
@click.argument("result", type=click.Path(path_type=Path))
@options.formats("full", "json", "csv")
@options.output
@options.plot
@told
def report(result: Path, format_: str, output: Path | None, plot: Path | None) -> int:
    """Table and verdict of RESULT: a store of symbreak race, also of one that is still running, or its JSON.

    Exit code: 0, or 2 where RESULT cannot be read.
    """
    from symbreak.races.result import read

    must_be_png(plot)
    show(read(result), format_, output, plot)
    return CLEAN
