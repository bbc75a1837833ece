"""A start with equal units is trained as the smaller net that it is.

A built-in net whose hidden layers are each one unit, many times: as the one-unit net, in float64. T is one entry of
each constant block of the full weights. Forward, a unit hears D copies of the one below, so it adds D T h; backward,
the signal of one unit is the sum over the C copies above, C T delta; the gradient delta h is then that of one entry of
the full matrix. Every rule that moves entries alike (sgd, momentum, adam, adamw) does to T what it does to each copy,
at the same learning rate, eps and decay: the curves are those of the full net, and a step costs what one unit a layer
costs, however wide the layers are.

Any other module: as `symbreak.quotient` of it, proved and compared with it, where its tensors show that much of it is
copies; one start after the other, in its own precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from symbreak.nets import Spec
from symbreak.races import mapped
from symbreak.races.brought import ONE_AT_A_TIME, Brought, in_mode
from symbreak.races.chains import Chains, stack
from symbreak.races.subjects import State, digest, wearing
from symbreak.races.work import Work
from symbreak.symmetry import quotient as smaller

WORTH = 0.5
"""Share of the parameters at most that a quotient of a module has, to be looked for: a proof costs some hundred steps,
and what is left would train in a batch of its own."""


def is_tied(spec: Spec, state: State) -> bool:
    """Whether in every hidden layer all units have equal weights in, equal biases and equal weights out.

    Example:
        >>> from symbreak.nets import build, parse_spec
        >>> from symbreak.schemes import constant, normal
        >>> spec = parse_spec("mlp:4-3:tanh")
        >>> [is_tied(spec, dict(build(spec, 2, 1, one).state_dict())) for one in (constant(0.1), normal(1.0))]
        [True, False]

    Source: block-constant weights, the innermost of the three invariant families.
    """
    n_layers = len(spec.hidden) + 1
    if max(spec.hidden, default=1) == 1:
        return False
    for k in range(1, n_layers + 1):
        W, b = state[f"fc{k}.weight"], state[f"fc{k}.bias"]
        if k < n_layers and not (torch.equal(W, W[:1].expand_as(W)) and torch.equal(b, b[:1].expand_as(b))):
            return False
        if k > 1 and not torch.equal(W, W[:, :1].expand_as(W)):
            return False
    return True


def quotient(spec: Spec, states: Sequence[State], loss: str) -> Chains:
    """The one-unit nets of tied starts.

    Args:
        spec: of the full net.
        states: its tensors, tied.
        loss: ce, mse or bce.
    Example:
        >>> from symbreak.nets import build, parse_spec
        >>> from symbreak.schemes import constant
        >>> spec = parse_spec("mlp:4-3:tanh")
        >>> one = quotient(spec, [dict(build(spec, 2, 1, constant(0.1)).state_dict())], "mse")
        >>> [tuple(W.shape) for W in one.weights], one.copies
        ([(1, 1, 2), (1, 1, 1), (1, 1, 1)], (4, 3))

    Source: the exact quotient of an equitable partition, T = R / |D|; gradient of R times 1 / (|C| |D|).
    """
    small = [_one_unit_each(state, len(spec.hidden) + 1) for state in states]
    one = stack(Spec(spec.kind, (1,) * len(spec.hidden), spec.activation), small, loss)
    return Chains(one.weights, one.biases, one.activation, loss, copies=spec.hidden)


def _one_unit_each(state: State, n_layers: int) -> State:
    found: State = {}
    for k in range(1, n_layers + 1):
        W, b = state[f"fc{k}.weight"].double(), state[f"fc{k}.bias"].double()
        W, b = (W[:1], b[:1]) if k < n_layers else (W, b)
        found[f"fc{k}.weight"], found[f"fc{k}.bias"] = (W[:, :1] if k > 1 else W), b
    return found


# Any module --------------------------------------------------------------------------------------------------------


class Folded(mapped.Models):
    """Runs of one start, trained as its quotient."""

    def __init__(self, small: smaller.Quotient, work: Work, n_runs: int, *, batched: bool) -> None:
        brought = work.subject.brought(0)
        full = {name for name, _ in brought.model.named_buffers()}  # the others, sizes of classes, are no run's own
        own = [*small.model.named_parameters(), *((n, b) for n, b in small.model.named_buffers() if n in full)]
        kept = {name: one.detach().clone() for name, one in own}
        super().__init__(Brought(small.model, brought.batch, brought.objective), [kept] * n_runs, work.score,
                         seed=work.setup.data_seed, batched=batched)  # fmt: skip
        self.small = small

    def counts(self) -> list[Tensor]:
        """How many of the full net's parameters each number stands for, in the order of `parameters`."""
        return [self.small.multiplicity[name] for name in self.learned]

    @property
    def note(self) -> str:
        few, many = self.small.size
        return f"equal units are one: trained as its quotient, {few:,} of {many:,} parameters"


def folded(work: Work, states: Sequence[State], *, batched: bool) -> Iterator[tuple[list[int], Folded]]:
    """Which of these starts are trained as a quotient: their places, and it; each distinct start is looked at once.

    Args:
        states: of any module.
        batched: whether full runs go by vmap.
    Example:
        >>> from torch import nn
        >>> from symbreak.races.grid import Cell
        >>> from symbreak.races.plan import prepared
        >>> work = prepared(lambda: nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)), "xor")
        >>> with torch.no_grad():
        ...     ((places, one),) = folded(work, [work.subject.state(Cell("constant(0.1)", 0, 0.1))] * 2, batched=True)
        >>> places, one.small.size
        ([0, 1], (7, 42))

    Source: `symbreak.quotient`.
    """
    places: dict[str, list[int]] = {}
    for n, state in enumerate(states):
        if shows_copies(state):
            places.setdefault(digest(state), []).append(n)
    for rows in places.values():
        small = _quotient(work, states[rows[0]])
        if small is not None:
            yield rows, _fastest(small, work, len(rows), batched=batched)


def shows_copies(state: State) -> bool:
    """Whether equal slices of the weights leave few enough different numbers. Cheap, and no proof.

    Example:
        >>> [shows_copies({"w": one}) for one in (torch.ones(4, 6), torch.eye(4))]
        [True, False]
    """
    weights = [one for one in state.values() if one.ndim > 1 and one.is_floating_point()]
    left = sum(_different(one, 0) * _different(one, 1) * one[0, 0].numel() for one in weights if one.numel())
    return bool(weights) and left <= WORTH * sum(one.numel() for one in weights)


def _different(tensor: Tensor, axis: int) -> int:
    """Different slices along an axis; -0.0 is 0.0."""
    rows = (tensor.movedim(axis, 0).flatten(1) + 0.0).contiguous().cpu().numpy()
    return len({row.tobytes() for row in rows})


def _quotient(work: Work, state: State) -> smaller.Quotient | None:
    """The quotient of the module with these tensors, if it is small and the race's optimizer trains it alike."""
    x, y = next(iter(work.split.batches(1)))
    brought = work.subject.brought(0)
    loss = None if brought.objective is not None else work.score.function
    with ONE_AT_A_TIME, torch.enable_grad(), wearing(brought.model, state), in_mode(brought.model, train=True):
        try:
            found = smaller.quotient(
                brought.model, batch=x if y is None else (x, y), loss=loss, objective=brought.objective
            )
        except Exception:  # noqa: BLE001 - whatever a module makes of the search, the full net trains as well
            return None
    few, many = found.size
    return found if few <= WORTH * many and found.keeps(work.setup.optimizer) else None


def _fastest(small: smaller.Quotient, work: Work, n_runs: int, *, batched: bool) -> Folded:
    """By vmap where that is how the full runs go, and it can."""
    x, y = next(iter(work.split.batches(1)))
    refused = not batched or mapped.why_not_batched(lambda b: Folded(small, work, 2, batched=b), x, y)
    return Folded(small, work, n_runs, batched=not refused)
