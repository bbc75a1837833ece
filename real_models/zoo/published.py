"""Models of the list that its small inputs or widths say something of that may be true there alone, as published.

Configuration and input are the library's defaults, or those of its README where it has none: what they say here is of
the architecture. The images of a batch are few, because a wide model is slow on a processor.
"""

from functools import partial

from real_models.zoo.case import Entry
from real_models.zoo.draw import images, named, tokens
from real_models.zoo.timm_ import create
from real_models.zoo.transformers_ import default
from real_models.zoo.transformers_vision import pixels
from real_models.zoo.vit_pytorch_ import make

CLASSES = {"num_classes": 1000}
CROSSFORMER = {
    "dim": (64, 128, 256, 512), "depth": (2, 2, 8, 2), "global_window_size": (8, 4, 2, 1), "local_window_size": 7,
}  # fmt: skip
REGIONVIT = {"dim": (64, 128, 256, 512), "depth": (2, 2, 8, 2), "window_size": 7}

PUBLISHED: dict[str, Entry] = {
    "vitp.CrossFormer": Entry(partial(make, "crossformer", "CrossFormer", **CLASSES, **CROSSFORMER), images(224, 2)),
    "vitp.RegionViT": Entry(partial(make, "regionvit", "RegionViT", **CLASSES, **REGIONVIT), images(224, 2)),
    "timm.samvit_base_patch16_224": Entry(partial(create, "samvit_base_patch16_224"), images(224, 2)),
    "hf.mobilevit": Entry(partial(default, "mobilevit", "AutoModel"), pixels(256, 2)),
    "hf.mobilebert": Entry(partial(default, "mobilebert", "AutoModel"), named(input_ids=tokens(4, 64, 30000))),
    "hf.dpt.DPTForSemanticSegmentation": Entry(
        partial(default, "dpt", "DPTForSemanticSegmentation", image_size=224), pixels(224, 2)
    ),
    "hf.DeformableDetrForObjectDetection": Entry(
        partial(default, "deformable_detr", "DeformableDetrForObjectDetection", use_pretrained_backbone=False),
        pixels(384, 1),
    ),
}
