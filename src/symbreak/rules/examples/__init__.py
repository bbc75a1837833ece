"""The smallest model where each rule fires, and the same model repaired, where it is silent: one file a group of rules.

Each function returns what `check` takes: (model, batch, loss). The rules' pages print their source and the tests run
them, so each is whole in itself: it repeats its twin rather than call a helper that the page would not show. torch is
imported inside them, so that importing the rules does not.
"""

from __future__ import annotations

from . import batch, copies, signal, wakeup, weights
from .example import Pair

EXAMPLES: dict[str, Pair] = {
    **copies.EXAMPLES,
    **wakeup.EXAMPLES,
    **signal.EXAMPLES,
    **batch.EXAMPLES,
    **weights.EXAMPLES,
}
"""Rule code -> (where it fires, the same repaired)."""
