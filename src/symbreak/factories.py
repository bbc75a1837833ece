"""Load what `file.py:name` and `package.module:name` point to, and say in one line what went wrong."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from symbreak.errors import SymbreakError, nearest

OURS = str(Path(__file__).parent)
INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def is_factory(text: str) -> bool:
    """Whether a text has the shape file.py:name or package.module:name.

    Example:
        >>> is_factory("model.py:build"), is_factory("pkg.mod:build"), is_factory("digits")
        (True, True, False)

    Source: the TARGET grammar, `symbreak check --help`.
    """
    place, _, name = text.rpartition(":")
    return name.isidentifier() and (place.endswith(".py") or all(part.isidentifier() for part in place.split(".")))


def load(text: str, error: type[SymbreakError]) -> Any:
    """The object a `file.py:name` or `package.module:name` points to; user code runs.

    Args:
        text: where it is.
        error: what to raise, TargetError or DataError.
    Example:
        >>> load("math:sqrt", SymbreakError)(9.0)
        3.0

    Source: the notation of entry points, https://packaging.python.org/specifications/entry-points/.
    """
    place, _, name = text.rpartition(":")
    with importable(place):
        module = _from_file(Path(place), error) if place.endswith(".py") else _from_package(place, error)
    if not hasattr(module, name):
        raise error(f"{place} has no {name!r}. {nearest(name, _public(module))}")
    return getattr(module, name)


def call(factory: Any, text: str, error: type[SymbreakError]) -> Any:
    """Call a factory without arguments, and turn what it raises into one line that names the user's file and line.

    Args:
        factory: the callable.
        text: what the user typed, for the message.
        error: what to raise, TargetError or DataError.
    Example:
        >>> call(dict, "builtins:dict", SymbreakError)
        {}

    Source: the exception's own traceback.
    """
    missing = _missing_arguments(factory)
    if missing:
        raise error(f"{text} needs {', '.join(missing)}; a factory is called without arguments. Give them defaults.")
    with importable(text.rpartition(":")[0]), told(f"{text} raised", error):
        return factory()


def which(path: Path) -> str:
    """What to write after a Python file's name: the functions and classes it defines, read without running it.

    Example:
        >>> which(Path("no_such_file.py"))
        'There is no such file.'

    Source: Python's own parser.
    """
    if not path.is_file():
        return "There is no such file."
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError):
        return "It is not valid Python."
    names = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    return f"It defines {', '.join(names)}: write {path}:{names[0]}." if names else "It defines no function."


@contextlib.contextmanager
def importable(place: str) -> Iterator[None]:
    """The folder of a file, or the current one for a module, first on `sys.path` for a while.

    Example:
        >>> with importable("models/net.py"):
        ...     sys.path[0].endswith("models")
        True

    Source: what `python file.py` does.
    """
    folder = str(Path(place).resolve().parent if place.endswith(".py") else Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def where(err: BaseException) -> str:
    """The user's own file and line in an exception's traceback: " (file.py:12)", or nothing.

    Example:
        >>> where(ValueError("never raised"))
        ''

    Source: the innermost frame outside symbreak, the standard library and installed packages.
    """
    if isinstance(err, SyntaxError) and err.filename:
        return f" ({_short(err.filename)}:{err.lineno})"
    frames = [frame for frame in traceback.extract_tb(err.__traceback__) if _is_users(frame.filename)]
    return f" ({_short(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""


def described(err: BaseException) -> str:
    """An exception as its type, its message and the user's line.

    Example:
        >>> described(ValueError("too wide"))
        'ValueError: too wide'

    Source: as Python's own last line of a traceback.
    """
    message = err.msg if isinstance(err, SyntaxError) else str(err)
    kind = type(err).__name__
    return (f"{kind}: {message}" if message else kind) + where(err)


def _is_users(filename: str) -> bool:
    return not filename.startswith(("<", OURS, *INSTALLED))


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _from_file(path: Path, error: type[SymbreakError]) -> ModuleType:
    if not path.is_file():
        beside = path.parent.glob("*.py") if path.parent.is_dir() else ()
        raise error(f"there is no file {str(path)!r}. {nearest(str(path), map(str, beside))}")
    path = path.resolve()
    loaded = next((m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == str(path)), None)
    if loaded is not None:
        return loaded
    # Two files of one name, or a file called like an installed module, must not hide each other.
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error(f"{path} cannot be imported as a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        with told(f"{_short(str(path))} cannot be imported:", error):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _from_package(place: str, error: type[SymbreakError]) -> ModuleType:
    try:
        found = importlib.util.find_spec(place) is not None
    except ModuleNotFoundError as err:
        found = not f"{place}.".startswith(f"{err.name}.")  # a parent that exists may itself miss something
    except ValueError:  # a module without a spec, such as __main__
        found = place in sys.modules
    if not found:
        raise error(f"there is no module {place!r} here or among the installed packages ({sys.executable}).")
    with told(f"{place} cannot be imported:", error):
        return importlib.import_module(place)


@contextlib.contextmanager
def told(start: str, error: type[SymbreakError]) -> Iterator[None]:
    try:
        yield
    except SymbreakError:
        raise
    except ModuleNotFoundError as err:
        if err.name is None:  # raised by a library's own words, which say what they mean
            raise error(f"{start} {described(err)}") from err
        needs = f"it needs {err.name!r}, which this Python ({sys.executable}) does not have. Install it first."
        raise error(f"{start} {described(err)}; {needs}") from err
    except SystemExit as err:
        raise error(f"{start} SystemExit: it ends the program{where(err)}. Guard that with __name__.") from err
    except Exception as err:  # the user's code may raise anything; it becomes the cause
        raise error(f"{start} {described(err)}") from err


def _missing_arguments(factory: Any) -> list[str]:
    try:
        slots = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return []
    return [s.name for s in slots if s.default is s.empty and s.kind not in (s.VAR_POSITIONAL, s.VAR_KEYWORD)]


def _public(module: ModuleType) -> list[str]:
    return [name for name, member in vars(module).items() if callable(member) and not name.startswith("_")]
