"""LOOK, THEN GIVE BACK. `look` borrows a model, probes it and returns a Trace; the model comes back bit for bit.

borrow.py holds the model, task.py feeds it, observe.py watches a pass, passes.py runs and counts them, wakeup.py climbs
the ladder, copies.py finds units that are one, sleepers.py explains what never wakes, graph.py names what blocks it,
signal.py and slopes.py measure scale and linear regions, look.py tells the story.
"""

from .fingerprint import fingerprint
from .look import look, unwrap

__all__ = ["fingerprint", "look", "unwrap"]
