"""WHICH UNITS ARE ONE: a model in; its spaces of units, a partition of them, and a proof of it out."""

from .certificate import Certificate, certify, networks_of, verify
from .graph import Axis, UnitGraph, unit_graph
from .proofs import prove, prove_networks, verify_on
from .refine import coarsest
from .units import Block, Network, SymmetryError, chain

__all__ = [
    "Axis",
    "Block",
    "Certificate",
    "Network",
    "SymmetryError",
    "UnitGraph",
    "certify",
    "chain",
    "coarsest",
    "networks_of",
    "prove",
    "prove_networks",
    "unit_graph",
    "verify",
    "verify_on",
]
