"""WHICH UNITS ARE ONE: spaces of units and the weights between them in, a partition and a proof of it out."""

from .certificate import Certificate, certify, verify
from .refine import coarsest
from .units import Block, Network, SymmetryError, chain

__all__ = ["Block", "Certificate", "Network", "SymmetryError", "certify", "chain", "coarsest", "verify"]
