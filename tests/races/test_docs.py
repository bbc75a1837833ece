"""What docs/race.md shows is what its commands print, to the rounding of another machine's matrix products."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from symbreak.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "race.md").read_text(encoding="utf-8")
SHOWN = [pair for pair in re.findall(r"```\n\$ symbreak (.*)\n((?:.*\n)*?)```", PAGE) if pair[1]]
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def test_the_page_shows_a_race_and_four_known_answers() -> None:
    assert len(SHOWN) == 5


CASES = [pytest.param(*pair, marks=() if "linear" in pair[0] else pytest.mark.slow) for pair in SHOWN]


@pytest.mark.parametrize(("command", "shown"), CASES, ids=[str(n) for n in range(len(SHOWN))])
def test_the_page_is_true(command: str, shown: str) -> None:
    result = CliRunner().invoke(main, shlex.split(command))
    assert result.exit_code == 0, result.output
    words, expected = result.stdout.split(), shown.split()  # a number of another length may break a line elsewhere
    assert [NUMBER.sub("#", word) for word in words] == [NUMBER.sub("#", word) for word in expected]
    for word, other in zip(words, expected, strict=True):
        for number, is_ in zip(NUMBER.findall(other), NUMBER.findall(word), strict=True):
            rel = 0.2 if "." in number else 0.5  # how many more seeds: the square of a small difference
            assert float(is_) == pytest.approx(float(number), rel=rel, abs=0.02), (word, other)
