"""`symbreak check`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from symbreak import config
from symbreak.cli import options
from symbreak.cli.outcome import CLEAN, FAILED, FINDINGS, told
from symbreak.cli.terminal import is_terminal, is_unicode, printable, say_aside, width, working, write
from symbreak.errors import ConfigError

if TYPE_CHECKING:
    from symbreak.report import Report

RANK = {"info": 0, "warning": 1, "error": 2}


@click.command()
@options.takes_request(data="What to look at the model with; see above.")
@click.option("--format", "format_", type=click.Choice(config.FORMATS), help="[default: full]")
@options.output
@click.option(
    "--fail-on", type=click.Choice(["error", "warning"]), help="Exit 1 from this severity on.  [default: error]"
)
@click.option("-v", "--verbose", is_flag=True, help="Add the table of layers.")
@click.option("--certificate", type=options.FILE, help="Write the proof of what is tied there too.")
@click.option("--verify", type=options.FILE, help="Prove the certificate in this file again, on TARGET; nothing else.")
@told
def check(
    request: options.Request,
    format_: str | None,
    output: Path | None,
    fail_on: str | None,
    verbose: bool,
    certificate: Path | None,
    verify: Path | None,
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
    if verify is not None:
        write(_proved_again(request, settings, verify), output)
        return CLEAN
    with working("importing torch") as progress:
        job, report = request.report(settings, progress)
    shape = format_ or settings.format
    if shape == "full":
        say_aside(options.introduction(job))
    write(shown(report, shape, verbose, output), output)
    if certificate is not None and report.certificate is None:
        say_aside(f"nothing is written to {certificate}: no tie was found, or none that is proved")
    elif certificate is not None and report.certificate is not None:
        write(report.certificate.to_json(), certificate)
    return _exit_code(report, fail_on or settings.fail_on)


def shown(report: Report, shape: str, verbose: bool, output: Path | None) -> str:
    """A report as the format, and what its place can show, ask for."""
    if shape == "json":
        return report.to_json() if output else printable(report.to_json())
    return report.to_text(
        width=width(output),
        color=is_terminal(output) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        verbose=verbose,
        concise=shape == "concise",
        ascii_only=output is None and not is_unicode(),
    )


def _proved_again(request: options.Request, settings: config.Config, path: Path) -> str:
    from symbreak.symmetry import networks_of, unit_graph, verify_on
    from symbreak.symmetry.proofs import unread

    text = _text(path)
    job, seed = request.job(settings)
    graph = unit_graph(job.model, job.batch, job.loss, job.objective, seed=seed, networks=networks_of(text))
    said, parts = verify_on(text, graph).in_words(), "; ".join(unread(graph))
    return f"{said}\nin part: {parts}." if parts else said


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"the certificate {path} cannot be read: {err}.") from err


def _exit_code(report: Report, fail_on: str) -> int:
    if report.verdict == "unknown":
        return FAILED
    return FINDINGS if any(RANK[found.severity] >= RANK[fail_on] for found in report.findings) else CLEAN
