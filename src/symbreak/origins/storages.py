"""The book of storages: which writer's values lie where, as far as operations told.

A storage is known by the address of its C++ object, and a weak reference keeps that address from being used again for
as long as its page is in the book: what is freed is never taken for what came after it. Tensors are never held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .regions import Region, region_of
from .samples import Sample
from .writers import BEFORE, Writer

Part = tuple[Writer, int]
"""A writer, and how many bytes are his."""

SCATTERED = "written in part, at places that are not followed"


@dataclass(eq=False)
class Event:
    """A write to a part of a storage; a change of it where there is no writer."""

    region: Region
    writer: Writer | None
    by: str = ""
    scattered: bool = False


@dataclass(eq=False)
class Page:
    """What is known of one storage.

    Attributes:
        base: who wrote all of it, before the events.
        events: later writes to parts of it, in order.
        lost: the load that was written over since, if one was.
        owner: the parameter or buffer that it was registered as, "Linear.weight".
        sample: a few of its values as they were when it was last seen written; None where it was not looked at.
    """

    reference: StorageWeakRef
    nbytes: int
    base: Writer = BEFORE
    events: list[Event] = field(default_factory=list)
    lost: Writer | None = None
    owner: str = ""
    sample: Sample | None = None

    @property
    def last_by(self) -> str:
        """The function that wrote last."""
        last = self.events[-1].writer if self.events else self.base
        return last.by if last is not None else ""

    def resized(self, nbytes: int, writer: Writer) -> None:
        """More memory, or less: what is new is as it was found."""
        old, self.nbytes = self.nbytes, nbytes
        if nbytes > old:
            if old:
                self.events.insert(0, Event(Region.span(0, old), self.base))
            self.base = writer

    def write(self, region: Region | None, writer: Writer) -> None:
        """Values replaced in a region; in all of the storage where it covers that."""
        if region is None:
            self.change(Region.span(0, self.nbytes), writer.by, scattered=True)
            return
        if self.events and self.events[-1].writer == writer:  # row after row
            region = region.joined(self.events.pop().region)
        if region.size >= self.nbytes:
            self._forget(writer)
            self.base = writer
        elif region and (self.events or self.base != writer):
            self.events = [e for e in self.events if not _covers(region, writer, e)]
            self.events.append(Event(region, writer))

    def change(self, region: Region, by: str, *, scattered: bool = False) -> None:
        """Values changed in a region by an operation that reads them, or written at places that are not followed."""
        self.events = [e for e in self.events if e.writer is not None or e.by != by or e.region != region]
        if region.size >= self.nbytes and not scattered:
            self.base = self.base.changed(by)
            for event in self.events:
                event.writer = event.writer and event.writer.changed(by)
        else:
            self.events.append(Event(region, None, by, scattered))

    def parts(self, region: Region) -> list[Part]:
        """Whose values a region holds, the largest part first."""
        found, changes = [], []
        for event in reversed(self.events):
            if event.writer is None:
                changes.append(event)
                continue
            hit = region.within(event.region)
            if hit:
                found.append((_after(event.writer, hit, changes), hit.size))
                region = region.minus(hit)
            if not region:
                break
        if region:
            found.append((_after(self.base, region, changes), region.size))
        return sorted(found, key=lambda part: -part[1])

    def lost_in(self, region: Region) -> list[Part]:
        """Loads that lie, or lay, below what the region holds now."""
        found: list[Part] = []
        top = region
        for event in reversed(self.events):
            if event.writer is None:
                continue
            hit, covered = region.within(event.region), top.within(event.region)
            if event.writer.kind == "loaded" and (below := hit.minus(covered)):
                found.append((event.writer, below.size))
            top = top.minus(covered)
        if self.base.kind == "loaded" and (below := region.minus(top)):
            found.append((self.base, below.size))
        return found or ([(self.lost, region.size)] if self.lost is not None and self.base.kind != "loaded" else [])

    def mirror(self, source: Page, to: int, of: int, copied: Callable[[Writer], Writer]) -> None:
        """Take over another storage's story, element by element: `to` bytes each where that one has `of`."""
        self.write(Region.span(0, self.nbytes), copied(source.base))
        self.events = [
            Event(e.region.scaled(to, of), e.writer and copied(e.writer), e.by, e.scattered) for e in source.events
        ]

    def _forget(self, writer: Writer) -> None:
        loads = [w for w in (self.base, *(e.writer for e in self.events)) if w is not None and w.kind == "loaded"]
        if writer.kind == "loaded":
            self.lost = None
        elif loads:
            self.lost = loads[-1]
        self.events = []


def _covers(region: Region, writer: Writer, earlier: Event) -> bool:
    """Whether a write leaves nothing to tell of an earlier event. A load that is written over is still told."""
    loaded = earlier.writer is not None and earlier.writer.kind == "loaded"
    return not (loaded and writer.kind != "loaded") and not earlier.region.minus(region)


def _after(writer: Writer, region: Region, changes: list[Event]) -> Writer:
    """A writer's values after the later changes that met them, which were collected last first."""
    for event in reversed(changes):
        if region.within(event.region):
            if event.scattered and writer.kind == "never-written":
                writer = Writer("unknown", event.by, then=(SCATTERED,))
            else:
                writer = writer.changed(event.by)
    return writer


class Storages:
    """Storage -> page. Pages of storages that are gone are torn out now and then."""

    def __init__(self) -> None:
        self._pages: dict[int, Page] = {}
        self._sweep_at = 1024

    def __len__(self) -> int:
        return len(self._pages)

    def of(self, t: Tensor) -> Page | None:
        """The page of a tensor's storage, opened where there was none; None of a tensor without one storage."""
        found = self._found(t)
        if found is None:
            return None
        key, storage = found
        page = self._pages.get(key)
        if page is None:
            if len(self._pages) >= self._sweep_at:
                self._sweep()
            page = self._pages[key] = Page(StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
        return page

    def knows(self, t: Tensor) -> bool:
        """Whether the storage of a tensor has a page."""
        found = self._found(t)
        return found is None or found[0] in self._pages

    @staticmethod
    def _found(t: Tensor) -> tuple[int, torch.UntypedStorage] | None:
        if t.layout != torch.strided or type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            return None
        try:
            storage = t.untyped_storage()
        except (NotImplementedError, RuntimeError):  # opaque, functional and lazy tensors
            return None
        return storage._cdata, storage

    def _sweep(self) -> None:
        gone = [key for key, page in self._pages.items() if page.reference.expired()]  # type: ignore[no-untyped-call]
        for key in gone:
            del self._pages[key]
        self._sweep_at = max(1024, 2 * len(self._pages))


def covered(t: Tensor, page: Page) -> Region | None:
    """The bytes of a page that a tensor covers; all of them without looking closer where it is as large as that."""
    if t.storage_offset() == 0 and t.numel() * t.element_size() == page.nbytes and 0 not in t.stride():
        return Region.span(0, page.nbytes)
    return region_of(t)
