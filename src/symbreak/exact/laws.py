"""The scale laws, one value each: what `LAWS` lists, `Law` (law.py) applies, maps and verifies.

    perceptron, from any start    (w0, b0, eta) x c                                  weights x c
    margin perceptron, hinge+L2   (w0, eta, margin) x c, alpha / c                   weights x c
    passive-aggressive            (w0, margin) x c; "pa1": C x c                     weights x c
    linear regression             (w0, y) x c | (X x c, w0 / c, eta / c^2, alpha c^2) | (X Q, Q^T w0)
    networks                      net_laws.py: one theorem, and a law for each symmetry of a loss

They hold in real numbers. In float64 a perceptron decides by the sign of z, and where z is zero but for rounding two
scales may decide differently: the AND gate from zero takes 6 epochs with eta = 1 and 4 with eta = 0.1. Such visits are
counted (`ties`), never passed over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from symbreak.exact import arrays, online, perceptron
from symbreak.exact.arrays import ArrayError, Floats
from symbreak.exact.factors import orthogonal, positive
from symbreak.exact.law import Answer, Law, always
from symbreak.exact.net_laws import (
    DIAGONAL_GAUGE,
    HOMOGENEOUS_MARGIN,
    HOMOGENEOUS_MSE,
    LOGISTIC_FIRST_STEP,
    LOSS_SCALE,
    RELU_BALANCE,
    RELU_GAUGE,
    SCALE_INVARIANT,
    SOFTMAX_SUM,
)
from symbreak.exact.setups import DescentRun, DescentSetup, HingeSetup, PassiveAggressiveSetup, PerceptronSetup

__all__ = ["LAWS", "Answer", "Law"]

S = TypeVar("S", PerceptronSetup, HingeSetup, PassiveAggressiveSetup, DescentSetup)


def _scaled(setup: S, c: float, **powers: int) -> S:
    """The setup with each named number c to that power times as large; one that is None stays None."""
    given = {name: getattr(setup, name) for name in powers if getattr(setup, name) is not None}
    scaled: dict[str, Any] = {name: arrays.numbers(name, number) * c ** powers[name] for name, number in given.items()}
    return replace(setup, **scaled)


# ---- perceptrons ----------------------------------------------------------------------------------------------------


def _starts_at_zero(setup: PerceptronSetup) -> Answer:
    if np.any(arrays.numbers("W0", setup.W0)) or np.any(arrays.numbers("b0", 0.0 if setup.b0 is None else setup.b0)):
        return Answer(
            False, "the start is not zero, so eta also sets how far it is from the start: only w0 / eta matters"
        )
    return Answer(True, "from zero every weight is eta times a sum of samples, and no sign depends on eta")


def _perceptron_times(run: perceptron.Run, c: float) -> perceptron.Run:
    return replace(run, weights=c * run.weights, biases=c * run.biases)


def _weights_and_bias(run: perceptron.Run) -> Floats:
    both: Floats = np.c_[run.weights, run.biases]
    return both


PERCEPTRON_SCALE = Law(
    name="perceptron-scale",
    statement="(w0, b0, eta) and (c w0, c b0, c eta) make the same mistakes, and the weights are c times as large",
    source="z is linear in (w, b), its sign does not see c, and every update is eta times a sample",
    breaks="in float64 at ties, unless c is a power of two",
    of=PerceptronSetup,
    admits=always("both runs multiply z by c > 0 alone; exact in float64 for c a power of two, else up to ties"),
    rescale=lambda s, c: _scaled(s, c, W0=1, b0=1, eta=1),
    carry=_perceptron_times,
    takes=positive,
    sees=_weights_and_bias,
)

PERCEPTRON_ETA = Law(
    name="perceptron-eta",
    statement="from w0 = b0 = 0 the learning rate only scales the weights",
    source="perceptron-scale with w0 = b0 = 0, where c w0 = w0",
    breaks="from any other start; in float64 at ties, so decimal learning rates on whole numbers",
    of=PerceptronSetup,
    admits=_starts_at_zero,
    rescale=lambda s, c: _scaled(s, c, eta=1),
    carry=_perceptron_times,
    takes=positive,
    sees=_weights_and_bias,
)


def _online_times(run: online.OnlineRun, c: float) -> online.OnlineRun:
    return replace(run, weights=c * run.weights)


HINGE_SCALE = Law(
    name="hinge-scale",
    statement="(w0, eta, margin) c times as large and alpha / c give the same updates, and weights c times as large",
    source="s z <= margin does not see c, eta x and w grow by c alike, and eta alpha stays",
    breaks="with the margin fixed at 1, or alpha left as it was",
    of=HingeSetup,
    admits=always("every term of the update is linear in (w, eta), and the margin is scaled with them"),
    rescale=lambda s, c: _scaled(s, c, W0=1, eta=1, margin=1, alpha=-1),
    carry=_online_times,
    takes=positive,
)

PASSIVE_AGGRESSIVE_SCALE = Law(
    name="passive-aggressive-scale",
    statement="(w0, margin) c times as large, and for pa1 C too, give the same updates, and weights c times as large",
    source="the loss is linear in (w, margin); tau is the loss over |x|^2 (pa, pa2), or at most C (pa1)",
    breaks="with the margin fixed at 1; pa1 with C left as it was, pa2 with C scaled",
    of=PassiveAggressiveSetup,
    admits=always("the update is linear in the loss, which is linear in start and margin"),
    rescale=lambda s, c: _scaled(s, c, W0=1, margin=1, C=1 if s.variant == "pa1" else 0),
    carry=_online_times,
    takes=positive,
)

# ---- linear regression ----------------------------------------------------------------------------------------------

LINEAR_TARGET_SCALE: Law[DescentSetup, DescentRun] = Law(
    name="linear-target-scale",
    statement="start and targets c times as large give weights c times as large, at the same learning rate",
    source="the gradient X^T (X w - y) / n + alpha w is linear in (w, y)",
    breaks="with eta scaled instead: it sets the rate at which the start is forgotten, and does not merely scale w",
    of=DescentSetup,
    admits=always("the gradient is linear in start and target together"),
    rescale=lambda s, c: _scaled(s, c, W0=1, y=1),
    carry=lambda run, c: DescentRun(c * run.weights),
    takes=positive,
)

LINEAR_FEATURE_SCALE: Law[DescentSetup, DescentRun] = Law(
    name="linear-feature-scale",
    statement="features c times as large need eta / c^2, alpha c^2 and a start / c, and give weights / c",
    source="with v = w / c the loss is the same, and its gradient in v is c times that in w",
    breaks="with eta or alpha left as it was",
    of=DescentSetup,
    admits=always("the product of features and weights is what the loss sees"),
    rescale=lambda s, c: _scaled(s, c, X=1, W0=-1, etas=-2, alpha=2),
    carry=lambda run, c: DescentRun(run.weights / c),
    takes=positive,
)

LINEAR_ROTATION: Law[DescentSetup, DescentRun] = Law(
    name="linear-rotation",
    statement="features turned by Q give weights turned by Q: (X Q, Q^T w0) gives Q^T w",
    source="Q Q^T = 1, so X Q Q^T w = X w, and |Q^T w| = |w|",
    breaks="for a Q that is not orthogonal, and for Adam, which has preferred axes",
    of=DescentSetup,
    admits=always("gradient descent has no preferred axes"),
    rescale=lambda s, Q: replace(s, X=_turned("X", s.X, Q), W0=_turned("W0", s.W0, Q)),
    carry=lambda run, Q: DescentRun(run.weights @ Q),
    takes=orthogonal,
)


def _turned(name: str, given: ArrayLike, Q: Floats) -> Floats:
    array = arrays.numbers(name, given)
    if array.shape[-1:] != Q.shape[:1]:
        raise ArrayError(f"c has shape {Q.shape} and {name} {array.shape}; a matrix (features, features) is needed.")
    turned: Floats = array @ Q
    return turned


LAWS: dict[str, Law[Any, Any]] = {
    law.name: law
    for law in (
        PERCEPTRON_SCALE,
        PERCEPTRON_ETA,
        HINGE_SCALE,
        PASSIVE_AGGRESSIVE_SCALE,
        LINEAR_TARGET_SCALE,
        LINEAR_FEATURE_SCALE,
        LINEAR_ROTATION,
        HOMOGENEOUS_MARGIN,
        HOMOGENEOUS_MSE,
        SCALE_INVARIANT,
        RELU_GAUGE,
        DIAGONAL_GAUGE,
        LOSS_SCALE,
        LOGISTIC_FIRST_STEP,
        SOFTMAX_SUM,
        RELU_BALANCE,
    )
}
