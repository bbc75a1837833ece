"""monai: networks for medical images in two and three dimensions."""

from functools import partial
from typing import Any

from torch import nn

from real_models.zoo.case import add, load
from real_models.zoo.draw import Draw, images


def make(cls: str, *arguments: Any, **options: Any) -> nn.Module:
    return getattr(load("monai.networks.nets"), cls)(*arguments, **options)


def monai(name: str, batch: Draw, *arguments: Any, cls: str = "", **options: Any) -> None:
    add(f"monai.{name}", partial(make, cls or name, *arguments, **options), batch)


def scan(size: int, count: int) -> Draw:
    return images(size, count, channels=1)


def volume(size: int = 16, count: int = 2) -> Draw:
    return images((size, size, size), count, channels=1)


UNET_WIDTHS = (8, 8, 16, 16, 32, 8)

monai("UNet3d", volume(), 3, 1, 2, (8, 16, 32), (2, 2), num_res_units=1, cls="UNet")
monai("DenseNet3d", volume(), 3, 1, 2, init_features=8, growth_rate=4, block_config=(2, 2), cls="DenseNet")
monai("BasicUNet", scan(32, 4), 2, 1, 2, features=UNET_WIDTHS)
monai("Milesial", scan(32, 2), 2, 1, 2, features=UNET_WIDTHS, cls="BasicUNetPlusPlus")
monai("AttentionUnet", scan(32, 4), 2, 1, 2, (8, 16, 32), (2, 2))
monai("SegResNet", scan(32, 4), 2, init_filters=8, blocks_down=(1, 1, 1), blocks_up=(1, 1))
monai(
    "DynUNet", scan(32, 4), 2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32], deep_supervision=True,
    deep_supr_num=1,
)  # fmt: skip
monai("VNet", scan(32, 2), 2)
monai(
    "UNETR", scan(32, 2), 1, 2, (32, 32), feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4, spatial_dims=2,
)  # fmt: skip
monai(
    "SwinUNETR", scan(64, 2), 1, 2, feature_size=12, depths=(2, 2, 2, 2), spatial_dims=2, num_heads=(1, 2, 2, 4),
)  # fmt: skip
monai("HighResNet", scan(16, 2), 2, 1, 2)
monai("AutoEncoder", scan(16, 4), 2, 1, 1, (8, 16), (2, 2))
monai("VarAutoEncoder", scan(16, 4), 2, (1, 16, 16), 1, 8, (8, 16), (2, 2))
monai("FlexibleUNet", images(64, 2), 3, 2, "efficientnet-b0", pretrained=False)
monai(
    "ViTAutoEnc", scan(32, 4), 1, (32, 32), (4, 4), hidden_size=32, mlp_dim=64, num_layers=2, num_heads=4,
    spatial_dims=2,
)  # fmt: skip
monai("RegUNet", scan(16, 2), 2, 1, 8, 2, out_channels=2)
monai("SENet154-small", images(64, 4), 2, 3, "se_bottleneck", (1, 1, 1, 1), 4, 4, num_classes=2, cls="SENet")
monai("MedNeXt", scan(32, 2), 2, 8, 1, 2)
