"""segmentation_models_pytorch: nine decoders on a ResNet-18, and two other encoders."""

from functools import partial

from torch import nn

from real_models.zoo.case import add, load, words
from real_models.zoo.draw import images

DECODERS = words("""
    Unet UnetPlusPlus MAnet Linknet PSPNet PAN DeepLabV3 DeepLabV3Plus UPerNet
""")


def segmenter(decoder: str, encoder: str) -> nn.Module:
    return getattr(load("segmentation_models_pytorch"), decoder)(encoder, encoder_weights=None, classes=3)


for decoder in DECODERS:
    size = 128 if decoder == "PAN" else 64  # its pyramid halves the last map three more times
    add(f"smp.{decoder}", partial(segmenter, decoder, "resnet18"), images(size, 4))
add("smp.Segformer", partial(segmenter, "Segformer", "mit_b0"), images(64, 4))
add("smp.Unet-timm-effb0", partial(segmenter, "Unet", "tu-efficientnet_b0"), images(64, 4))
