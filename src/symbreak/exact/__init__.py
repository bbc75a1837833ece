"""What needs no loop, or one compiled loop: descent in closed form, perceptrons by the thousand, the scale laws.

Arrays in, arrays out. Index letters: n samples, d features, S starts, E etas, T step counts, R runs.
"""

from __future__ import annotations

from symbreak.exact import descent, grid, laws, online, perceptron, setups
from symbreak.exact.arrays import ArrayError

__all__ = ["ArrayError", "descent", "grid", "laws", "online", "perceptron", "setups"]
