"""Options that several commands share, and the request that `check` and `fix` both start from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from symbreak import config

if TYPE_CHECKING:
    from symbreak.cli.terminal import Progress
    from symbreak.report import Report
    from symbreak.targets import Job

FILE = click.Path(dir_okay=False, path_type=Path)
SEED = click.IntRange(0, config.LARGEST_SEED)

output = click.option("-o", "--output", type=FILE, help="Write there, not to stdout.")
plot = click.option("--plot", type=FILE, metavar="FILE.png", help="Draw it there too.")


def formats(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """--format, one of the names; the first is what comes unasked."""
    return click.option("--format", "format_", type=click.Choice(names), default=names[0], show_default=True)


@dataclass(frozen=True)
class Request:
    """What to look at and how, as the command line gave it; what it left open, the settings say."""

    target: str
    data: str | None
    loss: str | None
    init: str | None
    seed: int | None
    optimizer: str
    select: tuple[str, ...]
    ignore: tuple[str, ...]

    def job(self, settings: config.Config) -> tuple[Job, int]:
        """Build what is to be looked at, and the seed; the code of TARGET and DATA runs."""
        from symbreak import targets

        seed = settings.seed if self.seed is None else self.seed
        return targets.build(self.target, data=self.data, loss=self.loss, init=self.init, seed=seed), seed

    def report(self, settings: config.Config, progress: Progress) -> tuple[Job, Report]:
        """Build the job and check it."""
        import symbreak

        job, seed = self.job(settings)
        report = symbreak.check(
            job.model,
            job.batch,
            job.loss,
            objective=job.objective,
            optimizer=self.optimizer,
            seed=seed,
            select=_codes(self.select) or settings.select,
            ignore=_codes(self.ignore) or settings.ignore,
            progress=progress,
        )
        return job, report


def takes_request(data: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare TARGET and the options of a `Request`, and hand them to the command as its first argument.

    Args:
        data: help of --data.
    """
    declared = (
        click.argument("target"),
        click.option("--data", metavar="DATA", help=data),
        click.option("--loss", metavar="LOSS", help="mse, ce, bce, l1, huber, nll or file.py:callable."),
        click.option("--init", metavar="SCHEME", help="Start of a built-in model, such as zeros or 'normal(0.02)'."),
        click.option("--seed", type=SEED, help="Of weights and probe.  [default: 0]"),
        click.option(
            "--optimizer", default="sgd", show_default=True, metavar="NAME", help="What the first steps are taken with."
        ),
        click.option(
            "--select", multiple=True, metavar="CODES", help="Only these rules: SB101, or SB1 for all of its kind."
        ),
        click.option("--ignore", multiple=True, metavar="CODES", help="Not these rules."),
    )

    def declare(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def packed(**given: Any) -> None:
            request = Request(**{slot.name: given.pop(slot.name) for slot in fields(Request)})
            command(request, **given)

        for option in reversed(declared):  # as a stack of decorators: the lowest is applied first
            option(packed)
        return packed

    return declare


def introduction(job: Job) -> str:
    """What was looked at, for stderr."""
    return f"{job.name}\n{job.note}".strip()


def _codes(given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(code.strip() for text in given for code in text.split(",") if code.strip())
