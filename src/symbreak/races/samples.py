"""What a race is run on: samples in memory, split once for all runs, and the mini-batches that all of them see.

Index letters: n samples, b samples of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symbreak import data as tables
from symbreak import factories
from symbreak.data import Task
from symbreak.errors import DataError
from symbreak.races.grid import whole

if TYPE_CHECKING:
    from symbreak.data import Source

AT_MOST = 200_000  # samples of a Dataset or DataLoader that are read into memory
EVALUATED = 512  # samples of either side that a loss path is measured on; always the same


@dataclass(frozen=True, eq=False)
class Samples:
    """All samples of a source. X[n, ...]; y[n] holds class numbers or quantities, y[n, o] several quantities.

    Example:
        >>> read("iris").n_classes
        3

    Source: `symbreak.data`.
    """

    name: str
    X: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    task: Task | None
    n_classes: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 of shapes, types and values."""
        found = hashlib.sha256()
        for part in (self.X, self.y):
            found.update(f"{part.dtype}{tuple(part.shape)}".encode())
            found.update(part.contiguous().numpy().tobytes())
        return found.hexdigest()


def read(data: Any) -> Samples:
    """Samples from a DATA string, a pair (X, y) of arrays or tensors, a torch Dataset or a DataLoader.

    Raises:
        DataError: not that, no samples, NaN.
    Example:
        >>> tuple(read(([[0.0], [1.0]], [0, 1])).X.shape)
        (2, 1)

    Source: `symbreak.data.load`.
    """
    source = tables.load(data) if isinstance(data, str) else _source(data)
    if isinstance(source, tables.Data):
        found = Samples(source.name, *source.tensors(), source.task)
    else:
        X, y = _all(source)
        found = Samples(source.name, X, y, tables.task_of((X, y)))
    return _checked(found)


def carried(batch: Any, name: str, *, objective: bool) -> Samples | Whole:
    """The data of a race without data=: the batch that its factory brings.

    Raises:
        DataError: none, or one that only an objective could read.
    Example:
        >>> carried((torch.zeros(4, 2), torch.zeros(4)), "net", objective=False).X.shape
        torch.Size([4, 2])

    Source: the TARGET grammar, `symbreak check --help`.
    """
    parts = tuple(batch) if isinstance(batch, tuple | list) else ()
    if (
        len(parts) == 2
        and all(isinstance(one, Tensor) and one.ndim for one in parts)
        and len(parts[0]) == len(parts[1])
    ):
        X, y = (one.detach().cpu() for one in parts)
        return _checked(Samples(f"the batch of {name}", X, y, tables.task_of((X, y))))
    if objective:
        return Whole(f"the batch of {name}" if batch is not None else "its own draws", batch)
    raise DataError(f"{name} brings no batch (x, y) of tensors, so there is nothing to train it on. Pass data.")


def _source(data: Any) -> Source:
    if isinstance(data, tables.Data):
        return data
    if isinstance(data, tuple | list) and len(data) == 2:
        X, y = data
        if isinstance(X, Tensor) and isinstance(y, Tensor):
            return tables.Given("(X, y)", (X.detach().cpu(), y.detach().cpu()))
        return tables.from_arrays(X, y)
    if isinstance(data, torch.utils.data.Dataset | torch.utils.data.DataLoader):
        return tables.from_object(data, type(data).__name__)
    raise DataError(
        f"data is {type(data).__name__}; expected a name such as 'digits', a pair (X, y), a Dataset or a DataLoader."
    )


def _all(source: Source) -> tuple[Tensor, Tensor]:
    """Every sample, read once: a race goes through the data many times."""
    if isinstance(source, tables.Given):
        batches: Iterator[Any] = iter([source.batch])
    elif isinstance(source, tables.Items):
        dataset: Any = source.dataset
        batches = iter([torch.utils.data.default_collate([dataset[k] for k in range(min(len(dataset), AT_MOST))])])
    else:
        assert isinstance(source, tables.Loader)
        batches = source._unread
    found: list[tuple[Tensor, Tensor]] = []
    with factories.told(f"{source.name} raised", DataError):
        for batch in batches:
            pair = tuple(batch) if isinstance(batch, tuple | list) else ()
            if len(pair) != 2 or not all(isinstance(one, Tensor) and one.ndim for one in pair):
                raise DataError(f"{source.name}: a race needs pairs (x, y) of tensors, so that there is a loss.")
            found.append(pair)
    if not found:
        raise DataError(f"{source.name} holds no batch.")
    X, y = (torch.cat([pair[k].detach().cpu() for pair in found]) for k in (0, 1))
    return X, y


def _checked(samples: Samples) -> Samples:
    X, y = samples.X, samples.y
    if len(X) != len(y) or len(X) < 2:
        raise DataError(f"{samples.name}: {len(X)} inputs and {len(y)} targets; expected as many, two at least.")
    for what, part in (("inputs", X), ("targets", y)):
        if part.is_floating_point() and not torch.isfinite(part).all():
            row = int((~torch.isfinite(part.reshape(len(part), -1)).all(dim=1)).nonzero()[0])
            raise DataError(
                f"{samples.name}: sample {row + 1} has {what} that are not finite. Drop or fill them first."
            )
    n_classes = int(y.max()) + 1 if samples.task == "classification" else 0
    return Samples(samples.name, X, y, samples.task, n_classes)


@dataclass(frozen=True, eq=False)
class Split:
    """Training and held-out samples, the same for all runs, and the fixed rows of both that paths are measured on."""

    train: tuple[Tensor, Tensor] = field(repr=False)
    held: tuple[Tensor, Tensor] | None = field(repr=False)
    batch_size: int
    seed: int

    @property
    def rows(self) -> int:
        """Samples that are held at once: of a batch, or of what paths are measured on."""
        return max(self.batch_size, len(self.seen()[0]))

    def seen(self) -> tuple[Tensor, Tensor]:
        """Training rows a path is measured on; the split is shuffled, so the first ones are as good as any."""
        X, y = self.train
        return X[:EVALUATED], y[:EVALUATED]

    def unseen(self) -> tuple[Tensor, Tensor] | None:
        """Held-out rows a path is measured on."""
        return None if self.held is None else (self.held[0][:EVALUATED], self.held[1][:EVALUATED])

    def batches(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The mini-batch of every step, in an order that depends on the seed alone; each epoch leaves out a remainder.

        Example:
            >>> part = split(read("xor"), held_out=0, batch_size=2, seed=0)
            >>> [len(x) for x, _ in part.batches(3)]
            [2, 2, 2]
        """
        X, y = self.train
        if self.batch_size == len(X):
            for _ in range(steps):
                yield X, y
            return
        draw, left = np.random.default_rng(self.seed), np.empty(0, np.int64)
        for _ in range(steps):
            if len(left) < self.batch_size:
                left = draw.permutation(len(X))
            rows, left = torch.from_numpy(left[: self.batch_size]), left[self.batch_size :]
            yield X.index_select(0, rows), y.index_select(0, rows)  # X[rows] takes twice as long


@dataclass(frozen=True, eq=False)
class Whole:
    """One batch as it came, at every step: for an objective that knows what to do with it, or draws its own data."""

    name: str
    batch: Any = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the tensors and plain values in it."""
        found = hashlib.sha256()
        for part in _parts(self.batch):
            found.update(part)
        return found.hexdigest()

    @property
    def batch_size(self) -> int:
        """Rows of its first tensor; 1 where it has none."""
        return next((len(one) for one in _tensors_in(self.batch) if one.ndim), 1)

    @property
    def rows(self) -> int:
        return self.batch_size

    def seen(self) -> tuple[Any, None]:
        return self.batch, None

    def unseen(self) -> None:
        return None

    def batches(self, steps: int) -> Iterator[tuple[Any, None]]:
        for _ in range(steps):
            yield self.batch, None


def _tensors_in(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, dict | tuple | list):
        for one in batch.values() if isinstance(batch, dict) else batch:
            yield from _tensors_in(one)


def _parts(batch: Any) -> Iterator[bytes]:
    if isinstance(batch, Tensor):
        yield f"{batch.dtype}{tuple(batch.shape)}".encode()
        yield batch.detach().cpu().contiguous().numpy().tobytes()
    elif isinstance(batch, dict):
        for name, one in batch.items():
            yield repr(name).encode()
            yield from _parts(one)
    elif isinstance(batch, tuple | list):
        for one in batch:
            yield from _parts(one)
    else:
        yield (
            repr(batch).encode()
            if isinstance(batch, str | int | float | bool | None)
            else type(batch).__name__.encode()
        )


def split(samples: Samples, *, held_out: float, batch_size: int | None, seed: int) -> Split:
    """Shuffle once, and set a share aside.

    Args:
        held_out: share of the samples, 0 <= share < 1.
        batch_size: None, or more than there are: all of them at every step.
        seed: of the shuffle, and of the mini-batches.
    Raises:
        DataError: a share that leaves nothing.
    Example:
        >>> part = split(read("iris"), held_out=0.2, batch_size=32, seed=0)
        >>> len(part.train[0]), len(part.held[0])
        (120, 30)

    Source: as scikit-learn's train_test_split without strata.
    """
    n = len(samples.X)
    if isinstance(held_out, bool) or not isinstance(held_out, int | float) or not 0 <= held_out < 1:
        raise DataError(f"held_out={held_out!r}: expected a share from 0 up to, but not, 1.")
    n_held = round(held_out * n)
    if n_held >= n:
        raise DataError(f"held_out={held_out} leaves none of the {n} samples of {samples.name} to train on.")
    rows: NDArray[np.int64] = np.random.default_rng([seed, 1]).permutation(n) if n_held else np.arange(n)
    train, held = (torch.from_numpy(part) for part in (rows[n_held:], rows[:n_held]))
    size = len(train) if batch_size is None else min(whole("batch_size", batch_size), len(train))
    return Split(
        (samples.X[train], samples.y[train]),
        (samples.X[held], samples.y[held]) if n_held else None,
        size,
        seed,
    )
