"""open_clip: two contrastive models and a captioner."""

from typing import Any

from torch import nn

from real_models.zoo.case import add, load
from real_models.zoo.draw import normal, positional, tokens

TEXT = {"vocab_size": 96, "width": 32, "heads": 4}
VISION = {"width": 64, "head_width": 16, "patch_size": 8, "image_size": 32}


def contrastive(**vision: Any) -> nn.Module:
    library = load("open_clip.model")
    text = library.CLIPTextCfg(**TEXT, context_length=12, layers=2)
    return library.CLIP(32, library.CLIPVisionCfg(**vision), text)


def captioner() -> nn.Module:
    library, coca = load("open_clip.model"), load("open_clip.coca_model")
    body = {**TEXT, "context_length": 11, "layers": 1, "mlp_ratio": 2}
    vision = library.CLIPVisionCfg(
        **VISION, layers=1, attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2, output_tokens=True
    )
    text = library.CLIPTextCfg(**TEXT, context_length=11, layers=1, embed_cls=True, output_tokens=True)
    return coca.CoCa(32, coca.MultimodalCfg(**body), text, vision)


PAIR = positional(normal(8, 3, 32, 32), tokens())

add("openclip.tiny", lambda: contrastive(**VISION, layers=2), PAIR)
add("openclip.RN-tiny", lambda: contrastive(layers=(1, 1, 1, 1), width=16, head_width=16, image_size=32), PAIR)
add("openclip.CoCa", captioner, positional(normal(4, 3, 32, 32), tokens(4, 11)))
