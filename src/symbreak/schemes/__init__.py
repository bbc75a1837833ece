"""Where weights start: schemes as values, the fans they scale by, the catalogue, and recognising one from values."""

from __future__ import annotations

from symbreak.schemes.activations import ACTIVATIONS, Activation, activation
from symbreak.schemes.catalogue import (
    CATALOGUE,
    constant,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    torch_default,
    xavier_normal,
    xavier_uniform,
    zeros,
)
from symbreak.schemes.fans import Fans, fans_of, fans_of_shape
from symbreak.schemes.gain import Edge, Gains, edge_of_chaos, gains
from symbreak.schemes.notation import ALIASES, find, parse, usage
from symbreak.schemes.recognise import Recognition, recognise
from symbreak.schemes.scheme import Moments, Scheme

__all__ = [
    "ACTIVATIONS",
    "ALIASES",
    "CATALOGUE",
    "Activation",
    "Edge",
    "Fans",
    "Gains",
    "Moments",
    "Recognition",
    "Scheme",
    "activation",
    "constant",
    "edge_of_chaos",
    "fans_of",
    "fans_of_shape",
    "find",
    "gains",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "parse",
    "recognise",
    "torch_default",
    "usage",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
