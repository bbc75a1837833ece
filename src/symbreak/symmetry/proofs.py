"""Copies that the probe saw, held against a certificate: which are proved for every input, label and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from symbreak.records import SliceClasses, Trace

from .certificate import KEPT_FROM, Certificate, certify
from .graph import Axis, UnitGraph
from .refine import coarsest
from .units import Partition


def prove(trace: Trace, graph: UnitGraph) -> tuple[Trace, Certificate | None]:
    """The trace, its copies marked `proved` where a certificate holds them together, and that certificate.

    A certificate speaks of a graph that is understood whole, and of an optimizer and parts of the model that keep its
    classes; where one of these is missing nothing is marked, and None is given.

    Example:
        >>> import torch, symbreak as sb
        >>> from symbreak.symmetry import unit_graph
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> _ = [torch.nn.init.constant_(p, 0.1) for p in net.parameters()]
        >>> x = torch.randn(16, 4)
        >>> trace, certificate = prove(sb.check(net, x).trace, unit_graph(net, x))
        >>> [s.proved for s in trace.slices if s.parameter == "0.weight" and s.axis == 0]
        [True]

    Source: Theorems 1 and 2 of equitable partitions (`symbreak.symmetry`).
    """
    if not graph.whole or trace.optimizer not in KEPT_FROM:
        return trace, None
    classes = coarsest(graph.network)
    certificate = certify(graph.network, classes)
    if not certificate.keeps(trace.optimizer, *graph.breakers):
        return trace, None
    slices = tuple(replace(s, proved=_holds(s, graph, classes)) for s in trace.slices)
    return replace(trace, slices=slices), certificate if any(s.proved for s in slices) else None


def _holds(s: SliceClasses, graph: UnitGraph, classes: Partition) -> bool:
    """Whether every group of tied slices lies in one class."""
    axes = graph.axes.get(s.parameter, ())
    if not s.tied or s.axis >= len(axes) or s.parameter in graph.entangled:
        return False
    labels = _labels(axes[s.axis], graph, classes)
    return len(labels) == s.width and all(len({labels[u] for u in group}) == 1 for group in s.tied)


def _labels(axis: Axis, graph: UnitGraph, classes: Partition) -> Sequence[tuple[str, int, int]]:
    """Space, class and place inside the unit of each entry along an axis."""
    return [
        (space, int(classes[space][unit]), inner)
        for space in axis.spaces
        for unit in range(graph.network.sizes[space])
        for inner in range(axis.repeat)
    ]
