"""transformers: the configuration decides the architecture; here it is made small, then built without a checkpoint."""

from functools import partial
from typing import Any

from torch import nn

from real_models.zoo.case import add, load, words
from real_models.zoo.draw import Draw, named, tokens

WIDTH = words("""
    hidden_size d_model n_embd embedding_size embedding_dim dim word_embed_proj_dim attention_hidden_size
    decoder_hidden_size
""")
DEPTH = words("""
    num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers
    decoder_num_hidden_layers
""")
HEADS = words("""
    num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads
    decoder_num_attention_heads
""")
INNER = words("""
    intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff dim_feedforward n_inner hidden_dim
    decoder_intermediate_size
""")
POSITIONS = words("""
    max_position_embeddings n_positions max_source_positions max_target_positions max_2d_position_embeddings
""")
EXPERTS = ["num_experts", "num_local_experts", "n_routed_experts"]
SMALL = {
    **dict.fromkeys(WIDTH, 32),
    **dict.fromkeys(DEPTH, 2),
    **dict.fromkeys(HEADS, 4),
    **dict.fromkeys(INNER, 64),
    **dict.fromkeys(POSITIONS, 64),
    **dict.fromkeys(EXPERTS, 4),
    "moe_intermediate_size": 32,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "d_kv": 8,
    "vocab_size": 96,
    "image_size": 32,
    "patch_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
AS_SHIPPED = object()  # in an override: leave this entry of SMALL at the library's default


def shrink(config: Any, overrides: dict[str, Any]) -> dict[str, Any]:
    """The entries of SMALL that this configuration has as a number, then the overrides."""
    chosen: dict[str, Any] = {}
    for key, small in SMALL.items():
        default = getattr(config, key, "absent")
        if type(default) is int or (key == "pad_token_id" and default is None):
            chosen[key] = small
    chosen.update(overrides)
    return {key: choice for key, choice in chosen.items() if choice is not AS_SHIPPED}


def from_config(kind: str, head: str, overrides: dict[str, Any]) -> nn.Module:
    library = load("transformers")
    default = library.AutoConfig.for_model(kind)
    config = type(default)(**shrink(default, overrides))
    if hasattr(config, "use_cache"):
        config.use_cache = False
    make = getattr(library, head)
    return make.from_config(config) if head.startswith("AutoModel") else make(config)


def default(kind: str, head: str, **overrides: Any) -> nn.Module:
    """At the library's own configuration, but for what has to be downloaded."""
    library = load("transformers")
    config = library.AutoConfig.for_model(kind, **overrides)
    make = getattr(library, head)
    return make.from_config(config) if head.startswith("AutoModel") else make(config)


def hf(kind: str, batch: Draw | None = None, head: str = "AutoModel", tag: str = "", **overrides: Any) -> None:
    """Put a model on the list as `hf.kind`, or `hf.kind.Head` where it has one of the library's task heads."""
    suffix = "" if head == "AutoModel" else "." + head.replace("AutoModelFor", "")
    default = named(input_ids=tokens())
    add(f"hf.{kind}{suffix}{tag}", partial(from_config, kind, head, overrides), batch or default)
