"""One exception tree: every mistake a user can make is a SymbreakError, so one `except` catches them all."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LONG_WORD = re.compile(r"\S{400,}")


class SymbreakError(Exception):
    """A mistake in what symbreak was given. The message says who, which value, what was expected, what to do next.

    A word of 400 characters or more, such as a whole file pasted for a name, is told by its beginning and its length.

    Example:
        >>> str(SymbreakError(f"there is no rule {'a' * 3000}"))[90:]
        'aaaaaaa... (3000 characters)'
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(_LONG_WORD.sub(_shortened, a) if isinstance(a, str) else a for a in args))


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


def _shortened(word: re.Match[str]) -> str:
    return f"{word[0][:80]}... ({len(word[0])} characters)"


def nearest(name: str, known: Iterable[str]) -> str:
    """The three known names closest to a mistyped one, as the tail of an error message. Case does not matter.

    Example:
        >>> nearest("SB110", ["SB101", "SB102", "SB404"])
        'Nearest: SB102, SB101, SB404.'
    """
    spellings: dict[str, list[str]] = {}
    for one in known:
        spellings.setdefault(one.lower(), []).append(one)
    close = difflib.get_close_matches(name.lower(), spellings, n=3, cutoff=0.0)
    told = [one for folded in close for one in spellings[folded]][:3]
    return f"Nearest: {', '.join(told)}." if told else "None is known."
