"""Plain torch: perceptrons, recurrent networks, the transformer, both halves of a DCGAN."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from real_models.zoo.case import add
from real_models.zoo.draw import images, normal, positional, tokens


class RecurrentLM(nn.Module):
    """Embedding, two recurrent layers, a head over the vocabulary."""

    def __init__(self, cell: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.e = nn.Embedding(96, 16)
        self.r = cell(16, 24, 2, batch_first=True, **options)
        self.h = nn.Linear(48 if options.get("bidirectional") else 24, 96)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.r(self.e(x))[0])


class ProjectedLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r = nn.LSTM(16, 24, 2, proj_size=8)
        self.h = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.r(x)[0])


def mlp(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 5))


def generator() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(16, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
        nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip


def discriminator() -> nn.Module:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(3, 16, 4, 2, 1)), nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(16, 32, 4, 2, 1)), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(32 * 16, 1),
    )  # fmt: skip


def norm_first_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, norm_first=True, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


add("torch.MLP-relu", lambda: mlp(nn.ReLU), normal(32, 16))
add("torch.MLP-tanh", lambda: mlp(nn.Tanh), normal(32, 16))
add("torch.LSTM-LM", lambda: RecurrentLM(nn.LSTM), tokens())
add("torch.BiGRU", lambda: RecurrentLM(nn.GRU, bidirectional=True), tokens())
add("torch.LSTM-proj", ProjectedLSTM, normal(7, 8, 16))
add(
    "torch.Transformer",
    lambda: nn.Transformer(32, 4, 2, 2, 64, dropout=0.0),
    positional(normal(7, 8, 32), normal(5, 8, 32)),
)
add("torch.TransformerEncoder-normfirst", norm_first_encoder, normal(8, 7, 32))
add("torch.DCGAN-G", generator, normal(8, 16, 1, 1))
add("torch.DCGAN-D-spectral", discriminator, images(16))
