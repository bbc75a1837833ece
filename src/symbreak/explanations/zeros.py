"""Zeros through a chain of layers, in booleans: which tensors can have a gradient at which step.

Of every number only whether it is zero is kept. h_l is non-zero where z_l is, or where phi(0) is; the back-signal
crosses an activation where its slope is non-zero, and a layer where its weights are; a weight gets a gradient where
its back-signal and its input both are non-zero. What has a gradient is non-zero after the step.
"""

from __future__ import annotations

from collections.abc import Sequence


def chain_ladder(
    layers: int, *, phi_0: float, slope_0: float, weights: Sequence[bool] = (), biases: Sequence[bool] = ()
) -> dict[str, int | None]:
    """First step, from 1, at which each tensor of an MLP gets a gradient, from which of them start at zero alone.

    Args:
        layers: linear layers, the output included.
        phi_0: the activation at 0.
        slope_0: its slope there, as torch takes it (0 for ReLU).
        weights: for each layer, whether its weights are not all zero; empty: all are zero.
        biases: the same for biases.
    Returns:
        fc1.weight, fc1.bias, ... -> step, or None for never.
    Example:
        >>> chain_ladder(2, phi_0=0.5, slope_0=0.25)
        {'fc1.weight': 2, 'fc1.bias': 2, 'fc2.weight': 1, 'fc2.bias': 1}
        >>> chain_ladder(2, phi_0=0.0, slope_0=1.0)
        {'fc1.weight': None, 'fc1.bias': None, 'fc2.weight': None, 'fc2.bias': 1}

    Source: THEORY.md section 5 (boolean zero-propagation; it stops after as many rounds as there are tensors).
    """
    W, b = list(weights) or [False] * layers, list(biases) or [False] * layers
    wake: dict[str, int | None] = {
        f"fc{number}.{kind}": None for number in range(1, layers + 1) for kind in ("weight", "bias")
    }
    for step in range(1, 2 * layers + 1):
        h, z = [True], []
        for at in range(layers):
            z.append(b[at] or (W[at] and h[at]))
            h.append(z[at] or phi_0 != 0)
        delta = [True] * layers
        for at in reversed(range(layers - 1)):
            delta[at] = delta[at + 1] and W[at + 1] and (z[at] or slope_0 != 0)
        gets = {f"fc{at + 1}.weight": delta[at] and h[at] for at in range(layers)}
        gets |= {f"fc{at + 1}.bias": delta[at] for at in range(layers)}
        wake = {name: first or (step if gets[name] else None) for name, first in wake.items()}
        W = [one or gets[f"fc{at + 1}.weight"] for at, one in enumerate(W)]
        b = [one or gets[f"fc{at + 1}.bias"] for at, one in enumerate(b)]
    return wake


def product_ladder(paths: Sequence[Sequence[str]], zero: Sequence[str]) -> dict[str, int | None]:
    """The same for a sum of products: each path is the list of factors on one way from input to output.

    A factor gets a gradient where some path through it has no other zero factor.

    Args:
        paths: names of the trainable factors, one list a path; a frozen non-zero factor need not be named.
        zero: names of the factors that start at zero.
    Returns:
        factor -> first step from 1, or None for never, in order of appearance.
    Example:
        >>> product_ladder([["B", "A"]], ["B"])
        {'B': 1, 'A': 2}
        >>> product_ladder([["B", "A"]], ["B", "A"])
        {'B': None, 'A': None}
        >>> product_ladder([["head", "stem"], ["head", "alpha", "branch", "stem"]], ["head", "alpha"])
        {'head': 1, 'stem': 2, 'alpha': 2, 'branch': 3}

    Source: the derivative of a product by one factor is the product of the others.
    """
    wake: dict[str, int | None] = {name: None for path in paths for name in path}
    asleep = set(zero)
    for step in range(1, len(wake) + 2):
        gets = {
            name for path in paths for at, name in enumerate(path) if asleep.isdisjoint((*path[:at], *path[at + 1 :]))
        }
        for name in gets:
            wake[name] = wake[name] or step
        asleep -= gets
    return wake
