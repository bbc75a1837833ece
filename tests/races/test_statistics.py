"""The statistics against laws, against scipy, and against what they promise when the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, permutation_test

import symbreak as sb
from symbreak.races import Cell, Run
from symbreak.races.statistics import comparisons, holm, interval_of_median, seeds_needed, sign_flip_p, steps_to

floats = st.floats(-10, 10).map(lambda x: round(x, 3))


def run(scheme: str, seed: int, loss: float, eta: float = 0.1, diverged: int | None = None) -> Run:
    end = math.nan if diverged else loss
    return Run(Cell(scheme, seed, eta), (2.0, end), (0.0, 1.0), (2.0, end), (0.0, 1.0), 1.0, diverged, "batched")


@given(st.lists(floats, min_size=2, max_size=9))
@settings(max_examples=40, deadline=None)
def test_sign_flips_are_scipys(differences: list[float]) -> None:
    given_ones = np.array(differences)
    theirs = permutation_test((given_ones,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_p(given_ones) == pytest.approx(1.0 if not given_ones.any() else theirs, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_monotone_and_between_the_raw_and_bonferronis(p: list[float]) -> None:
    corrected = holm(p)
    order = np.argsort(p, kind="stable")
    assert all(a <= b for a, b in zip(np.array(corrected)[order], np.array(corrected)[order][1:], strict=False))
    assert all(raw <= one <= min(1.0, len(p) * raw) + 1e-15 for raw, one in zip(p, corrected, strict=True))
    # Benjamini and Hochberg's control less, so they never correct more.
    assert all(bh <= one + 1e-12 for bh, one in zip(false_discovery_control(p), corrected, strict=True))


def test_intervals_of_the_median_hold_it_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    found = [interval_of_median(draw.exponential(size=25), seed=k) for k in range(120)]
    share = np.mean([low <= math.log(2) <= high for low, high in found])
    assert 0.88 <= share <= 1.0


def test_the_seeds_it_asks_for_settle_it_four_times_in_five() -> None:
    draw, needed = np.random.default_rng(1), seeds_needed(0.5, 1.0, 1)
    assert needed is not None
    seen = np.mean([sign_flip_p(draw.normal(0.5, 1.0, needed), seed=k) <= 0.05 for k in range(80)])
    assert 0.65 <= seen <= 0.95
    assert seeds_needed(0.0, 1.0, 1) is None
    assert seeds_needed(5.0, 0.1, 1) == 6  # 2 of 2^6 sign flips are below 0.05, of 2^5 not
    assert seeds_needed(0.5, 1.0, 10) > needed


def test_no_false_differences() -> None:
    draw, found = np.random.default_rng(2), 0
    for _ in range(40):
        runs = [run(scheme, seed, float(draw.normal(1.0, 0.1))) for scheme in "abc" for seed in range(10)]
        found += any(one.seen for one in comparisons(runs))
    assert found <= 5  # 2 are expected


def test_pairing_finds_what_unpaired_seeds_hide() -> None:
    base = np.random.default_rng(3).normal(1.0, 0.5, 12)
    runs = [run("a", s, float(b)) for s, b in enumerate(base)] + [
        run("b", s, float(b) + 0.02 + 0.001 * (s % 3)) for s, b in enumerate(base)
    ]
    (one,) = comparisons(runs)
    assert one.seen
    assert one.difference == pytest.approx(-0.021, abs=1e-3)
    assert one.interval[0] <= one.difference <= one.interval[1] < 0
    assert one.sentence.startswith("a ends lower than b, by 0.021")


def test_sentences() -> None:
    few = comparisons([run(s, k, 1.0 + k + (s == "b") * (0.5 + 0.1 * k)) for s in "ab" for k in range(3)])[0]
    assert not few.seen
    assert "No difference seen between a and b at this size (-0.6): 3 seeds are too few" in few.sentence
    same = comparisons([run(s, k, 1.0) for s in "ab" for k in range(8)])[0]
    assert (same.sentence, same.seen) == ("a and b came to the same loss at every seed", False)
    fixed = comparisons([run(s, k, 1.0 + (s == "b")) for s in "ab" for k in range(2)])[0]
    assert fixed.sentence == "a ends lower than b, by 1; the seeds change nothing in either"
    draw = np.random.default_rng(0)
    close = comparisons([run(s, k, 1 + float(draw.normal())) for s in "ab" for k in range(12)])[0]
    assert "No difference seen" in close.sentence
    assert "more seeds would settle one as large" in close.sentence


def test_the_diverged_count_as_the_worst_and_etas_are_chosen_by_the_median() -> None:
    runs = [run("a", k, 0.5 + 0.01 * k) for k in range(8)]
    runs += [run("b", k, 0.4 + 0.01 * k, diverged=1 if k < 3 else None) for k in range(8)]
    runs += [run("a", k, 0.1, eta=9.0, diverged=1) for k in range(8)]
    (one,) = comparisons(runs)
    assert one.difference == pytest.approx(
        np.mean([0.5 + 0.01 * k - (2.0 if k < 3 else 0.4 + 0.01 * k) for k in range(8)])
    )


def test_steps_to() -> None:
    one = Run(Cell("a", 0, 0.1), (2.0, 1.0, 0.5, math.nan), (), (), (), 1.0, 30, "batched")
    assert [steps_to(one, goal, (0, 10, 20, 30)) for goal in (3.0, 1.0, 0.9, 0.1, None)] == [0, 10, 20, None, None]


def test_pictures() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    done = sb.race("mlp:4:tanh", "iris", schemes=["he", "zeros"], seeds=3, etas=[0.1], steps=30, points=3)
    for kind, label in (("fan", "training loss (ce)"), ("survival", "share of seeds above loss 0.549")):
        axes = done.plot(kind=kind)  # type: ignore[arg-type]
        assert axes.get_ylabel() == label
        assert [text.get_text().split(",")[0] for text in axes.get_legend().get_texts()] == ["kaiming_normal", "zeros"]
    line = done.plot().get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), np.median([r.loss for r in done.runs[:3]], axis=0))
    several = sb.race.map("mlp:4:tanh", "iris", scales=[0.5, 1.0], etas=[0.1, 1e6], seeds=2, steps=5, points=2)
    assert several.plot().get_xlabel() == "scale of the weights"
    with pytest.raises(sb.SymbreakError, match="no picture is called 'fann'"):
        done.plot(kind="fann")  # type: ignore[arg-type]
    plt.close("all")
