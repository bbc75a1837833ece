"""The image of the grid under what ran after a layer: which activation it is, and what it keeps of a signal."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from symbreak.schemes import ACTIVATIONS, Activation

from .flow import GRID, MASS, STEP


def second_moment(samples: Tensor) -> float:
    """E[phi(z)^2], z standard normal, of an image of the grid."""
    return float((samples**2 * MASS).sum())


def catalogued(samples: Tensor) -> Activation | None:
    """The row of the catalogue whose image this is, options fitted; None where there is none."""
    size = float(samples.abs().max())
    if float((samples - GRID).abs().max()) < 1e-9:
        return None
    for row in _candidates(samples):
        image = row(GRID.clone()).double()
        if float((image - samples).abs().max()) <= 2e-6 * max(size, 1.0):
            return row
    return None


def _candidates(samples: Tensor) -> Iterator[Activation]:
    low, high = float(samples.min()), float(samples.max())
    middle = len(GRID) // 2
    slope = float(samples[middle + 1] - samples[middle - 1]) / (2 * STEP)
    yield from (row for row in ACTIVATIONS.values() if row.name not in ("rrelu", "prelu"))
    yield ACTIVATIONS["gelu"].having("tanh")
    yield ACTIVATIONS["leaky_relu"].having(round(float(samples[0] / GRID[0]), 9))
    if low < 0:
        for alpha in (round(-low, 3), round(-low, 2), round(-low, 1)):
            if alpha > 0:
                yield ACTIVATIONS["elu"].having(alpha)
                yield ACTIVATIONS["celu"].having(alpha)
    if low < high:
        yield ACTIVATIONS["hardtanh"].having(round(low, 9), round(high, 9))
    for frequency in (round(slope), round(slope, 1), round(slope, 3)):
        if frequency > 0:
            yield ACTIVATIONS["sin"].having(float(frequency))


def is_straight(samples: Tensor) -> bool:
    """Whether the image is a line through 0."""
    slope = samples[-1] / GRID[-1]
    return bool((samples - slope * GRID).abs().max() <= 1e-9 * max(1.0, float(slope.abs())))
