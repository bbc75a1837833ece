"""`[tool.symbreak]` of the nearest pyproject.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from symbreak.errors import ConfigError, nearest

LARGEST_SEED = 2**32 - 1  # what NumPy takes
FORMATS = ("full", "concise", "json")


@dataclass(frozen=True)
class Config:
    """Settings that hold where the command line is silent.

    Example:
        >>> Config().format
        'full'

    Source: the keys are those of the command line's options.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: str = "error"
    format: str = "full"
    seed: int = 0


def _codes(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(code, str) for code in given)


def _seed(given: Any) -> bool:
    return type(given) is int and 0 <= given <= LARGEST_SEED


FITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "select": (_codes, 'a list of rule codes, such as ["SB1"]'),
    "ignore": (_codes, 'a list of rule codes, such as ["SB301"]'),
    "fail-on": (lambda given: given in ("error", "warning"), '"error" or "warning"'),
    "format": (lambda given: given in FORMATS, " or ".join(f'"{name}"' for name in FORMATS)),
    "seed": (_seed, f"a whole number from 0 to {LARGEST_SEED}"),
}
assert {key.replace("-", "_") for key in FITS} == {slot.name for slot in fields(Config)}


def read(folder: Path) -> Config:
    """The settings of the nearest pyproject.toml, from a folder upwards.

    Args:
        folder: where to begin.
    Example:
        >>> read(Path("/")).fail_on
        'error'

    Source: PEP 518, https://peps.python.org/pep-0518/.
    """
    path = next((up / "pyproject.toml" for up in (folder, *folder.parents) if (up / "pyproject.toml").is_file()), None)
    if path is None:
        return Config()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("symbreak", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as err:
        raise ConfigError(f"{path} cannot be read: {err}") from err
    for key, given in table.items():
        _complain(key, given, path)
    settings: dict[str, Any] = {key.replace("-", "_"): _frozen(given) for key, given in table.items()}
    return Config(**settings)


def _frozen(given: Any) -> Any:
    return tuple(given) if isinstance(given, list) else given


def _complain(key: str, given: Any, path: Path) -> None:
    if key not in FITS:
        raise ConfigError(f"{path}: [tool.symbreak] has no key {key!r}. {nearest(key, FITS)}")
    fits, expected = FITS[key]
    if not fits(given):
        raise ConfigError(f"{path}: [tool.symbreak] {key} = {given!r}; expected {expected}.")
