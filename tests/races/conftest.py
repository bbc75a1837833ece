"""What races are tested with."""

from __future__ import annotations

from typing import Any

import pytest

from symbreak.races import batched


@pytest.fixture
def ctrl_c_in_the_third_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = batched.run, 0

    def stops(*args: Any, **knobs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(*args, **knobs)

    monkeypatch.setattr(batched, "run", stops)
