"""Who asked for an operation: the function that initialises or loads, and the line of the user's code above it."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

from .writers import Place

_OURS = str(Path(__file__).parent) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
_INIT = os.path.join(_TORCH, "nn", "init.py")
_MODULES = os.path.join(_TORCH, "nn", "modules") + os.sep
_MODULE = os.path.join(_MODULES, "module.py")
_LIBRARIES = tuple(
    {str(Path(sysconfig.get_paths()[k])) + os.sep for k in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {str(Path(torch.__file__).parents[1]) + os.sep, str(Path(__file__).parents[1]) + os.sep}
)
_LOADERS = {
    ("torch/serialization.py", "load"): "torch.load",
    ("torch/nn/modules/module.py", "Module.load_state_dict"): "load_state_dict",
    ("safetensors/torch.py", "load_file"): "safetensors",
    ("safetensors/torch.py", "load_model"): "safetensors",
    ("safetensors/torch.py", "load"): "safetensors",
}
_COPIERS = {("copy.py", "deepcopy"): "deepcopy"}


@dataclass(frozen=True)
class Call:
    """What the stack says of an operation.

    Attributes:
        function: the initializer at work ("kaiming_uniform_"), "" where the operation was called as it is.
        loader: "torch.load", "load_state_dict" or "safetensors", if one of them is at work, innermost first.
        copier: "deepcopy", if it is at work.
        storage: whether a storage is being read as numbers, as safetensors does.
        place: the user's line.
    """

    function: str
    loader: str
    copier: str
    storage: bool
    place: Place | None


def caller() -> Call:
    """Walk the stack, from the operation up to the user's code."""
    function, loader, copier, through, storage = "", "", "", "", False
    initialising = True
    place: Place | None = None
    for frame in _frames():
        file, name = frame.f_code.co_filename, frame.f_code.co_qualname
        kind = _kind(file)
        if kind == "ours" or kind == "plumbing":
            storage = storage or name == "UntypedStorage.__getitem__"
        elif initialising and (kind == "init" or _initialises(frame.f_code.co_name)):
            function = frame.f_code.co_name.removeprefix("_no_grad").lstrip("_")
        else:
            initialising = False
        loading, copying = _at_work(file, name)
        loader, copier = loader or loading, copier or copying
        if kind == "user" and _is_users(frame):
            place = Place(file, frame.f_lineno, "" if loader or copier else through)
            break
        if not initialising and not through and kind in ("modules", "library"):
            through = name.replace(".<locals>", "")
    return Call(function, loader, copier, storage, place)


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _initialises(name: str) -> bool:
    """Torch's convention for what works in place: `trunc_normal_`, and no dunder."""
    return name.endswith("_") and not name.endswith("__")


@functools.lru_cache(maxsize=4096)
def _kind(file: str) -> str:
    if file.startswith(_OURS):
        return "ours"
    if file == _INIT:
        return "init"
    if file.startswith(_MODULES) and file != _MODULE:
        return "modules"
    if file.startswith((_TORCH, "<frozen")):
        return "plumbing"
    return "library" if file.startswith(_LIBRARIES) else "user"


def _is_users(frame: FrameType) -> bool:
    """Code without a file is the user's where it was typed; dataclasses and their like make some, too."""
    return frame.f_code.co_filename != "<string>" or frame.f_globals.get("__name__") == "__main__"


@functools.lru_cache(maxsize=4096)
def _at_work(file: str, name: str) -> tuple[str, str]:
    """The loader and the copier that a function is, if it is one."""
    parts = file.replace(os.sep, "/").split("/")
    ends = [("/".join(parts[-n:]), name) for n in (1, 2, 4)]
    loader = next((_LOADERS[end] for end in ends if end in _LOADERS), "")
    return loader, next((_COPIERS[end] for end in ends if end in _COPIERS), "")
