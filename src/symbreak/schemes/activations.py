"""The elementwise activations that are recognised by name. (No torch here: rules and the command line read it.)"""

from __future__ import annotations

ELEMENTWISE = frozenset({
    "relu", "relu6", "gelu", "silu", "mish", "elu", "celu", "selu", "leaky_relu", "prelu", "rrelu", "tanh",
    "sigmoid", "softplus", "softsign", "hardtanh", "hardsigmoid", "hardswish", "logsigmoid", "tanhshrink",
    "softshrink", "hardshrink", "threshold", "sin", "erf", "atan", "arctan",
})  # fmt: skip
"""Names of the torch functions that act on each number by itself."""

BOUNDED = frozenset({"tanh", "sigmoid", "softsign", "hardtanh", "hardsigmoid", "erf", "atan", "arctan"})
"""Those that flatten on both sides, and so can saturate."""

PIECEWISE = frozenset({"relu", "relu6", "threshold"})
"""Those that are exactly zero, with slope exactly zero, on negative numbers."""

RANGES = {"sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "softsign": (-1.0, 1.0)}
"""What an output that ends in one of them can reach."""
