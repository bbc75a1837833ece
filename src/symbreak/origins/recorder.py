"""`provenance`: a block in which every write to a tensor is taken down, by whom it was made and from which line.

A dispatch mode sees every operation with its schema, whatever calls it: constructors, initializers, loaders, copies. It
runs the operation as it is and looks afterwards, so that values, random numbers and exceptions are those of the plain
program. Two hooks of torch.nn.Module tell which tensor becomes whose. What a mode cannot see (`.data = `, NumPy, other
libraries, threads from before) is told by where a parameter's memory is at last, and by a sample of its values.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from .operations import Operation, operation_of, tensors
from .regions import Region
from .report import OriginReport, Row, Seen, report_of, row_of
from .samples import sample
from .stack import Call, caller
from .storages import Page, Storages, covered
from .writers import BEFORE, Kind, Writer, computed

_STORAGE = Writer("unknown", "torch.UntypedStorage")
"""Memory that is read as a storage: so safetensors makes its tensors, from within Rust."""


class Origin:
    """What was taken down in one block of `provenance`."""

    def __init__(self) -> None:
        self._storages = Storages()
        self._registered: dict[int, tuple[weakref.ref[Tensor], Page]] = {}
        self._lock = threading.RLock()
        self._own = threading.local()
        self.open = True

    def report(self, model: nn.Module) -> OriginReport:
        """Who wrote each parameter and buffer of a model last.

        Inside the block or after it. Later writes are not taken down: a tensor that no longer holds what was last seen
        is "unknown".

        Raises:
            ModelError: not a module.

        Example:
            >>> import torch, symbreak as sb
            >>> with sb.provenance() as origin:
            ...     net = torch.nn.Linear(3, 2)
            ...     net.load_state_dict({"weight": torch.ones(2, 3), "bias": torch.zeros(2)})
            ...     torch.nn.init.normal_(net.bias)
            <All keys matched successfully>
            Parameter containing:...
            >>> [(row.tensor, row.kind, row.writer.by) for row in origin.report(net).rows]
            [('weight', 'copied', 'load_state_dict'), ('bias', 'drawn', 'normal_')]
        """
        with self._lock, self._alone():
            return report_of(model, self._seen)

    def row(self, names: Sequence[str], tensor: Tensor) -> Row:
        """The row of one tensor, whatever model it is in, under the names it is given here."""
        with self._lock, self._alone():
            return row_of(names, tensor, self._seen)

    # ---- what the mode and the hooks tell ------------------------------------------------------------------------

    def record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Take down what an operation has written."""
        operation = operation_of(func)
        silent = not (operation.written or operation.keywords or operation.new or operation.way == "adopts")
        if silent or operation.way == "views":
            return
        with self._lock, torch._C.DisableTorchFunction():  # a subclass of Tensor may refuse to be asked
            _Entry(self._storages, operation, args, kwargs, out).take_down()

    def registered(self, module: nn.Module, name: str, tensor: Tensor | None) -> None:
        """A parameter or buffer comes to belong to a module, perhaps in the place of another one."""
        if tensor is None or self.idle:
            return
        with self._lock, self._alone():
            page = self._storages.of(tensor)
            if page is None:
                return
            call = caller()
            if page.base.kind == "loaded" and page.base.place is None:  # read in a thread that has no line of the user
                page.base = replace(page.base, place=call.place)
            elif page.base == BEFORE and not page.events and call.loader == "load_state_dict":
                page.base = Writer("loaded", "load_state_dict", call.place)
            page.owner = f"{type(module).__name__}.{name}"
            old = module._parameters.get(name, module._buffers.get(name))
            if old is not None and old is not tensor and page.base.kind != "loaded":
                page.lost = page.lost or self._load_in(old)
            page.sample = sample(tensor)
            self._registered[id(tensor)] = (weakref.ref(tensor), page)

    def close(self) -> None:
        """Nothing is taken down from here on; what was registered is sampled, to tell later writes."""
        with self._lock, self._alone():
            self.open = False
            for reference, _ in self._registered.values():
                tensor = reference()
                page = self._storages.of(tensor) if tensor is not None else None
                if tensor is not None and page is not None and page.sample is None:
                    page.sample = sample(tensor)

    # ---- what the report asks ------------------------------------------------------------------------------------

    def _seen(self, tensor: Tensor) -> Seen | None:
        """What is known of the memory of a tensor; None where it has none that can be followed."""
        if not self._storages.knows(tensor):
            return Seen(((BEFORE, tensor.numel() * tensor.element_size()),))
        page = self._storages.of(tensor)
        if page is None:
            return None
        region = covered(tensor, page)
        if region is None:
            return None
        parts = page.parts(region) or [(page.base, 0)]
        lost = page.lost_in(region)
        before = self._registered.get(id(tensor))
        if not lost and before is not None and before[0]() is tensor and before[1] is not page:
            load = _load_of(before[1], Region.span(0, before[1].nbytes))  # its memory was exchanged: `.data = `
            lost = [(load, region.size)] if load is not None else []
        return Seen(tuple(parts), tuple(lost), page.sample is None or page.sample.holds(tensor))

    def _load_in(self, old: Tensor) -> Writer | None:
        page = self._storages.of(old)
        region = covered(old, page) if page is not None else None
        return _load_of(page, region) if page is not None and region is not None else None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """What is done inside is this recorder's own work, and not taken down."""
        before = getattr(self._own, "busy", False)
        self._own.busy = True
        try:
            with torch._C.DisableTorchFunction():
                yield
        finally:
            self._own.busy = before

    @property
    def idle(self) -> bool:
        """Whether operations of this thread are not to be taken down."""
        return not self.open or getattr(self._own, "busy", False)


def _load_of(page: Page, region: Region) -> Writer | None:
    """The load that a region holds for the most part, if it is one."""
    parts = page.parts(region)
    return parts[0][0] if parts and parts[0][0].kind == "loaded" else None


class _Entry:
    """One operation, from what it did to what it leaves in the book."""

    def __init__(
        self, storages: Storages, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        self.storages, self.operation, self.args, self.kwargs = storages, operation, args, kwargs
        self.targets = operation.targets(args, kwargs)
        written = {id(t) for t in self.targets}
        self.new = [t for t in tensors([out]) if operation.new and not storages.knows(t) and id(t) not in written]

    def take_down(self) -> None:
        way = self.operation.way
        if way == "adopts":
            self._adopt()
        elif way == "allocates":
            self._allocate()
        elif way == "draws" or way == "sets":
            call = caller()
            function = call.function or self.operation.name
            self._write(Writer("drawn" if way == "draws" else "constant", function, call.place))
        elif way == "moves":
            self._move()
        else:
            self._change()
        for t in self.targets:
            page = self.storages.of(t)
            if page is not None and page.sample is not None:
                page.sample = sample(t)

    def _adopt(self) -> None:
        t = self.args[0]
        fresh = not self.storages.knows(t)
        page = self.storages.of(t)
        if page is None or not (fresh or page.base == _STORAGE):
            return
        call = caller()
        if call.loader in ("torch.load", "safetensors"):
            page.base = Writer("loaded", call.loader, call.place)
        elif self.operation.name == "set_":
            page.base = _STORAGE if call.storage else BEFORE
        else:
            number = t.dim() == 0
            page.base = (
                Writer("loaded", "safetensors", call.place) if page.base == _STORAGE
                else Writer("constant" if number else "given", "", call.place)
            )  # fmt: skip

    def _allocate(self) -> None:
        call = caller()
        writer = Writer("never-written", self.operation.name, call.place)
        for t in self.new:
            self._write_one(t, writer)
        for t in self.targets:  # resize_
            page = self.storages.of(t)
            if page is not None:
                page.resized(t.untyped_storage().nbytes(), writer)

    def _move(self) -> None:
        """What is copied keeps the name of who made it."""
        call = caller()
        sources = self._sources()
        owned = self._owned(sources)

        def copied(w: Writer) -> Writer:
            return _transferred(w, call, self.operation, owned)

        writer = copied(computed(map(self._writer, sources), None))
        whole = self._mirrored(sources) if len(sources) == 1 else None
        for t in (*self.targets, *self.new):
            page = self.storages.of(t)
            if whole is not None and page is not None and _dense(t, page):
                page.mirror(whole, t.element_size(), sources[0].element_size(), copied)
            else:
                self._write_one(t, writer)

    def _change(self) -> None:
        """Arithmetic: in place it changes what is there, else it makes something of all it reads."""
        operation = self.operation
        if self.new or operation.keywords:
            outs = tensors(self.kwargs.get(k) for k in operation.keywords)
            if self.new or outs:
                writer = computed(map(self._writer, self._sources()), operation.name)
                for t in (*self.new, *outs):
                    self._write_one(t, writer)
        inside = tensors(self.args[i] for i in operation.written if i < len(self.args))
        function = caller().function if inside else ""
        for t in inside:
            page = self.storages.of(t)
            region = covered(t, page) if page is not None else None
            if page is None or (function and page.last_by == function):  # a step of the initializer itself
                continue
            everything = Region.span(0, page.nbytes)
            page.change(region or everything, operation.name, scattered=operation.way == "scatters" or region is None)

    def _write(self, writer: Writer) -> None:
        for t in (*self.targets, *self.new):
            self._write_one(t, writer)

    def _write_one(self, t: Tensor, writer: Writer) -> None:
        page = self.storages.of(t)
        if page is not None:
            page.write(covered(t, page), writer)

    def _sources(self) -> list[Tensor]:
        """What it read: every tensor among the arguments that it did not write to."""
        written = {id(t) for t in self.targets}
        return [t for t in tensors((*self.args, *self.kwargs.values())) if id(t) not in written]

    def _writer(self, t: Tensor) -> Writer:
        page = self.storages.of(t)
        if page is None:
            return BEFORE
        region = covered(t, page) if page.events else None
        return computed((w for w, _ in page.parts(region)), None) if region is not None else page.base

    def _owned(self, sources: list[Tensor]) -> bool:
        pages = [self.storages.of(t) for t in sources]
        return any(page is not None and page.owner for page in pages)

    def _mirrored(self, sources: list[Tensor]) -> Page | None:
        """The page of a source that is copied whole, and in which several have written."""
        page = self.storages.of(sources[0])
        return page if page is not None and page.events and _dense(sources[0], page) else None


def _dense(t: Tensor, page: Page) -> bool:
    return t.is_contiguous() and t.storage_offset() == 0 and t.numel() * t.element_size() == page.nbytes


def _transferred(w: Writer, call: Call, operation: Operation, owned: bool) -> Writer:
    """The writer of a copy of values that `w` has written."""
    if w.kind == "never-written":
        return w
    if call.function:
        return Writer(w.kind, call.function, call.place)
    if call.loader == "load_state_dict":
        kind: Kind = "loaded" if w.kind in ("loaded", "unknown") else "copied"
        return Writer(kind, "load_state_dict", call.place, of=None if w == BEFORE else w.source)
    if call.copier and w.kind != "loaded":
        return Writer("copied", call.copier, call.place, of=w.source)
    in_place = bool(operation.written)
    if in_place and w.kind in ("loaded", "given"):
        return Writer(w.kind, operation.name, call.place, of=w.source)
    if (owned and (in_place or operation.name == "clone")) or (in_place and w.kind == "unknown"):
        return Writer("copied", operation.name, call.place, of=w.source)
    return w


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operation as it is, and has the recorder look at it afterwards.

    Subclasses of Tensor with operations of their own are run, too, and not followed. To let them come apart first
    (NotImplemented) would show what they are made of, and breaks FakeTensor, whose mode stands below this one.
    """

    def __init__(self, origin: Origin) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.origin = origin

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No guard around this handler: it would import torch._dynamo, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.origin.idle:
            self.origin.record(func, args, kwargs or {}, out)
        return out


class _Follow:
    """Watches in every thread that starts inside the block, as transformers' loader starts some.

    `threading.setprofile` runs its function in each new thread; that enters the mode and takes itself away. A value
    local to the thread leaves the mode when the thread ends, which a mode must, or the interpreter aborts. A thread
    that outlives the block has the mode until then; it only passes operations on.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin, self.before = origin, threading.getprofile()

    def __enter__(self) -> None:
        threading.setprofile(self._started)

    def __exit__(self, *error: object) -> None:
        threading.setprofile(self.before)

    def _started(self, frame: FrameType, event: Any, arg: Any) -> None:
        sys.setprofile(self.before)
        if self.origin.open:
            _OF_THREAD.entered = [*getattr(_OF_THREAD, "entered", ()), _Entered(self.origin)]
        if self.before is not None:
            self.before(frame, event, arg)


_OF_THREAD = threading.local()
"""Modes entered in each thread. Of the module, so that they live as long as their threads, not as long as a block."""


class _Entered:
    """A mode that is entered, and left with the last reference to this, in its own thread or not at all."""

    def __init__(self, origin: Origin) -> None:
        self._watch, self._thread, self._now = _Watch(origin), threading.get_ident(), threading.get_ident
        self._watch.__enter__()  # type: ignore[no-untyped-call]

    def __del__(self) -> None:
        if self._now() == self._thread:  # not where the interpreter, at its end, drops what daemons have left
            self._watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def provenance() -> Iterator[Origin]:
    """Take down who writes each tensor, while a model is built and loaded inside the block in any way.

    The block does what it does without: values, random numbers, dtypes and exceptions are the same. No tensor is kept
    alive. The cost is one of operations, not of sizes: a few tenths of a millisecond for each layer that is made, a
    tenth or so of the time that building a model of 100 million parameters takes (`benchmarks/provenance.py`).

    Not seen: what NumPy or another library writes into a tensor's memory, and threads that are older than the block. A
    sample of 64 words of each parameter and buffer tells where that has happened; such tensors are "unknown".

    Yields:
        An Origin: `origin.report(model)` says, tensor by tensor, who wrote it last. `keep=origin` in `symbreak.init_`
        keeps what was loaded.

    Example:
        >>> import torch, symbreak as sb
        >>> with sb.provenance() as origin:
        ...     net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.utils.skip_init(torch.nn.Linear, 4, 2))
        >>> [(row.tensor, row.kind) for row in origin.report(net).rows if row.tensor.endswith("weight")]
        [('0.weight', 'drawn'), ('1.weight', 'never-written')]
    """
    origin = Origin()
    hooks = [
        register_module_parameter_registration_hook(origin.registered),
        register_module_buffer_registration_hook(origin.registered),
    ]
    try:
        with _Follow(origin), _Watch(origin):
            yield origin
    finally:
        for hook in hooks:
            hook.remove()
        origin.close()
