"""What the README shows is what the commands print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from symbreak.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```\n\$ symbreak (.*)\n((?:.*\n)*?)```", README)


def test_the_readme_shows_two_starts() -> None:
    assert [shlex.split(command)[-1] for command, _ in SHOWN] == ["zeros", "xavier"]


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=[command for command, _ in SHOWN])
def test_the_readme_is_true(command: str, shown: str) -> None:
    result = CliRunner().invoke(main, shlex.split(command))
    assert result.stdout == shown
