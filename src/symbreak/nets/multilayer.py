"""What the two multilayer perceptrons share: the start, training, the path, files; all but targets and predictions.

Index letters: n samples, b samples of a batch, i units in, o units out, t epochs kept.
"""

from __future__ import annotations

import copy
import itertools
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from symbreak.exact import arrays
from symbreak.nets.again import ShrinkPerturb, parse_warm_start
from symbreak.nets.backprop import in_one_vector
from symbreak.nets.errors import NetError, NetWarning, front_door
from symbreak.nets.knobs import Knobs, knobs, plain, seed_of, thinned
from symbreak.nets.net import Net
from symbreak.nets.objectives import Objective
from symbreak.nets.sharpness import safe_eta
from symbreak.nets.solvers import SOLVERS, Factory, Stepper, solver
from symbreak.nets.start import Slot, Tensors, layer
from symbreak.nets.textbook import chain
from symbreak.nets.training import Course, Plan, batches, quietly, train
from symbreak.schemes import Activation, Fans, Scheme, activation, gains, kaiming_normal, lecun_normal

Floats = NDArray[np.float64]
AUTO_BATCH = 200  # scikit-learn's
ADAPTIVE_ETA = 1e-3  # of every solver but "sgd": torch's and Kingma and Ba's
FIRST_BATCHES = 4  # on which eta="auto" looks


class FitWarning(NetWarning, ConvergenceWarning):  # type: ignore[misc]  # scikit-learn ships no types
    """The fit ended otherwise than hoped for: at its limit of epochs, or because it diverged."""


class Multilayer(Net):
    """What MLPClassifier and MLPRegressor share: everything but the targets, the loss, and what a prediction is."""

    seed_: int
    _epochs_done: int
    _kind: str

    facts: ClassVar[tuple[str, ...]] = (
        "loss_path_", "loss_steps_", "loss_", "n_iter_", "eta_", "seed_", "n_outputs_", "diverged_at_",
        "_epochs_done", "_kind",
    )  # fmt: skip

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Activation = "relu",
        *,
        init: Any = "auto",
        init_bias: Any = None,
        solver: str | Factory = "adam",
        eta: float | str = "auto",
        n_steps: int | None = None,
        max_epochs: int = 200,
        batch_size: int | str | None = "auto",
        momentum: float = 0.9,
        nesterov: bool = True,
        alpha: float = 0.0,
        shuffle: bool = True,
        random_state: Any = None,
        warm_start: bool | str | ShrinkPerturb = False,
        tol: float | None = None,
        n_iter_no_change: int = 10,
        keep_path: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
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

    # For the two subclasses to say -----------------------------------------------------------------------------------

    @property
    def objective_(self) -> Objective:
        """The loss that is trained, as `check` takes it: objective_(output, target)."""
        raise NotImplementedError

    def _encoded(self, y: NDArray[Any], classes: ArrayLike | None, *, reset: bool) -> Floats:
        """The targets as columns [n, o]; remembers the classes where reset."""
        raise NotImplementedError

    # To train --------------------------------------------------------------------------------------------------------

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on X [n, i] and y [n] (or [n, o]), from the start that `init=` gives, or as `warm_start=` says.

        Raises:
            NetError: NaN, shapes, one class, a knob out of its range, a start that does not fit; also a ValueError.
        Warns:
            FitWarning: it diverged, or `max_epochs` ended it while the loss still fell.
        """
        with front_door(self):
            going_on = parse_warm_start(self.warm_start) is not False and self.__sklearn_is_fitted__()
        features, targets = self._data(X, y, None, reset=not going_on)
        settings = self._settings(len(features))
        self._begin_at(features.shape[1], targets.shape[1], going_on=going_on)
        self.loss_path_: Floats = np.zeros(0)
        self._prepare(features, targets, settings)
        course = self._run(features, targets, settings, epochs=settings.epochs)
        if course.ended == "epochs" and settings.tol is not None:
            self._warn_of_the_limit(settings)
        return self

    def _partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None) -> Self:
        first = not self.__sklearn_is_fitted__()
        features, targets = self._data(X, y, classes, reset=first)
        settings = self._settings(len(features))
        if first:
            self._begin_at(features.shape[1], targets.shape[1], going_on=False)
            self.loss_path_ = np.zeros(0)
        if getattr(self, "_stepper", None) is None:
            self._prepare(features, targets, settings)
        self._run(features, targets, settings, epochs=1)
        return self

    def _settings(self, n_samples: int) -> Knobs:
        with front_door(self):
            size = plain(self.batch_size)
            if isinstance(size, str) and size != "auto":
                raise NetError(
                    f"batch_size={size!r}: expected a whole number, None (all samples at once) or 'auto' "
                    f"({AUTO_BATCH} at most)."
                )
            if size == "auto":
                size = None if self.n_steps is not None else min(AUTO_BATCH, n_samples)
            settings = knobs(SimpleNamespace(**{**self.get_params(deep=False), "batch_size": size}))
        if settings.batch_size is not None and settings.batch_size > n_samples:
            _tell(
                f"{type(self).__name__}: batch_size={size} is more than the {n_samples} samples there are; each step "
                "takes them all. batch_size=None says so.",
                NetWarning,
            )
        return settings

    def _begin_at(self, n_features: int, n_outputs: int, *, going_on: bool) -> None:
        """Make the net and put it at its start."""
        with front_door(self):
            seed = self.seed_ if going_on and self.random_state is None else seed_of(self.random_state)
            phi = self._phi()
            done = self._epochs_done if going_on else 0
            # The fresh weights of shrink_perturb must not be those of the first start again.
            tensors = self.begin(self._slots(n_features, n_outputs, phi), (seed + done) % 2**32)
            self._solver_known()
        self.seed_, self._epochs_done, self.n_outputs_ = seed, done, n_outputs
        self.adopt(tensors)
        self.adopt_start(tensors)

    def _solver_known(self) -> None:
        solver(self.solver, [nn.Parameter(torch.zeros(2, 2))], 1.0, momentum=0.0, nesterov=False)

    def _prepare(self, X: Tensor, Y: Tensor, settings: Knobs) -> None:
        """eta_ and the solver, once for a fit."""
        self.eta_ = settings.eta if settings.eta is not None else self._safe_eta(X, Y, settings)
        self._stepper: Stepper | None = solver(
            self.solver, self.net_.parameters(), self.eta_, momentum=settings.momentum, nesterov=settings.nesterov
        )

    def _safe_eta(self, X: Tensor, Y: Tensor, settings: Knobs) -> float:
        if self.solver != "sgd":
            return ADAPTIVE_ETA
        first = list(itertools.islice(batches(X, Y, self._plan(settings, len(X), 1), 0), FIRST_BATCHES))
        with (
            quietly(self.net_, settings.batch_size or len(X), seed=self.seed_),
            in_one_vector(self.net_, self.objective_, alpha=settings.alpha) as backprop,
        ):
            self.net_.eval()  # a random slope (RReLU) has no derivative; its mean has
            stochastic = settings.batch_size is not None and settings.batch_size < len(X)
            return safe_eta(
                backprop, first, momentum=settings.momentum, nesterov=settings.nesterov, stochastic=stochastic
            )

    def _plan(self, settings: Knobs, n_samples: int, epochs: int) -> Plan:
        return Plan(
            batch_size=settings.batch_size or n_samples,
            max_epochs=epochs,
            shuffle=settings.shuffle,
            seed=self.seed_,
            epochs_before=self._epochs_done,
            tol=settings.tol,
            patience=settings.patience,
        )

    def _run(self, X: Tensor, Y: Tensor, settings: Knobs, *, epochs: int) -> Course:
        assert self._stepper is not None
        plan = self._plan(settings, len(X), epochs)
        path = _Path(epochs, settings.keep_path)
        with (
            quietly(self.net_, plan.batch_size, seed=(self.seed_ + self._epochs_done) % 2**32),
            in_one_vector(self.net_, self.objective_, alpha=settings.alpha) as backprop,
        ):
            path.keep(0, backprop.theta)
            course = train(backprop, self._stepper, X, Y, plan, after_epoch=path.keep if settings.keep_path else None)
            path.end(len(course.losses), backprop.theta)
        self._remember(course, settings)
        if settings.keep_path:
            self._remember_path(path)
        return course

    def _remember(self, course: Course, settings: Knobs) -> None:
        diverged = course.ended == "diverged"
        losses = (*course.losses, math.inf) if diverged else course.losses
        self.loss_path_ = np.append(self.loss_path_, losses)
        self.loss_steps_ = np.arange(len(self.loss_path_))
        self.loss_ = float(self.loss_path_[-1])
        self.n_iter_ = len(self.loss_path_)
        self.diverged_at_ = course.diverged_step
        self._epochs_done += len(losses)
        if diverged:
            self._stepper = None  # what it remembers is no number any more
            self._warn_of_divergence(course, settings)

    def _warn_of_divergence(self, course: Course, settings: Knobs) -> None:
        advice = "Take a smaller eta, or eta='auto'" if settings.eta is not None else "Give a smaller eta"
        kept = "those of the start" if not course.losses else "those with which the epoch of the lowest loss began"
        _tell(
            f"{type(self).__name__} diverged: at step {course.diverged_step} (epoch {len(course.losses) + 1}) the loss "
            f"was no finite number any more, with eta={self.eta_:g}. The weights kept are {kept}. {advice}, and scale "
            "the features.",
            FitWarning,
        )

    def _warn_of_the_limit(self, settings: Knobs) -> None:
        name = "max_epochs" if settings.n_steps is None else "n_steps"
        _tell(
            f"{type(self).__name__} reached {name}={settings.epochs} while the loss still fell by more than "
            f"tol={settings.tol:g} in {settings.patience} epochs. Raise {name}, or set tol=None where that many "
            "are meant.",
            FitWarning,
        )

    # What is fitted --------------------------------------------------------------------------------------------------

    @property
    def coefs_(self) -> list[Floats]:
        """The weights, one array [i, o] a layer, as scikit-learn has them; views of net_'s."""
        self._must_have_net()
        return [one.weight.detach().numpy().T for one in _linear(self.net_)]

    @property
    def intercepts_(self) -> list[Floats]:
        """The biases, one array [o] a layer; views of net_'s."""
        self._must_have_net()
        return [one.bias.detach().numpy() for one in _linear(self.net_)]

    def _must_have_net(self) -> None:
        if "net_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no weights before fit.")  # so that hasattr says False

    @property
    def w0_(self) -> list[Floats]:
        """The weights the last fit started from, as coefs_."""
        return [tensor.T for tensor in self._start_of(".weight")]

    @property
    def b0_(self) -> list[Floats]:
        """The biases the last fit started from, as intercepts_."""
        return self._start_of(".bias")

    def _start_of(self, part: str) -> list[Floats]:
        self._must_have_net()
        return [one for name, one in self._start.items() if name.startswith("fc") and name.endswith(part)]

    def tensors(self) -> Tensors:
        """The fitted weights by slot name (fc1.weight [o, i], fc1.bias [o], ...); copies.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        return {name: tensor.numpy().copy() for name, tensor in self.net_.state_dict().items()}

    def adopt(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Make these the weights of a new net_."""
        widths = [len(tensor) for name, tensor in tensors.items() if name.startswith("fc") and tensor.ndim == 2]
        net = chain([tensors["fc1.weight"].shape[1], *widths], self._phi().module, dtype=torch.float64).eval()
        net.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})
        self.net_, self._stepper = net, None

    def start_tensors(self) -> Tensors:
        """The weights the last fit started from, as `tensors`."""
        return dict(self._start)

    def adopt_start(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Remember these as the start."""
        self._start = {name: np.array(tensor) for name, tensor in tensors.items()}

    def init_of(self, tensors: Mapping[str, NDArray[Any]]) -> tuple[Any, Any]:
        """`init=` and `init_bias=` that start a net at these weights."""
        linear = {name: one for name, one in tensors.items() if name.startswith("fc")}
        return [one.T for one in linear.values() if one.ndim == 2], [one for one in linear.values() if one.ndim == 1]

    def save(self, path: str | Path) -> Path:
        """Write weights, start, parameters and facts of the fit to a safetensors file; no pickle.

        The solver's memory (momentum) is not in it: a `partial_fit` after `load` starts with none.

        Raises:
            NotFittedError: before `fit`.
            NetError: another ending, no such folder, a solver that is no name.
        """
        check_is_fitted(self)
        if not isinstance(self.solver, str):
            raise NetError(
                f"{type(self).__name__}: solver={self.solver!r} cannot be written to a file. Set it to one of "
                f"{', '.join(SOLVERS)} before saving; the weights do not depend on it."
            )
        written = copy.copy(self)
        written.activation = repr(self._phi())
        return Net.save(written, path)

    def _remember_path(self, path: _Path) -> None:
        self.coef_steps_ = np.array(sorted(path.kept), dtype=np.int64)
        whole = torch.stack([path.kept[epoch] for epoch in self.coef_steps_.tolist()])  # [t, p]
        sizes = {name: parameter.shape for name, parameter in self.net_.named_parameters()}
        parts = whole.split([math.prod(shape) for shape in sizes.values()], dim=1)  # type: ignore[no-untyped-call]
        named = {name: part.view(-1, *sizes[name]).numpy() for name, part in zip(sizes, parts, strict=True)}
        weights, biases = ([one for name, one in named.items() if name[:2] == "fc" and name.endswith(end)]
                           for end in (".weight", ".bias"))  # fmt: skip
        self.coef_path_ = [one.transpose(0, 2, 1) for one in weights]
        self.intercept_path_ = biases

    # Before a fit ----------------------------------------------------------------------------------------------------

    def build(self, X: ArrayLike, y: ArrayLike) -> nn.Sequential:
        """The torch module that `fit(X, y)` would start from, not trained; the estimator stays as it is.

        Layers are called fc1, act1, fc2, ...; float64. The same `random_state`, a number, gives the same weights.

        Raises:
            NetError: as `fit`.
        Example:
            >>> from symbreak.nets import MLPRegressor
            >>> MLPRegressor((3,), "tanh", random_state=0).build([[0.0], [1.0]], [0.0, 1.0])
            Sequential(
              (fc1): Linear(in_features=1, out_features=3, bias=True)
              (act1): Tanh()
              (fc2): Linear(in_features=3, out_features=1, bias=True)
            )

        Source: `symbreak.nets.build`, for any init=.
        """
        return self.task(X, y)[0]

    def task(self, X: ArrayLike, y: ArrayLike) -> tuple[nn.Sequential, tuple[Tensor, Tensor], Objective]:
        """What `symbreak.check` looks at before a fit: (model, batch, loss), so `sb.check(*mlp.task(X, y))`.

        Returns:
            the module at its start; the batch (X [n, i], y as columns [n, o]); the loss that would be trained.
        Raises:
            NetError: as `fit`.
        Example:
            >>> import symbreak as sb
            >>> from symbreak.nets import MLPClassifier
            >>> X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
            >>> twins = MLPClassifier((4,), "tanh", init=0.5, random_state=0)
            >>> sb.check(*twins.task(X, y)).width["fc1"]
            (1, 4)

        Source: `symbreak.check`.
        """
        twin = copy.copy(self)
        with front_door(self):
            going_on = parse_warm_start(self.warm_start) is not False and self.__sklearn_is_fitted__()
        features, targets = twin._data(X, y, None, reset=not going_on)
        twin._begin_at(features.shape[1], targets.shape[1], going_on=going_on)
        return twin.net_, (features, targets), twin.objective_

    # Pieces ----------------------------------------------------------------------------------------------------------

    def _data(self, X: Any, y: Any, classes: ArrayLike | None, *, reset: bool) -> tuple[Tensor, Tensor]:
        features, labels = self.check_samples(X, y, reset=reset)
        return _tensor(features), _tensor(self._encoded(labels, classes, reset=reset))

    def check_samples(self, X: Any, y: Any, *, reset: bool = True) -> tuple[Floats, NDArray[Any]]:
        """As `Net.check_samples`, and y may have several columns [n, o]."""
        with front_door(self):
            labels = isinstance(self, ClassifierMixin)
            X, y = validate_data(
                self, X, y, reset=reset, dtype=np.float64, order="C", y_numeric=not labels, multi_output=True
            )
            if y.ndim == 2 and y.shape[1] == 1:
                y = column_or_1d(y, warn=True)
        return X, y

    def _phi(self) -> Activation:
        given = self.activation
        if isinstance(given, Activation):
            return given
        if not isinstance(given, str):
            raise NetError(
                f"activation={given!r}: expected a name such as 'tanh', or symbreak.schemes.activation(...)."
            )
        return activation("sigmoid" if given == "logistic" else given)  # scikit-learn's word

    def _widths(self) -> list[int]:
        given = self.hidden_layer_sizes
        sizes = list(given) if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) else [given]
        return [arrays.at_least_one("hidden_layer_sizes", plain(size)) for size in sizes]

    def _slots(self, n_features: int, n_outputs: int, phi: Activation) -> list[Slot]:
        widths = [n_features, *self._widths(), n_outputs]
        slots: list[Slot] = []
        for number, (n_in, n_out) in enumerate(itertools.pairwise(widths), start=1):
            slots += layer(f"fc{number}", n_in=n_in, n_out=n_out)
            if number < len(widths) - 1:
                slots += [
                    Slot(
                        f"act{number}.{name}",
                        tuple(own.shape),
                        Fans(n_out, n_out),
                        level=float(own.detach().flatten()[0]),
                    )
                    for name, own in phi.module().named_parameters()
                ]
        return slots

    def begin(self, slots: Sequence[Slot], seed: int, *, dtype: str = "float64") -> Tensors:
        """As `Net.begin`; "auto" is looked up, and arrays are turned from coefs_' [i, o] to [o, i]."""
        weights = [slot for slot in slots if slot.name.startswith("fc") and not slot.is_bias]
        stand_in = copy.copy(self)
        stand_in.init = _fitting(self.init, self._phi(), weights)
        if isinstance(self.init_bias, list | tuple) and len(weights) == len(self.init_bias) == 1:
            stand_in.init_bias = self.init_bias[0]
        return Net.begin(stand_in, slots, seed, dtype=dtype)

    def _output(self, X: Any) -> Tensor:
        """What the net gives [n, o]: logits or numbers."""
        features = _tensor(self.check_features(X))
        with quietly(self.net_, len(features)), torch.no_grad():
            self.net_.eval()
            return cast(Tensor, self.net_(features))


def auto_schemes(phi: Activation, n_layers: int) -> list[Scheme]:
    """init="auto": every layer's pre-activations have mean square 1 where the features do.

    W[o, i] ~ N(0, gain^2 / n_in), with gain 1 for the layer that sees the features, and 1 / sqrt(E[phi(z)^2]), z
    normal, for those that see activations; sqrt(2) for ReLU. Biases zero.

    Example:
        >>> auto_schemes(activation("relu"), 2)
        [lecun_normal, kaiming_normal]

    Source: He et al. 2015, arXiv:1502.01852, for any activation: `symbreak.schemes.gains`.
    """
    gain = gains(phi).forward
    deeper = kaiming_normal() if math.isclose(gain, math.sqrt(2), rel_tol=1e-12) else kaiming_normal(gain=gain)
    return [lecun_normal(), *[deeper] * (n_layers - 1)]


def _fitting(init: Any, phi: Activation, weights: Sequence[Slot]) -> Any:
    """What `start.start` takes: a thing for each layer, arrays as torch has them."""
    if isinstance(init, str) and init.strip() == "auto":
        schemes = auto_schemes(phi, len(weights))
        return schemes if len(schemes) > 1 else schemes[0]
    if isinstance(init, list | tuple) and len(init) == len(weights):
        turned = [_turned(one, slot, number) for number, (one, slot) in enumerate(zip(init, weights, strict=True))]
        return turned if len(turned) > 1 else turned[0]
    if isinstance(init, np.ndarray) and init.ndim and len(weights) == 1:
        return _turned(init, weights[0], 0)
    return init


def _turned(one: Any, slot: Slot, number: int) -> Any:
    if isinstance(one, str | Scheme) or np.ndim(one) == 0:
        return one
    given = arrays.numbers(f"init[{number}]", one)
    needed = slot.shape[::-1]
    if given.ndim == 1 and 1 in needed:
        given = given.reshape(-1, 1) if needed[1] == 1 else given.reshape(1, -1)
    if given.shape != needed:
        hint = " Is it a torch weight? Then pass its transpose." if given.shape == slot.shape else ""
        raise NetError(
            f"init[{number}] has shape {given.shape}; {slot.name} needs {needed}, (units in, units out) as in coefs_."
            + hint
        )
    return given.T


def _linear(net: nn.Sequential) -> list[nn.Linear]:
    return [module for module in net if isinstance(module, nn.Linear)]


def _tensor(array: Floats) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _tell(text: str, kind: type[Warning]) -> None:
    """Warn at the line of the caller's own code, however many of ours lie between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("symbreak."):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, kind, stacklevel=level)


class _Path:
    """Copies of theta at some epochs, start and end among them."""

    def __init__(self, epochs: int, points: int) -> None:
        self.wanted = set(thinned(epochs, points).tolist()) if points else set()
        self.kept: dict[int, Tensor] = {}

    def keep(self, epoch: int, theta: Tensor) -> None:
        if epoch in self.wanted:
            self.kept[epoch] = theta.clone()

    def end(self, epoch: int, theta: Tensor) -> None:
        if self.wanted:
            self.kept[epoch] = theta.clone()
