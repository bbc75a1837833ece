"""What one layer of neurons has in common, whatever its loss: weights, learning rate, training by steps or parts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from symbreak.exact.arrays import Floats, Integers
from symbreak.nets import curvature
from symbreak.nets.errors import NetError, NetWarning, front_door
from symbreak.nets.knobs import Knobs, knobs, seed_of, thinned
from symbreak.nets.net import Net
from symbreak.nets.start import Slot, Tensors
from symbreak.schemes import Fans

SQUARES, LOGISTIC, SOFTMAX, PERCEPTRON = 0, 1, 2, 3  # the losses of `kernels.descend`


@dataclass(eq=False)
class Course:
    """Where training stands between two calls of `partial_fit`: velocities, and the state of the shuffles."""

    VW: Floats  # [o, d]
    Vb: Floats  # [o]
    state: NDArray[np.uint64]  # [1]

    @classmethod
    def new(cls, n_outputs: int, n_features: int, seed: int) -> Course:
        return cls(np.zeros((n_outputs, n_features)), np.zeros(n_outputs), np.array([seed], np.uint64))


class Neuron(Net):
    """Base of the one-layer estimators. W is [o, d], o neurons, d features; b is [o].

    Source: `kernels.descend` is the training, `start.start` the start.
    """

    facts: ClassVar[tuple[str, ...]] = ("loss_path_", "loss_steps_", "n_iter_", "eta_")
    loss_path_: Floats
    loss_steps_: Integers
    n_iter_: int
    eta_: float
    coef_: Any
    intercept_: Any
    w0_: Any
    b0_: Any
    _course: Course | None
    bend: ClassVar[float] = 1.0  # largest second derivative of the loss by z; curvature.py
    beyond: ClassVar[str]  # what happens above the stability limit

    def loss_of(self, n_outputs: int) -> int:
        """Which loss the kernel takes for so many neurons: SQUARES, LOGISTIC, SOFTMAX or PERCEPTRON."""
        raise NotImplementedError

    # Weights ---------------------------------------------------------------------------------------------------------

    def tensors(self) -> Tensors:
        """The fitted weights, {"coef_": [o, d], "intercept_": [o]}; copies.

        Raises:
            NotFittedError: before `fit`.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        return {"coef_": np.array(np.atleast_2d(self.coef_)), "intercept_": np.array(np.atleast_1d(self.intercept_))}

    def adopt(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Make these the fitted weights; without an intercept it is 0."""
        self.coef_ = np.array(tensors["coef_"])
        self.intercept_ = np.array(tensors.get("intercept_", np.zeros(len(self.coef_))))

    def start_tensors(self) -> Tensors:
        """The weights the last fit started from, as `tensors`."""
        return {"coef_": np.atleast_2d(self.w0_), "intercept_": np.atleast_1d(self.b0_)}

    def adopt_start(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Remember these as the start."""
        self.w0_ = np.array(tensors["coef_"])
        self.b0_ = np.array(tensors.get("intercept_", np.zeros(len(self.w0_))))

    def _slots(self, n_outputs: int) -> tuple[Slot, ...]:
        n_features = self.n_features_in_
        fans = Fans(n_features, n_outputs)
        weight = Slot("coef_", (n_outputs, n_features), fans)
        if self.fit_intercept:
            return weight, Slot("intercept_", (n_outputs,), fans, is_bias=True)
        if self.init_bias is not None:
            raise NetError(f"init_bias={self.init_bias!r}, but fit_intercept=False leaves no intercept to start.")
        return (weight,)

    # The learning rate -----------------------------------------------------------------------------------------------

    def _eta(self, X: Floats, k: Knobs, bend: float) -> float:
        """The learning rate: as given, with a warning where it is too large; for "auto" the largest that is safe."""
        facts: dict[str, Any] = {"bias": bool(self.fit_intercept), "bend": bend, "alpha": k.alpha}
        if k.eta is None and k.batch_size is None:
            return half_of(curvature.limit(curvature.largest(X, **facts), momentum=k.momentum, nesterov=k.nesterov))
        worst = curvature.largest_of_a_sample(X, **facts)
        if k.eta is None:
            return (1 - k.momentum) / worst if worst else 1.0
        if k.eta > curvature.limit(worst, momentum=k.momentum, nesterov=k.nesterov):  # else there is no need to look
            self._warn_of(k.eta, curvature.largest(X, **facts), k, frames=5)
        return k.eta

    def _warn_of(self, eta: float, largest: float, k: Knobs, *, frames: int) -> None:
        """frames: from here up to the user's line."""
        limit = curvature.limit(largest, momentum=k.momentum, nesterov=k.nesterov)
        if eta <= limit:
            return
        law = "2 / lambda_max"
        if k.momentum:
            law += f" x {limit * largest / 2:.4g} for momentum {k.momentum:g}"
        warnings.warn(
            f"{type(self).__name__}: eta={eta:g} is beyond the stability limit {law} = {limit:.6g} (lambda_max = "
            f"{largest:.6g}, the largest curvature of the loss). {self.beyond} Take eta below {limit:.6g}, or 'auto'.",
            NetWarning,
            stacklevel=frames,
        )

    # Training --------------------------------------------------------------------------------------------------------

    def _fit_by_steps(self, X: Floats, y: Floats, n_outputs: int, bend: float) -> None:
        """Train from the start that init= and warm_start= give, and set the fitted attributes. y [n] as `kernels`."""
        with front_door(self):
            k, seed = knobs(self), seed_of(self.random_state)
            began = self.begin(self._slots(n_outputs), seed)
        self.eta_ = self._eta(X, k, bend)
        self.adopt_start(began)
        snapshots = thinned(k.epochs, k.keep_path)[:-1] if k.keep_path else np.empty(0, np.int64)
        self._course, course = None, Course.new(n_outputs, X.shape[1], seed)
        W, b = np.array(np.atleast_2d(self.w0_)), np.array(np.atleast_1d(self.b0_))
        path_W, path_b = np.empty((len(snapshots), *W.shape)), np.empty((len(snapshots), *b.shape))
        losses, mistakes = self._descend(X, y, W, b, k, course, k.epochs, (snapshots, path_W, path_b))
        self._end_at(W, b, losses, mistakes)
        if k.keep_path:
            kept = snapshots < self.n_iter_
            self._keep_path(
                np.append(snapshots[kept], self.n_iter_),
                np.concatenate([path_W[kept], W[None]]),
                np.concatenate([path_b[kept], b[None]]),
            )

    def _fit_a_part(self, X: Floats, y: Floats, n_outputs: int, bend: float) -> None:
        """One epoch over these samples, from where training stands."""
        with front_door(self):
            k, seed = knobs(self), seed_of(self.random_state)
            first = not self.__sklearn_is_fitted__()
            if first:
                self.adopt_start(self.begin(self._slots(n_outputs), seed))
                start = self.start_tensors()
                self._end_at(start["coef_"], start["intercept_"], np.empty(0), np.empty((0, n_outputs), np.int64))
        eta = self._eta(X, k, bend)
        self.eta_ = eta if first or k.eta is not None else min(eta, self.eta_)
        course = self.__dict__.get("_course") or Course.new(n_outputs, X.shape[1], seed)
        W, b = self.tensors().values()
        nothing = (np.empty(0, np.int64), np.empty((0, *W.shape)), np.empty((0, *b.shape)))
        losses, mistakes = self._descend(X, y, W, b, k, course, 1, nothing)
        self._course = course
        self._end_at(W, b, losses, mistakes, goes_on=True)

    def _descend(
        self, X: Floats, y: Floats, W: Floats, b: Floats, k: Knobs, course: Course, epochs: int, path: Any
    ) -> tuple[Floats, Integers]:
        """Train W and b in place; losses [epochs done] and mistakes [epochs done, o]."""
        from symbreak.nets import kernels  # numba: imported by the first fit

        losses, mistakes = np.empty(epochs), np.zeros((epochs, len(W)), np.int64)
        batch = min(k.batch_size or len(X), len(X))
        shuffled = k.shuffle and k.batch_size is not None
        tol = -1.0 if k.tol is None else k.tol
        bias = bool(self.fit_intercept)
        snapshots, path_W, path_b = path
        done = kernels.descend(
            self.loss_of(len(W)), kernels.lent(X), kernels.lent(y), W, b, course.VW, course.Vb, bias,
            self.eta_, k.momentum, k.nesterov, k.alpha, batch, shuffled, course.state, tol, k.patience,
            snapshots, path_W, path_b, losses, mistakes,
        )  # fmt: skip
        return losses[:done], mistakes[:done]

    def _end_at(self, W: Floats, b: Floats, losses: Floats, mistakes: Integers, *, goes_on: bool = False) -> None:
        """Set the fitted attributes; goes_on: these epochs come after those there have been."""
        del mistakes  # only perceptrons keep them
        self.adopt({"coef_": W, "intercept_": b})
        self.loss_path_ = np.append(self.loss_path_, losses) if goes_on else losses
        self.n_iter_ = self.n_iter_ + len(losses) if goes_on else len(losses)
        self.loss_steps_ = np.arange(len(self.loss_path_))

    def _keep_path(self, steps: Integers, path_W: Floats, path_b: Floats) -> None:
        self.coef_steps_, self.coef_path_, self.intercept_path_ = steps, path_W, path_b


def half_of(limit: float) -> float:
    """Half the stability limit: without momentum 1 / lambda_max, the largest rate at which no mode overshoots.

    Example:
        >>> half_of(3.0), half_of(float("inf"))
        (1.5, 1.0)

    Source: 1 - eta h >= 0 for all curvatures h. Where nothing bends any rate will do, and it is 1.
    """
    return limit / 2 if np.isfinite(limit) else 1.0
