"""Many starts at once: which one is better for this model and this data, over many seeds, and does the difference hold.

The room is called races, so that `symbreak.race` is always the function. Index letters: m runs, b samples of a batch,
n samples, i units in, o units out, p points where a path is measured.
"""

from __future__ import annotations

from symbreak.races._race import Race, race
from symbreak.races.errors import RaceError, StoreError, WorkersError
from symbreak.races.grid import AS_BUILT, Cell
from symbreak.races.result import RaceResult
from symbreak.races.work import Run, Setup

__all__ = ["AS_BUILT", "Cell", "Race", "RaceError", "RaceResult", "Run", "Setup", "StoreError", "WorkersError", "race"]
