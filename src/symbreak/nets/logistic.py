"""Logistic regression by gradient descent: one neuron for two classes, softmax for more."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import ClassifierMixin

from symbreak.exact.arrays import Floats
from symbreak.nets.classes import Classifying
from symbreak.nets.neuron import LOGISTIC, SOFTMAX, Neuron


class LogisticRegression(ClassifierMixin, Classifying, Neuron):  # type: ignore[misc]  # scikit-learn ships no types
    """Class probabilities from a linear score, found by gradient descent from a start of your choice.

    Two classes, y in {0, 1} with 1 for `classes_[1]` (the positive class):

        p = 1 / (1 + exp(-(w . x + b))),   L = mean(-y log p - (1 - y) log(1 - p)) + alpha |w|^2 / 2
        dL/dw = X^T (p - y) / n + alpha w

    More classes: p = softmax(W x + b), and dL/dW = (p - onehot(y))^T X / n + alpha W.

    The gradient is not zero at w = 0, where p = 1/2, and the loss is convex: zero is a fine start, the first step from
    it is eta mean((y - 1/2) x), and every start ends at the same minimum if there is one. There is none where a line
    separates the classes and alpha is 0: then |w| grows for ever, its direction tending to that of the widest margin,
        and a start
    is forgotten only like 1 / log t. With softmax, sum_k W_k stays what it was at the start (alpha shrinks it).

    Args:
        fit_intercept: learn b; without it b is 0.
        init: start of W: a scheme ("normal(0.1)"), a number, an array [d] or [classes, d], a fitted estimator, a file
            of weights.
        init_bias: start of b, likewise; None: 0, or what came with the estimator or the file.
        eta: learning rate, or "auto": full batch, half of 2 / lambda_max, with lambda_max the largest curvature the
            loss has anywhere (a quarter of that of X^T X / n; softmax: half); mini-batches, the largest that cannot
            make any batch worse, times 1 - momentum. It is told in `eta_`.
        n_steps: full-batch steps; None: max_epochs.
        max_epochs: passes over the data where n_steps does not say.
        batch_size: samples a step; None: all; 1: online.
        momentum: beta of the velocity, 0 <= beta < 1, as torch.optim.SGD has it.
        nesterov: Nesterov's form of momentum, as torch.optim.SGD.
        alpha: L2 penalty on W, not on b; scikit-learn's C is 1 / (n alpha).
        shuffle: mini-batches are drawn anew each epoch.
        random_state: seed of start and shuffles.
        warm_start: what a second `fit` starts from: False, init again; True, where the first ended;
            "shrink_perturb(shrink=0.4, noise=0.1)", in between (`ShrinkPerturb`).
        tol: stop when the loss of an epoch has not fallen by tol for n_iter_no_change epochs; None: never.
        n_iter_no_change: how long to wait for that.
        keep_path: how many points of the path to keep in `coef_path_`; 0: none.

    Attributes:
        classes_: the labels, sorted.
        coef_: W, [1, d] for two classes, else [classes, d].
        intercept_: b, [1] or [classes].
        w0_, b0_: the start of both.
        loss_path_: the loss each step saw before it moved; for mini-batches the mean over an epoch's batches.
        loss_steps_: how many steps (epochs) had been taken before each entry.
        coef_path_, intercept_path_, coef_steps_: W [k, o, d] and b [k, o] after so many steps (epochs).
        n_iter_: steps (epochs) taken.
        eta_: the learning rate.
        n_features_in_: d.

    Raises:
        NetError: in `fit`, for data, labels, a start or a knob that does not fit. It is a ValueError too.
    Warns:
        NetWarning: eta beyond 2 / lambda_max.
    Example:
        >>> one = LogisticRegression(n_steps=1, eta=1.0).fit([[-1.0], [3.0]], ["no", "yes"])
        >>> one.coef_, one.classes_[1]                  # eta mean((y - 1/2) x) = (0.5 + 1.5) / 2
        (array([[1.]]), np.str_('yes'))

    Source: Hastie, Tibshirani and Friedman, section 4.4; the separable case, Soudry et al. 2018, arXiv:1710.10345; the
    curvature, Boehning 1992, Multinomial logistic regression algorithm.
    """

    beyond = (
        "Where predictions are near their start at 1/2 each step overshoots, so the loss may rise and swing for ever; "
        "its slope is bounded, so the weights do not explode."
    )

    def __init__(
        self,
        *,
        fit_intercept: bool = True,
        init: Any = "zeros",
        init_bias: Any = None,
        eta: float | Literal["auto"] = "auto",
        n_steps: int | None = None,
        max_epochs: int = 1000,
        batch_size: int | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        alpha: float = 0.0,
        shuffle: bool = True,
        random_state: Any = None,
        warm_start: Any = False,
        tol: float | None = None,
        n_iter_no_change: int = 5,
        keep_path: int = 0,
    ) -> None:
        self.fit_intercept = fit_intercept
        self.init = init
        self.init_bias = init_bias
        self.eta = eta
        self.n_steps = n_steps
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.momentum = momentum
        self.nesterov = nesterov
        self.alpha = alpha
        self.shuffle = shuffle
        self.random_state = random_state
        self.warm_start = warm_start
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.keep_path = keep_path

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on features X [n, d] and labels y [n] of any kind.

        Raises:
            NetError: NaN, wrong shapes, one class, a start that does not fit, a knob out of range.
        Example:
            >>> LogisticRegression().fit([[-1.0], [0.0], [1.0]], [0, 0, 1]).predict([[2.0]])
            array([1])

        Source: the class.
        """
        features, codes, n_outputs = self._classified(X, y)
        self._fit_by_steps(features, codes, n_outputs, 0.25 if n_outputs == 1 else 0.5)
        return self

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """One epoch over these samples, from where training stands: one step for batch_size=None.

        Args:
            X: features [n, d].
            y: labels [n].
            classes: all there will ever be; needed at the first call.
        Raises:
            NetError: as `fit`; a label that is not among the classes; no classes at the first call.
        Example:
            >>> LogisticRegression(eta=1.0).partial_fit([[2.0]], [1], classes=[0, 1]).coef_
            array([[1.]])

        Source: the name and its meaning are scikit-learn's.
        """
        features, codes, n_outputs = self._classified_part(X, y, classes)
        self._fit_a_part(features, codes, n_outputs, 0.25 if n_outputs == 1 else 0.5)
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Probabilities [n, classes], in the order of `classes_`.

        Raises:
            NotFittedError: before `fit`.
            NetError: NaN, another number of features.
        Example:
            >>> LogisticRegression(n_steps=1, eta=1e-9).fit([[0.0], [1.0]], [0, 1]).predict_proba([[1.0]]).round(6)
            array([[0.5, 0.5]])

        Source: the class.
        """
        z = self.decision_function(X)
        return np.column_stack([expit(-z), expit(z)]) if z.ndim == 1 else np.asarray(softmax(z, axis=1))

    def predict_log_proba(self, X: ArrayLike) -> Floats:
        """Their logarithms, without the underflow that log(predict_proba) has.

        Example:
            >>> sure = LogisticRegression(n_steps=1, eta=1.0).fit([[-1.0], [1.0]], [0, 1])
            >>> sure.predict_log_proba([[2000.0]])
            array([[-1000.,    -0.]])

        Source: scipy.special.log_expit and log_softmax.
        """
        z = self.decision_function(X)
        return np.column_stack([log_expit(-z), log_expit(z)]) if z.ndim == 1 else np.asarray(log_softmax(z, axis=1))

    def loss_of(self, n_outputs: int) -> int:
        return LOGISTIC if n_outputs == 1 else SOFTMAX

    def _scores(self, X: NDArray[np.float64]) -> Floats:
        scores: Floats = X @ self.coef_.T + self.intercept_
        return scores
