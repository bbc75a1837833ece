"""START THE WEIGHTS. `start` gives every tensor of a model the scheme that was asked for, or the one that suits it.

start.py tells the story; tensors.py says which may be written, desk.py writes all or nothing, plan.py is what was done.
plain.py gives one scheme to many; auto.py chooses, from what flow.py writes down of a run and facts.py
reads in it (images.py: which activation; branches.py: which residual branch).
"""

from .plan import Start, Step
from .start import start

__all__ = ["Start", "Step", "start"]
