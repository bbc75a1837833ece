"""A few numbers of a storage, to tell whether it was written to where the recorder does not see.

NumPy, other libraries, threads that are older than the block, and anybody after it write without an operation that is
seen. Sixty-four words spread over the memory cost the same for a matrix of any size; whoever fills it changes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WORDS = 64
_DEVICES = ("cpu", "cuda")
_WORD = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


@dataclass(frozen=True, eq=False)
class Sample:
    """Words of a storage, as they were."""

    words: Tensor

    def holds(self, t: Tensor) -> bool:
        """Whether the storage of a tensor still has these words."""
        now = sample(t)
        return now is None or now.words.shape != self.words.shape or bool((now.words == self.words).all())


def sample(t: Tensor) -> Sample | None:
    """The words of a tensor's storage as they are now; None where they cannot be read."""
    if t.device.type not in _DEVICES or (t.is_cuda and torch.cuda.is_current_stream_capturing()):
        return None
    storage = t.untyped_storage()
    size = storage.nbytes()
    if size == 0:
        return None
    width = next(width for width in _WORD if size % width == 0)
    count = size // width
    step = max(1, (count - 1) // (WORDS - 1))
    with torch.no_grad():
        words = torch.empty(0, dtype=_WORD[width], device=t.device)
        return Sample(words.set_(storage, 0, (min(count, WORDS),), (step,)).clone())
