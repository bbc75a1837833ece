"""Where the work is done: old values are kept before the first write, and come back if anything fails."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from symbreak.errors import SchemeError
from symbreak.schemes import Place, Scheme

from .plan import Action, Start, Step, put_back, rms, write
from .tensors import Held, lengths_of

_LARGE = 1 << 24  # bytes from which a second thread is worth its start
_SMALL = 1 << 16  # bytes up to which handing over takes longer than the work


class Desk:
    """A model whose tensors are being started.

    Attributes:
        tensors: first name -> tensor.
        places: first name -> where it stands, as far as that is known by now.
        generator: where the randomness comes from.
        held_back: tensors that the caller keeps, and with them their biases.
    """

    def __init__(
        self, model: nn.Module, tensors: dict[str, Held], places: dict[str, Place], generator: torch.Generator
    ) -> None:
        self.model, self.tensors, self.places, self.generator = model, tensors, places, generator
        self.notes: list[str] = []
        self.held_back: frozenset[str] = frozenset()
        self._before: dict[nn.Parameter, Tensor] = {}
        self._copier: ThreadPoolExecutor | None = None
        self._copies: dict[nn.Parameter, Future[tuple[Tensor, float]]] = {}
        self._drawn: dict[nn.Parameter, Future[float]] = {}  # the size of what was filled, as far as it still stands
        self._old: dict[str, float] = {}
        self._done: dict[str, tuple[Action, Scheme | None, str]] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """All that is done inside holds, or nothing of it."""
        try:
            yield
        except BaseException:
            put_back(self._before)
            raise
        finally:
            if self._copier is not None:
                self._copier.shutdown(cancel_futures=True)

    def soon(self, names: Collection[str]) -> None:
        """These tensors are about to be written. A second thread keeps their old values while the first are filled, and
        measures what was: that takes as long as the fill does, and a random number generator keeps one core busy only.
        """
        open_ = [t.parameter for t in map(self.tensors.__getitem__, names) if t.left is None]
        params = [p for p in open_ if _bytes(p) > _SMALL]
        if sum(map(_bytes, params)) < _LARGE:
            return
        if self._copier is None:
            self._copier = ThreadPoolExecutor(1, "symbreak-copies")
        for p in params:
            if p not in self._before and p not in self._copies:
                self._copies[p] = self._copier.submit(_kept, p)

    # ---- what was done to a tensor ---------------------------------------------------------------------------------

    def keep(self, name: str, because: str) -> None:
        """Leave a tensor as it is."""
        self._done[name] = ("kept", None, because)

    def draw(self, name: str, scheme: Scheme, because: str) -> None:
        """Fill a tensor by a scheme. What must not be written is kept, with the reason."""
        if not self._may(name):
            return
        p = self.tensors[name].parameter
        try:
            with torch.inference_mode() if p.is_inference() else torch.no_grad():
                scheme.fill_(p, generator=self.generator, place=self.places[name])
        except SchemeError as err:
            raise SchemeError(f"{name!r}: {err} Leave it out with keep=[{name!r}].") from err
        self._done[name] = ("drawn", scheme, because)
        if self._copier is not None and _bytes(p) > _SMALL:
            self._drawn[p] = self._copier.submit(rms, p)
        self._renorm(name)

    def _renorm(self, name: str) -> None:
        """The lengths that weight norm keeps apart follow the directions that were drawn."""
        lengths = lengths_of(name)
        if lengths is None or lengths not in self.tensors:
            return
        v, g = self.tensors[name].parameter.detach(), self.tensors[lengths].parameter
        axes = [i for i, (n, full) in enumerate(zip(g.shape, v.shape, strict=False)) if n == 1 and full > 1]
        if g.dim() == v.dim():
            size = v.norm(dim=axes, keepdim=True) if axes else v.abs()
            self.put(lengths, size.to(g.dtype), "set", f"the lengths of {name}")

    def put(self, name: str, value: Tensor, action: Action, because: str) -> None:
        """Write given numbers; a scheme that was drawn before is still told."""
        if not self._may(name):
            return
        write(self.tensors[name].parameter, value.reshape(self.tensors[name].parameter.shape))
        _, scheme, _ = self._done.get(name, ("kept", None, ""))
        self._done[name] = (action, scheme, because)

    def tell(self, name: str, because: str) -> None:
        """Another reason for what was done to a tensor already."""
        action, scheme, _ = self._done[name]
        self._done[name] = (action, scheme, because)

    def action(self, name: str) -> Action | None:
        """What was done so far."""
        return self._done[name][0] if name in self._done else None

    def scheme(self, name: str) -> Scheme | None:
        """What it was filled with so far."""
        return self._done[name][1] if name in self._done else None

    def because(self, name: str) -> str:
        """The reason so far."""
        return self._done[name][2] if name in self._done else ""

    def _may(self, name: str) -> bool:
        held = self.tensors[name]
        if held.left is not None:
            self.keep(name, held.left)
            return False
        p = held.parameter
        self._drawn.pop(p, None)
        if p not in self._before:
            copy = self._copies.pop(p, None)
            self._before[p], self._old[name] = copy.result() if copy is not None else _kept(p)
        return True

    def before(self, name: str) -> Tensor:
        """The values a tensor had when it came here."""
        p = self.tensors[name].parameter
        return self._before.get(p, p.detach())

    # ---- the plan --------------------------------------------------------------------------------------------------

    def start(self, scheme: str) -> Start:
        """The plan that was carried out."""
        steps = []
        for name, held in self.tensors.items():
            action, drawn, because = self._done.get(name, ("kept", None, "not asked for"))
            size = self._drawn.get(held.parameter)
            now = rms(held.parameter) if size is None else size.result()
            steps.append(
                Step(
                    tensor=name,
                    shape=tuple(held.parameter.shape),
                    action=action,
                    scheme=drawn,
                    because=because,
                    role=self.places[name].role,
                    rms=(self._old.get(name, now), now),
                    also=held.names[1:],
                )
            )
        params = [self.tensors[step.tensor].parameter for step in steps if step.action != "kept"]
        before = {p: self._before[p] for p in params}
        return Start(self.model, scheme, tuple(steps), before, tuple(dict.fromkeys(self.notes)))


def _bytes(p: Tensor) -> int:
    return p.numel() * p.element_size()


def _kept(p: nn.Parameter) -> tuple[Tensor, float]:
    """The values of a tensor, and their root mean square."""
    value = p.detach()
    if value.device.type != "cpu" or not value.is_contiguous() or not value.numel():
        return value.clone(), rms(value)
    return _room(value).copy_(value), rms(value)


def _room(like: Tensor) -> Tensor:
    """Memory for a copy. NumPy asks the system for huge pages, torch for small ones, whose faults cost six times what
    copying does (100 million weights: 0.11 s of 0.13).
    """
    bytes_ = np.empty(_bytes(like), np.uint8)
    return torch.from_numpy(bytes_).view(like.dtype).view(like.shape)
