"""Linear regression by gradient descent from any start, in closed form or step by step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin

from symbreak.exact.arrays import Floats
from symbreak.nets import curvature, reduced
from symbreak.nets.errors import NetError, NetWarning, front_door
from symbreak.nets.knobs import Knobs, knobs, seed_of, thinned
from symbreak.nets.neuron import SQUARES, Neuron, half_of

ALL, SOME = 1000, 100  # so many steps of the closed form have all their losses, longer paths so many


class LinearRegression(RegressorMixin, Neuron):  # type: ignore[misc]  # scikit-learn ships no types
    """A line through the data, found by gradient descent from a start of your choice.

        L(w, b) = |X w + b - y|^2 / (2 n) + alpha |w|^2 / 2
        dL/dw   = X^T (X w + b - y) / n + alpha w

    The gradient is not zero at w = 0, so zero is a fine start, and with more samples than features every start ends at
    the same minimum. With fewer samples than features it does not: what no sample sees of the start stays for ever.
    From zero the end is the least-squares solution of least norm, pinv(X) y; from w0 it is pinv(X) y + P w0, P the
    projection on the null space of X (without intercept; with one, on that of [X 1]).

    Full-batch descent is linear in w, so its state after any number of steps is known without taking them:
    `solver="auto"` does that for full batches without tol, and n_steps=None then means "to the very end".

    Args:
        fit_intercept: learn b; without it b is 0.
        init: start of w: a scheme ("normal(0.1)"), a number, an array [d], a fitted estimator, a file of weights.
        init_bias: start of b, likewise; None: 0, or what came with the estimator or the file.
        solver: "exact" (closed form, full batch), "steps" (a compiled loop), or "auto": exact where it can.
        eta: learning rate, or "auto": full batch, half the stability limit, which is 1 / lambda_max without momentum,
            the largest at which no mode overshoots; mini-batches, (1 - momentum) / max |x|^2, the largest that cannot
            make any batch worse. It is told in `eta_`.
        n_steps: full-batch steps; None: as many as the minimum takes (exact, eta below the limit), else max_epochs.
        max_epochs: passes over the data where n_steps does not say.
        batch_size: samples a step; None: all; 1: online.
        momentum: beta of the velocity, 0 <= beta < 1, as torch.optim.SGD has it.
        nesterov: Nesterov's form of momentum, as torch.optim.SGD.
        alpha: L2 penalty on w, not on b; in units of the loss above, so scikit-learn's Ridge(alpha=n alpha).
        shuffle: mini-batches are drawn anew each epoch.
        random_state: seed of start and shuffles.
        warm_start: what a second `fit` starts from: False, init again; True, where the first ended;
            "shrink_perturb(shrink=0.4, noise=0.1)", in between (`ShrinkPerturb`).
        tol: stop when the loss of an epoch has not fallen by tol for n_iter_no_change epochs; None: never. With tol the
            descent is taken by steps.
        n_iter_no_change: how long to wait for that.
        keep_path: how many points of the path to keep in `coef_path_`; 0: none.

    Attributes:
        coef_: w [d].
        intercept_: b.
        w0_, b0_: the start of w [d] and of b.
        loss_path_: the loss each step saw before it moved; for mini-batches the mean over an epoch's batches.
        loss_steps_: how many steps (epochs) had been taken before each entry: all, or 100 of a long closed form.
        coef_path_, intercept_path_, coef_steps_: weights [k, d] and intercepts [k] after so many steps (epochs).
        n_iter_: steps (epochs) taken.
        eta_: the learning rate.
        n_features_in_: d.

    Raises:
        NetError: in `fit`, for data, a start or a knob that does not fit. It is a ValueError too.
    Warns:
        NetWarning: eta beyond the stability limit 2 / lambda_max: the weights diverge, and are given as far as asked.
            A target that is the same number in every sample.
    Example:
        >>> line = LinearRegression().fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])
        >>> line.coef_.round(6), round(line.intercept_, 6)
        (array([2.]), 1.0)
        >>> wide = LinearRegression(init=[0.0, 5.0], fit_intercept=False).fit([[1.0, 0.0]], [2.0])
        >>> wide.coef_                                  # no sample sees the second weight: it stays where it started
        array([2., 5.])

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 3.2; for the implicit choice
        of
    the least norm, Zhang et al. 2017, arXiv:1611.03530, section 5. The closed form: `symbreak.exact.descent`.
    """

    beyond = "Each step overshoots by more than it corrects: loss and weights grow without bound (they diverge)."

    def __init__(
        self,
        *,
        fit_intercept: bool = True,
        init: Any = "zeros",
        init_bias: Any = None,
        solver: Literal["auto", "exact", "steps"] = "auto",
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
        self.solver = solver
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
        """Train on features X [n, d] and targets y [n].

        Raises:
            NetError: NaN, wrong shapes, a start that does not fit, a knob out of range.
        Example:
            >>> LinearRegression(n_steps=1, eta=0.5, fit_intercept=False).fit([[1.0]], [2.0]).coef_
            array([1.])

        Source: the class.
        """
        with front_door(self):
            k = knobs(self)
            exact = self._is_exact(k)
        features, target = self.check_samples(X, y)
        self._look_at(target)
        if exact:
            self._fit_in_closed_form(features, target, k)
        else:
            self._fit_by_steps(features, target, 1, self.bend)
        return self

    def partial_fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """One epoch over these samples, from where training stands: one step for batch_size=None.

        Velocities live on from call to call. eta="auto" is the least that any call so far was safe with.

        Raises:
            NetError: as `fit`; another number of features than before.
        Example:
            >>> line = LinearRegression(eta=0.5, fit_intercept=False)
            >>> line.partial_fit([[1.0]], [2.0]).partial_fit([[1.0]], [2.0]).coef_
            array([1.5])

        Source: the name and its meaning are scikit-learn's.
        """
        features, target = self.check_samples(X, y, reset=not self.__sklearn_is_fitted__())
        self._fit_a_part(features, target, 1, self.bend)
        return self

    def predict(self, X: ArrayLike) -> Floats:
        """X w + b [n].

        Raises:
            NotFittedError: before `fit`.
            NetError: NaN, another number of features.
        Example:
            >>> LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]).predict([[3.0]]).round(6)
            array([3.])

        Source: the class.
        """
        predicted: Floats = self.check_features(X) @ self.coef_ + self.intercept_
        return predicted

    def adopt(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        super().adopt(tensors)
        self.coef_, self.intercept_ = self.coef_[0], float(self.intercept_[0])

    def adopt_start(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        super().adopt_start(tensors)
        self.w0_, self.b0_ = self.w0_[0], float(self.b0_[0])

    def loss_of(self, n_outputs: int) -> int:  # noqa: ARG002 (one target at a time)
        return SQUARES

    def _is_exact(self, k: Knobs) -> bool:
        if self.solver not in ("auto", "exact", "steps"):
            raise NetError(f"solver={self.solver!r}: expected 'auto', 'exact' or 'steps'.")
        full_batch = k.batch_size is None and k.tol is None
        if self.solver == "exact" and not full_batch:
            given = f"batch_size={k.batch_size}" if k.batch_size is not None else f"tol={k.tol:g}"
            raise NetError(f"solver='exact' is for full batches without tol, and {given} is set. Take solver='auto'.")
        return full_batch and self.solver != "steps"

    def _look_at(self, target: Floats) -> None:
        if len(target) > 1 and np.ptp(target) == 0:
            warnings.warn(
                f"LinearRegression: y is {target[0]:g} in every sample, so the features have nothing to explain. "
                "Is it the right column?",
                NetWarning,
                stacklevel=3,
            )

    def _fit_in_closed_form(self, X: Floats, y: Floats, k: Knobs) -> None:
        bias = bool(self.fit_intercept)
        with front_door(self):
            began = self.begin(self._slots(1), seed_of(self.random_state))
        problem = reduced.reduce(X, y, bias=bias, alpha=k.alpha)
        limit = curvature.limit(problem.curvature, momentum=k.momentum, nesterov=k.nesterov)
        self.eta_ = half_of(limit) if k.eta is None else k.eta
        self._warn_of(self.eta_, problem.curvature, k, frames=4)
        n_steps = k.epochs
        if k.n_steps is None and self.eta_ < limit:
            n_steps = problem.steps_to_settle(self.eta_, momentum=k.momentum, nesterov=k.nesterov)
        self.loss_steps_ = thinned(n_steps - 1, ALL if n_steps <= ALL else SOME)
        kept = thinned(n_steps, k.keep_path) if k.keep_path else np.empty(0, np.int64)
        steps = np.unique(np.concatenate([self.loss_steps_, kept, [n_steps]]))
        self.adopt_start(began)
        start = np.append(self.w0_, self.b0_) if bias else self.w0_
        path = problem.path(start, self.eta_, steps, momentum=k.momentum, nesterov=k.nesterov)
        W, b = (path.weights[:, :-1], path.weights[:, -1]) if bias else (path.weights, np.zeros(len(steps)))
        self.adopt({"coef_": W[-1:], "intercept_": b[-1:]})
        self.loss_path_ = path.losses[np.searchsorted(steps, self.loss_steps_)]
        self.n_iter_ = n_steps
        self._course = None
        if k.keep_path:
            places = np.searchsorted(steps, kept)
            self._keep_path(kept, W[places, None], b[places, None])

    def _keep_path(self, steps: NDArray[np.int64], path_W: Floats, path_b: Floats) -> None:
        super()._keep_path(steps, path_W[:, 0], path_b[:, 0])
