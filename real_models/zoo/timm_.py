"""timm: convolutional networks as they are, transformers with fewer and narrower blocks."""

from functools import partial
from typing import Any

from torch import nn

from real_models.zoo.case import add, load, words
from real_models.zoo.draw import images

AT_64_PIXELS = words("""
    test_byobnet test_convnext test_convnext2 test_convnext3 test_efficientnet test_efficientnet_gn test_efficientnet_ln
    test_efficientnet_evos test_mambaout test_nfnet test_resnet resnet10t resnet26d resnetv2_50 seresnext26d_32x4d
    skresnet18 ecaresnet26t resnest14d res2net50_26w_4s hrnet_w18_small dla34 dla46x_c dpn48b densenet121
    efficientnet_lite0 tf_efficientnetv2_b0 mixnet_s mobilenetv3_small_050 mobilenetv4_conv_small
    mobilenetv4_hybrid_medium mobileone_s0 repvgg_a0 repghostnet_050 ghostnet_050 ghostnetv2_100 ghostnetv3_050
    lcnet_050 tinynet_e fbnetv3_b spnasnet_100 semnasnet_075 hardcorenas_a regnetz_b16 regnety_002 cspresnet50
    cs3darknet_s darknet17 vovnet39a ese_vovnet19b_dw selecsls42 hgnetv2_b0 xception41 nf_regnet_b0 nf_resnet26
    lambda_resnet26t gernet_s convnext_atto convnextv2_atto fastvit_t8 focalnet_tiny_srf starnet_s1 rdnet_tiny
    efficientvit_b0 repvit_m0_9 swiftformer_xs mambaout_femto poolformer_s12 poolformerv2_s12 caformer_s18
    convformer_s18 tresnet_m pvt_v2_b0 twins_pcpvt_small davit_tiny mobilevit_xxs mobilevitv2_050
""")
AT_OTHER_SIZES = {
    96: "inception_resnet_v2 inception_v4",
    128: "shvit_s1",
    224: """efficientvit_m0 efficientformer_l1 efficientformerv2_s0 tiny_vit_5m_224 visformer_tiny mvitv2_tiny
        hiera_tiny_224 coat_lite_tiny gcvit_xxtiny coatnet_pico_rw_224 pit_ti_224 resmlp_12_224""",
    240: "crossvit_tiny_240",
    256: "bat_resnext26ts eca_halonext26ts maxvit_rmlp_pico_rw_256",
}
NARROW = {"img_size": 64, "depth": 2, "embed_dim": 96}
SHORTENED: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 4},
    "deit_tiny_patch16_224": {"img_size": 64, "depth": 4},
    "deit3_small_patch16_224": {"img_size": 64, "depth": 3},
    "cait_xxs24_224(tiny)": {"img_size": 64, "depth": 4},
    "beit_base_patch16_224": {**NARROW, "num_heads": 3},
    "beitv2_base_patch16_224": {**NARROW, "num_heads": 3},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 3},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "window_size": 4, "depths": (2, 2), "num_heads": (3, 6), "embed_dim": 48,
    },
    "swinv2_cr_tiny_224": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "tnt_s_legacy_patch16_224": {"img_size": 64, "depth": 3},
    "vit_relpos_small_patch16_224": {"img_size": 64, "depth": 3},
    "vit_srelpos_small_patch16_224": {"img_size": 64, "depth": 3},
    "samvit_base_patch16_224": {"img_size": 64, "depth": 3, "embed_dim": 96, "num_heads": 4},
    "naflexvit_base_patch16_gap": {"depth": 2, "embed_dim": 96, "num_heads": 4},
    "sequencer2d_s": {
        "layers": (1, 1, 1, 1), "embed_dims": (32, 64, 64, 64), "hidden_sizes": (8, 16, 16, 16),
    },
    "vit_base_patch16_xp_224": {**NARROW, "num_heads": 4},
    "vit_base_patch16_rope_reg1_gap_256": {**NARROW, "num_heads": 4},
}  # fmt: skip


def create(name: str, **options: Any) -> nn.Module:
    return load("timm").create_model(name, pretrained=False, num_classes=10, **options)


def mixer(**options: Any) -> nn.Module:
    make = load("timm.models.mlp_mixer").MlpMixer
    return make(img_size=64, patch_size=16, num_blocks=3, embed_dim=64, num_classes=10, **options)


def gmlp() -> nn.Module:
    gating = load("timm.models.mlp_mixer").SpatialGatingBlock
    return mixer(mlp_ratio=6, block_layer=gating, mlp_layer=load("timm").layers.GatedMlp)


def volo() -> nn.Module:
    return load("timm.models.volo").VOLO(
        [1, 1, 2, 1], img_size=64, embed_dims=(48, 96, 96, 96), num_heads=(2, 4, 4, 4), num_classes=10, mlp_ratio=2.0
    )


def nest() -> nn.Module:
    return load("timm.models.nest").Nest(
        img_size=64, patch_size=4, num_levels=3, embed_dims=(32, 48, 64), num_heads=(2, 3, 4), depths=(1, 1, 1),
        num_classes=10,
    )  # fmt: skip


def convmixer() -> nn.Module:
    return load("timm.models.convmixer").ConvMixer(64, 4, kernel_size=5, patch_size=4, num_classes=10)


for name in AT_64_PIXELS:
    add(f"timm.{name}", partial(create, name), images(64))
for size, names in AT_OTHER_SIZES.items():
    for name in names.split():
        add(f"timm.{name}", partial(create, name), images(size, 8 if size <= 96 else 2))
for name, options in SHORTENED.items():
    add(f"timm.{name}", partial(create, name.removesuffix("(tiny)"), **options), images(options.get("img_size", 64)))
for name, make in {"mixer": mixer, "gmlp": gmlp, "volo": volo, "nest": nest, "convmixer": convmixer}.items():
    add(f"timm.{name}(tiny)", make, images(64))
