"""Where the words go: stdout, a file, or a line of progress; and what that place can show."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO, TypeAlias

import click

from symbreak.errors import SymbreakError

Progress: TypeAlias = Callable[[int, int | None, str], None]

PATIENCE = 2.0  # seconds before progress is worth a line


def say(text: str) -> None:
    """Print; what the terminal cannot show becomes a question mark, not a crash."""
    encoding = sys.stdout.encoding or "ascii"
    click.echo(text.rstrip("\n").encode(encoding, "replace").decode(encoding))


def say_aside(text: str) -> None:
    """Print on stderr, where it does not mix with what a program reads."""
    click.echo(text, err=True)


def write(text: str, output: Path | None) -> None:
    """Write to a file, or print where there is none."""
    if output is None:
        say(text)
    else:
        with _writing(output):
            output.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def write_bytes(content: bytes, output: Path) -> None:
    with _writing(output):
        output.write_bytes(content)


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise SymbreakError(f"{output} cannot be written: {err.strerror}.") from err


def must_be_png(plot: Path | None) -> None:
    """Refuse another kind of picture before the work is done, not after."""
    if plot is not None and plot.suffix.lower() != ".png":
        raise SymbreakError(f"--plot {plot}: a picture is written as PNG; name it {plot.with_suffix('.png')}.")


def is_terminal(output: Path | None = None) -> bool:
    return output is None and sys.stdout.isatty()


def is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def width(output: Path | None = None) -> int:
    """Columns for a text."""
    return min(shutil.get_terminal_size().columns, 120) if is_terminal(output) else 100


def printable(document: str) -> str:
    """A JSON document for stdout; with escapes where that is not Unicode."""
    return document if is_unicode() else json.dumps(json.loads(document), indent=2)


@contextlib.contextmanager
def working(what: str) -> Iterator[Progress]:
    """Around the work: its progress goes to stderr, and so does whatever user code prints."""
    with progress_line(sys.stderr) as progress, contextlib.redirect_stdout(sys.stderr):
        progress(0, None, what)
        yield progress


@contextlib.contextmanager
def progress_line(stream: TextIO) -> Iterator[Progress]:
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
