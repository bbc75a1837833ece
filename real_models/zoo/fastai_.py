"""fastai: its residual networks, its language model without dropout, its tabular model."""

from torch import nn

from real_models.zoo.case import add, load
from real_models.zoo.draw import images, integers, normal, positional, tokens

DROPOUTS = ("hidden_p", "input_p", "embed_p", "weight_p", "output_p")


def residual(name: str) -> nn.Module:
    return getattr(load("fastai.vision.models.xresnet"), name)(n_out=10)


def language_model() -> nn.Module:
    text = load("fastai.text.all")
    sizes = {"emb_sz": 32, "n_hid": 48, "n_layers": 2, **dict.fromkeys(DROPOUTS, 0.0)}
    return text.get_language_model(text.AWD_LSTM, 96, config={**text.awd_lstm_lm_config, **sizes})


def tabular() -> nn.Module:
    return load("fastai.tabular.model").TabularModel([(10, 4), (5, 3)], 6, 3, [32, 16])


add("fastai.xresnet18", lambda: residual("xresnet18"), images(64))
add("fastai.xse_resnext18", lambda: residual("xse_resnext18"), images(64))
add("fastai.AWD_LSTM", language_model, tokens())
add("fastai.Tabular", tabular, positional(integers(5, 16, 2), normal(16, 6)))
