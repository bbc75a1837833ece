"""Races of small nets: one thread is fastest, and the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from symbreak.races import batched


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
