"""One exception tree: every mistake a user can make is a SymbreakError, so one `except` catches them all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SymbreakError(Exception):
    """A mistake in what symbreak was given. The message says who, which value, what was expected, what to do next."""


class ModelError(SymbreakError):
    """The model cannot be looked at: not a module, no weights yet, nothing to train."""


class BatchError(SymbreakError):
    """The batch does not fit: empty, non-finite, of the wrong shape, or missing where it cannot be inferred."""


class ForwardError(SymbreakError):
    """The user's forward, loss or objective raised. Its own exception is the cause."""


class SchemeError(SymbreakError):
    """An initialization scheme that is unknown, malformed, or does not fit the tensor."""


class TargetError(SymbreakError):
    """A TARGET of the command line that cannot be found or built."""


class DataError(SymbreakError):
    """A DATA argument that cannot be found or read."""


class RemedyError(SymbreakError):
    """A repair that cannot be made, carried out or undone: another model, other weights, memory that is read-only."""


class ConfigError(SymbreakError):
    """A setting in `[tool.symbreak]`, a rule code or an option value that is not known."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The three known names closest to a mistyped one, as the tail of an error message.

    Example:
        >>> nearest("SB110", ["SB101", "SB102", "SB404"])
        'Nearest: SB102, SB101, SB404.'
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"Nearest: {', '.join(close)}." if close else "None is known."
