"""The textbook models: linear regression, logistic regression, the perceptron, multilayer perceptrons.

As scikit-learn estimators (`LinearRegression`, `LogisticRegression`, `Perceptron`, `MLPClassifier`, `MLPRegressor`)
and as torch modules (`build`). What needs torch is imported when it is asked for: one neuron does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from symbreak.nets.again import ShrinkPerturb, shrink_perturb
from symbreak.nets.errors import NetError, NetWarning

if TYPE_CHECKING:
    from symbreak.nets.linear import LinearRegression
    from symbreak.nets.logistic import LogisticRegression
    from symbreak.nets.losses import LOSSES
    from symbreak.nets.mlp import MLPClassifier, MLPRegressor
    from symbreak.nets.multilayer import FitWarning
    from symbreak.nets.perceptron import Perceptron
    from symbreak.nets.textbook import ACTIVATIONS, Spec, build, parse_spec

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "FitWarning",
    "LinearRegression",
    "LogisticRegression",
    "MLPClassifier",
    "MLPRegressor",
    "NetError",
    "NetWarning",
    "Perceptron",
    "ShrinkPerturb",
    "Spec",
    "build",
    "parse_spec",
    "shrink_perturb",
]

_WHERE = {
    "ACTIVATIONS": "textbook",
    "FitWarning": "multilayer",
    "LOSSES": "losses",
    "LinearRegression": "linear",
    "LogisticRegression": "logistic",
    "MLPClassifier": "mlp",
    "MLPRegressor": "mlp",
    "Perceptron": "perceptron",
    "Spec": "textbook",
    "build": "textbook",
    "parse_spec": "textbook",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'symbreak.nets' has no attribute {name!r}")
    return getattr(import_module(f"symbreak.nets.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
