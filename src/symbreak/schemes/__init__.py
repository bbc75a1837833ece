"""Where weights start: schemes as values, the fans they scale by, the catalogue, and recognising one from values."""

from __future__ import annotations

from symbreak.schemes.activations import ACTIVATIONS, Activation, activation
from symbreak.schemes.adapters import Factors, olora, pissa
from symbreak.schemes.attention import Attention, mimetic
from symbreak.schemes.by_data import analytic, gradinit, krahenbuhl, lsuv, metainit, weight_norm_data
from symbreak.schemes.catalogue import CATALOGUE, FAMILIES, PROCEDURES
from symbreak.schemes.ends import (
    embedding_normal,
    lora,
    prior_bias,
    word2vec,
)
from symbreak.schemes.fans import Fans, Layout, fans_of, fans_of_shape, layout_of
from symbreak.schemes.gain import Edge, Gains, critical, gains
from symbreak.schemes.growth import (
    Wider,
    drop_upcycled,
    net2deeper,
    net2wider,
    shrink_perturb,
    upcycled,
    weight_selection,
)
from symbreak.schemes.laws import Companions, Moments
from symbreak.schemes.notation import ALIASES, find, page, parse, usage
from symbreak.schemes.patterns import (
    delta_orthogonal,
    dirac,
    identity,
    idinit,
    orthogonal,
    sparse,
    zero_hadamard,
)
from symbreak.schemes.place import Place
from symbreak.schemes.places import Following, following, places_of
from symbreak.schemes.plain import (
    constant,
    normal,
    ones,
    truncated_normal,
    uniform,
    zeros,
)
from symbreak.schemes.recognise import Recognition, recognise
from symbreak.schemes.recurrent import (
    chrono,
    irnn,
    lstm_forget_bias,
    nguyen_widrow,
    rnn_default,
)
from symbreak.schemes.residual import (
    deepnorm,
    ds_init,
    fixup,
    gpt2_residual,
    layer_scale,
    rezero,
    t_fixup,
    zero_gamma,
)
from symbreak.schemes.scaled import (
    edge_of_chaos,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    siren,
    torch_default,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
)
from symbreak.schemes.scheme import Scheme
from symbreak.schemes.state_space import hippo_legs, mamba_decay, mamba_step
from symbreak.schemes.suits import Suit
from symbreak.schemes.width import (
    mean_field,
    mup,
    ntk,
    spectral,
    unit_scaling,
)

__all__ = [
    "ACTIVATIONS",
    "ALIASES",
    "CATALOGUE",
    "FAMILIES",
    "PROCEDURES",
    "Activation",
    "Attention",
    "Companions",
    "Edge",
    "Factors",
    "Fans",
    "Following",
    "Gains",
    "Layout",
    "Moments",
    "Place",
    "Recognition",
    "Scheme",
    "Suit",
    "Wider",
    "activation",
    "analytic",
    "chrono",
    "constant",
    "critical",
    "deepnorm",
    "delta_orthogonal",
    "dirac",
    "drop_upcycled",
    "ds_init",
    "edge_of_chaos",
    "embedding_normal",
    "fans_of",
    "fans_of_shape",
    "find",
    "fixup",
    "following",
    "gains",
    "gpt2_residual",
    "gradinit",
    "hippo_legs",
    "identity",
    "idinit",
    "irnn",
    "kaiming_normal",
    "kaiming_uniform",
    "krahenbuhl",
    "layer_scale",
    "layout_of",
    "lecun_normal",
    "lecun_uniform",
    "lora",
    "lstm_forget_bias",
    "lsuv",
    "mamba_decay",
    "mamba_step",
    "mean_field",
    "metainit",
    "mimetic",
    "mup",
    "net2deeper",
    "net2wider",
    "nguyen_widrow",
    "normal",
    "ntk",
    "olora",
    "ones",
    "orthogonal",
    "page",
    "parse",
    "pissa",
    "places_of",
    "prior_bias",
    "recognise",
    "rezero",
    "rnn_default",
    "shrink_perturb",
    "siren",
    "sparse",
    "spectral",
    "t_fixup",
    "torch_default",
    "truncated_normal",
    "uniform",
    "unit_scaling",
    "upcycled",
    "usage",
    "variance_scaling",
    "weight_norm_data",
    "weight_selection",
    "word2vec",
    "xavier_normal",
    "xavier_uniform",
    "zero_gamma",
    "zero_hadamard",
    "zeros",
]
