"""WHAT TO DO. Each file knows one kind of repair and proposes parts of it; the smallest set that heals becomes a Plan.

bench.py tries values on the model without touching it, part.py is one step of a repair, smallest.py searches,
trained.py says what to leave alone, suited.py how a tensor is drawn. nonfinite.py and wake.py draw anew, shift.py moves
units back to the data, rescale.py mends scale, split.py parts copies, prior.py sets output biases. stages.py tells the
story; plan.py applies and undoes it.
"""

from .plan import Change, Plan
from .stages import repair

__all__ = ["Change", "Plan", "repair"]
