"""`symbreak race`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from symbreak import factories
from symbreak.cli import options
from symbreak.cli.outcome import CLEAN, INTERRUPTED, told
from symbreak.cli.terminal import must_be_png, printable, working, write, write_bytes
from symbreak.errors import SymbreakError

if TYPE_CHECKING:
    from symbreak.races import RaceResult


@click.command(short_help="Which start is better: many seeds of each, side by side.")
@click.argument("target")
@click.option("--data", metavar="DATA", help="What to train on, as for check.  [default: what a factory brings]")
@click.option("--init", "schemes", multiple=True, metavar="SCHEME", help="A start to race; several times.")
@click.option(
    "--seeds", default="0-15", show_default=True, metavar="0-31", help="Ranges and numbers: 0-31, or 0,3,8-10."
)
@click.option("--eta", "etas", multiple=True, type=float, metavar="ETA", help="A learning rate; several times.")
@click.option("--steps", type=click.IntRange(1), default=500, show_default=True, help="Of the optimizer.")
@click.option("--batch-size", metavar="N", default="32", show_default=True, help="Samples a step, or full.")
@click.option("--optimizer", default="sgd", show_default=True, metavar="NAME", help="sgd, momentum, adam, adamw.")
@click.option(
    "--schedule", default="constant", show_default=True, metavar="NAME", help="constant, linear, cosine, warmup."
)
@click.option("--loss", metavar="LOSS", help="mse, ce, bce, l1, huber, nll.  [default: what DATA asks for]")
@click.option("--goal", type=float, metavar="LOSS", help="That counts as reached.  [default: half of chance]")
@click.option("--held-out", type=float, default=0.25, show_default=True, metavar="SHARE", help="Not trained on.")
@click.option(
    "--look/--no-look", default=None, help="Whether runs say how they wake and how wide they are.  [default: built-ins]"
)
@click.option("--store", type=options.FILE, metavar="FILE", help="Keep runs there; resume.")
@click.option("--resume", is_flag=True, help="Insist that --store FILE exists already.")
@click.option("--workers", metavar="N|dask://HOST:PORT", help="Processes, or a Dask cluster.  [default: this process]")
@click.option("--memory-mb", type=float, default=1024.0, show_default=True, help="That one chunk of runs may take.")
@options.formats("full", "json", "csv")
@options.output
@options.plot
@told
def race(
    target: str,
    data: str | None,
    schemes: tuple[str, ...],
    seeds: str,
    etas: tuple[float, ...],
    steps: int,
    batch_size: str,
    optimizer: str,
    schedule: str,
    loss: str | None,
    goal: float | None,
    held_out: float,
    look: bool | None,
    store: Path | None,
    resume: bool,
    workers: str | None,
    memory_mb: float,
    format_: str,
    output: Path | None,
    plot: Path | None,
) -> int:
    """Train TARGET from every start, over many seeds, and say which is better and whether the seeds settle it.

    TARGET and DATA as for symbreak check; their code is run. A file.py:factory races as_built, its own start, too;
    one that returns (model, batch) needs no --data, and of (model, batch, objective) the objective is minimised.
    Ctrl-C keeps what is done; with --store, the same command goes on where it was.

    Exit code: 0 done, 2 it could not be run, 130 interrupted.
    """
    must_be_png(plot)
    if data is None and not factories.is_factory(target):
        raise SymbreakError(f"{target} needs --data DATA to train on, such as --data digits.")
    if resume and (store is None or not store.is_file()):
        raise SymbreakError(f"--resume needs --store FILE of a race that was begun; {store or 'none'} is not there.")
    numbers, size = _seeds(seeds), _batch_size(batch_size)
    with working("importing torch") as progress:
        from symbreak.races import race as run
        from symbreak.races._race import USUAL

        done = run(
            target,
            data,
            schemes=schemes or (("as_built", *USUAL) if factories.is_factory(target) else USUAL),
            seeds=numbers,
            etas=etas or None,
            steps=steps,
            batch_size=size,
            optimizer=optimizer,
            schedule=schedule,
            loss=loss,
            goal=goal,
            held_out=held_out,
            look=look,
            store=store,
            workers=int(workers) if workers is not None and workers.isdigit() else workers,
            memory_mb=memory_mb,
            progress=progress,
        )
    show(done, format_, output, plot)
    return CLEAN if done.finished else INTERRUPTED


def show(done: RaceResult, format_: str, output: Path | None, plot: Path | None) -> None:
    """Draw, and print or write, what a race came to."""
    if plot is not None and done.runs:  # interrupted at once, there is nothing to draw
        write_bytes(done.to_png(), plot)
    if format_ == "csv":
        text = str(done.to_frame().to_csv(index=False))
    elif format_ == "json":
        text = done.to_json() if output is not None else printable(done.to_json())
    else:
        text = done.to_text()
    write(text, output)


def _seeds(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or int(last or first) < int(first):
            raise SymbreakError(f"--seeds {text}: expected ranges and numbers, such as 0-31 or 0,3,8-10.")
        found += range(int(first), int(last or first) + 1)
    return found


def _batch_size(text: str) -> int | None:
    if text == "full":
        return None
    if not text.isdigit() or int(text) < 1:
        raise SymbreakError(f"--batch-size {text}: expected a number of samples, or full.")
    return int(text)
