"""The data an experiment runs on: a table in float64, from a DATA string, from arrays, or the question's own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from symbreak import data as tables
from symbreak.data import Task
from symbreak.errors import SymbreakError

Floats = NDArray[np.float64]
MOST_FEATURES = 300
Needs = Literal["quantity", "classes", "any"]


class QuestionError(SymbreakError):
    """A question that is not known, or that the given data cannot answer."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Features and target. X[b, i] float64; y[b] holds class numbers 0 .. n_classes - 1, or quantities.

    Example:
        >>> problem = read("iris")
        >>> problem.X.shape, problem.signs().name
        ((150, 4), 'iris, class 0 against the rest')

    Source: `symbreak.data`.
    """

    name: str
    X: Floats = field(repr=False)
    y: NDArray[Any] = field(repr=False)
    task: Task
    n_classes: int = 0
    note: str = ""

    @property
    def about(self) -> str:
        """One sentence: name, sizes, what was done to the columns and the target."""
        goal = f"{self.n_classes} classes" if self.task == "classification" else "a quantity to predict"
        size = f"{self.name}: {len(self.X)} samples, {self.X.shape[1]} features, {goal}"
        return f"{size}; {self.note}" if self.note else size

    def noted(self, note: str) -> Problem:
        return replace(self, note=f"{self.note}; {note}" if self.note else note)

    def standardised(self) -> Problem:
        """Columns of mean 0 and standard deviation 1; constant ones become 0. Twice is the same as once.

        Example:
            >>> read(([[1.0], [3.0]], [0, 1])).standardised().X.ravel().tolist()
            [-1.0, 1.0]

        Source: sklearn.preprocessing.StandardScaler.
        """
        mean, spread = self.X.mean(axis=0), self.X.std(axis=0)
        constant = spread <= 1e-12 * np.maximum(1.0, np.abs(mean))
        X = np.where(constant, 0.0, (self.X - mean) / np.where(constant, 1.0, spread))
        if np.allclose(X, self.X, atol=1e-4):  # standardised as it came, but for the digits that a file keeps
            return replace(self, X=X)
        lost = f", {int(constant.sum())} constant columns set to 0" if constant.any() else ""
        return replace(self, X=X).noted(f"features standardised column by column{lost}")

    def signs(self) -> Problem:
        """Two classes as -1 and +1; of more, the first (-1) against the rest (+1).

        Raises:
            QuestionError: the target is a quantity.
        Example:
            >>> sorted(set(read("digits").signs().y.tolist()))
            [-1.0, 1.0]

        Source: one against the rest.
        """
        self._expect("classification")
        name = self.name if self.n_classes == 2 else f"{self.name}, class 0 against the rest"
        return replace(self, name=name, y=np.where(self.y == 0, -1.0, 1.0), n_classes=2)

    def quantity(self) -> Problem:
        """A number to predict: the target itself, or for classes the signs of `signs`, which is said.

        Example:
            >>> read("iris").quantity().note.endswith("classes -1 and +1 taken as numbers to predict")
            True

        Source: least squares on class labels is Fisher's discriminant; Hastie et al., section 4.3.
        """
        if self.task == "regression":
            return replace(self, y=np.asarray(self.y, dtype=np.float64))
        return replace(self.signs(), task="regression", n_classes=0).noted(
            "classes -1 and +1 taken as numbers to predict"
        )

    def rows(self, chosen: NDArray[Any]) -> Problem:
        return replace(self, X=self.X[chosen], y=self.y[chosen])

    def _expect(self, task: Task) -> None:
        if self.task != task:
            wanted = "classes" if task == "classification" else "a quantity"
            raise QuestionError(f"{self.name} does not hold {wanted} to predict.")


def read(
    data: Any, *, default: str = "", needs: Needs = "any", question: str = "this question", most: int = 0, seed: int = 0
) -> Problem:
    """The problem that `data` is.

    Args:
        data: a DATA string of the command line, a pair of arrays (X, y), a `symbreak.data.Data`, or None for the
            question's own.
        default: the DATA string of the question.
        needs: "quantity", "classes" or "any".
        question: who asks, for the message.
        most: rows that are used, and at most MOST_FEATURES columns; of more, as many are drawn with the seed. 0: all.
        seed: of that draw.
    Raises:
        QuestionError: the data does not fit the question.
        DataError: it cannot be read.
    Example:
        >>> read(None, default="xor").X.shape
        (4, 2)

    Source: the DATA grammar, `symbreak check --help`.
    """
    table = _table(default if data is None else data)
    if needs == "classes" and table.task != "classification":
        raise QuestionError(
            f"{question} is asked of classes, and {table.name} has a quantity to predict. "
            f"Pass data={default!r}, or make classes of it: (X, y > y.mean())."
        )
    if needs == "quantity" and table.task != "regression":
        raise QuestionError(
            f"{question} is asked of a quantity, and {table.name} has {table.n_classes} classes. Pass data={default!r}."
        )
    if table.y.ndim != 1:
        raise QuestionError(
            f"{table.name}: y has shape {table.y.shape}; {question} is asked of one target, y[samples]."
        )
    problem = Problem(table.name, table.X, table.y, table.task, table.n_classes, table.note)
    return _few(problem, most, seed) if most else problem


def _table(data: Any) -> tables.Data:
    if isinstance(data, str):
        return tables.as_table(tables.load(data))
    if isinstance(data, tables.Data):
        return tables.as_table(data)
    if isinstance(data, tuple | list) and len(data) == 2:
        return tables.as_table(tables.from_arrays(*data))
    raise QuestionError(
        f"data is a {type(data).__name__}; expected a DATA string such as 'digits' or 'file.csv:target', "
        "or a pair (X, y)."
    )


def _few(problem: Problem, most: int, seed: int) -> Problem:
    """At most so many rows and MOST_FEATURES columns, so that an answer takes seconds; what was left out is said."""
    rng = np.random.default_rng(seed)
    n_rows, n_columns = problem.X.shape
    if n_rows > most:
        chosen = np.sort(rng.choice(n_rows, most, replace=False))
        problem = problem.rows(chosen).noted(f"{most} of {n_rows} rows, drawn with seed {seed}")
    if n_columns > MOST_FEATURES:
        columns = np.sort(rng.choice(n_columns, MOST_FEATURES, replace=False))
        problem = replace(problem, X=problem.X[:, columns])
        problem = problem.noted(f"{MOST_FEATURES} of {n_columns} features, drawn with seed {seed}")
    return problem
