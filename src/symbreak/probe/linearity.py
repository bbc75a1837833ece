"""Whether the network is one linear map of its input at the start: asked of the network itself, by superposition."""

from __future__ import annotations

import numpy as np

from symbreak.thresholds import LINEAR_SHARE

from .observe import Seen
from .passes import Runner
from .project import Array


def departure(runner: Runner, first: Seen) -> float | None:
    """How far the layers fed by units are from linear between two batches: 0 for a linear map, 1 for a step.

    |h((x + x') / 2) - (h(x) + h(x')) / 2| / |h(x) - h(x')|, the largest over those layers, on projections of what they
    put out. None where it was not asked (an activation leaves its linear region, or every one is a gate), where the
    input is no number that could be halved, and where the layers do not depend on it.
    """
    units = [a for a in first.activations if not a.gate]
    silent = not any(np.any(out) for out in _puts_out(first).values())
    if silent or not units or any(a.linear < LINEAR_SHARE for a in units):
        return None
    draws = [runner.task.moved(1, runner.held.dtype, share) for share in (0.0, 0.5, 1.0)]
    start, middle, end = (_puts_out(runner.watch(draw)) if draw is not None else {} for draw in draws)
    departures = [
        float(np.linalg.norm(middle[layer] - (start[layer] + end[layer]) / 2)) / apart
        for layer in start
        if start[layer].shape == middle[layer].shape == end[layer].shape
        and (apart := float(np.linalg.norm(start[layer] - end[layer]))) > 1e-9 * float(np.linalg.norm(start[layer]))
    ]
    return max(departures, default=None)


def _puts_out(seen: Seen) -> dict[str, Array]:
    return {s.layer: np.concatenate(s.forward) for s in seen.sites.values() if s.forward and not s.from_data}
