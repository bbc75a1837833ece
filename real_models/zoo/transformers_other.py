"""transformers, the rest: two modalities, sound, time series, decisions."""

from typing import Any

import torch
from torch import Generator, nn

from real_models.zoo.case import add, load
from real_models.zoo.draw import Draw, integers, named, normal, ones, tokens
from real_models.zoo.transformers_ import hf

BODY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {
    **BODY, "vocab_size": 96, "max_position_embeddings": 64, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
VISION = {**BODY, "image_size": 32, "patch_size": 8}
WAVES: dict[str, Any] = {
    "conv_dim": (16, 16, 16), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0, "apply_spec_augment": False,
}  # fmt: skip
SERIES = {"num_input_channels": 3, "context_length": 24, "prediction_length": 8, "patch_length": 4, "patch_stride": 4}
FORECAST = {
    "prediction_length": 8, "context_length": 24, "num_time_features": 1, "lags_sequence": [1, 2, 7], "d_model": 16,
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
}  # fmt: skip


def captioned(count: int = 8, length: int = 12) -> Draw:
    return named(input_ids=tokens(count, length), pixel_values=normal(count, 3, 32, 32))


def clip() -> nn.Module:
    library = load("transformers")
    return library.CLIPModel(library.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16))


def siglip() -> nn.Module:
    library = load("transformers")
    config = library.SiglipConfig(text_config={**TEXT, "projection_size": 32}, vision_config=VISION)
    return library.SiglipModel(config)


def chinese_clip() -> nn.Module:
    library = load("transformers")
    config = library.ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    return library.ChineseCLIPModel(config)


def llava() -> nn.Module:
    library = load("transformers")
    text = library.LlamaConfig(**BODY, num_key_value_heads=2, vocab_size=96)
    vision = library.CLIPVisionConfig(**VISION)
    config = library.LlavaConfig(vision_config=vision, text_config=text, image_token_index=95)
    return library.LlavaForConditionalGeneration(config)


def behind_an_image(generator: Generator) -> Any:
    """Sixteen places for the picture's patches, then six words."""
    words = torch.randint(0, 90, (4, 6), generator=generator)
    places = torch.full((4, 16), 95)
    return {
        "input_ids": torch.cat([places, words], 1),
        "pixel_values": torch.randn(4, 3, 32, 32, generator=generator),
    }


def vilt() -> nn.Module:
    library = load("transformers")
    return library.ViltModel(library.ViltConfig(**VISION, vocab_size=96, max_image_length=-1))


def lxmert() -> nn.Module:
    library = load("transformers")
    config = library.LxmertConfig(
        **TEXT, l_layers=1, x_layers=1, r_layers=1, visual_feat_dim=16, visual_pos_dim=4,
    )  # fmt: skip
    return library.LxmertModel(config)


def vits() -> nn.Module:
    library = load("transformers")
    config = library.VitsConfig(
        vocab_size=38, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, flow_size=16,
        spectrogram_bins=9, upsample_initial_channel=16, upsample_rates=[4, 2], upsample_kernel_sizes=[8, 4],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]], prior_encoder_num_flows=2,
        posterior_encoder_num_wavenet_layers=2, prior_encoder_num_wavenet_layers=2, wavenet_dilation_rate=1,
        duration_predictor_num_flows=2, depth_separable_channels=2, depth_separable_num_layers=2,
    )  # fmt: skip
    return library.VitsModel(config)


add("hf.clip", clip, captioned())
add("hf.siglip", siglip, captioned())
add("hf.chinese_clip", chinese_clip, captioned())
add("hf.llava", llava, behind_an_image)
add("hf.vilt", vilt, captioned(4, 8))
add(
    "hf.lxmert",
    lxmert,
    named(input_ids=tokens(), visual_feats=normal(8, 5, 16), visual_pos=normal(8, 5, 4)),
)
add("hf.vits", vits, named(input_ids=integers(36, 2, 8)))

for kind in ["wav2vec2", "hubert", "unispeech", "unispeech-sat", "wav2vec2-conformer"]:
    hf(kind, named(input_values=normal(4, 800)), **WAVES)
for kind, extra in {
    "data2vec-audio": {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3},
    "sew": {"squeeze_factor": 2},
    "wavlm": {"num_ctc_classes": 4},
}.items():
    hf(kind, named(input_values=normal(4, 800)), **{**WAVES, **extra})
hf(
    "speech_to_text",
    named(input_features=normal(4, 64, 16), decoder_input_ids=tokens(4, 6)),
    "AutoModelForSpeechSeq2Seq",
    input_feat_per_channel=16, conv_channels=32, num_conv_layers=2, conv_kernel_sizes=[3, 3], max_source_positions=128,
)  # fmt: skip
hf(
    "audio-spectrogram-transformer",
    named(input_values=normal(4, 32, 16)),
    max_length=32, num_mel_bins=16, patch_size=8, frequency_stride=4, time_stride=4,
)  # fmt: skip
hf(
    "decision_transformer",
    named(
        states=normal(4, 5, 17), actions=normal(4, 5, 4), rewards=normal(4, 5, 1), returns_to_go=normal(4, 5, 1),
        timesteps=integers(20, 4, 5), attention_mask=ones(4, 5, dtype=torch.long),
    ),
    max_ep_len=32,
)  # fmt: skip
hf("patchtst", named(past_values=normal(8, 24, 3)), "PatchTSTForPrediction", **SERIES)
hf("patchtsmixer", named(past_values=normal(8, 24, 3)), "PatchTSMixerForPrediction", **SERIES, d_model=16)
for kind, head, extra in [
    ("time_series_transformer", "TimeSeriesTransformerModel", {}),
    ("informer", "InformerModel", {}),
    ("autoformer", "AutoformerModel", {"label_length": 4, "moving_average": 5}),
]:
    hf(
        kind,
        named(
            past_values=normal(8, 31), past_time_features=normal(8, 31, 1), past_observed_mask=ones(8, 31),
            future_values=normal(8, 8), future_time_features=normal(8, 8, 1),
        ),
        head,
        **FORECAST,
        **extra,
    )  # fmt: skip
hf("imagegpt", head="ImageGPTModel")
