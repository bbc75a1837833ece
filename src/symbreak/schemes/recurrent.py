"""Schemes of recurrent layers, and of a first layer.

torch's gate orders: LSTM i, f, g, o; GRU r, z, n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symbreak.errors import SchemeError
from symbreak.schemes.checks import number
from symbreak.schemes.laws import Constant, Each, Law, Moments, Normal, Parts, mixture, within
from symbreak.schemes.patterns import identity
from symbreak.schemes.place import Place
from symbreak.schemes.scheme import LawOf, scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LSTM, GRU = 4, 3


def _gates(place: Place, *, allowed: tuple[int, ...]) -> int:
    """Gates fused in a bias of a recurrent layer."""
    if not place.is_bias:
        raise SchemeError(f"it starts the biases of a recurrent layer; this tensor is a {place.role}. Take orthogonal.")
    if place.layout.parts not in allowed:
        names = " or ".join({LSTM: "4 (LSTM)", GRU: "3 (GRU)"}[gates] for gates in allowed)
        raise SchemeError(
            f"it needs {names} gates; here are {place.layout.parts}: pass place=Place(layout=Layout(parts=4))."
        )
    return place.layout.parts


@scheme
def rnn_default() -> LawOf:
    """What torch does for every weight and bias of nn.RNN, nn.LSTM and nn.GRU.

    U(-1/sqrt(h), 1/sqrt(h)), h the hidden size, whatever the input width. Two biases are added, and the forget gate is
    not helped: see `lstm_forget_bias`.

    Example:
        >>> round(rnn_default().moments(fan_out=300).std, 4)
        0.0333

    Source: torch/nn/modules/rnn.py, reset_parameters.
    """
    return lambda place: within(1 / math.sqrt(place.fan_out))


@scheme
def irnn(*, scale: float = 1.0, input_std: float = 0.001) -> LawOf:
    """A ReLU recurrence that starts by remembering everything.

    W_hh = scale I, biases 0, other weights N(0, input_std^2). Hidden units are told apart by their input weights alone,
    so those must not be constant.

    Args:
        scale: on the diagonal; 0.01 forgets, which the paper finds better for speech.
        input_std: of the weights that are not recurrent.
    Example:
        >>> irnn().moments(fan_in=3, fan_out=5).std
        0.001

    Source: Le, Jaitly and Hinton 2015, arXiv:1504.00941. The deterministic part is exact; no reference code was found.
    """
    diagonal, small = identity(gain=number("scale", scale)), Normal(number("input_std", input_std, least=0.0))

    def law(place: Place) -> Law:
        if place.is_bias:
            return Constant(0.0)
        return diagonal.law(place) if place.role == "recurrent" else small

    return law


@scheme
def lstm_forget_bias(value: float = 1.0) -> LawOf:
    """Biases of an LSTM that starts by remembering: the forget gate open, the others at zero.

    b[h:2h] = value, elsewhere 0, so the cell keeps sigmoid(1) = 0.73 of itself a step. torch adds two biases: the
    second one (role recurrent_bias) is all zero, else the gate would open twice.

    Args:
        value: of the forget gate's bias.
    Example:
        >>> import torch
        >>> from symbreak.schemes import Layout
        >>> bias = Place(role="bias", layout=Layout(parts=4))
        >>> lstm_forget_bias().draw((8,), generator=torch.Generator(), place=bias).tolist()
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    Source: Gers, Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and Sutskever 2015; Keras' unit_forget_bias.
    """
    level = number("value", value)

    def law(place: Place) -> Law:
        _gates(place, allowed=(LSTM,))
        if place.role == "recurrent_bias":
            return Constant(0.0)
        return Parts(place, (Constant(0.0), Constant(level), Constant(0.0), Constant(0.0)))

    return law


@dataclass(frozen=True)
class _Chrono(Law):
    """Forget gates that last U(1, longest - 1) steps, and input gates that close as they open."""

    longest: float
    gates: int

    def _log_uniform(self) -> Moments:
        top = self.longest - 1
        mean = (top * math.log(top) - (top - 1)) / (top - 1) if top > 1 else 0.0
        square = (top * (math.log(top) ** 2 - 2 * math.log(top) + 2) - 2) / (top - 1) if top > 1 else 0.0
        return Moments(mean, math.sqrt(max(square - mean**2, 0.0)))

    def moments(self) -> Moments:
        long, rest = self._log_uniform(), Moments(0.0, 0.0)
        return mixture([long, Moments(-long.mean, long.std), rest, rest] if self.gates == LSTM else [long, rest, rest])

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:
        parts = weight.zero_().chunk(self.gates)
        drawn = parts[0].new_empty(parts[0].shape).uniform_(1.0, self.longest - 1, generator=generator).log_()
        parts[1].copy_(drawn)
        if self.gates == LSTM:
            parts[0].copy_(-drawn)
        return weight


@scheme
def chrono(longest: float) -> LawOf:
    """Biases of an LSTM or GRU whose units remember for different times, up to the longest dependency.

    LSTM: b_f = log U(1, longest - 1), b_i = -b_f, others 0. A unit with forget gate f remembers 1 / (1 - f) steps,
    which is 1 + e^b_f. GRU: torch's z keeps the old state, so the update gate's bias is log U(1, longest - 1). The
    second of torch's two biases is zero.

    Args:
        longest: T_max, steps between cause and effect, above 2.
    Example:
        >>> import torch
        >>> from symbreak.schemes import Layout
        >>> bias = Place(role="bias", layout=Layout(parts=4))
        >>> b = chrono(100).draw((8,), generator=torch.Generator(), place=bias)
        >>> torch.equal(b[:2], -b[2:4]), b[4:].count_nonzero().item()
        (True, 0)

    Source: Tallec and Ollivier 2018, arXiv:1804.11188, section 3.
    """
    longest = number("longest", longest, above=2.0)

    def law(place: Place) -> Law:
        gates = _gates(place, allowed=(LSTM, GRU))
        return Constant(0.0) if place.role == "recurrent_bias" else _Chrono(longest, gates)

    return law


@scheme
def nguyen_widrow(*, active: float = 1.0) -> LawOf:
    """A first layer whose units split the input range between them.

    Every row of W points in a random direction with length b = 0.7 H^(1/n) active, H units and n inputs in [-1, 1];
    biases ~ U(-b, b). Each unit's active region is then a slab of the input cube, and the slabs cover it.

    Args:
        active: half width of the activation's active region: 1 in the paper; MATLAB's tansig takes 2, and spaces the
            biases evenly instead of drawing them.
    Example:
        >>> import torch
        >>> W = nguyen_widrow().draw((4, 2), generator=torch.Generator())
        >>> [round(length, 4) for length in W.norm(dim=1).tolist()]
        [1.4, 1.4, 1.4, 1.4]

    Source: Nguyen and Widrow 1990; MATLAB's initnw for the length.
    """
    active = number("active", active, above=0.0)

    def law(place: Place) -> Law:
        length = 0.7 * active * place.fan_out ** (1 / place.fan_in)
        if place.is_bias:
            return within(length)

        def paint(matrix: Tensor, generator: torch.Generator) -> None:
            import torch

            flat = torch.empty(matrix.shape[0], matrix[0].numel(), device=matrix.device)
            flat.uniform_(-1.0, 1.0, generator=generator)
            matrix.copy_((length * flat / flat.norm(dim=1, keepdim=True)).reshape(matrix.shape))

        return Each(place, paint, lambda o, i, taps: (0.0, length**2 / (i * taps)))  # noqa: ARG005

    return law
