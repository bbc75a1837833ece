"""Every scheme by name, in the order in which a reader meets them; the docstring of each is its page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from symbreak.schemes.adapters import olora, pissa
from symbreak.schemes.attention import mimetic
from symbreak.schemes.by_data import analytic, gradinit, krahenbuhl, lsuv, metainit, weight_norm_data
from symbreak.schemes.ends import embedding_normal, lora, prior_bias, word2vec
from symbreak.schemes.growth import drop_upcycled, net2deeper, net2wider, shrink_perturb, upcycled, weight_selection
from symbreak.schemes.patterns import delta_orthogonal, dirac, identity, idinit, orthogonal, sparse, zero_hadamard
from symbreak.schemes.plain import constant, normal, ones, truncated_normal, uniform, zeros
from symbreak.schemes.recurrent import chrono, irnn, lstm_forget_bias, nguyen_widrow, rnn_default
from symbreak.schemes.residual import deepnorm, ds_init, fixup, gpt2_residual, layer_scale, rezero, t_fixup, zero_gamma
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
from symbreak.schemes.width import mean_field, mup, ntk, spectral, unit_scaling

FAMILIES: dict[str, tuple[Callable[..., Scheme], ...]] = {
    "of one size": (zeros, ones, constant, uniform, normal, truncated_normal),
    "scaled by the fans": (
        torch_default, lecun_normal, lecun_uniform, xavier_normal, xavier_uniform, kaiming_normal, kaiming_uniform,
        variance_scaling, edge_of_chaos, siren,
    ),
    "patterns": (orthogonal, delta_orthogonal, identity, dirac, sparse, zero_hadamard, idinit),
    "recurrent and first layers": (rnn_default, irnn, lstm_forget_bias, chrono, nguyen_widrow),
    "state spaces": (hippo_legs, mamba_decay, mamba_step),
    "residual networks and transformers": (
        fixup, rezero, zero_gamma, layer_scale, gpt2_residual, ds_init, t_fixup, deepnorm,
    ),
    "for wide networks, with multiplier and learning rate": (mup, ntk, mean_field, spectral, unit_scaling),
    "embeddings, outputs, adapters": (embedding_normal, word2vec, prior_bias, lora),
    "by data, gradients or the graph (symbreak.init_)": (
        lsuv, krahenbuhl, weight_norm_data, analytic, metainit, gradinit,
    ),
}  # fmt: skip

CATALOGUE: dict[str, Callable[..., Scheme]] = {
    recipe.__name__: recipe for family in FAMILIES.values() for recipe in family
}

PROCEDURES: dict[str, Callable[..., Any]] = {
    procedure.__name__: procedure
    for procedure in (
        pissa, olora, mimetic, net2wider, net2deeper, weight_selection, shrink_perturb, upcycled, drop_upcycled,
    )
}  # fmt: skip
"""What acts on several tensors at once, or on trained ones: functions, not schemes."""
