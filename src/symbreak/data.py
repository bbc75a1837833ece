"""What a model is looked at with: data sets that need no download, tables in files, whatever a factory returns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from symbreak import factories
from symbreak.errors import DataError, nearest

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch.utils.data import DataLoader, Dataset

Task = Literal["classification", "regression"]

BATCH = 256  # samples of a table a step sees
ITEMS = 64  # items of a Dataset a step sees: an item may be a file to read
REMEMBERED = 16  # batches of a DataLoader, so that step k sees the same one every time
MANY = 20  # whole numbers with more distinct values than this are a quantity, not classes
GRAMMAR = "file.csv[:target], file.npz, file.py:factory or package.module:factory"


class Source(Protocol):
    """Anything that has a batch for every step: the same step, the same batch."""

    @property
    def name(self) -> str: ...

    @property
    def task(self) -> Task | None: ...

    def draw(self, step: int) -> Any: ...


@dataclass(frozen=True, eq=False)
class Data:
    """A table: features and target, and what the target is. X[b, i]; y[b] holds class numbers or quantities.

    Numbers are kept as they are, quantities in float64 (X in float32 where it came so): closed forms need all digits.
    A torch model gets float32, by `draw`.

    Example:
        >>> load("xor").task
        'classification'

    Source: the DATA grammar, `symbreak check --help`.
    """

    name: str
    X: NDArray[Any] = field(repr=False)
    y: NDArray[Any] = field(repr=False)
    task: Task
    n_classes: int = 0
    note: str = ""

    @property
    def n_features(self) -> int:
        return int(self.X.shape[1])

    def draw(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of a step: all rows of a small table, 256 different rows of a larger one, chosen by the step.

        Raises:
            DataError: a number that float32 does not hold.
        Example:
            >>> x, y = load("digits").draw(0)
            >>> tuple(x.shape), y.dtype
            ((256, 64), torch.int64)

        Source: NumPy's default_rng(step).
        """
        rows = np.arange(len(self.X))
        if len(rows) > BATCH:
            rows = np.sort(np.random.default_rng(step).choice(rows, BATCH, replace=False))
        return self.tensors(rows)

    def tensors(self, rows: Any = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows as a torch model takes them: quantities in float32, classes and tokens in int64.

        Raises:
            DataError: a number that float32 does not hold.
        Example:
            >>> [part.dtype for part in load("diabetes").tensors()]
            [torch.float32, torch.float32]

        Source: torch's default dtype.
        """
        return _single(self.X[rows], f"{self.name}: a feature"), _single(self.y[rows], f"{self.name}: the target")


def _single(numbers: NDArray[Any], what: str) -> torch.Tensor:
    import torch

    tensor = torch.from_numpy(numbers)
    if tensor.dtype != torch.float64:
        return tensor
    single = tensor.float()
    if not torch.isfinite(single).all():
        largest = float(np.abs(numbers).max())
        raise DataError(f"{what} is {largest:g} in size, and float32 ends at 3.4e38. Scale it first.")
    return single


@dataclass(frozen=True, eq=False)
class Given:
    """One batch that a factory made: the same at every step."""

    name: str
    batch: Any = field(repr=False)

    @property
    def task(self) -> Task | None:
        return task_of(self.batch)

    def draw(self, step: int) -> Any:  # noqa: ARG002 (the same at every step)
        return self.batch


@dataclass(frozen=True, eq=False)
class Items:
    """A torch Dataset: each step sees other items, chosen by the step."""

    name: str
    dataset: Dataset[Any] = field(repr=False)

    @property
    def task(self) -> Task | None:
        return task_of(self.draw(0))

    def draw(self, step: int) -> Any:
        from torch.utils.data import default_collate

        n_items = len(self.dataset)  # type: ignore[arg-type]  # checked to have a length where it is made
        chosen = np.sort(np.random.default_rng(step).choice(n_items, min(ITEMS, n_items), replace=False))
        with factories.told(f"{self.name}, read as a Dataset, raised", DataError):
            return default_collate([self.dataset[int(index)] for index in chosen])


class Loader:
    """A torch DataLoader: its first batches in turn, each read once and kept, so that a step sees the same again."""

    def __init__(self, name: str, loader: DataLoader[Any]) -> None:
        self.name = name
        self._unread: Iterator[Any] = itertools.islice(_lazily(loader), REMEMBERED)
        self._seen: list[Any] = []

    @property
    def task(self) -> Task | None:
        return task_of(self.draw(0))

    def draw(self, step: int) -> Any:
        with factories.told(f"{self.name}, read as a DataLoader, raised", DataError):
            self._seen.extend(itertools.islice(self._unread, max(0, step + 1 - len(self._seen))))
        if not self._seen:
            raise DataError(f"{self.name}: the DataLoader holds no batch. Give it at least one sample.")
        return self._seen[step % len(self._seen)]


def _lazily(loader: DataLoader[Any]) -> Iterator[Any]:
    yield from loader  # workers start with the first batch, not when the source is made


def load(text: str) -> Source:
    """Read a DATA argument: a built-in name, file.csv[:target], file.npz, or a factory.

    Example:
        >>> load("iris")
        Data(name='iris', task='classification', n_classes=3, note='features standardised column by column')

    Source: scikit-learn's data sets, which come with it; the DATA grammar, `symbreak check --help`.
    """
    if text in BUILT_IN:
        return _built_in(text)
    table = re.fullmatch(r"(.+\.csv)(?::(.+))?", text, flags=re.IGNORECASE | re.DOTALL)
    if table:
        return _csv(Path(table[1]), table[2], text)
    if text.lower().endswith(".npz"):
        return _npz(Path(text))
    if factories.is_factory(text):
        return from_object(factories.call(factories.load(text, DataError), text, DataError), text)
    if text.endswith(".py"):
        raise DataError(f"{text!r} needs the name of a factory. {factories.which(Path(text))}")
    raise DataError(f"there is no data {text!r}. {nearest(text, BUILT_IN)} Or {GRAMMAR}.")


def from_object(made: Any, name: str) -> Source:
    """A source from what a factory returned: a DataLoader, a Dataset, or a batch.

    Example:
        >>> import torch
        >>> from_object(torch.zeros(2, 3), "zeros").draw(7).shape
        torch.Size([2, 3])

    Source: torch.utils.data.
    """
    from torch.utils.data import DataLoader, Dataset, IterableDataset

    if made is None:
        raise DataError(f"{name} returned None; expected a batch, a Dataset or a DataLoader. Is a return missing?")
    if isinstance(made, IterableDataset):
        made = DataLoader(made, batch_size=ITEMS)
    if isinstance(made, DataLoader):
        return Loader(name, made)
    if not isinstance(made, Dataset):
        return Given(name, made)
    if not hasattr(made, "__len__"):
        raise DataError(f"{name}: a Dataset needs __len__ to be sampled. Return a DataLoader instead.")
    if len(made) == 0:
        raise DataError(f"{name}: the Dataset is empty. Give it at least one sample.")
    return Items(name, made)


def from_arrays(X: Any, y: Any, name: str = "(X, y)") -> Data:
    """A table from two arrays, as a file of them would be read: text and few whole numbers in y are classes.

    Args:
        X: features [b, i].
        y: target [b].
        name: for messages.
    Raises:
        DataError: not numbers, lengths that differ, no sample, one class only, NaN or infinity.
    Example:
        >>> from_arrays([[1.0], [2.0], [4.0]], ["a", "b", "a"]).y.tolist()
        [0, 1, 0]

    Source: as `load`.
    """
    try:
        features, target = np.asarray(X), np.asarray(y)
    except ValueError as err:
        raise DataError(f"{name}: X or y has rows of different lengths; expected X[b, i] and y[b].") from err
    return _table(name, features, target)


def task_of(batch: Any) -> Task | None:
    """What a batch (x, y) asks for: classes where y holds one whole number a sample, a quantity where one float.

    Example:
        >>> import torch
        >>> task_of((torch.zeros(2, 3), torch.tensor([0, 1])))
        'classification'

    Source: the target shapes torch's cross entropy and mean squared error take.
    """
    import torch

    if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(t, torch.Tensor) for t in batch):
        return None
    x, y = batch
    if y.ndim == 0 or y.is_complex() or x.ndim == 0 or len(x) != len(y):
        return None
    if y.is_floating_point():
        return "regression" if y.numel() == len(y) else None
    return "classification" if y.ndim == 1 else None


def as_table(source: Source) -> Data:
    """The source as features in float64 and target, for a model that must know how many of each there are.

    Example:
        >>> import torch
        >>> as_table(Given("mine", (torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])))).n_features
        3

    Source: as `load`.
    """
    if isinstance(source, Data):
        data = source
    elif isinstance(source, Given) and source.task is not None and source.batch[0].ndim == 2:
        X, y = (part.detach().cpu().numpy() for part in source.batch)
        data = _table(source.name, X, y)
    else:
        raise DataError(f"{source.name}: a built-in model needs a table, (X[samples, features], y[samples]).")
    if data.X.ndim != 2:
        raise DataError(f"{data.name}: X has shape {data.X.shape}; a built-in model needs X[samples, features].")
    return replace(data, X=data.X.astype(np.float64))


# Built-in sets ---------------------------------------------------------------------------------------------------


def _xor() -> tuple[NDArray[Any], NDArray[Any]]:
    X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return X, np.array([0, 1, 1, 0])


def _bundled(name: str) -> Callable[[], tuple[NDArray[Any], NDArray[Any]]]:
    def read() -> tuple[NDArray[Any], NDArray[Any]]:
        from sklearn import datasets

        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        return X, y

    return read


def _moons() -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.datasets import make_moons

    X, y = make_moons(400, noise=0.1, random_state=0)
    return X, y


def _rings() -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.datasets import make_circles

    X, y = make_circles(400, noise=0.05, factor=0.5, random_state=0)
    return X, y


BUILT_IN: dict[str, Callable[[], tuple[NDArray[Any], NDArray[Any]]]] = {
    "digits": _bundled("digits"),
    "iris": _bundled("iris"),
    "wine": _bundled("wine"),
    "breast_cancer": _bundled("breast_cancer"),
    "diabetes": _bundled("diabetes"),
    "xor": _xor,
    "moons": _moons,
    "rings": _rings,
}


def _built_in(name: str) -> Data:
    X, y = BUILT_IN[name]()
    spread = X.std(axis=0)
    constant = int((spread == 0).sum())
    X = (X - X.mean(axis=0)) / np.where(spread == 0, 1.0, spread)
    note = "features standardised column by column"
    if constant:
        note += f", {constant} constant columns set to 0"
    if name == "diabetes":
        return Data(name, X, y, "regression", 0, note)
    return Data(name, X, y.astype(np.int64), "classification", int(y.max()) + 1, note)


# Files -----------------------------------------------------------------------------------------------------------


def _existing(path: Path) -> Path:
    if not path.is_file():
        beside = path.parent.glob(f"*{path.suffix}") if path.parent.is_dir() else ()
        raise DataError(f"there is no file {str(path)!r}. {nearest(str(path), map(str, beside))}")
    return path


def _csv(path: Path, target: str | None, name: str) -> Data:
    import pandas as pd

    try:
        table = pd.read_csv(_existing(path))
    except pd.errors.EmptyDataError as err:
        raise DataError(f"{path} is empty; expected a header line and rows.") from err
    except (pd.errors.ParserError, UnicodeDecodeError, OSError) as err:
        raise DataError(f"{path} cannot be read as CSV: {err}") from err
    if table.empty:
        raise DataError(f"{path} has a header and no rows.")
    columns = [str(column) for column in table.columns]
    table.columns = pd.Index(columns)
    target = columns[-1] if target is None else target
    if target not in columns:
        raise DataError(f"{path} has no column {target!r}. {nearest(target, columns)}")
    features = [column for column in columns if column != target]
    if not features:
        raise DataError(f"{path} has the one column {target!r}; expected features beside the target.")
    _complain_of_text(table, features, path)
    _complain_of_gaps(table, path)
    return _table(name, table[features].to_numpy(dtype=np.float64), table[target].to_numpy(), target=target)


def _complain_of_text(table: pd.DataFrame, features: list[str], path: Path) -> None:
    import pandas as pd

    text = [column for column in features if not pd.api.types.is_numeric_dtype(table[column])]
    if text:
        example = table[text[0]].dropna()
        shown = f" (such as {example.iloc[0]!r})" if len(example) else ""
        others = f", as in {len(text) - 1} more" if len(text) > 1 else ""
        raise DataError(
            f"{path}: column {text[0]!r} holds text{shown}{others}; features must be numbers. "
            "Encode or drop it, or name it as the target: file.csv:column."
        )


def _complain_of_gaps(table: pd.DataFrame, path: Path) -> None:
    gaps = table.isna().to_numpy()
    if gaps.any():
        row, column = np.argwhere(gaps)[0]
        raise DataError(
            f"{path}: row {row + 1}, column {table.columns[column]!r} has no value ({int(gaps.sum())} such in all). "
            "Fill or drop them first."
        )


def _npz(path: Path) -> Data:
    try:
        with np.load(_existing(path), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError) as err:
        raise DataError(f"{path} cannot be read as NPZ without pickle: {err}") from err
    pairs = [("X", "y"), ("x", "y"), tuple(arrays)[:2]]
    names = next((pair for pair in pairs if len(pair) == 2 and set(pair) <= set(arrays)), None)
    if names is None:
        raise DataError(f"{path} holds {', '.join(arrays) or 'nothing'}; expected two arrays, X and y.")
    return _table(str(path), arrays[names[0]], arrays[names[1]], target=names[1])


def _table(name: str, X: NDArray[Any], y: NDArray[Any], target: str = "y") -> Data:
    if X.dtype.kind not in "fiub":
        raise DataError(f"{name}: features are {X.dtype}; expected numbers.")
    if X.ndim < 2 or X.shape[1] == 0 or y.ndim == 0 or len(X) != len(y):
        raise DataError(f"{name}: features have shape {X.shape}, {target!r} has {y.shape}; expected X[b, i] and y[b].")
    if len(X) == 0:
        raise DataError(f"{name} has no samples.")
    X = X.astype(_kept_in(X.dtype))
    _complain_of_infinite(name, X)
    labels, task, note = _target(name, y, target)
    return Data(name, X, labels, task, int(labels.max()) + 1 if task == "classification" else 0, note)


def _kept_in(given: np.dtype[Any]) -> type[np.generic]:
    """What holds all digits: whole numbers may be tokens, and pictures in bytes or float32 need no float64."""
    if given in (np.int32, np.int64):
        return np.int64
    return np.float32 if np.can_cast(given, np.float32) else np.float64


def _complain_of_infinite(name: str, X: NDArray[Any]) -> None:
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0][:2]
        raise DataError(f"{name}: row {row + 1}, feature {column + 1} is {X[row, column]}; expected finite numbers.")


def _target(name: str, y: NDArray[Any], target: str) -> tuple[NDArray[Any], Task, str]:
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    y = y.astype(str) if y.dtype.kind == "O" else y
    numeric = y.dtype.kind in "fiu"
    if numeric and not np.isfinite(y).all():
        row = int(np.argwhere(~np.isfinite(y))[0][0])
        raise DataError(f"{name}: row {row + 1}, target {target!r} is {y[row]}; expected finite numbers.")
    levels = np.unique(y)
    if numeric and (y.ndim > 1 or len(levels) > min(MANY, max(2, len(y) // 2)) or (levels != np.round(levels)).any()):
        return y.astype(np.float64), "regression", f"{target!r} taken as a quantity"
    if len(levels) == 1:
        raise DataError(f"{name}: target {target!r} is {levels[0]} in every row; expected two classes or more.")
    classes = ", ".join(str(level) for level in levels[:5]) + (", ..." if len(levels) > 5 else "")
    note = f"{target!r} taken as {len(levels)} classes ({classes})"
    return np.searchsorted(levels, y).astype(np.int64), "classification", note
