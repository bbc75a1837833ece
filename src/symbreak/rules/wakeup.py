"""Which parameters learn, when, and what keeps the others from it (SB101-SB106)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from symbreak.records import ActivationTrace, Claim, Remedy, TensorTrace, Trace
from symbreak.thresholds import DEAD_SHARE

from .grouping import activation, called, listed, numbers, pattern, patterns, some
from .rule import rule


@rule("SB101", "never-wakes", "error", "stuck")
def never_wakes(trace: Trace) -> Iterator[Claim]:
    """A trainable tensor, or some of its units, never gets a gradient, and no known invariance explains it.

    Why: along its path to the loss two factors of one product are zero, or an activation without slope stands in the
    way, so no optimizer that follows gradients ever moves it. A single zero factor is harmless (SB103): its own
    gradient is (back-signal) x (non-zero input), so it moves first and wakes the other.

    Evidence: normalised steps on fresh data until nothing new wakes, then a second climb on varied data. Over those
    steps "never" is measured. It is proved where the zeros that stayed form a closed set: one pass carries beside every
    number whether it is certainly zero, whatever the batch and the other weights are, and finds that no zero of the set
    gets a gradient. Dead units, terms that cancel, and rounding stay measured.

    Remedy: re-initialise one of the two zero factors, the one that keeps the output unchanged if there is one.
    """
    if trace.nonfinite:  # nothing was measured (SB404 says why)
        return
    asleep = [t for t in trace.tensors if t.status == "asleep" and not t.nonfinite]
    for layer, tensors in _by_layer(asleep).items():
        first = max(tensors, key=lambda t: t.numel)
        whole = all(t.proved == t.numel for t in tensors)
        yield Claim(
            where=tensors[0].name if len(tensors) == 1 else layer,
            because=(
                f"{listed([t.name for t in tensors])} never {_verb(tensors, 'gets', 'get')} a "
                f"gradient: {_cause(trace, first, _verb(tensors, 'its', 'their'))}{_partly_proved(tensors)}"
            ),
            standing="proved" if whole else "measured",
            evidence={
                "tensors": [t.name for t in tensors],
                "input_zero": list(first.input_zero),
                "back_zero": list(first.back_zero),
                "dead": list(first.dead),
                "wakes_when_zeros_are_filled": first.wakes_when_filled,
                "moves_output": first.moves_output,
                "steps": trace.steps,
                "climbs": trace.climbs,
                **_certificate(trace, tensors),
            },
            remedy=Remedy("reinit", first.name, _wake_hint(trace, first)),
        )
    off = {(a.layer, u) for a in trace.activations for u in a.dead}
    for t in trace.tensors:
        blocked = tuple(u for u in t.blocked_rows if (t.layer, u) not in off)
        if t.status == "live" and blocked and "weight" in t.roles and len(t.shape) >= 2:
            layer = called(trace, t.layer)
            proved = set(blocked) <= set(t.proved_rows)
            yield Claim(
                where=t.layer,
                units=blocked,
                because=(
                    f"{some(len(blocked), t.shape[0], 'units', blocked)} of {layer} never "
                    f"{'gets' if len(blocked) == 1 else 'get'} a gradient: "
                    "weights in are zero, and no back-signal arrives"
                ),
                standing="proved" if proved else "measured",
                evidence={
                    "steps": trace.steps,
                    "climbs": trace.climbs,
                    **(_certificate(trace, [t]) if proved else {}),
                },
                remedy=Remedy("reinit", t.name, f"give these rows of {t.name} values of the layer's own scale"),
            )


@rule("SB102", "dead-units", "error", "stuck")
def dead_units(trace: Trace) -> Iterator[Claim]:
    """Units of a piecewise-linear activation are off on every sample, so that nothing behind them can learn.

    Why: where a ReLU's input is negative its slope is zero, and no gradient reaches the weights that could bring it
    back. A whole layer is an error. Some units are a warning, and only where it is no luck of the batch.

    Evidence: every sample of the batch is off. Where only some units are: their mean pre-activation lies at least ten
    standard deviations below zero, and their weights got no gradient at any probed step.

    Remedy: shift the bias back to the data.
    """
    sleeping = {t.layer: t for t in trace.tensors if len(t.shape) >= 2}
    for a in {(a.where, a.layer, a.dead): a for a in trace.activations if a.dead}.values():  # one may run twice
        if a.layer is None and not a.hidden:
            continue  # a margin in the loss: it rests where all is well
        layer = sleeping.get(a.layer or "")
        units = activation(trace, a.where, a.name)
        if len(a.dead) == a.units:
            if layer is None or layer.status != "live":
                yield Claim(
                    where=a.where,
                    units=a.dead,
                    because=(
                        f"{some(a.units, a.units, 'units')} of {units} "
                        f"{'are' if a.units > 1 else 'is'} off on all {a.samples} samples: "
                        "the input is negative, the slope is zero, and no gradient passes"
                    ),
                    evidence={"samples": a.samples, "surely_dead": len(a.surely_dead)},
                    remedy=Remedy(
                        "shift", a.layer or a.where, f"raise {_bias(trace, a, 'the units')} so that they see both signs"
                    ),
                )
            continue
        dead = _asleep(a, layer)
        if dead:
            one = len(dead) == 1
            yield Claim(
                where=a.where,
                units=dead,
                severity="warning",
                decisive=len(dead) >= DEAD_SHARE * a.units,
                because=(
                    f"{some(len(dead), a.units, 'units', dead)} of {units} {'is' if one else 'are'} "
                    f"off on all {a.samples} samples, "
                    f"{'its' if one else 'their'} mean input at least 10 standard deviations below zero"
                ),
                evidence={"samples": a.samples, "units": a.units},
                remedy=Remedy(
                    "shift", a.layer or a.where, f"raise {_bias(trace, a, 'this unit' if one else 'these units')}"
                ),
            )


def _bias(trace: Trace, a: ActivationTrace, units: str) -> str:
    return f"the bias of {units} of {called(trace, a.layer)}" if a.layer else f"the biases that feed {units}"


def _asleep(a: ActivationTrace, layer: TensorTrace | None) -> tuple[int, ...]:
    if layer is None or layer.status != "live" or layer.shape[0] != a.units:
        return a.surely_dead
    return tuple(u for u in a.surely_dead if u in set(layer.sleeping_rows))


@rule("SB103", "late-waker", "info")
def late_waker(trace: Trace) -> Iterator[Claim]:
    """A tensor whose gradient is zero at first and starts at a later step: a harmless zero.

    Why: LoRA's A, the inside of a zero-initialised residual branch, everything behind a zero head: along each path one
    factor is zero, learns at once, and wakes the rest. The finding names that factor and the step.

    Evidence: the first step with a gradient, counted from 1, on normalised steps.

    Remedy: none is needed.
    """
    late = [t for t in trace.tensors if t.status == "live" and (t.wake or 1) > 1]
    groups: dict[tuple[int, str], list[TensorTrace]] = {}
    for t in late:
        groups.setdefault((t.wake or 0, _late_cause(t)), []).append(t)
    for (step, cause), tensors in sorted(groups.items()):
        yield Claim(
            where=tensors[0].name,
            because=(
                f"{listed(patterns(t.name for t in tensors))} first "
                f"{_verb(tensors, 'learns', 'learn')} at step {step}{': ' + cause if cause else ''}"
            ),
            evidence={"wakeup_step": step, "tensors": [t.name for t in tensors]},
        )


@rule("SB104", "unused-parameter", "warning")
def unused_parameter(trace: Trace) -> Iterator[Claim]:
    """A trainable parameter that the loss has no path to in this call: an unused branch, head or modality.

    Why: it costs memory, gets weight decay without a gradient, and makes distributed training wait.

    Evidence: no path in the recorded graph from the loss to the parameter.

    Remedy: remove or freeze it; if it is meant to be used, pass a batch or an objective that uses it.
    """
    for tensors in _by_module(t for t in trace.tensors if t.status == "unused"):
        names = patterns(t.name for t in tensors)
        yield Claim(
            where=tensors[0].name,
            because=f"{_told(names, tensors)} {_verb(tensors, 'has', 'have')} no path to the loss in this call",
            evidence={"tensors": [t.name for t in tensors], "parameters": sum(t.numel for t in tensors)},
            remedy=Remedy(
                "remove",
                tensors[0].name,
                "remove or freeze what is not meant to train, or pass a batch or objective that uses it",
            ),
        )


REMOVES = "a later normalisation, softmax or difference removes"


@rule("SB105", "shadowed-bias", "info")
def shadowed_bias(trace: Trace) -> Iterator[Claim]:
    """A bias that nothing downstream depends on, so that it never gets a gradient: harmless.

    Why: the key bias of softmax attention shifts all scores of a query alike; a bias in front of a normalisation that
    subtracts the mean is subtracted again; what two branches share cancels in their difference.

    Evidence: found by intervention: the bias was shifted and no output moved.

    Remedy: none is needed; it can be left out (bias=False).
    """
    whole = [t for t in trace.tensors if t.status == "absorbed"]
    for tensors in _by_pattern(whole):
        yield Claim(
            where=tensors[0].name,
            because=(
                f"shifting {_told(patterns(t.name for t in tensors), tensors)} moves no output: {REMOVES} "
                f"{'it' if len(tensors) == 1 else 'them'}"
            ),
            evidence={"tensors": [t.name for t in tensors]},
        )
    off = {(a.layer, u) for a in trace.activations for u in a.dead}  # a unit that is off is no shadow (SB102)
    partly: dict[tuple[str, tuple[int, ...]], list[TensorTrace]] = {}
    for t in trace.tensors:
        rows = tuple(u for u in t.absorbed_rows if (t.layer, u) not in off)
        if t.status == "live" and rows and len(t.shape) == 1:
            partly.setdefault((pattern(t.name), rows), []).append(t)
    for (_, rows), tensors in partly.items():
        entries = (
            f"entr{'y' if len(rows) == 1 else 'ies'} {numbers(rows)} of "
            f"{_told(patterns(t.name for t in tensors), tensors)}"
        )
        yield Claim(
            where=tensors[0].name,
            units=rows,
            because=f"shifting {entries} moves no output: {REMOVES} {'it' if len(rows) == 1 else 'them'}",
            evidence={"tensors": [t.name for t in tensors], "entries": len(rows), "of": tensors[0].shape[0]},
        )


@rule("SB106", "unseen-rows", "info")
def unseen_rows(trace: Trace) -> Iterator[Claim]:
    """Rows that this batch never looked up, experts that got no data, anchors that no box matched: no gradient yet.

    Why: it tells rows that wait for their data from rows that are broken. Padding rows never get a gradient, by design;
    rare tokens get theirs when they occur.

    Evidence: rows without a gradient at every probed step, modules that met a tensor without elements, members of a
    list of which the forward calls others when the weights are shuffled, and parameters whose gradient ends at an
    index, a gather or a mask that leaves out all that depends on them.

    Remedy: none is needed; a larger batch, or one that holds every token, shows the rest.
    """
    for t in trace.tensors:
        if t.status == "live" and t.sleeping_rows and "lookup" in t.roles:
            n = len(t.sleeping_rows)
            yield Claim(
                where=t.name,
                units=t.sleeping_rows,
                because=(
                    f"{some(n, t.shape[0], 'rows')} of {t.name} got no gradient in {trace.steps} "
                    "steps: absent from the batch, or padding"
                ),
                evidence={"rows": n, "of": t.shape[0]},
            )
    for tensors in _by_module(t for t in trace.tensors if t.status == "starved"):
        yield Claim(
            where=tensors[0].name,
            because=(
                f"{_told(patterns(t.name for t in tensors), tensors)} met no data in {trace.steps} steps: a "
                "router or a selection by the data left them out"
            ),
            evidence={"tensors": [t.name for t in tensors]},
        )


# ---- what is proved ------------------------------------------------------------------------------------------------


def _certificate(trace: Trace, tensors: list[TensorTrace]) -> dict[str, object]:
    """The closed set of zeros behind a proof, and what the proof assumes."""
    if trace.never is None or not any(t.proved for t in tensors):
        return {}
    reads = listed(trace.never.reads)
    path = f", and the path of this batch through the forward, which reads its data in Python ({reads})"
    return {
        "proved_elements": {t.name: t.proved for t in tensors},
        "closed_zeros": dict(trace.never.zeros),
        "assumes": (
            "finite numbers, frozen weights and integer tables as they are, and updates that leave a zero weight "
            f"without gradient at zero, such as SGD and Adam, not added noise{path if reads else ''}"
        ),
    }


def _partly_proved(tensors: list[TensorTrace]) -> str:
    """Which of several tensors, or how much of one, is proved, where not all is."""
    some_of = [t for t in tensors if t.proved]
    if not some_of or all(t.proved == t.numel for t in tensors):
        return ""
    parts = [t.name if t.proved == t.numel else f"{t.proved} of {t.numel} elements of {t.name}" for t in some_of]
    return f" (proved of {listed(parts)}, measured of the rest)"


# ---- sentences -------------------------------------------------------------------------------------------------


def _cause(trace: Trace, t: TensorTrace, its: str) -> str:
    sentences = []
    if t.input_zero:
        sentences.append(f"{its} input stays zero because {_are_zero(t.input_zero)}")
    if t.back_zero:
        sentences.append(f"{its} back-signal stays zero because {_are_zero(t.back_zero)}")
    if t.dead:
        off = any(a.where in t.dead and a.name == "relu" for a in trace.activations)
        why = (
            "off on every sample, so neither signal nor gradient passes"
            if off
            else "flat (slope 0) on every sample, so no gradient passes"
        )
        sentences.append(f"every unit of {_these(trace, t.dead)} is {why}")
    if sentences:
        return ", and ".join(sentences)
    if t.cut_off:
        return f"the loss depends on {t.name}, but no graph leads to it: something cuts it (rounding, argmax, detach)"
    if "lookup" in t.roles and t.moves_output:
        return f"every row that is asked of {t.name} is padding, which gets no gradient by design"
    kink = _at_kink(trace, t)
    if kink:
        return f"{its} zeros hold every unit of {kink} at exactly 0, where the slope is 0"
    if t.wakes_when_filled:
        return f"the zeros of this start block every path to the loss (with noise in their place {t.name} learns)"
    if not t.moves_output:
        resting = [a.where for a in trace.activations if len(a.dead) == a.units and (a.layer or a.hidden)]
        layer = f"a layer that is off ({_these(trace, resting)})" if resting else "a frozen zero"
        return (
            f"no output depends on {t.name}, also when every trained zero is filled: a normalisation, a "
            f"softmax, a constant input or {layer} removes it"
        )
    return (
        f"{t.name} moves the output, yet its derivative is zero: something between it and the loss "
        "has none (rounding, argmax, a comparison)"
    )


def _these(trace: Trace, places: Iterable[str]) -> str:
    return listed([called(trace, place) for place in patterns(places)])


def _at_kink(trace: Trace, t: TensorTrace) -> str | None:
    """The ReLU that a zero layer holds at exactly zero, where torch's slope is zero."""
    for a in trace.activations:
        if a.layer == t.layer and t.start == "zero" and a.name == "relu" and a.saturated == 1.0 and not a.dead:
            return activation(trace, a.where, a.name)
    return None


def _wake_hint(trace: Trace, t: TensorTrace) -> str:
    zeros = list(dict.fromkeys([*t.input_zero, *t.back_zero]))
    if zeros:
        first = listed(zeros, 2) if len(zeros) > 1 else zeros[0]
        either = f"{t.name}, or {first}" if t.start == "zero" else first
        return f"re-initialise {either}: along each path to the loss at most one factor may start at zero"
    if t.dead:
        return f"bring {_these(trace, t.dead)} back: shift or rescale what feeds it"
    if t.start == "zero" and t.wakes_when_filled:
        return f"re-initialise {t.name}: along each path to the loss at most one factor may start at zero"
    if t.wakes_when_filled:
        return "re-initialise the zero tensors: along each path to the loss at most one factor may start at zero"
    return f"look at what stands between {t.name} and the loss"


def _late_cause(t: TensorTrace) -> str:
    sentences = []
    if t.back_zero:
        sentences.append(f"{_are_zero(patterns(t.back_zero))}, so the back-signal is zero until step {t.wake}")
    if t.input_zero:
        sentences.append(f"{_are_zero(patterns(t.input_zero))}, so the input is zero until step {t.wake}")
    return ", and ".join(sentences)


def _are_zero(names: Iterable[str]) -> str:
    names = list(names)
    return f"{listed(names, 3)} {'is' if len(names) == 1 and '*' not in names[0] else 'are'} zero"


def _verb(tensors: list[TensorTrace], one: str, many: str) -> str:
    return one if len(tensors) == 1 else many


def _told(names: list[str], tensors: list[TensorTrace]) -> str:
    """The names; where a pattern stands for several tensors, how many there are."""
    return listed(names) if len(names) == len(tensors) else f"{len(tensors)} tensors ({listed(names)})"


def _by_layer(tensors: Iterable[TensorTrace]) -> dict[str, list[TensorTrace]]:
    groups: dict[str, list[TensorTrace]] = {}
    for t in tensors:
        groups.setdefault(t.name.rpartition(".")[0] or t.layer, []).append(t)
    return groups


def _by_module(tensors: Iterable[TensorTrace]) -> list[list[TensorTrace]]:
    """The tensors of one module, or of modules whose names differ in a number only."""
    groups: dict[str, list[TensorTrace]] = {}
    for t in tensors:
        groups.setdefault(pattern(t.name).rpartition(".")[0] or t.name, []).append(t)
    return list(groups.values())


def _by_pattern(tensors: Iterable[TensorTrace]) -> list[list[TensorTrace]]:
    groups: dict[str, list[TensorTrace]] = {}
    for t in tensors:
        groups.setdefault(pattern(t.name), []).append(t)
    return list(groups.values())
