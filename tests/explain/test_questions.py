"""Laws x catalogue: every question, whoever adds it, is held to these."""

from __future__ import annotations

import json

import pytest
from explanation_laws import assert_identities_hold_in_numbers

from symbreak.explanations import QUESTIONS, Explanation, explain

ANSWERS: dict[str, Explanation] = {}


@pytest.fixture(params=QUESTIONS)
def answer(request: pytest.FixtureRequest) -> Explanation:
    name = request.param
    if name not in ANSWERS:
        ANSWERS[name] = explain(name)
    return ANSWERS[name]


def test_its_own_data_settle_it(answer: Explanation) -> None:
    assert answer.settled, [one for one in answer.experiment.criteria if not one.met]
    assert all(one.shown in (True, None) for one in answer.fails_when), answer.fails_when


def test_every_formula_holds_in_random_numbers(answer: Explanation) -> None:
    assert assert_identities_hold_in_numbers(answer.derivation) > 0


def test_it_says_enough(answer: Explanation) -> None:
    asked = QUESTIONS[answer.question]
    assert asked.asks.endswith("?")
    assert "\n" not in asked.brief
    assert len(asked.brief) <= 100
    assert answer.sources
    assert answer.fails_when
    assert any(one.criteria for one in answer.fails_when), "no counterexample was run"
    assert all(len(row) == len(table.columns) for table in answer.experiment.tables for row in table.rows)


def test_text_is_100_wide_and_ascii_on_request(answer: Explanation) -> None:
    text = answer.to_text(ascii_only=True)
    assert text.isascii()
    too_wide = [line for line in str(answer).splitlines() if len(line) > 100 and not line.startswith("    ")]
    assert not too_wide, too_wide


def test_json_is_strict_and_whole(answer: Explanation) -> None:
    read = json.loads(answer.to_json(), parse_constant=lambda found: pytest.fail(f"{found} is no JSON"))
    assert read["settled"] is True
    assert len(read["derivation"]) == len(answer.derivation)
    assert read["experiment"]["picture"]["lines"]


def test_it_draws(answer: Explanation) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert answer.plot(ax) is ax
    assert isinstance(ax, Axes)
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert answer.to_png()[:4] == b"\x89PNG"


def test_a_notebook_keeps_it(answer: Explanation) -> None:
    html = answer._repr_html_()
    assert "<script" not in html
    assert "http" not in html.split("<summary>Sources", 1)[0]
    assert "data:image/png;base64," in html
