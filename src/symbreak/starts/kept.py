"""What stays as it is: tensors that a pattern means, that a checkpoint holds, or that were seen being loaded."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, KeysView, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from symbreak.errors import SchemeError, nearest
from symbreak.origins import Origin, Row

from .tensors import Held, matching

Checkpoint: TypeAlias = Mapping[str, Tensor] | os.PathLike[str]
Keep: TypeAlias = str | Checkpoint | Origin | Iterable[str | Checkpoint | Origin]
SUFFIX = ".safetensors"


def kept(keep: Keep, tensors: Mapping[str, Held], others: Collection[str] = ()) -> tuple[dict[str, str], list[str]]:
    """(first name -> why it stays, what else is to be told).

    A checkpoint keeps what it holds under the same name and shape; where the values differ from those of now, the
    reason says so. Names in a set (`set(state)`, `state.keys()`) are those of a checkpoint, too. An Origin keeps what
    was loaded last inside its block, in whole or in part, and what came from where it does not see.

    Args:
        keep: a pattern, a mapping of names to tensors, a path to a safetensors file, an Origin of
            `symbreak.provenance`, or several of these.
        others: names that are not among the tensors and yet the model's, such as buffers.

    Raises:
        SchemeError: a pattern that means nothing; a checkpoint of which the model has nothing, or that is none; a block
            in which nothing of the model was loaded.
    """
    if isinstance(keep, set | frozenset | KeysView):
        return _named(_texts(keep), tensors, others)
    reasons: dict[str, str] = {}
    notes: list[str] = []
    for item in _items(keep):
        if isinstance(item, str) and not item.endswith(SUFFIX):
            reasons.update(dict.fromkeys(matching(item, tensors), "asked for with keep="))
        else:
            found, told = _loaded(item, tensors) if isinstance(item, Origin) else _held(item, tensors, others)
            reasons.update(found)
            notes += told
    return reasons, notes


def _loaded(origin: Origin, tensors: Mapping[str, Held]) -> tuple[dict[str, str], list[str]]:
    rows = [origin.row(held.names, held.parameter) for held in tensors.values()]
    loaded = {row.tensor: f"it was {row.because}" for row in rows if row.holds_load}
    if not loaded:
        raise SchemeError(
            "keep=: nothing of this model was loaded inside the block of provenance(). Build the model and load its "
            "weights inside it, or name what stays: keep=['backbone.*']."
        )
    unseen = {row.tensor: "its values came from where provenance() does not see" for row in rows if _unseen(row)}
    lost = [row.tensor for row in rows if row.overwritten is not None and row.tensor not in {**loaded, **unseen}]
    notes = [f"keep=: not known to be loaded, and kept: {_some(list(unseen))}"] if unseen else []
    notes += [f"keep=: written over since it was loaded, so no reason to keep it: {_some(lost)}"] if lost else []
    return {**loaded, **unseen}, notes


def _unseen(row: Row) -> bool:
    """Values that may have been loaded: started anew they would be gone, kept they can still be started."""
    return not row.holds_load and any(w.source.kind in ("unknown", "given") for w, _ in row.parts)


def _items(keep: Any) -> list[Any]:
    if isinstance(keep, str | Mapping | os.PathLike | Origin):
        return [keep]
    try:
        return list(keep)
    except TypeError as err:
        raise SchemeError(
            f"keep={keep!r}; expected patterns of tensors, such as keep=['backbone.*'], a state_dict, the path of a "
            f"{SUFFIX} file, or what `with provenance() as origin` gives."
        ) from err


def _texts(names: Iterable[Any]) -> list[str]:
    odd = next((name for name in names if not isinstance(name, str)), None)
    if odd is not None:
        raise SchemeError(f"keep= has {odd!r} among its names; expected texts, as in set(state_dict).")
    return sorted(names)


def _named(
    names: Collection[str], tensors: Mapping[str, Held], others: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """By name alone; in a set, a name may be a pattern, too."""
    known = {alias: held for held in tensors.values() for alias in held.names}
    reasons = {known[name].name: "among the names to keep" for name in names if name in known}
    unknown = [name for name in names if name not in known and name not in others]
    for pattern in [name for name in unknown if any(mark in name for mark in "*?[")]:
        reasons.update(dict.fromkeys(matching(pattern, tensors), "asked for with keep="))
        unknown.remove(pattern)
    return reasons, _told(unknown, bool(reasons), known, len(names))


def _held(item: Any, tensors: Mapping[str, Held], others: Collection[str]) -> tuple[dict[str, str], list[str]]:
    known = {alias: held for held in tensors.values() for alias in held.names}
    reasons: dict[str, str] = {}
    notes, unknown, count = [], [], 0
    for name, value in _values(item):
        count += 1
        held = known.get(name)
        if held is None:
            unknown += [name] if name not in others else []
        elif value.shape != held.parameter.shape:
            shapes = f"{tuple(value.shape)}, not {tuple(held.parameter.shape)}"
            notes.append(f"keep=: the checkpoint's {name} has shape {shapes}, so it is not kept")
        else:
            reasons[held.name] = f"the checkpoint holds it{_other_values(value, held.parameter)}"
    return reasons, notes + _told(unknown, bool(reasons) or bool(notes), known, count)


def _other_values(value: Tensor, now: Tensor) -> str:
    with torch.no_grad():
        same = torch.equal(value.to(now.device, now.dtype), now.detach())
    return "" if same else ", with other values than it has now"


def _told(unknown: list[str], some: bool, known: Collection[str], count: int) -> list[str]:
    if not some and count:
        first = unknown[0] if unknown else "a buffer"
        raise SchemeError(
            f"keep=: no tensor of the model goes by one of these {count} names, such as {first!r}. "
            f"{nearest(first, known)} A prefix that all names share has to be taken off."
        )
    if not unknown:
        return []
    return [f"keep=: not in the model: {_some(unknown)}"]


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _values(item: Any) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each tensor of a checkpoint, one in memory at a time where it is a file."""
    if isinstance(item, Mapping):
        found = [(str(name), value) for name, value in item.items() if isinstance(value, Tensor)]
        if not found:
            raise SchemeError(
                "keep= got a mapping without tensors; expected names and tensors, as model.state_dict() has them. A "
                "training checkpoint may hold that mapping under a key, such as checkpoint['state_dict']."
            )
        yield from found
        return
    if not isinstance(item, str | os.PathLike):
        raise SchemeError(
            f"keep= has {item!r}; expected a pattern, a state_dict, the path of a {SUFFIX} file, or an Origin."
        )
    yield from _of_file(Path(item))


def _of_file(path: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if path.suffix != SUFFIX:
        raise SchemeError(
            f"keep={str(path)!r}; a path has to be of a {SUFFIX} file. Of another file pass its state_dict: "
            f"keep=torch.load({str(path)!r}, weights_only=True)."
        )
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                yield name, file.get_tensor(name)
    except (OSError, SafetensorError) as err:
        raise SchemeError(f"keep={str(path)!r} cannot be read: {err}.") from err
