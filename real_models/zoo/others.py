"""Libraries with one or a few models each: tables, fields, series, operators, width scaling."""

from functools import partial
from typing import Any

import torch
from torch import nn

from real_models.zoo.case import add, load
from real_models.zoo.draw import images, integers, normal, positional

TABLE = {"d_in": 10, "d_out": 3, "n_blocks": 2, "d_block": 32}
FIELD = {"n_modes": (6, 6), "hidden_channels": 16, "in_channels": 1, "out_channels": 1, "n_layers": 2}


def zero_readout() -> nn.Module:
    """A perceptron under muP, whose readout starts at zero."""
    mup = load("mup")

    def perceptron(width: int) -> nn.Module:
        readout = mup.MuReadout(width, 5, readout_zero_init=True)
        return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), readout)

    base, wider, model = perceptron(8), perceptron(16), perceptron(64)
    mup.set_base_shapes(model, base, delta=wider)
    return model


def efficientnet() -> nn.Module:
    return load("efficientnet_pytorch").EfficientNet.from_name("efficientnet-b0", num_classes=10)


def tabnet() -> nn.Module:
    make = load("pytorch_tabnet.tab_network").TabNet
    return make(12, 5, n_d=8, n_a=8, cat_idxs=[], cat_dims=[], group_attention_matrix=torch.eye(12))


def table(cls: str, **options: Any) -> nn.Module:
    return getattr(load("rtdl_revisiting_models"), cls)(**options)


def field(cls: str, **options: Any) -> nn.Module:
    return getattr(load("neuralop.models"), cls)(**options)


def series(**options: Any) -> nn.Module:
    return load("pytorch_tcn").TCN(8, [16, 16, 16], kernel_size=3, dropout=0.0, **options)


add("effnet.b0", efficientnet, images(64))
add("mup.MLP-zero-readout", zero_readout, normal(16, 16))
add("tabnet", tabnet, normal(64, 12))
add("rtdl.MLP", partial(table, "MLP", **TABLE, dropout=0.0), normal(16, 10))
add(
    "rtdl.ResNet",
    partial(table, "ResNet", **TABLE, d_hidden=None, d_hidden_multiplier=2.0, dropout1=0.0, dropout2=0.0),
    normal(16, 10),
)
add(
    "rtdl.FTTransformer",
    partial(
        table, "FTTransformer", n_cont_features=10, cat_cardinalities=[4, 5], d_out=3, n_blocks=2, d_block=32,
        attention_n_heads=4, attention_dropout=0.0, ffn_d_hidden=None, ffn_d_hidden_multiplier=4 / 3, ffn_dropout=0.0,
        residual_dropout=0.0,
    ),
    positional(normal(16, 10), integers(4, 16, 2)),
)  # fmt: skip
add("tcn", series, normal(4, 8, 20))
add("tcn-wn", partial(series, use_norm="weight_norm"), normal(4, 8, 20))
add("siren", lambda: load("siren_pytorch").SirenNet(2, 64, 3, 3), normal(64, 2))
add("neuralop.FNO", partial(field, "FNO", **FIELD), images(16, 4, 1))
add("neuralop.TFNO", partial(field, "TFNO", **FIELD, factorization="Tucker", rank=0.5), images(16, 4, 1))
add(
    "neuralop.UNO",
    partial(
        field, "UNO", in_channels=1, out_channels=1, hidden_channels=8, n_layers=3, uno_out_channels=[8, 8, 8],
        uno_n_modes=[[4, 4]] * 3, uno_scalings=[[1, 1]] * 3, channel_mlp_skip="linear",
    ),
    images(16, 4, 1),
)  # fmt: skip
