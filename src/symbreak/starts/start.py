"""The story of `init_`: what was asked for, who takes it, what it needs to see, and the plan of what was done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from symbreak.errors import BatchError, ModelError, SchemeError, SymbreakError
from symbreak.probe.look import unwrap
from symbreak.schemes import Scheme, kaiming_normal, parse

from .analytic import propagate
from .arguments import arguments
from .auto import auto, places_for
from .by_data import krahenbuhl, lsuv, weight_norm_data
from .desk import Desk
from .facts import Facts, facts_of, refined
from .flow import Flow, record
from .kept import Keep, kept
from .learned import gradinit, metainit
from .plain import MATRICES, ONLY, draw_all
from .plan import Start
from .session import within
from .tensors import matching, tensors_of

AUTO = "auto"
READS_PLACES = frozenset(
    ["fixup", "gpt2_residual", "ds_init", "t_fixup", "deepnorm", "mup", "siren", "zero_gamma", "zero_hadamard",
     "idinit", "mean_field", "prior_bias", "layer_scale"]
)  # fmt: skip
"""Schemes that ask where a tensor stands: with a batch, running the model tells them."""

BY_DATA: dict[str, Callable[[Desk, Collection[str], Scheme, Any, Callable[..., Tensor] | None], None]] = {
    "lsuv": lsuv,
    "krahenbuhl": krahenbuhl,
    "weight_norm_data": weight_norm_data,
    "metainit": metainit,
    "gradinit": gradinit,
}
"""Schemes that go on by data once they are drawn."""


def start(
    model: nn.Module,
    scheme: str | Scheme | Mapping[str, str | Scheme | None],
    batch: Any = None,
    *,
    generator: torch.Generator | None = None,
    loss: Callable[..., Tensor] | None = None,
    keep: Keep = (),
) -> Start:
    """See `symbreak.init_`."""
    model = unwrap(model) if isinstance(model, nn.Module) else model
    tensors = tensors_of(model)
    asked = _asked(scheme)
    desk = Desk(model, tensors, places_for(model, tensors), _generator(generator))
    held_back, told = kept(keep, tensors, {name for name, _ in model.named_buffers()})
    desk.held_back = frozenset(held_back)
    desk.notes += told + _of_scripted(model, asked)
    groups = _groups(asked, desk)
    flow = _Flow(desk, batch, loss)
    with desk.open():
        for name, because in held_back.items():
            desk.keep(name, because)
        for names, wanted, literally in groups:
            _carry_out(desk, names, wanted, literally, flow)
        return desk.start(_written(scheme))


class _Flow:
    """What running the model shows: asked for at most once, and only where somebody needs it."""

    def __init__(self, desk: Desk, batch: Any, loss: Callable[..., Tensor] | None) -> None:
        self.desk, self.batch, self.loss = desk, batch, loss
        self._flow: Flow | None = None
        self._failed = False

    def flow(self) -> Flow | None:
        """The flow; None where no batch was given and none can be made up."""
        if self._flow is None and not self._failed:
            try:
                self._flow = within(self.desk.model, self.batch, self.loss, record)
            except SymbreakError as err:
                if self.batch is not None:
                    raise
                self._failed = True
                self.desk.notes.append(f"the model was not run ({_first_sentence(err)}): what follows a layer is known "
                                       "only where a Sequential tells")  # fmt: skip
        return self._flow

    def facts(self) -> Facts | None:
        """What the flow says of each weight."""
        flow = self.flow()
        return facts_of(flow) if flow is not None else None


def _carry_out(desk: Desk, names: Collection[str], wanted: Scheme | str | None, literally: bool, flow: _Flow) -> None:
    if wanted is None:
        for name in names:
            desk.keep(name, "asked for")
    elif isinstance(wanted, str):
        if flow.batch is None:
            _without_batch(desk, names, flow)
        else:
            auto(desk, names, flow.facts(), flow.batch, flow.loss)
    else:
        method = BY_DATA.get(wanted.name)
        if method is not None and flow.batch is None:
            raise BatchError(f"{wanted!r} looks at data: pass batch=, a tensor, a tuple (x, y) or a dict of arguments.")
        if wanted.name in READS_PLACES and flow.batch is not None and (facts := flow.facts()) is not None:
            desk.places = refined(desk.places, facts)
        draw_all(desk, names, _start_of(wanted), literally=literally)
        if method is not None:
            method(desk, names, wanted, flow.batch, flow.loss)
        elif wanted.name == "analytic":
            _analytic(desk, names, wanted, flow)


def _start_of(scheme: Scheme) -> Scheme:
    """What a scheme is drawn as: MetaInit and GradInit tune the start that they name."""
    text = arguments(scheme).get("start") if scheme.name in ("metainit", "gradinit") else None
    return parse(text) if isinstance(text, str) else scheme


def _analytic(desk: Desk, names: Collection[str], scheme: Scheme, flow: _Flow) -> None:
    ran = flow.flow()
    if ran is None:
        raise BatchError(f"{scheme!r} needs the model's graph, and no batch could be made up to run it. Pass batch=.")
    desk.places = refined(desk.places, facts_of(ran))
    drawn = [n for n in names if desk.action(n) == "drawn" and desk.places[n].role in MATRICES]
    for name, (wanted, because) in _sizes(desk, ran, drawn, arguments(scheme)["variance"]).items():
        desk.draw(name, wanted, because)


def _without_batch(desk: Desk, names: Collection[str], flow: _Flow) -> None:
    """Tables first, then every weight by the moments that reach it."""
    ran, facts = flow.flow(), flow.facts()
    if ran is None or facts is None:
        auto(desk, names, facts, None, flow.loss)
        return
    desk.places = refined(desk.places, facts)
    tables = [n for n in names if desk.places[n].role == "embedding"]
    auto(desk, tables, facts, None, flow.loss)
    rest = [n for n in names if n not in tables]
    drawn = [n for n in rest if desk.places[n].role in MATRICES and desk.tensors[n].left is None]
    auto(desk, rest, facts, None, flow.loss, sizes=_sizes(desk, ran, drawn, 1.0))


def _sizes(desk: Desk, flow: Flow, drawn: Collection[str], variance: float) -> dict[str, tuple[Scheme, str]]:
    """weight -> the scheme that gives its layer's output the variance that is wanted, and why."""
    values = {name: held.parameter for held in desk.tensors.values() for name in held.names}
    found = propagate(flow, desk.places, values, drawn, variance=variance)
    desk.notes += [f"moments: assumed that {what}" for what in found.assumed]
    return {
        name: (
            kaiming_normal(gain=float(f"{size.gain:.5g}")),
            f"what goes in has second moment {size.second:.3g}: gain {size.gain:.4g} gives its output variance "
            f"{variance:g}",
        )
        for name, size in found.sizes.items()
    }


# ---- what was asked for ----------------------------------------------------------------------------------------------


def _asked(scheme: Any) -> Any:
    """The same with every text parsed, so that a misspelt scheme is told before anything is done."""
    if isinstance(scheme, Mapping):
        if not scheme:
            raise SchemeError('the mapping is empty; expected {"pattern": scheme}, such as {"head.*": "zeros"}.')
        return {pattern: _one(value) for pattern, value in scheme.items()}
    if scheme is None:
        raise SchemeError('scheme=None; expected "auto", a scheme such as "kaiming_normal", or {"pattern": scheme}.')
    return _one(scheme)


def _of_scripted(model: nn.Module, asked: Any) -> list[str]:
    """A note for "auto"; an error for a scheme, which nothing says the tensors of. A mapping says which are meant."""
    if not isinstance(model, torch.jit.ScriptModule) or isinstance(asked, dict):
        return []
    told = (
        f"{type(model).__name__} is scripted or traced, so its tensors cannot be told apart by the layers they belong "
        'to. Start the module it was made from, or say which tensors are meant: {"pattern": scheme}'
    )
    if isinstance(asked, Scheme):
        raise ModelError(f"{told}.")
    return [told]


def _one(scheme: Any) -> Scheme | str | None:
    if scheme is None or isinstance(scheme, Scheme):
        return scheme
    if isinstance(scheme, str):
        return AUTO if scheme.strip() == AUTO else parse(scheme)
    if callable(scheme):
        name = getattr(scheme, "__name__", "it")
        raise SchemeError(f"{name} is a function; pass the scheme it makes: {name}(...), or the text {name!r}.")
    raise SchemeError(
        f'{scheme!r} is no scheme; expected "auto", a text such as "normal(0.02)", a value of symbreak.schemes, or a '
        "mapping of patterns to them."
    )


def _groups(asked: Any, desk: Desk) -> list[tuple[list[str], Scheme | str | None, bool]]:
    """(tensors, what they get, whether literally) in the order asked; the first pattern that matches decides."""
    if not isinstance(asked, dict):
        return [([name for name in desk.tensors if name not in desk.held_back], asked, False)]
    groups, taken = [], set(desk.held_back)
    for pattern, wanted in asked.items():
        matched = matching(pattern, desk.tensors)
        names = [name for name in matched if name not in taken]
        taken.update(names)
        roles = {desk.places[name].role for name in matched}
        about = ONLY.get(wanted.name, ()) if isinstance(wanted, Scheme) else ()
        literally = not roles & {*MATRICES, *about}
        if names:
            groups.append((names, wanted, literally))
    return groups


def _written(scheme: Any) -> str:
    if isinstance(scheme, Mapping):
        return "{" + ", ".join(f"{pattern!r}: {value!s}" for pattern, value in scheme.items()) + "}"
    return str(scheme)


def _generator(given: Any) -> torch.Generator:
    if given is None:
        made = torch.Generator()
        made.set_state(torch.random.get_rng_state())
        return made
    if not isinstance(given, torch.Generator):
        raise SchemeError(f"generator={given!r}; expected a torch.Generator, as torch.Generator().manual_seed(0).")
    return given


def _first_sentence(err: Exception) -> str:
    return str(err).split(". ")[0].removesuffix(".")
