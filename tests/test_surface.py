"""The public names, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import symbreak


def test_public_names() -> None:
    assert sorted(symbreak.__all__) == [
        "Explanation",
        "Finding",
        "Origin",
        "OriginReport",
        "Plan",
        "Quotient",
        "RaceResult",
        "Report",
        "SymbreakError",
        "__version__",
        "check",
        "explain",
        "fix",
        "init_",
        "nets",
        "provenance",
        "quotient",
        "race",
        "schemes",
    ]
    assert dir(symbreak) == sorted(symbreak.__all__)
    for name in symbreak.__all__:
        assert getattr(symbreak, name) is not None


def test_fix_is_always_the_function() -> None:
    code = (
        "import symbreak, symbreak._fix, symbreak.remedies; assert callable(symbreak.fix); print(symbreak.fix.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fix"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'symbreak' has no attribute 'chekc'"):
        _ = symbreak.chekc


@pytest.mark.parametrize(
    ("code", "loads"),
    [("import symbreak", False), ("import symbreak.rules", False), ("import symbreak; symbreak.check", False),
     ("import symbreak; symbreak.fix", False),
     ("import symbreak; symbreak.explain", False),
     ("import symbreak.probe", True)],
)  # fmt: skip
def test_torch_is_imported_only_when_it_is_needed(code: str, loads: bool) -> None:
    ask = f"{code}; import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(loads)
