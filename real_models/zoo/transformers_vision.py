"""transformers, pictures and films: classification, segmentation, depth, detection."""

from functools import partial
from typing import Any

from torch import nn

from real_models.zoo.case import add, load, words
from real_models.zoo.draw import Draw, named, normal
from real_models.zoo.transformers_ import AS_SHIPPED, hf

FOUR_STAGES = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
FOUR_STAGES_WITH_HEADS = {**FOUR_STAGES, "num_attention_heads": [1, 1, 2, 2]}
WINDOWS = {"patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
CONVNEXT = {
    "patch_size": 4, "hidden_size": AS_SHIPPED, "num_hidden_layers": AS_SHIPPED, "hidden_sizes": [8, 16, 16, 32],
    "depths": [1, 1, 2, 1],
    "num_stages": 4,
}  # fmt: skip
RESIDUAL = {"embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}
SUBSAMPLE = ["Subsample", 8, 2, 2, 2, 2]


def pixels(size: int = 32, count: int = 8) -> Draw:
    return named(pixel_values=normal(count, 3, size, size))


def film(frames: int) -> Draw:
    return named(pixel_values=normal(4, frames, 3, 32, 32))


def detr(name: str, **options: Any) -> nn.Module:
    library = load("transformers")
    stages = ["stage2", "stage3", "stage4"] if name.startswith("Deformable") else ["stage4"]
    backbone = library.ResNetConfig(embedding_size=8, **FOUR_STAGES, out_features=stages)
    config = getattr(library, f"{name}Config")(
        backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, d_model=32,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, num_queries=6, auxiliary_loss=False, num_labels=4, **options,
    )  # fmt: skip
    return getattr(library, f"{name}ForObjectDetection")(config)


for kind in words("""
    vit deit beit dinov2 vit_msn ijepa data2vec-vision dinov3_vit
"""):
    hf(kind, pixels())
hf("dinov2_with_registers", pixels(), num_register_tokens=2)
hf("vit", pixels(), "AutoModelForImageClassification")
hf("vit_mae", pixels(), "AutoModelForPreTraining")
hf("yolos", pixels(), image_size=[32, 32], num_detection_tokens=5)
for kind in ("convnext", "convnextv2"):
    hf(kind, pixels(), **CONVNEXT)
for kind in ("swin", "swinv2", "donut-swin"):
    hf(kind, pixels(), **WINDOWS)
hf(
    "focalnet", pixels(), patch_size=2, embed_dim=16, hidden_sizes=[16, 32], depths=[1, 1], focal_levels=[2, 2],
    focal_windows=[3, 3],
)  # fmt: skip
hf("segformer", pixels(64), "AutoModelForSemanticSegmentation", **FOUR_STAGES_WITH_HEADS, decoder_hidden_size=16)
for kind in ("mobilenet_v1", "mobilenet_v2"):
    hf(kind, pixels(64))
hf("resnet", pixels(), **RESIDUAL)
hf("regnet", pixels(), **RESIDUAL, groups_width=8)
hf("bit", pixels(), embedding_size=8, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], num_groups=1)
hf(
    "levit", pixels(64), image_size=64, patch_size=16, hidden_sizes=[16, 32, 48], num_attention_heads=[2, 2, 2],
    depths=[1, 1, 1], key_dim=[8, 8, 8], down_ops=[SUBSAMPLE, SUBSAMPLE],
)  # fmt: skip
hf(
    "mobilevit", pixels(64), image_size=64, patch_size=2, hidden_sizes=[16, 24, 32],
    neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32],
)  # fmt: skip
hf("poolformer", pixels(64), **FOUR_STAGES)
hf("pvt_v2", pixels(64), image_size=64, **FOUR_STAGES_WITH_HEADS)
hf(
    "dpt", pixels(), "DPTForSemanticSegmentation", image_size=32, patch_size=8, num_hidden_layers=4,
    backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16,
    reassemble_factors=[1, 1, 1, 0.5],
)  # fmt: skip
hf("glpn", pixels(64), "GLPNForDepthEstimation", **FOUR_STAGES_WITH_HEADS, decoder_hidden_size=16)
hf("timesformer", film(2), num_frames=2)
hf("videomae", film(2), num_frames=2, tubelet_size=2)
hf("vivit", film(4), num_frames=4, tubelet_size=[2, 8, 8])
for name, options in {"Detr": {}, "ConditionalDetr": {}, "DeformableDetr": {"num_feature_levels": 3}}.items():
    add(f"hf.{name}ForObjectDetection", partial(detr, name, **options), pixels(64, 2))
