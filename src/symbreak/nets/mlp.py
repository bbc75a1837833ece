"""Multilayer perceptrons as estimators, with a start that is chosen and can be looked at before training.

Index letters: n samples, i units in, o units out, t epochs kept.
"""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from torch import nn

from symbreak.nets.errors import NetError, front_door
from symbreak.nets.multilayer import Floats, Multilayer
from symbreak.nets.objectives import HALF_SQUARES, LOGISTIC, SOFTMAX, Objective


class MLPClassifier(ClassifierMixin, Multilayer):  # type: ignore[misc]  # scikit-learn ships no types
    """A multilayer perceptron that classifies, with a start that is chosen, kept, and can be looked at before training.

        h_0 = x,   z_l = W_l h_(l-1) + b_l,   h_l = phi(z_l),   P(class | x) = softmax(z_L)

    Two classes have one output and the logistic function; an indicator matrix [n, o] of several labels has one each.
    Trained by gradient descent on the cross entropy. Everything that scikit-learn's estimator of the same name does at
    this is named as there; what it leaves to chance, the start, has a name here:

    - before: `sb.check(*mlp.task(X, y))` says whether every unit will learn and differ, before a step is made;
    - between: `warm_start=` keeps training, starts again, or shrinks and perturbs; `init=` takes trained weights from
      elsewhere;
    - afterwards: `w0_` and `b0_` are the start, `coefs_` and `intercepts_` the end, `coef_path_` the way.

    Args:
        hidden_layer_sizes: units of each hidden layer; () for none, which is softmax regression.
        activation: of the hidden layers: any name of `symbreak.schemes.ACTIVATIONS`, with its options where it has any
            ("leaky_relu(0.2)", "gelu('tanh')"), or such a value. PReLU's slope is trained along.
        init: where the weights start. "auto" keeps the size of the signal for this activation (`auto_schemes`). A
            scheme as text or value; a number; for each layer its own in a list; arrays in a list, [i, o] as `coefs_`
            has them; a fitted estimator, ours or scikit-learn's, or a file.safetensors: its weights and biases are
            kept and trained further.
        init_bias: where the biases start, likewise ([o] a layer). None: those that come with an estimator or a file;
            drawn, under "torch_default"; else zero.
        solver: "sgd"; "adam", "adagrad", "adamax", "nadam", "radam", "rmsprop" with torch's settings; or what makes a
            torch optimizer of (parameters, lr=eta), such as functools.partial(torch.optim.AdamW, weight_decay=0.1).
        eta: learning rate, or "auto", stated in `eta_`. For "sgd" the largest that the start allows (`safe_eta`): with
            h the largest eigenvalue of the Hessian there, half the limit of stability on all samples at once, 1/h
            without momentum; on mini-batches (1 - momentum)/h, h that of the steepest of the first four; halved until
            100 trial steps from there behave. Training may still move to where the loss bends more, and then the loss
            has spikes. Every other solver sets its own scale, and "auto" is 0.001.
        n_steps: steps on all samples at once; takes the place of max_epochs.
        max_epochs: passes over the data at most.
        batch_size: samples a step; None is all of them, 1 online; "auto" is 200 at most (all, with n_steps).
        momentum: of "sgd" alone, as torch.optim.SGD has it.
        nesterov: Nesterov's momentum; of "sgd" alone.
        alpha: of the penalty alpha/2 |W|^2 on the weights, not the biases. scikit-learn divides its alpha by the number
            of samples in the batch; ours is its alpha / batch_size.
        shuffle: a new order of the samples each epoch; no matter where a step takes all.
        random_state: seed of the start and of the orders.
        warm_start: what a second `fit` starts from: False the start again, True where the first ended, or
            "shrink_perturb(shrink=0.4, noise=0.1)" in between.
        tol: it stops when the loss has not fallen by more than this for `n_iter_no_change` epochs. None: never, and
            reaching max_epochs is then no reason to warn.
        n_iter_no_change: see tol.
        keep_path: how many points of the path of the weights to keep, start and end among them; 0 keeps none.
    Attributes:
        net_: the torch module, float64, in evaluation mode: layers fc1, act1, fc2, ...
        coefs_, intercepts_: weights [i, o] and biases [o] a layer, as scikit-learn has them; views of net_.
        w0_, b0_: the same, at the start of the last fit.
        loss_path_, loss_steps_: one loss an epoch, the mean over its samples, each batch before its own step. With all
            samples at once, the loss before each step. `partial_fit` adds to it. Infinite in an epoch that diverged.
        loss_: the last of them.
        n_iter_: epochs.
        eta_, seed_: as used.
        diverged_at_: the step, from 1, at which the last call diverged, or None.
        coef_path_, intercept_path_, coef_steps_: with keep_path, weights [t, i, o] and biases [t, o] a layer, and the
            epochs they belong to.
        objective_: the loss, as `check` takes it.
        classes_: the labels, sorted, in the order of the columns of `predict_proba`.
    Raises:
        NetError: see `fit`.
    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> X = (X - X.mean(0)) / X.std(0)
        >>> mlp = MLPClassifier((8,), "tanh", solver="sgd", n_steps=200, random_state=0).fit(X, y)
        >>> mlp.score(X, y) > 0.95
        True
        >>> import symbreak as sb
        >>> zero = MLPClassifier((8,), "tanh", init="zeros")
        >>> sb.check(*zero.task(X, y)).verdict
        'stuck'

    All computing is in float64, as everywhere in these nets: exact copies stay exact copies, and what training makes of
    a start is not blurred by rounding. Same seed, same weights; torch's global random state is neither read nor moved;
    small nets are trained on one thread, and the number of threads is put back. Where training diverges, a FitWarning
    names the step, and the weights go back to where the epoch of the lowest loss began: finite, and the best seen.
    Of scikit-learn's arguments early stopping, learning-rate schedules, "lbfgs" and sample weights are not here.

    Source: Rumelhart, Hinton and Williams 1986, Learning representations by back-propagating errors; names as in
    sklearn.neural_network.
    """

    @property
    def objective_(self) -> Objective:
        """The loss that is trained: softmax cross entropy, or logistic for two classes and for several labels."""
        if "_kind" not in vars(self):
            raise AttributeError("MLPClassifier knows its loss when it has seen the classes: fit first.")
        return SOFTMAX if self._kind == "multiclass" else LOGISTIC

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """One more epoch on X [n, i], y [n]; the solver keeps its momentum, and the losses are added to loss_path_.

        Args:
            X: features [n, i].
            y: labels [n], or an indicator matrix [n, o] of several labels.
            classes: all there will ever be; needed in the first call, as in scikit-learn.
        Raises:
            NetError: no classes in the first call, a label that is not among them, and as `fit`.
        """
        if classes is None and not self.__sklearn_is_fitted__():
            raise NetError("MLPClassifier: the first partial_fit needs classes=, all labels there will ever be.")
        if (
            classes is not None
            and self.__sklearn_is_fitted__()
            and not np.array_equal(np.unique(classes), self.classes_)
        ):
            raise NetError(
                f"MLPClassifier: classes={np.unique(classes).tolist()} are not those of the first call, "
                f"{self.classes_.tolist()}. The net has an output for each; fit again to change them."
            )
        return self._partial_fit(X, y, classes)

    def _encoded(self, y: NDArray[Any], classes: ArrayLike | None, *, reset: bool) -> Floats:
        with front_door(self):
            check_classification_targets(y)
            several = type_of_target(y) == "multilabel-indicator"
            if y.ndim == 2 and not several:
                raise NetError(f"y has shape {y.shape}; expected labels [n], or an indicator matrix of zeros and ones.")
        if reset:
            self._kind, self.classes_ = self._kinds(y, classes, several=several)
        if several != (self._kind == "labels"):
            raise NetError(f"MLPClassifier: y has shape {y.shape}, and the net was made for {self._kind} targets.")
        if several:
            if y.shape[1] != len(self.classes_):
                raise NetError(
                    f"MLPClassifier: y has {y.shape[1]} labels, and the net was made for {len(self.classes_)}."
                )
            return np.asarray(y, dtype=np.float64)
        codes = self.check_codes(y, self.classes_)
        if self._kind == "binary":
            return codes.reshape(-1, 1).astype(np.float64)
        columns = np.zeros((len(codes), len(self.classes_)))
        columns[np.arange(len(codes)), codes] = 1.0
        return columns

    def _kinds(self, y: NDArray[Any], classes: ArrayLike | None, *, several: bool) -> tuple[str, NDArray[Any]]:
        if several:
            return "labels", np.arange(y.shape[1])
        known, _ = self.check_labels(y if classes is None else np.asarray(classes))
        return ("binary" if len(known) == 2 else "multiclass"), known

    def predict_log_proba(self, X: ArrayLike) -> Floats:
        """log P(class | x) [n, classes], without the rounding of log(predict_proba).

        Raises:
            NotFittedError: before `fit`.
            NetError: NaN, another number of features.
        """
        output = self._output(X)
        if self._kind == "multiclass":
            return torch.log_softmax(output, 1).numpy()
        logs: Floats = nn.functional.logsigmoid(output).numpy()
        return logs if self._kind == "labels" else np.hstack([nn.functional.logsigmoid(-output).numpy(), logs])

    def predict_proba(self, X: ArrayLike) -> Floats:
        """P(class | x) [n, classes], in the order of classes_; of several labels, P(label | x) [n, o], each alone.

        Raises:
            NotFittedError: before `fit`.
            NetError: NaN, another number of features.
        """
        output = self._output(X)
        if self._kind == "multiclass":
            return torch.softmax(output, 1).numpy()
        second: Floats = torch.sigmoid(output).numpy()
        return second if self._kind == "labels" else np.hstack([1 - second, second])

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The likeliest class [n]; of several labels the indicator matrix [n, o] of those likelier than not.

        Raises:
            NotFittedError: before `fit`.
            NetError: NaN, another number of features.
        """
        output = self._output(X).numpy()
        if self._kind == "labels":
            return (output > 0).astype(np.int64)
        chosen = output.argmax(1) if self._kind == "multiclass" else (output[:, 0] > 0).astype(np.int64)
        return cast(NDArray[Any], self.classes_[chosen])

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, Multilayer):  # type: ignore[misc]  # scikit-learn ships no types
    """A multilayer perceptron that predicts numbers, with a start that is chosen, and can be looked at before training.

        h_0 = x,   z_l = W_l h_(l-1) + b_l,   h_l = phi(z_l),   yhat = z_L

    Trained by gradient descent on L = mean over samples of |yhat - y|^2 / 2, summed over the outputs where y is [n, o];
    so that without hidden layers its gradient is that of `LinearRegression`, X^T (X w - y) / n. Scale y as well as X:
    the loss bends, and the largest safe eta shrinks, with the square of both.

    Arguments and attributes are those of `MLPClassifier`, which explains them; hidden_layer_sizes=() is linear
    regression, and there are no classes_.

    Raises:
        NetError: see `fit`.
    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> X, y = X / X.std(0), (y - y.mean()) / y.std()
        >>> mlp = MLPRegressor((16,), "gelu", eta=0.01, max_epochs=100, random_state=0).fit(X, y)
        >>> mlp.score(X, y) > 0.5
        True
        >>> further = MLPRegressor((16,), "gelu", init=mlp, max_epochs=50).fit(X, y)
        >>> bool((further.w0_[0] == mlp.coefs_[0]).all()), bool(further.loss_ < mlp.loss_)
        (True, True)

    Source: Rumelhart, Hinton and Williams 1986, Learning representations by back-propagating errors; names as in
    sklearn.neural_network.
    """

    @property
    def objective_(self) -> Objective:
        """The loss that is trained: half the squared error, mean over samples, sum over outputs."""
        return HALF_SQUARES

    def partial_fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """One more epoch on X [n, i], y [n] or [n, o]; the solver keeps its momentum, losses are added to loss_path_.

        Raises:
            NetError: as `fit`; another number of targets than before.
        """
        return self._partial_fit(X, y, None)

    def _encoded(self, y: NDArray[Any], classes: ArrayLike | None, *, reset: bool) -> Floats:  # noqa: ARG002
        with front_door(self):
            targets = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        if not reset and targets.shape[1] != self.n_outputs_:
            raise NetError(
                f"MLPRegressor: y has {targets.shape[1]} targets, and the net was made for {self.n_outputs_}."
            )
        self._kind = "numbers"
        return targets

    def predict(self, X: ArrayLike) -> Floats:
        """The net's output [n], or [n, o] where it was fitted to several targets.

        Raises:
            NotFittedError: before `fit`.
            NetError: NaN, another number of features.
        """
        output: Floats = self._output(X).numpy()
        return output.ravel() if output.shape[1] == 1 else output

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
