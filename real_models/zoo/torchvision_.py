"""torchvision: classification, segmentation, video, and detection, which is trained on the sum of its own losses."""

from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from real_models.zoo.case import add, load, words
from real_models.zoo.draw import Draw, images

CLASSIFIERS = words("""
    alexnet resnet18 resnet50 resnext50_32x4d densenet121 squeezenet1_0 squeezenet1_1 mobilenet_v2 mobilenet_v3_large
    mnasnet0_5 shufflenet_v2_x0_5 efficientnet_b0 efficientnet_v2_s convnext_tiny regnet_x_400mf swin_t swin_v2_t
""")
VIDEO = ["r3d_18", "mc3_18", "r2plus1d_18"]
DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"min_size": 96, "max_size": 96},
    "retinanet_resnet50_fpn": {"min_size": 96, "max_size": 96},
    "ssdlite320_mobilenet_v3_large": {},
    "fcos_resnet50_fpn": {"min_size": 96, "max_size": 96},
}


def classifier(name: str, **options: Any) -> nn.Module:
    return load("torchvision.models").get_model(name, weights=None, num_classes=10, **options)


def video_classifier(name: str) -> nn.Module:
    return getattr(load("torchvision.models.video"), name)(weights=None, num_classes=10)


def segmenter(name: str, **options: Any) -> nn.Module:
    make = getattr(load("torchvision.models.segmentation"), name)
    return make(weights=None, weights_backbone=None, num_classes=5, **options)


def detector(name: str, sizes: dict[str, int]) -> nn.Module:
    make = getattr(load("torchvision.models.detection"), name)
    return make(weights=None, weights_backbone=None, num_classes=5, **sizes)


def tiny_vit() -> nn.Module:
    return load("torchvision.models").VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10
    )


def tiny_maxvit() -> nn.Module:
    return load("torchvision.models").MaxVit(
        input_size=(64, 64), stem_channels=16, partition_size=2, block_channels=[16, 32], block_layers=[1, 1],
        head_dim=8, stochastic_depth_prob=0.0, num_classes=10,
    )  # fmt: skip


def scenes(size: int = 96, count: int = 2, boxes: int = 3) -> Draw:
    """Pictures with labelled boxes: `((pictures, targets),)`."""

    def target(generator: Generator) -> dict[str, Tensor]:
        corner = torch.rand(boxes, 2, generator=generator) * size * 0.5
        extent = torch.rand(boxes, 2, generator=generator) * size * 0.4 + 8
        labels = torch.randint(1, 5, (boxes,), generator=generator)
        return {"boxes": torch.cat([corner, corner + extent], 1), "labels": labels}

    def draw(generator: Generator) -> Any:
        pictures = [torch.rand(3, size, size, generator=generator) for _ in range(count)]
        return ((pictures, [target(generator) for _ in range(count)]),)

    return draw


def sum_of_losses(model: nn.Module, batch: Any) -> Tensor:
    losses: dict[str, Tensor] = model(*batch[0])
    return torch.stack(list(losses.values())).sum()


for name in CLASSIFIERS:
    add(f"tv.{name}", partial(classifier, name), images(64))
for name in ("vgg11", "vgg11_bn"):
    add(f"tv.{name}", partial(classifier, name), images(32))
add("tv.googlenet", partial(classifier, "googlenet", init_weights=True), images(64))
add("tv.inception_v3", partial(classifier, "inception_v3", init_weights=True), images(299, 2))
add("tv.vit(tiny)", tiny_vit, images(32))
add("tv.maxvit_t(tiny)", tiny_maxvit, images(64))
add("tv.fcn_resnet50", partial(segmenter, "fcn_resnet50", aux_loss=True), images(64, 4))
add("tv.deeplabv3_mobilenet", partial(segmenter, "deeplabv3_mobilenet_v3_large", aux_loss=True), images(64, 4))
add("tv.lraspp", partial(segmenter, "lraspp_mobilenet_v3_large"), images(64))
for name, sizes in DETECTORS.items():
    add(f"tv.{name}", partial(detector, name, sizes), scenes(), sum_of_losses)
for name in VIDEO:
    add(f"tv.{name}", partial(video_classifier, name), images((4, 32, 32), 2))
