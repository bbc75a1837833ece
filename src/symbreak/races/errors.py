"""What can go wrong in a race, beside what is wrong with its model, data or schemes."""

from __future__ import annotations

from symbreak.errors import SymbreakError


class RaceError(SymbreakError):
    """A knob of a race that cannot be: no seeds, a learning rate below zero, a loss the data does not fit."""


class StoreError(SymbreakError):
    """A store that is not one, belongs to another setup or version, or cannot be written."""


class WorkersError(SymbreakError):
    """Workers that cannot be reached, or went away. What they had finished is kept."""
