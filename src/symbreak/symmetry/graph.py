"""The unit graph of a model: spaces of units, the weights between them, and which axis of which tensor holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from symbreak.errors import SymbreakError
from symbreak.probe import unwrap
from symbreak.probe.borrow import Borrowed, borrow
from symbreak.probe.task import Task, explain_forward_error
from symbreak.probe.task import leaves as outputs

from .algebra import Algebra
from .capture import Captured, exported, followed, read, told
from .exchange import may_be_exchanged
from .gauges import Gauge
from .ledger import Ledger
from .pushdown import pushed_down
from .trial import same_when_exchanged
from .units import Network, SymmetryError

WHOLE = "model"  # its entry in `cut`: one call was followed, or nothing was read


@dataclass(frozen=True)
class Axis:
    """What one axis of a parameter or buffer runs over.

    Attributes:
        spaces: spaces laid end to end along the axis (a fused qkv has several); () where it is not units (kernel taps).
        repeat: consecutive entries that belong to one unit (flattened h*w behind a convolution).
    """

    spaces: tuple[str, ...]
    repeat: int = 1


@dataclass(frozen=True)
class UnitGraph:
    """A network of units read off a model.

    Attributes:
        network: what refinement and certificates read.
        axes: parameter or buffer -> its axes.
        breakers: what tears classes apart although the weights do not, as `certificate.KEPT_FROM` names it.
        cut: space, tensor or module that is not understood -> why; empty where the graph is whole.
        entangled: tensors with an axis of units that are not laid out space by space in order (a permuted or grouped
            axis): their entry in `axes` is empty there, and no smaller tensor can be cut from them by it.
        inputs: kernel of a convolution in groups -> the channels that it reads, which none of its axes runs over;
            `repeat` of them where they are no units.
        odd: space whose units pass through odd functions alone -> columns of its attributes that a unit and its
            negative share.
        scaled: the same of functions that are positively homogeneous: ReLU, leaky ReLU, largest values.
        exchangeable: for each group of networks that was asked about, whether they may be exchanged.
    """

    network: Network
    axes: Mapping[str, tuple[Axis, ...]]
    breakers: tuple[str, ...] = ()
    cut: Mapping[str, str] = field(default_factory=dict)
    entangled: frozenset[str] = frozenset()
    inputs: Mapping[str, Axis] = field(default_factory=dict)
    odd: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scaled: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    exchangeable: tuple[bool, ...] = ()

    @property
    def whole(self) -> bool:
        """True where nothing was cut out, so that a class of the network is a proved class of the model."""
        return not self.cut


def unit_graph(
    model: nn.Module,
    batch: Any = None,
    loss: Callable[..., Tensor] | None = None,
    objective: Callable[..., Tensor] | None = None,
    *,
    seed: int = 0,
    heed_dropout: bool = True,
    networks: Sequence[Sequence[str]] = (),
) -> UnitGraph:
    """Read a model as units and the weights that tie them, by torch.export, and give it back as it was.

    What the loss may tell apart, inputs and outputs, is told apart; with `objective` only what it itself does.
    Classes are proved where the graph is `whole`; where it is not, `cut` names what the rest was cut from.

    Args:
        heed_dropout: tell the units that active dropout leaves out apart, as training does; else it is a breaker.
        networks: groups of modules with equal tensors, by name, of which `exchangeable` is to be told.

    Raises:
        SymbreakError: a mistake in what was given, or weights that are not finite.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> graph = unit_graph(net, torch.randn(16, 4))
        >>> graph.whole, graph.axes["2.weight"]
        (True, (Axis(spaces=('2',), repeat=1), Axis(spaces=('0',), repeat=1)))
    """
    model = unwrap(model)
    _require_finite(model)
    with borrow(model, [f for f in (loss, objective) if f is not None], _dtype(model)) as held, held.scratch():
        task = Task(model, batch, None if objective is not None else loss, objective, seed=seed)
        algebra = Algebra(Ledger(), "" if objective is None else _Objective.PREFIX, heed_dropout=heed_dropout)
        odd, scaled = Gauge("odd"), Gauge("scaled")
        exchanged = (False,) * len(networks)
        try:
            captured, root = _captured(model, task, held.dtype)
            exchanged = tuple(_may_be_exchanged(captured, root, algebra.prefix, g, task, held) for g in networks)
            read(pushed_down(captured), root, algebra, (odd, scaled))
            algebra.ledger.cut.update(dict.fromkeys([WHOLE], captured.leaks[0]) if captured.leaks else {})
            network = algebra.ledger.network()
            axes, entangled = _axes(algebra)
            inputs = _inputs(algebra)
            signs, scales = (gauge.free(algebra.ledger) for gauge in (odd, scaled))
        except SymbreakError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the reading of one call raises is told, and nothing proved
            return UnitGraph(Network({}, ()), {}, (), {WHOLE: told(error)}, exchangeable=exchanged)
    breakers, cut = tuple(algebra.breakers), dict(algebra.ledger.cut)
    return UnitGraph(network, axes, breakers, cut, entangled, inputs, signs, scales, exchanged)


def _may_be_exchanged(
    captured: Captured, root: nn.Module, prefix: str, modules: Sequence[str], task: Task, held: Borrowed
) -> bool:
    """By the graph, and then in fact."""
    found = may_be_exchanged(captured, root, [prefix + name for name in modules])
    if found is None:
        return False
    beside = [{name.removeprefix(prefix): axis for name, axis in axes.items()} for axes in found]
    with held.at(torch.float64), torch.enable_grad():
        draw = task.draw(0, torch.float64)

        def run() -> Iterable[Tensor]:
            held.seed(0)
            made = root(*draw.args, **draw.kwargs) if task.objective is None else root(draw.raw)
            return outputs(made)

        try:
            return same_when_exchanged(held.model, modules, run, beside)
        except Exception:  # noqa: BLE001 - code that cannot run like this: nothing is proved
            return False


def _captured(model: nn.Module, task: Task, dtype: torch.dtype) -> tuple[Captured, nn.Module]:
    """By export, or else as one call; what export says against the model is kept."""
    draw = task.draw(0, dtype)
    root, args, kwargs = model, tuple(draw.args), dict(draw.kwargs)
    if task.objective is not None:
        root, args, kwargs = _Objective(model, task.objective), (draw.raw,), {}
    try:
        return exported(root, args, kwargs), root
    except Exception as error:  # noqa: BLE001 - export refuses in many ways; one call can still be followed
        why = f"{told(error)} What was read is one call, and another batch may go another way."
    try:
        root(*args, **kwargs)
    except Exception as error:
        raise explain_forward_error(error, model) from error
    return followed(root, args, kwargs, why), root


class _Objective(nn.Module):
    """The user's objective as a module, so that the loss is part of the graph."""

    PREFIX = "model."

    def __init__(self, model: nn.Module, objective: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self._objective = model, objective

    def forward(self, batch: Any) -> Tensor:
        return self._objective(self.model, batch)


def _require_finite(model: nn.Module) -> None:
    for name, t in (*model.named_parameters(), *model.named_buffers()):
        if t.is_floating_point() and not bool(torch.isfinite(t.detach()).all()):
            raise SymmetryError(f"{name!r} holds NaN or infinite values. Nothing can be proved of its units.")


def _dtype(model: nn.Module) -> torch.dtype:
    """Wide enough for every weight, so that none is rounded and made equal to another."""
    wide = any(t.dtype in (torch.float64, torch.complex128) for t in (*model.parameters(), *model.buffers()))
    return torch.float64 if wide else torch.float32


def _axes(algebra: Algebra) -> tuple[dict[str, tuple[Axis, ...]], frozenset[str]]:
    axes, entangled, alive = {}, set(), algebra.ledger.alive()
    for name, ids in algebra.axes.items():
        found = [((), 1) if one is None else algebra.ledger.layout(one, alive) for one in ids]
        axes[name.removeprefix(algebra.prefix)] = tuple(Axis(*layout) if layout else Axis(()) for layout in found)
        if name in algebra.entangled or None in found:
            entangled.add(name.removeprefix(algebra.prefix))
    return axes, frozenset(entangled)


def _inputs(algebra: Algebra) -> dict[str, Axis]:
    """Channels read by convolutions in groups, where they lie space by space in order."""
    alive, found = algebra.ledger.alive(), {}
    for name, ids in algebra.inputs.items():
        layout = None if ids is None else ((), len(ids)) if (ids < 0).all() else algebra.ledger.layout(ids, alive)
        if layout is not None:
            found[name.removeprefix(algebra.prefix)] = Axis(*layout)
    return found
