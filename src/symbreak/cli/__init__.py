"""The command line: parse, call, print, exit code. torch is imported only by the commands that need it."""

from __future__ import annotations

import click

from symbreak._version import __version__
from symbreak.cli import check, explain, fix, race, report, rule, schemes


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="symbreak")
def main() -> None:
    """Know what your initial weights will do before you train."""


for command in (check.check, explain.explain, fix.fix, race.race, report.report, rule.rule, schemes.schemes):
    main.add_command(command)
