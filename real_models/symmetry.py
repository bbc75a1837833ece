"""Read the unit graph of real models and hold it against the probe: `python -m real_models.symmetry [NAME...]`.

Without names it takes the sixty of `public.txt`. A line a model: understood whole, in part or not at all; its spaces,
units and classes; what was cut out and why; where the probe saw copies without a class, or a class fall apart. The
shares follow. `--plant N` also copies a unit onto another one in N spaces of each model, reads the graph anew, and
trains: a class that training tears apart is a wrong proof, and copies that stay together without one were not seen.
`--symmetric` starts each model with few kinds of rows and columns, so that classes are many and large, trains, and
asks that they still hold. The exit code is 1 for any of these.
"""

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from real_models import zoo
from real_models.measure import generic_loss
from symbreak.records import Trace
from symbreak.symmetry import UnitGraph, algebra, certify, coarsest, unit_graph
from symbreak.symmetry.units import Network, Partition

STEPS, RATE = 5, 1e-3
APART = 1e-9  # of the largest entry; float64 copies that stay are equal to the last bits


@dataclass
class Row:
    """What was read of one model."""

    name: str
    understood: str = "not at all"
    spaces: int = 0
    units: int = 0
    classes: int = 0
    cut: dict[str, str] = field(default_factory=dict)
    breakers: tuple[str, ...] = ()
    contradictions: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    planted: int = 0
    torn: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    symmetric: str = ""
    seconds: float = 0.0


def main() -> int:
    options = parse()
    warnings.filterwarnings("ignore")
    rows = []
    for name in options.names or zoo.public_names():
        row = examined(name, probe=not options.no_probe, plant=options.plant)
        if options.symmetric and row.understood == "whole":
            symmetric(name, row)
        rows.append(row)
        print(as_text(row, options.verbose), flush=True)
    print(shares(rows))
    return 1 if any(row.contradictions or row.missing or row.torn or row.unseen for row in rows) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m real_models.symmetry", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--no-probe", action="store_true", help="only read the graphs")
    parser.add_argument("--plant", type=int, default=0, metavar="N", help="copy units in N spaces of each, and train")
    parser.add_argument("--symmetric", action="store_true", help="train from a start with many classes")
    parser.add_argument("--verbose", action="store_true", help="every cut, not the first three")
    return parser.parse_args()


def examined(name: str, *, probe: bool, plant: int) -> Row:
    row, start = Row(name), time.perf_counter()
    case = zoo.build(name)
    try:
        graph = unit_graph(case.model, case.batch, objective=case.objective)
        classes = coarsest(graph.network)
        certify(graph.network, classes)
    except Exception as error:
        row.cut = {"graph": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        row.seconds = time.perf_counter() - start
        return row
    row.seconds = time.perf_counter() - start
    row.spaces, row.units = len(graph.network.sizes), sum(graph.network.sizes.values())
    row.classes = sum(len(set(c.tolist())) for c in classes.values())
    row.cut, row.breakers = dict(graph.cut), graph.breakers
    row.understood = "whole" if graph.whole else "in part" if graph.network.sizes else "not at all"
    if probe and graph.network.sizes:
        import symbreak

        held_against(graph, classes, symbreak.check(case.model, case.batch, objective=case.objective).trace, row)
    if plant and graph.whole:
        for number in range(plant):
            planted(name, graph, number, row)
    return row


# ---- against the probe ---------------------------------------------------------------------------------------------


def held_against(graph: UnitGraph, classes: Partition, trace: Trace, row: Row) -> None:
    """Copies that the probe saw need a class; what it saw fall apart must have none."""
    for s in trace.slices:
        keys = entries(graph, s.parameter, s.axis, classes)
        if keys is None:
            continue
        where = f"{s.parameter} axis {s.axis}"
        row.missing += [f"{where}: {g}" for g in s.tied if not s.mirrored and len({keys[e] for e in g}) > 1]
        row.contradictions += [f"{where}: {g}" for g in s.separated if len({keys[e] for e in g}) < len(g)]


def entries(graph: UnitGraph, parameter: str, axis: int, classes: Partition) -> list[tuple[str, int, int]] | None:
    """(space, class, which entry of the unit) along one axis; None where it holds no units in order."""
    if parameter not in graph.axes or parameter in graph.entangled or not graph.axes[parameter][axis].spaces:
        return None
    found: list[tuple[str, int, int]] = []
    times: Counter[tuple[str, int]] = Counter()
    for space in graph.axes[parameter][axis].spaces:
        for unit, c in enumerate(classes[space].tolist()):
            for _ in range(graph.axes[parameter][axis].repeat):
                found.append((space, c, times[space, unit]))
                times[space, unit] += 1
    return found


# ---- copies put in -------------------------------------------------------------------------------------------------


def planted(name: str, graph: UnitGraph, number: int, row: Row) -> None:
    """Make one unit a copy of another in every tensor, read the graph anew, train, and look whether they stay one."""
    if graph.entangled:
        return
    moves = joint_copies(graph, random.Random(f"{name}{number}"))
    if not moves:
        return
    case = zoo.build(name)
    model = case.model.double()
    for space, u, v in moves:
        copy_unit(model, graph, space, u, v)
    try:
        again = unit_graph(model, in_double(case.batch), objective=case.objective)
        classes = coarsest(again.network)
    except Exception as error:
        row.unseen.append(f"{moves[0]}: {type(error).__name__}: {error}"[:200])
        return
    unseen = [f"{s} {u} {v}, copied with {len(moves) - 1} more" for s, u, v in moves if classes[s][u] != classes[s][v]]
    quiet(model)
    try:
        train(case, model)
    except Exception:
        return  # the model does not run in float64
    row.planted += 1
    apart = {(s, u, v): distance(model, graph, s, u, v) for s, u, v in moves}
    if unseen and max(apart.values()) <= APART:
        row.unseen += unseen[:1]
    if not unseen:
        row.torn += [f"{s} {u} {v}: {d:.1e}" for (s, u, v), d in apart.items() if d > APART][:1]


# ---- a start with many classes ---------------------------------------------------------------------------------------

HELD = 1e-8  # largest difference within a class, over the largest number of its table
FLOOR = 1e-6  # a table of smaller numbers (a bias that a norm absorbs) is round-off


def symmetric(name: str, row: Row) -> None:
    """Few kinds of rows and columns in every tensor; the classes of this start are asked for again after training."""
    case = zoo.build(name)
    model = case.model.double()
    quiet(model)
    few_kinds(model)
    wide, algebra.WIDE = algebra.WIDE, 10**9  # attributes as numbers, which round-off moves only a little
    try:
        graph = unit_graph(model, in_double(case.batch), objective=case.objective)
        classes = coarsest(graph.network)
        train(case, model)
        again = unit_graph(model, in_double(case.batch), objective=case.objective)
    except Exception as error:
        row.symmetric = f"not tried: {type(error).__name__}: {error}".splitlines()[0][:120]
        return
    finally:
        algebra.WIDE = wide
    merged = sum(len(c) - len(set(c.tolist())) for c in classes.values())
    where, worst = largest_defect(again.network, classes)
    row.symmetric = f"{merged} of {row.units} units merged, defect {worst:.0e}"
    if worst > HELD:
        row.torn.append(f"symmetric start: {where}: {worst:.1e}")


@torch.no_grad()
def few_kinds(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        for k in range(min(p.dim(), 2)):
            kinds = torch.randint(0, 2, (p.shape[k],), generator=generator)
            p.copy_(p.index_select(k, kinds.clamp(max=p.shape[k] - 1)))


def largest_defect(network: Network, classes: Partition) -> tuple[str, float]:
    """Where the classes hold least: the largest difference of class sums or attributes within a class, relative."""
    found = [("", 0.0)]
    for space, table in network.attributes.items():
        found.append((f"attributes of {space}", spread(table, classes[space])))
    for b in network.blocks:
        taps = b.weight if b.weight.ndim == 3 else b.weight[..., None]
        source, target = (np.eye(c.max(initial=0) + 1)[c] for c in (classes[b.source], classes[b.target]))
        for k in range(taps.shape[2]):
            here = f"{b.source} > {b.target}"
            found.append((here, spread(taps[..., k] @ source, classes[b.target])))
            found.append((here, spread(taps[..., k].T @ target, classes[b.source])))
    return max(found, key=lambda one: one[1])


def spread(table: np.ndarray, classes: np.ndarray) -> float:
    widest = max((float(np.ptp(table[classes == c], axis=0).max(initial=0.0)) for c in np.unique(classes)), default=0.0)
    return widest / max(float(np.abs(table).max(initial=0.0)), FLOOR)


TRIES = 60
Move = tuple[str, int, int]


def joint_copies(graph: UnitGraph, generator: random.Random) -> list[Move]:
    """Two units of one space, and what must be copied with them: units that are tied to each one to one."""
    net = graph.network
    held = {s for axes in graph.axes.values() for axis in axes for s in axis.spaces}
    free = sorted(s for s, n in net.sizes.items() if n > 1 and s not in net.told_apart and s in held)
    for _ in range(TRIES if free else 0):
        space = generator.choice(free)
        u, v = generator.sample(range(net.sizes[space]), 2)
        moves = closed(net, [(space, u, v)])
        if moves:
            return moves
    return []


def closed(net: Network, moves: list[Move]) -> list[Move]:
    """All copies that these ask for through tables of zeros and ones; nothing where they ask for more than a pair."""
    found = list(moves)
    for space, u, v in found:  # grows while it is walked
        if space in net.told_apart or not np.array_equal(*parts(net, space, u, v)):
            return []
        for b in net.blocks:
            if not np.isin(b.weight, (0.0, 1.0)).all() or b.weight.ndim != 3:
                continue
            for here, there, table in ((b.target, b.source, b.weight), (b.source, b.target, b.weight.swapaxes(0, 1))):
                if here != space or (table[u] == table[v]).all():
                    continue
                ours, theirs = np.argwhere(table[u]), np.argwhere(table[v])
                if len(ours) != 1 or len(theirs) != 1 or ours[0][1] != theirs[0][1]:
                    return []
                move = (there, int(ours[0][0]), int(theirs[0][0]))
                if any(
                    s == there and {x, y} != {move[1], move[2]} and {x, y} & {move[1], move[2]} for s, x, y in found
                ):
                    return []
                if not any(s == there and {x, y} == {move[1], move[2]} for s, x, y in found):
                    found.append(move)
    return found


def parts(net: Network, space: str, u: int, v: int) -> tuple[np.ndarray, np.ndarray]:
    """What is zero or one of the two units' attributes: which part of a space they lie in."""
    table = net.attributes.get(space, np.zeros((net.sizes[space], 0)))
    marks = np.isin(table, (0.0, 1.0)).all(0) & (table != table[:1]).any(0)
    return table[u, marks], table[v, marks]


def places(model: nn.Module, graph: UnitGraph, space: str) -> Iterator[tuple[torch.Tensor, int, np.ndarray]]:
    """Every tensor axis over this space: entries as [unit, entry of the unit]."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for name, axes in graph.axes.items():
        for k, axis in enumerate(axes):
            if space not in axis.spaces:
                continue
            rows: list[list[int]] = [[] for _ in range(graph.network.sizes[space])]
            at = 0
            for s in axis.spaces:
                for unit in range(graph.network.sizes[s]):
                    for _ in range(axis.repeat):
                        if s == space:
                            rows[unit].append(at)
                        at += 1
            yield tensors[name], k, np.array(rows)


@torch.no_grad()
def copy_unit(model: nn.Module, graph: UnitGraph, space: str, u: int, v: int) -> None:
    for tensor, k, rows in places(model, graph, space):
        index = [slice(None)] * tensor.dim()
        for a, b in zip(rows[u].tolist(), rows[v].tolist(), strict=True):
            tensor[(*index[:k], b)] = tensor[(*index[:k], a)]


@torch.no_grad()
def distance(model: nn.Module, graph: UnitGraph, space: str, u: int, v: int) -> float:
    """How far the two units have come apart, over the largest entry of the tensor where they did most."""
    found = 0.0
    for tensor, k, rows in places(model, graph, space):
        a, b = (tensor.index_select(k, torch.as_tensor(rows[w])) for w in (u, v))
        found = max(found, float((a - b).abs().max()) / max(float(tensor.abs().max()), 1e-30))
    return found


def quiet(model: nn.Module) -> None:
    """Without dropout, which tears any class apart."""
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
            module.p = 0.0
        for key in ("dropout", "attention_dropout", "dropout_p", "attn_drop_p", "dropout_prob"):
            if isinstance(module.__dict__.get(key), float):
                setattr(module, key, 0.0)


def train(case: zoo.Case, model: nn.Module) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(parameters, lr=RATE)
    for step in range(STEPS):
        torch.manual_seed(step)
        sgd.zero_grad()
        generic_loss(case, in_double(case.draw(step))).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)  # one number for all: it keeps every class
        sgd.step()


def in_double(batch: object) -> object:
    return torch.utils._pytree.tree_map(
        lambda t: t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t, batch
    )


# ---- for people ----------------------------------------------------------------------------------------------------


def as_text(row: Row, verbose: bool = False) -> str:
    head = (
        f"{row.name:38} {row.understood:10} {row.spaces:4} spaces {row.units:6} units {row.classes:6} classes "
        f"{row.seconds:6.1f} s" + (f"  {row.planted} planted" if row.planted else "")
    )
    head += f"  {row.symmetric}" if row.symmetric else ""
    lines = [f"    cut {where}: {why}" for where, why in row.cut.items()]
    more = lines if verbose else lines[:3]
    if len(lines) > len(more):
        more.append(f"    and {len(lines) - len(more)} more")
    for what in ("contradictions", "missing", "torn", "unseen"):
        more += [f"    {what}: {text}" for text in getattr(row, what)[:5]]
    return "\n".join([head, *more])


def shares(rows: list[Row]) -> str:
    count = Counter(row.understood for row in rows)
    said = ", ".join(f"{count[kind]} {kind}" for kind in ("whole", "in part", "not at all"))
    wrong = ", ".join(
        f"{sum(len(getattr(row, k)) for row in rows)} {k}" for k in ("contradictions", "missing", "torn", "unseen")
    )
    return f"{len(rows)} models: {said} ({100 * count['whole'] / max(len(rows), 1):.0f}% whole); " + (
        f"{wrong}; {sum(row.planted for row in rows)} planted; {sum(row.seconds for row in rows):.0f} s."
    )


if __name__ == "__main__":
    sys.exit(main())
