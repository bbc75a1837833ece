"""The command line: parse, call, print, exit code. torch is imported only by the commands that need it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TextIO

import click

from symbreak import config, factories
from symbreak._version import __version__
from symbreak.errors import SymbreakError

if TYPE_CHECKING:
    from symbreak.races import RaceResult
    from symbreak.report import Report
    from symbreak.schemes import Activation
    from symbreak.targets import Job

P = ParamSpec("P")

CLEAN, FINDINGS, FAILED, INTERRUPTED = 0, 1, 2, 130
PATIENCE = 2.0  # seconds before progress is worth a line
RANK = {"info": 0, "warning": 1, "error": 2}


def told(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a command that returns an exit code into one that exits, and every failure into one line on stderr."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        debug = bool(kwargs.pop("debug", False))
        try:
            code = command(*args, **kwargs)
        except KeyboardInterrupt:
            _complain("interrupted; nothing was changed.")
            code = INTERRUPTED
        except click.ClickException:
            raise
        except Exception as err:  # noqa: BLE001 (the last resort: one sentence; the traceback on request)
            if debug:
                traceback.print_exc()
            _complain(_sentence(err))
            code = FAILED
        sys.exit(code)

    return wrapper


def _sentence(err: Exception) -> str:
    """The message, with the user's own file and line where their code raised and the message does not say."""
    if not isinstance(err, SymbreakError):
        return f"it failed itself: {factories.described(err)}. Run again with --debug and report what it shows."
    line = factories.where(err.__cause__) if err.__cause__ is not None else ""
    return str(err) if line.strip() in str(err) else f"{str(err).rstrip('.')}{line}."


def _complain(sentence: str) -> None:
    click.echo(f"symbreak: {sentence}", err=True)


debugged = click.option("--debug", is_flag=True, help="Show the traceback of a failure.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="symbreak")
def main() -> None:
    """Know what your initial weights will do before you train."""


# check -----------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("target")
@click.option("--data", metavar="DATA", help="What to look at the model with; see above.")
@click.option("--loss", metavar="LOSS", help="mse, ce, bce, l1, huber, nll or file.py:callable.")
@click.option("--init", metavar="SCHEME", help="Start of a built-in model, such as zeros or 'normal(0.02)'.")
@click.option("--seed", type=click.IntRange(0, config.LARGEST_SEED), help="Of weights and probe.  [default: 0]")
@click.option(
    "--optimizer", default="sgd", show_default=True, metavar="NAME", help="What the first steps are taken with."
)
@click.option("--select", multiple=True, metavar="CODES", help="Only these rules: SB101, or SB1 for all of its kind.")
@click.option("--ignore", multiple=True, metavar="CODES", help="Not these rules.")
@click.option("--format", "format_", type=click.Choice(config.FORMATS), help="[default: full]")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write there, not to stdout.")
@click.option(
    "--fail-on", type=click.Choice(["error", "warning"]), help="Exit 1 from this severity on.  [default: error]"
)
@click.option("-v", "--verbose", is_flag=True, help="Add the table of layers.")
@debugged
@told
def check(
    target: str,
    data: str | None,
    loss: str | None,
    init: str | None,
    seed: int | None,
    optimizer: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    format_: str | None,
    output: Path | None,
    fail_on: str | None,
    verbose: bool,
) -> int:
    """Say whether TARGET will learn from where it starts. Runs the code of TARGET and DATA.

    \b
    TARGET  linear | logistic | perceptron | mlp:64-64:tanh | file.py:factory | package.module:factory
    DATA    digits | iris | wine | breast_cancer | diabetes | xor | moons | rings
            file.csv[:target] | file.npz | file.py:factory | package.module:factory

    A factory is called without arguments. One for TARGET returns model, (model, batch) or (model, batch, objective);
    one for DATA a batch, a torch Dataset or a DataLoader.

    Exit code: 0 no finding, 1 findings, 2 the model could not be built, run or judged.
    """
    settings = config.read(Path.cwd())
    seed = settings.seed if seed is None else seed
    with _progress(sys.stderr) as progress, contextlib.redirect_stdout(sys.stderr):  # user code may print
        progress(0, None, "importing torch")
        import symbreak
        from symbreak import targets

        job = targets.build(target, data=data, loss=loss, init=init, seed=seed)
        report = symbreak.check(
            job.model,
            job.batch,
            job.loss,
            objective=job.objective,
            optimizer=optimizer,
            seed=seed,
            select=_codes(select) or settings.select,
            ignore=_codes(ignore) or settings.ignore,
            progress=progress,
        )
    shape = format_ or settings.format
    if shape == "full":
        click.echo(f"{job.name}\n{job.note}".strip(), err=True)
    _write(_shown(report, shape, verbose, output), output)
    return _exit_code(report, fail_on or settings.fail_on)


def _codes(given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(code.strip() for text in given for code in text.split(",") if code.strip())


def _shown(report: Report, shape: str, verbose: bool, output: Path | None) -> str:
    if shape == "json":
        text = report.to_json()
        return text if output or _is_unicode(sys.stdout) else json.dumps(json.loads(text), indent=2)  # escapes
    terminal = output is None and sys.stdout.isatty()
    return report.to_text(
        width=min(shutil.get_terminal_size().columns, 120) if terminal else 100,
        color=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        verbose=verbose,
        concise=shape == "concise",
        ascii_only=output is None and not _is_unicode(sys.stdout),
    )


def _is_unicode(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")


def _write(text: str, output: Path | None) -> None:
    if output is None:
        _say(text)
        return
    try:
        output.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as err:
        raise SymbreakError(f"{output} cannot be written: {err.strerror}.") from err


def _say(text: str) -> None:
    """Print; what the terminal cannot show becomes a question mark, not a crash."""
    encoding = sys.stdout.encoding or "ascii"
    click.echo(text.rstrip("\n").encode(encoding, "replace").decode(encoding))


def _exit_code(report: Report, fail_on: str) -> int:
    if report.verdict == "unknown":
        return FAILED
    return FINDINGS if any(RANK[found.severity] >= RANK[fail_on] for found in report.findings) else CLEAN


@contextlib.contextmanager
def _progress(stream: TextIO) -> Iterator[Callable[[int, int | None, str], None]]:
    """A line that is rewritten in place, on a terminal only, once the work has taken more than two seconds."""
    started, shown = time.monotonic(), False

    def progress(done: int, total: int | None, what: str) -> None:
        nonlocal shown
        if stream.isatty() and time.monotonic() - started > PATIENCE:
            count = f"{done}/{total} " if total else f"{done} " if done else ""
            stream.write(f"\r\x1b[K{count}{what}")
            stream.flush()
            shown = True

    try:
        yield progress
    finally:
        if shown:
            stream.write("\r\x1b[K")
            stream.flush()


# fix -------------------------------------------------------------------------------------------------------------


@main.command(short_help="The smallest repair of TARGET.")
@click.argument("target")
@click.option("--data", metavar="DATA", help="What to look at the model with, as for check.")
@click.option("--loss", metavar="LOSS", help="mse, ce, bce, l1, huber, nll or file.py:callable.")
@click.option("--init", metavar="SCHEME", help="Start of a built-in model, such as zeros or 'normal(0.02)'.")
@click.option("--seed", type=click.IntRange(0, config.LARGEST_SEED), help="Of weights and probe.  [default: 0]")
@click.option(
    "--optimizer", default="sgd", show_default=True, metavar="NAME", help="What the first steps are taken with."
)
@click.option("--select", multiple=True, metavar="CODES", help="Only these rules: SB101, or SB1 for all of its kind.")
@click.option("--ignore", multiple=True, metavar="CODES", help="Not these rules.")
@click.option("--diff", is_flag=True, help="Add the old and the new numbers of each tensor.")
@click.option("--unsafe", is_flag=True, help="Also change tensors that look trained.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the mended weights (safetensors)."
)
@debugged
@told
def fix(
    target: str,
    data: str | None,
    loss: str | None,
    init: str | None,
    seed: int | None,
    optimizer: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    diff: bool,
    unsafe: bool,
    output: Path | None,
) -> int:
    """Plan the smallest repair of TARGET, and say what it keeps. Runs the code of TARGET and DATA.

    TARGET and DATA as for check. Nothing is written without -o, and never over a file that is there.

    Exit code: 0 nothing (left) to heal, 1 errors or warnings are left, 2 the model could not be built or run.
    """
    settings = config.read(Path.cwd())
    seed = settings.seed if seed is None else seed
    if output is not None:
        _refuse_output(output)
    with _progress(sys.stderr) as progress, contextlib.redirect_stdout(sys.stderr):  # user code may print
        progress(0, None, "importing torch")
        import symbreak
        from symbreak import targets

        job = targets.build(target, data=data, loss=loss, init=init, seed=seed)
        report = symbreak.check(
            job.model,
            job.batch,
            job.loss,
            objective=job.objective,
            optimizer=optimizer,
            seed=seed,
            select=_codes(select) or settings.select,
            ignore=_codes(ignore) or settings.ignore,
            progress=progress,
        )
        plan = symbreak.fix(job.model, report, unsafe=unsafe, progress=progress)
    click.echo(f"{job.name}\n{job.note}".strip(), err=True)
    _say(plan.to_text(width=_width(), diff=diff))
    if output is not None:
        plan.save(output)
        click.echo(f"written: {output}", err=True)
    return FINDINGS if plan.left else CLEAN


def _refuse_output(output: Path) -> None:
    if output.suffix != ".safetensors":
        raise SymbreakError(f"-o {output}: weights are written as safetensors; name it {output.stem}.safetensors.")
    if output.exists():
        raise SymbreakError(f"-o {output}: there is such a file, and fix never writes over one. Choose another name.")
    if not output.parent.is_dir():
        raise SymbreakError(f"-o {output}: there is no folder {output.parent}.")


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 120) if sys.stdout.isatty() else 100


# explain ---------------------------------------------------------------------------------------------------------


@main.command(short_help="The answer to a question, measured; or the list.")
@click.argument("question", required=False)
@click.option("--data", metavar="DATA", help="What to measure on, as for check.  [default: the question's own]")
@click.option(
    "--seed", type=click.IntRange(0, config.LARGEST_SEED), default=0, show_default=True, help="Of all that is drawn."
)
@click.option("--format", "format_", type=click.Choice(["full", "json"]), default="full", show_default=True)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png", help="Draw it there too.")
@debugged
@told
def explain(question: str | None, data: str | None, seed: int, format_: str, plot: Path | None) -> int:
    """Answer QUESTION: the claim, its derivation, an experiment on DATA, and when the claim fails.

    Without QUESTION: the list of questions. DATA as for `symbreak check`, where it is a table.

    Exit code: 0 the numbers settle the claim, 1 they do not, 2 it could not be run.
    """
    from symbreak import explanations

    if question is None:
        widest = max(map(len, explanations.QUESTIONS))
        for name, one in explanations.QUESTIONS.items():
            _say(f"{name:<{widest}}  {one.brief}")
        _say("\nsymbreak explain QUESTION answers one; --data takes your own numbers.")
        return CLEAN
    explanations.find(question)
    if plot is not None and plot.suffix.lower() != ".png":
        raise SymbreakError(f"--plot {plot}: a picture is written as PNG; name it {plot.with_suffix('.png')}.")
    with _progress(sys.stderr) as progress, contextlib.redirect_stdout(sys.stderr):  # a data factory may print
        progress(0, None, f"measuring {question}")
        answer = explanations.explain(question, data, seed=seed)
        drawn = answer.to_png() if plot is not None else b""
    if plot is not None:
        _write_bytes(drawn, plot)
    if format_ == "json":
        text = answer.to_json()
        _say(text if _is_unicode(sys.stdout) else json.dumps(json.loads(text), indent=2))
    else:
        _say(answer.to_text(ascii_only=not _is_unicode(sys.stdout)))
    return CLEAN if answer.settled else FINDINGS


def _write_bytes(content: bytes, output: Path) -> None:
    try:
        output.write_bytes(content)
    except OSError as err:
        raise SymbreakError(f"{output} cannot be written: {err.strerror}.") from err


# race, report ----------------------------------------------------------------------------------------------------


@main.command(short_help="Which start is better: many seeds of each, side by side.")
@click.argument("target")
@click.option("--data", metavar="DATA", required=True, help="What to train on, as for check.")
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
    "--store", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Keep runs there; resume."
)
@click.option("--resume", is_flag=True, help="Insist that --store FILE exists already.")
@click.option("--workers", metavar="N|dask://HOST:PORT", help="Processes, or a Dask cluster.  [default: this process]")
@click.option("--memory-mb", type=float, default=1024.0, show_default=True, help="That one chunk of runs may take.")
@click.option("--format", "format_", type=click.Choice(["full", "json", "csv"]), default="full", show_default=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write there, not to stdout.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png", help="Draw it there too.")
@debugged
@told
def race(
    target: str,
    data: str,
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
    store: Path | None,
    resume: bool,
    workers: str | None,
    memory_mb: float,
    format_: str,
    output: Path | None,
    plot: Path | None,
) -> int:
    """Train TARGET from every start, over many seeds, and say which is better and whether the seeds settle it.

    TARGET and DATA as for symbreak check; their code is run. A file.py:factory races as_built, its own start, too.
    Ctrl-C keeps what is done; with --store, the same command goes on where it was.

    Exit code: 0 done, 2 it could not be run, 130 interrupted.
    """
    _picture_ends(plot)
    if resume and (store is None or not store.is_file()):
        raise SymbreakError(f"--resume needs --store FILE of a race that was begun; {store or 'none'} is not there.")
    numbers, size = _seeds(seeds), _batch_size(batch_size)
    with _progress(sys.stderr) as progress, contextlib.redirect_stdout(sys.stderr):  # user code may print
        progress(0, None, "importing torch")
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
            store=store,
            workers=int(workers) if workers is not None and workers.isdigit() else workers,
            memory_mb=memory_mb,
            progress=progress,
        )
    _show_race(done, format_, output, plot)
    return CLEAN if done.finished else INTERRUPTED


@main.command(short_help="What a race came to, from its store or its JSON.")
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--format", "format_", type=click.Choice(["full", "json", "csv"]), default="full", show_default=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write there, not to stdout.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png", help="Draw it there too.")
@debugged
@told
def report(result: Path, format_: str, output: Path | None, plot: Path | None) -> int:
    """Table and verdict of RESULT: a store of symbreak race, also of one that is still running, or its JSON.

    Exit code: 0, or 2 where RESULT cannot be read.
    """
    from symbreak.races.result import read

    _picture_ends(plot)
    _show_race(read(result), format_, output, plot)
    return CLEAN


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


def _picture_ends(plot: Path | None) -> None:
    if plot is not None and plot.suffix.lower() != ".png":
        raise SymbreakError(f"--plot {plot}: a picture is written as PNG; name it {plot.with_suffix('.png')}.")


def _show_race(done: RaceResult, format_: str, output: Path | None, plot: Path | None) -> None:
    if plot is not None:
        _write_bytes(done.to_png(), plot)
    if format_ == "csv":
        _write(str(done.to_frame().to_csv(index=False)), output)
    else:
        _write(done.to_text() if format_ == "full" else done.to_json(), output)


# rule, schemes ---------------------------------------------------------------------------------------------------


@main.command(short_help="The page of a rule, or the list of rules.")
@click.argument("code", required=False)
@debugged
@told
def rule(code: str | None) -> int:
    """The page of a rule, by its code or its name; without one, the list of rules."""
    from symbreak import rules

    if code is not None:
        _say(rules.find(code).page)
        return CLEAN
    widest = max(len(row.slug) for row in rules.RULES)
    for row in rules.RULES:
        _say(f"{row.code}  {row.slug:<{widest}}  {row.severity}")
    _say("\nsymbreak rule CODE shows its page.")
    return CLEAN


@main.command(short_help="The article of a scheme, or the list of schemes.")
@click.argument("name", required=False)
@click.option("--for", "target", metavar="TARGET", help="A model: which scheme each tensor has, and which suits it.")
@click.option("--data", metavar="DATA", help="With --for: what to run the model on, to see which activations follow.")
@click.option("--format", "format_", type=click.Choice(["full", "json"]), default="full", show_default=True)
@debugged
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
    from symbreak.schemes import ALIASES, CATALOGUE, FAMILIES, PROCEDURES, page

    if name is not None:
        _say(page(name))
        return CLEAN
    widest = max(map(len, (*CATALOGUE, *PROCEDURES)))
    for family, functions in {**FAMILIES, "functions on several tensors": tuple(PROCEDURES.values())}.items():
        _say(f"{family[0].upper()}{family[1:]}")
        for function in functions:
            _say(f"  {function.__name__:<{widest}}  {(inspect.getdoc(function) or '').splitlines()[0]}")
        _say("")
    _say("Short names: " + ", ".join(f"{short} = {full}" for short, full in ALIASES.items()) + ".")
    _say("symbreak schemes NAME shows formula, arguments and source.")
    return CLEAN


def _survey(target: str, data: str | None, format_: str) -> int:
    with _progress(sys.stderr) as progress, contextlib.redirect_stdout(sys.stderr):  # user code may print
        progress(0, None, "importing torch")
        from symbreak import targets
        from symbreak.schemes.survey import survey

        job = targets.build(target, data=data)
        seen, note = _activations_seen(job, progress)
        rows = survey(job.model, seen)
    if format_ == "json":
        _say(json.dumps([row.as_json() for row in rows], indent=2))
        return CLEAN
    click.echo(f"{job.name}{note}", err=True)
    for row in rows:
        _say(f"{row.name}  {list(row.place.shape)}")
        certainty = f"  ({row.has.certainty})" if row.has.certainty else ""
        _say(f"  now    {row.has.text}{certainty}")
        size = f"  (it has {row.size:.3g} of that size)" if row.size is not None and row.differs else ""
        _say(f"  suits  {row.suit.scheme if row.suit.scheme is not None else '-'}{size}")
        _say(f"  why    {row.suit.because}")
    return CLEAN


def _activations_seen(
    job: Job, progress: Callable[[int, int | None, str], None]
) -> tuple[dict[str, Activation | None], str]:
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
