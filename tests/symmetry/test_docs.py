"""What docs/symmetry.md shows is what its lines print."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from symbreak.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "symmetry.md"


def test_the_python_of_the_page() -> None:
    assert doctest.testfile(str(PAGE), module_relative=False).failed == 0


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```\n(\$ symbreak.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    first, second, *shown = block.group(1).splitlines()
    assert CliRunner().invoke(main, shlex.split(first)[2:]).exit_code == 1
    assert CliRunner().invoke(main, shlex.split(second)[2:]).stdout.splitlines() == shown
