"""vit-pytorch: one small transformer of each kind."""

from functools import partial
from typing import Any

from torch import nn

from real_models.zoo.case import add, load
from real_models.zoo.draw import images

BODY = {"image_size": 32, "patch_size": 8, "num_classes": 10, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 64}
WITH_BODY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ViT": ("vit", "ViT", {}),
    "SimpleViT": ("simple_vit", "SimpleViT", {}),
    "SimpleViT-qknorm": ("simple_vit_with_qk_norm", "SimpleViT", {}),
    "DeepViT": ("deepvit", "DeepViT", {}),
    "CaiT": ("cait", "CaiT", {"cls_depth": 2}),
    "ViT-smalldata": ("vit_for_small_dataset", "ViT", {}),
    "RvT": ("rvt", "RvT", {}),
    "ParallelViT": ("parallel_vit", "ViT", {"num_parallel_branches": 2}),
    "XCiT": ("xcit", "XCiT", {"cls_depth": 1}),
    "ATS": ("ats_vit", "ViT", {"max_tokens_per_depth": (12, 8)}),
    "NormalizedViT": ("normalized_vit", "nViT", {}),
    "JumboViT": ("jumbo_vit", "JumboViT", {"num_jumbo_cls": 1, "jumbo_cls_k": 2, "jumbo_ff_mult": 2}),
}
STAGES = {"num_classes": 10, "dim": (16, 16, 32, 32), "depth": (1, 1, 1, 1)}


def make(module: str, cls: str, **options: Any) -> nn.Module:
    return getattr(load(f"vit_pytorch.{module}"), cls)(**options)


def vitp(
    name: str, module: str, size: int | tuple[int, ...] = 32, count: int = 8, cls: str = "", **options: Any
) -> None:
    add(f"vitp.{name}", partial(make, module, cls or name, **options), images(size, count))


for name, (module, cls, extra) in WITH_BODY.items():
    vitp(name, module, cls=cls, **BODY, **extra)
vitp(
    "T2T", "t2t", cls="T2TViT", dim=32, image_size=32, depth=2, heads=4, mlp_dim=64, num_classes=10,
    t2t_layers=((7, 4), (3, 2)),
)  # fmt: skip
vitp(
    "CrossViT", "cross_vit", image_size=32, num_classes=10, sm_dim=16, lg_dim=32, depth=1, sm_patch_size=4,
    lg_patch_size=8, sm_enc_heads=2, lg_enc_heads=2,
)  # fmt: skip
vitp("PiT", "pit", image_size=32, patch_size=4, dim=32, num_classes=10, depth=(1, 1), heads=4, mlp_dim=64)
vitp("LeViT", "levit", 64, image_size=64, num_classes=10, stages=2, dim=(32, 48), depth=1, heads=(2, 4), mlp_mult=2)
vitp("CvT", "cvt", 64, num_classes=10, s1_emb_dim=16, s2_emb_dim=24, s3_emb_dim=32, s3_depth=1)
vitp(
    "TwinsSVT", "twins_svt", 64, num_classes=10, s1_emb_dim=8, s2_emb_dim=16, s3_emb_dim=16, s4_emb_dim=32,
    s1_local_patch_size=2, s2_local_patch_size=2, s3_local_patch_size=2, s1_global_k=2, s2_global_k=2, s3_global_k=2,
    s4_global_k=1, s3_depth=1, s4_depth=1, s1_patch_size=4, s2_patch_size=2, s3_patch_size=2, s4_patch_size=2,
)  # fmt: skip
vitp("RegionViT", "regionvit", 128, 2, **STAGES, window_size=4)
vitp(
    "CrossFormer",
    "crossformer",
    64,
    **{**STAGES, "dim": (32, 32, 64, 64)},
    global_window_size=(4, 2, 2, 1),
    local_window_size=2,
)
vitp(
    "ScalableViT", "scalable_vit", 64, num_classes=10, dim=16, heads=(2, 2, 2, 2), depth=(1, 1, 1, 1),
    ssa_dim_key=(8, 8, 8, 8), reduction_factor=(2, 2, 1, 1), window_size=(4, 4, 2, None),
)  # fmt: skip
vitp(
    "SepViT", "sep_vit", 224, 2, num_classes=10, dim=16, dim_head=8, heads=(1, 2, 2, 2), depth=(1, 1, 1, 1),
)  # fmt: skip
vitp("MaxViT", "max_vit", 64, 4, num_classes=10, dim_conv_stem=16, dim=16, dim_head=8, depth=(1, 1), window_size=4)
vitp(
    "NesT", "nest", image_size=32, patch_size=4, dim=16, heads=2, num_hierarchies=2, block_repeats=(1, 1),
    num_classes=10,
)  # fmt: skip
vitp(
    "MobileViT", "mobile_vit", 64, image_size=(64, 64), dims=[16, 24, 32],
    channels=[8, 8, 16, 16, 24, 24, 32, 32, 32, 32, 64], num_classes=10,
)  # fmt: skip
vitp(
    "LookViT", "look_vit", dim=32, image_size=32, num_classes=10, depth=2, patch_size=8, heads=4, mlp_factor=2,
    dim_head=8, cross_attn_heads=2, highres_patch_size=4,
)  # fmt: skip
vitp(
    "ViVit3d", "vit_3d", (4, 16, 16), cls="ViT", image_size=16, image_patch_size=8, frames=4, frame_patch_size=2,
    num_classes=10, dim=32, depth=2, heads=4, mlp_dim=64,
)  # fmt: skip
vitp(
    "CCT", "cct", img_size=32, embedding_dim=32, n_conv_layers=1, num_layers=2, num_heads=4, mlp_ratio=2.0,
    num_classes=10,
)  # fmt: skip
