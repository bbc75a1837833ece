"""The frozen values that cross rooms. Nothing here computes; everything else reads these.

Index letters, used everywhere: b batch, o out units, i in units, s seeds, t steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
Verdict = Literal["stuck", "redundant", "degraded", "healthy", "unknown"]
Standing = Literal["proved", "measured", "heuristic"]


@dataclass(frozen=True)
class Remedy:
    """What would heal a finding: a verb, the tensor or layer it acts on, and the sentence a person reads."""

    action: str
    where: str
    hint: str = ""


@dataclass(frozen=True)
class Claim:
    """What a rule says of one place. The rule that yields it adds its code, slug and default severity."""

    where: str
    because: str
    units: tuple[int, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    standing: Standing = "measured"
    remedy: Remedy | None = None
    severity: Severity | None = None
    decisive: bool = True  # False: told, but too small a part of the model to change the verdict


@dataclass(frozen=True)
class Finding:
    """One thing the check found: a code, a place, a sentence that says why, and the numbers behind it."""

    code: str
    slug: str
    severity: Severity
    where: str
    because: str
    units: tuple[int, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    standing: Standing = "measured"
    remedy: Remedy | None = None
    decisive: bool = True


Fingerprint = Mapping[str, tuple[Any, ...]]
"""Parameter -> shape, dtype and a digest of its bits."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What a check was given, so that a repair can ask the same again: references, never copies."""

    batch: Any
    loss: Any
    objective: Any
    optimizer: Any
    seed: int
    fingerprint: Fingerprint


# ---- what one probe saw: the Trace ---------------------------------------------------------------------------------

Status = Literal["live", "frozen", "unused", "starved", "absorbed", "tied", "asleep"]
"""live: gets a gradient; unused: no path from the loss; starved: it met no data (a router sent it none or did not call
it, a selection left it out); absorbed: nothing depends on it, a normalisation or softmax removes it; tied: gets a
gradient once copies elsewhere are told apart (the router of equal experts); asleep: a path, and never a gradient."""


@dataclass(frozen=True)
class TensorTrace:
    """One parameter: its start, and what the climb showed of it. Rows are slices along axis 0."""

    name: str
    layer: str
    shape: tuple[int, ...]
    status: Status
    start: Literal["zero", "constant", "varied"]
    roles: frozenset[str] = frozenset()
    wake: int | None = None
    weight_rms: float = 0.0
    gradient_rms: float = 0.0
    nonfinite: int = 0
    input_zero: tuple[str, ...] = ()  # zero tensors that make its input zero
    back_zero: tuple[str, ...] = ()  # zero tensors that make its back-signal zero
    dead: tuple[str, ...] = ()  # activations without slope between it and the loss
    cut_off: bool = False  # the loss depends on it, yet no graph leads to it
    wakes_when_filled: bool = False
    moves_output: bool = False
    blocked_rows: tuple[int, ...] = ()
    absorbed_rows: tuple[int, ...] = ()
    sleeping_rows: tuple[int, ...] = ()
    proved: int = 0  # elements whose gradient is proved to be zero for ever (Trace.never)
    proved_rows: tuple[int, ...] = ()  # rows that hold no other element

    @property
    def numel(self) -> int:
        n = 1
        for size in self.shape:
            n *= size
        return n


@dataclass(frozen=True)
class LayerTrace:
    """One layer at step 1. Scales are root mean squares; shares are of samples x units."""

    name: str
    kind: str
    weight: str
    shape: tuple[int, ...]
    scheme: str
    activation: str | None
    out_axis: int | None
    gates: int
    heads: int | None
    from_data: bool
    forward_rms: float | None = None
    forward_variance: float | None = None
    signal_product: float | None = None  # forward_rms x backward_rms: constant over the depth of a well-scaled net
    backward_norm: float | None = None  # l2 norm of the whole back-signal: pooling spreads it, and keeps this
    backward_rms: float | None = None
    weight_rms: float = 0.0
    gradient_rms: float = 0.0
    gradient_to_weight: float | None = None
    update_to_weight: float | None = None
    spread: float | None = None  # share of the second moment that differs between samples
    linear: float | None = None
    saturated: float | None = None
    dead: float | None = None


@dataclass(frozen=True)
class ActivationTrace:
    """One activation at step 1: shares of samples, and its dead units with how surely they are dead."""

    where: str
    name: str
    layer: str | None
    units: int
    samples: int
    linear: float
    saturated: float
    dead: tuple[int, ...]
    surely_dead: tuple[int, ...]  # dead by a margin that is no luck of the batch
    hidden: bool = True  # False where it ends the network or stands in the loss
    gate: bool = False  # True where it multiplies another signal
    rests: bool = False  # True where it sees nothing but zeros
    jammed: float = 0.0  # share whose slope is next to nothing


@dataclass(frozen=True)
class InputTrace:
    """One float input, or the target, of the first batch."""

    name: str
    shape: tuple[int, ...]
    mean: float
    rms: float
    low: float
    high: float
    feature_std: tuple[float, float] | None = None  # smallest (non-zero) and largest
    constant_features: tuple[int, ...] = ()


@dataclass(frozen=True)
class TargetTrace:
    """What the labels say of the first loss and of the output's range."""

    samples: int
    entropy: float | None = None  # nats, of class labels
    low: float = 0.0
    high: float = 0.0
    output_activation: str | None = None
    output_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Parting:
    """How near copies move apart along training on one batch. Steps are the optimizer's."""

    update: str  # the optimizer that was followed, with its rate, momentum and decay
    looked: float  # steps that the look covers
    growth: float  # of the distance over them
    rate: float  # growth of its logarithm a step, at the end
    steps: float | None  # until they part (thresholds.TOGETHER); infinity where they attract, None where unknown
    measured: bool  # False where `steps` lies beyond what was looked at


@dataclass(frozen=True)
class SliceClasses:
    """Slices of one parameter along one axis that are tied, nearly tied, or were equal at the start only."""

    parameter: str
    layer: str
    axis: int
    side: Literal["out", "in", "slice"]
    width: int
    gates: int = 1
    heads: int | None = None
    tied: tuple[tuple[int, ...], ...] = ()
    mirrored: bool = False
    by_function: bool = False
    near: tuple[tuple[int, ...], ...] = ()
    near_distance: float = 0.0
    parting: Parting | None = None  # of the near ones
    separated: tuple[tuple[int, ...], ...] = ()
    proved: bool = False  # a certificate holds the tied ones together
    unread: tuple[str, ...] = ()  # parts of the model of which that proof knows their borders alone
    multiples: tuple[tuple[int, ...], ...] = ()  # positive multiples of one another, which some are for ever
    multiples_proved: bool = False  # behind a rectifier, under the optimizer at hand
    separated_at: int | None = None
    largest_difference: float = 0.0
    live_steps: int = 0
    output: bool = False  # of units that end the network, which labels inside an objective may tell apart


@dataclass(frozen=True)
class TwinModules:
    """Sub-networks that started with equal weights, and whether they moved alike at every live step."""

    modules: tuple[str, ...]
    kind: str
    tied: bool
    live_steps: int
    tensors: int
    experts: bool = False
    proved: bool = False  # they may be exchanged in the model's graph


@dataclass(frozen=True)
class WrongFan:
    """A weight whose size a usual formula explains with the fans that its shape suggests, which are not its own."""

    layer: str
    tensor: str
    kind: str
    formula: str
    used: tuple[int, int]  # fan_in, fan_out as torch.nn.init reads them off the shape
    right: tuple[int, int]
    size: float  # root mean square of the weight
    factor: float  # what brings it to the size by the right fans
    hidden: bool  # scaling it moves no output: a normalisation stands behind it
    together: float = 1.0  # the right fans of all that are not hidden make what varies at the outputs so much larger


@dataclass(frozen=True)
class Never:
    """A closed set of zeros: while they are zero none of them gets a gradient, whatever the batch and other weights."""

    zeros: Mapping[str, int]  # tensor -> how many of its elements belong to the set
    rounds: int  # propagations until the set was closed
    reads: tuple[str, ...] = ()  # what the forward read off its data in Python: another batch may take another path


@dataclass(frozen=True)
class Trace:
    """Everything one probe saw. Rules, report and remedies only read it."""

    model: str
    precision: str
    steps: int
    climbs: int
    seed: int
    passes: float
    optimizer: str
    learning_rate: float
    loss: float | None
    batch: str
    tensors: tuple[TensorTrace, ...]
    layers: tuple[LayerTrace, ...] = ()
    activations: tuple[ActivationTrace, ...] = ()
    slices: tuple[SliceClasses, ...] = ()
    outputs: tuple[SliceClasses, ...] = ()  # copies among outputs under an objective: no finding unless they are proved
    twins: tuple[TwinModules, ...] = ()
    equal_tensors: tuple[tuple[str, ...], ...] = ()
    wrong_fans: tuple[WrongFan, ...] = ()
    never: Never | None = None  # the proof behind TensorTrace.proved
    width: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    inputs: tuple[InputTrace, ...] = ()
    target: TargetTrace | None = None
    breakers: tuple[str, ...] = ()
    departure: float | None = None  # from one linear map of the input, where every activation is in its linear region
    rate_given: bool = False  # the learning rate is the user's own, not the usual one of an optimizer he named
    adaptive: bool = False  # the optimizer's step does not grow with the gradient
    nonfinite: str | None = None
