"""`symbreak fix`."""

from __future__ import annotations

from pathlib import Path

import click

from symbreak import config
from symbreak.cli import options
from symbreak.cli.outcome import CLEAN, FINDINGS, told
from symbreak.cli.terminal import say, say_aside, width, working
from symbreak.errors import SymbreakError


@click.command(short_help="The smallest repair of TARGET.")
@options.takes_request(data="What to look at the model with, as for check.")
@click.option("--diff", is_flag=True, help="Add the old and the new numbers of each tensor.")
@click.option("--unsafe", is_flag=True, help="Also change tensors that look trained.")
@click.option("-o", "--output", type=options.FILE, help="Write the mended weights (safetensors).")
@told
def fix(request: options.Request, diff: bool, unsafe: bool, output: Path | None) -> int:
    """Plan the smallest repair of TARGET, and say what it keeps. Runs the code of TARGET and DATA.

    TARGET and DATA as for check. Nothing is written without -o, and never over a file that is there.

    Exit code: 0 nothing (left) to heal, 1 errors or warnings are left, 2 the model could not be built or run.
    """
    settings = config.read(Path.cwd())
    if output is not None:
        _refuse_output(output)
    with working("importing torch") as progress:
        import symbreak

        job, report = request.report(settings, progress)
        plan = symbreak.fix(job.model, report, unsafe=unsafe, progress=progress)
    say_aside(options.introduction(job))
    then = "-o FILE writes the mended weights" if output is None else "the model stays, the weights are written"
    say(plan.to_text(width=width(), diff=diff, then=then))
    if output is not None:
        plan.save(output)
        say_aside(f"written: {output}")
    return FINDINGS if plan.left else CLEAN


def _refuse_output(output: Path) -> None:
    if output.suffix != ".safetensors":
        raise SymbreakError(f"-o {output}: weights are written as safetensors; name it {output.stem}.safetensors.")
    if output.exists():
        raise SymbreakError(f"-o {output}: there is such a file, and fix never writes over one. Choose another name.")
    if not output.parent.is_dir():
        raise SymbreakError(f"-o {output}: there is no folder {output.parent}.")
