"""pytorchcv: nets for pictures of 224 or 32 pixels, segmentation, pose and object centres."""

from functools import partial
from typing import Any

from torch import nn

from real_models.zoo.case import add, load, words
from real_models.zoo.draw import Draw, images

AT_64_PIXELS = words("""
    resnet10 preresnet10 seresnet10 sepreresnet10 bam_resnet18 cbam_resnet18 airnet50_1x64d_r2 resneta10 resnetd50b
    condensenet74_c4_g4 drnc26 darknet_tiny darknet_ref squeezeresnet_v1_1 sqnxt23_w1 shufflenet_g3_wd4
    shufflenetv2_wd2 shufflenetv2b_wd2 menet108_8x1_g3 mobilenet_wd4 mobilenetb_wd4 fdmobilenet_wd4 mobilenetv2_wd4
    igcv3_wd4 mnasnet_small proxylessnas_cpu fbnet_cb spnasnet mixnet_s hardnet39ds hrnet_w18_small_v1 vovnet27s dla34
    selecsls42 diracnet18v2 revnet38 bagnet9 sharesnet18 ibn_resnet50 ibnb_resnet50 octresnet10_ad2 resnesta18
    dicenet_wd5 mobilenetv3_small_wd2 ghostnet xdensenet121_2 dla46xc channelnet
""")
AT_224_PIXELS = ["dpn68", "zfnet", "bninception", "efficientnet_b0", "efficientnet_edge_small_b"]
CIFAR = words("""
    nin resnet20 preresnet20 seresnet20 pyramidnet110_a48 densenet40_k12 xdensenet40_2_k24_bc wrn16_10 ror3_56 rir
    resdropresnet20 diaresnet20 sepreresnet20
""")
SEGMENTERS = words("""
    fastscnn_cityscapes lednet_cityscapes dabnet_cityscapes sinet_cityscapes espcnet_cityscapes enet_cityscapes
    edanet_cityscapes bisenet_resnet18_celebamaskhq erfnet_cityscapes esnet_cityscapes
""")
DENSE_AT_64_PIXELS = {
    "lwopenpose2d_mobilenet_cmupan_coco": 4,
    "simplepose_mobile_mobilenet_w1_coco": 4,
    "centernet_resnet18_voc": 4,
    "alphapose_fastseresnet101b_coco": 2,
    "unet_cityscapes": 2,
}


def create(name: str, **options: Any) -> nn.Module:
    """A pretrained-size net whose fixed last pooling window is replaced, so that small pictures fit."""
    model = load("pytorchcv.model_provider").get_model(name, pretrained=False, **options)
    last = ("final_pool", "pool") if name.startswith("sharesnet") else ("final_pool",)
    for parent in list(model.modules()):
        for child, layer in list(parent.named_children()):
            if child in last and isinstance(layer, nn.AvgPool2d):
                setattr(parent, child, nn.AdaptiveAvgPool2d(1))
    return model


def cv(name: str, batch: Draw, **options: Any) -> None:
    add(f"cv.{name}", partial(create, name, **options), batch)


for name in AT_64_PIXELS:
    cv(name, images(64), in_size=(64, 64))
for name in AT_224_PIXELS:
    cv(name, images(224, 2))
cv("inceptionresnetv1", images(96), in_size=(64, 64))
cv("xception", images(299, 2))
for name in CIFAR:
    cv(f"{name}_cifar10", images(32))
for name in SEGMENTERS:
    cv(name, images(128, 2), in_size=(128, 128))
for name, count in DENSE_AT_64_PIXELS.items():
    cv(name, images(64, count), in_size=(64, 64))
