"""Where an estimator's weights start: what `init=` and `init_bias=` may be, resolved to arrays.

A net is a row of slots, one a tensor, in the order the textbook draws them: fc1.weight, fc1.bias, fc2.weight, ... A
weight is [o, i], o units out, i units in; a bias is [o].
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from symbreak.errors import SchemeError
from symbreak.exact import arrays
from symbreak.nets import saved
from symbreak.nets.errors import NetError
from symbreak.schemes import Fans, Scheme, constant, parse, torch_default, zeros
from symbreak.schemes.laws import Constant
from symbreak.schemes.place import Place

if TYPE_CHECKING:
    import torch

Tensors = dict[str, NDArray[Any]]  # by the names of the slots
KINDS = "a scheme such as 'kaiming_normal', a number, an array, a fitted estimator or a file.safetensors"


@dataclass(frozen=True)
class Slot:
    """One tensor that has to start somewhere.

    Example:
        >>> layer("fc1", n_in=3, n_out=2)[1]
        Slot(name='fc1.bias', shape=(2,), fans=Fans(fan_in=3, fan_out=2), is_bias=True)

    Source: nn.Linear's two parameters.
    """

    name: str
    shape: tuple[int, ...]  # weight [o, i], bias [o]
    fans: Fans  # of the layer, for the bias too
    is_bias: bool = False
    level: float | None = field(default=None, repr=False)  # PReLU's slope: starts at this number unless it is loaded

    @property
    def place(self) -> Place:
        """What a scheme may read of it."""
        return Place(shape=self.shape, fans=self.fans, role="bias" if self.is_bias else "weight")


def layer(name: str, *, n_in: int, n_out: int, bias: bool = True) -> tuple[Slot, ...]:
    """The slots of a linear layer, named as in a torch module: weight, then bias.

    Example:
        >>> [slot.shape for slot in layer("fc1", n_in=3, n_out=2)]
        [(2, 3), (2,)]

    Source: nn.Linear.
    """
    fans = Fans(n_in, n_out)
    weight = Slot(f"{name}.weight", (n_out, n_in), fans)
    return (weight, Slot(f"{name}.bias", (n_out,), fans, is_bias=True)) if bias else (weight,)


def start(
    slots: Sequence[Slot], init: Any = "zeros", init_bias: Any = None, *, seed: int = 0, dtype: str = "float64"
) -> Tensors:
    """The weights a fit starts from.

    Schemes are drawn slot by slot from one generator: same seed, same weights, those of `nets.build` where the dtype is
    float32. The global random states stay where they are.

    Args:
        slots: of the net, in order.
        init: of the weights. A scheme (text or value), a number, an array; for several layers also a list with one of
            these a layer. A fitted estimator of ours or of scikit-learn, or the file it was saved to
            (a Path, or text that ends in .safetensors): its weights and biases are taken over.
        init_bias: of the biases, likewise. None: those that come with a fitted estimator or a file, drawn too under
            torch_default, else zeros.
        seed: of the draws.
        dtype: float32 or float64.
    Returns:
        new arrays by slot name.
    Raises:
        NetError: a shape that does not fit, weights of another model, an estimator that is not fitted, a number that is
            not finite, another kind of thing.
        SchemeError: a scheme that is unknown or malformed.
    Example:
        >>> start(layer("fc1", n_in=2, n_out=1), init=[0.5, -0.5], init_bias=1.0)
        {'fc1.weight': array([[ 0.5, -0.5]]), 'fc1.bias': array([1.])}

    Source: the schemes' own pages; the order of the draws is that of nn.Module.parameters().
    """
    weights, biases = (
        [slot for slot in slots if slot.level is None and slot.is_bias is is_bias] for is_bias in (False, True)
    )
    loaded = _loaded(init, slots)
    own = (
        loaded
        if loaded is not None
        else dict(zip((w.name for w in weights), _one_each("init", init, weights), strict=True))
    )
    if init_bias is not None:
        own |= dict(zip((b.name for b in biases), _one_each("init_bias", init_bias, biases), strict=True))
    elif loaded is None:
        own |= {bias.name: _bias_of(own[weight.name]) for weight, bias in zip(weights, biases, strict=bool(biases))}
    own = {slot.name: slot.level for slot in slots if slot.level is not None} | own
    generator = functools.cache(lambda: _generator(seed))
    return {slot.name: _filled(slot, own[slot.name], generator, dtype) for slot in slots}


def fresh(slots: Sequence[Slot], init: Any, *, seed: int, dtype: str = "float64") -> Tensors:
    """A new random start of the same net: by `init` where it is a random scheme, by torch's default otherwise.

    Example:
        >>> weights = fresh(layer("fc1", n_in=4, n_out=1), "zeros", seed=0)
        >>> bool(np.abs(weights["fc1.weight"]).max() <= 0.5), bool(weights["fc1.bias"] != 0)
        (True, True)

    Source: what shrink and perturb perturbs with; Ash and Adams 2020, arXiv:1910.08475.
    """
    scheme = _scheme(init) if isinstance(init, str | Scheme) and not _is_file(init) else None
    random = scheme is not None and not isinstance(scheme.law_at(slots[0].place), Constant)
    return start(slots, scheme if random else torch_default(), seed=seed, dtype=dtype)


def tensors_of(fitted: Any) -> Tensors:
    """Weights and biases of a fitted estimator, ours or scikit-learn's, by slot name.

    Raises:
        NetError: not fitted, or without weights.
    Example:
        >>> from sklearn.linear_model import LinearRegression
        >>> tensors_of(LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]))["coef_"]
        array([2.])

    Source: scikit-learn's names: coef_ and intercept_, coefs_ [i, o] and intercepts_ for its MLPs.
    """
    name = type(fitted).__name__
    own = getattr(fitted, "tensors", None)
    if callable(own):
        from sklearn.exceptions import NotFittedError

        try:
            return dict(own())
        except NotFittedError as err:
            raise NetError(f"init is a {name} that is not fitted yet. Fit it first.") from err
    if hasattr(fitted, "coefs_"):
        pairs = enumerate(zip(fitted.coefs_, fitted.intercepts_, strict=True), start=1)
        return {f"fc{k}.{part}": np.asarray(a) for k, (W, b) in pairs for part, a in (("weight", W.T), ("bias", b))}
    if hasattr(fitted, "coef_"):
        return {"coef_": np.asarray(fitted.coef_), "intercept_": np.asarray(getattr(fitted, "intercept_", 0.0))}
    raise NetError(f"init is a {name} without weights: not fitted yet, or no model of this kind. Fit it first.")


def _loaded(init: Any, slots: Sequence[Slot]) -> dict[str, Any] | None:
    """The tensors an estimator or a file holds, for the slots there are; None where init is neither."""
    if _is_file(init):
        held = saved.read(init)
        return _for_slots(held.tensors, slots, f"{init} holds {held.made_by}, with")
    if isinstance(init, BaseEstimator):
        return _for_slots(tensors_of(init), slots, f"init is a {type(init).__name__} with")
    return None


def _is_file(init: Any) -> bool:
    return isinstance(init, Path) or (isinstance(init, str) and init.endswith(".safetensors"))


def _for_slots(held: Mapping[str, NDArray[Any]], slots: Sequence[Slot], who: str) -> dict[str, Any]:
    missing = [slot.name for slot in slots if slot.name not in held and slot.level is None]
    spare = {name: tensor for name, tensor in held.items() if name not in {slot.name for slot in slots}}
    if missing or any(np.any(tensor) for tensor in spare.values()):  # zeros, of no intercept say, may go
        needed = ", ".join(f"{slot.name} {slot.shape}" for slot in slots)
        shown = ", ".join(f"{name} {tensor.shape}" for name, tensor in held.items()) or "nothing"
        raise NetError(f"{who} {shown}; this model has {needed}. Take weights of the same kind of model.")
    found = [slot for slot in slots if slot.name in held]
    for slot in found:
        _reshaped(slot, held[slot.name], f"{who} {slot.name} of shape {held[slot.name].shape}")
    return {slot.name: held[slot.name] for slot in found}


def _one_each(name: str, given: Any, slots: Sequence[Slot]) -> list[Any]:
    """One thing a slot: the same for all, or, for several slots, a list with one each."""
    if isinstance(given, list | tuple) and len(slots) > 1:
        if len(given) != len(slots):
            names = ", ".join(slot.name for slot in slots)
            raise NetError(f"{name} is a list of {len(given)}; one for each of {names} is needed, or one for all.")
        return list(given)
    if isinstance(given, np.ndarray) and given.ndim and len(slots) > 1:
        raise NetError(
            f"{name} is one array of shape {given.shape}, for {len(slots)} layers. Give a list, one a layer."
        )
    return [given] * len(slots)


def _bias_of(weight: Any) -> Scheme:
    """torch draws the biases too; everyone else starts them at zero."""
    scheme = _scheme(weight) if isinstance(weight, str | Scheme) else None
    return scheme if scheme is not None and scheme.name == "torch_default" else zeros()


def _scheme(given: str | Scheme) -> Scheme:
    try:
        return _parsed(given) if isinstance(given, str) else given
    except SchemeError as err:
        raise SchemeError(f"{err} Or give {KINDS.partition(', ')[2]}.") from err


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Scheme:
    """A tenth of a small fit was reading "zeros" again."""
    return parse(text)


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)


def _filled(slot: Slot, given: Any, generator: Any, dtype: str) -> NDArray[Any]:
    if isinstance(given, int | float | np.number) and not isinstance(given, bool):
        given = constant(float(given))
    if not isinstance(given, str | Scheme):
        return _array(slot, given).astype(dtype)
    scheme = _scheme(given)
    law = scheme.law_at(slot.place)
    if isinstance(law, Constant):  # nothing to draw, so nothing that needs torch
        return np.full(slot.shape, law.level, dtype)
    import torch

    drawn = scheme.draw(slot.shape, generator=generator(), place=slot.place, dtype=getattr(torch, dtype))
    return np.asarray(drawn.numpy())


def _array(slot: Slot, given: Any) -> NDArray[Any]:
    what = "init_bias" if slot.is_bias else "init"
    if given is None or isinstance(given, bool | dict | set) or callable(given):
        raise NetError(f"{what} is {given!r}; expected {KINDS}.")
    return _reshaped(slot, arrays.numbers(what, given), f"{what} has shape {np.shape(given)}")


def _reshaped(slot: Slot, given: NDArray[Any], found: str) -> NDArray[Any]:
    """One output may come without its axis, as scikit-learn has it."""
    alike = [slot.shape, slot.shape[1:]] if slot.shape[0] == 1 else [slot.shape]
    if given.shape in alike:
        return given.reshape(slot.shape)
    if slot.is_bias and not given.any() and given.ndim == 0:  # scikit-learn's intercept_ = 0.0, for no intercept
        return np.zeros(slot.shape)
    raise NetError(f"{found}; {slot.name} needs {' or '.join(map(str, alike))}.")
