"""Which parameters learn, when, and what keeps the others from it (SB101-SB106)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..records import ActivationTrace, Claim, Remedy, TensorTrace, Trace
from .grouping import listed, numbers, pattern, patterns
from .rule import rule


@rule("SB101", "never-wakes", "error", "stuck")
def never_wakes(trace: Trace) -> Iterator[Claim]:
    """A trainable tensor, or some of its units, never gets a gradient, and no known invariance explains it.

    Along its path to the loss two factors of one product are zero, or an activation without slope stands in the way, so
    no optimizer that follows gradients ever moves it. A single zero factor is harmless (SB103): its own gradient is
    (back-signal) x (non-zero input), so it moves first and wakes the other.

    Evidence: normalised steps on fresh data until nothing new wakes, then a second climb on varied data. "Never" is
    measured over those steps, unless a certificate is named.

    Remedy: re-initialise one of the two zero factors, the one that keeps the output unchanged if there is one.
    """
    asleep = [t for t in trace.tensors if t.status == "asleep" and not t.nonfinite]
    for layer, tensors in _by_layer(asleep).items():
        first = max(tensors, key=lambda t: t.numel)
        yield Claim(
            where=tensors[0].name if len(tensors) == 1 else layer,
            because=f"{listed([t.name for t in tensors])} never {'gets' if len(tensors) == 1 else 'get'} a gradient: {_cause(first)}",
            evidence={
                "tensors": [t.name for t in tensors],
                "input_zero": list(first.input_zero),
                "back_zero": list(first.back_zero),
                "dead": list(first.dead),
                "wakes_when_zeros_are_filled": first.wakes_when_filled,
                "moves_output": first.moves_output,
                "steps": trace.steps,
                "climbs": trace.climbs,
            },
            remedy=Remedy("reinit", first.name, _wake_hint(first)),
        )
    off = {(a.layer, u) for a in trace.activations for u in a.dead}
    for t in trace.tensors:
        blocked = tuple(u for u in t.blocked_rows if (t.layer, u) not in off)
        if t.status == "live" and blocked and "weight" in t.roles and len(t.shape) >= 2:
            yield Claim(
                where=t.layer,
                units=blocked,
                because=f"{len(blocked)} of {t.shape[0]} units of {t.layer} ({numbers(blocked)}) are zero on both "
                "sides and never get a gradient: zero weights in, and nothing comes back",
                evidence={"steps": trace.steps, "climbs": trace.climbs},
                remedy=Remedy("reinit", t.name, "give these rows values of the layer's own scale"),
            )


@rule("SB102", "dead-units", "error", "stuck")
def dead_units(trace: Trace) -> Iterator[Claim]:
    """Units of a piecewise-linear activation that are off on every sample, so that nothing behind them can learn.

    A whole layer is an error. Some units are a warning, and only where it is no luck of the batch: their mean
    pre-activation lies at least six standard deviations below zero, and their weights got no gradient at any probed step.

    Remedy: shift the bias back to the data.
    """
    sleeping = {t.layer: t for t in trace.tensors if len(t.shape) >= 2}
    for a in trace.activations:
        if not a.dead:
            continue
        layer = sleeping.get(a.layer or "")
        if len(a.dead) == a.units:
            if layer is None or layer.status != "live":
                yield Claim(
                    where=a.where,
                    units=a.dead,
                    because=f"all {a.units} units of {a.where} ({a.name}) are off on all {a.samples} samples: their input is negative, the slope "
                    "is zero, and no gradient passes",
                    evidence={"samples": a.samples, "surely_dead": len(a.surely_dead)},
                    remedy=Remedy("shift", a.layer or a.where, "raise the bias so that the units see both signs"),
                )
            continue
        dead = _asleep(a, layer)
        if dead:
            yield Claim(
                where=a.where,
                units=dead,
                severity="warning",
                because=f"{len(dead)} of {a.units} units of {a.where} ({a.name}; {numbers(dead)}) are off on all {a.samples} samples, their mean "
                "input at least 6 standard deviations below zero",
                evidence={"samples": a.samples, "units": a.units},
                remedy=Remedy("shift", a.layer or a.where, "raise the bias of these units"),
            )


def _asleep(a: ActivationTrace, layer: TensorTrace | None) -> tuple[int, ...]:
    if layer is None or layer.status != "live" or layer.shape[0] != a.units:
        return a.surely_dead
    return tuple(u for u in a.surely_dead if u in set(layer.sleeping_rows))


@rule("SB103", "late-waker", "info")
def late_waker(trace: Trace) -> Iterator[Claim]:
    """A tensor whose gradient is zero at first and starts at a later step: a harmless zero.

    LoRA's A, the inside of a zero-initialised residual branch, everything behind a zero head: along each path one factor
    is zero, learns at once, and wakes the rest. The finding names that factor and the step.
    """
    late = [t for t in trace.tensors if t.status == "live" and (t.wake or 1) > 1]
    groups: dict[tuple[int, str], list[TensorTrace]] = {}
    for t in late:
        groups.setdefault((t.wake or 0, _late_cause(t)), []).append(t)
    for (step, cause), tensors in sorted(groups.items()):
        names = patterns(t.name for t in tensors)
        yield Claim(
            where=names[0],
            because=f"{listed(names)} first {'learns' if len(tensors) == 1 else 'learn'} at step {step}{': ' + cause if cause else ''}",
            evidence={"wakeup_step": step, "tensors": [t.name for t in tensors]},
        )


@rule("SB104", "unused-parameter", "warning")
def unused_parameter(trace: Trace) -> Iterator[Claim]:
    """A trainable parameter that the loss has no path to in this call: an unused branch, head or modality.

    It costs memory, gets weight decay without a gradient, and makes distributed training wait. If the branch is meant to
    be used, pass a batch or an objective that uses it.
    """
    for key, tensors in _by_pattern(t for t in trace.tensors if t.status == "unused").items():
        yield Claim(
            where=key,
            because=f"{_count(tensors)} of {key} {'has' if len(tensors) == 1 else 'have'} no path to the loss in this call",
            evidence={"tensors": [t.name for t in tensors], "parameters": sum(t.numel for t in tensors)},
        )


@rule("SB105", "shadowed-bias", "info")
def shadowed_bias(trace: Trace) -> Iterator[Claim]:
    """A bias that nothing downstream depends on, so that it never gets a gradient: harmless.

    The key bias of softmax attention shifts all scores of a query alike; a bias in front of a normalisation that subtracts
    the mean is subtracted again. Found by intervention: the bias was shifted and no output moved. It can be left out.
    """
    whole = [t for t in trace.tensors if t.status == "absorbed"]
    for key, tensors in _by_pattern(whole).items():
        yield Claim(
            where=key,
            because=f"shifting {_count(tensors)} of {key} moves no output: a later normalisation or softmax removes it",
            evidence={"tensors": [t.name for t in tensors]},
        )
    part = [t for t in trace.tensors if t.status == "live" and t.absorbed_rows and len(t.shape) == 1]
    for key, tensors in _by_pattern(part).items():
        rows = tensors[0].absorbed_rows
        yield Claim(
            where=key,
            units=rows,
            because=f"shifting entries {numbers(rows)} of {key} moves no output: a later normalisation or softmax removes them",
            evidence={"tensors": [t.name for t in tensors], "entries": len(rows), "of": tensors[0].shape[0]},
        )


@rule("SB106", "unseen-rows", "info")
def unseen_rows(trace: Trace) -> Iterator[Claim]:
    """Rows of a table that this batch never looked up, or experts that got no data: they have no gradient yet.

    Padding rows never get one, by design; rare tokens get theirs when they occur.
    """
    for t in trace.tensors:
        if t.status == "live" and t.sleeping_rows and "lookup" in t.roles:
            yield Claim(
                where=t.name,
                units=t.sleeping_rows,
                because=f"{len(t.sleeping_rows)} of {t.shape[0]} rows of {t.name} were not looked up with a gradient in {trace.steps} steps "
                "(absent from the batch, or padding)",
                evidence={"rows": len(t.sleeping_rows), "of": t.shape[0]},
            )
    for key, tensors in _by_pattern(t for t in trace.tensors if t.status == "starved").items():
        yield Claim(
            where=key,
            because=f"{_count(tensors)} of {key} met no data: the router sent them none in {trace.steps} steps",
            evidence={"tensors": [t.name for t in tensors]},
        )


# ---- sentences -------------------------------------------------------------------------------------------------


def _cause(t: TensorTrace) -> str:
    sentences = []
    if t.input_zero:
        sentences.append(f"its input is zero because {_are_zero(t.input_zero)}")
    if t.back_zero:
        sentences.append(f"its back-signal is zero because {_are_zero(t.back_zero)}")
    if t.dead:
        sentences.append(f"every unit of {listed(patterns(t.dead))} is off on every sample, so it passes neither signal nor gradient")
    if sentences:
        return ", and ".join(sentences)
    if "lookup" in t.roles:
        return "every row it is asked for is padding, which gets no gradient by design"
    if t.wakes_when_filled:
        return "the zeros of this start block every path to the loss (it learns once they are filled with noise)"
    if not t.moves_output:
        return "no output depends on it, also when every zero is filled: a normalisation, a softmax or a constant input behind it removes it"
    return "it moves the output, yet its derivative is zero: something between it and the loss has none (rounding, argmax, a comparison)"


def _wake_hint(t: TensorTrace) -> str:
    if t.input_zero or t.back_zero:
        return f"re-initialise {listed([*t.input_zero, *t.back_zero], 2)}, or {t.name}, not necessarily both"
    return "look at what stands between it and the loss"


def _late_cause(t: TensorTrace) -> str:
    sentences = []
    if t.back_zero:
        sentences.append(f"{_are_zero(patterns(t.back_zero))}, so the back-signal is zero until step {t.wake}")
    if t.input_zero:
        sentences.append(f"{_are_zero(patterns(t.input_zero))}, so its input is zero until step {t.wake}")
    return ", and ".join(sentences)


def _are_zero(names: Iterable[str]) -> str:
    names = list(names)
    return f"{listed(names, 3)} {'is' if len(names) == 1 and '*' not in names[0] else 'are'} zero"


def _by_layer(tensors: Iterable[TensorTrace]) -> dict[str, list[TensorTrace]]:
    groups: dict[str, list[TensorTrace]] = {}
    for t in tensors:
        groups.setdefault(t.name.rpartition(".")[0] or t.layer, []).append(t)
    return groups


def _by_pattern(tensors: Iterable[TensorTrace]) -> dict[str, list[TensorTrace]]:
    groups: dict[str, list[TensorTrace]] = {}
    for t in tensors:
        groups.setdefault(pattern(t.name), []).append(t)
    return {key if len(group) > 1 else group[0].name: group for key, group in groups.items()}


def _count(tensors: list[TensorTrace]) -> str:
    return f"{len(tensors)} tensor{'s' if len(tensors) != 1 else ''}"
