"""diffusers: denoising U-Nets and transformers, their adapters, and autoencoders."""

from functools import partial
from typing import Any

import torch
from torch import nn

from real_models.zoo.case import add, load
from real_models.zoo.draw import Draw, fixed, images, integers, named, normal, ones, positional, uniform

NARROW = {"layers_per_block": 1, "block_out_channels": (16, 32), "norm_num_groups": 8, "attention_head_dim": 8}
CONDITIONED = {**NARROW, "cross_attention_dim": 24, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
CODER = {
    "block_out_channels": (16, 32), "norm_num_groups": 8, "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip
SMALL_HEADS = {"num_layers": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4}
WIDE_HEADS = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4}
LATENT = normal(4, 4, 16, 16)
TIME = integers(100, 4)


def make(cls: str, **options: Any) -> nn.Module:
    return getattr(load("diffusers"), cls)(**options)


def diff(name: str, cls: str, batch: Draw, **options: Any) -> None:
    add(f"diff.{name}", partial(make, cls, **options), batch)


diff(
    "UNet2DModel",
    "UNet2DModel",
    positional(normal(4, 3, 16, 16), TIME),
    sample_size=16, in_channels=3, out_channels=3, **NARROW, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
diff(
    "UNet2DCondition",
    "UNet2DConditionModel",
    positional(LATENT, TIME, normal(4, 7, 24)),
    sample_size=16, **CONDITIONED, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
diff(
    "ControlNet",
    "ControlNetModel",
    positional(LATENT, TIME, normal(4, 7, 24), normal(4, 3, 32, 32)),
    **CONDITIONED, conditioning_embedding_out_channels=(8, 16),
)  # fmt: skip
diff("AutoencoderKL", "AutoencoderKL", images(16, 4), **CODER)
diff("VQModel", "VQModel", images(16, 4), **CODER, num_vq_embeddings=16)
diff(
    "AutoencoderTiny",
    "AutoencoderTiny",
    images(16, 4),
    encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
    num_decoder_blocks=(1, 1),
)  # fmt: skip
diff(
    "DiT",
    "DiTTransformer2DModel",
    named(hidden_states=LATENT, timestep=TIME, class_labels=integers(10, 4)),
    **WIDE_HEADS, sample_size=16, num_embeds_ada_norm=1000, norm_num_groups=4,
)  # fmt: skip
diff(
    "PixArt",
    "PixArtTransformer2DModel",
    named(hidden_states=LATENT, encoder_hidden_states=normal(4, 5, 24), timestep=TIME),
    **WIDE_HEADS, out_channels=4, cross_attention_dim=32, caption_channels=24, sample_size=16, norm_num_groups=4,
    use_additional_conditions=False,
)  # fmt: skip
diff(
    "SD3",
    "SD3Transformer2DModel",
    named(
        hidden_states=LATENT,
        encoder_hidden_states=normal(4, 5, 24),
        pooled_projections=normal(4, 16),
        timestep=TIME,
    ),
    **SMALL_HEADS, num_attention_heads=4, sample_size=16, patch_size=2, joint_attention_dim=24,
    caption_projection_dim=32, pooled_projection_dim=16, pos_embed_max_size=24,
)  # fmt: skip
diff(
    "Prior",
    "PriorTransformer",
    positional(normal(4, 24), TIME, normal(4, 24), normal(4, 5, 24)),
    num_attention_heads=2, attention_head_dim=16, num_layers=2, embedding_dim=24, num_embeddings=5,
    additional_embeddings=4,
)  # fmt: skip
diff(
    "T2IAdapter",
    "T2IAdapter",
    images(32, 4),
    channels=[16, 32], num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter",
)  # fmt: skip
diff(
    "AuraFlow",
    "AuraFlowTransformer2DModel",
    named(hidden_states=LATENT, encoder_hidden_states=normal(4, 5, 24), timestep=uniform(4)),
    sample_size=16, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
    num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=24, out_channels=4, pos_embed_max_size=256,
)  # fmt: skip
diff(
    "Lumina2",
    "Lumina2Transformer2DModel",
    positional(normal(2, 4, 16, 16), uniform(2), normal(2, 5, 8), ones(2, 5, dtype=torch.bool)),
    sample_size=16, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1,
    num_attention_heads=3, num_kv_heads=1, multiple_of=2, cap_feat_dim=8, axes_dim_rope=(4, 2, 2),
    axes_lens=(64, 64, 64),
)  # fmt: skip
diff(
    "Sana",
    "SanaTransformer2DModel",
    positional(normal(2, 4, 16, 16), normal(2, 5, 8), integers(100, 2)),
    **SMALL_HEADS, patch_size=1, num_attention_heads=2, num_cross_attention_heads=2, cross_attention_head_dim=8,
    cross_attention_dim=16, caption_channels=8, sample_size=16,
)  # fmt: skip
diff(
    "CogVideoX",
    "CogVideoXTransformer3DModel",
    positional(normal(2, 2, 4, 8, 8), normal(2, 5, 8), integers(100, 2)),
    **WIDE_HEADS, out_channels=4, time_embed_dim=8, text_embed_dim=8, sample_width=8, sample_height=8,
    sample_frames=5, patch_size=2, temporal_compression_ratio=4, max_text_seq_length=5,
)  # fmt: skip
diff(
    "LTX",
    "LTXVideoTransformer3DModel",
    named(
        hidden_states=normal(2, 8, 4), encoder_hidden_states=normal(2, 5, 16), timestep=integers(100, 2),
        encoder_attention_mask=ones(2, 5, dtype=torch.bool), num_frames=fixed(2), height=fixed(2), width=fixed(2),
    ),
    **WIDE_HEADS, out_channels=4, cross_attention_dim=32, caption_channels=16,
)  # fmt: skip
diff(
    "Wan",
    "WanTransformer3DModel",
    positional(normal(2, 4, 2, 8, 8), integers(100, 2), normal(2, 5, 16)),
    **{**WIDE_HEADS, "attention_head_dim": 12}, patch_size=(1, 2, 2), out_channels=4, text_dim=16, freq_dim=256,
    ffn_dim=32, rope_max_seq_len=32,
)  # fmt: skip
