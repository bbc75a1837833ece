"""WHICH UNITS ARE ONE: spaces of units and the weights between them in, a partition out."""

from .refine import coarsest
from .units import Block, Network, SymmetryError, chain

__all__ = ["Block", "Network", "SymmetryError", "chain", "coarsest"]
