"""Labels of any kind to class numbers and back, for classifiers whose neurons give one score a class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from symbreak.exact.arrays import Floats
from symbreak.nets.errors import NetError, front_door
from symbreak.nets.net import Net


class Classifying(Net):
    """Mixed into a classifier with coef_ [o, d]: one neuron for two classes (`classes_[1]` is positive), else one each.

    Source: scikit-learn's conventions for linear classifiers.
    """

    def decision_function(self, X: ArrayLike) -> Floats:
        """Scores z = W x + b: [n] for two classes, above 0 (or at it) for `classes_[1]`; else [n, classes].

        Raises:
            NotFittedError: before `fit`.
            NetError: NaN, another number of features.
        Example:
            >>> from symbreak.nets import Perceptron
            >>> Perceptron().fit([[-1.0], [1.0]], [0, 1]).decision_function([[2.0]])
            array([1.])

        Source: scikit-learn's glossary, decision_function.
        """
        scores = self._scores(self.check_features(X))
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The label of the highest score; of two classes `classes_[1]` where z >= 0.

        Raises:
            NotFittedError: before `fit`.
            NetError: NaN, another number of features.
        Example:
            >>> from symbreak.nets import Perceptron
            >>> Perceptron().fit([[-1.0], [1.0]], ["no", "yes"]).predict([[2.0]])
            array(['yes'], dtype='<U3')

        Source: phi(0) = 1, as in Rosenblatt's unit.
        """
        scores = self.decision_function(X)
        chosen = (scores >= 0).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)
        labels: NDArray[Any] = self.classes_[chosen]
        return labels

    def _scores(self, X: NDArray[np.float64]) -> Floats:
        raise NotImplementedError

    def _classified(self, X: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats, int]:
        """Features, class numbers [n] as floats, and how many neurons; sets classes_."""
        features, labels = self.check_samples(X, y)
        classes, codes = self.check_labels(labels)
        before = self.__dict__.get("classes_")
        if self.warm_start is not False and before is not None and not np.array_equal(before, classes):
            with front_door(self):
                raise NetError(
                    f"warm_start={self.warm_start!r} goes on with the classes {before.tolist()}, and y holds "
                    f"{classes.tolist()}. Fit the same classes, or set warm_start=False."
                )
        self.classes_ = classes
        return features, codes.astype(np.float64), 1 if len(classes) == 2 else len(classes)

    def _classified_part(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None) -> tuple[Floats, Floats, int]:
        """The same for `partial_fit`, where the classes are told once and for all."""
        first = not self.__sklearn_is_fitted__()
        features, labels = self.check_samples(X, y, reset=first)
        with front_door(self):
            known = self._all_classes(classes, None if first else self.classes_)
        codes = self.check_codes(labels, known)
        self.classes_ = known
        return features, codes.astype(np.float64), 1 if len(known) == 2 else len(known)

    @staticmethod
    def _all_classes(told: ArrayLike | None, before: NDArray[Any] | None) -> NDArray[Any]:
        """The classes of all parts: those told at first, and never others."""
        if told is None:
            if before is None:
                raise NetError("the first partial_fit needs classes=, all labels there will ever be.")
            return before
        classes: NDArray[Any] = np.unique(np.asarray(told))
        if len(classes) < 2:
            raise NetError(f"classes={classes.tolist()} holds one class; two classes or more are needed.")
        if before is not None and not np.array_equal(classes, before):
            raise NetError(
                f"classes={classes.tolist()} differs from those of the first call, {before.tolist()}. "
                "More classes need a new estimator."
            )
        return classes
