"""The textbook models: linear regression, logistic regression, the perceptron, multilayer perceptrons."""

from __future__ import annotations

from symbreak.nets.losses import LOSSES
from symbreak.nets.textbook import ACTIVATIONS, Spec, build, parse_spec

__all__ = ["ACTIVATIONS", "LOSSES", "Spec", "build", "parse_spec"]
