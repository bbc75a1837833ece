"""What all estimators here share: where a fit starts, weights to a file and back, clones, checks of X and y."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from symbreak.nets import saved, start
from symbreak.nets.again import ShrinkPerturb, parse_warm_start
from symbreak.nets.errors import NetError, front_door
from symbreak.nets.start import Slot, Tensors
from symbreak.schemes import Scheme

Labels = NDArray[Any]


class Net(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Base of the estimators: a subclass says which tensors it has, how it keeps them, and fits.

    A subclass sets in `fit` the attributes `n_features_in_` (through `check_samples`) and, by `adopt`, its weights; it
    names in `facts` what else a file of weights keeps.

    Example:
        >>> from symbreak.nets import LinearRegression
        >>> issubclass(LinearRegression, Net)
        True

    Source: scikit-learn's developer guide.
    """

    facts: ClassVar[tuple[str, ...]] = ()  # fitted attributes that are no weights, yet worth keeping

    # For subclasses to say -------------------------------------------------------------------------------------------

    def tensors(self) -> Tensors:
        """The fitted weights by slot name, weights [o, i] and biases [o]; copies.

        Raises:
            NotFittedError: before `fit`.
        """
        raise NotImplementedError

    def adopt(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Make these the fitted weights."""
        raise NotImplementedError

    def start_tensors(self) -> Tensors:
        """The weights the last fit started from, as `tensors`."""
        raise NotImplementedError

    def adopt_start(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Remember these as the start."""
        raise NotImplementedError

    def init_of(self, tensors: Mapping[str, NDArray[Any]]) -> tuple[Any, Any]:
        """`init=` and `init_bias=` that start a net at these weights."""
        weights = [tensor for tensor in tensors.values() if tensor.ndim > 1]
        biases = [tensor for tensor in tensors.values() if tensor.ndim == 1]
        return tuple(one[0] if len(one) == 1 else one or None for one in (weights, biases))  # type: ignore[return-value]

    # Where a fit starts ----------------------------------------------------------------------------------------------

    def begin(self, slots: Sequence[Slot], seed: int, *, dtype: str = "float64") -> Tensors:
        """The weights this fit starts from: by `init=`, or by `warm_start=` where there has been a fit before.

        Raises:
            NetError: what `start.start` complains of; with warm_start, data that need weights of another shape.
        """
        again = parse_warm_start(self.warm_start)
        if again is False or not self.__sklearn_is_fitted__():
            return start.start(slots, self.init, self.init_bias, seed=seed, dtype=dtype)
        needed = {slot.name: slot.shape for slot in slots}
        learned = {name: one for name, one in self.tensors().items() if name in needed or one.any()}
        held = {name: one.shape for name, one in learned.items()}
        if needed != held:
            raise NetError(
                f"warm_start={self.warm_start!r} goes on from weights of shapes {held}, and these data need {needed}. "
                "Fit the same kind of data, or set warm_start=False."
            )
        if isinstance(again, ShrinkPerturb):
            learned = again.apply(learned, start.fresh(slots, self.init, seed=seed, dtype=dtype))
        return {name: weight.astype(dtype) for name, weight in learned.items()}

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "loss_path_")

    # To a file and back ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write weights, start, parameters and facts of the fit to a safetensors file; no pickle.

        An `init=` given as array or estimator is kept as what it came to: the start. A RandomState is not kept.

        Args:
            path: ends in .safetensors; an existing file is replaced.
        Returns:
            the path, which `load` and the `init=` of another estimator take.
        Raises:
            NotFittedError: before `fit`.
            NetError: another ending, no such folder.
        Example:
            >>> import os, tempfile
            >>> from symbreak.nets import LinearRegression
            >>> file = os.path.join(tempfile.mkdtemp(), "line.safetensors")
            >>> path = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]).save(file)
            >>> LinearRegression.load(path).predict([[2.0]]).round(6)
            array([5.])

        Source: the safetensors format, https://github.com/huggingface/safetensors.
        """
        check_is_fitted(self)
        with front_door(self):
            parameters = {name: one for name, one in self.get_params(deep=False).items() if _is_plain(one)}
            names = ("n_features_in_", "feature_names_in_", "classes_", *self.facts)
            facts = {name: getattr(self, name) for name in names if hasattr(self, name)}
            began = {f"start.{name}": tensor for name, tensor in self.start_tensors().items()}
            return saved.write(path, saved.Saved(type(self).__name__, parameters, facts | began, self.tensors()))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The estimator a file holds, fitted.

        Raises:
            NetError: no such file, no safetensors, another model's weights.
        Example:
            >>> from symbreak.nets import Perceptron
            >>> Perceptron.load("nowhere.safetensors")
            Traceback (most recent call last):
            symbreak.nets.errors.NetError: Perceptron: there is no file 'nowhere.safetensors'. None is known.

        Source: as `save`.
        """
        with front_door(cls.__name__):
            held = saved.read(path)
            if held.made_by != cls.__name__:
                raise NetError(
                    f"{path} holds {held.made_by}, with {', '.join(held.tensors) or 'no tensor'}. "
                    f"Load a file that {cls.__name__}.save wrote, or pass this one as init= where the shapes fit."
                )
            unknown = held.parameters.keys() - cls._get_param_names()
            if unknown:
                raise NetError(f"{path} has the parameter {min(unknown)!r}, which {cls.__name__} does not have.")
            began = {name.removeprefix("start."): one for name, one in held.facts.items() if name.startswith("start.")}
            net = cls(**held.parameters)
            for name, fact in held.facts.items():
                if not name.startswith("start."):
                    setattr(net, name, fact)
            net.adopt(held.tensors)
            net.adopt_start(began)
            for name, one in zip(("init", "init_bias"), net.init_of(began), strict=True):
                if name not in held.parameters:
                    setattr(net, name, one)
        return net

    def __sklearn_clone__(self) -> Self:
        """A twin with equal parameters; a fitted estimator given as `init=` stays fitted, or it would be no start."""
        parameters = self.get_params(deep=False)
        twin = type(self)(
            **{name: one if name == "init" else clone(one, safe=False) for name, one in parameters.items()}
        )
        for name in ("_metadata_request", "_sklearn_output_config"):
            if hasattr(self, name):
                setattr(twin, name, copy.deepcopy(getattr(self, name)))
        return twin

    # Checks of the data ----------------------------------------------------------------------------------------------

    def check_samples(self, X: Any, y: Any, *, reset: bool = True) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """X [n, d] as finite float64 in rows, y [n]: numbers for a regressor, labels as they are for a classifier.

        Raises:
            NetError: NaN, wrong shapes, lengths that differ, another number of features (reset=False), targets that are
                no classes.
        """
        with front_door(self):
            labels = is_classifier(self)
            X, y = validate_data(
                self, X, y, reset=reset, dtype=np.float64, order="C", y_numeric=not labels, ensure_min_samples=1
            )
            if labels:
                check_classification_targets(y)
        return X, (y if labels else np.asarray(y, dtype=np.float64))

    def check_features(self, X: Any) -> NDArray[np.float64]:
        """X [n, d] as finite float64 in rows, with the features of the fit.

        Raises:
            NotFittedError: before `fit`.
            NetError: NaN, wrong shapes, another number of features.
        """
        check_is_fitted(self)
        with front_door(self):
            checked: NDArray[np.float64] = validate_data(self, X, reset=False, dtype=np.float64, order="C")
        return checked

    def check_labels(self, y: Labels) -> tuple[Labels, NDArray[np.int64]]:
        """The classes, sorted, and the number of each sample's class.

        Raises:
            NetError: one class only.
        """
        with front_door(self):
            classes, codes = np.unique(y, return_inverse=True)
            if len(classes) < 2:
                raise NetError(f"y holds one class, {classes.tolist()[0]!r}; two classes or more are needed.")
        return classes, codes.reshape(-1)

    def check_codes(self, y: Labels, classes: Labels) -> NDArray[np.int64]:
        """The number of each sample's class among classes that are known.

        Raises:
            NetError: a label that is not among them.
        """
        with front_door(self):
            known = np.isin(y, classes)
            if not known.all():
                strangers = ", ".join(repr(one) for one in np.unique(y[~known]).tolist()[:5])
                raise NetError(
                    f"y holds {strangers}, which is not among the classes {classes.tolist()}. "
                    "Name all classes in the first partial_fit(..., classes=...)."
                )
        return np.searchsorted(classes, y)


def _is_plain(given: Any) -> bool:
    """Whether a parameter can be written down; arrays, estimators and random states cannot."""
    if isinstance(given, list | tuple):
        return all(_is_plain(one) for one in given)
    return given is None or isinstance(given, bool | int | float | str | np.generic | Scheme | ShrinkPerturb | Path)
