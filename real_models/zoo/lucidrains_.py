"""Small libraries of one author: x-transformers, diffusion U-Nets, and six ways to make attention cheap."""

from functools import partial
from typing import Any

from torch import nn

from real_models.zoo.case import add, load
from real_models.zoo.draw import images, integers, normal, positional, tokens

HEADS = {"dim": 32, "depth": 2, "heads": 4}
SMALL_HEADS = {**HEADS, "attn_dim_head": 8}


def x_transformer(layers: str, **options: Any) -> nn.Module:
    library = load("x_transformers")
    attention = getattr(library, layers)(**{**SMALL_HEADS, **options})
    return library.TransformerWrapper(num_tokens=96, max_seq_len=16, attn_layers=attention)


def x_vit() -> nn.Module:
    library = load("x_transformers")
    encoder = library.Encoder(**SMALL_HEADS)
    return library.ViTransformerWrapper(image_size=32, patch_size=8, num_classes=10, attn_layers=encoder)


def make(module: str, cls: str, **options: Any) -> nn.Module:
    return getattr(load(module), cls)(**options)


def language_model(module: str, cls: str, **options: Any) -> nn.Module:
    return make(module, cls, num_tokens=96, **HEADS, **options)


for name, (layers, options) in {
    "decoder": ("Decoder", {}),
    "decoder-rmsnorm-glu-rope": (
        "Decoder",
        {"use_rmsnorm": True, "ff_glu": True, "rotary_pos_emb": True, "ff_no_bias": True},
    ),
    "decoder-sandwich-alibi-qknorm": (
        "Decoder",
        {"depth": 3, "alibi_pos_bias": True, "attn_qk_norm": True, "sandwich_norm": True},
    ),
    "encoder-zero-init-branch": ("Encoder", {"zero_init_branch_output": True, "rel_pos_bias": True}),
    "macaron": ("Encoder", {"macaron": True}),
}.items():
    add(f"xt.{name}", partial(x_transformer, layers, **options), tokens())
add("xt.ViT", x_vit, images(32))

add(
    "luci.DDPM-Unet",
    partial(
        make, "denoising_diffusion_pytorch", "Unet", dim=16, dim_mults=(1, 2), flash_attn=False, full_attn=(False, True)
    ),
    positional(normal(2, 3, 16, 16), integers(100, 2)),
)
add(
    "luci.DDPM-Unet1D",
    partial(make, "denoising_diffusion_pytorch", "Unet1D", dim=16, dim_mults=(1, 2), channels=4),
    positional(normal(2, 4, 32), integers(100, 2)),
)
add(
    "luci.KarrasUnet",
    partial(
        make, "denoising_diffusion_pytorch.karras_unet", "KarrasUnet", image_size=16, dim=16, dim_max=32,
        num_downsamples=2, num_blocks_per_stage=1, attn_res=8,
    ),
    positional(normal(2, 4, 16, 16), normal(2)),
)  # fmt: skip
add("luci.Conformer", partial(make, "conformer", "Conformer", **HEADS, dim_head=8), normal(4, 10, 32))
add(
    "luci.LocalTransformer",
    partial(
        language_model, "local_attention", "LocalTransformer", max_seq_len=32, local_attn_window_size=8, dim_head=8,
        causal=True,
    ),
    tokens(length=16),
)  # fmt: skip
add(
    "luci.Performer",
    partial(language_model, "performer_pytorch", "PerformerLM", max_seq_len=16, dim_head=8),
    tokens(),
)
add("luci.Linformer", partial(language_model, "linformer", "LinformerLM", seq_len=12, k=4), tokens())
add(
    "luci.Reformer",
    partial(language_model, "reformer_pytorch", "ReformerLM", max_seq_len=16, bucket_size=4, n_hashes=2),
    tokens(length=16),
)
add(
    "luci.HTransformer1D",
    partial(language_model, "h_transformer_1d", "HTransformer1D", max_seq_len=16, dim_head=8, block_size=4),
    tokens(length=16),
)
