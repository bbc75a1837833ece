"""The perceptron, from any start: Rosenblatt's rule one sample at a time, to the last bit."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin

from symbreak.exact.arrays import Floats, Integers
from symbreak.nets.classes import Classifying
from symbreak.nets.errors import NetError, front_door
from symbreak.nets.knobs import Knobs
from symbreak.nets.neuron import PERCEPTRON, Course, Neuron

CONVENTIONS = ((0, 1), (-1, 1))


class Perceptron(ClassifierMixin, Classifying, Neuron):  # type: ignore[misc]  # scikit-learn ships no types
    """A neuron that fires or not, trained by its mistakes alone, from a start of your choice.

        z = w . x + b,   yhat = phi(z), 1 where z >= 0
        w <- w + eta (y - yhat) x,   b <- b + eta (y - yhat)

    after every sample. y is 1 for the positive class `classes_[1]`, the larger of two labels, and 0 for the other; with
    targets -1 and +1 the runs are the same, bit for bit (the form eta (y - sgn z) x takes steps twice as long: it is
    eta doubled). Where a plane separates the classes it makes finitely many mistakes and stops at the first epoch
    without one; elsewhere it never settles, and max_epochs ends it. More than two classes: one neuron a class against
    the rest, and the highest score wins.

    From w = 0 the learning rate changes nothing but the length of w: each update adds eta times whole samples, so eta
    factors out of w, and the sign of z does not see it. From w0 != 0 only w0 / eta matters. In floats both hold exactly
    for powers of two; else a z of zero may be rounded to either side. `symbreak.exact.perceptron.run(...).ties` counts
    how often that could have been.

    scikit-learn's Perceptron also updates where a positive sample has z = 0 exactly; elsewhere the two agree bit for
    bit (shuffle=False, tol=None).

    Args:
        fit_intercept: learn b; without it b is 0.
        init: start of w: a scheme ("normal(0.1)"), a number, an array [d] or [classes, d], a fitted estimator, a file
            of weights.
        init_bias: start of b, likewise; None: 0, or what came with the estimator or the file.
        labels: the convention y has to keep, (0, 1) or (-1, 1); None: two labels or more of any kind.
        eta: learning rate; "auto" is 1, because none is too large.
        n_steps: full-batch steps, with batch_size=None.
        max_epochs: passes over the data, at most.
        batch_size: samples whose mistakes are averaged before the weights move; 1: Rosenblatt's rule; None: all.
        momentum, nesterov: as torch.optim.SGD has them.
        alpha: L2 penalty on w, in units of the update: w shrinks by eta alpha w a step.
        shuffle: visit the samples in a new order each epoch.
        random_state: seed of start and shuffles.
        warm_start: what a second `fit` starts from: False, init again; True, where the first ended;
            "shrink_perturb(shrink=0.4, noise=0.1)", in between (`ShrinkPerturb`).
        tol: stop when the share of mistakes has not fallen by tol for n_iter_no_change epochs; None: never.
        n_iter_no_change: how long to wait for that.
        keep_path: how many points of the path to keep in `coef_path_`; 0: none.

    Attributes:
        classes_: the labels, sorted; of two the second is positive.
        coef_: w, [1, d] for two classes, else [classes, d].
        intercept_: b, [1] or [classes].
        w0_, b0_: the start of both.
        mistakes_: mistakes by epoch [epochs]; for more classes those of each neuron [epochs, classes].
        loss_path_: share of mistakes by epoch, the mean over neurons.
        loss_steps_: how many epochs had been done before each entry.
        coef_path_, intercept_path_, coef_steps_: w [k, o, d] and b [k, o] after so many epochs.
        n_iter_: epochs, the first without a mistake included.
        eta_: the learning rate.
        n_features_in_: d.

    Raises:
        NetError: in `fit`, for data, labels, a start or a knob that does not fit. It is a ValueError too.
    Example:
        >>> X, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 0, 1]
        >>> gate = Perceptron().fit(X, y)
        >>> gate.coef_, gate.intercept_, gate.mistakes_.tolist()
        (array([[2., 1.]]), array([-3.]), [2, 3, 3, 2, 1, 0])
        >>> Perceptron(eta=0.25).fit(X, y).coef_        # a quarter of it
        array([[0.5 , 0.25]])

    Source: Rosenblatt 1958; Novikoff 1962; Minsky and Papert 1969. Many runs at once: `symbreak.exact.perceptron`.
    """

    mistakes_: Integers
    facts = (*Neuron.facts, "mistakes_")

    def __init__(
        self,
        *,
        fit_intercept: bool = True,
        init: Any = "zeros",
        init_bias: Any = None,
        labels: tuple[int, int] | None = None,
        eta: float | Literal["auto"] = 1.0,
        n_steps: int | None = None,
        max_epochs: int = 100,
        batch_size: int | None = 1,
        momentum: float = 0.0,
        nesterov: bool = False,
        alpha: float = 0.0,
        shuffle: bool = False,
        random_state: Any = None,
        warm_start: Any = False,
        tol: float | None = None,
        n_iter_no_change: int = 5,
        keep_path: int = 0,
    ) -> None:
        self.fit_intercept = fit_intercept
        self.init = init
        self.init_bias = init_bias
        self.labels = labels
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

    @property
    def positive_class_(self) -> Any:
        """The label the neuron fires for; of more than two classes each neuron has its own.

        Example:
            >>> Perceptron().fit([[-1.0], [1.0]], ["ham", "spam"]).positive_class_
            'spam'

        Source: `classes_[1]`, as in scikit-learn.
        """
        if len(self.classes_) != 2:
            raise AttributeError(
                f"one neuron a class for {len(self.classes_)} classes: none of them is the positive one."
            )
        label = self.classes_[1]
        return label.item() if isinstance(label, np.generic) else label

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on features X [n, d] and labels y [n].

        Raises:
            NetError: NaN, wrong shapes, one class, labels against the convention asked for, a start that does not fit,
                a knob out of range.
        Example:
            >>> Perceptron(labels=(-1, 1)).fit([[-1.0], [1.0]], [-1, 1]).predict([[-3.0]])
            array([-1])

        Source: the class.
        """
        with front_door(self):
            self._check_convention(y)
        features, codes, n_outputs = self._classified(X, y)
        self._fit_by_steps(features, codes, n_outputs, self.bend)
        return self

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """One epoch over these samples, from where training stands.

        Args:
            X: features [n, d].
            y: labels [n].
            classes: all there will ever be; needed at the first call, unless `labels` says.
        Raises:
            NetError: as `fit`; a label that is not among the classes; no classes at the first call.
        Example:
            >>> Perceptron().partial_fit([[1.0, 2.0]], [0], classes=[0, 1]).coef_
            array([[-1., -2.]])

        Source: the name and its meaning are scikit-learn's.
        """
        with front_door(self):
            self._check_convention(y)
            if classes is None and self.labels is not None:
                classes = self.labels
        features, codes, n_outputs = self._classified_part(X, y, classes)
        self._fit_a_part(features, codes, n_outputs, self.bend)
        return self

    def loss_of(self, n_outputs: int) -> int:  # noqa: ARG002 (one against the rest)
        return PERCEPTRON

    def _scores(self, X: NDArray[np.float64]) -> Floats:
        """Summed as in training, so that a tie falls on the same side."""
        from symbreak.nets import kernels

        return kernels.scores(kernels.lent(X), self.coef_, self.intercept_)

    def _check_convention(self, y: ArrayLike) -> None:
        if self.labels is None:
            return
        if tuple(self.labels) not in CONVENTIONS:
            raise NetError(f"labels={self.labels!r}: expected (0, 1), (-1, 1) or None.")
        strangers = np.setdiff1d(np.asarray(y), np.asarray(self.labels))
        if len(strangers):
            shown = ", ".join(map(repr, strangers.tolist()[:5]))
            raise NetError(
                f"y holds {shown}, and labels={tuple(self.labels)} was asked for. Recode y, or set labels=None."
            )

    def _eta(self, X: Floats, k: Knobs, bend: float) -> float:  # noqa: ARG002 (no learning rate is too large)
        return 1.0 if k.eta is None else k.eta

    def _descend(
        self, X: Floats, y: Floats, W: Floats, b: Floats, k: Knobs, course: Course, epochs: int, path: Any
    ) -> tuple[Floats, Integers]:
        if k.batch_size != 1 or k.momentum or k.alpha or k.tol is not None or k.keep_path:
            return super()._descend(X, y, W, b, k, course, epochs, path)
        from symbreak.nets import kernels

        mistakes = np.zeros((epochs, len(W)), np.int64)
        features, codes, bias = kernels.lent(X), kernels.lent(y), bool(self.fit_intercept)
        done = kernels.rosenblatt(features, codes, W, b, bias, self.eta_, k.shuffle, course.state, mistakes)
        return mistakes[:done].mean(axis=1) / len(X), mistakes[:done]

    def _end_at(self, W: Floats, b: Floats, losses: Floats, mistakes: Integers, *, goes_on: bool = False) -> None:
        made = mistakes if mistakes.shape[1] > 1 else mistakes[:, 0]
        self.mistakes_ = np.concatenate([self.mistakes_, made]) if goes_on else made
        super()._end_at(W, b, losses, mistakes, goes_on=goes_on)
