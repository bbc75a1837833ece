"""The residual branches of a flow: where each leaves its stream, what ends it, and how many a stream has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .flow import Call, Flow
from .images import is_straight


@dataclass(frozen=True, eq=False)
class Branch:
    """One way beside a skip path.

    Attributes:
        end: the value that is added to the stream.
        source: where both ways come from.
        many: branches of the same stream.
    """

    end: Call
    source: Call
    many: int

    def weights(self) -> tuple[str, ...]:
        """The weights applied inside, each once."""
        calls = (c for c in behind(self.end, self.source.index + 1) if c is not self.source and c.kind != "lookup")
        return tuple(dict.fromkeys(c.weight for c in calls if c.weight is not None))


def branches_of(flow: Flow) -> list[Branch]:
    """Every residual branch, in the order in which they end; a projection on the skip path is one of its own."""
    stream: dict[int, int] = {}
    ends: list[tuple[int, Call, Call]] = []
    for call in flow.calls:
        sides = tuple(dict.fromkeys(call.inputs))
        if call.kind != "add" or len(sides) != 2 or math.prod(sides[0].shape) != math.prod(sides[1].shape):
            continue
        found = _skips(sides)
        if found is None:
            continue
        skip, branch, source = found
        name = stream.get(_source(skip).index, call.index)
        stream[call.index] = name
        ends.append((name, branch, source))
        if source is not _source(skip):
            ends.append((name, skip, source))
    streams = list(stream.values())
    return [Branch(branch, source, streams.count(name)) for name, branch, source in ends]


def _skips(sides: tuple[Call, ...]) -> tuple[Call, Call, Call] | None:
    """(skip, branch, where both come from) of a sum of two ways; None where it is a sum of something else."""
    for skip, branch in (sides, sides[::-1]):
        source = _source(skip)
        if _comes_from(branch, source):
            return (skip, branch, source) if _mixes_between(branch, source) else None
    ways = [list(behind(side)) for side in sides]
    common = set(ways[0]) & set(ways[1])
    layers = [sum(c.kind == "apply" for c in way if c not in common) for way in ways]
    skip, branch = sides if layers[0] <= layers[1] else sides[::-1]
    return (skip, branch, max(common, key=lambda c: c.index)) if common else None


def _source(call: Call) -> Call:
    """Where the numbers of a skip path come from: back through views, activations, constants."""
    while call.kind in ("view", "phi", "shift", "scale", "max", "mean") and call.inputs:
        call = call.inputs[0]
    return call


def _comes_from(call: Call, source: Call) -> bool:
    return any(here is source for here in behind(call, source.index))


def _mixes_between(call: Call, source: Call) -> bool:
    """Whether some way from the source to a value passes a layer; the two halves of a rotation do not."""
    return any(
        here is not source and (here.mixes or here.kind in ("attention", "norm")) and _comes_from(here, source)
        for here in behind(call, source.index + 1)
    )


def behind(call: Call, earliest: int = 0) -> Iterator[Call]:
    """A value and all it is made of, back to the earliest call that counts."""
    found = [call]
    seen = {call.index}
    for here in found:  # grows
        yield here
        for c in here.inputs:
            if c.index >= earliest and c.index not in seen:
                seen.add(c.index)
                found.append(c)


def is_gate(call: Call) -> bool:
    """One number a channel or sample that multiplies a branch and is a layer's bare result: adaLN's gates."""
    sides = sorted(set(call.inputs), key=lambda c: math.prod(c.shape))
    if call.kind != "gate" or len(sides) != 2 or math.prod(sides[0].shape) == math.prod(sides[1].shape):
        return False
    return is_straight(sides[0].samples)
