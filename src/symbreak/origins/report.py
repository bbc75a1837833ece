"""Where each tensor of a model came from: one row a tensor, as a value, as text and as JSON."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from symbreak.errors import ModelError

from .writers import BEFORE, Kind, Writer

Role = Literal["parameter", "buffer"]
_ELSEWHERE = "not known: its values are not those last seen"


@dataclass(frozen=True)
class Seen:
    """What the recorder knows of a tensor's memory.

    Attributes:
        parts: writers and how many bytes are theirs, the largest first.
        lost: the same of loads that were written over.
        intact: whether the memory still holds what was seen written there.
    """

    parts: tuple[tuple[Writer, int], ...]
    lost: tuple[tuple[Writer, int], ...] = ()
    intact: bool = True


@dataclass(frozen=True)
class Row:
    """One tensor.

    Attributes:
        tensor: its first name.
        kind: of its largest part; see `writer`.
        writer: who wrote the largest part of it last.
        parts: every writer and his share of the entries, the largest first.
        overwritten: the load that was written over afterwards, if there was one, and the share of the entries that lost
            it.
        new: a parameter that was made while others of the model were loaded.
        also: other names of the same tensor.
    """

    tensor: str
    role: Role
    shape: tuple[int, ...]
    kind: Kind
    writer: Writer
    parts: tuple[tuple[Writer, float], ...]
    overwritten: Writer | None = None
    overwritten_share: float = 0.0
    new: bool = False
    also: tuple[str, ...] = ()
    note: str = ""

    @property
    def because(self) -> str:
        """Its story, as one clause."""
        if self.note:
            return self.note
        text = str(self.writer)
        if len(self.parts) > 1:
            rest = "; ".join(f"{_share(share)} {writer}" for writer, share in self.parts[1:])
            text = f"{_share(self.parts[0][1])} {text}; {rest}"
        if self.overwritten is not None:
            whole = "" if self.overwritten_share == 1 else f"{_share(self.overwritten_share)} of it "
            text += f"; {whole}written over what had been {self.overwritten}"
        return text

    @property
    def holds_load(self) -> bool:
        """Whether any of its entries were loaded last."""
        return any(writer.kind == "loaded" for writer, _ in self.parts)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "tensor": self.tensor,
            "role": self.role,
            "shape": list(self.shape),
            "kind": self.kind,
            "writer": self.writer.as_json(),
            "parts": [{"share": share, **writer.as_json()} for writer, share in self.parts],
            "overwritten": self.overwritten.as_json() if self.overwritten else None,
            "overwritten_share": self.overwritten_share,
            "new": self.new,
            "also": list(self.also),
            "because": self.because,
        }


@dataclass(frozen=True)
class OriginReport:
    """Where the tensors of a model came from.

    Attributes:
        model: the class of the model.
        rows: one a tensor, parameters first, in the model's order.

    Example:
        >>> import torch, symbreak as sb
        >>> with sb.provenance() as origin:
        ...     net = torch.nn.Linear(3, 2)
        >>> report = origin.report(net)
        >>> report["bias"].kind, report["bias"].writer.by
        ('drawn', 'uniform_')
    """

    model: str
    rows: tuple[Row, ...]

    def __getitem__(self, tensor: str) -> Row:
        """The row of a tensor, by any of its names."""
        for row in self.rows:
            if tensor == row.tensor or tensor in row.also:
                return row
        raise KeyError(tensor)

    def __len__(self) -> int:
        return len(self.rows)

    def of_kind(self, kind: Kind) -> tuple[Row, ...]:
        """The rows of one kind."""
        return tuple(row for row in self.rows if row.kind == kind)

    @property
    def never_written(self) -> tuple[Row, ...]:
        """Rows of tensors of which some entries hold memory as it was found."""
        return tuple(r for r in self.rows if any(w.kind == "never-written" for w, _ in r.parts))

    @property
    def overwritten(self) -> tuple[Row, ...]:
        """Rows of tensors that were loaded and written over afterwards."""
        return tuple(row for row in self.rows if row.overwritten is not None)

    @property
    def new(self) -> tuple[Row, ...]:
        """Rows of parameters that were made while others were loaded."""
        return tuple(row for row in self.rows if row.new)

    # ---- show ----------------------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"model": self.model, "rows": [row.as_json() for row in self.rows]}

    def to_json(self) -> str:
        """JSON text: `model` and one entry a tensor."""
        return json.dumps(self.as_json(), indent=2, allow_nan=False, ensure_ascii=False)

    def to_text(self, *, width: int = 120) -> str:
        """What the model's tensors are, counted; then each story, with the tensors it is the story of."""
        lines = _wrapped(f"{self.model}: {self._counted()}.", "", width)
        stories: dict[str, list[Row]] = {}
        for row in sorted(self.rows, key=_urgency):
            stories.setdefault(row.because, []).append(row)
        every = Counter(_starred(row.tensor) for row in self.rows)
        for because, rows in stories.items():
            lines += _wrapped(", ".join(_patterns([row.tensor for row in rows], every)), "  ", width)
            lines += _wrapped(because, "      ", width)
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text(width=shutil.get_terminal_size((120, 24)).columns)

    def __repr__(self) -> str:
        return f"<OriginReport of {self.model}: {self._counted()}>"

    def _counted(self) -> str:
        kinds = {row.kind: len(self.of_kind(row.kind)) for row in self.rows}
        noun = "tensor" if len(self.rows) == 1 else "tensors"
        told = [f"{count} {kind.replace('-', ' ')}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1])]
        extra = [
            f"{len(rows)} {what}"
            for rows, what in (
                (self.new, "newly made beside the loaded"),
                (self.overwritten, "overwritten after loading"),
            )
            if rows
        ]
        return f"{len(self.rows)} {noun}: {', '.join(told)}" + (f"; {', '.join(extra)}" if extra else "")


def report_of(model: nn.Module, seen: Callable[[Tensor], Seen | None]) -> OriginReport:
    """One row a tensor of a model, from what is known of its memory."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"origin.report() got {type(model).__name__}; expected a torch.nn.Module.")
    rows = [row_of(names, tensor, seen, role) for names, role, tensor in _tensors(model)]
    loaded = any(row.holds_load for row in rows)
    marked = tuple(replace(row, new=True) if loaded and _is_new(row) else row for row in rows)
    return OriginReport(type(model).__name__, marked)


def _tensors(model: nn.Module) -> Iterator[tuple[list[str], Role, Tensor]]:
    """Names, role and tensor; two parameters over one memory are one tensor."""
    groups: dict[object, tuple[list[str], Role, Tensor]] = {}
    for role, pairs in (
        ("parameter", model.named_parameters(remove_duplicate=False)),
        ("buffer", model.named_buffers(remove_duplicate=False)),
    ):
        for name, tensor in pairs:
            names, _, _ = groups.setdefault(_memory(tensor), ([], role, tensor))  # type: ignore[arg-type]
            names.append(name)
    yield from groups.values()


def _memory(t: Tensor) -> object:
    plain = type(t) in (Tensor, nn.Parameter) and t.layout == torch.strided
    if not plain or t.numel() == 0 or t.is_meta:
        return id(t)
    return t.data_ptr(), tuple(t.shape), tuple(t.stride()), t.dtype, t.device


def row_of(
    names: Sequence[str], tensor: Tensor, seen: Callable[[Tensor], Seen | None], role: Role = "parameter"
) -> Row:
    """The row of one tensor, which goes by these names."""
    if nn.parameter.is_lazy(tensor):
        return _unseen(names, role, (), "never-written", "lazy: it has no memory before the first batch")
    shape = tuple(tensor.shape)
    if tensor.is_meta:
        return _unseen(names, role, shape, "never-written", "on the meta device: it has no memory")
    story = seen(tensor)
    if story is None:
        kind = type(tensor).__name__
        return _unseen(names, role, shape, "unknown", f"not known: {kind} of layout {tensor.layout} is not followed")
    if not story.intact:
        last = str(story.parts[0][0])
        return _unseen(names, role, shape, "unknown", f"{_ELSEWHERE} ({last}), so it was written to unseen or later")
    total = sum(size for _, size in story.parts) or 1
    parts = tuple((writer, size / total) for writer, size in story.parts) if len(story.parts) > 1 else ()
    writer = story.parts[0][0]
    lost = [] if all(w.kind == "loaded" for w, _ in story.parts) else list(story.lost)
    return Row(
        names[0], role, shape, writer.kind, writer, parts or ((writer, 1.0),),
        overwritten=lost[0][0] if lost else None,
        overwritten_share=min(1.0, sum(size for _, size in lost) / total),
        also=tuple(names[1:]),
    )  # fmt: skip


def _unseen(names: Sequence[str], role: Role, shape: tuple[int, ...], kind: Kind, note: str) -> Row:
    writer = Writer(kind)
    return Row(names[0], role, shape, kind, writer, ((writer, 1.0),), also=tuple(names[1:]), note=note)


def _is_new(row: Row) -> bool:
    made = row.kind in ("drawn", "constant", "copied", "given")
    return row.role == "parameter" and made and not row.holds_load and row.overwritten is None


def _patterns(names: list[str], every: Counter[str]) -> list[str]:
    """Names that differ only in their numbers as one pattern, where it means no other tensor of the model."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_starred(name), []).append(name)
    return [
        told for star, group in groups.items()
        for told in ([star] if 1 < len(group) == every[star] else group)
    ]  # fmt: skip


def _starred(name: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _urgency(row: Row) -> int:
    """What a reader wants first: memory as found, loads that are gone, what is not known, what is new, the rest."""
    if any(writer.kind == "never-written" for writer, _ in row.parts):
        return 0
    if row.overwritten is not None:
        return 1
    return 2 if row.writer == BEFORE or row.kind == "unknown" else 3 if row.new else 4


def _share(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f}%" if 1 <= percent <= 99 else f"{percent:.2g}%" if percent < 1 else f"{percent:.4g}%"
