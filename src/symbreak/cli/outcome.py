"""How a command ends: its exit code, one line for every failure, and the traceback with --debug."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from symbreak import factories
from symbreak.errors import SymbreakError

CLEAN, FINDINGS, FAILED, INTERRUPTED = 0, 1, 2, 130


def told(command: Callable[..., int]) -> Callable[..., None]:
    """Turn a command that returns an exit code into one that exits, and every failure into one line on stderr.

    It brings the option --debug with it.
    """

    @click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
    @functools.wraps(command)
    def wrapper(*args: Any, debug: bool, **kwargs: Any) -> None:
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
