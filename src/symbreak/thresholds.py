"""Every threshold of every rule, each with its reason. None is a matter of taste alone."""

from __future__ import annotations

NEAR = 1e-3
"""SB006: relative distance of weights and gradients below which distinct units are nearly tied. Copies 1e-6 apart are
still within 2e-4 after 4000 steps of SGD, copies 1e-2 apart reach 0.5."""

TOGETHER = 1e-2
"""SB006: relative distance up to which near copies count as together. From 1e-2 on the difference does its own work:
copies that far apart reached 0.5 in 4000 steps."""

SURELY = 10.0
"""SB102: standard deviations the mean pre-activation lies below zero from which a dead unit is no luck of the batch."""

FEWEST_SAMPLES, ENOUGH_SAMPLES = 4, 64
"""SB102: of fewer than four samples nothing is said; below sixty-four a standard deviation says less, and the margin
grows in proportion."""

LINEAR, SATURATED = 2 / 3, 1 / 10
"""SB205, SB206: a sample lies in the linear region where |phi'(z)| >= 2/3 sup|phi'|, on the flat part where it is at
most a tenth of that."""

SCALE_RATIO = 1e3
"""SB201-SB204: growth or decay of the signal over the depth. float16 holds five decades, and a factor of a thousand is
what a depth-10 net with weights ten times too large or too small shows. Untouched real models stay within it or have a
normalisation that resets the scale."""

SMALL_GATE = 1e-3
"""SB203, SB204: a constant scale this small is a gate that is meant to start almost closed (LayerScale starts at 1e-6):
the back-signal behind it is small by design, and its depth profile says nothing of the weights."""

DEAD_SHARE = 0.25
"""SB102: dead units below this share of their layer are told, but do not make the model degraded: random starts of
real ReLU networks have some. Behind one feature with U(-1, 1) weights and biases, torch's default, 2.5% of the units
lie ten standard deviations below zero, and four or more of sixteen do in one layer of 1,800."""

SATURATED_SHARE = 0.5
"""SB205: more than half of the samples of a bounded activation on its flat part. At unit pre-activations tanh has 7%
there and sigmoid 0.03% (slope at most a tenth of the steepest)."""

JAMMED = 1e-6
"""SB205: slope, as a share of the steepest, at which a gate that multiplies another signal stays as it is: a sigmoid at
15 and beyond. Gates that start open or shut on purpose stand at 1 to 5."""

LINEAR_SHARE = 0.999
"""SB206: practically every sample of every activation in its linear region (slope at least two thirds of the
steepest)."""

DEPARTURE = 0.1
"""SB206: of an output midway between two inputs from the mean of their outputs, as a share of what they differ by. A
normalisation or attention between the layers departs by more however small its inputs are."""

FIRST_STEP_TOO_LARGE = 1.0
"""SB207: the first step is as large as the weights themselves: it does not adjust the start, it replaces it."""

GUESSED_RATE = 10.0
"""SB207: how far the step must lie beyond that where only the optimizer's name is given: people choose rates a decade
above and below its usual one."""

FIRST_STEP_TOO_SMALL = 1e-9
"""SB207: a relative step that float32 (epsilon 1.2e-7) rounds away for a hundred steps and more."""

COLLAPSED = 1e-5
"""SB208: the share of the second moment that still differs between inputs. Below it float32 keeps two digits of what
tells inputs apart, bfloat16 none."""

COLLAPSED_FACTOR = 1e3
"""SB208: how much larger that share was in the first layers, so that inputs which hardly differ are not the network's
fault."""

LARGE_INPUT = 10.0
"""SB301: rms of the raw input. The laws behind every scheme assume second moment 1; at 10 the first layer is ten times
too strong, and sigmoid or tanh units saturate."""

UNEVEN_FEATURES = 100.0
"""SB301: ratio between the largest and the smallest standard deviation of the columns of a table. The curvature of the
loss spans the square of it."""

PRIOR_EXCESS = 1.0
"""SB303: nats that the first loss lies above the entropy of the labels, the loss of a model that only knows the
prior."""

WRONG_FAN = 6**0.5
"""SB407: how many times larger or smaller the right fans make what varies at the outputs, from which the model is
degraded. torch's own default lies as far below kaiming's size, in every layer, and trains; below that it is told and
changes no verdict."""
