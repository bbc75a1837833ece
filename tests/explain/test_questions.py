"""Laws x catalogue: every question, whoever adds it, is held to these."""

from __future__ import annotations

import json

import pytest
from explanation_laws import assert_identities_hold_in_numbers
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symbreak.explanations import QUESTIONS, Explanation, explain


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_keeps_the_laws(question: str) -> None:
    """One test a question, because answering it is what takes the time."""
    answer = explain(question)
    assert_its_own_data_settle_it(answer)
    assert assert_identities_hold_in_numbers(answer.derivation) > 0
    assert_it_says_enough(answer)
    assert_text(answer)
    assert_json(answer)
    assert_it_draws(answer)
    assert_a_notebook_keeps_it(answer)


def assert_its_own_data_settle_it(answer: Explanation) -> None:
    assert answer.settled, [one for one in answer.experiment.criteria if not one.met]
    assert all(one.shown in (True, None) for one in answer.fails_when), answer.fails_when
    assert any(one.criteria for one in answer.fails_when), "no counterexample was run"


def assert_it_says_enough(answer: Explanation) -> None:
    asked = QUESTIONS[answer.question]
    assert asked.asks.endswith("?")
    assert "\n" not in asked.brief
    assert len(asked.brief) <= 100
    assert answer.sources
    assert len(answer.derivation) >= 2
    assert {step.standing for step in answer.derivation} >= {"algebra"}
    assert all(len(row) == len(table.columns) for table in answer.experiment.tables for row in table.rows)


def assert_text(answer: Explanation) -> None:
    """100 wide but for tables and formulas, which are never cut; ASCII on request."""
    assert answer.to_text(ascii_only=True).isascii()
    assert str(answer).isascii(), "write the words in ASCII, so that nothing is lost on a plain terminal"
    too_wide = [line for line in str(answer).splitlines() if len(line) > 100 and not line.startswith("    ")]
    assert not too_wide, too_wide
    for criterion in answer.experiment.criteria:
        assert criterion.states.split()[0] in str(answer)


def assert_json(answer: Explanation) -> None:
    read = json.loads(answer.to_json(), parse_constant=lambda found: pytest.fail(f"{found} is no JSON"))
    assert read["settled"] is True
    assert len(read["derivation"]) == len(answer.derivation)
    assert all(step["latex"] and step["plain"] for step in read["derivation"])
    assert [one["met"] for one in read["experiment"]["criteria"]] == [True] * len(answer.experiment.criteria)
    assert read["experiment"]["picture"]["lines"]


def assert_it_draws(answer: Explanation) -> None:
    ax = Figure().subplots()
    assert isinstance(answer.plot(ax), Axes)
    assert answer.plot(ax) is ax
    assert ax.get_title()
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert len(ax.lines) + len(ax.patches) >= len(answer.experiment.picture.lines)
    assert answer.to_png()[:4] == b"\x89PNG"


def assert_a_notebook_keeps_it(answer: Explanation) -> None:
    html = answer._repr_html_()
    assert not {"<script", "onclick", "<style", "<svg", "<iframe"} & set(html.split())
    assert "<script" not in html
    assert "data:image/png;base64," in html
    assert html.count("<table>") == len(answer.experiment.tables) + sum(len(c.tables) for c in answer.fails_when)
