"""transformers, text: encoders, causal language models, sequence to sequence."""

from typing import Any

import torch

from real_models.zoo.case import words
from real_models.zoo.draw import named, ones, tokens
from real_models.zoo.transformers_ import AS_SHIPPED, hf

PLAIN_ENCODERS = words("""
    bert distilbert roberta albert electra mpnet camembert xlm-roberta ernie roformer megatron-bert layoutlm
    rembert squeezebert convbert data2vec-text ibert splinter
""")
ENCODERS: dict[str, dict[str, Any]] = {
    "deberta": {"pooler_hidden_size": 32, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "modernbert": {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "global_attn_every_n_layers": 2},
    "xlm": {"emb_dim": 32},
    "xlnet": {"d_inner": 64, "d_head": 8, "max_position_embeddings": AS_SHIPPED},
    "yoso": {"use_expectation": True},
    "nystromformer": {"segment_means_seq_len": 12, "num_landmarks": 4},
    "fnet": {"use_tpu_fourier_optimizations": False},
    "mobilebert": {
        "intra_bottleneck_size": 32, "true_hidden_size": 32, "embedding_size": 32, "num_feedforward_networks": 2,
    },
}  # fmt: skip
TWO_EXPERTS_A_TOKEN = {"num_experts_per_tok": 2}
PLAIN_CAUSAL = words("""
    gpt2 gpt_neox bloom llama mistral qwen2 gemma gemma2 olmo olmo2 cohere granite starcoder2 biogpt gpt_bigcode
    glm smollm3 helium openai-gpt ernie4_5 lfm2 nemotron_h
""")
CAUSAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(["mixtral", "olmoe", "granitemoe", "qwen3_moe", "gpt_oss"], TWO_EXPERTS_A_TOKEN),
    **{kind: {"num_key_value_heads": 4} for kind in ["phi", "persimmon", "stablelm"]},
    **{kind: {"rotary_dim": 4} for kind in ["gptj", "codegen"]},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 1]], "hidden_size": 32, "num_heads": 4, "num_layers": 2,
        "window_size": 4,
    },
    "phi3": {"num_key_value_heads": 4, "head_dim": 8},
    "falcon": {"head_dim": AS_SHIPPED},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 4},
    "mamba": {"state_size": 4, "conv_kernel": 4},
    "falcon_mamba": {"state_size": 4},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4, "expand": 2},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8},
    "deepseek_v3": {
        "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
        "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
        "num_key_value_heads": 4, "head_dim": 4,
    },
    "qwen2_moe": {"num_experts_per_tok": 2, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1},
    "jamba": {
        "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "mamba_d_state": 4, "use_mamba_kernels": False, "num_experts_per_tok": 2,
        "mamba_dt_rank": 4,
    },
    "xglm": {"d_model": 32, "attention_heads": 4, "num_layers": 2, "ffn_dim": 64},
    "mpt": {"max_seq_len": 64, "d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 96},
    "ctrl": {"dff": 64, "n_embd": 32},
    "exaone4": {"sliding_window": 4, "sliding_window_pattern": 2},
}  # fmt: skip
PLAIN_SEQ2SEQ = words("""
    t5 mt5 bart mbart pegasus blenderbot marian m2m_100 longt5 plbart umt5
""")
SEQ2SEQ: dict[str, dict[str, Any]] = {
    "prophetnet": {
        "hidden_size": 32, "num_hidden_layers": AS_SHIPPED, "num_encoder_layers": 2, "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
    },
    "fsmt": {"src_vocab_size": 96, "tgt_vocab_size": 96, "langs": ["a", "b"]},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "switch_transformers": {
        "num_experts": 4, "expert_capacity": 64, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
    },
}  # fmt: skip

PAIR = named(input_ids=tokens(), decoder_input_ids=tokens(length=10))

for kind in PLAIN_ENCODERS:
    hf(kind)
for kind in PLAIN_CAUSAL:
    hf(kind, head="AutoModelForCausalLM")
for kind in PLAIN_SEQ2SEQ:
    hf(kind, PAIR, "AutoModelForSeq2SeqLM")
for kind, overrides in ENCODERS.items():
    hf(kind, **overrides)
for kind, overrides in CAUSAL.items():
    hf(kind, head="AutoModelForCausalLM", **overrides)
for kind, overrides in SEQ2SEQ.items():
    hf(kind, PAIR, "AutoModelForSeq2SeqLM", **overrides)

hf("bert", head="AutoModelForMaskedLM")
hf(
    "funnel", head="FunnelModel", block_sizes=[1, 1], d_model=32, d_inner=64, n_head=4, d_head=8, num_decoder_layers=1,
    num_hidden_layers=AS_SHIPPED,
)  # fmt: skip
hf("bert", head="AutoModelForSequenceClassification")
for tag, overrides in {"": {}, "-rotary": {"position_embedding_type": "rotary"}}.items():
    hf(
        "esm",
        head="AutoModelForMaskedLM",
        tag=tag,
        vocab_size=96,
        pad_token_id=1,
        mask_token_id=4,
        token_dropout=False,
        **overrides,
    )
hf(
    "longformer",
    named(input_ids=tokens(length=16), attention_mask=ones(8, 16, dtype=torch.long)),
    attention_window=[4, 4],
)
hf(
    "big_bird",
    named(input_ids=tokens(length=32)),
    block_size=4, num_random_blocks=1, attention_type="block_sparse",
)  # fmt: skip
hf(
    "canine",
    named(input_ids=tokens(length=16)),
    num_hash_buckets=64, downsampling_rate=4, local_transformer_stride=8,
)  # fmt: skip
hf(
    "reformer",
    named(input_ids=tokens(length=16)),
    attn_layers=["local", "local"], local_attn_chunk_length=4, axial_pos_shape=[4, 4], axial_pos_embds_dim=[16, 16],
    feed_forward_size=64, attention_head_size=8, is_decoder=False,
)  # fmt: skip
hf(
    "led",
    named(input_ids=tokens(length=16), decoder_input_ids=tokens(length=8)),
    "AutoModelForSeq2SeqLM",
    attention_window=[4, 4], max_encoder_position_embeddings=64, max_decoder_position_embeddings=64,
)  # fmt: skip
