"""Weights in a file: safetensors, so nothing in it is ever executed, with a header that says whose they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symbreak._version import __version__
from symbreak.errors import nearest
from symbreak.nets.again import ShrinkPerturb
from symbreak.nets.errors import NetError
from symbreak.schemes import Scheme, parse

FORMAT = "1"
EXTRA = "fitted."  # tensors under this prefix are not weights: loss path, start, ...


@dataclass(frozen=True, eq=False)
class Saved:
    """What a file of weights holds.

    Example:
        >>> Saved("LinearRegression", tensors={"coef_": np.zeros((1, 2))}).made_by
        'LinearRegression'

    Source: `write` and `read`.
    """

    made_by: str  # class name; "an unknown model" for a file that another program wrote
    parameters: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)  # fitted attributes that are no weights
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # weights by slot name


def write(path: str | Path, held: Saved) -> Path:
    """Write weights, parameters and facts. An existing file is replaced.

    Args:
        path: must end in .safetensors, because that is how `init=` tells a file from a scheme.
        held: parameters may be None, truth values, numbers, text, tuples and lists of these, schemes, paths.
    Raises:
        NetError: another ending, no such folder, a parameter that cannot be written.
    Example:
        >>> import tempfile, os
        >>> file = os.path.join(tempfile.mkdtemp(), "w.safetensors")
        >>> read(write(file, Saved("Perceptron", tensors={"coef_": np.ones((1, 2))}))).tensors
        {'coef_': array([[1., 1.]])}

    Source: the safetensors format, https://github.com/huggingface/safetensors.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise NetError(f"{path}: the name of a file of weights ends in .safetensors.")
    if not path.parent.is_dir():
        raise NetError(f"there is no folder {str(path.parent)!r} to save in.")
    arrays = {
        name: fact for name, fact in held.facts.items() if isinstance(fact, np.ndarray) and fact.dtype.kind in "fiub"
    }
    others = {name: fact for name, fact in held.facts.items() if name not in arrays}
    header = {
        "symbreak": __version__,
        "format": FORMAT,
        "class": held.made_by,
        "parameters": json.dumps({name: _coded(name, one) for name, one in held.parameters.items()}),
        "facts": json.dumps({name: _coded(name, fact) for name, fact in others.items()}),
    }
    tensors = {**held.tensors, **{EXTRA + name: array for name, array in arrays.items()}}
    save_file({name: np.ascontiguousarray(t).reshape(t.shape) for name, t in tensors.items()}, path, metadata=header)
    return path


def read(path: str | Path) -> Saved:
    """Read a file of weights. One without our header is read too: its tensors count as weights.

    Raises:
        NetError: no such file, no safetensors, a header of a later version.
    Example:
        >>> read("nowhere.safetensors")
        Traceback (most recent call last):
        symbreak.nets.errors.NetError: there is no file 'nowhere.safetensors'. None is known.

    Source: as `write`.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        beside = map(str, path.parent.glob("*.safetensors")) if path.parent.is_dir() else ()
        raise NetError(f"there is no file {str(path)!r}. {nearest(str(path), beside)}")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if header.get("format", FORMAT) != FORMAT:
            raise NetError(
                f"{path} was saved in format {header['format']}, by symbreak {header.get('symbreak')}. Update it."
            )
        parameters, facts = (_all_decoded(header.get(part, "{}")) for part in ("parameters", "facts"))
    except (SafetensorError, TypeError, KeyError, json.JSONDecodeError, OSError) as err:
        raise NetError(f"{path} is no readable safetensors file: {err}.") from err
    facts |= {name.removeprefix(EXTRA): tensors.pop(name) for name in list(tensors) if name.startswith(EXTRA)}
    return Saved(header.get("class", "an unknown model"), parameters, facts, tensors)


def _coded(name: str, one: Any) -> Any:
    """As JSON; what JSON has no word for is an object with one key, its kind."""
    if isinstance(one, np.generic):
        one = one.item()
    if one is None or isinstance(one, bool | int | float | str):
        return one
    if isinstance(one, Scheme):
        return {"scheme": repr(one)}
    if isinstance(one, ShrinkPerturb | Path):
        return str(one)
    if isinstance(one, tuple | list):
        return {type(one).__name__: [_coded(name, part) for part in one]}
    if isinstance(one, np.ndarray):
        kind = "O" if one.dtype.kind == "O" else one.dtype.str
        return {"array": [_coded(name, part) for part in one.tolist()], "dtype": kind}
    raise NetError(f"{name}={one!r} cannot be saved. Set a parameter that can be written down, then save.")


def _all_decoded(text: str) -> dict[str, Any]:
    return {name: _decoded(one) for name, one in json.loads(text).items()}


def _decoded(one: Any) -> Any:
    if not isinstance(one, dict):
        return one
    if "scheme" in one:
        return parse(one["scheme"])
    if "array" in one:
        return np.array([_decoded(part) for part in one["array"]], dtype=one["dtype"])
    kind = "tuple" if "tuple" in one else "list"
    parts = [_decoded(part) for part in one[kind]]
    return tuple(parts) if kind == "tuple" else parts
