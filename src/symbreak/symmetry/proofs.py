"""Copies that the probe saw, held against a certificate: which are proved for every input, label and step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from symbreak.records import LayerTrace, SliceClasses, Trace

from .certificate import KEPT_FROM, Certificate, certify, networks_of, verify
from .graph import WHOLE, Axis, UnitGraph
from .proportional import KEEPS, proportional
from .refine import coarsest
from .signed import BESIDE, doubled, mirrored
from .units import Partition, SymmetryError

_NOT = " is not understood"

Groups = tuple[tuple[int, ...], ...]


def prove(trace: Trace, graph: UnitGraph) -> tuple[Trace, Certificate | None]:
    """The trace, its copies marked `proved` where a certificate holds them together, and that certificate.

    Copies that only the certificate sees, because no gradient reaches them, are added, and no layer is wider than its
    classes. A certificate speaks of an optimizer and parts of the model that keep its classes; where these do not,
    nothing is marked, and None is given. Where the graph is understood in part, classes are proved that touch no border
    of the rest, and the rest is named (`unread`). Mirror images are proved by the certificate of the network in which
    units stand beside their negatives; it is the one given then. Positive multiples are compared in exact arithmetic.
    Copies among the outputs under an objective are kept where they are proved: labels inside it might tell them apart.

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
    joined = replace(trace, slices=(*trace.slices, *trace.outputs), outputs=())
    found, certificate = _proved(joined, graph)
    return replace(found, slices=tuple(s for s in found.slices if s.proved or not s.output)), certificate


def _proved(trace: Trace, graph: UnitGraph) -> tuple[Trace, Certificate | None]:
    if trace.optimizer not in KEPT_FROM or not graph.network.sizes:
        return trace, None
    classes = coarsest(graph.network)
    certificate = certify(graph.network, classes)
    if not certificate.keeps(trace.optimizer, *graph.breakers):
        return trace, None
    trace = _narrowed(_marked(trace, graph, equal=classes), graph, classes)
    if any(s.mirrored and not s.proved for s in trace.slices) and graph.odd:
        signed = mirrored(graph.network, graph.odd, even=graph.odd)
        if signed.certificate.keeps(trace.optimizer, *graph.breakers):
            equal = {s: 3 * c + signed.signs[s] for s, c in signed.classes.items()}
            certificate, trace = signed.certificate, _marked(trace, graph, equal=equal, opposite=signed.classes)
    if any(s.multiples for s in trace.slices) and KEEPS.issuperset([trace.optimizer, *graph.breakers]):
        of = proportional(graph.network, graph.scaled, even=graph.scaled).classes
        held = (replace(s, multiples_proved=_holds(s, s.multiples, graph, of)) for s in trace.slices)
        trace = replace(trace, slices=tuple(held))
    parts = unread(graph)
    slices = tuple(replace(s, unread=parts) if s.proved or s.multiples_proved else s for s in trace.slices)
    return replace(trace, slices=slices), certificate if any(s.proved for s in slices) else None


def prove_networks(
    trace: Trace, graph: UnitGraph, certificate: Certificate | None = None
) -> tuple[Trace, Certificate | None]:
    """The trace, its tied networks marked `proved` where they may be exchanged and the optimizer treats tensors alike.

    Args:
        graph: which was asked about all of `trace.twins`.
        certificate: of equal units, to which the networks are added; without one, that of the graph's classes.
    """
    if trace.optimizer not in KEPT_FROM:
        return trace, certificate
    pairs = zip(trace.twins, graph.exchangeable, strict=True)
    twins = tuple(replace(twin, proved=twin.tied and may) for twin, may in pairs)
    networks = tuple(twin.modules for twin in twins if twin.proved)
    if networks:
        of_units = certificate or certify(graph.network, coarsest(graph.network))
        certificate = replace(of_units, networks=networks)
    return replace(trace, twins=twins), certificate


def verify_on(text: str, graph: UnitGraph) -> Certificate:
    """Prove a stored certificate again on the graph of a model: its classes, and that its networks may be exchanged.

    The classes are those of the graph's own network, or of that with the negatives of its units.

    Args:
        graph: which was asked about `networks_of(text)`.

    Raises:
        SymmetryError: as `verify`; networks that may not be exchanged; or nothing of the graph is understood.
    """
    networks = networks_of(text)
    if len(networks) != len(graph.exchangeable):
        raise SymmetryError(
            "the graph was not asked of the certificate's networks: unit_graph(..., networks=networks_of(text))."
        )
    for group, may in zip(networks, graph.exchangeable, strict=True):
        if not may:
            raise SymmetryError(
                f"{', '.join(group)} may not be exchanged in this model: they are not equal, or not used alike."
            )
    if not graph.network.sizes and not networks:
        raise SymmetryError(f"the model is not understood ({next(iter(graph.cut.values()))}): nothing is proved.")
    network = doubled(graph.network, graph.odd, even=graph.odd) if BESIDE in text else graph.network
    return replace(verify(text, network), networks=networks)


def unread(graph: UnitGraph) -> tuple[str, ...]:
    """What a proof of this graph does not cover: parts that are cut out, other ways that a batch may go."""
    parts = (why if why.endswith(_NOT) else f"{name}{_NOT}" for name, why in graph.cut.items() if name != WHOLE)
    ways = (f"a batch that goes another way through the forward{_NOT}",) if WHOLE in graph.cut else ()
    return tuple(dict.fromkeys((*ways, *parts)))


def _marked(trace: Trace, graph: UnitGraph, *, equal: Partition, opposite: Partition | None = None) -> Trace:
    """Slices that lie in one class are proved: of equal units; where they are mirrored, of opposite ones too."""
    slices = []
    for s in trace.slices:
        classes = opposite if s.mirrored else equal
        slices.append(replace(s, proved=s.proved or (classes is not None and _holds(s, s.tied, graph, classes))))
    return replace(trace, slices=tuple(slices))


def _holds(s: SliceClasses, groups: Sequence[Sequence[int]], graph: UnitGraph, classes: Partition) -> bool:
    """Whether every one of these groups of slices lies in one class."""
    axes = graph.axes.get(s.parameter, ())
    if not groups or s.axis >= len(axes) or s.parameter in graph.entangled:
        return False
    labels = _labels(axes[s.axis], graph, classes)
    return len(labels) == s.width and all(len({labels[u] for u in group}) == 1 for group in groups)


def _narrowed(trace: Trace, graph: UnitGraph, classes: Partition) -> Trace:
    """With the copies that only the classes show, and no layer wider than its classes."""
    groups = {layer.name: (layer, _units(layer, graph, classes)) for layer in trace.layers}
    unseen = tuple(_unseen(trace, groups.values()))
    width = {
        name: (min(distinct, _distinct(groups[name][1], units)) if name in groups else distinct, units)
        for name, (distinct, units) in trace.width.items()
    }
    return replace(trace, slices=(*trace.slices, *unseen), width=width)


def _units(layer: LayerTrace, graph: UnitGraph, classes: Partition) -> Groups:
    """The units of a layer that are one by its classes, a unit being all its gates."""
    axes = graph.axes.get(layer.weight, ())
    if layer.out_axis is None or layer.out_axis >= len(axes) or layer.weight in graph.entangled:
        return ()
    labels = _labels(axes[layer.out_axis], graph, classes)
    units: dict[Sequence[object], list[int]] = {}
    for u in range(len(labels) // layer.gates):
        units.setdefault(tuple(labels[u :: len(labels) // layer.gates]), []).append(u)
    return tuple(tuple(g) for g in units.values() if len(g) > 1)


def _distinct(groups: Groups, units: int) -> int:
    return units - sum(len(g) - 1 for g in groups)


def _unseen(trace: Trace, groups: Iterable[tuple[LayerTrace, Groups]]) -> Iterator[SliceClasses]:
    """Classes of layers whose units the probe did not see move alike, less those that are known never to move."""
    tensors = {t.name: t for t in trace.tensors}
    known = {s.parameter for s in trace.slices if s.tied and s.side == "out"}
    for layer, found in groups:
        still = set(tensors[layer.weight].blocked_rows)
        new = tuple(g for g in found if not still.issuperset(g))
        if new and layer.gates == 1 and layer.out_axis is not None and layer.weight not in known:
            yield SliceClasses(
                parameter=layer.weight,
                layer=layer.name,
                axis=layer.out_axis,
                side="out",
                width=tensors[layer.weight].shape[layer.out_axis],
                heads=layer.heads,
                tied=new,
                proved=True,
            )


def _labels(axis: Axis, graph: UnitGraph, classes: Partition) -> Sequence[tuple[str, int, int]]:
    """Space, class and place inside the unit of each entry along an axis."""
    return [
        (space, int(classes[space][unit]), inner)
        for space in axis.spaces
        for unit in range(graph.network.sizes[space])
        for inner in range(axis.repeat)
    ]
