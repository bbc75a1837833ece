"""`symbreak schemes`."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING

import click

from symbreak.cli import options
from symbreak.cli.outcome import CLEAN, told
from symbreak.cli.terminal import say, say_aside, working
from symbreak.errors import SymbreakError

if TYPE_CHECKING:
    from symbreak.cli.terminal import Progress
    from symbreak.schemes import Activation
    from symbreak.targets import Job


@click.command(short_help="The article of a scheme, or the list of schemes.")
@click.argument("name", required=False)
@click.option("--for", "target", metavar="TARGET", help="A model: which scheme each tensor has, and which suits it.")
@click.option("--data", metavar="DATA", help="With --for: what to run the model on, to see which activations follow.")
@options.formats("full", "json")
@told
def schemes(name: str | None, target: str | None, data: str | None, format_: str) -> int:
    """The article of an initialization scheme; without a name, the list of schemes.

    With --for TARGET, tensor by tensor: the scheme its values show, how surely, the one that suits it, and why. TARGET
    and DATA are those of symbreak check; their code is run.
    """
    if target is not None:
        if name is not None:
            raise SymbreakError(f"{name!r} and --for {target} ask for two things: leave one out.")
        return _survey(target, data, format_)
    if data is not None or format_ != "full":
        raise SymbreakError("--data and --format belong to --for TARGET, which is missing.")
    if name is None:
        return _list()
    from symbreak.schemes import page

    say(page(name))
    return CLEAN


def _list() -> int:
    from symbreak.schemes import ALIASES, CATALOGUE, FAMILIES, PROCEDURES

    widest = max(map(len, (*CATALOGUE, *PROCEDURES)))
    for family, functions in {**FAMILIES, "functions on several tensors": tuple(PROCEDURES.values())}.items():
        say(f"{family[0].upper()}{family[1:]}")
        for function in functions:
            say(f"  {function.__name__:<{widest}}  {(inspect.getdoc(function) or '').splitlines()[0]}")
        say("")
    say("Short names: " + ", ".join(f"{short} = {full}" for short, full in ALIASES.items()) + ".")
    say("symbreak schemes NAME shows formula, arguments and source.")
    return CLEAN


def _survey(target: str, data: str | None, format_: str) -> int:
    with working("importing torch") as progress:
        from symbreak import targets
        from symbreak.schemes.survey import survey

        job = targets.build(target, data=data)
        seen, note = _activations_seen(job, progress)
        rows = survey(job.model, seen)
    if format_ == "json":
        say(json.dumps([row.as_json() for row in rows], indent=2))
        return CLEAN
    say_aside(f"{job.name}{note}")
    for row in rows:
        say(f"{row.name}  {list(row.place.shape)}")
        certainty = f"  ({row.has.certainty})" if row.has.certainty else ""
        say(f"  now    {row.has.text}{certainty}")
        size = f"  (it has {row.size:.3g} of that size)" if row.size is not None and row.differs else ""
        say(f"  suits  {row.suit.scheme if row.suit.scheme is not None else '-'}{size}")
        say(f"  why    {row.suit.because}")
    return CLEAN


def _activations_seen(job: Job, progress: Progress) -> tuple[dict[str, Activation | None], str]:
    """Layer -> the activation that a run showed behind it; and a note where the model could not be run."""
    import symbreak
    from symbreak.schemes import ACTIVATIONS

    try:
        report = symbreak.check(job.model, job.batch, job.loss, objective=job.objective, progress=progress)
    except SymbreakError as err:
        return {}, f"; not run ({str(err).rstrip('.')}), so only what its Sequentials tell is known"
    names = {seen: row for row in ACTIVATIONS.values() for seen in row.seen_as}
    layers = {layer.weight.rpartition(".")[0]: layer.activation for layer in report.layers}
    return {name: names.get(phi or "") for name, phi in layers.items() if phi is None or phi in names}, ""
